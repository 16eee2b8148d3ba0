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

func TestOpaqueStepThatNeverStartedIsNoResidue(t *testing.T) {
	t.Parallel()
	// Recovery finds that the opaque step was not applied; then it is aborted.
	w := newWorld(nil)
	w.opaque["mem:b"] = true
	s := &scripted{world: w, probe: func(context.Context, backstay.Call) (backstay.Finding, error) { return backstay.NotApplied, nil }}
	st := set("b")
	st.Restorable, st.Effect = false, backstay.Probed
	id := newID(t)
	crash := errors.New("power cut")
	b := script(t, s, func(o *engine.Options) {
		o.Failpoint = func(point, step string) error {
			if point == "intent.after" && step == "b" {
				return crash
			}
			return nil
		}
	})
	if _, err := b.eng.Deploy(t.Context(), engine.Start{ID: id, Plan: chain(set("a"), st)}); !errors.Is(err, crash) {
		t.Fatalf("got %v", err)
	}
	again, err := engine.New(b.store, s, engine.Options{DataDir: t.TempDir(), Poll: 5 * time.Millisecond, Backoff: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	sum, err := again.Resume(t.Context(), id, nil, &ledger.Signal{ID: "stop", Kind: engine.SignalAbort})
	if err != nil {
		t.Fatal(err)
	}
	if sum.State != backstay.RolledBack {
		t.Errorf("got state %s residue %+v calls %v", sum.State, sum.Residue, s.calls)
	}
}

func TestUnreadableReasonsHoldNoSecrets(t *testing.T) {
	t.Parallel()
	const secret = "hunter2-hunter2"
	s := &scripted{world: newWorld(nil)}
	broken := false
	s.observe = func(ctx context.Context, c backstay.Call) (backstay.Image, error) {
		if broken && c.Step.ID == "a" {
			v, _ := c.Secrets.Resolve("secret:env/X")
			return backstay.Image{"mem:a": {Unreadable: "login with " + v + " refused"}}, nil
		}
		return s.world.Observe(ctx, c)
	}
	s.doErr["b"] = errors.New("broken on purpose")
	s.before["b"] = func() { s.mu.Lock(); broken = true; s.mu.Unlock() }
	b := script(t, s, func(o *engine.Options) { o.Secrets = oneSecret(secret) })
	id := newID(t)
	sum := b.deployBy(chain(set("a"), set("b")), id)
	if sum.State != backstay.Held {
		t.Errorf("got state %s", sum.State)
	}
	entries, err := b.store.Entries(t.Context(), id, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.Contains(string(e.Body), secret) {
			t.Errorf("entry %s holds the secret: %s", e.Kind, e.Body)
		}
	}
	known, err := b.store.Resources(t.Context(), "mem:a")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range known {
		if r.State.Unreadable != "" {
			t.Errorf("the ledger believes %+v", r.State)
		}
	}
}

func TestStoppingIsNotLedgerDamage(t *testing.T) {
	t.Parallel()
	big := strings.Repeat("x", 80<<10)
	w := newWorld(map[backstay.Key]string{"mem:a": big})
	w.doErr["b"] = errors.New("broken on purpose")
	ctx, cancel := context.WithCancel(t.Context())
	b := newBench(t, w, func(o *engine.Options) {
		// The clock is asked by the loop when it records that b is undone: what
		// it does next is to read a's before-image.
		o.Now = func() time.Time {
			w.mu.Lock()
			defer w.mu.Unlock()
			if slices.Contains(w.calls, "undo b") {
				cancel()
			}
			return time.Now()
		}
	})
	id := newID(t)
	_, _ = b.eng.Deploy(ctx, engine.Start{ID: id, Plan: chain(set("a"), set("b"))})
	sum, err := b.engine().Resume(t.Context(), id, nil, nil)
	if err != nil || sum.State != backstay.RolledBack {
		t.Errorf("got state %s err %v residue %+v", sum.State, err, sum.Residue)
	}
}

func TestRetryFinishesWhatAFailedUndoBegan(t *testing.T) {
	t.Parallel()
	for name, restorable := range map[string]bool{"restorable": true, "undone by command": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &scripted{world: newWorld(map[backstay.Key]string{"mem:a": "old"})}
			s.doErr["b"] = errors.New("broken on purpose")
			half := true
			s.undo = func(ctx context.Context, c backstay.Call) (backstay.Result, error) {
				if half && c.Step.ID == "a" {
					s.set("mem:a", "half")
					return backstay.Result{}, errors.New("the disk is full")
				}
				return s.world.Undo(ctx, c)
			}
			b := script(t, s)
			a := set("a")
			a.Restorable = restorable
			sum := b.deployBy(chain(a, set("b")), newID(t))
			if sum.State != backstay.Held {
				t.Fatalf("got state %s", sum.State)
			}
			half = false
			sum, err := b.eng.Resume(t.Context(), sum.Deployment, nil, &ledger.Signal{ID: "again", Kind: engine.SignalRetry})
			if err != nil || sum.State != backstay.RolledBack || len(sum.Kept) != 0 {
				t.Errorf("got state %s err %v kept %+v residue %+v", sum.State, err, sum.Kept, sum.Residue)
			}
			if diff := cmp.Diff(map[backstay.Key]string{"mem:a": "old"}, s.snapshot()); diff != "" {
				t.Errorf("world (-want +got):\n%s", diff)
			}
		})
	}
}

func TestUndoWaitsUntilOrphansAreGone(t *testing.T) {
	t.Parallel()
	s := &scripted{world: newWorld(nil)}
	alive := true
	s.reap = func(context.Context, backstay.Call) error {
		if alive {
			return errors.New("process 4711 does not end")
		}
		return nil
	}
	id := newID(t)
	crash := errors.New("power cut")
	b := script(t, s, func(o *engine.Options) {
		o.Failpoint = func(point, step string) error {
			if point == "do.after" && step == "a" {
				return crash
			}
			return nil
		}
	})
	if _, err := b.eng.Deploy(t.Context(), engine.Start{ID: id, Plan: chain(set("a"))}); !errors.Is(err, crash) {
		t.Fatalf("got %v", err)
	}
	resume := func(sig *ledger.Signal) engine.Summary {
		e, err := engine.New(b.store, s, engine.Options{DataDir: t.TempDir(), Poll: 5 * time.Millisecond, Backoff: time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		sum, err := e.Resume(t.Context(), id, nil, sig)
		if err != nil {
			t.Fatal(err)
		}
		return sum
	}
	for i, sig := range []*ledger.Signal{nil, {ID: "again", Kind: engine.SignalRetry}} {
		sum := resume(sig)
		if sum.State != backstay.Held || slices.Contains(s.calls, "undo a") {
			t.Errorf("try %d: got state %s calls %v; an undo beside a live process", i, sum.State, s.calls)
		}
	}
	alive = false
	if sum := resume(&ledger.Signal{ID: "third", Kind: engine.SignalRetry}); sum.State != backstay.RolledBack {
		t.Errorf("got state %s residue %+v", sum.State, sum.Residue)
	}
}

func TestRevertOfTwoStepsOnOneKey(t *testing.T) {
	t.Parallel()
	w := newWorld(map[backstay.Key]string{"mem:a": "old"})
	b := newBench(t, w)
	second := set("a")
	second.ID, second.Body = "a2", backstay.Canonical(body{Writes: map[backstay.Key]string{"mem:a": "newer"}})
	second.Want = backstay.Image{"mem:a": backstay.PartValue("newer")}
	first := b.deploy(chain(set("a"), second))
	old, done, err := b.eng.Undone(t.Context(), first.Deployment)
	if err != nil {
		t.Fatal(err)
	}
	p, err := plan.Revert(old, first.Deployment, first.Name, done)
	if err != nil {
		t.Fatal(err)
	}
	sum := b.deploy(p)
	if sum.State != backstay.Proven || w.snapshot()["mem:a"] != "old" {
		t.Errorf("got state %s failure %+v world %v", sum.State, sum.Failure, w.snapshot())
	}
}

func TestAnUnreadableKeyDoesNotHideAnOutsider(t *testing.T) {
	t.Parallel()
	// b fails, and one of its keys cannot be read then; the other is changed by
	// somebody before the undo looks.
	s := &scripted{world: newWorld(map[backstay.Key]string{"mem:b": "old"})}
	acted, looks := false, 0
	s.observe = func(ctx context.Context, c backstay.Call) (backstay.Image, error) {
		im, err := s.world.Observe(ctx, c)
		s.mu.Lock()
		defer s.mu.Unlock()
		if acted && c.Step.ID == "b" {
			if looks++; looks == 1 {
				im["mem:other"] = backstay.ResourceState{Unreadable: "for a moment"}
				s.values["mem:b"] = "theirs"
			}
		}
		return im, err
	}
	s.before["b"] = func() { s.mu.Lock(); acted = true; s.mu.Unlock() }
	s.doErr["b"] = errors.New("broken on purpose")
	st := set("b")
	st.Keys = append(st.Keys, "mem:other")
	sum := script(t, s).deployBy(chain(st), newID(t))
	if s.snapshot()["mem:b"] != "theirs" || sum.State != backstay.RolledBack {
		t.Errorf("got state %s world %v", sum.State, s.snapshot())
	}
}
