// Package sqlite lets migrations act on a SQLite database: one file, through
// the same library that Backstay's own store uses.
//
// DDL is transactional: a migration and its marker commit together, and the
// write lock of that transaction keeps everybody else out. What cannot run in a
// transaction (VACUUM, PRAGMA foreign_keys) may be repeated.
package sqlite

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	sqlitelib "modernc.org/sqlite"
	codes "modernc.org/sqlite/lib"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/migration/database"
	"github.com/backstay-dev/backstay/internal/driver/migration/files"
	"github.com/backstay-dev/backstay/internal/driver/migration/sqltext"
)

// Dialect is SQLite. It has no state.
type Dialect struct{}

var _ database.Dialect = Dialect{}

// Name is "sqlite".
func (Dialect) Name() string { return "sqlite" }

// Open opens the database of sqlite:/path. The file must be there.
func (Dialect) Open(address, _ string) (*sql.DB, error) {
	path, err := Path(address)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(path); err != nil {
		return nil, &backstay.Error{
			Class: backstay.NotFound, Op: "open the database", Subject: path, Err: errors.Unwrap(err),
			Hint: "make it first: an empty file is an empty database",
		}
	}
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", OmitHost: true, Path: path, RawQuery: "mode=rw&_txlock=immediate&_pragma=busy_timeout(2000)"}).String())
	if err != nil {
		return nil, fmt.Errorf("open the database %s: %w", path, err)
	}
	return db, nil
}

// Path is the file of an address sqlite:/path (or sqlite:///path).
func Path(address string) (string, error) {
	path, ok := strings.CutPrefix(address, "sqlite:")
	if !ok {
		return "", errors.New("its address does not begin with sqlite and a colon")
	}
	if rest, slashes := strings.CutPrefix(path, "//"); slashes {
		path = rest
	}
	if !filepath.IsAbs(path) || strings.ContainsAny(path, "?#") {
		return "", errors.New("it is not sqlite: with an absolute path and nothing after it")
	}
	return filepath.Clean(path), nil
}

// Identity is the file: its path and which file that is.
func (Dialect) Identity(ctx context.Context, q database.Querier) (database.Identity, error) {
	var name, version string
	if err := q.QueryRowContext(ctx, "SELECT file, sqlite_version() FROM pragma_database_list WHERE name = 'main'").Scan(&name, &version); err != nil {
		return database.Identity{}, fmt.Errorf("identify the database: %w", classify(err))
	}
	path, err := filepath.EvalSymlinks(name)
	if err != nil {
		return database.Identity{}, fmt.Errorf("identify the database: %w", err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return database.Identity{}, fmt.Errorf("identify the database: %w", err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return database.Identity{}, errors.New("identify the database: this system does not number files")
	}
	return database.Identity{System: fmt.Sprintf("file %d", st.Ino), Database: path, Server: "SQLite " + version}, nil
}

// Schema is the text of sqlite_schema, without differences that no statement
// can see: blanks, comments, needless quotes.
func (Dialect) Schema(ctx context.Context, q database.Querier) (schema database.Schema, err error) {
	rows, err := q.QueryContext(ctx, "SELECT type, name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND tbl_name NOT LIKE 'backstay\\_%' ESCAPE '\\' AND sql IS NOT NULL")
	if err != nil {
		return nil, fmt.Errorf("read the schema: %w", classify(err))
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	schema = database.Schema{}
	for rows.Next() {
		var kind, name, text string
		if err := rows.Scan(&kind, &name, &text); err != nil {
			return nil, fmt.Errorf("read the schema: %w", err)
		}
		schema[kind+" "+name] = plain(text)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read the schema: %w", classify(err))
	}
	for _, pragma := range []string{"user_version", "application_id"} {
		var n int64
		if err := q.QueryRowContext(ctx, "PRAGMA "+pragma).Scan(&n); err != nil {
			return nil, fmt.Errorf("read the schema: %w", classify(err))
		}
		if n != 0 {
			schema["pragma "+pragma] = fmt.Sprint(n)
		}
	}
	return schema, nil
}

// plain writes a statement with one blank between tokens and names without
// needless quotes: ALTER TABLE edits the stored text.
func plain(text string) string {
	tokens := sqltext.Tokens(sqltext.SQLite(), text)
	words := make([]string, len(tokens))
	for i, t := range tokens {
		words[i] = t.Text
		if bare := t.Bare(); t.Kind == sqltext.Name && simple(bare) {
			words[i] = bare
		}
	}
	return strings.Join(words, " ")
}

func simple(name string) bool {
	return name != "" && strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789") == "" && (name[0] < '0' || name[0] > '9')
}

// Tables lists tables and columns.
func (d Dialect) Tables(ctx context.Context, q database.Querier) (tables database.Tables, err error) {
	rows, err := q.QueryContext(ctx, "SELECT m.name, p.name, p.type, coalesce(p.dflt_value, ''), p.pk, p.hidden FROM sqlite_schema m JOIN pragma_table_xinfo(m.name) p"+
		" WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND m.name NOT LIKE 'backstay\\_%' ESCAPE '\\' ORDER BY m.name, p.pk, p.cid")
	if err != nil {
		return nil, fmt.Errorf("list tables: %w", classify(err))
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	tables = database.Tables{}
	for rows.Next() {
		var table, column, kind, standard string
		var key, hidden int
		if err := rows.Scan(&table, &column, &kind, &standard, &key, &hidden); err != nil {
			return nil, fmt.Errorf("list tables: %w", err)
		}
		name := d.Quote(table)
		t, ok := tables[name]
		if !ok {
			t = database.Table{Name: name, Columns: map[string]database.Column{}}
		}
		if strings.EqualFold(standard, "NULL") {
			standard = ""
		}
		t.Columns[d.Quote(column)] = database.Column{
			Type: kind, Default: standard, Computed: hidden == 2 || hidden == 3,
			Constant: !strings.HasPrefix(strings.ToUpper(standard), "CURRENT_") && !strings.ContainsAny(standard, "("),
		}
		if key > 0 {
			t.Key = append(t.Key, d.Quote(column))
		}
		tables[name] = t
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list tables: %w", classify(err))
	}
	return tables, d.indexes(ctx, q, tables)
}

// indexes adds the names of indexes.
func (d Dialect) indexes(ctx context.Context, q database.Querier, tables database.Tables) (err error) {
	rows, err := q.QueryContext(ctx, "SELECT tbl_name, name FROM sqlite_schema WHERE type = 'index' ORDER BY 1, 2")
	if err != nil {
		return fmt.Errorf("list indexes: %w", classify(err))
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var table, index string
		if err := rows.Scan(&table, &index); err != nil {
			return fmt.Errorf("list indexes: %w", err)
		}
		if t, ok := tables[d.Quote(table)]; ok {
			t.Indexes = append(t.Indexes, d.Quote(index))
			tables[d.Quote(table)] = t
		}
	}
	return rows.Err() //nolint:wrapcheck // the caller has only this one error of it
}

// Values counts values and sums their hashes.
func (Dialect) Values(ctx context.Context, q database.Querier, t database.Table, column string) (n int64, digest string, err error) {
	expression, where := "", ""
	if column == "" && len(t.Columns) == 0 {
		expression = "'rows'"
	}
	if column != "" {
		expression, where = "quote("+column+")", " WHERE "+column+" IS NOT "+orNull(t.Columns[column])
	} else {
		for _, c := range sorted(t.Columns) {
			if expression != "" {
				expression += " || ',' || "
			}
			expression += "quote(" + c + ")"
		}
	}
	rows, err := q.QueryContext(ctx, "SELECT "+expression+" FROM "+t.Name+where)
	if err != nil {
		return 0, "", fmt.Errorf("count the values of %s: %w", t.Name, classify(err))
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	var sum [4]uint64
	for rows.Next() {
		var value string
		if err := rows.Scan(&value); err != nil {
			return 0, "", fmt.Errorf("count the values of %s: %w", t.Name, err)
		}
		n++
		h := sha256.Sum256([]byte(value))
		for i := range sum {
			sum[i] += binary.LittleEndian.Uint64(h[8*i:])
		}
	}
	if err := rows.Err(); err != nil {
		return 0, "", fmt.Errorf("count the values of %s: %w", t.Name, classify(err))
	}
	var text []byte
	for _, s := range sum {
		text = binary.LittleEndian.AppendUint64(text, s)
	}
	return n, hex.EncodeToString(text), nil
}

func orNull(c database.Column) string {
	if c.Default == "" || !c.Constant {
		return "NULL"
	}
	return c.Default
}

// Lock has nothing to take: every transaction is the only one that writes.
func (Dialect) Lock(context.Context, *sql.Conn, database.Identity, string, time.Duration) (func(), error) {
	return func() {}, nil
}

// Reap has nothing to end: the database lives in the process that uses it.
func (Dialect) Reap(context.Context, *sql.Conn, database.Identity, string) error { return nil }

// Limit sets how long a lock is waited for. A statement ends with its context.
func (Dialect) Limit(ctx context.Context, c *sql.Conn, limits database.Limits) error {
	for _, pragma := range []string{fmt.Sprintf("PRAGMA busy_timeout = %d", limits.Lock.Milliseconds()), "PRAGMA foreign_keys = OFF"} {
		if _, err := c.ExecContext(ctx, pragma); err != nil {
			return fmt.Errorf("set timeouts: %w", classify(err))
		}
	}
	return nil
}

// Intact is always so: Parse refuses what could end a transaction, and there is
// no code in the database that could.
func (Dialect) Intact(context.Context, *sql.Conn, database.Querier) error { return nil }

// Transactional is true.
func (Dialect) Transactional() bool { return true }

// Exclude has nothing to do: the transaction holds the write lock.
func (Dialect) Exclude(context.Context, database.Querier, []string) (func() error, error) {
	return func() error { return nil }, nil
}

// Trace is not asked for: what runs outside of a transaction here may be repeated.
func (Dialect) Trace(context.Context, database.Querier, sqltext.Statement, string) (database.Trace, error) {
	return database.NotDone, nil
}

// Quote quotes a name.
func (Dialect) Quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// Bind changes nothing.
func (Dialect) Bind(query string) string { return query }

// Classify gives an error its class.
func (Dialect) Classify(err error) error { return classify(err) }

func classify(err error) error {
	var e *sqlitelib.Error
	if errors.As(err, &e) {
		switch e.Code() & 0xff {
		case codes.SQLITE_BUSY, codes.SQLITE_LOCKED:
			return &backstay.Error{Class: backstay.Transient, Err: err, Hint: "somebody else writes; a longer lock-timeout waits longer"}
		}
	}
	return err
}

// Missing reports "no such …".
func (Dialect) Missing(err error) bool {
	var e *sqlitelib.Error
	return errors.As(err, &e) && strings.Contains(e.Error(), "no such ")
}

// ToolTable is the tools' own text.
func (Dialect) ToolTable(c files.Convention, table string) []string {
	switch c {
	case files.Goose:
		return []string{"CREATE TABLE " + table + " (id INTEGER PRIMARY KEY AUTOINCREMENT, version_id INTEGER NOT NULL, is_applied INTEGER NOT NULL, tstamp TIMESTAMP DEFAULT (datetime('now')))"}
	case files.GolangMigrate:
		return []string{
			"CREATE TABLE " + table + " (version uint64,dirty bool)",
			"CREATE UNIQUE INDEX version_unique ON " + table + " (version)",
		}
	case files.Flyway:
		return []string{
			"CREATE TABLE " + table + ` ("installed_rank" INT NOT NULL PRIMARY KEY, "version" VARCHAR(50), "description" VARCHAR(200) NOT NULL, "type" VARCHAR(20) NOT NULL, "script" VARCHAR(1000) NOT NULL,` +
				` "checksum" INT, "installed_by" VARCHAR(100) NOT NULL, "installed_on" TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f','now')), "execution_time" INT NOT NULL, "success" BOOLEAN NOT NULL)`,
			`CREATE INDEX "flyway_schema_history_s_idx" ON ` + table + ` ("success")`,
		}
	case files.Dbmate:
		return []string{"CREATE TABLE " + table + " (version varchar(128) primary key)"}
	}
	return nil
}
