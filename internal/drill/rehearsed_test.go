package drill

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
)

// What a target is like afterwards is held against how the deployment ended,
// whatever the engine and the kind say.
func TestTargetsAreCompared(t *testing.T) {
	t.Parallel()
	const key = backstay.Key("database:postgres/1/shop")
	listed := []backstay.Residue{{Step: "schema", Key: key}}
	wrote := func(written, unknown, found int64) []backstay.DrillRows {
		return []backstay.DrillRows{{Table: "users", Written: written, Unknown: unknown, Found: found}}
	}
	tests := []struct {
		name    string
		state   backstay.State
		residue []backstay.Residue
		shown   backstay.Rehearsed
		want    []string
	}{
		{"restored", backstay.RolledBack, nil, backstay.Rehearsed{Wrote: wrote(9, 0, 9)}, nil},
		{"a row that was cut off is there, or not", backstay.RolledBack, nil, backstay.Rehearsed{Wrote: wrote(9, 1, 10)}, nil},
		{"left behind", backstay.RolledBack, nil, backstay.Rehearsed{Differs: []string{"new: CREATE INDEX i", "gone: x"}}, []string{"rolled back, and its schema is not as before: new: CREATE INDEX i; gone: x"}},
		{"rows lost", backstay.RolledBack, nil, backstay.Rehearsed{Wrote: wrote(9, 0, 7)}, []string{"of 9 rows that users wrote to users meanwhile, 2 are gone"}},
		{"rows of nobody", backstay.RolledBack, nil, backstay.Rehearsed{Wrote: wrote(9, 1, 12)}, []string{"rolled back, and users holds 2 rows that nobody wrote"}},
		{"held, and says so", backstay.Held, listed, backstay.Rehearsed{Differs: []string{"new: x"}, Wrote: wrote(9, 0, 7)}, nil},
		{"held, and says nothing", backstay.Held, nil, backstay.Rehearsed{Differs: []string{"new: x"}}, []string{"its schema is not as before (new: x), and the residue does not say so"}},
		{"held for nothing", backstay.Held, listed, backstay.Rehearsed{}, []string{"the residue lists it, and it is as before"}},
		{"held elsewhere, rows lost", backstay.Held, nil, backstay.Rehearsed{Wrote: wrote(9, 0, 7)}, []string{"of 9 rows that users wrote to users meanwhile, 2 are gone"}},
		{"proven: what a migration does to rows is its own matter", backstay.Proven, nil, backstay.Rehearsed{Differs: []string{"new: x"}, Wrote: wrote(9, 0, 7)}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			j := &realJudge{judge: judge{outcome: outcome{state: tt.state, residue: tt.residue}}}
			j.compareTargets([]used{{rehearsing{step: "schema", key: key}, tt.shown}})
			var got []string
			for _, f := range j.findings {
				got = append(got, f.Text)
				if f.Step != "schema" || f.Key != key {
					t.Errorf("a finding about %s %s", f.Step, f.Key)
				}
			}
			if diff := cmp.Diff(slices.Clip(tt.want), slices.Clip(got)); diff != "" {
				t.Errorf("findings (-want +got):\n%s", diff)
			}
		})
	}
}
