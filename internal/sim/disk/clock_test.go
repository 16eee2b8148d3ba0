package disk_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/all"
	"github.com/backstay-dev/backstay/internal/engine"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/ledger/sqlite"
)

// setClock is a host clock whose wall time somebody sets.
type setClock struct{ off atomic.Int64 }

func (c *setClock) set(off time.Duration) { c.off.Store(int64(off)) }
func (c *setClock) Wall() time.Time       { return time.Now().Add(time.Duration(c.off.Load())) }
func (c *setClock) BootID() string        { return "this-boot" }
func (c *setClock) Boot() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(err)
	}
	return time.Duration(ts.Nano())
}

const bakeSpec = `backstay: v1
release: clock
version: "%d"
steps:
  - file: {path: "${WORLD}/app.conf", content: "version = %d\n"}
  - name: slow
    run: sleep 0.3
    undo: "true"
verify:
  - run: "true"
bake: 700ms
`

const holdSpec = `backstay: v1
release: clock
version: "%d"
steps:
  - file: {path: "${WORLD}/app.conf", content: "version = %d\n"}
  - approve: {within: 700ms}
  - name: slow
    run: sleep 0.1
    undo: "true"
`

// TestWallClockJumps: the wall clock is set between deployments, and in the
// middle of one, by an hour back and by ten years either way. Leases live by the
// boot clock and do not care; entries stay in order; bakes and holds end.
func TestWallClockJumps(t *testing.T) {
	t.Parallel()
	const year = 365 * 24 * time.Hour
	dir := t.TempDir()
	world := filepath.Join(dir, "world")
	place{}.write(t, filepath.Join(world, "app.conf"), "version = 0\n")
	clock := &setClock{}
	store, err := sqlite.Open(t.Context(), filepath.Join(dir, "state"), ledger.Options{Version: "test", TTL: 600 * time.Millisecond, Clock: clock})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	var total int
	for i, tt := range []struct { //nolint:paralleltest // one ledger and one clock, set again and again
		name  string
		start time.Duration // the clock's error when the deployment begins
		jump  time.Duration // and from the middle of it on
		point string        // where the middle is
		spec  string
		want  backstay.State
	}{
		{"as it is", 0, 0, "", bakeSpec, backstay.Proven},
		{"an hour back before", -time.Hour, -time.Hour, "", bakeSpec, backstay.Proven},
		{"ten years on before", 10 * year, 10 * year, "", bakeSpec, backstay.Proven},
		{"ten years back before", -10 * year, -10 * year, "", bakeSpec, backstay.Proven},
		{"an hour back in a step", 0, -time.Hour, "do.before", bakeSpec, backstay.Proven},
		{"ten years on in a step", 0, 10 * year, "do.before", bakeSpec, backstay.Proven},
		{"ten years back in a step", 0, -10 * year, "do.before", bakeSpec, backstay.Proven},
		{"an hour back in the bake", 0, -time.Hour, "bake.before", bakeSpec, backstay.Proven},
		{"ten years back in the bake", 0, -10 * year, "bake.before", bakeSpec, backstay.Proven},
		{"ten years on in the bake", 0, 10 * year, "bake.before", bakeSpec, backstay.Proven},
		{"an hour back in a hold", 0, -time.Hour, "outcome.after", holdSpec, backstay.RolledBack},
		{"ten years back in a hold", 0, -10 * year, "outcome.after", holdSpec, backstay.RolledBack},
		{"ten years on in a hold", 0, 10 * year, "outcome.after", holdSpec, backstay.RolledBack},
	} {
		if !full() && i%3 != 1 {
			continue
		}
		t.Run(tt.name, func(t *testing.T) {
			clock.set(tt.start)
			place{}.write(t, filepath.Join(dir, "backstay.yaml"), fmt.Sprintf(tt.spec, i+1, i+1))
			kinds, err := all.New()
			if err != nil {
				t.Fatal(err)
			}
			e, err := engine.New(store, kinds, engine.Options{
				DataDir: filepath.Join(dir, "data"), Actor: backstay.Actor{UID: os.Getuid(), Host: "here"}, Version: "test",
				Poll: 10 * time.Millisecond, Now: clock.Wall,
				Failpoint: func(at, _ string) error {
					if at == tt.point {
						clock.set(tt.jump)
					}
					return nil
				},
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
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			began := time.Now()
			s, err := e.Deploy(ctx, engine.Start{ID: id.String(), Plan: p})
			if err != nil || s.State != tt.want {
				t.Fatalf("after %s: %s, %v; want %s", time.Since(began), s.State, err, tt.want)
			}
			if took := time.Since(began); tt.want == backstay.Proven && tt.jump <= tt.start && took < 700*time.Millisecond {
				t.Errorf("the bake of 700ms ended after %s", took)
			}
			entries, err := store.Entries(t.Context(), id.String(), 0)
			if err != nil {
				t.Fatal(err)
			}
			for n, entry := range entries {
				if entry.N != int64(n+1) {
					t.Errorf("entry %d has number %d", n+1, entry.N)
				}
			}
			deps, err := store.List(t.Context(), ledger.Filter{})
			if err != nil {
				t.Fatal(err)
			}
			if total++; len(deps) != total || deps[0].ID != id.String() {
				t.Errorf("the newest of %d deployments is %s, not this one", len(deps), deps[0].Name)
			}
		})
	}
}
