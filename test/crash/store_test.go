package crash_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"sync/atomic"
	"testing"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/driver"
	"github.com/ncruces/go-sqlite3/vfs"

	"github.com/backstay-dev/backstay/internal/ledger/sqlite"
)

// names makes the names under which disks are known to SQLite.
var names atomic.Int64

// on is the store's driver on a disk.
func on(t *testing.T, d *disk) sqlite.Driver {
	t.Helper()
	name := fmt.Sprintf("disk%d", names.Add(1))
	vfs.Register(name, d)
	t.Cleanup(func() { vfs.Unregister(name) })
	return sqlite.Driver{
		Open: func(dsn string) (*sql.DB, error) {
			translated, err := translate(dsn, name, d.synchronous)
			if err != nil {
				return nil, err
			}
			return driver.Open(translated)
		},
		Code: func(err error) (int, bool) {
			if code, ok := errors.AsType[sqlite3.ErrorCode](err); ok {
				return int(code), true
			}
			if e, ok := errors.AsType[*sqlite3.Error](err); ok {
				return int(e.Code()), true
			}
			return 0, false
		},
	}
}

// translate turns the settings of the store, in the form of the driver that
// ships, into pragmas: busy_timeout first, query_only last, as that one does. synchronous replaces the store's setting unless it is "".
func translate(dsn, name, synchronous string) (string, error) {
	u, err := url.Parse(dsn)
	if err != nil {
		return "", err
	}
	from, to := u.Query(), url.Values{"vfs": {name}}
	pragma := func(key, name string) {
		if v := from.Get(key); v != "" {
			to.Add("_pragma", name+"("+v+")")
		}
		from.Del(key)
	}
	pragma("_busy_timeout", "busy_timeout")
	to["_pragma"] = append(to["_pragma"], from["_pragma"]...)
	from.Del("_pragma")
	if synchronous != "" {
		from.Set("_synchronous", synchronous)
	}
	pragma("_journal_mode", "journal_mode")
	pragma("_synchronous", "synchronous")
	pragma("_query_only", "query_only")
	for _, as := range []string{"_txlock", "mode", "immutable"} {
		if v := from.Get(as); v != "" {
			to.Set(as, v)
		}
		from.Del(as)
	}
	for _, ours := range []string{"_defensive", "_dqs", "_error_rc"} { // they are about other things than the disk
		from.Del(ours)
	}
	if len(from) > 0 {
		return "", fmt.Errorf("the store asks for %v, which this test does not know", from)
	}
	u.RawQuery = to.Encode()
	return u.String(), nil
}

// TestSettings: what the store asks for is in force here too.
func TestSettings(t *testing.T) {
	t.Parallel()
	w := newWorkload(t)
	s, err := w.open(t, &disk{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var opened *sql.DB
	d := on(t, &disk{})
	inner := d.Open
	d.Open = func(dsn string) (*sql.DB, error) {
		db, err := inner(dsn)
		if opened == nil {
			opened = db
		}
		return db, err
	}
	again, err := sqlite.OpenOn(t.Context(), d, w.state, w.options())
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": "2", "fullfsync": "1", "busy_timeout": "5000"} {
		if got := ask(t.Context(), opened, "PRAGMA "+pragma); got != want {
			t.Errorf("%s: got %s, want %s", pragma, got, want)
		}
	}
}

func ask(ctx context.Context, db *sql.DB, query string) string {
	var got string
	if err := db.QueryRowContext(ctx, query).Scan(&got); err != nil {
		return err.Error()
	}
	return got
}
