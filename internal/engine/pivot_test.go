package engine_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/engine"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/plan"
)

func TestDrivenForwardIsNotCancelled(t *testing.T) {
	t.Parallel()
	n := 0
	s := &scripted{world: newWorld(nil)}
	s.do = func(ctx context.Context, c backstay.Call) (backstay.Result, error) {
		if c.Step.ID != "after" {
			return s.world.Do(ctx, c)
		}
		if n++; n == 1 {
			return backstay.Result{}, errors.New("fails once")
		}
		timer := time.NewTimer(50 * time.Millisecond)
		defer timer.Stop()
		select {
		case <-timer.C:
			return s.world.Do(ctx, c)
		case <-ctx.Done():
			return backstay.Result{}, ctx.Err()
		}
	}
	sum := script(t, s).deployBy(chain(set("a"), pivotal(), set("after")), newID(t))
	if sum.State != backstay.Proven || n != 2 {
		t.Errorf("got state %s after %d tries, residue %+v", sum.State, n, sum.Residue)
	}
}

func TestDrivenForwardStillWaitsForPeople(t *testing.T) {
	t.Parallel()
	n := 0
	w := newWorld(nil)
	w.doErr["after"] = errors.New("fails once")
	w.before["after"] = func() {
		if n++; n == 2 {
			delete(w.doErr, "after")
		}
	}
	b := newBench(t, w)
	p := chain(set("a"), pivotal(), set("after"), approval("ok", time.Hour), set("last"))
	id := newID(t)
	approveWhenHolding(t, b, id, p)
	sum := b.deployBy(p, id)
	if sum.State != backstay.Proven {
		t.Errorf("got state %s failure %+v residue %+v", sum.State, sum.Failure, sum.Residue)
	}
}

func TestBakeFailureAfterDrivingForwardHolds(t *testing.T) {
	t.Parallel()
	n, checks := 0, 0
	w := newWorld(nil)
	w.doErr["after"] = errors.New("fails once")
	w.before["after"] = func() {
		if n++; n == 2 {
			delete(w.doErr, "after")
		}
	}
	w.checks = func() backstay.Verdict {
		if checks++; checks == 2 {
			return backstay.Fail
		}
		return backstay.Pass
	}
	p := chain(pivotal(), set("after"))
	p.Verify = []plan.Check{{ID: "health", Within: backstay.Duration(time.Second), Every: backstay.Duration(time.Millisecond), Prepared: backstay.Prepared{Kind: "mem"}}}
	p.Bake = plan.Bake{For: backstay.Duration(100 * time.Millisecond), Every: backstay.Duration(2 * time.Millisecond), Failures: 1}
	sum := newBench(t, w).deployBy(p, newID(t))
	if sum.State != backstay.Held {
		t.Errorf("got state %s, want held: the bake failed", sum.State)
	}
}

func TestNothingActsAfterTheLastLook(t *testing.T) {
	t.Parallel()
	s := &scripted{world: newWorld(nil)}
	gate := make(chan struct{})
	s.observe = func(ctx context.Context, c backstay.Call) (backstay.Image, error) {
		if c.Step.ID == "slow" && c.Attempt == 0 && c.Blobs != nil {
			select {
			case <-gate:
			case <-ctx.Done():
			}
		}
		return s.world.Observe(ctx, c)
	}
	bad := set("bad", "drop")
	bad.Effect = backstay.AtMostOnce
	s.doErr["bad"] = errors.New("broken on purpose")
	var once sync.Once
	b := script(t, s, func(o *engine.Options) {
		o.Failpoint = func(point, _ string) error {
			if point == "finish.before" {
				once.Do(func() { close(gate) })
			}
			return nil
		}
	})
	sum := b.deployBy(chain(pivotal(), bad, set("slow", "drop")), newID(t))
	if sum.State != backstay.Held {
		t.Fatalf("got state %s", sum.State)
	}
	if slices.Contains(s.calls, "do slow") {
		t.Errorf("slow acted beside or after the last look: %v", s.calls)
	}
}

func TestHeldDoesNotWaitForAnApproval(t *testing.T) {
	t.Parallel()
	w := newWorld(nil)
	bad := set("bad", "drop")
	bad.Effect = backstay.AtMostOnce
	w.doErr["bad"] = errors.New("broken on purpose")
	ok := approval("ok", time.Hour)
	ok.Needs = []string{"drop"}
	sum := newBench(t, w).deployBy(chain(pivotal(), ok, bad), newID(t))
	if sum.State != backstay.Held {
		t.Errorf("got state %s", sum.State)
	}
}

func TestPausePastThePivotDoesNotSpin(t *testing.T) {
	t.Parallel()
	s := &scripted{world: newWorld(nil)}
	b := script(t, s)
	id := newID(t)
	n, looks := 0, 0
	s.observe = func(ctx context.Context, c backstay.Call) (backstay.Image, error) {
		if c.Step.ID == "after" {
			s.mu.Lock()
			looks++
			s.mu.Unlock()
		}
		return s.world.Observe(ctx, c)
	}
	s.do = func(ctx context.Context, c backstay.Call) (backstay.Result, error) {
		if c.Step.ID != "after" {
			return s.world.Do(ctx, c)
		}
		if n++; n > 1 {
			return s.world.Do(ctx, c)
		}
		if err := b.store.Signal(ctx, id, ledger.Signal{ID: "p", Kind: engine.SignalPause, Actor: backstay.Actor{UID: 1}}); err != nil {
			t.Error(err)
		}
		waitFor(t, func() bool {
			pending, err := b.store.Signals(ctx, id)
			return err == nil && len(pending) == 0
		})
		return backstay.Result{}, errors.New("fails once")
	}
	go func() {
		ctx := t.Context()
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		deadline := time.NewTimer(2 * time.Second)
		defer deadline.Stop()
		for held := false; !held; {
			select {
			case <-deadline.C:
				held = true
			case <-tick.C:
				d, err := b.store.Deployment(ctx, id)
				held = err == nil && d.State == backstay.Holding
			}
		}
		_ = b.store.Signal(ctx, id, ledger.Signal{ID: "r", Kind: engine.SignalResume, Actor: backstay.Actor{UID: 1}})
	}()
	sum := b.deployBy(chain(pivotal(), set("after")), id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if sum.State != backstay.Proven || looks > 8 {
		t.Errorf("got state %s after %d looks, failure %+v", sum.State, looks, sum.Failure)
	}
}

func TestProbedStepIsNotRepeatedBlindlyPastThePivot(t *testing.T) {
	t.Parallel()
	n := 0
	s := &scripted{world: newWorld(nil)}
	s.do = func(ctx context.Context, c backstay.Call) (backstay.Result, error) {
		if c.Step.ID == "after" {
			n++
			_, _ = s.world.Do(ctx, c)
			return backstay.Result{}, errors.New("the answer was lost")
		}
		return s.world.Do(ctx, c)
	}
	s.probe = func(context.Context, backstay.Call) (backstay.Finding, error) { return backstay.Applied, nil }
	st := set("after")
	st.Effect = backstay.Probed
	sum := script(t, s).deployBy(chain(pivotal(), st), newID(t))
	if n != 1 || sum.State != backstay.Proven {
		t.Errorf("done %d times, state %s", n, sum.State)
	}
}

func TestRetryPastThePivotIsNoOutsidersChange(t *testing.T) {
	t.Parallel()
	w := newWorld(map[backstay.Key]string{"mem:a": "old"})
	drop := pivotal()
	drop.Keys, drop.Want = []backstay.Key{"mem:a"}, nil
	drop.Body = backstay.Canonical(body{Writes: map[backstay.Key]string{"mem:a": "dropped"}})
	bad := set("bad")
	bad.Effect = backstay.AtMostOnce
	w.doErr["bad"] = errors.New("broken on purpose")
	b := newBench(t, w)
	sum := b.deployBy(chain(set("a"), drop, bad), newID(t))
	if sum.State != backstay.Held {
		t.Fatalf("got state %s", sum.State)
	}
	sum, err := b.eng.Resume(t.Context(), sum.Deployment, nil, &ledger.Signal{ID: "again", Kind: engine.SignalRetry})
	if err != nil || sum.State != backstay.Held || len(sum.Residue) != 1 || sum.Residue[0].Cause != backstay.CauseNoUndo {
		t.Errorf("got state %s err %v kept %+v residue %+v", sum.State, err, sum.Kept, sum.Residue)
	}
}
