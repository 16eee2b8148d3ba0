package ledger

import (
	"context"
	"database/sql"
	"strings"
)

// Fault is what an error of the database means for the transaction it ended.
type Fault int

// The faults.
const (
	// Refused: the statement is wrong or breaks a constraint; the same again
	// gives the same.
	Refused Fault = iota
	// Busy: the transaction did not happen; trying again may succeed.
	Busy
	// Lost: the connection or the answer was lost; a COMMIT may have happened.
	Lost
	// Damaged: the disk or the file failed. Nothing is known about what is on
	// disk; this process must not write again.
	Damaged
)

// Dialect is what differs between databases. The SQL itself does not.
type Dialect struct {
	Name string
	// Schema holds the statements that lead from version i to version i+1,
	// separated by a semicolon at a line's end.
	Schema []string
	// Exclusive is run first in a transaction that changes the schema; "" where
	// beginning a write transaction excludes other writers already.
	Exclusive string
	// Now is an expression for the database's clock in microseconds. "" means
	// that the host's boot clock decides leases, which is right where all
	// writers share a host.
	Now string
	// ForUpdate locks the rows that a SELECT finds; SkipLocked also passes over
	// those that are locked. "" where a write transaction is alone.
	ForUpdate  string
	SkipLocked string
	// Together runs statements in their order in one round trip and stops at the
	// first that fails, or that returns no row where it must. Outside of a
	// transaction they are one, which is committed when it returns nil and did
	// not happen when a statement failed. nil: they are run one by one, which
	// costs nothing where there is no network.
	Together func(ctx context.Context, conn *sql.Conn, all []Statement) error
	// Embedded says that the database lives in this process: statements are
	// kept prepared, transactions are not bounded in time, every write passes
	// the committer.
	Embedded bool
	// Closing is run on the write connection before it is closed; "" is nothing.
	Closing string
	// Classify says what an error means.
	Classify func(error) Fault
}

// Statement is one of several that are run together.
type Statement struct {
	Query string
	Args  []any
	// Row is where the one row goes that it must return; nil: it returns none.
	Row []any
}

// Backend is an opened database with its dialect. Read may equal Write.
type Backend struct {
	Dialect
	Write, Read *sql.DB
	// Where names the store for people: a path or a URL without its password.
	Where string
	// ReadOnly refuses every write before it reaches the database.
	ReadOnly bool
	// Identity names the incarnation of the database: where it is not what the
	// ledger remembers, entries may have been lost. "" where nothing tells.
	Identity string
	// Warnings are what people should know about how the database is set up.
	Warnings []string
}

// SchemaVersion is the version of tables that this code reads and writes.
const SchemaVersion = 2

func statements(schema string) []string {
	var all []string
	for s := range strings.SplitSeq(schema, ";\n") {
		if s = strings.TrimSpace(s); s != "" {
			all = append(all, strings.TrimSuffix(s, ";"))
		}
	}
	return all
}
