package sqlite

import (
	"database/sql/driver"
	_ "embed" // the schema
	"errors"

	sqlite3 "modernc.org/sqlite/lib"

	"github.com/backstay-dev/backstay/internal/ledger"
)

//go:embed schema/0001_ledger.sql
var schema1 string

//go:embed schema/0002_flag.sql
var schema2 string

func (d Driver) dialect() ledger.Dialect {
	return ledger.Dialect{
		Name: "sqlite", Schema: []string{schema1, schema2}, Embedded: true, Classify: d.classify,
		// Everything into the one file, even while others read it: what people
		// copy is the file.
		Closing: "PRAGMA wal_checkpoint(TRUNCATE)",
	}
}

// classify maps SQLite's result codes. A file that cannot be written (full,
// failing, damaged, suddenly read-only) is Damaged: after a failed sync the
// kernel has dropped what it could not write, and a retry would look like a
// success.
func (d Driver) classify(err error) ledger.Fault {
	if errors.Is(err, driver.ErrBadConn) {
		return ledger.Lost
	}
	code, ok := d.Code(err)
	if !ok {
		return ledger.Refused
	}
	switch code & 0xff {
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL:
		return ledger.Busy
	case sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_ABORT:
		return ledger.Lost
	case sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB,
		sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN:
		return ledger.Damaged
	}
	return ledger.Refused
}
