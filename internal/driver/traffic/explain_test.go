package traffic_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/traffic"
)

// A runbook says what a person would type on each router.
func TestExplain(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		route, keys string
		do, read    []string
	}{
		"proxy": {
			`{"proxy": {"socket": "/run/p/admin.sock"}}`, `"to": {"green": 10, "blue": 90}`,
			[]string{"curl --unix-socket /run/p/admin.sock http://proxy/v1/routes/shop"},
			[]string{"backstay proxy status --admin /run/p/admin.sock"},
		},
		"haproxy": {
			`{"haproxy": {"socket": "/run/h.sock", "sides": {"blue": ["b1", "b2"], "green": ["g1"]}}}`, `"to": {"green": 100}`,
			[]string{"echo 'set weight shop/b1 0' | socat - UNIX-CONNECT:/run/h.sock", "echo 'set weight shop/g1 100' | socat"},
			[]string{"show servers state shop"},
		},
		"haproxy, a side": {
			`{"haproxy": {"socket": "/run/h.sock", "sides": {"blue": ["b1"], "green": ["g1"]}}}`, `"side": "green", "retire": true`,
			[]string{"take all instances out of side green"},
			[]string{"show servers state shop"},
		},
		"nginx": {
			`{"nginx": {"file": "/etc/x/shop.conf", "status": "127.0.0.1:9180", "test": ["/bin/true", "-t"], "reload": ["/bin/true"]}}`, `"to": {"green": 100}`,
			[]string{"/bin/true -t && /bin/true"},
			[]string{"cat /etc/x/shop.conf"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, err := traffic.New().Prepare(t.Context(), backstay.Request{
				ID: "1", Dir: t.TempDir(), DataDir: t.TempDir(), Config: json.RawMessage(`{"traffic": {"route": "shop", ` + tt.keys + `}}`),
				Sections: map[string]json.RawMessage{"routes": json.RawMessage(`{"shop": ` + tt.route + `}`)},
			})
			must(t, err)
			got, err := traffic.New().Explain(backstay.Step{ID: "1", Prepared: p})
			must(t, err)
			for what, list := range map[string][]string{string(backstay.Canonical(got.Do)): tt.do, string(backstay.Canonical(got.Read)): tt.read} {
				for _, want := range list {
					if !strings.Contains(what, want) {
						t.Errorf("%s lacks %q", what, want)
					}
				}
			}
		})
	}
}
