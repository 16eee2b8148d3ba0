package engine_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
)

// What stands beside a state differs at every look, as the rows of a table do that
// users write: it is no drift, no residue and nobody's later value.
func TestWhatStandsBesideHoldsNothing(t *testing.T) {
	t.Parallel()
	for name, fails := range map[string]bool{"goes on": false, "goes back": true} {
		for kind, restorable := range map[string]bool{"by command": false, "by image": true} {
			t.Run(name+" "+kind, func(t *testing.T) {
				t.Parallel()
				s := &scripted{world: newWorld(map[backstay.Key]string{"mem:a": "old"})}
				writesBeside(s)
				want, calls := backstay.Proven, []string{"do a", "do b"}
				if fails {
					s.doErr["b"], s.noWrite["b"] = errors.New("broken on purpose"), true
					want, calls = backstay.RolledBack, []string{"do a", "do b", "undo a"}
				}
				a := set("a")
				a.Restorable = restorable
				a.Before = map[backstay.Key]string{"mem:a": backstay.PartValue("old").Digest()}
				sum := script(t, s).deployBy(chain(a, set("b")), newID(t))
				if sum.State != want || len(sum.Residue)+len(sum.Kept) > 0 {
					t.Errorf("got state %s, residue %v, kept %v; want %s and nothing", sum.State, sum.Residue, sum.Kept, want)
				}
				if diff := cmp.Diff(calls, s.calls); diff != "" {
					t.Errorf("calls (-want +got):\n%s", diff)
				}
			})
		}
	}
}

// writesBeside has something else stand beside each state at every look.
func writesBeside(s *scripted) {
	looks := 0
	s.observe = func(ctx context.Context, c backstay.Call) (backstay.Image, error) {
		im, err := s.world.Observe(ctx, c)
		s.mu.Lock()
		defer s.mu.Unlock()
		for k, state := range im {
			looks++
			state.Beside = map[string]json.RawMessage{"rows": backstay.Canonical(looks)}
			im[k] = state
		}
		return im, err
	}
}

// A pivot that failed and changed nothing was not passed, whatever others wrote
// beside it meanwhile.
func TestPivotThatChangedNothingBeside(t *testing.T) {
	t.Parallel()
	s := &scripted{world: newWorld(nil)}
	writesBeside(s)
	pivot := set("b")
	pivot.Class, pivot.HasUndo, pivot.Pivot = backstay.Irreversible, false, true
	s.doErr["b"], s.noWrite["b"] = errors.New("broken on purpose"), true
	p := chain(set("a"), pivot)
	p.Pivot = "b"
	if sum := script(t, s).deployBy(p, newID(t)); sum.State != backstay.RolledBack {
		t.Errorf("got state %s, residue %v, want rolled back", sum.State, sum.Residue)
	}
}
