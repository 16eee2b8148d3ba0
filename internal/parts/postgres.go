package parts

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // database/sql driver "pgx"
)

// Postgres is a running PostgreSQL server of a test. Its durability settings
// are PostgreSQL's own: fsync is on. Methods are for one goroutine at a time.
type Postgres struct {
	as   *account
	bin  string
	dir  string
	port int
	cmd  *exec.Cmd
	done chan struct{} // closed when cmd ended
	made atomic.Int64
}

// StartPostgres starts a server in a directory of its own and stops it with
// the test. It skips the test unless BACKSTAY_REAL=1.
func StartPostgres(t testing.TB) *Postgres {
	t.Helper()
	Real(t)
	initdb, err := newest("/usr/lib/postgresql/*/bin/initdb", "/usr/local/pgsql/bin/initdb", "/opt/homebrew/opt/postgresql@*/bin/initdb")
	if err != nil {
		t.Fatalf("find PostgreSQL (apt install postgresql): %v", err)
	}
	as, err := accountFor("postgres")
	if err != nil {
		t.Fatalf("start PostgreSQL: %v", err)
	}
	p := &Postgres{as: as, bin: filepath.Dir(initdb), dir: as.directory(t, "pg")}
	args := []string{"-D", p.data(), "-U", "backstay", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"}
	if err := run(as.command(t.Context(), p.dir, initdb, args...)); err != nil {
		t.Fatalf("start PostgreSQL: %v", err)
	}
	if p.port, err = freePort(); err != nil {
		t.Fatalf("start PostgreSQL: %v", err)
	}
	t.Cleanup(func() { p.Kill(t) })
	p.Start(t)
	return p
}

func (p *Postgres) data() string { return filepath.Join(p.dir, "data") }

// DSN is the URL of the server's first database.
func (p *Postgres) DSN() string { return p.url("postgres") }

func (p *Postgres) url(database string) string {
	return fmt.Sprintf("postgres://backstay@127.0.0.1:%d/%s?sslmode=disable", p.port, database)
}

// Database makes an empty database and returns its URL.
func (p *Postgres) Database(t testing.TB) string {
	t.Helper()
	name := "test" + strconv.FormatInt(p.made.Add(1), 10)
	p.Exec(t, p.DSN(), "CREATE DATABASE "+name)
	return p.url(name)
}

// Exec runs a statement in a database of this server.
func (p *Postgres) Exec(t testing.TB, dsn, statement string, args ...any) {
	t.Helper()
	db, err := sql.Open("pgx", dsn)
	if err != nil {
		t.Fatalf("open %s: %v", dsn, err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), statement, args...); err != nil {
		t.Fatalf("run %q: %v", statement, err)
	}
}

// Start starts the server after Stop or Kill and waits until it answers.
func (p *Postgres) Start(t testing.TB) {
	t.Helper()
	if p.cmd != nil {
		t.Fatal("start PostgreSQL: it runs")
	}
	log, err := os.OpenFile(filepath.Join(p.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatalf("start PostgreSQL: %v", err)
	}
	defer log.Close()
	// The server outlives contexts: Stop and Kill end it, and the cleanup does.
	cmd := p.as.command(context.WithoutCancel(t.Context()), p.dir, filepath.Join(p.bin, "postgres"),
		"-D", p.data(), "-p", strconv.Itoa(p.port), "-h", "127.0.0.1", "-k", p.dir, "-c", "max_connections=200")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatalf("start PostgreSQL: %v", err)
	}
	done := make(chan struct{})
	p.cmd, p.done = cmd, done
	go func() {
		_ = cmd.Wait() // its end is the news; the log says why
		close(done)
	}()
	if err := until(t.Context(), 60*time.Second, p.answers); err != nil {
		t.Fatalf("start PostgreSQL: %v\n%s", err, p.log())
	}
}

func (p *Postgres) answers(ctx context.Context) error {
	select {
	case <-p.done:
		return errors.New("it ended")
	default:
	}
	db, err := sql.Open("pgx", p.DSN())
	if err != nil {
		return err
	}
	defer db.Close()
	return db.PingContext(ctx)
}

func (p *Postgres) log() string {
	text, err := os.ReadFile(filepath.Join(p.dir, "log"))
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// Stop ends the server as an operator's restart does: sessions are cut, what
// was committed is synced.
func (p *Postgres) Stop(t testing.TB) {
	t.Helper()
	if p.cmd == nil {
		return
	}
	if err := p.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatalf("stop PostgreSQL: %v", err)
	}
	select {
	case <-p.done:
	case <-time.After(30 * time.Second):
		t.Fatalf("stop PostgreSQL: it goes on\n%s", p.log())
	}
	p.cmd = nil
}

// Restart is Stop and Start.
func (p *Postgres) Restart(t testing.TB) {
	t.Helper()
	p.Stop(t)
	p.Start(t)
}

// Backup copies the running server's files, as of now.
func (p *Postgres) Backup(t testing.TB) Backup {
	t.Helper()
	b := Backup{dir: p.as.directory(t, "backup")}
	args := []string{"-D", b.data(), "-h", "127.0.0.1", "-p", strconv.Itoa(p.port), "-U", "backstay", "-X", "stream", "-c", "fast", "--no-sync"}
	if err := run(p.as.command(t.Context(), p.dir, filepath.Join(p.bin, "pg_basebackup"), args...)); err != nil {
		t.Fatalf("back up PostgreSQL: %v", err)
	}
	return b
}

// Backup is a copy of a server's files.
type Backup struct{ dir string }

func (b Backup) data() string { return filepath.Join(b.dir, "data") }

// Archive lets the server archive its log into a directory of its own, which it
// returns. The server restarts.
func (p *Postgres) Archive(t testing.TB) string {
	t.Helper()
	dir := p.as.directory(t, "archive")
	p.Exec(t, p.DSN(), "ALTER SYSTEM SET archive_mode = 'on'")
	p.Exec(t, p.DSN(), "ALTER SYSTEM SET archive_command = 'cp %p "+dir+"/%f'")
	p.Restart(t)
	return dir
}

// Second starts a second server from a backup, on a port of its own. signal is the
// file that says what it does first (recovery.signal, standby.signal); settings are
// lines of its configuration.
func (p *Postgres) Second(t testing.TB, b Backup, signal string, settings ...string) *Postgres {
	t.Helper()
	q := &Postgres{as: p.as, bin: p.bin, dir: b.dir}
	var err error
	if q.port, err = freePort(); err != nil {
		t.Fatalf("start PostgreSQL: %v", err)
	}
	config, err := os.OpenFile(filepath.Join(q.data(), "postgresql.auto.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = config.WriteString(strings.Join(settings, "\n") + "\n")
		err = errors.Join(err, config.Close())
	}
	if err == nil {
		err = run(p.as.command(t.Context(), q.dir, "touch", filepath.Join(q.data(), signal)))
	}
	if err != nil {
		t.Fatalf("start PostgreSQL: %v", err)
	}
	t.Cleanup(func() { q.Kill(t) }) // before the backup's directory is removed
	q.Start(t)
	return q
}

// Fail kills the server and starts the backup on its port. Promoted says how:
// as a standby that is promoted, on a new timeline, or as plain files.
func (p *Postgres) Fail(t testing.TB, to Backup, promoted bool) {
	t.Helper()
	p.Kill(t)
	p.dir = to.dir
	t.Cleanup(func() { p.Kill(t) }) // before the backup's directory is removed
	if !promoted {
		p.Start(t)
		return
	}
	signal := filepath.Join(p.data(), "standby.signal")
	if err := run(p.as.command(t.Context(), p.dir, "touch", signal)); err != nil {
		t.Fatalf("make PostgreSQL a standby: %v", err)
	}
	p.Start(t)
	p.Exec(t, p.DSN(), "SELECT pg_promote()")
}

// Kill ends the server and all its children with SIGKILL and waits until none
// is left. Nothing happens when it does not run.
func (p *Postgres) Kill(t testing.TB) {
	t.Helper()
	if p.cmd == nil {
		return
	}
	// The children lead process groups of their own (PostgreSQL calls setsid).
	pids := append(children(p.cmd.Process.Pid), p.cmd.Process.Pid)
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			t.Errorf("kill PostgreSQL: %v", err)
		}
	}
	<-p.done
	p.cmd = nil
	err := until(context.WithoutCancel(t.Context()), 30*time.Second, func(context.Context) error {
		for _, pid := range pids {
			if alive(pid) {
				return fmt.Errorf("process %d goes on", pid)
			}
		}
		return nil
	})
	if err != nil {
		t.Errorf("kill PostgreSQL: %v", err)
	}
}

// children lists the processes that a process started.
func children(parent int) []int {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil
	}
	var all []int
	for _, path := range stats {
		pid, ppid, _, ok := stat(path)
		if ok && ppid == parent {
			all = append(all, pid)
		}
	}
	return all
}

// alive reports whether a process is there and no zombie.
func alive(pid int) bool {
	_, _, state, ok := stat(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	return ok && state != "Z" && state != "X"
}

func stat(path string) (pid, ppid int, state string, ok bool) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, 0, "", false
	}
	// The name, in parentheses, may hold anything.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) < 2 {
		return 0, 0, "", false
	}
	pid, _ = strconv.Atoi(strings.Fields(string(text))[0])
	ppid, _ = strconv.Atoi(fields[1])
	return pid, ppid, fields[0], true
}
