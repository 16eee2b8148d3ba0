package disk_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/all"
	"github.com/backstay-dev/backstay/internal/engine"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/ledger/sqlite"
	reports "github.com/backstay-dev/backstay/internal/report"
)

// retrySpec has a step that works when it is tried again.
const retrySpec = `backstay: v1
release: clock
version: "%d"
steps:
  - file: {path: "${WORLD}/app.conf", content: "version = %d\n"}
  - name: again
    run: cd ${WORLD}; test -e tried || { touch tried; echo again; exit 75; }
    undo: rm -f ${WORLD}/tried
    idempotent: true
    retries: 2
`

// TestCivilTime: the host's zone changes to or from daylight-saving time, or a
// leap day begins or ends, during a bake, a hold and a retry; and the clock is
// set by ten years during a retry. Nothing ends early or late, entries are in
// UTC, and no duration of the report is negative.
func TestCivilTime(t *testing.T) {
	t.Parallel()
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Skipf("this host has no time zones: %v", err)
	}
	const year = 365 * 24 * time.Hour
	spring := time.Date(2027, 3, 28, 1, 0, 0, 0, time.UTC)  // 02:00 becomes 03:00
	autumn := time.Date(2026, 10, 25, 1, 0, 0, 0, time.UTC) // 03:00 becomes 02:00
	leapDay := time.Date(2028, 2, 29, 0, 0, 0, 0, berlin)
	leapEnd := time.Date(2028, 3, 1, 0, 0, 0, 0, berlin)
	for i, tt := range []struct {
		name  string
		turn  time.Time // comes when the point is reached
		jump  time.Duration
		point string // "": when the step says that it wants to be tried again
		spec  string
		want  backstay.State
	}{
		{"summer time begins in a bake", spring, 0, "bake.before", bakeSpec, backstay.Proven},
		{"summer time ends in a hold", autumn, 0, "outcome.after", holdSpec, backstay.RolledBack},
		{"ten years back in a retry", autumn, -10 * year, "", retrySpec, backstay.Proven},
		{"summer time ends in a bake", autumn, 0, "bake.before", bakeSpec, backstay.Proven},
		{"summer time begins in a hold", spring, 0, "outcome.after", holdSpec, backstay.RolledBack},
		{"ten years on in a retry", spring, 10 * year, "", retrySpec, backstay.Proven},
		{"a leap day begins in a bake", leapDay, 0, "bake.before", bakeSpec, backstay.Proven},
		{"a leap day ends in a bake", leapEnd, 0, "bake.before", bakeSpec, backstay.Proven},
		{"a leap day ends in a hold", leapEnd, 0, "outcome.after", holdSpec, backstay.RolledBack},
		{"a leap day ends in a retry", leapEnd, 0, "", retrySpec, backstay.Proven},
		{"summer time ends in a retry", autumn, 0, "", retrySpec, backstay.Proven},
	} {
		if !full() && i > 2 {
			continue
		}
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			world := filepath.Join(dir, "world")
			place{}.write(t, filepath.Join(world, "app.conf"), "version = 0\n")
			place{}.write(t, filepath.Join(dir, "backstay.yaml"), fmt.Sprintf(tt.spec, 1, 1))
			clock := &setClock{}
			clock.set(time.Until(tt.turn.Add(-time.Minute)))
			wall := func() time.Time { return clock.Wall().In(berlin) }
			store, err := sqlite.Open(t.Context(), filepath.Join(dir, "state"), ledger.Options{Version: "test", TTL: time.Second, Clock: clock})
			if err != nil {
				t.Fatal(err)
			}
			defer store.Close()
			kinds, err := all.New()
			if err != nil {
				t.Fatal(err)
			}
			var turned sync.Once
			reach := func(at string) {
				if at == tt.point { // 50ms before the turn, so that the wait lies across it
					turned.Do(func() { clock.set(time.Until(tt.turn.Add(tt.jump - 50*time.Millisecond))) })
				}
			}
			e, err := engine.New(store, kinds, engine.Options{
				DataDir: filepath.Join(dir, "data"), Actor: backstay.Actor{UID: os.Getuid(), Host: "here"}, Version: "test",
				Poll: 10 * time.Millisecond, Backoff: 10 * time.Millisecond, Now: wall,
				Failpoint: func(at, _ string) error { reach(at); return nil },
				Output:    func(_, _ string) { reach("") },
			})
			if err != nil {
				t.Fatal(err)
			}
			p, err := planOf(t.Context(), e, kinds, dir, world)
			if err != nil {
				t.Fatal(err)
			}
			id, err := uuid.NewV7()
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			s, err := e.Deploy(ctx, engine.Start{ID: id.String(), Plan: p})
			if err != nil || s.State != tt.want {
				t.Fatalf("%s, %v; want %s", s.State, err, tt.want)
			}
			turned.Do(func() { t.Error("the turn was not reached: the points have other names now") })
			told(t, store, id.String(), tt.spec == retrySpec)
		})
	}
}

// told reads what the ledger and the report say of a deployment.
func told(t *testing.T, store *ledger.Store, id string, retried bool) {
	t.Helper()
	entries, err := store.Entries(t.Context(), id, 0)
	if err != nil {
		t.Fatal(err)
	}
	tries := 0
	for _, entry := range entries {
		var outcome backstay.OutcomeBody
		if entry.Kind == backstay.EntryOutcome && entry.Decode(&outcome) == nil {
			tries = max(tries, outcome.Tries)
		}
		if line := string(backstay.Canonical(entry)); !strings.Contains(line, `Z"`) || strings.Contains(line, "+01:00") || strings.Contains(line, "+02:00") {
			t.Errorf("an entry that is not in UTC: %s", line)
		}
	}
	if retried && tries != 2 {
		t.Errorf("the step was tried %d times, want 2", tries)
	}
	r, err := reports.Timeline(t.Context(), store, id)
	if err != nil {
		t.Fatal(err)
	}
	times := r.Times
	for name, d := range map[string]*backstay.Duration{
		"total": times.Total, "detect": times.Detect, "contain": times.Contain, "undo": times.Undo,
		"exposed": times.Exposed, "waited": times.Waited, "unaccounted": times.Unaccounted,
	} {
		if d != nil && *d < 0 {
			t.Errorf("%s is %s", name, d.Std())
		}
	}
	for _, ev := range r.Events {
		if ev.After < 0 {
			t.Errorf("%q happened %s after the start", ev.Text, ev.After.Std())
		}
	}
}
