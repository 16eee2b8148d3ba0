package postgres_test

import (
	"testing"

	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/ledger/ledgertest"
	"github.com/backstay-dev/backstay/internal/ledger/postgres"
	"github.com/backstay-dev/backstay/internal/parts"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	pg := parts.StartPostgres(t)
	ledgertest.Suite{Fresh: func(t *testing.T) ledgertest.Harness {
		t.Helper()
		dsn := pg.Database(t)
		return ledgertest.Harness{
			Open: func(t testing.TB, o ledger.Options) (*ledger.Store, error) {
				t.Helper()
				return open(t)(postgres.Open(t.Context(), dsn, o))
			},
			Exec: func(t testing.TB, statement string, args ...any) {
				t.Helper()
				pg.Exec(t, dsn, statement, args...)
			},
		}
	}, DatabaseClock: true}.Run(t)
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
