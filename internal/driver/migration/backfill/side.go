package backfill

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/backstay-dev/backstay/internal/driver/migration/database"
)

// The names of the kind's own tables.
const (
	fillsTable = database.OwnPrefix + "backfill"
	sidePrefix = database.OwnPrefix + "fill_"
)

// fills are the rows that say who filled the columns, newest last.
type fills struct {
	d                          database.Dialect
	resource, deployment, step string
}

// fill is one of them.
type fill struct {
	deployment, step string
	state            database.State
	rows             int64
}

func newFills(d database.Dialect, b body, deployment, step string) fills {
	return fills{d: d, resource: short(string(keyOf(d.Name(), b))), deployment: deployment, step: step}
}

// short is a name for what names may be too long for.
func short(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(sum[:12])
}

func (f fills) ensure(ctx context.Context, q database.Querier) error {
	_, err := q.ExecContext(ctx, "CREATE TABLE IF NOT EXISTS "+fillsTable+" (resource VARCHAR(64) NOT NULL, deployment VARCHAR(128) NOT NULL, step VARCHAR(128) NOT NULL,"+
		" seq BIGINT NOT NULL, state VARCHAR(16) NOT NULL, filled BIGINT NOT NULL, at VARCHAR(40) NOT NULL, PRIMARY KEY (resource, deployment, step))")
	return f.fail("make Backstay's own tables", err)
}

func (f fills) fail(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, f.d.Classify(err))
}

// latest is the newest row; nil where nobody filled the columns.
func (f fills) latest(ctx context.Context, q database.Querier) (*fill, error) {
	return f.read(ctx, q, "SELECT deployment, step, state, filled FROM "+fillsTable+" WHERE resource = ? ORDER BY seq DESC LIMIT 1", f.resource)
}

// mine is this step's row.
func (f fills) mine(ctx context.Context, q database.Querier) (*fill, error) {
	return f.read(ctx, q, "SELECT deployment, step, state, filled FROM "+fillsTable+" WHERE resource = ? AND deployment = ? AND step = ?", f.resource, f.deployment, f.step)
}

func (f fills) read(ctx context.Context, q database.Querier, query string, args ...any) (*fill, error) {
	var one fill
	err := q.QueryRowContext(ctx, f.d.Bind(query), args...).Scan(&one.deployment, &one.step, &one.state, &one.rows)
	switch {
	case errors.Is(err, sql.ErrNoRows), f.d.Missing(err):
		return nil, nil //nolint:nilnil // there is none
	case err != nil:
		return nil, f.fail("read who filled", err)
	}
	return &one, nil
}

// begin notes that this step fills now. It does nothing where that is noted.
func (f fills) begin(ctx context.Context, q database.Querier) error {
	mine, err := f.mine(ctx, q)
	if err != nil || mine != nil {
		return err
	}
	var seq int64
	if err := q.QueryRowContext(ctx, f.d.Bind("SELECT COALESCE(MAX(seq), 0) + 1 FROM "+fillsTable+" WHERE resource = ?"), f.resource).Scan(&seq); err != nil {
		return f.fail("note who fills", err)
	}
	_, err = q.ExecContext(ctx, f.d.Bind("INSERT INTO "+fillsTable+" (resource, deployment, step, seq, state, filled, at) VALUES (?, ?, ?, ?, ?, 0, ?)"),
		f.resource, f.deployment, f.step, seq, string(database.Begun), time.Now().UTC().Format(time.RFC3339Nano))
	return f.fail("note who fills", err)
}

// end notes that this step is finished.
func (f fills) end(ctx context.Context, q database.Querier, rows int64) error {
	_, err := q.ExecContext(ctx, f.d.Bind("UPDATE "+fillsTable+" SET state = ?, filled = ? WHERE resource = ? AND deployment = ? AND step = ?"),
		string(database.Ended), rows, f.resource, f.deployment, f.step)
	return f.fail("note who filled", err)
}

func (f fills) forget(ctx context.Context, q database.Querier) error {
	_, err := q.ExecContext(ctx, f.d.Bind("DELETE FROM "+fillsTable+" WHERE resource = ? AND deployment = ? AND step = ?"), f.resource, f.deployment, f.step)
	return f.fail("note who filled", err)
}

// side writes the statements over the table and its side table, whose columns are
// pass, batch, k0… (the primary key), old0… and new0….
type side struct {
	body
	name string
	keys []string // of the table, quoted
	grammar
}

// grammar is what the databases say differently.
type grammar struct {
	// locked ends a SELECT that keeps writers from its rows.
	locked string
	// indexed says that CREATE TABLE … AS takes indexes.
	indexed bool
	// ordered lets a transaction go along the key: rows still to be filled look rare
	// to a planner, and it would read the whole table for each batch.
	ordered string
	// join updates the table from the side table.
	join func(table, side, on, set, where string) string
	// same compares two values, whatever their type, and NULL with NULL.
	same func(a, b string) string
}

func grammarOf(dialect string) grammar {
	from := func(table, side, on, set, where string) string {
		return "UPDATE " + table + " SET " + set + " FROM " + side + " s WHERE " + on + " AND " + where
	}
	switch dialect {
	case "mysql":
		return grammar{
			locked: " FOR UPDATE", indexed: true,
			join: func(table, side, on, set, where string) string {
				return "UPDATE " + table + " JOIN " + side + " s ON " + on + " SET " + set + " WHERE " + where
			},
			same: func(a, b string) string { return "BINARY " + a + " <=> BINARY " + b },
		}
	case "sqlite":
		return grammar{join: from, same: func(a, b string) string { return "quote(" + a + ") = quote(" + b + ")" }}
	}
	return grammar{
		locked: " FOR UPDATE", join: from,
		ordered: "SELECT set_config('enable_seqscan', 'off', true), set_config('enable_sort', 'off', true), set_config('enable_bitmapscan', 'off', true)",
		same:    func(a, b string) string { return "(" + a + ")::text IS NOT DISTINCT FROM (" + b + ")::text" },
	}
}

// newSide knows no keys yet.
func newSide(d database.Dialect, b body, deployment, step string) side {
	return side{body: b, name: sidePrefix + short(deployment, step), grammar: grammarOf(d.Name())}
}

// numbered is prefix0, prefix1, … of as many as there are, each after before.
func numbered(before, prefix string, n int) string {
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf("%s%s%d", before, prefix, i))
	}
	return strings.Join(all, ", ")
}

func (s side) key() string { return s.Table + "." + strings.Join(s.keys, ", "+s.Table+".") }

// condition is the user's; a comment in it ends with its line.
func (s side) condition() string { return "(" + s.Where + "\n)" }

// on ties a row to its note.
func (s side) on() string {
	var all []string
	for i, k := range s.keys {
		all = append(all, fmt.Sprintf("s.k%d = %s.%s", i, s.Table, k))
	}
	return strings.Join(all, " AND ")
}

// create makes the empty side table and its indexes.
func (s side) create() []string {
	columns := []string{"0 AS pass", "0 AS batch"}
	for i, k := range s.keys {
		columns = append(columns, fmt.Sprintf("%s AS k%d", k, i))
	}
	for i, c := range s.Columns {
		columns = append(columns, fmt.Sprintf("%s AS old%d, %s AS new%d", c, i, c, i))
	}
	key := numbered("", "k", len(s.keys))
	as := " AS SELECT " + strings.Join(columns, ", ") + " FROM " + s.Table + " WHERE 1 = 0"
	if s.indexed {
		return []string{"CREATE TABLE IF NOT EXISTS " + s.name + " (UNIQUE KEY (" + key + "), KEY (batch))" + as}
	}
	return []string{
		"CREATE TABLE IF NOT EXISTS " + s.name + as,
		"CREATE UNIQUE INDEX IF NOT EXISTS " + s.name + "_key ON " + s.name + " (" + key + ")",
		"CREATE INDEX IF NOT EXISTS " + s.name + "_batch ON " + s.name + " (batch)",
	}
}

// pick notes the next rows: behind the last key of the batch before, where this
// pass has one. What is behind all keys of the first pass has no note yet; a later
// pass looks for one.
func (s side) pick(pass, batch int64, first bool) string {
	more := ""
	if pass > 1 {
		more = fmt.Sprintf(" AND NOT EXISTS (SELECT 1 FROM %s s WHERE %s)", s.name, s.on())
	}
	if !first {
		order := strings.ReplaceAll(numbered("", "k", len(s.keys)), ",", " DESC,") + " DESC"
		more += fmt.Sprintf(" AND (%s) > (SELECT %s FROM %s s WHERE s.batch = %d ORDER BY %s LIMIT 1)", s.key(), numbered("s.", "k", len(s.keys)), s.name, batch-1, order)
	}
	var values []string
	for _, v := range s.Values {
		values = append(values, "("+v+"\n)")
	}
	return fmt.Sprintf("INSERT INTO %s (pass, batch, %s, %s, %s) SELECT %d, %d, %s, %s, %s FROM %s WHERE %s%s ORDER BY %s LIMIT %d%s",
		s.name, numbered("", "k", len(s.keys)), numbered("", "old", len(s.Columns)), numbered("", "new", len(s.Columns)),
		pass, batch, s.key(), s.Table+"."+strings.Join(s.Columns, ", "+s.Table+"."), strings.Join(values, ", "), s.Table, s.condition(), more, s.key(), s.Batch, s.locked)
}

// write gives the rows of a batch their new values; back the old ones, where
// they still hold the new.
func (s side) write(batch int64) string { return s.set("new", fmt.Sprintf("s.batch = %d", batch)) }

func (s side) back(batch int64) string {
	return s.set("old", fmt.Sprintf("s.batch = %d AND %s", batch, s.unchanged()))
}

func (s side) set(which, where string) string {
	var set []string
	for i, c := range s.Columns {
		set = append(set, fmt.Sprintf("%s = s.%s%d", c, which, i))
	}
	return s.join(s.Table, s.name, s.on(), strings.Join(set, ", "), where)
}

func (s side) unchanged() string {
	var all []string
	for i, c := range s.Columns {
		all = append(all, s.same(s.Table+"."+c, fmt.Sprintf("s.new%d", i)))
	}
	return strings.Join(all, " AND ")
}

// theirs counts the rows of a batch that others wrote since.
func (s side) theirs(batch int64) string {
	return fmt.Sprintf("SELECT count(*) FROM %s JOIN %s s ON %s WHERE s.batch = %d AND NOT (%s)", s.Table, s.name, s.on(), batch, s.unchanged())
}

// try reads nothing: it fails where the user's SQL does not fit the table.
func (s side) try() string {
	return "SELECT (" + strings.Join(s.Values, "\n), (") + "\n) FROM " + s.Table + " WHERE " + s.condition() + " AND 1 = 0"
}

// empty reads nothing: it fails where there is no side table.
func (s side) empty() string { return "SELECT 1 FROM " + s.name + " WHERE 1 = 0" }

// picked counts the rows of a batch that the condition would pick again. Names in
// the condition are the table's before they are the notes'.
func (s side) picked(batch int64) string {
	return fmt.Sprintf("SELECT count(*) FROM %s s WHERE s.batch = %d AND EXISTS (SELECT 1 FROM %s WHERE %s AND %s)", s.name, batch, s.Table, s.on(), s.condition())
}

// left counts the rows that are still to be filled.
func (s side) left() string {
	return fmt.Sprintf("SELECT count(*) FROM %s WHERE %s AND NOT EXISTS (SELECT 1 FROM %s s WHERE %s)", s.Table, s.condition(), s.name, s.on())
}
