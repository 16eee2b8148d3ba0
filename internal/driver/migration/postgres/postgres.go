// Package postgres lets migrations act on PostgreSQL (12 and later).
//
// DDL is transactional: a migration, the row of its tool and the marker commit
// together. What cannot run in a transaction (CREATE INDEX CONCURRENTLY, VACUUM)
// has a probe of its own. Statements are cut and judged by PostgreSQL's own
// grammar; the schema is read from the catalogs, without other programs.
package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/migration/database"
	"github.com/backstay-dev/backstay/internal/driver/migration/files"
	"github.com/backstay-dev/backstay/internal/driver/migration/sqltext"
)

// Dialect is PostgreSQL. It has no state.
type Dialect struct{}

var _ database.Dialect = Dialect{}

const (
	// application is how sessions are told apart on the server.
	application = "backstay"
	// advisory is the key of the lock that keeps other deployments out: "backstay" in ASCII.
	advisory int64 = 0x6261636b73746179
	// gone is how long the server gets to end a cancelled statement before the
	// connection is cut.
	gone = 3 * time.Second
)

// Name is "postgres".
func (Dialect) Name() string { return "postgres" }

// Open returns a pool whose sessions carry the owner's name.
func (Dialect) Open(url, owner string) (*sql.DB, error) {
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		// The parser's words may repeat a part of the URL.
		return nil, errors.New("it is not a URL of PostgreSQL such as postgres://user@host:5432/database")
	}
	cfg.DefaultQueryExecMode = pgx.QueryExecModeExec // no prepared statements: migrations change what they would rely on
	cfg.RuntimeParams["application_name"] = named(owner)
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = 10 * time.Second
	}
	cfg.BuildContextWatcherHandler = func(c *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.CancelRequestContextWatcherHandler{Conn: c, CancelRequestDelay: 0, DeadlineDelay: gone}
	}
	return stdlib.OpenDB(*cfg), nil
}

func named(owner string) string {
	if owner == "" {
		return application
	}
	return application + "/" + owner
}

// Identity is the cluster's system identifier, the database and its schema.
func (Dialect) Identity(ctx context.Context, q database.Querier) (database.Identity, error) {
	var id database.Identity
	var schema *string
	var version, address string
	err := q.QueryRowContext(ctx, "SELECT (SELECT system_identifier FROM pg_control_system())::text, current_database(), current_schema(), current_setting('server_version'),"+
		" coalesce(host(inet_server_addr()) || ':' || inet_server_port(), 'a local socket')").Scan(&id.System, &id.Database, &schema, &version, &address)
	if err != nil {
		return id, fmt.Errorf("identify the database: %w", classify(err))
	}
	if schema == nil {
		return id, errors.New("identify the database: search_path names no schema that is there")
	}
	id.Schema, id.Server = *schema, "PostgreSQL "+version+" at "+address
	return id, nil
}

// Lock takes an advisory lock of this database for as long as the session lives.
func (Dialect) Lock(ctx context.Context, c *sql.Conn, _ database.Identity, _ string, wait time.Duration) (func(), error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		var got bool
		if err := c.QueryRowContext(ctx, "SELECT pg_try_advisory_lock($1)", advisory).Scan(&got); err != nil && ctx.Err() == nil {
			return nil, fmt.Errorf("lock the database: %w", classify(err))
		}
		if got {
			return func() {
				// The session's end gives it back too.
				_, _ = c.ExecContext(context.WithoutCancel(ctx), "SELECT pg_advisory_unlock($1)", advisory)
			}, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, &backstay.Error{
				Class: backstay.Transient, Op: "lock the database", Err: fmt.Errorf("another migration holds its lock: %w", context.Cause(ctx)),
				Hint: "SELECT pid, application_name FROM pg_stat_activity WHERE pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory') names the session",
			}
		}
	}
}

// Reap ends sessions of the owner that outlived their process.
func (Dialect) Reap(ctx context.Context, c *sql.Conn, _ database.Identity, owner string) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		var left int
		err := c.QueryRowContext(ctx, "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = $1 AND pid <> pg_backend_pid() AND datname = current_database()", named(owner)).Scan(&left)
		if err != nil {
			return fmt.Errorf("end sessions that were left behind: %w", classify(err))
		}
		if left == 0 {
			return nil
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
	for _, set := range []string{
		"RESET SESSION AUTHORIZATION", "RESET ALL",
		"SET lock_timeout = " + milliseconds(limits.Lock), "SET statement_timeout = " + milliseconds(limits.Statement),
		"SET idle_in_transaction_session_timeout = " + milliseconds(max(limits.Statement, time.Minute)),
	} {
		if _, err := c.ExecContext(ctx, set); err != nil {
			return fmt.Errorf("set timeouts: %w", classify(err))
		}
	}
	return nil
}

func milliseconds(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

// Intact says whether the session is still inside the transaction.
func (Dialect) Intact(_ context.Context, c *sql.Conn, _ database.Querier) error {
	return c.Raw(func(driver any) error {
		conn, ok := driver.(*stdlib.Conn)
		if !ok {
			return fmt.Errorf("check the transaction: %T is no session of PostgreSQL", driver)
		}
		if conn.Conn().PgConn().TxStatus() != 'T' {
			return errors.New("the migration ended the transaction that it ran in")
		}
		return nil
	})
}

// Transactional is true.
func (Dialect) Transactional() bool { return true }

// Exclude locks tables until the transaction ends.
func (Dialect) Exclude(ctx context.Context, q database.Querier, tables []string) (func() error, error) {
	if len(tables) > 0 {
		if _, err := q.ExecContext(ctx, "LOCK TABLE "+strings.Join(tables, ", ")+" IN ACCESS EXCLUSIVE MODE"); err != nil {
			return nil, fmt.Errorf("keep writers out: %w", classify(err))
		}
	}
	return func() error { return nil }, nil
}

// Trace looks for the index of a statement that may have been cut off.
func (d Dialect) Trace(ctx context.Context, q database.Querier, st sqltext.Statement, before string) (database.Trace, error) {
	if st.Probe == nil {
		return database.NotDone, nil
	}
	schema, err := d.Schema(ctx, q)
	if err != nil {
		return database.Unclear, err
	}
	if schema.Digest() == before {
		return database.NotDone, nil
	}
	var valid *bool
	err = q.QueryRowContext(ctx, "SELECT (SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass($1))", st.Probe.Name).Scan(&valid)
	if err != nil {
		return database.Unclear, fmt.Errorf("look for index %s: %w", st.Probe.Name, classify(err))
	}
	switch {
	case st.Probe.Kind == "index" && valid == nil:
		return database.NotDone, nil
	case st.Probe.Kind == "index" && *valid, st.Probe.Kind == "no-index" && valid == nil:
		return database.Done, nil
	}
	return database.HalfDone, nil
}

// Quote quotes a name.
func (Dialect) Quote(name string) string { return quote(name) }

// Bind numbers the parameters.
func (Dialect) Bind(query string) string {
	var b strings.Builder
	n := 0
	for _, r := range query {
		if r == '?' {
			n++
			b.WriteString("$" + strconv.Itoa(n))
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}

// Classify gives an error its class; only its message and code are shown, not
// the row that PostgreSQL may name beside them.
func (Dialect) Classify(err error) error { return classify(err) }

func classify(err error) error {
	if err == nil {
		return nil
	}
	var e *pgconn.PgError
	if errors.As(err, &e) {
		plain := fmt.Errorf("%s (SQLSTATE %s)", e.Message, e.Code)
		switch {
		case e.Code == "55P03":
			return &backstay.Error{Class: backstay.Transient, Err: &stated{plain, e}, Hint: "somebody holds a lock on it; a longer lock-timeout waits longer"}
		case e.Code == "40001", e.Code == "40P01", strings.HasPrefix(e.Code, "08"), strings.HasPrefix(e.Code, "57P"), e.Code == "53300":
			return &backstay.Error{Class: backstay.Transient, Err: &stated{plain, e}}
		case e.Code == "57014":
			return &backstay.Error{Class: backstay.Permanent, Err: &stated{plain, e}, Hint: "a longer statement-timeout gives it more time"}
		}
		return &backstay.Error{Class: backstay.Permanent, Err: &stated{plain, e}}
	}
	var network net.Error
	var connect *pgconn.ConnectError
	if errors.As(err, &connect) || errors.As(err, &network) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || pgconn.SafeToRetry(err) {
		return &backstay.Error{Class: backstay.Transient, Err: err}
	}
	return err
}

// stated is an error in words that may be shown, with its code for code.
type stated struct {
	error
	cause *pgconn.PgError
}

func (s *stated) Unwrap() error { return s.cause }

// Missing reports that a table, column or other object is not there.
func (Dialect) Missing(err error) bool {
	var e *pgconn.PgError
	if !errors.As(err, &e) {
		return false
	}
	switch e.Code {
	case "42P01", "42703", "42704", "42883", "3F000":
		return true
	}
	return false
}

var constant = regexp.MustCompile(`^(?:'(?:[^']|'')*'|-?[0-9.]+|true|false|NULL)(?:::[a-z0-9_ "\[\](),.]+)*$`)

// Tables lists tables and columns.
func (d Dialect) Tables(ctx context.Context, q database.Querier) (tables database.Tables, err error) {
	rows, err := q.QueryContext(ctx, `SELECT CASE WHEN n.nspname = current_schema() THEN '' ELSE n.nspname END, c.relname, a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod),
 coalesce(pg_catalog.pg_get_expr(d.adbin, d.adrelid), ''), a.attgenerated <> '', coalesce(array_position(i.indkey::int2[], a.attnum), -1),
 coalesce((SELECT string_agg(CASE WHEN n.nspname = current_schema() THEN '' ELSE quote_ident(n.nspname) || '.' END || '"' || replace(x.relname, '"', '""') || '"', E'\n' ORDER BY x.relname) FROM pg_catalog.pg_index k JOIN pg_catalog.pg_class x ON x.oid = k.indexrelid WHERE k.indrelid = c.oid), '')
 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
 LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
 LEFT JOIN pg_catalog.pg_index i ON i.indrelid = c.oid AND i.indisprimary
 WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\_toast%' AND c.relname NOT LIKE 'backstay\_%'
 ORDER BY 1, 2, 7, a.attnum`)
	if err != nil {
		return nil, fmt.Errorf("list tables: %w", classify(err))
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	tables = database.Tables{}
	for rows.Next() {
		var schema, table, column, kind, standard, indexes string
		var generated bool
		var key int
		if err := rows.Scan(&schema, &table, &column, &kind, &standard, &generated, &key, &indexes); err != nil {
			return nil, fmt.Errorf("list tables: %w", err)
		}
		name := quote(table)
		if schema != "" {
			name = quote(schema) + "." + name
		}
		t, ok := tables[name]
		if !ok {
			t = database.Table{Name: name, Columns: map[string]database.Column{}}
			if indexes != "" {
				t.Indexes = strings.Split(indexes, "\n")
			}
		}
		if strings.HasPrefix(standard, "NULL::") {
			standard = ""
		}
		t.Columns[quote(column)] = database.Column{Type: kind, Default: standard, Constant: standard == "" || constant.MatchString(standard), Computed: generated}
		if key >= 0 {
			t.Key = append(t.Key, quote(column))
		}
		tables[name] = t
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list tables: %w", classify(err))
	}
	return tables, nil
}

// Values counts values and sums PostgreSQL's own hash of each.
func (Dialect) Values(ctx context.Context, q database.Querier, t database.Table, column string) (n int64, digest string, err error) {
	expression, where := "'rows'", ""
	if len(t.Columns) > 0 {
		expression = "ROW(t." + strings.Join(slices.Sorted(maps.Keys(t.Columns)), ", t.") + ")::text"
	}
	if column != "" {
		c := t.Columns[column]
		standard := "NULL"
		if c.Default != "" && c.Constant {
			standard = "(" + c.Default + ")::text"
		}
		expression, where = column+"::text", " WHERE "+column+"::text IS DISTINCT FROM "+standard
	}
	err = q.QueryRowContext(ctx, "SELECT count(*), coalesce(sum(pg_catalog.hashtextextended("+expression+", 0)::numeric), 0)::text FROM "+t.Name+" t"+where).Scan(&n, &digest)
	if err != nil {
		return 0, "", fmt.Errorf("count the values of %s: %w", t.Name, classify(err))
	}
	return n, digest, nil
}

// ToolTable is the tools' own text.
func (Dialect) ToolTable(c files.Convention, table string) []string {
	switch c {
	case files.Goose:
		return []string{"CREATE TABLE " + table + " (id integer PRIMARY KEY GENERATED BY DEFAULT AS IDENTITY, version_id bigint NOT NULL, is_applied boolean NOT NULL, tstamp timestamp NOT NULL DEFAULT now())"}
	case files.GolangMigrate:
		return []string{"CREATE TABLE " + table + " (version bigint not null primary key, dirty boolean not null)"}
	case files.Flyway:
		return []string{
			"CREATE TABLE " + table + ` ("installed_rank" INT NOT NULL, "version" VARCHAR(50), "description" VARCHAR(200) NOT NULL, "type" VARCHAR(20) NOT NULL, "script" VARCHAR(1000) NOT NULL,` +
				` "checksum" INTEGER, "installed_by" VARCHAR(100) NOT NULL, "installed_on" TIMESTAMP NOT NULL DEFAULT now(), "execution_time" INTEGER NOT NULL, "success" BOOLEAN NOT NULL)`,
			"ALTER TABLE " + table + ` ADD CONSTRAINT "flyway_schema_history_pk" PRIMARY KEY ("installed_rank")`,
			`CREATE INDEX "flyway_schema_history_s_idx" ON ` + table + ` ("success")`,
		}
	case files.Dbmate:
		return []string{"CREATE TABLE " + table + " (version varchar primary key)"}
	}
	return nil
}
