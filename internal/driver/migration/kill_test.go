package migration_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver"
	"github.com/backstay-dev/backstay/internal/driver/drivertest"
	"github.com/backstay-dev/backstay/internal/driver/migration"
	"github.com/backstay-dev/backstay/internal/driver/migration/backfill"
	"github.com/backstay-dev/backstay/internal/driver/migration/promote"
	"github.com/backstay-dev/backstay/internal/proc"
)

var manyFlag = flag.Bool("migration.many", false, "also fifty megabytes of inserts")

// killStride is how many messages lie between two kills; 1 is every message.
var killStride = flag.Int64("migration.stride", 47, "kill at every n-th message to the database")

// childVariable makes this test binary a process that does (or undoes) one step.
const childVariable = "MIGRATION_TEST_CHILD"

// errand is what such a process is told.
type errand struct {
	Undo    bool
	Call    backstay.Call
	URL     string
	Secrets secrets // instead of URL
	Content map[string][]byte
}

func TestMain(m *testing.M) {
	if code, supervised := proc.SupervisorMain(os.Args); supervised {
		os.Exit(code)
	}
	flag.Parse()
	if os.Getenv(childVariable) != "" {
		os.Exit(child())
	}
	code := m.Run()
	endServers()
	os.Exit(code)
}

func child() int {
	var e errand
	if err := json.NewDecoder(os.Stdin).Decode(&e); err != nil {
		return 3
	}
	blobs := drivertest.NewBlobs()
	for _, content := range e.Content {
		if _, _, err := blobs.Put(strings.NewReader(string(content))); err != nil {
			return 3
		}
	}
	if e.Secrets == nil {
		e.Secrets = secrets{"secret:env/DATABASE_URL": e.URL}
	}
	e.Call.Blobs, e.Call.Secrets = blobs, e.Secrets
	kinds := map[string]driver.Kind{"migrate": migration.New(), "backfill": backfill.New(), "promote": promote.New()}
	kind := kinds[e.Call.Step.Kind]
	act := kind.Do
	if e.Undo {
		act = kind.Undo
	}
	if _, err := act(context.Background(), e.Call); err != nil {
		_, _ = os.Stderr.WriteString(err.Error())
		return 2
	}
	return 0
}

// wire stands between a process and its database and counts what the process
// sends. At the n-th message it acts: before it is passed on, or after.
type wire struct {
	l      net.Listener
	to     string
	seen   atomic.Int64
	at     int64
	after  bool
	act    func(c net.Conn)
	closed sync.WaitGroup
}

func newWire(t *testing.T, to string, at int64, after bool, act func(net.Conn)) *wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{l: l, to: to, at: at, after: after, act: act}
	w.closed.Go(w.accept)
	t.Cleanup(func() { _ = l.Close(); w.closed.Wait() })
	return w
}

func (w *wire) accept() {
	for {
		c, err := w.l.Accept()
		if err != nil {
			return
		}
		s, err := net.Dial("tcp", w.to)
		if err != nil {
			_ = c.Close()
			continue
		}
		w.closed.Go(func() { _, _ = io.Copy(c, s); _ = c.Close() })
		w.closed.Go(func() { w.forward(c, s); _ = s.Close() })
	}
}

func (w *wire) forward(c, s net.Conn) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := c.Read(buffer)
		if n > 0 {
			hit := w.seen.Add(1) == w.at
			if hit && !w.after {
				w.act(c)
				return
			}
			if _, err := s.Write(buffer[:n]); err != nil {
				return
			}
			if hit {
				w.act(c)
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// through is the URL with the wire's address, and where the server really is.
func through(t *testing.T, address string, w func(server string) string) string {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	u.Host = w(u.Host)
	return u.String()
}

// A process that is killed before or after any message to the database, at do or
// at undo, leaves what the next one finishes or takes back; and so does a lost
// connection. A live writer's rows are all there.
func TestKilledAtEveryMessage(t *testing.T) {
	t.Parallel()
	for _, l := range labs() {
		if l.name == "sqlite" {
			continue // no messages: see the simulator of disks for its store
		}
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			place := l.shared(t)
			stride := max(*killStride, 1)
			kills := 0
			for _, undo := range []bool{false, true} {
				for n := 1 + rand.Int64N(stride); ; n += stride {
					if more := l.killedAt(t, place(t), undo, n, kills%2 == 1, kills%3 == 2); !more {
						break
					}
					kills++
				}
			}
			t.Logf("%d processes were cut off", kills)
			if kills < 2 {
				t.Errorf("only %d processes were cut off", kills)
			}
		})
	}
}

// killedAt plays one schedule; false once the act ends before its n-th message.
func (l lab) killedAt(t *testing.T, p place, undo bool, n int64, after, onlyCut bool) bool {
	t.Helper()
	l.before(t, p)
	f := p.fixture(l.shop(t), nil)
	tr := drivertest.NewTrial(t, f)
	tr.Begin(t)
	start := p.dump(t)
	if undo {
		if err := tr.Do(t.Context()); err != nil {
			t.Fatal(err)
		}
		tr.After = tr.Observe(t, false)
	}
	stop := p.writer(t)
	var cmd *exec.Cmd
	hit := make(chan struct{})
	u := through(t, p.url, func(server string) string {
		w := newWire(t, server, n, after, func(c net.Conn) {
			close(hit)
			if !onlyCut {
				_ = syscall.Kill(cmd.Process.Pid, syscall.SIGKILL)
			}
			_ = c.Close()
		})
		return w.l.Addr().String()
	})
	blobs, _ := f.Request.Blobs.(*drivertest.Blobs)
	call := tr.Call()
	call.Blobs, call.Secrets = nil, nil
	input, err := json.Marshal(errand{Undo: undo, Call: call, URL: u, Content: blobs.All()})
	if err != nil {
		t.Fatal(err)
	}
	cmd = exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"=1")
	cmd.Stdin = strings.NewReader(string(input))
	runErr := cmd.Run()
	select {
	case <-hit:
	default:
		if runErr != nil {
			t.Fatalf("message %d never came, and the process failed: %v", n, runErr)
		}
		stop()
		return false
	}
	recovered(t, tr, undo, n)
	want := stop()
	if rows := len(p.texts(t, "SELECT id FROM users WHERE id > 1000")); rows < want {
		t.Errorf("message %d (undo %v): %d of the writer's %d rows are there", n, undo, rows, want)
	}
	if diff := cmp.Diff(start, p.dump(t)); diff != "" {
		t.Errorf("message %d (undo %v, after %v): the schema is not as before (-before +after):\n%s", n, undo, after, diff)
	}
	return true
}

// recovered does what recovery does: reap, look, and finish by undoing.
func recovered(t *testing.T, tr *drivertest.Trial, undo bool, n int64) {
	t.Helper()
	if !undo {
		if err := migration.New().Reap(t.Context(), tr.Call()); err != nil {
			t.Fatal(err)
		}
		finding, err := migration.New().Probe(t.Context(), tr.Call())
		if err != nil || finding == backstay.Unknown {
			t.Fatalf("message %d: found %s, %v", n, finding, err)
		}
		// Half of the time it goes on instead, and then back.
		if n%2 == 0 {
			if err := tr.Do(t.Context()); err != nil {
				t.Fatalf("message %d: going on: %v", n, err)
			}
		}
	}
	if err := tr.Undo(t, t.Context()); err != nil {
		t.Fatalf("message %d (undo %v): %v", n, undo, err)
	}
	if !tr.Before.Equal(tr.Observe(t, false)) {
		t.Errorf("message %d (undo %v): the state is not as before", n, undo)
	}
}

// writer inserts rows until it is stopped, and gives how many were acknowledged.
func (p place) writer(t *testing.T) (stop func() int) {
	t.Helper()
	db := p.open(t)
	ctx, cancel := context.WithCancel(t.Context())
	var acknowledged int
	done := make(chan struct{})
	go func() {
		defer close(done)
		for id := 1001; ctx.Err() == nil; id++ {
			if _, err := db.ExecContext(ctx, "INSERT INTO users (id, mail) VALUES ("+strconv.Itoa(id)+", 'live@example.org')"); err == nil {
				acknowledged++
			} else if !errors.Is(err, context.Canceled) {
				select {
				case <-time.After(5 * time.Millisecond):
				case <-ctx.Done():
				}
			}
		}
	}()
	return sync.OnceValue(func() int {
		cancel()
		<-done
		_ = db.Close()
		return acknowledged
	})
}
