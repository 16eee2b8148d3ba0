package sqlite

import (
	"context"
	"database/sql"
	"errors"

	modernc "modernc.org/sqlite"

	"github.com/backstay-dev/backstay/internal/ledger"
)

// Driver is how the store reaches SQLite. The program has one; the tests of
// crash images put another one, whose file system they record, below the same
// store.
type Driver struct {
	// Open opens a pool for a data source name in the form of modernc.org/sqlite.
	Open func(dsn string) (*sql.DB, error)
	// Code is SQLite's result code in an error of this driver.
	Code func(error) (code int, ok bool)
}

// shipped is the driver in the program.
func shipped() Driver {
	return Driver{
		Open: func(dsn string) (*sql.DB, error) { return sql.Open("sqlite", dsn) },
		Code: func(err error) (int, bool) {
			e, ok := errors.AsType[*modernc.Error](err)
			if !ok {
				return 0, false
			}
			return e.Code(), true
		},
	}
}

// OpenOn is Open on another driver, for tests.
func OpenOn(ctx context.Context, driver Driver, dir string, options ledger.Options) (*ledger.Store, error) {
	return openIn(ctx, driver, dir, options)
}
