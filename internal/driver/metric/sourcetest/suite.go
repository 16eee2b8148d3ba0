// Package sourcetest is the conformance suite of sources. A source brings a world
// of its own, with two sides that serve what the suite tells them to, and must
// then tell exactly that: every request once, both sides or neither, nothing it
// does not know.
//
// It is for tests only.
package sourcetest

import (
	"errors"
	"testing"
	"time"

	"github.com/backstay-dev/backstay/internal/driver/metric/signal"
)

// World is a route "shop" with the sides blue (it runs) and green (the new one),
// and a source that watches them.
type World interface {
	Source() signal.Source
	// Ask is the question for a metric.
	Ask(metric signal.Metric) signal.Ask
	// Serve has a side serve so many requests, some of them badly.
	Serve(t *testing.T, side string, good, bad int)
	// Settle waits until everything served so far is final.
	Settle(t *testing.T)
	// Restart restarts what counts, where counters can be lost; false where they cannot.
	Restart(t *testing.T) bool
	// Break makes the source unreachable, for good.
	Break(t *testing.T)
	// Questions are a query with its answer (the failed share of what green
	// served), and one that has no answer.
	Questions() (known, unknown signal.Question)
}

// totals are what was told about both sides.
type totals struct {
	good, bad map[bool]uint64
	cursor    []byte
	fresh     time.Time
}

// read asks for everything new, and checks what holds for every batch.
func (s *totals) read(t *testing.T, w World) {
	t.Helper()
	ask := w.Ask(signal.Errors)
	ask.Cursor = s.cursor
	b, err := w.Source().Signals(t.Context(), ask)
	if err != nil {
		t.Fatalf("read signals: %v", err)
	}
	type slice struct {
		stratum    string
		start, end int64
	}
	sides := map[slice]int{}
	for _, x := range b.Signals {
		if !x.End.After(x.Start) || x.End.After(b.Fresh) {
			t.Errorf("slice %s to %s, told until %s", x.Start, x.End, b.Fresh)
		}
		if x.Unit == "" || x.Stratum == "" || x.Name != signal.Errors {
			t.Errorf("signal %+v has no name, unit or stratum", x)
		}
		sides[slice{x.Stratum, x.Start.UnixNano(), x.End.UnixNano()}]++
		s.good[x.Canary] += x.Good
		s.bad[x.Canary] += x.Bad
	}
	for k, n := range sides {
		if n != 2 {
			t.Errorf("slice %+v is told of %d sides, not of both", k, n)
		}
	}
	if b.Fresh.Before(s.fresh) {
		t.Errorf("told until %s, then until %s", s.fresh, b.Fresh)
	}
	s.cursor, s.fresh = b.Cursor, b.Fresh
}

func newTotals() *totals { return &totals{good: map[bool]uint64{}, bad: map[bool]uint64{}} }

// want compares with what was served: side by side, good and bad.
func (s *totals) want(t *testing.T, blueGood, blueBad, greenGood, greenBad uint64) {
	t.Helper()
	got := [4]uint64{s.good[false], s.bad[false], s.good[true], s.bad[true]}
	if want := [4]uint64{blueGood, blueBad, greenGood, greenBad}; got != want {
		t.Errorf("told of %v (blue good, bad; green good, bad), served %v", got, want)
	}
}

// Run runs the suite; each part in a world of its own.
func Run(t *testing.T, start func(t *testing.T) World) {
	t.Helper()
	t.Run("every request once", func(t *testing.T) {
		t.Parallel()
		w, s := start(t), newTotals()
		w.Serve(t, "blue", 40, 2)
		w.Serve(t, "green", 10, 3)
		w.Settle(t)
		s.read(t, w)
		s.want(t, 40, 2, 10, 3)
		s.read(t, w) // nothing is told twice
		s.want(t, 40, 2, 10, 3)
		w.Serve(t, "blue", 5, 0)
		w.Serve(t, "green", 0, 1)
		w.Settle(t)
		s.read(t, w)
		s.want(t, 45, 2, 10, 4)
		again := newTotals() // from the beginning it is the same
		again.read(t, w)
		again.want(t, 45, 2, 10, 4)
	})
	t.Run("counters that restart", func(t *testing.T) {
		t.Parallel()
		w, s := start(t), newTotals()
		w.Serve(t, "blue", 40, 2)
		w.Serve(t, "green", 10, 3)
		w.Settle(t)
		if !w.Restart(t) {
			t.Skip("this source has no counters")
		}
		w.Serve(t, "blue", 7, 1)
		w.Serve(t, "green", 3, 2)
		w.Settle(t)
		s.read(t, w)
		s.want(t, 47, 3, 13, 5)
	})
	t.Run("one number", func(t *testing.T) {
		t.Parallel()
		w := start(t)
		w.Serve(t, "green", 30, 10)
		w.Serve(t, "blue", 1, 0)
		w.Settle(t)
		known, unknown := w.Questions()
		r, err := w.Source().Read(t.Context(), known)
		if err != nil || r.Value < 0.2499 || r.Value > 0.2501 || r.At.IsZero() {
			t.Errorf("read %+v, %v; want 0.25", r, err)
		}
		r, err = w.Source().Read(t.Context(), unknown)
		var none *signal.NoData
		if !errors.As(err, &none) {
			t.Errorf("read %+v, %v; want no data", r, err)
		}
	})
	t.Run("a source that is gone", func(t *testing.T) {
		t.Parallel()
		w := start(t)
		w.Serve(t, "blue", 1, 0)
		w.Serve(t, "green", 1, 0)
		w.Settle(t)
		w.Break(t)
		known, _ := w.Questions()
		if r, err := w.Source().Read(t.Context(), known); err == nil {
			t.Errorf("read %+v from a source that is gone", r)
		}
		if b, err := w.Source().Signals(t.Context(), w.Ask(signal.Errors)); err == nil {
			t.Errorf("signals %+v from a source that is gone", b)
		}
	})
}
