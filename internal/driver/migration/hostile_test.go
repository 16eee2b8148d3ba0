package migration_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/drivertest"
	"github.com/backstay-dev/backstay/internal/driver/migration"
	"github.com/backstay-dev/backstay/internal/parts"
)

// A commit whose answer is lost is looked up, not repeated and not taken for a
// failure.
func TestLostCommit(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, l lab, p place) {
		t.Helper()
		if l.name == "sqlite" {
			t.Skip("it has no connection that could be lost")
		}
		l.before(t, p)
		tr := drivertest.NewTrial(t, p.fixture(l.shop(t), nil))
		tr.Begin(t)
		lost := 0
		call := tr.Call()
		call.Secrets = secrets{"secret:env/DATABASE_URL": through(t, p.url, func(server string) string {
			return commitLost(t, server, func() { lost++ })
		})}
		result, err := migration.New().Do(t.Context(), call)
		if backstay.ClassOf(err) == backstay.Transient && l.name == "mariadb" {
			// A step that goes statement by statement is taken up where its markers say.
			result, err = migration.New().Do(t.Context(), call)
		}
		if err != nil || lost == 0 {
			t.Fatalf("%d commits lost their answers, and it ended with %v", lost, err)
		}
		t.Log(result.Note)
		tr.After = tr.Observe(t, false)
		if got := listed(t, p); got != "0 1 2 3 4 " {
			t.Errorf("the tool's table lists %s", got)
		}
		if err := tr.Undo(t, t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

// commits is a message that commits, in either protocol.
var commits = regexp.MustCompile(`(?i)(^|[^a-z_])commit(\x00|;|$)`)

// commitLost is a way to a server on which the first commit of a connection that
// wrote anything is passed on, and its answer is not.
func commitLost(t *testing.T, server string, lost func()) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	var once sync.Once
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s, err := net.Dial("tcp", server)
			if err != nil {
				_ = c.Close()
				continue
			}
			var mu sync.Mutex // held while an answer must not pass
			all.Go(func() {
				buffer := make([]byte, 64<<10)
				for {
					n, err := s.Read(buffer)
					mu.Lock()
					_, failed := c.Write(buffer[:n])
					mu.Unlock()
					if err != nil || failed != nil {
						_ = c.Close()
						return
					}
				}
			})
			all.Go(func() {
				defer s.Close()
				buffer := make([]byte, 64<<10)
				for {
					n, err := c.Read(buffer)
					cut := false
					if n > 0 && commits.Match(buffer[:n]) {
						once.Do(func() { cut = true; lost(); mu.Lock() })
					}
					if n > 0 {
						_, _ = s.Write(buffer[:n])
					}
					if cut {
						time.Sleep(200 * time.Millisecond) //nolint:forbidigo // the server takes it meanwhile
						_ = c.Close()
						mu.Unlock()
					}
					if err != nil {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); all.Wait() })
	return l.Addr().String()
}

// A lock that somebody else holds ends the step in time, with nothing changed, and
// is worth another try.
func TestHeldLock(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, l lab, p place) {
		t.Helper()
		l.before(t, p)
		tr := drivertest.NewTrial(t, p.fixture(l.shop(t), map[string]any{"lock-timeout": "300ms"}))
		tr.Begin(t)
		start := p.world(t, "users")
		db := p.open(t)
		defer db.Close()
		other, err := db.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		hold := map[string][]string{
			"sqlite": {"BEGIN IMMEDIATE"}, "postgres": {"BEGIN", "LOCK TABLE users IN SHARE ROW EXCLUSIVE MODE"},
			"mariadb": {"START TRANSACTION", "UPDATE users SET mail = mail WHERE id = 1"},
		}[l.name]
		for _, s := range hold {
			if _, err := other.ExecContext(t.Context(), s); err != nil {
				t.Fatal(err)
			}
		}
		err = tr.Do(t.Context())
		if backstay.ClassOf(err) != backstay.Transient || !strings.Contains(strings.ToLower(err.Error()), "lock") {
			t.Fatalf("it ended with %s %v, want a transient error about a lock", backstay.ClassOf(err), err)
		}
		if _, err := other.ExecContext(t.Context(), "ROLLBACK"); err != nil {
			t.Fatal(err)
		}
		// What needs no lock may be done, where the database has no transaction over
		// it; recovery reads it, as after a crash.
		if err := tr.Undo(t, t.Context()); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(start, p.world(t, "users")); diff != "" {
			t.Errorf("it changed something (-before +after):\n%s", diff)
		}
		again := drivertest.NewTrial(t, p.fixture(l.shop(t), nil))
		again.Begin(t)
		if err := again.Do(t.Context()); err != nil {
			t.Errorf("after the lock was given up: %v", err)
		}
	})
}

// inserts is a script of n statements that each insert a hundred rows of a kilobyte.
func inserts(n int) string {
	var b strings.Builder
	b.WriteString("CREATE TABLE bulk (id int, text varchar(2000));\n")
	text := strings.Repeat("x", 1000)
	for i := range n {
		b.WriteString("INSERT INTO bulk (id, text) VALUES ")
		for j := range 100 {
			if j > 0 {
				b.WriteString(", ")
			}
			fmt.Fprintf(&b, "(%d, '%s')", 100*i+j, text)
		}
		b.WriteString(";\n")
	}
	return b.String()
}

// Fifty megabytes of inserts are applied and taken back.
func TestManyInserts(t *testing.T) {
	t.Parallel()
	if !*manyFlag {
		t.Skip("it takes long; run with -migration.many")
	}
	each(t, func(t *testing.T, l lab, p place) {
		t.Helper()
		const statements = 500
		empty := p.dump(t)
		began := time.Now()
		tr := drivertest.NewTrial(t, p.fixture(write(t, "1_bulk.sql", goose(inserts(statements), "DROP TABLE bulk;")), nil))
		planned := time.Since(began)
		tr.Begin(t)
		if err := tr.Do(t.Context()); err != nil {
			t.Fatal(err)
		}
		done := time.Since(began)
		tr.After = tr.Observe(t, false)
		if got := p.texts(t, "SELECT count(*) FROM bulk"); got[0] != fmt.Sprint(100*statements) {
			t.Errorf("%s rows are there", got[0])
		}
		if err := tr.Undo(t, t.Context()); err != nil {
			t.Fatal(err)
		}
		t.Logf("planned in %s, done in %s, undone in %s", planned, done-planned, time.Since(began)-done)
		if diff := cmp.Diff(empty, p.dump(t)); diff != "" {
			t.Errorf("after the undo (-before +after):\n%s", diff)
		}
	})
}

// A disk that fills up in the middle of a migration fails it, whatever becomes of the
// server; with room again, everything reads as before.
func TestFullDisk(t *testing.T) {
	parts.Real(t)
	for _, l := range labs() {
		t.Run(l.name, func(t *testing.T) {
			dir := small(t)
			t.Setenv("TMPDIR", dir)
			p := l.start(t)(t)
			l.before(t, p)
			ballast := filepath.Join(dir, "ballast")
			tr := drivertest.NewTrial(t, p.fixture(write(t, "00001_base.sql", goose(l.base(), "DROP TABLE users;"), "00002_bulk.sql", goose(inserts(150), "DROP TABLE bulk;")), nil))
			tr.Begin(t)
			start := p.world(t, "users")
			fill(t, ballast, dir, 8<<20)
			err := tr.Do(t.Context())
			if err == nil {
				t.Fatal("it fit, so nothing was tested")
			}
			t.Logf("%s: %v (hint: %s)", backstay.ClassOf(err), err, backstay.HintOf(err))
			if err := os.Remove(ballast); err != nil {
				t.Fatal(err)
			}
			if p.kill != nil {
				p.kill(t) // some servers end by themselves when they cannot write their log
			}
			if err := migration.New().Reap(t.Context(), tr.Call()); err != nil {
				t.Fatal(err)
			}
			if finding, err := migration.New().Probe(t.Context(), tr.Call()); err != nil || finding == backstay.Unknown {
				t.Fatalf("found %s, %v", finding, err)
			}
			if err := tr.Undo(t, t.Context()); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(start, p.world(t, "users")); diff != "" {
				t.Errorf("the state is not as before (-before +after):\n%s", diff)
			}
		})
	}
}

// small is a file system of its own, of 400 MB.
func small(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "full-") //nolint:usetesting // the server's account has to get in
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=400m,mode=1777"); err != nil {
		_ = os.Remove(dir)
		t.Skipf("a small file system cannot be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
		_ = os.Remove(dir)
	})
	return dir
}

// fill writes a file until so many bytes are left.
func fill(t *testing.T, path, dir string, left uint64) {
	t.Helper()
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		t.Fatal(err)
	}
	free := s.Bavail * uint64(s.Bsize)
	if free <= left {
		t.Fatalf("%d bytes are free before it began", free)
	}
	if err := os.WriteFile(path, make([]byte, free-left), 0o600); err != nil {
		t.Fatal(err)
	}
}
