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
			Open: func(t testing.TB, o ledger.Options) (*ledger.Store, error) {
				t.Helper()
				return open(t)(sqlite.Open(t.Context(), dir, o))
			},
			Exec: func(t testing.TB, statement string, args ...any) {
				t.Helper()
				execute(t, filepath.Join(dir, sqlite.File), statement, args...)
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
			Open: func(t testing.TB, o ledger.Options) (*ledger.Store, error) {
				t.Helper()
				return open(t)(sqlite.OpenMemory(t.Context(), o))
			},
		}
	}, Single: true}.Run(t)
}

// open closes the store with the test.
func open(t testing.TB) func(*ledger.Store, error) (*ledger.Store, error) {
	t.Helper()
	return func(s *ledger.Store, err error) (*ledger.Store, error) {
		if err == nil {
			t.Cleanup(func() {
				if err := s.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			})
		}
		return s, err
	}
}

// execute changes a ledger behind its back.
func execute(t testing.TB, path, statement string, args ...any) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path+"?_busy_timeout=5000")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), statement, args...); err != nil {
		t.Fatalf("run %q: %v", statement, err)
	}
}
