package engine_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/engine"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/plan"
)

// Tests that seeded bugs asked for (internal/sim/mutant): what the simulator's
// world is too coarse to show.

func TestProbeThatCannotBeAskedIsNoPass(t *testing.T) {
	t.Parallel()
	s := &scripted{world: newWorld(nil), check: func(context.Context, backstay.Call) (backstay.CheckResult, error) {
		return backstay.CheckResult{Verdict: backstay.Pass}, errors.New("no route to host")
	}}
	b := script(t, s)
	p := chain(set("a"))
	p.Verify = []plan.Check{{ID: "health", Prepared: backstay.Prepared{Kind: "mem"}}}
	if sum := b.deployBy(p, newID(t)); sum.State != backstay.RolledBack || len(s.snapshot()) != 0 {
		t.Errorf("got state %s, world %v", sum.State, s.snapshot())
	}
}

func TestEveryTryHasTheSameKey(t *testing.T) {
	t.Parallel()
	var keys []string
	s := &scripted{world: newWorld(nil)}
	s.do = func(ctx context.Context, c backstay.Call) (backstay.Result, error) {
		keys = append(keys, c.IdempotencyKey)
		if len(keys) == 1 {
			return backstay.Result{}, nil // and nothing happened
		}
		return s.world.Do(ctx, c)
	}
	crash := errors.New("power cut")
	b := script(t, s, func(o *engine.Options) {
		o.Failpoint = func(point, _ string) error {
			if point == "do.after" && len(keys) == 1 {
				return crash
			}
			return nil
		}
	})
	id := newID(t)
	if _, err := b.eng.Deploy(t.Context(), engine.Start{ID: id, Plan: chain(set("a"))}); !errors.Is(err, crash) {
		t.Fatalf("got %v", err)
	}
	again, err := engine.New(b.store, s, engine.Options{DataDir: t.TempDir(), Poll: 5 * time.Millisecond, Backoff: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if sum, err := again.Resume(t.Context(), id, nil, nil); err != nil || sum.State != backstay.Proven {
		t.Fatalf("got state %s, %v", sum.State, err)
	}
	if len(keys) != 2 || keys[0] != keys[1] || keys[0] == "" {
		t.Errorf("keys of the tries: %q", keys)
	}
}

// TestUndoCutOffTwiceIsStillItsOwn: the value in the middle of an undo that was
// cut off twice is what the undo left, both times.
func TestUndoCutOffTwiceIsStillItsOwn(t *testing.T) {
	t.Parallel()
	w := newWorld(map[backstay.Key]string{"mem:a": "old"})
	w.doErr["b"], w.noWrite["b"] = errors.New("out of memory"), true
	undos := 0
	s := &scripted{world: w}
	s.undo = func(ctx context.Context, c backstay.Call) (backstay.Result, error) {
		if c.Step.ID != "a" {
			return w.Undo(ctx, c)
		}
		if undos++; undos <= 2 {
			w.set("mem:a", "half")
			return backstay.Result{}, nil
		}
		return w.Undo(ctx, c)
	}
	crash := errors.New("power cut")
	died := 0
	mortal := func(o *engine.Options) {
		o.Failpoint = func(point, step string) error {
			if point == "undo.after" && step == "a" && died < 2 {
				died++
				return crash
			}
			return nil
		}
	}
	b, id := script(t, s, mortal), newID(t)
	_, err := b.eng.Deploy(t.Context(), engine.Start{ID: id, Plan: chain(set("a"), set("b"))})
	for err != nil && died <= 2 {
		if !errors.Is(err, crash) {
			t.Fatal(err)
		}
		o := engine.Options{DataDir: t.TempDir(), Poll: 5 * time.Millisecond, Backoff: time.Millisecond}
		mortal(&o)
		again, newErr := engine.New(b.store, s, o)
		if newErr != nil {
			t.Fatal(newErr)
		}
		var sum engine.Summary
		if sum, err = again.Resume(t.Context(), id, nil, nil); err == nil && sum.State != backstay.RolledBack {
			t.Errorf("got state %s, residue %+v", sum.State, sum.Residue)
		}
	}
	if got := w.snapshot()["mem:a"]; died != 2 || got != "old" {
		t.Errorf("after %d deaths the value is %q", died, got)
	}
}

func TestAbortFromOutsideIsTaken(t *testing.T) {
	t.Parallel()
	w := newWorld(nil)
	b, id := newBench(t, w), newID(t)
	w.before["a"] = func() {
		_ = b.store.Signal(t.Context(), id, ledger.Signal{ID: "stop", Kind: engine.SignalAbort, Actor: backstay.Actor{UID: 1001}})
	}
	if s := b.deployBy(chain(set("a"), set("b")), id); s.State != backstay.RolledBack || len(w.snapshot()) != 0 {
		t.Errorf("got state %s, world %v", s.State, w.snapshot())
	}
}
