package engine_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/engine"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/plan"
)

func TestDeployCommits(t *testing.T) {
	t.Parallel()
	w := newWorld(map[backstay.Key]string{"mem:a": "old"})
	b := newBench(t, w)
	s := b.deploy(chain(set("a"), set("b"), set("c")))
	if s.State != backstay.Proven || s.ExitCode != 0 {
		t.Fatalf("got state %s exit %d, want proven 0 (failure %+v)", s.State, s.ExitCode, s.Failure)
	}
	want := map[backstay.Key]string{"mem:a": "new-a", "mem:b": "new-b", "mem:c": "new-c"}
	if diff := cmp.Diff(want, w.snapshot()); diff != "" {
		t.Errorf("world (-want +got):\n%s", diff)
	}
}

func TestFailureAtEachStepPutsTheWorldBack(t *testing.T) {
	t.Parallel()
	before := map[backstay.Key]string{"mem:a": "old", "mem:z": "neighbour"}
	for _, tc := range []struct {
		name    string
		failing string
		noWrite bool
		undone  []string
	}{
		{"first, with effect", "a", false, []string{"a"}},
		{"middle, with effect", "b", false, []string{"b", "a"}},
		{"middle, without effect", "b", true, []string{"a"}},
		{"last, with effect", "c", false, []string{"c", "b", "a"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(before)
			w.doErr[tc.failing], w.noWrite[tc.failing] = errors.New("broken on purpose"), tc.noWrite
			s := newBench(t, w).deploy(chain(set("a"), set("b"), set("c")))
			if s.State != backstay.RolledBack || s.ExitCode != 2 {
				t.Fatalf("got state %s exit %d, want rolled_back 2", s.State, s.ExitCode)
			}
			if diff := cmp.Diff(before, w.snapshot()); diff != "" {
				t.Errorf("world (-want +got):\n%s", diff)
			}
			var undone []string
			for _, c := range w.calls {
				if id, ok := strings.CutPrefix(c, "undo "); ok {
					undone = append(undone, id)
				}
			}
			if diff := cmp.Diff(tc.undone, undone); diff != "" {
				t.Errorf("undo order (-want +got):\n%s", diff)
			}
			if s.Failure == nil || s.Failure.Step != tc.failing || !strings.Contains(s.Failure.Reason, "broken on purpose") {
				t.Errorf("failure %+v does not name step %s and its error", s.Failure, tc.failing)
			}
		})
	}
}

func TestHeldWithExactResidue(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		spoil func(*world)
		cause backstay.Cause
	}{
		{"undo fails", func(w *world) { w.undoErr["b"] = errors.New("undo is broken") }, backstay.CauseUndoFailed},
		{"undo lies", func(w *world) { w.lies["b"] = true }, backstay.CauseUndoFailed},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(map[backstay.Key]string{"mem:a": "old"})
			w.doErr["c"] = errors.New("broken on purpose")
			tc.spoil(w)
			b := newBench(t, w)
			s := b.deploy(chain(set("a"), set("b"), set("c")))
			if s.State != backstay.Held || s.ExitCode != 3 {
				t.Fatalf("got state %s exit %d, want held 3", s.State, s.ExitCode)
			}
			var keys []backstay.Key
			for _, r := range s.Residue {
				keys = append(keys, r.Key)
				if r.Cause != tc.cause || r.Next == "" {
					t.Errorf("residue of %s: cause %q next %q, want cause %q and a next command", r.Key, r.Cause, r.Next, tc.cause)
				}
			}
			slices.Sort(keys)
			// c was undone; b could not be; a, which b needs, was not tried.
			if diff := cmp.Diff([]backstay.Key{"mem:a", "mem:b"}, keys); diff != "" {
				t.Errorf("residue keys (-want +got):\n%s", diff)
			}
			delete(w.undoErr, "b")
			delete(w.lies, "b")
			again, err := b.eng.Resume(t.Context(), s.Deployment, nil, &ledger.Signal{ID: "again", Kind: engine.SignalRetry})
			if err != nil {
				t.Fatal(err)
			}
			if again.State != backstay.RolledBack || len(again.Residue) != 0 {
				t.Errorf("after the retry: state %s, residue %v", again.State, again.Residue)
			}
		})
	}
}

func TestOutsiderIsNeverOverwritten(t *testing.T) {
	t.Parallel()
	w := newWorld(map[backstay.Key]string{"mem:a": "old"})
	w.doErr["b"] = errors.New("broken on purpose")
	w.before["b"] = func() { w.set("mem:a", "theirs") }
	s := newBench(t, w).deploy(chain(set("a"), set("b")))
	if got := w.snapshot()["mem:a"]; got != "theirs" {
		t.Errorf("outsider's value was overwritten with %q", got)
	}
	if s.State != backstay.RolledBack || len(s.Kept) != 1 || s.Kept[0].Key != "mem:a" {
		t.Errorf("got state %s kept %+v, want rolled_back with mem:a kept", s.State, s.Kept)
	}
}

func TestReadBackCatchesALie(t *testing.T) {
	t.Parallel()
	w := newWorld(nil)
	st := set("a")
	st.Want = backstay.Image{"mem:a": backstay.PartValue("something else")}
	s := newBench(t, w).deploy(chain(st))
	if s.State != backstay.RolledBack || !strings.Contains(s.Failure.Reason, "differs from the plan") {
		t.Errorf("got state %s failure %+v", s.State, s.Failure)
	}
}

func TestVerifyFailureRollsBack(t *testing.T) {
	t.Parallel()
	for name, verdict := range map[string]backstay.Verdict{"fail": backstay.Fail, "undecided is no pass": backstay.Undecided} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(nil)
			w.checks = func() backstay.Verdict { return verdict }
			p := chain(set("a"))
			p.Verify = []plan.Check{{ID: "health", Within: backstay.Duration(20 * time.Millisecond), Every: backstay.Duration(5 * time.Millisecond), Prepared: backstay.Prepared{Kind: "mem"}}}
			s := newBench(t, w).deploy(p)
			if s.State != backstay.RolledBack || s.Failure.Cause != backstay.CauseVerifyFailed || len(w.snapshot()) != 0 {
				t.Errorf("got state %s failure %+v world %v", s.State, s.Failure, w.snapshot())
			}
		})
	}
}

func TestBakeFailureRollsBack(t *testing.T) {
	t.Parallel()
	w := newWorld(nil)
	rounds := 0
	w.checks = func() backstay.Verdict {
		if rounds++; rounds > 2 {
			return backstay.Fail
		}
		return backstay.Pass
	}
	p := chain(set("a"))
	p.Verify = []plan.Check{{ID: "health", Within: backstay.Duration(time.Second), Every: backstay.Duration(5 * time.Millisecond), Prepared: backstay.Prepared{Kind: "mem"}}}
	p.Bake = plan.Bake{For: backstay.Duration(time.Minute), Every: backstay.Duration(2 * time.Millisecond), Failures: 2}
	s := newBench(t, w).deploy(p)
	if s.State != backstay.RolledBack || s.Failure.Cause != backstay.CauseBakeFailed || len(w.snapshot()) != 0 {
		t.Errorf("got state %s failure %+v world %v", s.State, s.Failure, w.snapshot())
	}
}

func TestTransientErrorsAreRetriedOnlyWhereSafe(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		effect backstay.Effect
		err    error
		dos    int
		state  backstay.State
	}{
		{"idempotent, transient", backstay.Idempotent, backstay.Classify(backstay.Transient, errors.New("flaky")), 3, backstay.Proven},
		{"idempotent, permanent", backstay.Idempotent, errors.New("broken"), 1, backstay.RolledBack},
		{"at most once, transient", backstay.AtMostOnce, backstay.Classify(backstay.Transient, errors.New("flaky")), 1, backstay.RolledBack},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(nil)
			st := set("a")
			st.Effect, st.Retries = tc.effect, 5
			w.doErr["a"] = tc.err
			n := 0
			w.before["a"] = func() {
				if n++; n == 3 {
					delete(w.doErr, "a")
				}
			}
			s := newBench(t, w).deploy(chain(st))
			if n != tc.dos || s.State != tc.state {
				t.Errorf("got %d dos and state %s, want %d and %s", n, s.State, tc.dos, tc.state)
			}
		})
	}
}

func TestParallelFailureCancelsSiblings(t *testing.T) {
	t.Parallel()
	w := newWorld(nil)
	w.block["slow"] = make(chan struct{})
	w.doErr["bad"] = errors.New("broken on purpose")
	slow, bad := set("slow"), set("bad")
	slow.Needs, bad.Needs = []string{}, []string{}
	s := newBench(t, w).deploy(chain(slow, bad))
	if s.State != backstay.RolledBack || len(w.snapshot()) != 0 {
		t.Errorf("got state %s world %v", s.State, w.snapshot())
	}
}

func TestTimeoutEndsAStep(t *testing.T) {
	t.Parallel()
	w := newWorld(nil)
	w.block["slow"] = make(chan struct{})
	st := set("slow")
	st.Timeout = backstay.Duration(20 * time.Millisecond)
	s := newBench(t, w).deploy(chain(st))
	if s.State != backstay.RolledBack || s.Failure.Cause != backstay.CauseDeadline || !strings.Contains(s.Failure.Reason, "timed out after 20ms") {
		t.Errorf("got state %s failure %+v", s.State, s.Failure)
	}
}

func TestInterruptRollsBackInOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(nil)
	w.block["b"] = make(chan struct{})
	interrupt := make(chan struct{}, 1)
	w.before["b"] = func() { interrupt <- struct{}{} }
	b := newBench(t, w)
	s, err := b.eng.Deploy(t.Context(), engine.Start{ID: newID(t), Plan: chain(set("a"), set("b")), Interrupt: interrupt})
	if err != nil {
		t.Fatal(err)
	}
	if s.State != backstay.RolledBack || s.Failure.Cause != backstay.CauseAborted || len(w.snapshot()) != 0 {
		t.Errorf("got state %s failure %+v world %v", s.State, s.Failure, w.snapshot())
	}
}

func TestStopLeavesAConsistentLedger(t *testing.T) {
	t.Parallel()
	w := newWorld(nil)
	w.block["b"] = make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	w.before["b"] = cancel
	b := newBench(t, w)
	id := newID(t)
	_, err := b.eng.Deploy(ctx, engine.Start{ID: id, Plan: chain(set("a"), set("b"))})
	if !errors.Is(err, engine.ErrStopped) {
		t.Fatalf("got %v, want ErrStopped", err)
	}
	close(w.block["b"])
	delete(w.before, "b")
	s, err := b.eng.Resume(t.Context(), id, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if s.State != backstay.Proven {
		t.Errorf("got state %s failure %+v, want proven: nothing had failed", s.State, s.Failure)
	}
}

func TestApproval(t *testing.T) {
	t.Parallel()
	hold := backstay.Step{ID: "ok", Prepared: backstay.Prepared{
		Kind: "approve", Class: backstay.Exact, Effect: backstay.Idempotent, Hold: &backstay.Hold{Count: 1, Within: backstay.Duration(time.Hour), NotAuthor: true},
	}}
	p := chain(set("a"), hold, set("b"))
	w := newWorld(nil)
	b := newBench(t, w)
	id := newID(t)
	ended := make(chan engine.Summary, 1)
	go func() {
		s, err := b.eng.Deploy(t.Context(), engine.Start{ID: id, Plan: p})
		if err != nil {
			t.Error(err)
		}
		ended <- s
	}()
	waitFor(t, func() bool {
		d, err := b.store.Deployment(t.Context(), id)
		return err == nil && d.State == backstay.Holding
	})
	grace := backstay.Actor{UID: 1001, Name: "grace", Host: "here"}
	for _, sig := range []ledger.Signal{
		{ID: "1", Kind: engine.SignalApprove, Plan: "other", Actor: grace},
		{ID: "2", Kind: engine.SignalApprove, Plan: p.Digest(), Actor: backstay.Actor{UID: 1000, Name: "ada", Host: "here"}},
		{ID: "3", Kind: engine.SignalApprove, Plan: p.Digest(), Actor: grace},
	} {
		if err := b.store.Signal(t.Context(), id, sig); err != nil {
			t.Fatal(err)
		}
	}
	s := <-ended
	if s.State != backstay.Proven {
		t.Fatalf("got state %s failure %+v", s.State, s.Failure)
	}
	var answers []string
	entries, err := b.store.Entries(t.Context(), id, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		var body backstay.SignalBody
		if e.Kind == backstay.EntrySignal && e.Decode(&body) == nil {
			answers = append(answers, body.Why)
		}
	}
	if len(answers) != 3 || !strings.Contains(answers[0], "is for plan") || !strings.Contains(answers[1], "may not approve") || answers[2] != "" {
		t.Errorf("answers %q", answers)
	}
}

func TestApprovalTooLateRollsBack(t *testing.T) {
	t.Parallel()
	hold := backstay.Step{ID: "ok", Prepared: backstay.Prepared{
		Kind: "approve", Class: backstay.Exact, Effect: backstay.Idempotent, Hold: &backstay.Hold{Count: 1, Within: backstay.Duration(10 * time.Millisecond)},
	}}
	w := newWorld(nil)
	s := newBench(t, w).deploy(chain(set("a"), hold, set("b")))
	if s.State != backstay.RolledBack || s.Failure.Cause != backstay.CauseNotApproved || len(w.snapshot()) != 0 {
		t.Errorf("got state %s failure %+v world %v", s.State, s.Failure, w.snapshot())
	}
}

func TestPivotIsDrivenForward(t *testing.T) {
	t.Parallel()
	pivot := set("drop")
	pivot.Class, pivot.HasUndo, pivot.Restorable, pivot.Pivot, pivot.Irreversible = backstay.Irreversible, false, false, true, "drops a table"
	t.Run("retried home", func(t *testing.T) {
		t.Parallel()
		w := newWorld(nil)
		w.doErr["after"] = errors.New("fails twice")
		n := 0
		w.before["after"] = func() {
			if n++; n == 3 {
				delete(w.doErr, "after")
			}
		}
		s := newBench(t, w).deploy(chain(set("a"), pivot, set("after")))
		if s.State != backstay.Proven || n != 3 {
			t.Errorf("got state %s after %d dos, failure %+v", s.State, n, s.Failure)
		}
	})
	t.Run("held when it cannot be", func(t *testing.T) {
		t.Parallel()
		w := newWorld(nil)
		w.doErr["after"] = errors.New("always fails")
		s := newBench(t, w).deploy(chain(set("a"), pivot, set("after")))
		if s.State != backstay.Held || len(s.Residue) != 3 {
			t.Errorf("got state %s residue %+v", s.State, s.Residue)
		}
		for _, r := range s.Residue {
			if r.Cause != backstay.CauseNoUndo {
				t.Errorf("cause of %s is %s", r.Key, r.Cause)
			}
		}
	})
	t.Run("a pivot that changed nothing still rolls back", func(t *testing.T) {
		t.Parallel()
		w := newWorld(nil)
		w.doErr["drop"], w.noWrite["drop"] = errors.New("refused by the database"), true
		s := newBench(t, w).deploy(chain(set("a"), pivot, set("after")))
		if s.State != backstay.RolledBack || len(w.snapshot()) != 0 {
			t.Errorf("got state %s world %v residue %+v", s.State, w.snapshot(), s.Residue)
		}
	})
}

func TestBudgetVeto(t *testing.T) {
	t.Parallel()
	w := newWorld(nil)
	w.before["a"] = func() {
		timer := time.NewTimer(30 * time.Millisecond)
		<-timer.C
	}
	p := chain(set("a"), set("b"))
	p.Within = backstay.Duration(10 * time.Millisecond)
	s := newBench(t, w).deploy(p)
	if s.State != backstay.RolledBack || s.Failure.Cause != backstay.CauseBudget || slices.Contains(w.calls, "do b") {
		t.Errorf("got state %s failure %+v calls %v", s.State, s.Failure, w.calls)
	}
}

func TestDriftSincePlanIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(map[backstay.Key]string{"mem:a": "changed"})
	st := set("a")
	st.Before = map[backstay.Key]string{"mem:a": backstay.PartValue("as planned").Digest()}
	b := newBench(t, w)
	_, err := b.eng.Deploy(t.Context(), engine.Start{ID: newID(t), Plan: chain(st)})
	var refused *backstay.RefusedError
	if !errors.As(err, &refused) || len(w.calls) != 0 {
		t.Fatalf("got %v, calls %v; want a refusal and no call", err, w.calls)
	}
	found := 0
	if err := b.store.Walk(t.Context(), ledger.Query{Kind: backstay.EntryRefused, AfterLeaf: -1}, func(ledger.Leaf) error { found++; return nil }); err != nil {
		t.Fatal(err)
	}
	if found != 1 {
		t.Errorf("got %d refusal entries, want 1", found)
	}
}

func TestRevertAndItsOwnRollback(t *testing.T) {
	t.Parallel()
	w := newWorld(map[backstay.Key]string{"mem:a": "old"})
	b := newBench(t, w)
	first := b.deploy(chain(set("a"), set("b")))
	after := w.snapshot()
	revert := func() *plan.Plan {
		old, done, err := b.eng.Undone(t.Context(), first.Deployment)
		if err != nil {
			t.Fatal(err)
		}
		p, err := plan.Revert(old, first.Deployment, first.Name, done)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	// The revert fails at its second step: what it took back comes again.
	w.undoErr["revert-a"] = errors.New("broken on purpose")
	s := b.deploy(revert())
	if s.State != backstay.RolledBack {
		t.Fatalf("failed revert: state %s failure %+v residue %+v", s.State, s.Failure, s.Residue)
	}
	if diff := cmp.Diff(after, w.snapshot()); diff != "" {
		t.Errorf("after the failed revert (-want +got):\n%s", diff)
	}
	delete(w.undoErr, "revert-a")
	if s = b.deploy(revert()); s.State != backstay.Proven {
		t.Fatalf("revert: state %s failure %+v", s.State, s.Failure)
	}
	if diff := cmp.Diff(map[backstay.Key]string{"mem:a": "old"}, w.snapshot()); diff != "" {
		t.Errorf("after the revert (-want +got):\n%s", diff)
	}
}

// waitFor polls a condition of another goroutine or process.
func waitFor(t *testing.T, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatal("the condition did not come true in 20 s")
		}
	}
}
