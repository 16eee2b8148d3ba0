package sourcetest

import (
	"sync"
	"testing"
	"time"
)

// Tally is what the servers of a service's API in tests know: what both sides
// served and when, on a clock that moves when a test settles.
type Tally struct {
	// Slice and Settle are what the source was made with.
	Slice, Settle time.Duration

	mu     sync.Mutex
	now    time.Time
	events []event
}

type event struct {
	side      string
	at        int64 // milliseconds
	good, bad int
}

// NewTally starts the clock.
func NewTally(slice, settle time.Duration) *Tally {
	return &Tally{Slice: slice, Settle: settle, now: time.Date(2026, 1, 2, 3, 4, 0, 0, time.UTC)}
}

// Now is the clock.
func (l *Tally) Now() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.now
}

// Serve is World's.
func (l *Tally) Serve(_ *testing.T, side string, good, bad int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, event{side, l.now.UnixMilli(), good, bad})
}

// Settled moves the clock until what was served is final.
func (l *Tally) Settled(*testing.T) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now = l.now.Add(l.Slice + l.Settle)
}

// Count counts what a side served in [from, until), of all requests or of the bad
// ones; until 0 is now.
func (l *Tally) Count(side string, bad bool, from, until int64) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.events {
		if e.side != side || e.at < from || (until != 0 && e.at >= until) {
			continue
		}
		if n += e.bad; !bad {
			n += e.good
		}
	}
	return n
}
