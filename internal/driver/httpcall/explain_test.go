package httpcall

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
)

func TestExplain(t *testing.T) {
	t.Parallel()
	b := body{
		V: bodyFormat, Pointer: "/on",
		Do: request{
			Method: "POST", URL: "https://flags.example/on?token=abc&app=shop", Headers: map[string]string{"Authorization": "secret:env/AUTH", "X-Token": "plain", "Accept": "text/plain"},
			Body: `{"on":true}`, Expect: []int{200, 204}, KeyHeader: "Idempotency-Key", Timeout: backstay.Duration(3e9),
		},
		Undo: &request{Method: "DELETE", URL: "https://flags.example/on", Timeout: backstay.Duration(3e9)},
		Read: &request{Method: "GET", URL: "https://flags.example/on?app=shop", Timeout: backstay.Duration(3e9)},
	}
	e, err := (&Driver{}).Explain(backstay.Step{ID: "flag", Prepared: backstay.Prepared{Kind: "http", Body: backstay.Canonical(b)}})
	if err != nil {
		t.Fatal(err)
	}
	want := backstay.Explanation{
		Do: []backstay.Command{{
			Note: "succeeds with status 200 or 204; with the same key, the ID of the deployment in it, the server does it once",
			Line: `curl -sS --max-redirs 0 --max-time 3 -X POST -H 'Accept: text/plain' -H 'Authorization: '"$AUTH" -H 'X-Token: ''(not shown)' ` +
				`-H 'Idempotency-Key: '"$DEPLOYMENT"/flag/do --data-binary '{"on":true}' 'https://flags.example/on?app=shop&token=%28not+shown%29'`,
		}},
		Undo: []backstay.Command{{Note: "succeeds with status 200 to 299", Line: "curl -sS --max-redirs 0 --max-time 3 -X DELETE https://flags.example/on"}},
		Read: []backstay.Command{{Note: "succeeds with status 200 to 299; the state is the part at /on", Line: "curl -sS --max-redirs 0 --max-time 3 'https://flags.example/on?app=shop'"}},
	}
	if diff := cmp.Diff(e, want); diff != "" {
		t.Errorf("(-got +want):\n%s", diff)
	}
	for _, c := range e.Do {
		if strings.Contains(c.Line, "abc") || strings.Contains(c.Line, "plain'") && strings.Contains(c.Line, "X-Token: plain") {
			t.Errorf("repeats what may be a secret: %s", c.Line)
		}
	}
}
