package drivertest

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
)

func begin(t *testing.T, s Suite) *Trial {
	t.Helper()
	return beginWith(t, s.New(t))
}

// beginWith prepares, spoils the inputs and takes the before-image.
func beginWith(t *testing.T, f Fixture) *Trial {
	t.Helper()
	tr := NewTrial(t, f)
	if f.Spoil != nil {
		f.Spoil(t)
	}
	tr.Begin(t)
	return tr
}

func mustDo(t *testing.T, tr *Trial) {
	t.Helper()
	revive(t, tr.Fixture)
	if err := tr.Do(t.Context()); err != nil {
		t.Fatalf("Do: %v (hint: %s)", err, backstay.HintOf(err))
	}
}

func mustUndo(t *testing.T, tr *Trial) {
	t.Helper()
	revive(t, tr.Fixture)
	if err := tr.Undo(t, t.Context()); err != nil {
		t.Fatalf("Undo: %v (hint: %s)", err, backstay.HintOf(err))
	}
}

func revive(t *testing.T, f Fixture) {
	t.Helper()
	if f.Revive != nil {
		f.Revive(t)
	}
}

func noLeftovers(t *testing.T, f Fixture, after string) {
	t.Helper()
	if f.Leftovers == nil {
		return
	}
	if left := f.Leftovers(t); len(left) > 0 {
		t.Errorf("after %s there is left over: %v", after, left)
	}
}

// restored checks that the world is as before, by the fixture's own look and
// by the kind's.
func restored(t *testing.T, tr *Trial, before map[string]string, after string) {
	t.Helper()
	if diff := cmp.Diff(before, tr.Fixture.World(t)); diff != "" {
		t.Errorf("after %s the world differs (-before +now):\n%s", after, diff)
	}
	if tr.Step.Restorable {
		if diff := Differing(tr.Before, tr.Observe(t, false)); len(diff) > 0 {
			t.Errorf("after %s Observe still differs from the before-image in %v", after, diff)
		}
	}
	noLeftovers(t, tr.Fixture, after)
}

func wantReached(t *testing.T, tr *Trial) error {
	t.Helper()
	if len(tr.Step.Want) == 0 {
		return nil
	}
	now := tr.Observe(t, false)
	for key, want := range tr.Step.Want {
		if !want.Equal(now[key]) {
			return fmt.Errorf("%s after do:\nwanted %s\nis     %s", key, backstay.Canonical(want), backstay.Canonical(now[key]))
		}
	}
	return nil
}

// cuts calls body with contexts that end at the 1st, 2nd, 3rd … question until
// one is not reached, then with one per delay. Ended tells whether the context
// ended, without counting as a question.
func cuts(t *testing.T, s Suite, body func(t *testing.T, ctx context.Context, ended func() bool)) {
	t.Helper()
	for n := range s.MaxCuts {
		var reached bool
		passed := t.Run(fmt.Sprintf("at point %d", n), func(t *testing.T) {
			ctx := NewCut(t.Context(), n)
			defer ctx.Stop()
			defer func() { reached = ctx.WasCut() }()
			body(t, ctx, ctx.WasCut)
		})
		if !reached || !passed {
			break
		}
		if n == s.MaxCuts-1 {
			t.Logf("points beyond the first %d were not tried", s.MaxCuts)
		}
	}
	for _, delay := range s.CancelAfter {
		t.Run("after "+delay.String(), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), delay)
			defer cancel()
			body(t, ctx, func() bool { return ctx.Err() != nil })
		})
	}
}

func readable(image backstay.Image) bool {
	for _, state := range image {
		if state.Opaque || state.Unreadable != "" {
			return false
		}
	}
	return true
}

func errorAs[E error](err error) (E, bool) {
	var e E
	ok := errors.As(err, &e)
	return e, ok
}
