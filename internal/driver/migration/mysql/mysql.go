// Package mysql lets migrations act on MariaDB (10.6 and later) and MySQL (8).
//
// DDL commits by itself there: no migration is one transaction. Each statement
// has a marker before and after it, and after a crash the schema tells whether
// it happened: single DDL statements are atomic in these versions. What changes
// rows commits together with its marker.
package mysql

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	driver "github.com/go-sql-driver/mysql"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/migration/database"
	"github.com/backstay-dev/backstay/internal/driver/migration/files"
	"github.com/backstay-dev/backstay/internal/driver/migration/sqltext"
)

// Dialect is MariaDB and MySQL. It has no state.
type Dialect struct{}

var _ database.Dialect = Dialect{}

// Name is "mysql".
func (Dialect) Name() string { return "mysql" }

// Open returns a pool for mysql://user:password@host:port/database, or what the
// Go driver itself reads.
func (Dialect) Open(address, _ string) (*sql.DB, error) {
	cfg, err := config(address)
	if err != nil {
		return nil, err
	}
	connector, err := driver.NewConnector(cfg)
	if err != nil {
		return nil, errors.New("its options are not known to the driver")
	}
	return sql.OpenDB(connector), nil
}

// Identity is the server's identifier, where its files are, and the database.
func (Dialect) Identity(ctx context.Context, q database.Querier) (database.Identity, error) {
	var id database.Identity
	var name *string
	var host, port, version, dir string
	if err := q.QueryRowContext(ctx, "SELECT DATABASE(), @@hostname, @@port, @@version, @@datadir").Scan(&name, &host, &port, &version, &dir); err != nil {
		return id, fmt.Errorf("identify the database: %w", classify(err))
	}
	if name == nil {
		return id, errors.New("identify the database: the URL names no database")
	}
	// MySQL numbers its servers by a file in their directory, MariaDB (from 10.11)
	// by host and port.
	id.System = host + ":" + port
	for _, variable := range []string{"@@server_uuid", "@@server_uid"} {
		var text string
		if err := q.QueryRowContext(ctx, "SELECT "+variable).Scan(&text); err == nil {
			id.System = text
			break
		}
	}
	id.System += " " + strings.TrimSuffix(dir, "/")
	id.Database, id.Server = *name, version+" at "+host+":"+port
	return id, nil
}

// lockName is of the database, or of the owner in it whose sessions Reap ends.
// Names of locks are the server's, and short.
func lockName(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return "backstay/" + parts[0] + "/" + hex.EncodeToString(sum[:16])
}

// Lock takes a named lock for as long as the session lives, and one that tells
// whose session it is.
func (Dialect) Lock(ctx context.Context, c *sql.Conn, id database.Identity, owner string, wait time.Duration) (func(), error) {
	names := []string{lockName("database", id.Database)}
	if owner != "" {
		names = append(names, lockName("owner", id.Database, owner))
	}
	for _, name := range names {
		var got sql.NullInt64
		if err := c.QueryRowContext(ctx, "SELECT GET_LOCK(?, ?)", name, max(wait.Seconds(), 0)).Scan(&got); err != nil {
			return nil, fmt.Errorf("lock the database: %w", classify(err))
		}
		if got.Int64 != 1 {
			return nil, &backstay.Error{
				Class: backstay.Transient, Op: "lock the database", Err: errors.New("another migration holds its lock"),
				Hint: "SELECT IS_USED_LOCK('" + name + "') names the session",
			}
		}
	}
	return func() {
		for _, name := range names {
			// The session's end gives it back too.
			_, _ = c.ExecContext(context.WithoutCancel(ctx), "DO RELEASE_LOCK(?)", name)
		}
	}, nil
}

// Reap ends the session that holds the owner's lock.
func (Dialect) Reap(ctx context.Context, c *sql.Conn, id database.Identity, owner string) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		var session sql.NullInt64
		if err := c.QueryRowContext(ctx, "SELECT IS_USED_LOCK(?)", lockName("owner", id.Database, owner)).Scan(&session); err != nil {
			return fmt.Errorf("end sessions that were left behind: %w", classify(err))
		}
		if !session.Valid {
			return nil
		}
		if _, err := c.ExecContext(ctx, fmt.Sprintf("KILL %d", session.Int64)); err != nil && !number(err, 1094) { // it ended by itself
			return fmt.Errorf("end sessions that were left behind: %w", classify(err))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("end sessions that were left behind: %w", context.Cause(ctx))
		}
	}
}

// Limit takes back what a migration set and sets the timeouts.
func (Dialect) Limit(ctx context.Context, c *sql.Conn, limits database.Limits) error {
	seconds := max(int(limits.Lock.Round(time.Second).Seconds()), 1)
	for _, set := range []string{
		fmt.Sprintf("SET SESSION lock_wait_timeout = %d, innodb_lock_wait_timeout = %d, foreign_key_checks = 1, unique_checks = 1, autocommit = 1", seconds, seconds),
		"SET SESSION sql_mode = @@GLOBAL.sql_mode",
	} {
		if _, err := c.ExecContext(ctx, set); err != nil {
			return fmt.Errorf("set timeouts: %w", classify(err))
		}
	}
	// MariaDB limits every statement, in seconds; MySQL has no such limit.
	if _, err := c.ExecContext(ctx, fmt.Sprintf("SET SESSION max_statement_time = %f", limits.Statement.Seconds())); err != nil && !number(err, 1193) {
		return fmt.Errorf("set timeouts: %w", classify(err))
	}
	return nil
}

// Intact is not asked for: only what changes rows runs in a transaction, one
// statement at a time.
func (Dialect) Intact(context.Context, *sql.Conn, database.Querier) error { return nil }

// Transactional is false.
func (Dialect) Transactional() bool { return false }

// Exclude locks tables until release.
func (Dialect) Exclude(ctx context.Context, q database.Querier, tables []string) (func() error, error) {
	if len(tables) == 0 {
		return func() error { return nil }, nil
	}
	if _, err := q.ExecContext(ctx, "LOCK TABLES "+strings.Join(tables, " WRITE, ")+" WRITE"); err != nil {
		return nil, fmt.Errorf("keep writers out: %w", classify(err))
	}
	return func() error {
		if _, err := q.ExecContext(context.WithoutCancel(ctx), "UNLOCK TABLES"); err != nil {
			return fmt.Errorf("let writers in again: %w", classify(err))
		}
		return nil
	}, nil
}

// Trace compares the schema with what it was when the statement began. A single
// DDL statement is atomic: what differs is its work. What leaves no trace in
// the schema may be repeated, unless its probe says that nothing can tell.
func (d Dialect) Trace(ctx context.Context, q database.Querier, st sqltext.Statement, before string) (database.Trace, error) {
	schema, err := d.Schema(ctx, q)
	if err != nil {
		return database.Unclear, err
	}
	switch {
	case schema.Digest() != before:
		return database.Done, nil
	case st.Probe != nil && st.Probe.Kind == "none":
		return database.Unclear, nil
	}
	return database.NotDone, nil
}

// Quote quotes a name.
func (Dialect) Quote(name string) string { return quote(name) }

func quote(name string) string { return "`" + strings.ReplaceAll(name, "`", "``") + "`" }

// Bind changes nothing.
func (Dialect) Bind(query string) string { return query }

// Classify gives an error its class.
func (Dialect) Classify(err error) error { return classify(err) }

func number(err error, numbers ...uint16) bool {
	var e *driver.MySQLError
	return errors.As(err, &e) && slices.Contains(numbers, e.Number)
}

func classify(err error) error {
	var network net.Error
	switch {
	case err == nil:
		return nil
	case number(err, 1205, 1213): // lock wait timeout, deadlock
		return &backstay.Error{Class: backstay.Transient, Err: err, Hint: "somebody holds a lock on it; a longer lock-timeout waits longer"}
	case number(err, 1969, 3024):
		return &backstay.Error{Class: backstay.Permanent, Err: err, Hint: "a longer statement-timeout gives it more time"}
	case number(err, 1040, 1053, 1927, 3169), errors.Is(err, driver.ErrInvalidConn), errors.As(err, &network):
		return &backstay.Error{Class: backstay.Transient, Err: err}
	}
	return err
}

// Missing reports that a table, column or other object is not there.
func (Dialect) Missing(err error) bool {
	return number(err, 1051, 1054, 1072, 1091, 1146, 1305, 1360, 1539, 4091, 4092)
}

// Tables lists tables and columns of the database.
func (Dialect) Tables(ctx context.Context, q database.Querier) (tables database.Tables, err error) {
	rows, err := q.QueryContext(ctx, "SELECT c.TABLE_NAME, c.COLUMN_NAME, c.COLUMN_TYPE, COALESCE(c.COLUMN_DEFAULT, ''), COALESCE(c.GENERATION_EXPRESSION, '') <> '', CASE WHEN c.COLUMN_KEY = 'PRI' THEN 1 ELSE 0 END, VERSION() LIKE '%MariaDB%'"+
		" FROM information_schema.COLUMNS c JOIN information_schema.TABLES t ON t.TABLE_SCHEMA = c.TABLE_SCHEMA AND t.TABLE_NAME = c.TABLE_NAME"+
		" WHERE c.TABLE_SCHEMA = DATABASE() AND t.TABLE_TYPE IN ('BASE TABLE', 'SYSTEM VERSIONED') AND c.TABLE_NAME NOT LIKE 'backstay\\_%' ORDER BY c.TABLE_NAME, c.ORDINAL_POSITION")
	if err != nil {
		return nil, fmt.Errorf("list tables: %w", classify(err))
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	tables = database.Tables{}
	for rows.Next() {
		var table, column, kind, standard string
		var generated, key, maria bool
		if err := rows.Scan(&table, &column, &kind, &standard, &generated, &key, &maria); err != nil {
			return nil, fmt.Errorf("list tables: %w", err)
		}
		t, ok := tables[quote(table)]
		if !ok {
			t = database.Table{Name: quote(table), Columns: map[string]database.Column{}}
		}
		c := database.Column{Type: kind, Computed: generated}
		c.Default, c.Constant = standardOf(standard, maria)
		t.Columns[quote(column)] = c
		if key {
			t.Key = append(t.Key, quote(column))
		}
		tables[quote(table)] = t
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list tables: %w", classify(err))
	}
	return tables, indexes(ctx, q, tables)
}

// indexes adds the names of indexes.
func indexes(ctx context.Context, q database.Querier, tables database.Tables) (err error) {
	rows, err := q.QueryContext(ctx, "SELECT DISTINCT TABLE_NAME, INDEX_NAME FROM information_schema.STATISTICS WHERE TABLE_SCHEMA = DATABASE() ORDER BY 1, 2")
	if err != nil {
		return fmt.Errorf("list indexes: %w", classify(err))
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var table, index string
		if err := rows.Scan(&table, &index); err != nil {
			return fmt.Errorf("list indexes: %w", err)
		}
		if t, ok := tables[quote(table)]; ok {
			t.Indexes = append(t.Indexes, quote(index))
			tables[quote(table)] = t
		}
	}
	return rows.Err() //nolint:wrapcheck // the caller has only this one error of it
}

// standardOf reads a column's default: MariaDB gives an expression, MySQL the
// bare value.
func standardOf(text string, maria bool) (expression string, constant bool) {
	switch {
	case text == "" || strings.EqualFold(text, "NULL"):
		return "", true
	case !maria:
		return "'" + strings.ReplaceAll(strings.ReplaceAll(text, `\`, `\\`), "'", "''") + "'", !strings.Contains(strings.ToUpper(text), "CURRENT_TIMESTAMP")
	case strings.HasPrefix(text, "'"), strings.Trim(text, "-0123456789.") == "":
		return text, true
	}
	return text, false
}

// Values counts values and sums a hash of each.
func (Dialect) Values(ctx context.Context, q database.Querier, t database.Table, column string) (n int64, digest string, err error) {
	var parts []string
	where := ""
	if column != "" {
		c := t.Columns[column]
		where = " WHERE " + column + " IS NOT NULL"
		if c.Default != "" && c.Constant {
			where = " WHERE NOT (" + column + " <=> " + c.Default + ")"
		}
		parts = []string{digits(column, c)}
	} else {
		for _, c := range sorted(t.Columns) {
			parts = append(parts, digits(c, t.Columns[c]))
		}
	}
	if len(parts) == 0 {
		parts = []string{"'rows'"}
	}
	hash := "CAST(CONV(LEFT(MD5(CONCAT_WS(',', " + strings.Join(parts, ", ") + ")), 15), 16, 10) AS DECIMAL(40))"
	if err := q.QueryRowContext(ctx, "SELECT COUNT(*), COALESCE(SUM("+hash+"), 0) FROM "+t.Name+where).Scan(&n, &digest); err != nil {
		return 0, "", fmt.Errorf("count the values of %s: %w", t.Name, classify(err))
	}
	return n, digest, nil
}

// digits writes a value so that equal texts are equal values. HEX alone takes a
// number for a whole one.
func digits(name string, c database.Column) string {
	for _, kind := range []string{"decimal", "float", "double"} {
		if strings.HasPrefix(strings.ToLower(c.Type), kind) {
			return "COALESCE(HEX(CAST(" + name + " AS CHAR)), '-')"
		}
	}
	return "COALESCE(HEX(" + name + "), '-')"
}

// ToolTable is the tools' own text.
func (Dialect) ToolTable(c files.Convention, table string) []string {
	switch c {
	case files.Goose:
		return []string{"CREATE TABLE " + table + " (id bigint NOT NULL AUTO_INCREMENT, version_id bigint NOT NULL, is_applied boolean NOT NULL, tstamp timestamp NULL default now(), PRIMARY KEY(id))"}
	case files.GolangMigrate:
		return []string{"CREATE TABLE " + table + " (version bigint not null primary key, dirty boolean not null)"}
	case files.Flyway:
		return []string{"CREATE TABLE " + table + " (`installed_rank` INT NOT NULL, `version` VARCHAR(50), `description` VARCHAR(200) NOT NULL, `type` VARCHAR(20) NOT NULL, `script` VARCHAR(1000) NOT NULL," +
			" `checksum` INT, `installed_by` VARCHAR(100) NOT NULL, `installed_on` TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, `execution_time` INT NOT NULL, `success` BOOL NOT NULL," +
			" CONSTRAINT `flyway_schema_history_pk` PRIMARY KEY (`installed_rank`), KEY `flyway_schema_history_s_idx` (`success`))"}
	case files.Dbmate:
		return []string{"CREATE TABLE " + table + " (version varchar(128) primary key) character set latin1 collate latin1_bin"}
	}
	return nil
}
