package migration_test

import (
	"context"
	"flag"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/drivertest"
	"github.com/backstay-dev/backstay/internal/driver/migration"
)

var serverKills = flag.Int("migration.kills", 0, "kill MariaDB so many times and PostgreSQL half as often, with eight migrations under way each time")

// inFlight is how many migrations a kill of the server meets, each in a database of
// its own.
const inFlight = 8

// A server that is killed in the middle of migrations and of their undos, at a
// message of one of them and wherever the others are, comes back with every row
// that it acknowledged; what each migration left is read, and finished or taken
// back, until the schema is what it was.
func TestKilledServer(t *testing.T) {
	t.Parallel()
	if *serverKills == 0 {
		t.Skip("it takes long; run with -migration.kills")
	}
	for _, l := range labs() {
		if l.name == "sqlite" {
			continue // it has no server
		}
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			make := l.start(t) // of its own: others would be killed too
			kills, cut := *serverKills, 0
			if l.name == "postgres" {
				kills = (kills + 1) / 2 // each makes eight databases, which is dear there
			}
			for round := range kills {
				undo := round%2 == 1
				// Messages of a migration are counted from its connection's first.
				cut += l.serverKilled(t, make, undo, int64(3+rand.IntN(60)), round%4 >= 2)
			}
			t.Logf("%d kills cut off %d migrations and undos", kills, cut)
			if cut == 0 {
				t.Error("no kill cut anything off")
			}
		})
	}
}

// serverKilled plays one kill and returns how many acts it cut off.
func (l lab) serverKilled(t *testing.T, make func(testing.TB) place, undo bool, n int64, after bool) int {
	t.Helper()
	var all [inFlight]*victim
	for i := range all {
		all[i] = l.victim(t, make(t), undo)
	}
	kill := sync.OnceFunc(func() { all[0].place.kill(t) })
	killed, watched := leadTo(t, all[0], n, after, kill)
	var acts sync.WaitGroup
	for i, v := range all {
		url := v.place.url
		if i == 0 {
			url = watched
		}
		acts.Go(func() {
			if i > 0 { // they are elsewhere when it happens
				time.Sleep(rand.N(40 * time.Millisecond)) //nolint:forbidigo // chance is what is wanted
			}
			v.err = v.act(t.Context(), url)
		})
	}
	acts.Wait()
	select {
	case <-killed:
	default:
		kill() // all were done before the message came: nothing was cut off
	}
	cut := 0
	for _, v := range all {
		if v.err != nil {
			cut++
		}
		v.recover(t)
	}
	return cut
}

// leadTo is the URL that leads the first victim to its server, and a channel that is
// closed when the server was killed and is back.
func leadTo(t *testing.T, v *victim, n int64, after bool, kill func()) (<-chan struct{}, string) {
	t.Helper()
	killed := make(chan struct{})
	first := sync.OnceFunc(func() { // of all connections
		kill()
		close(killed)
	})
	return killed, through(t, v.place.url, func(server string) string {
		return newWire(t, server, n, after, func(c net.Conn) {
			first()
			_ = c.Close()
		}).l.Addr().String()
	})
}

// victim is a migration in a database of its own, with a program that writes.
type victim struct {
	place place
	trial *drivertest.Trial
	start string // the schema
	undo  bool
	err   error // how the act that was cut off ended
	stop  func() int
}

func (l lab) victim(t *testing.T, p place, undo bool) *victim {
	t.Helper()
	l.before(t, p)
	v := &victim{place: p, trial: drivertest.NewTrial(t, p.fixture(l.shop(t), nil)), undo: undo}
	v.trial.Begin(t)
	v.start = p.dump(t)
	if undo {
		if err := v.trial.Do(t.Context()); err != nil {
			t.Fatal(err)
		}
		v.trial.After = v.trial.Observe(t, false)
	}
	v.stop = p.writer(t)
	return v
}

// act is the do, or the undo, through a URL.
func (v *victim) act(ctx context.Context, url string) error {
	call := v.trial.Call()
	call.Secrets = secrets{"secret:env/DATABASE_URL": url}
	act := migration.New().Do
	if v.undo {
		act = migration.New().Undo
	}
	_, err := act(ctx, call)
	return err //nolint:wrapcheck // it is what is looked at
}

// recover is what recovery does, and what must be true after it.
func (v *victim) recover(t *testing.T) {
	t.Helper()
	if !v.undo && v.err != nil {
		if err := migration.New().Reap(t.Context(), v.trial.Call()); err != nil {
			t.Fatal(err)
		}
		if finding, err := migration.New().Probe(t.Context(), v.trial.Call()); err != nil || finding == backstay.Unknown {
			t.Fatalf("found %s, %v", finding, err)
		}
	}
	if err := v.trial.Undo(t, t.Context()); err != nil {
		t.Fatalf("undo (again: %v): %v", v.undo, err)
	}
	acknowledged := v.stop()
	if rows := len(v.place.texts(t, "SELECT id FROM users WHERE id > 1000")); rows < acknowledged {
		t.Errorf("%d of the writer's %d rows are there", rows, acknowledged)
	}
	if diff := cmp.Diff(v.start, v.place.dump(t)); diff != "" {
		t.Errorf("undo %v, ended with %v: the schema is not as before (-before +after):\n%s", v.undo, v.err, diff)
	}
}
