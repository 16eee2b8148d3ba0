package engine_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/engine"
	"github.com/backstay-dev/backstay/internal/plan"
)

// TestFailedRevertDoesNotRepeatAnAtMostOnceStep: rolling a revert back does the
// reverted step again. Where that must happen at most once, a transient error
// is not retried and a crash in the middle ends held, ambiguous.
func TestFailedRevertDoesNotRepeatAnAtMostOnceStep(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		crash bool
		cause backstay.Cause
	}{
		{"transient error", false, backstay.CauseUndoFailed},
		{"crash", true, backstay.CauseAmbiguous},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(map[backstay.Key]string{"mem:a": "old", "mem:call": "old"})
			// Nothing reads the call; the step before it makes the revert fail.
			w.opaque["mem:call"] = true
			call := set("call")
			call.Restorable, call.Class, call.Effect, call.Want = false, backstay.Compensated, backstay.AtMostOnce, nil
			b := newBench(t, w)
			first := b.deploy(chain(set("a"), call))
			old, done, err := b.eng.Undone(t.Context(), first.Deployment)
			if err != nil {
				t.Fatal(err)
			}
			p, err := plan.Revert(old, first.Deployment, first.Name, done)
			if err != nil {
				t.Fatal(err)
			}
			w.undoErr["revert-a"] = errors.New("broken on purpose")
			w.calls = nil
			crashed := false
			eng := b.engine(func(o *engine.Options) {
				o.Failpoint = func(point, step string) error {
					if tc.crash && !crashed && point == "undo.after" && step == "revert-call" {
						crashed = true
						return errors.New("the process died here")
					}
					return nil
				}
			})
			if !tc.crash {
				w.doErr["revert-call"], w.noWrite["revert-call"] = backstay.Classify(backstay.Transient, errors.New("flaky")), true
			}
			id := newID(t)
			s, err := eng.Deploy(t.Context(), engine.Start{ID: id, Plan: p})
			if tc.crash {
				if err == nil {
					t.Fatal("the crash did not happen")
				}
				if s, err = b.eng.Resume(t.Context(), id, nil, nil); err != nil {
					t.Fatal(err)
				}
			} else if err != nil {
				t.Fatal(err)
			}
			dos := 0
			for _, c := range w.calls {
				if c == "do revert-call" {
					dos++
				}
			}
			if dos != 1 || s.State != backstay.Held {
				t.Errorf("got %d dos and state %s, want 1 and held; calls %v", dos, s.State, w.calls)
			}
			if !slices.ContainsFunc(s.Residue, func(r backstay.Residue) bool { return r.Key == "mem:call" && r.Cause == tc.cause }) {
				t.Errorf("residue %+v does not name mem:call with cause %s", s.Residue, tc.cause)
			}
		})
	}
}
