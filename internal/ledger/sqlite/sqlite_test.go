package sqlite_test

import (
	"database/sql"
	"path/filepath"
	"testing"

	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/ledger/ledgertest"
	"github.com/backstay-dev/backstay/internal/ledger/sqlite"
)

func TestFile(t *testing.T) {
	t.Parallel()
	ledgertest.Suite{Fresh: func(t *testing.T) ledgertest.Harness {
		t.Helper()
		dir := t.TempDir()
		return ledgertest.Harness{
			Clock: ledgertest.NewClock(),
			Open: func(tb testing.TB, o ledger.Options) (*ledger.Store, error) {
				tb.Helper()
				return open(tb)(sqlite.Open(tb.Context(), dir, o))
			},
			Exec: func(tb testing.TB, statement string, args ...any) {
				tb.Helper()
				execute(tb, filepath.Join(dir, sqlite.File), statement, args...)
			},
		}
	}}.Run(t)
}

func TestMemory(t *testing.T) {
	t.Parallel()
	ledgertest.Suite{Fresh: func(t *testing.T) ledgertest.Harness {
		t.Helper()
		return ledgertest.Harness{
			Clock: ledgertest.NewClock(),
			Open: func(tb testing.TB, o ledger.Options) (*ledger.Store, error) {
				tb.Helper()
				return open(tb)(sqlite.OpenMemory(tb.Context(), o))
			},
		}
	}, Single: true}.Run(t)
}

// open closes the store with the test.
func open(tb testing.TB) func(*ledger.Store, error) (*ledger.Store, error) {
	tb.Helper()
	return func(s *ledger.Store, err error) (*ledger.Store, error) {
		if err == nil {
			tb.Cleanup(func() {
				if err := s.Close(); err != nil {
					tb.Errorf("close: %v", err)
				}
			})
		}
		return s, err
	}
}

// execute changes a ledger behind its back.
func execute(tb testing.TB, path, statement string, args ...any) {
	tb.Helper()
	db, err := sql.Open("sqlite", "file:"+path+"?_busy_timeout=5000")
	if err != nil {
		tb.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(tb.Context(), statement, args...); err != nil {
		tb.Fatalf("run %q: %v", statement, err)
	}
}
