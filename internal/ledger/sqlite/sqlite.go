// Package sqlite is the embedded store of the ledger: one file, nothing to
// install, the default. It owns the state directory, the file ledger.db in it,
// and how SQLite is opened.
//
// It promises: WAL with synchronous=FULL (a commit is on disk before it is
// acknowledged), one write connection, readers that never wait for a writer;
// the directory is created with mode 0700 and the file with 0600. Several
// processes of one host may open the same file: leases and epochs keep them
// apart. It refuses network file systems, where SQLite's locks do not hold, a
// newer schema, and a state directory that others can replace.
//
// It is not for several hosts: that is package postgres.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/durable"
	"github.com/backstay-dev/backstay/internal/ledger"
)

// File is the name of the ledger's file in the state directory.
const File = "ledger.db"

const (
	busyTimeout = 5 * time.Second // less than a lease
	readers     = 4
)

// Open opens the ledger in a state directory, and creates both where they are
// missing. Refusals before anything was touched are *backstay.RefusedError.
func Open(ctx context.Context, dir string, options ledger.Options) (*ledger.Store, error) {
	return openIn(ctx, shipped(), dir, options)
}

func openIn(ctx context.Context, driver Driver, dir string, options ledger.Options) (*ledger.Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open state directory %s: %w", dir, err)
	}
	if err := prepareDir(dir); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, File)
	id, err := expected(dir)
	if err != nil {
		return nil, err
	}
	if err := prepareFile(dir, path); err != nil {
		return nil, err
	}
	store, err := driver.openBusy(ctx, path, options)
	if err != nil {
		return nil, err
	}
	if err := identify(ctx, dir, id, store); err != nil {
		return nil, errors.Join(err, store.Close())
	}
	return store, nil
}

// openBusy opens a ledger that another process may be opening at this moment.
func (d Driver) openBusy(ctx context.Context, path string, options ledger.Options) (*ledger.Store, error) {
	// Two processes that open a new file at once may find it locked while the
	// other turns WAL on: SQLite does not wait there by itself.
	for deadline := time.Now().Add(busyTimeout); ; {
		store, err := d.open(ctx, path, options)
		if err == nil || d.classify(err) != ledger.Busy || time.Now().After(deadline) {
			return store, err
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (d Driver) open(ctx context.Context, path string, options ledger.Options) (*ledger.Store, error) {
	write, err := d.connect(path, 1, durably())
	if err != nil {
		return nil, err
	}
	read, err := d.connect(path, readers, url.Values{"_query_only": {"1"}})
	if err != nil {
		return nil, errors.Join(err, write.Close())
	}
	// The write connection comes first: it makes the file a WAL one.
	if err = write.PingContext(ctx); err == nil {
		var store *ledger.Store
		store, err = ledger.Open(ctx, ledger.Backend{Dialect: d.dialect(), Write: write, Read: read, Where: path}, options)
		if err == nil {
			return store, nil
		}
	}
	return nil, errors.Join(d.explain(path, err), read.Close(), write.Close())
}

// durably is how the write connection commits: what it answered is on disk.
func durably() url.Values {
	return url.Values{"_journal_mode": {"WAL"}, "_synchronous": {"FULL"}, "_txlock": {"immediate"}}
}

// explain says what to do about a file that is no ledger.
func (d Driver) explain(path string, err error) error {
	if d.classify(err) != ledger.Damaged || backstay.HintOf(err) != "" {
		return err
	}
	return &backstay.Error{
		Class: backstay.Permanent, Op: "open ledger", Subject: path, Err: err,
		Hint: "check the disk and its free space; if the file is damaged, restore it from a backup",
	}
}

// connect makes a pool with this many connections to a file.
func (d Driver) connect(path string, most int, params url.Values) (*sql.DB, error) {
	params.Set("_busy_timeout", fmt.Sprint(busyTimeout.Milliseconds()))
	params.Set("_defensive", "1")
	params.Set("_dqs", "0")
	params.Set("_error_rc", "1")
	params["_pragma"] = append(params["_pragma"],
		"fullfsync(1)", "checkpoint_fullfsync(1)", "cell_size_check(1)", "trusted_schema(0)", "journal_size_limit(67108864)")
	dsn := url.URL{Scheme: "file", Path: path, RawQuery: params.Encode()}
	db, err := d.Open(dsn.String())
	if err != nil {
		return nil, fmt.Errorf("open ledger %s: %w", path, err)
	}
	db.SetMaxOpenConns(most)
	db.SetMaxIdleConns(most)
	db.SetConnMaxLifetime(0)
	return db, nil
}

// OpenMemory opens an empty ledger in memory, for tests: the same code, on one
// connection, gone with Close.
func OpenMemory(ctx context.Context, options ledger.Options) (*ledger.Store, error) {
	d := shipped()
	db, err := d.connect("/memory", 1, url.Values{"mode": {"memory"}, "_txlock": {"immediate"}})
	if err != nil {
		return nil, err
	}
	store, err := ledger.Open(ctx, ledger.Backend{Dialect: d.dialect(), Write: db, Read: db, Where: "memory"}, options)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return store, nil
}

// OpenReadOnly opens a ledger for reading: path is its file, or the directory
// that holds it. Nothing is registered and no row is written. A copy of the
// file alone can be read, also in a directory that cannot be written.
func OpenReadOnly(ctx context.Context, path string, options ledger.Options) (*ledger.Store, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("open ledger %s: %w", path, err)
	}
	info, err := os.Stat(path)
	if err == nil && info.IsDir() {
		path = filepath.Join(path, File)
		info, err = os.Stat(path)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, &backstay.Error{
			Class: backstay.NotFound, Op: "open ledger", Subject: path, Err: ledger.ErrNotFound,
			Hint: "name the state directory with --state",
		}
	case err != nil:
		return nil, &backstay.Error{Class: backstay.Permanent, Op: "open ledger", Err: err, Hint: "ask its owner to let you read it"}
	case !info.Mode().IsRegular():
		return nil, &backstay.RefusedError{What: "state", Err: fmt.Errorf("%s is no regular file", path)}
	}
	params := url.Values{"mode": {"ro"}, "_query_only": {"1"}}
	if lone(path) {
		// Without a log beside it the file is all there is, and SQLite need not
		// create one, which it could not in a directory that is not ours.
		params.Set("immutable", "1")
	}
	d := shipped()
	db, err := d.connect(path, readers, params)
	if err != nil {
		return nil, err
	}
	backend := ledger.Backend{Dialect: d.dialect(), Write: db, Read: db, Where: path, ReadOnly: true}
	store, err := ledger.Open(ctx, backend, options)
	if err != nil {
		if err = d.explain(path, err); backstay.HintOf(err) == "" && !isRefused(err) {
			err = &backstay.Error{
				Class: backstay.Permanent, Op: "open ledger", Subject: path, Err: err,
				Hint: "if it is a copy, copy ledger.db-wal with it",
			}
		}
		return nil, errors.Join(err, db.Close())
	}
	return store, nil
}

func isRefused(err error) bool {
	_, ok := errors.AsType[*backstay.RefusedError](err)
	return ok
}

// lone reports whether no write-ahead log lies beside the file. One does while
// a process has the ledger open for writing, and after it was killed.
func lone(path string) bool {
	_, err := os.Lstat(path + "-wal")
	return errors.Is(err, fs.ErrNotExist)
}

// prepareFile creates the ledger's file with mode 0600 before SQLite opens it,
// which would use the umask, and refuses what is no regular file.
func prepareFile(dir, path string) error {
	info, err := os.Lstat(path)
	if err == nil {
		if !info.Mode().IsRegular() {
			return &backstay.RefusedError{What: "state", Err: fmt.Errorf("%s is no regular file", path), Hint: "move it away"}
		}
		if info.Mode().Perm()&0o077 != 0 {
			if err := os.Chmod(path, 0o600); err != nil {
				return unwritable(dir, err)
			}
		}
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return unwritable(dir, err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return unwritable(dir, err)
	}
	if err := f.Close(); err != nil {
		return unwritable(dir, err)
	}
	if err := durable.SyncDir(dir); err != nil {
		return unwritable(dir, err)
	}
	return nil
}
