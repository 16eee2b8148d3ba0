package httpcall

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver"
)

var _ driver.Explainer = (*Driver)(nil)

// Explain gives the requests of the step or check as curl commands.
func (*Driver) Explain(step backstay.Step) (backstay.Explanation, error) {
	b, err := decode(step)
	if err != nil {
		return backstay.Explanation{}, err
	}
	out := backstay.Explanation{Do: []backstay.Command{b.Do.typed(step.ID, "do")}}
	if b.Contains != "" {
		out.Do[0].Note += fmt.Sprintf("; the answer must hold %q", b.Contains)
	}
	if b.Undo != nil {
		out.Undo = []backstay.Command{b.Undo.typed(step.ID, "undo")}
	}
	if b.Read != nil {
		c := b.Read.typed(step.ID, "")
		if b.Pointer != "" {
			c.Note += "; the state is the part at " + b.Pointer
		}
		out.Read = []backstay.Command{c}
	}
	return out, nil
}

// typed is the request as a curl command.
func (r request) typed(step, act string) backstay.Command {
	words := []string{"curl -sS --max-redirs 0 --max-time " + strconv.Itoa(max(1, int(r.Timeout.Std().Seconds())))}
	if r.Method != http.MethodGet {
		words = append(words, "-X "+driver.ShellWord(r.Method))
	}
	for _, name := range slices.Sorted(maps.Keys(r.Headers)) {
		word := driver.ShellWord(name + ": " + r.Headers[name])
		if value := driver.ShellValue(name, r.Headers[name]); value != driver.ShellWord(r.Headers[name]) {
			word = driver.ShellWord(name+": ") + value // a reference, or not shown
		}
		words = append(words, "-H "+word)
	}
	if r.KeyHeader != "" && act != "" {
		words = append(words, "-H "+driver.ShellWord(r.KeyHeader+": ")+`"$DEPLOYMENT"`+driver.ShellWord("/"+step+"/"+act))
	}
	if r.Body != "" {
		words = append(words, "--data-binary "+driver.ShellValue("", r.Body))
	}
	words = append(words, driver.ShellWord(r.shown()))
	note := "succeeds with status " + statuses(r.Expect)
	if r.KeyHeader != "" && act != "" {
		note += "; with the same key, the ID of the deployment in it, the server does it once"
	}
	return backstay.Command{Note: note, Line: strings.Join(words, " ")}
}

// shown is the URL without what may be a secret in its query.
func (r request) shown() string {
	u, err := url.Parse(r.URL)
	if err != nil || u.RawQuery == "" {
		return r.URL
	}
	q := u.Query()
	hidden := false
	for name := range q {
		if driver.Sensitive(name) {
			q.Set(name, "(not shown)")
			hidden = true
		}
	}
	if !hidden {
		return r.URL
	}
	u.RawQuery = q.Encode()
	return u.String()
}

func statuses(expect []int) string {
	if len(expect) == 0 {
		return "200 to 299"
	}
	words := make([]string, len(expect))
	for i, s := range expect {
		words[i] = strconv.Itoa(s)
	}
	return strings.Join(words, " or ")
}
