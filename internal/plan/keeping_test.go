package plan_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/plan"
	"github.com/backstay-dev/backstay/internal/spec"
)

// migrating is a spec whose second step migrates a database; class is what the
// survey says of it.
func migrating(t *testing.T, keys string, class backstay.Class, before ...spec.Step) (*plan.Draft, *plan.Plan) {
	t.Helper()
	steps := append([]spec.Step{{ID: "ok", Kind: "approve", Config: json.RawMessage(`{}`)}}, before...)
	last := steps[len(steps)-1].ID
	steps = append(steps,
		spec.Step{ID: "schema", Kind: "migrate", Needs: []string{last}, Config: json.RawMessage(`{"migrate":{"database":"secret:env/URL","dir":"m"` + keys + `}}`)},
		spec.Step{ID: "after", Kind: "run", Needs: []string{"schema"}, Config: json.RawMessage(`{}`)})
	d := plan.NewDraft(&spec.Spec{Release: "shop", Steps: steps})
	seen := plan.Observed{Steps: map[string]backstay.Prepared{}, Images: map[string]backstay.Image{}}
	for _, q := range d.Requests() {
		p := backstay.Prepared{
			Kind: q.Kind, Class: backstay.Exact, Effect: backstay.Idempotent, HasUndo: true, Keys: []backstay.Key{backstay.Key(q.Kind + ":" + q.ID)},
		}
		switch q.ID {
		case "ok":
			p.Keys, p.HasUndo, p.Hold = nil, false, &backstay.Hold{Count: 1}
		case "schema":
			p.Class, p.HasUndo, p.Irreversible = class, class != backstay.Irreversible, "drops a column"
		}
		seen.Steps[q.ID] = p
		image := backstay.Image{}
		for _, k := range p.Keys {
			image[k] = backstay.PartValue("was")
		}
		seen.Images[q.ID] = image
	}
	p, err := plan.Build(d, seen)
	if err != nil {
		t.Fatal(err)
	}
	return d, p
}

func TestSnapshotOfAMigration(t *testing.T) {
	t.Parallel()
	dump := `,"allow":["drop-column"],"snapshot":{"database":"/backups","most":7,"verify":false}`
	d, p := migrating(t, dump, backstay.Irreversible)
	if diff := cmp.Diff([]string{"ok", "schema.snapshot", "schema", "after"}, ids(p)); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
	asked := d.Requests()[1]
	want := `{"snapshot":{"database":"secret:env/URL","into":"/backups","most":7,"verify":false}}`
	if asked.Kind != "snapshot" || string(asked.Config) != want {
		t.Errorf("got a %s step with %s, want a snapshot step with %s", asked.Kind, asked.Config, want)
	}
	if s, _ := p.Step("schema"); !slices.Equal(s.Needs, []string{"schema.snapshot"}) {
		t.Errorf("schema needs %v", s.Needs)
	}

	// What can be taken back needs no dump.
	_, p = migrating(t, dump, backstay.Equivalent)
	if diff := cmp.Diff([]string{"ok", "schema", "after"}, ids(p)); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
	if s, _ := p.Step("schema"); !slices.Equal(s.Needs, []string{"ok"}) {
		t.Errorf("schema needs %v", s.Needs)
	}
}

func TestUnkeptDestructionIsWarnedOf(t *testing.T) {
	t.Parallel()
	taken := func(database string) spec.Step {
		return spec.Step{ID: "kept", Kind: "snapshot", Needs: []string{"ok"}, Config: json.RawMessage(`{"snapshot":{"database":"` + database + `","into":"/b"}}`)}
	}
	allow := `,"allow":["drop-column"]`
	tests := []struct {
		name, keys string
		class      backstay.Class
		before     []spec.Step
		warned     bool
	}{
		{"nothing keeps it", allow, backstay.Irreversible, nil, true},
		{"tables are copied", allow + `,"snapshot":"table"`, backstay.Irreversible, nil, false},
		{"the database is dumped", allow + `,"snapshot":{"database":"/b"}`, backstay.Irreversible, nil, false},
		{"a step dumped it", allow, backstay.Irreversible, []spec.Step{taken("secret:env/URL")}, false},
		{"a step dumped another", allow, backstay.Irreversible, []spec.Step{taken("secret:env/OTHER")}, true},
		{"nothing is destroyed", allow, backstay.Equivalent, nil, false},
		{"only a down is missing", "", backstay.Irreversible, nil, false},
	}
	for _, tt := range tests {
		_, p := migrating(t, tt.keys, tt.class, tt.before...)
		s, _ := p.Step("schema")
		if got := strings.Contains(strings.Join(s.Warnings, "\n"), "nothing keeps what it destroys"); got != tt.warned {
			t.Errorf("%s: warnings %q, want a warning: %v", tt.name, s.Warnings, tt.warned)
		}
	}
}
