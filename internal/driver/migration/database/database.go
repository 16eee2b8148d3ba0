// Package database is what the migrations of all databases share: the small
// interface that each database fulfils, the tables of the migration tools, and
// Backstay's own rows in the target (fence, markers, kept values).
//
// It owns the SQL that is the same everywhere, written portably with ? for
// parameters. It promises that what it writes goes through the transaction or
// session that it is given and nothing else, and that no error repeats a URL.
package database

import (
	"context"
	"database/sql"
	"slices"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/migration/files"
	"github.com/backstay-dev/backstay/internal/driver/migration/sqltext"
)

// OwnPrefix begins the names of Backstay's own tables in a target. They belong
// to no schema that is dumped or compared.
const OwnPrefix = "backstay_"

// Querier is a session or a transaction.
type Querier interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

var (
	_ Querier = (*sql.Conn)(nil)
	_ Querier = (*sql.Tx)(nil)
)

// Identity names one database so that no other is taken for it.
type Identity struct {
	// System is the server's own identifier; for SQLite the file.
	System   string `json:"system"`
	Database string `json:"database,omitempty"`
	// Schema is where names without a schema live.
	Schema string `json:"schema,omitempty"`
	// Server is for people: version and address, which may change.
	Server string `json:"server,omitempty"`
}

// Same reports whether both are one database.
func (id Identity) Same(other Identity) bool {
	return id.System == other.System && id.Database == other.Database && id.Schema == other.Schema
}

// Schema is the canonical dump: object ("table public.users") to its text.
// Objects that are the same have the same text, whoever made them and when.
type Schema map[string]string

// Table is a table with its columns, for what rows could be lost.
type Table struct {
	// Name is quoted, ready for a statement.
	Name    string            `json:"name"`
	Columns map[string]Column `json:"columns"`
	// Key are the quoted columns of its primary key.
	Key []string `json:"key,omitempty"`
	// Indexes are the quoted names of its indexes.
	Indexes []string `json:"indexes,omitempty"`
}

// Has reports whether the table has a column.
func (t Table) Has(column string) bool {
	_, ok := t.Columns[column]
	return ok
}

// Column is one column of a table; its map key is the quoted name.
type Column struct {
	Type string `json:"type"`
	// Default is the expression; empty for NULL.
	Default string `json:"default,omitempty"`
	// Constant says that the default gives the same value each time.
	Constant bool `json:"constant,omitempty"`
	// Computed columns follow from others: nothing is lost with them.
	Computed bool `json:"computed,omitempty"`
}

// Tables is all tables by their quoted name.
type Tables map[string]Table

// Only is the table with these of its columns; all of them for none.
func (t Table) Only(columns []string) Table {
	if len(columns) == 0 {
		return t
	}
	out := t
	out.Columns = map[string]Column{}
	for _, name := range columns {
		if c, ok := t.Columns[name]; ok {
			out.Columns[name] = c
		}
	}
	return out
}

// HasIndex reports whether any table has the index.
func (t Tables) HasIndex(name string) bool {
	for _, table := range t {
		if slices.Contains(table.Indexes, name) {
			return true
		}
	}
	return false
}

// Limits are the timeouts of a session.
type Limits struct {
	Lock      time.Duration
	Statement time.Duration
}

// Trace is how far an interrupted statement came.
type Trace string

// The traces.
const (
	NotDone  Trace = "not done"
	Done     Trace = "done"
	HalfDone Trace = "half done"
	Unclear  Trace = "unclear"
)

// Dialect is one kind of database.
type Dialect interface {
	// Name is the database's name in specs and keys: "postgres", …
	Name() string
	// Open returns a pool for one URL. It connects to nothing yet.
	Open(url string, owner string) (*sql.DB, error)
	// Scratch makes an empty database beside the one of a URL, and says how to
	// remove it.
	Scratch(ctx context.Context, url string) (scratch string, remove func(context.Context) error, err error)
	// Parse cuts a script into statements and says what each does. known is what
	// earlier scripts of the same deployment created.
	Parse(script files.Script, known *Known) ([]sqltext.Statement, []sqltext.Problem)
	// Identity reads which database this is.
	Identity(ctx context.Context, q Querier) (Identity, error)
	// Schema dumps the schema; without Backstay's own tables.
	Schema(ctx context.Context, q Querier) (Schema, error)
	// Tables lists tables and columns.
	Tables(ctx context.Context, q Querier) (Tables, error)
	// Lock takes the lock that keeps other deployments out of this database, for
	// as long as the session lives or until unlock.
	Lock(ctx context.Context, c *sql.Conn, id Identity, owner string, wait time.Duration) (unlock func(), err error)
	// Reap ends the sessions that earlier processes of the owner left behind.
	Reap(ctx context.Context, c *sql.Conn, id Identity, owner string) error
	// Limit sets the timeouts of a session and takes back what a migration set.
	Limit(ctx context.Context, c *sql.Conn, limits Limits) error
	// Intact says whether a transaction is still the one that was begun.
	Intact(ctx context.Context, c *sql.Conn, q Querier) error
	// Transactional says that DDL can be rolled back.
	Transactional() bool
	// Exclude keeps everybody else from the tables until the transaction ends, or
	// until release is called where there is none.
	Exclude(ctx context.Context, q Querier, tables []string) (release func() error, err error)
	// Trace looks for what a statement that may have been cut off left. before is
	// the schema's digest when it began.
	Trace(ctx context.Context, q Querier, st sqltext.Statement, before string) (Trace, error)
	// Quote quotes one name; Bind rewrites ? to the database's parameters.
	Quote(name string) string
	Bind(query string) string
	// Values counts the rows of a table, or those that hold a value of their own in
	// a column (not NULL, not its constant default), with a digest that follows
	// from the values alone, whatever their order.
	Values(ctx context.Context, q Querier, t Table, column string) (rows int64, digest string, err error)
	// Classify gives an error its class and the words that may be shown.
	Classify(err error) error
	// Missing reports whether an error says that an object is not there.
	Missing(err error) bool
	// ToolTable are the statements by which a tool creates its version table.
	ToolTable(convention files.Convention, table string) []string
}

// Known is what earlier statements of one deployment created: nobody waits for
// locks on it, and nothing of it can be lost.
type Known struct {
	tables map[string]bool
}

// NewKnown returns an empty list.
func NewKnown() *Known { return &Known{tables: map[string]bool{}} }

// Created notes a new table.
func (k *Known) Created(table string) { k.tables[table] = true }

// New reports whether a table is new.
func (k *Known) New(table string) bool { return k.tables[table] }

// Names are the names that the plan shows for the databases.
func Names() []string { return []string{"postgres", "mysql", "sqlite"} }

// Digest names a schema: equal digests are equal schemas.
func (s Schema) Digest() string { return backstay.DigestJSON(s) }
