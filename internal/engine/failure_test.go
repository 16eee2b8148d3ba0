package engine_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/engine"
)

// What the table of failures says is what happens, for every class of error.
func TestFailuresLeadWhereTheTableSays(t *testing.T) {
	t.Parallel()
	count := func(w *world, call string) int {
		return len(slices.DeleteFunc(slices.Clone(w.calls), func(c string) bool { return c != call }))
	}
	leads := func(all []backstay.Lead, one backstay.Lead) bool { return slices.Contains(all, one) }
	for _, kind := range backstay.FailureKinds() {
		for _, class := range kind.Classes {
			t.Run(string(class), func(t *testing.T) {
				t.Parallel()
				w := newWorld(nil)
				b := set("b")
				b.Retries = 2
				w.doErr["b"], w.noWrite["b"] = backstay.Classify(class, errors.New("no")), true
				w.undoErr["a"] = backstay.Classify(class, errors.New("never"))
				bench, id := newBench(t, w), newID(t)
				s := bench.deployBy(chain(set("a"), b), id)
				tries, undos := count(w, "do b"), count(w, "undo a")
				if got := tries == 3; got != leads(kind.Do, backstay.LeadRetry) || (!got && tries != 1) {
					t.Errorf("%d tries of a step, the table says %v", tries, kind.Do)
				}
				if got := undos > 1; got != leads(kind.Undo, backstay.LeadRetry) {
					t.Errorf("%d tries of an undo, the table says %v", undos, kind.Undo)
				}
				if !leads(kind.Do, backstay.LeadRollBack) || !leads(kind.Undo, backstay.LeadHold) || s.State != backstay.Held {
					t.Errorf("state %s, the table says %v, then %v", s.State, kind.Do, kind.Undo)
				}
				entries, err := bench.store.Entries(t.Context(), id, 0)
				if err != nil {
					t.Fatal(err)
				}
				for _, e := range entries {
					var body backstay.CompensationBody
					if e.Kind != backstay.EntryCompensation || e.Step != "a" {
						continue
					}
					if err := e.Decode(&body); err != nil || body.Class != class || body.Result != engine.CompensationFailed {
						t.Errorf("compensation %+v, %v", body, err)
					}
				}
			})
		}
	}
}

// unaskable is a judge whose source fails.
type unaskable struct {
	*world
	err error
}

func (u *unaskable) Check(context.Context, backstay.Call) (backstay.CheckResult, error) {
	return backstay.CheckResult{}, u.err
}

// A check that cannot be asked is undecided, whatever the class of its error: the gate
// waits and does what its policy says.
func TestUnaskableChecksHold(t *testing.T) {
	t.Parallel()
	for _, kind := range backstay.FailureKinds() {
		if !slices.Equal(kind.Ask, []backstay.Lead{backstay.LeadHold}) {
			t.Errorf("%s of a check leads to %v", kind.Word, kind.Ask)
		}
		w := &unaskable{newWorld(map[backstay.Key]string{route: "0%"}), backstay.Classify(kind.Classes[0], errors.New("it is down"))}
		s := newBench(t, w.world, func(o *engine.Options) { o.Judge = w }).deploy(
			chain(notch("1%"), gate("look", backstay.Gate{Within: 30 * ms, Checks: checks("errors")}), notch("100%")))
		if s.State != backstay.RolledBack || !strings.Contains(s.Failure.Reason, "undecided after 30ms: errors: it is down") {
			t.Errorf("%s: state %s, failure %+v", kind.Word, s.State, s.Failure)
		}
	}
}
