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
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	_ "github.com/go-sql-driver/mysql" // database/sql driver "mysql"
)

// MariaDB is a running MariaDB server of a test, with its own durability
// settings. Methods are for one goroutine at a time.
type MariaDB struct {
	as   *account
	bin  string
	dir  string
	port int
	cmd  *exec.Cmd
	done chan struct{} // closed when cmd ended
	made atomic.Int64
}

// StartMariaDB starts a server in a directory of its own and stops it with the
// test. It skips the test unless BACKSTAY_REAL=1.
func StartMariaDB(t testing.TB) *MariaDB {
	t.Helper()
	Real(t)
	install, err := newest("/usr/bin/mariadb-install-db", "/usr/local/bin/mariadb-install-db")
	if err != nil {
		t.Fatalf("find MariaDB (apt install mariadb-server): %v", err)
	}
	bin, err := newest("/usr/sbin/mariadbd", "/usr/local/bin/mariadbd")
	if err != nil {
		t.Fatalf("find MariaDB (apt install mariadb-server): %v", err)
	}
	as, err := accountFor("mysql")
	if err != nil {
		t.Fatalf("start MariaDB: %v", err)
	}
	m := &MariaDB{as: as, bin: bin, dir: as.directory(t, "mariadb")}
	cmd := as.command(t.Context(), m.dir, install, "--no-defaults", "--datadir="+m.data(), "--tmpdir="+m.dir, "--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve")
	if err := run(cmd); err != nil {
		t.Fatalf("start MariaDB: %v", err)
	}
	if m.port, err = freePort(); err != nil {
		t.Fatalf("start MariaDB: %v", err)
	}
	t.Cleanup(func() { m.Kill(t) })
	m.Start(t)
	return m
}

func (m *MariaDB) data() string { return filepath.Join(m.dir, "data") }

// URL is the server's address, with a database's name.
func (m *MariaDB) URL(database string) string {
	return fmt.Sprintf("mysql://root@127.0.0.1:%d/%s", m.port, database)
}

func (m *MariaDB) dsn(database string) string {
	return fmt.Sprintf("root@tcp(127.0.0.1:%d)/%s", m.port, database)
}

// DSN is what database/sql opens for a database's name.
func (m *MariaDB) DSN(database string) string { return m.dsn(database) }

// Database makes an empty database and returns its name.
func (m *MariaDB) Database(t testing.TB) string {
	t.Helper()
	name := "test" + strconv.FormatInt(m.made.Add(1), 10)
	db, err := sql.Open("mysql", m.dsn(""))
	if err != nil {
		t.Fatalf("open MariaDB: %v", err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), "CREATE DATABASE "+name); err != nil {
		t.Fatalf("make database: %v", err)
	}
	return name
}

// Start starts the server after Kill and waits until it answers.
func (m *MariaDB) Start(t testing.TB) {
	t.Helper()
	if m.cmd != nil {
		t.Fatal("start MariaDB: it runs")
	}
	log, err := os.OpenFile(filepath.Join(m.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatalf("start MariaDB: %v", err)
	}
	defer log.Close()
	// The server outlives contexts: Kill ends it, and the cleanup does.
	cmd := m.as.command(context.WithoutCancel(t.Context()), m.dir, m.bin, "--no-defaults", "--datadir="+m.data(), "--tmpdir="+m.dir, "--port="+strconv.Itoa(m.port),
		"--bind-address=127.0.0.1", "--socket="+filepath.Join(m.dir, "sock"), "--pid-file="+filepath.Join(m.dir, "pid"), "--skip-name-resolve", "--max-connections=500", "--innodb-buffer-pool-size=64M")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatalf("start MariaDB: %v", err)
	}
	done := make(chan struct{})
	m.cmd, m.done = cmd, done
	go func() {
		_ = cmd.Wait() // its end is the news; the log says why
		close(done)
	}()
	if err := until(t.Context(), 60*time.Second, m.answers); err != nil {
		text, _ := os.ReadFile(filepath.Join(m.dir, "log"))
		t.Fatalf("start MariaDB: %v\n%s", err, text)
	}
}

func (m *MariaDB) answers(ctx context.Context) error {
	select {
	case <-m.done:
		return errors.New("it ended")
	default:
	}
	db, err := sql.Open("mysql", m.dsn(""))
	if err != nil {
		return err
	}
	defer db.Close()
	return db.PingContext(ctx)
}

// Kill ends the server with SIGKILL. Nothing happens when it does not run.
func (m *MariaDB) Kill(t testing.TB) {
	t.Helper()
	if m.cmd == nil {
		return
	}
	if err := syscall.Kill(m.cmd.Process.Pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		t.Errorf("kill MariaDB: %v", err)
	}
	<-m.done
	m.cmd = nil
}
