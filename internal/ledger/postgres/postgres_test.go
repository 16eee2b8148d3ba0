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
			Open: func(tb testing.TB, o ledger.Options) (*ledger.Store, error) {
				tb.Helper()
				return open(tb)(postgres.Open(tb.Context(), dsn, o))
			},
			Exec: func(tb testing.TB, statement string, args ...any) {
				tb.Helper()
				pg.Exec(tb, dsn, statement, args...)
			},
		}
	}, DatabaseClock: true}.Run(t)
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
