package ledger

import (
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
	// WritingWith says that WITH may hold statements that write.
	WritingWith bool
	// Embedded says that the database lives in this process: statements are
	// kept prepared, transactions are not bounded in time, every write passes
	// the committer.
	Embedded bool
	// Closing is run on the write connection before it is closed; "" is nothing.
	Closing string
	// Classify says what an error means.
	Classify func(error) Fault
}

// Backend is an opened database with its dialect. Read may equal Write.
type Backend struct {
	Dialect
	Write, Read *sql.DB
	// Where names the store for people: a path or a URL without its password.
	Where string
	// ReadOnly refuses every write before it reaches the database.
	ReadOnly bool
	// Warnings are what people should know about how the database is set up.
	Warnings []string
}

// SchemaVersion is the version of tables that this code reads and writes.
const SchemaVersion = 1

func statements(schema string) []string {
	var all []string
	for s := range strings.SplitSeq(schema, ";\n") {
		if s = strings.TrimSpace(s); s != "" {
			all = append(all, strings.TrimSuffix(s, ";"))
		}
	}
	return all
}
