// Package clients runs the databases' own programs: pg_dump, pg_restore,
// mariadb-dump and mariadb. They know best what belongs to a dump, and they are
// nobody's code here.
//
// It owns their command lines and environments: a password is never on a command
// line, and no URL gets into an error.
package clients

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"strings"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/migration/mysql"
	"github.com/backstay-dev/backstay/internal/proc"
)

// Dumpers are the programs that write a dump of this kind of database; with load,
// those that load it again too. SQLite needs none.
func Dumpers(dialect string, load bool) []string {
	var all []string
	switch dialect {
	case "postgres":
		all = []string{"pg_dump", "pg_restore"}
	case "mysql":
		all = []string{mysqlDump(), mysqlClient()}
	}
	if !load && len(all) > 0 {
		all = all[:1]
	}
	return all
}

// Missing names the first program that is not installed; empty: none.
func Missing(programs []string) string {
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			return p
		}
	}
	return ""
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

// Host is where programs run, and for whom.
type Host struct {
	Dir   string
	Token proc.Token
}

// Dump is what is dumped of a database, and where it goes.
type Dump struct {
	URL  string // may hold a password
	File string
	// Only leaves out the rows (schema) or everything else (rows); empty: all.
	Only Part
	// Table, quoted as the database does, is the only one that is dumped.
	Table string
	// Text asks for SQL to read, where the usual format is another.
	Text bool
	// Without are names of tables that are left out; PostgreSQL takes * in them.
	Without []string
}

// Part is a part of a database.
type Part string

// The parts.
const (
	Schema Part = "schema"
	Rows   Part = "rows"
)

// Dump writes a dump into a file.
func (h Host) Dump(ctx context.Context, dialect string, d Dump) error {
	const what = "dump the database"
	if dialect == "mysql" {
		client, err := mysql.ClientOf(d.URL)
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		argv := append([]string{mysqlDump(), "--no-defaults"}, client.Args...)
		argv = append(argv, "--single-transaction", "--hex-blob", "--skip-dump-date", "--result-file="+d.File)
		switch d.Only {
		case Schema:
			argv = append(argv, "--no-data", "--routines", "--events", "--triggers", "--skip-comments")
		case Rows:
			argv = append(argv, "--no-create-info", "--skip-triggers")
		default:
			argv = append(argv, "--routines", "--events", "--triggers")
		}
		for _, table := range d.Without {
			argv = append(argv, "--ignore-table="+client.Database+"."+table)
		}
		argv = append(argv, client.Database)
		if d.Table != "" {
			argv = append(argv, strings.Trim(d.Table, "`"))
		}
		if err := h.run(ctx, what, argv, map[string]string{"MYSQL_PWD": client.Password}); err != nil {
			return err
		}
		return within(d.File, client.Database)
	}
	address, env, err := apart(d.URL)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	argv := []string{"pg_dump", "--format=custom", "--no-password", "--lock-wait-timeout=10s", "--file=" + d.File, "--dbname=" + address}
	if d.Text {
		argv[1] = "--format=plain"
	}
	switch d.Only {
	case Schema:
		argv = append(argv, "--schema-only")
	case Rows:
		argv = append(argv, "--data-only")
	}
	for _, table := range d.Without {
		argv = append(argv, "--exclude-table="+table)
	}
	if d.Table != "" {
		argv = append(argv, "--table="+d.Table)
	}
	return h.run(ctx, what, argv, env)
}

// Load loads a dump into a scratch database. Subscriptions are left out: they would
// hold the publisher's slot by its name, and keep the database from being dropped.
func (h Host) Load(ctx context.Context, dialect, into, file string) error {
	const what = "load the dump"
	if dialect == "mysql" {
		client, err := mysql.ClientOf(into)
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		argv := append([]string{mysqlClient(), "--no-defaults"}, client.Args...)
		return h.run(ctx, what, append(argv, "--execute=source "+file, client.Database), map[string]string{"MYSQL_PWD": client.Password})
	}
	address, env, err := apart(into)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return h.run(ctx, what, []string{"pg_restore", "--exit-on-error", "--no-subscriptions", "--no-password", "--dbname=" + address, file}, env)
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
	u.RawQuery = strings.ReplaceAll(q.Encode(), "+", "%20") // libpq takes a plus for itself
	return u.String(), env, nil
}

// run runs a program. Its error ends with the program's last words.
func (h Host) run(ctx context.Context, what string, argv []string, env map[string]string) error {
	env["PATH"], env["HOME"], env["LC_ALL"] = os.Getenv("PATH"), os.Getenv("HOME"), "C.UTF-8"
	words := &tail{}
	exit, err := proc.Run(ctx, proc.Command{Argv: argv, Env: env, Dir: h.Dir, Output: io.Writer(words), Token: h.Token})
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
