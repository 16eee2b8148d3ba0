package migration

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/migration/database"
	"github.com/backstay-dev/backstay/internal/driver/migration/files"
	"github.com/backstay-dev/backstay/internal/driver/migration/postgres"
)

// base is what migrations are verified on where that is the schema of the step's
// own database: its dump, and a sample of its rows.
type base struct {
	dialect string
	scratch *scratch // of a server's database
	schema  []string // statements that make a SQLite database's
	samples []sample
	skipped []string // tables whose rows could not be copied, with why
}

// sample are rows of one table: of PostgreSQL one JSON array, elsewhere values.
type sample struct {
	table   string // quoted
	columns []string
	json    string
	rows    [][]any
}

// newBase reads the step's database, and what of the files is pending there.
func newBase(ctx context.Context, p *preparer, rows int) (_ *base, pending []files.Migration, err error) {
	if err := p.lookUp(ctx); err != nil {
		return nil, nil, err
	}
	if err := p.refusal(); err != nil {
		return nil, nil, err
	}
	for _, m := range p.set.Migrations {
		if slices.ContainsFunc(p.body.Pending, func(c change) bool { return c.Version == m.Version }) {
			pending = append(pending, m)
		}
	}
	t, err := connect(ctx, p.req.Secrets, p.body.Address)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, t.close()) }()
	b := &base{dialect: t.d.Name()}
	if b.dialect == "sqlite" {
		b.schema, err = lines(ctx, t, "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND tbl_name NOT LIKE 'backstay\\_%' ESCAPE '\\'"+
			" ORDER BY CASE type WHEN 'table' THEN 0 WHEN 'index' THEN 1 WHEN 'view' THEN 2 ELSE 3 END, rowid")
	} else {
		b.scratch, err = newScratch(ctx, p.body, p.req.Secrets)
	}
	if err == nil && rows > 0 {
		err = b.sample(ctx, t, p.tables, p.body.Table, rows)
	}
	if err != nil {
		return nil, nil, errors.Join(err, b.remove(context.WithoutCancel(ctx)))
	}
	return b, pending, nil
}

// lines are the rows of a query of one column.
func lines(ctx context.Context, t *target, query string) (out []string, err error) {
	rows, err := t.conn.QueryContext(ctx, query)
	if err != nil {
		return nil, fmt.Errorf("read the schema: %w", t.d.Classify(err))
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			return nil, fmt.Errorf("read the schema: %w", err)
		}
		out = append(out, text)
	}
	return out, rows.Err()
}

// sample reads up to n rows of each table but the tool's.
func (b *base) sample(ctx context.Context, t *target, tables database.Tables, versions string, n int) error {
	for _, name := range slices.Sorted(maps.Keys(tables)) {
		if name == versions {
			continue
		}
		s := sample{table: name}
		for _, column := range slices.Sorted(maps.Keys(tables[name].Columns)) {
			if !tables[name].Columns[column].Computed {
				s.columns = append(s.columns, column)
			}
		}
		if len(s.columns) == 0 {
			continue
		}
		if err := s.read(ctx, t, b.dialect, n); err != nil {
			return fmt.Errorf("read rows of %s: %w", bare(name), t.d.Classify(err))
		}
		b.samples = append(b.samples, s)
	}
	return nil
}

func (s *sample) list() string { return strings.Join(s.columns, ", ") }

func (s *sample) selects(n int) string {
	return fmt.Sprintf("SELECT %s FROM %s LIMIT %d", s.list(), s.table, n)
}

func (s *sample) insert() string {
	return fmt.Sprintf("INSERT INTO %s (%s) VALUES (%s)", s.table, s.list(), strings.TrimSuffix(strings.Repeat("?, ", len(s.columns)), ", "))
}

func (s *sample) read(ctx context.Context, t *target, dialect string, n int) (err error) {
	if dialect == "postgres" {
		return t.conn.QueryRowContext(ctx, "SELECT coalesce(json_agg(x), '[]')::text FROM ("+s.selects(n)+") x").Scan(&s.json) //nolint:wrapcheck // the caller says what
	}
	rows, err := t.conn.QueryContext(ctx, s.selects(n))
	if err != nil {
		return err //nolint:wrapcheck // the caller says what
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		values, into := make([]any, len(s.columns)), make([]any, len(s.columns))
		for i := range values {
			into[i] = &values[i]
		}
		if err := rows.Scan(into...); err != nil {
			return err //nolint:wrapcheck // the caller says what
		}
		s.rows = append(s.rows, values)
	}
	return rows.Err() //nolint:wrapcheck // the caller says what
}

// fresh is a new database like the step's own.
func (b *base) fresh(ctx context.Context, d database.Dialect) (address string, remove func(context.Context) error, err error) {
	switch {
	case b.scratch == nil:
		return d.Scratch(ctx, "") //nolint:wrapcheck // says what it did
	case b.scratch.template != "":
		return postgres.Dialect{}.Copy(ctx, b.scratch.url, b.scratch.template) //nolint:wrapcheck // says what it did
	}
	return b.scratch.loaded(ctx)
}

// fill brings schema and rows into a fresh database. Rows that refer to rows which
// were not sampled may not be taken: the table is left empty then.
func (b *base) fill(ctx context.Context, t *target) error {
	tables, others := b.schema, []string{}
	if i := slices.IndexFunc(b.schema, func(s string) bool { return !strings.HasPrefix(strings.ToUpper(s), "CREATE TABLE") }); i >= 0 {
		tables, others = b.schema[:i], b.schema[i:] // triggers come after the rows
	}
	if err := run1(ctx, t, tables); err != nil {
		return err
	}
	// Where the user may, nothing refers to anything for a while.
	free := map[string]string{"postgres": "SET session_replication_role = replica", "mysql": "SET foreign_key_checks = 0"}[b.dialect]
	if free != "" {
		_, _ = t.conn.ExecContext(ctx, free)
	}
	b.skipped = nil
	for left := b.samples; len(left) > 0; {
		var refused []sample
		var why []string
		for _, s := range left {
			if err := s.write(ctx, t, b.dialect); err != nil {
				refused, why = append(refused, s), append(why, fmt.Sprintf("%s: %v", bare(s.table), t.d.Classify(err)))
			}
		}
		if len(refused) == len(left) { // what they refer to is not there
			b.skipped = why
			break
		}
		left = refused
	}
	if bound := map[string]string{"postgres": "SET session_replication_role = DEFAULT", "mysql": "SET foreign_key_checks = 1"}[b.dialect]; bound != "" {
		_, _ = t.conn.ExecContext(ctx, bound)
	}
	return run1(ctx, t, others)
}

func run1(ctx context.Context, t *target, statements []string) error {
	for _, s := range statements {
		if _, err := t.conn.ExecContext(ctx, s); err != nil {
			return fmt.Errorf("restore the schema: %w", t.d.Classify(err))
		}
	}
	return nil
}

// write writes all rows or none.
func (s *sample) write(ctx context.Context, t *target, dialect string) error {
	if dialect == "postgres" {
		_, err := t.conn.ExecContext(ctx, fmt.Sprintf("INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM json_populate_recordset(NULL::%s, $1::json)", s.table, s.list(), s.list(), s.table), s.json)
		if err == nil {
			err = s.advance(ctx, t)
		}
		return err //nolint:wrapcheck // the caller says what
	}
	tx, err := t.conn.BeginTx(ctx, nil)
	if err != nil {
		return err //nolint:wrapcheck // the caller says what
	}
	for _, row := range s.rows {
		if _, err := tx.ExecContext(ctx, s.insert(), row...); err != nil {
			_ = tx.Rollback() // the error says why
			return err        //nolint:wrapcheck // the caller says what
		}
	}
	return tx.Commit() //nolint:wrapcheck // the caller says what
}

// advance moves PostgreSQL's sequences behind the numbers that were copied.
func (s *sample) advance(ctx context.Context, t *target) error {
	for _, column := range s.columns {
		var sequence sql.NullString
		if err := t.conn.QueryRowContext(ctx, "SELECT pg_get_serial_sequence($1, $2)", s.table, bare(column)).Scan(&sequence); err != nil {
			return err //nolint:wrapcheck // the caller says what
		}
		if !sequence.Valid {
			continue
		}
		if _, err := t.conn.ExecContext(ctx, fmt.Sprintf("SELECT setval($1, max(%s)) FROM %s HAVING count(*) > 0", column, s.table), sequence.String); err != nil {
			return err //nolint:wrapcheck // the caller says what
		}
	}
	return nil
}

func (b *base) remove(ctx context.Context) error {
	if b == nil || b.scratch == nil {
		return nil
	}
	return b.scratch.Remove(ctx)
}

// contents are the rows of all tables: how many, and a digest of what they hold.
func contents(ctx context.Context, t *target) (map[string]string, error) {
	tables, err := t.d.Tables(ctx, t.conn)
	if err != nil {
		return nil, err //nolint:wrapcheck // says what it did
	}
	out := map[string]string{}
	for name, table := range tables {
		n, digest, err := t.d.Values(ctx, t.conn, table, "")
		if err != nil {
			return nil, err //nolint:wrapcheck // says what it did
		}
		out[name] = fmt.Sprintf("%s, contents %.12s", count(int(n), "row"), backstay.DigestJSON(digest))
	}
	return out, nil
}

// otherRows lists the tables whose rows are not as before.
func otherRows(before, after map[string]string) (all []string) {
	for _, name := range slices.Sorted(maps.Keys(before)) {
		if before[name] != after[name] {
			all = append(all, fmt.Sprintf("%s: %s; after up and down %s", bare(name), before[name], after[name]))
		}
	}
	return all
}
