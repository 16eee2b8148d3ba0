package ledger

import (
	"context"
	"database/sql"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// querier is what both a database and a transaction can do.
type querier interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

var (
	_ querier = (*sql.DB)(nil)
	_ querier = (*sql.Tx)(nil)
	_ querier = (*txn)(nil)
)

// kept holds the prepared statements of an embedded database's one write
// connection: parsing SQL would cost more than running it. Drivers of servers
// keep their own.
type kept struct {
	db  *sql.DB // nil: keep none
	mu  sync.Mutex
	all map[string]*sql.Stmt
}

func newKept(b Backend) *kept {
	k := &kept{all: map[string]*sql.Stmt{}}
	if b.Embedded {
		k.db = b.Write
	}
	return k
}

func (k *kept) get(query string) *sql.Stmt {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.all[query]
}

func (k *kept) put(query string, stmt *sql.Stmt) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.all[query] = stmt
}

func (k *kept) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, stmt := range k.all {
		_ = stmt.Close() // the connection goes next
	}
	clear(k.all)
}

// txn is a transaction that uses kept statements. Queries that it met for the
// first time are prepared after it ended (learn).
type txn struct {
	*sql.Tx
	conn     *sql.Conn // its connection, where statements are sent together
	together func(context.Context, *sql.Conn, []Statement) error
	kept     *kept
	new      []string
}

// transact begins a transaction; end must be called.
func (s *Store) transact(ctx context.Context) (*txn, error) {
	t := &txn{kept: s.kept, together: s.backend.Together}
	var err error
	if t.together == nil {
		t.Tx, err = s.backend.Write.BeginTx(ctx, nil)
		return t, err
	}
	if t.conn, err = s.backend.Write.Conn(ctx); err != nil {
		return nil, err
	}
	if t.Tx, err = t.conn.BeginTx(ctx, nil); err != nil {
		_ = t.conn.Close() // the error of its use is what counts
		return nil, err
	}
	return t, nil
}

// end takes the transaction back unless it was committed.
func (t *txn) end() {
	_ = t.Rollback() // of a committed one: says so
	if t.conn != nil {
		_ = t.conn.Close() // a broken one is not used again
	}
}

// each runs statements in their order, and none after one that fails.
func (t *txn) each(ctx context.Context, all []Statement) error {
	if t.together != nil && len(all) > 0 {
		return t.together(ctx, t.conn, all)
	}
	for _, s := range all {
		var err error
		if s.Row == nil {
			_, err = t.ExecContext(ctx, s.Query, s.Args...)
		} else {
			err = t.QueryRowContext(ctx, s.Query, s.Args...).Scan(s.Row...)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (t *txn) stmt(ctx context.Context, query string) *sql.Stmt {
	if t.kept.db == nil {
		return nil
	}
	if stmt := t.kept.get(query); stmt != nil {
		return t.StmtContext(ctx, stmt)
	}
	t.new = append(t.new, query)
	return nil
}

// ExecContext runs a statement.
func (t *txn) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	if stmt := t.stmt(ctx, query); stmt != nil { //nolint:sqlclosecheck // the transaction closes it
		return stmt.ExecContext(ctx, args...)
	}
	return t.Tx.ExecContext(ctx, query, args...)
}

// QueryContext runs a query.
func (t *txn) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	if stmt := t.stmt(ctx, query); stmt != nil { //nolint:sqlclosecheck // the transaction closes it
		return stmt.QueryContext(ctx, args...)
	}
	return t.Tx.QueryContext(ctx, query, args...)
}

// QueryRowContext runs a query of one row.
func (t *txn) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	if stmt := t.stmt(ctx, query); stmt != nil { //nolint:sqlclosecheck // the transaction closes it
		return stmt.QueryRowContext(ctx, args...)
	}
	return t.Tx.QueryRowContext(ctx, query, args...)
}

// learn prepares the queries that the transaction met for the first time. An
// error only means that the query is parsed again next time.
func (t *txn) learn(ctx context.Context) {
	for _, query := range t.new {
		if t.kept.get(query) != nil {
			continue
		}
		if stmt, err := t.kept.db.PrepareContext(ctx, query); err == nil {
			t.kept.put(query, stmt)
		}
	}
	t.new = nil
}

// mostRows is how many rows one statement inserts: it bounds the number of
// statement shapes that are kept prepared.
const mostRows = 32

// inserts are the statements that insert rows: as few as that allows.
func inserts(into string, rows [][]any) []Statement {
	var all []Statement
	for some := range slices.Chunk(rows, mostRows) {
		all = append(all, Statement{Query: into + " VALUES " + places(len(some), len(some[0])), Args: slices.Concat(some...)})
	}
	return all
}

// places is "($1, $2), ($3, $4)" for two rows of two columns.
func places(rows, columns int) string {
	var b strings.Builder
	for i := range rows * columns {
		switch {
		case i == 0:
			b.WriteString("(")
		case i%columns == 0:
			b.WriteString("), (")
		default:
			b.WriteString(", ")
		}
		b.WriteString("$" + strconv.Itoa(1+i))
	}
	return b.String() + ")"
}

// in is "($first, …)" for n values.
func in(first, n int) string {
	var b strings.Builder
	b.WriteString("(")
	for i := range n {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString("$" + strconv.Itoa(first+i))
	}
	return b.String() + ")"
}

// exec runs a statement and returns how many rows it changed.
func exec(ctx context.Context, q querier, query string, args ...any) (int64, error) {
	res, err := q.ExecContext(ctx, query, args...)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}
