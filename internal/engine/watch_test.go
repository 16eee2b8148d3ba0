package engine_test

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/engine"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/plan"
)

func TestBakeWithoutASingleRoundIsNoPass(t *testing.T) {
	t.Parallel()
	// The probe passes once, for verify, and answers nothing in the bake.
	silent := func() *world {
		checks := 0
		w := newWorld(nil)
		w.checks = func() backstay.Verdict {
			if checks++; checks > 1 {
				return backstay.Undecided
			}
			return backstay.Pass
		}
		return w
	}
	p := chain(set("a"))
	p.Verify = []plan.Check{{ID: "health", Within: backstay.Duration(time.Second), Every: backstay.Duration(time.Millisecond), Prepared: backstay.Prepared{Kind: "mem"}}}
	p.Bake = plan.Bake{For: backstay.Duration(10 * time.Millisecond), Every: backstay.Duration(time.Hour), Failures: 1}
	t.Run("shorter than a round", func(t *testing.T) {
		t.Parallel()
		sum := newBench(t, silent()).deployBy(p, newID(t))
		if sum.State != backstay.RolledBack {
			t.Errorf("got state %s, want rolled_back: nothing was seen in the bake", sum.State)
		}
	})
	t.Run("over while nobody watched", func(t *testing.T) {
		t.Parallel()
		crash := errors.New("power cut")
		b := newBench(t, silent(), func(o *engine.Options) {
			o.Failpoint = func(point, _ string) error {
				if point == "transition.commit.after" {
					return crash
				}
				return nil
			}
		})
		id := newID(t)
		if _, err := b.eng.Deploy(t.Context(), engine.Start{ID: id, Plan: p}); !errors.Is(err, crash) {
			t.Fatalf("got %v", err)
		}
		later := b.engine(func(o *engine.Options) { o.Now = func() time.Time { return time.Now().Add(time.Hour) } })
		sum, err := later.Resume(t.Context(), id, nil, nil)
		if err != nil || sum.State != backstay.RolledBack {
			t.Errorf("got state %s err %v, want rolled_back: nothing was seen in the bake", sum.State, err)
		}
	})
}

func TestAgentDrivesOnAfterAStoreError(t *testing.T) {
	t.Parallel()
	w := newWorld(nil)
	b := newBench(t, w)
	id := newID(t)
	if _, err := b.eng.Deploy(t.Context(), engine.Start{ID: id, Plan: chain(set("a"), set("b")), Detach: true}); err != nil {
		t.Fatal(err)
	}
	e, err := engine.New(&flaky{Store: b.store, left: 2}, w, engine.Options{DataDir: t.TempDir(), Poll: 5 * time.Millisecond, Backoff: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	done := make(chan engine.Summary, 1)
	err = e.Agent(ctx, engine.AgentOptions{Every: 5 * time.Millisecond, Ended: func(s engine.Summary, err error) {
		if err == nil {
			done <- s
			cancel()
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	select {
	case s := <-done:
		if s.State != backstay.Proven {
			t.Errorf("got state %s", s.State)
		}
	default:
		t.Error("the deployment was left owned and undriven")
	}
}

func TestALookDoesNotHoldUpOthers(t *testing.T) {
	t.Parallel()
	// slow streams its before-image; quick fails meanwhile: its outcome must
	// become durable although the stream has not ended.
	s := &scripted{world: newWorld(nil)}
	recorded := make(chan struct{})
	var once sync.Once
	s.observe = func(ctx context.Context, c backstay.Call) (backstay.Image, error) {
		if c.Step.ID == "slow" && c.Blobs != nil {
			if _, _, err := c.Blobs.Put(readerFunc(func([]byte) (int, error) {
				timer := time.NewTimer(3 * time.Second)
				defer timer.Stop()
				select {
				case <-recorded:
					return 0, io.EOF
				case <-timer.C:
					return 0, errors.New("nothing else was recorded meanwhile")
				}
			})); err != nil {
				t.Error(err)
			}
		}
		return s.world.Observe(ctx, c)
	}
	b := script(t, s, func(o *engine.Options) {
		o.Failpoint = func(point, step string) error {
			if point == "outcome.after" && step == "quick" {
				once.Do(func() { close(recorded) })
			}
			return nil
		}
	})
	slow, quick := set("slow"), set("quick")
	slow.Needs, quick.Needs = []string{}, []string{}
	if sum := b.deployBy(chain(slow, quick), newID(t)); sum.State != backstay.Proven {
		t.Errorf("got state %s failure %+v", sum.State, sum.Failure)
	}
}

func TestCommitReadsBackAfterAPause(t *testing.T) {
	t.Parallel()
	// Paused while verify runs; somebody changes a key before the resume.
	w := newWorld(nil)
	b := newBench(t, w)
	id := newID(t)
	ctx := t.Context()
	signal := func(kind string) {
		if err := b.store.Signal(ctx, id, ledger.Signal{ID: kind, Kind: kind, Actor: backstay.Actor{UID: 1}}); err != nil {
			t.Error(err)
		}
	}
	state := func() backstay.State {
		d, err := b.store.Deployment(ctx, id)
		if err != nil {
			return ""
		}
		return d.State
	}
	var once sync.Once
	w.checks = func() backstay.Verdict {
		once.Do(func() {
			signal(engine.SignalPause)
			waitFor(t, func() bool { return state() == backstay.Holding })
		})
		return backstay.Pass
	}
	verified := func() bool {
		entries, err := b.store.Entries(ctx, id, 0)
		return err == nil && slices.ContainsFunc(entries, func(e backstay.Entry) bool { return e.Kind == backstay.EntryVerdict })
	}
	var helper sync.WaitGroup
	helper.Go(func() {
		waitFor(t, verified)
		w.set("mem:a", "theirs")
		signal(engine.SignalResume)
	})
	p := chain(set("a"))
	p.Verify = []plan.Check{{ID: "health", Within: backstay.Duration(time.Minute), Every: backstay.Duration(time.Millisecond), Prepared: backstay.Prepared{Kind: "mem"}}}
	sum := b.deployBy(p, id)
	helper.Wait()
	if sum.State != backstay.RolledBack || w.snapshot()["mem:a"] != "theirs" {
		t.Errorf("got state %s failure %+v", sum.State, sum.Failure)
	}
}
