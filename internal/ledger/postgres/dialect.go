package postgres

import (
	"database/sql"
	"database/sql/driver"
	_ "embed" // the schema
	"errors"
	"io"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/backstay-dev/backstay/internal/ledger"
)

//go:embed schema/0001_ledger.sql
var schema1 string

//go:embed schema/0002_flag.sql
var schema2 string

func dialect() ledger.Dialect {
	return ledger.Dialect{
		Name:   "postgres",
		Schema: []string{schema1, schema2},
		// One number for all ledgers: only the first start ever waits for it.
		Exclusive:  "SELECT pg_advisory_xact_lock(7223086912746578)",
		Now:        "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint",
		ForUpdate:  " FOR UPDATE",
		SkipLocked: " FOR UPDATE SKIP LOCKED",
		Together:   together,
		Classify:   classify,
	}
}

// classify maps SQLSTATE codes and errors of the connection. A canceled
// statement is Lost rather than Busy: a COMMIT that waited for a standby has
// happened on the primary when its wait is canceled.
func classify(err error) ledger.Fault {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch e.Code {
		case "40001", "40P01", "55P03", "53300": // serialization, deadlock, lock timeout, too many connections
			return ledger.Busy
		case "57014", "25006", "25P03": // canceled, read-only (a demoted primary), idle in transaction
			return ledger.Lost
		case "XX001", "XX002", "58030": // data or index corrupted, I/O error
			return ledger.Damaged
		}
		if strings.HasPrefix(e.Code, "08") || strings.HasPrefix(e.Code, "57P") {
			return ledger.Lost // connection; shutdown, crash, starting up
		}
		return ledger.Refused
	}
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return ledger.Lost
	}
	if _, ok := errors.AsType[net.Error](err); ok {
		return ledger.Lost
	}
	for _, lost := range []error{driver.ErrBadConn, sql.ErrConnDone, sql.ErrTxDone, io.EOF, io.ErrUnexpectedEOF, net.ErrClosed} {
		if errors.Is(err, lost) {
			return ledger.Lost
		}
	}
	if pgconn.SafeToRetry(err) || pgconn.Timeout(err) {
		return ledger.Lost
	}
	return ledger.Refused
}
