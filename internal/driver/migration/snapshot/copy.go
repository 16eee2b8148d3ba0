package snapshot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/migration/database"
	"github.com/backstay-dev/backstay/internal/driver/migration/mysql"
	"github.com/backstay-dev/backstay/internal/driver/migration/session"
	"github.com/backstay-dev/backstay/internal/proc"
)

// copier writes a dump into a file and loads it again.
type copier struct {
	*dump
	s    *session.Session
	url  string // may hold a password
	part string
}

// programs are those that a dump needs.
func programs(b body) []string {
	switch {
	case b.Dialect == "postgres" && b.Verify:
		return []string{"pg_dump", "pg_restore"}
	case b.Dialect == "postgres":
		return []string{"pg_dump"}
	case b.Dialect == "mysql" && b.Verify:
		return []string{mysqlDump(), mysqlClient()}
	case b.Dialect == "mysql":
		return []string{mysqlDump()}
	}
	return nil
}

func mysqlDump() string   { return either("mariadb-dump", "mysqldump") }
func mysqlClient() string { return either("mariadb", "mysql") }

// either is the first of the names that is installed; else the first.
func either(names ...string) string {
	for _, n := range names {
		if _, err := exec.LookPath(n); err == nil {
			return n
		}
	}
	return names[0]
}

// sizeOf is about how many bytes a database holds.
func sizeOf(ctx context.Context, s *session.Session) (size int64, err error) {
	query := "SELECT pg_database_size(current_database())"
	switch s.Dialect.Name() {
	case "mysql":
		query = "SELECT CAST(COALESCE(SUM(data_length + index_length), 0) AS SIGNED) FROM information_schema.tables WHERE table_schema = DATABASE()"
	case "sqlite":
		query = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
	}
	if err := s.Conn.QueryRowContext(ctx, query).Scan(&size); err != nil {
		return 0, fmt.Errorf("ask how large the database is: %w", s.Dialect.Classify(err))
	}
	return size, nil
}

// write writes the dump.
func (c copier) write(ctx context.Context) error {
	switch c.Dialect {
	case "sqlite":
		if _, err := c.s.Conn.ExecContext(ctx, "VACUUM INTO ?", c.part); err != nil {
			return fmt.Errorf("dump the database: %w", c.s.Dialect.Classify(err))
		}
		return nil
	case "mysql":
		client, err := mysql.ClientOf(c.url)
		if err != nil {
			return fmt.Errorf("dump the database: %w", err)
		}
		argv := append([]string{mysqlDump(), "--no-defaults"}, client.Args...)
		argv = append(argv, "--single-transaction", "--routines", "--events", "--triggers", "--hex-blob", "--skip-dump-date", "--result-file="+c.part, client.Database)
		return c.run(ctx, "dump the database", argv, map[string]string{"MYSQL_PWD": client.Password})
	}
	address, env, err := apart(c.url)
	if err != nil {
		return fmt.Errorf("dump the database: %w", err)
	}
	return c.run(ctx, "dump the database", []string{"pg_dump", "--format=custom", "--no-password", "--lock-wait-timeout=10s", "--file=" + c.part, "--dbname=" + address}, env)
}

// load loads the dump into an empty database.
func (c copier) load(ctx context.Context, into string) error {
	if c.Dialect == "mysql" {
		client, err := mysql.ClientOf(into)
		if err != nil {
			return fmt.Errorf("load the dump: %w", err)
		}
		argv := append([]string{mysqlClient(), "--no-defaults"}, client.Args...)
		return c.run(ctx, "load the dump", append(argv, "--execute=source "+c.part, client.Database), map[string]string{"MYSQL_PWD": client.Password})
	}
	address, env, err := apart(into)
	if err != nil {
		return fmt.Errorf("load the dump: %w", err)
	}
	return c.run(ctx, "load the dump", []string{"pg_restore", "--exit-on-error", "--no-password", "--dbname=" + address, c.part}, env)
}

// prove loads the dump into a scratch database, compares its schema with the
// database's, and counts its rows.
func (c copier) prove(ctx context.Context, want database.Schema) (rows map[string]int64, err error) {
	scratch := "sqlite:" + c.part
	if c.Dialect != "sqlite" {
		var drop func(context.Context) error
		if scratch, drop, err = c.s.Dialect.Scratch(ctx, c.url); err != nil {
			return nil, err //nolint:wrapcheck // says what it did
		}
		defer func() { err = errors.Join(err, drop(context.WithoutCancel(ctx))) }()
		if err := c.load(ctx, scratch); err != nil {
			return nil, err
		}
	}
	db, err := c.s.Dialect.Open(scratch, "")
	if err != nil {
		return nil, fmt.Errorf("open the loaded dump: %w", err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, fmt.Errorf("open the loaded dump: %w", c.s.Dialect.Classify(err))
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	got, err := c.s.Dialect.Schema(ctx, conn)
	if err != nil {
		return nil, err //nolint:wrapcheck // says what it did
	}
	if differ := differing(want, got); len(differ) > 0 {
		return nil, &backstay.Error{
			Class: backstay.Permanent, Op: "prove the dump", Err: fmt.Errorf("loaded again, %d objects of the schema differ: %s", len(differ), strings.Join(differ[:min(len(differ), 5)], ", ")),
			Hint: "take such a snapshot by other means, or say verify: false",
		}
	}
	return c.rows(ctx, conn)
}

func (c copier) rows(ctx context.Context, q database.Querier) (map[string]int64, error) {
	if c.Dialect == "sqlite" {
		var answer string
		if err := q.QueryRowContext(ctx, "PRAGMA integrity_check(1)").Scan(&answer); err != nil || answer != "ok" {
			return nil, fmt.Errorf("prove the dump: integrity check: %s: %w", answer, errors.Join(err, errors.New("it is damaged")))
		}
	}
	tables, err := c.s.Dialect.Tables(ctx, q)
	if err != nil {
		return nil, err //nolint:wrapcheck // says what it did
	}
	rows := map[string]int64{}
	for name := range tables {
		var n int64
		if err := q.QueryRowContext(ctx, "SELECT count(*) FROM "+name).Scan(&n); err != nil {
			return nil, fmt.Errorf("count the rows of the dump: %w", c.s.Dialect.Classify(err))
		}
		rows[name] = n
	}
	return rows, nil
}

func differing(a, b database.Schema) (names []string) {
	all := maps.Clone(a)
	maps.Copy(all, b)
	for _, object := range slices.Sorted(maps.Keys(all)) {
		if a[object] != b[object] {
			names = append(names, object)
		}
	}
	return names
}

// apart takes the password out of PostgreSQL's URL: command lines can be read by
// others.
func apart(address string) (bare string, env map[string]string, err error) {
	u, err := url.Parse(address)
	if err != nil {
		return "", nil, errors.New("its address is no URL")
	}
	env = map[string]string{}
	if password, ok := u.User.Password(); ok {
		env["PGPASSWORD"] = password
		u.User = url.User(u.User.Username())
	}
	q := u.Query()
	if q.Has("password") {
		env["PGPASSWORD"] = q.Get("password")
		q.Del("password")
	}
	for _, own := range []string{"pool_max_conns", "pool_min_conns", "default_query_exec_mode"} { // pgx's, not libpq's
		q.Del(own)
	}
	u.RawQuery = q.Encode()
	return u.String(), env, nil
}

// run runs a program. Its error ends with the program's last words.
func (c copier) run(ctx context.Context, what string, argv []string, env map[string]string) error {
	env["PATH"], env["HOME"], env["LC_ALL"] = os.Getenv("PATH"), os.Getenv("HOME"), "C.UTF-8"
	words := &tail{}
	exit, err := proc.Run(ctx, proc.Command{
		Argv: argv, Env: env, Dir: c.Into, Output: io.Writer(words),
		Token: proc.Token{Deployment: c.call.Deployment, Step: c.call.Step.ID, Fence: c.call.Token},
	})
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("%s: %w", what, context.Cause(ctx))
	case err != nil:
		return fmt.Errorf("%s: %w", what, err)
	case !exit.OK():
		return &backstay.Error{
			Class: backstay.Permanent, Op: what, Err: fmt.Errorf("%s %s: %s", argv[0], exit, words),
			Hint: argv[0] + " must not be older than the server, and the user must be allowed to read and make all of it",
		}
	}
	return nil
}

// tail keeps the end of what is written.
type tail struct{ bytes.Buffer }

func (t *tail) Write(p []byte) (int, error) {
	const most = 600
	t.Buffer.Write(p)
	if extra := t.Len() - most; extra > 0 {
		t.Next(extra)
	}
	return len(p), nil
}

func (t *tail) String() string { return strings.Join(strings.Fields(t.Buffer.String()), " ") }
