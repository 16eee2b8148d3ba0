package plan

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay/internal/spec"
)

// TestExposure: a flag step with gates becomes moves of one dial with waits
// between them; one without is one step.
func TestExposure(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		config string
		want   []string
	}{
		"one move": {`{"flag":{"key":"f","percentage":"10%"}}`, []string{"f <before>"}},
		"through": {`{"flag":{"key":"f","variant":"blue","through":[{"weight":10},{"weight":50,"hold":"1m","gates":["slow"]},{"weight":100}],"gates":["errors"]}}`, []string{
			`f.to-10 <before> key=f variant=blue percentage=10%`, `f.gate-10 <f.to-10> gates=[errors]`,
			`f.to-50 <f.gate-10> key=f variant=blue percentage=50%`, `f.gate-50 <f.to-50> hold=1m0s gates=[slow]`,
			`f.to-100 <f.gate-50> key=f variant=blue percentage=100%`,
		}},
		"a tester first": {`{"flag":{"key":"f","through":[{"weight":50},{"weight":100}],"test":{"as":"qa","gates":["works"]},"purpose":"p"}}`, []string{
			`f.tester <before> key=f purpose=p tester=qa`, `f.test <f.tester> gates=[works]`,
			`f.to-50 <f.test> key=f percentage=50% purpose=p tester=qa`, `f.to-100 <f.to-50> key=f percentage=100% purpose=p`,
		}},
		"a gate behind one move": {`{"flag":{"key":"f","turn":"on","hold":"30s","within":"2m"}}`, []string{
			`f.move <before> key=f turn=on`, `f.gate-100 <f.move> hold=30s within=2m0s`,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := NewDraft(&spec.Spec{Steps: []spec.Step{
				{ID: "before", Kind: "run", Config: json.RawMessage(`{}`)},
				{ID: "f", Kind: "flag", Needs: []string{"before"}, Config: json.RawMessage(c.config)},
				{ID: "after", Kind: "run", Needs: []string{"f"}, Config: json.RawMessage(`{}`)},
			}})
			var got []string
			last := ""
			for _, st := range d.Spec().Steps {
				if st.Kind == "run" {
					last = strings.Join(st.Needs, " ")
					continue
				}
				got = append(got, strings.TrimSpace(fmt.Sprintf("%s <%s> %s", st.ID, strings.Join(st.Needs, " "), words(t, st))))
			}
			if name == "one move" {
				got[0], _, _ = strings.Cut(got[0], " key")
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			end, _, _ := strings.Cut(got[len(got)-1], " ")
			if last != end {
				t.Errorf("what comes after needs %s, want %s", last, end)
			}
		})
	}
}

// words shows the keys of a step that are set.
func words(t *testing.T, st spec.Step) string {
	t.Helper()
	var config map[string]map[string]any
	if err := json.Unmarshal(st.Config, &config); err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, key := range []string{"key", "turn", "variant", "percentage", "purpose", "tester", "through", "hold", "gates", "within"} {
		if v, ok := config[st.Kind][key]; ok {
			out = append(out, fmt.Sprintf("%s=%v", key, v))
		}
	}
	return strings.Join(out, " ")
}
