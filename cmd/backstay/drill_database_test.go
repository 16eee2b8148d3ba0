package main

import (
	"database/sql"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	_ "github.com/go-sql-driver/mysql"
	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/rogpeppe/go-internal/testscript"
	_ "modernc.org/sqlite"

	"github.com/backstay-dev/backstay/internal/parts"
	"github.com/backstay-dev/backstay/internal/sandbox"
)

// place is a database of a session's own: the URL that a user writes, and the
// driver and address by which the test looks at it.
type place struct{ url, driver, dsn string }

type placed struct{}

// TestDrillDatabases runs the sessions in testdata/database, which drill steps on
// databases at level D2, on each kind of database. Commands beside those of
// TestScripts:
//
//	sql STATEMENT…   runs them on the database; what the last one returns is in the file "rows"
//	dump FILE        writes all that is in it, schema and rows, by the database's own program
func TestDrillDatabases(t *testing.T) {
	if !*longFlag {
		t.Skip("hundreds of sandboxes take long; run with -long")
	}
	if err := sandbox.Available(); err != nil {
		t.Skip(err)
	}
	t.Parallel()
	parts.Real(t)
	kinds := map[string]func(t *testing.T) func() place{
		"postgres": func(t *testing.T) func() place {
			t.Helper()
			pg := parts.StartPostgres(t)
			return func() place { url := pg.Database(t); return place{url, "pgx", url} }
		},
		"mariadb": func(t *testing.T) func() place {
			t.Helper()
			m := parts.StartMariaDB(t)
			return func() place { name := m.Database(t); return place{m.URL(name), "mysql", m.DSN(name)} }
		},
		"sqlite": func(t *testing.T) func() place {
			t.Helper()
			return func() place {
				path := filepath.Join(t.TempDir(), "shop.db")
				if err := os.WriteFile(path, nil, 0o600); err != nil {
					t.Fatal(err)
				}
				return place{"sqlite:" + path, "sqlite", path}
			}
		},
	}
	for kind, start := range kinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			fresh := start(t)
			testscript.Run(t, testscript.Params{
				Dir: filepath.Join("testdata", "database"), RequireExplicitExec: true, RequireUniqueNames: true,
				Setup: func(env *testscript.Env) error {
					p := fresh()
					env.Values[placed{}] = p
					env.Setenv("DATABASE_URL", p.url)
					env.Setenv("BACKSTAY_STATE", filepath.Join(env.WorkDir, "state"))
					env.Setenv("HOME", env.WorkDir)
					return nil
				},
				Condition: func(cond string) (bool, error) { return cond == kind || cond == "night" && *nightFlag, nil },
				Cmds:      map[string]func(*testscript.TestScript, bool, []string){"code": code, "sql": ask, "dump": dump},
			})
		})
	}
}

// ask runs statements on the session's database.
func ask(ts *testscript.TestScript, neg bool, args []string) {
	p, ok := ts.Value(placed{}).(place)
	if neg || !ok || len(args) == 0 {
		ts.Fatalf("usage: sql STATEMENT…")
	}
	db, err := sql.Open(p.driver, p.dsn)
	ts.Check(err)
	defer db.Close()
	for _, statement := range args[:len(args)-1] {
		_, err := db.Exec(statement)
		ts.Check(err)
	}
	rows, err := db.Query(args[len(args)-1])
	ts.Check(err)
	defer rows.Close()
	names, err := rows.Columns()
	ts.Check(err)
	var out strings.Builder
	for rows.Next() {
		values, into := make([]sql.NullString, len(names)), make([]any, len(names))
		for i := range values {
			into[i] = &values[i]
		}
		ts.Check(rows.Scan(into...))
		for _, v := range values {
			fmt.Fprintf(&out, "%s|", v.String)
		}
		out.WriteString("\n")
	}
	ts.Check(rows.Err())
	ts.Check(os.WriteFile(ts.MkAbs("rows"), []byte(out.String()), 0o600))
}

// dump writes the session's database into a file.
func dump(ts *testscript.TestScript, neg bool, args []string) {
	p, ok := ts.Value(placed{}).(place)
	if neg || !ok || len(args) != 1 {
		ts.Fatalf("usage: dump FILE")
	}
	var out []byte
	var err error
	switch p.driver {
	case "pgx":
		out, err = exec.Command("pg_dump", "--no-password", "--dbname="+p.dsn).Output()
	case "mysql":
		u, bad := url.Parse(p.url)
		ts.Check(bad)
		cmd := exec.Command("mariadb-dump", "--no-defaults", "--user="+u.User.Username(), "--protocol=tcp", "--host="+u.Hostname(), "--port="+u.Port(), "--skip-dump-date", "--routines", "--triggers", strings.TrimPrefix(u.Path, "/"))
		password, _ := u.User.Password()
		cmd.Env = append(os.Environ(), "MYSQL_PWD="+password)
		out, err = cmd.Output()
	default:
		out, err = os.ReadFile(p.dsn)
	}
	ts.Check(err)
	// What is new in each run of pg_dump.
	out = regexp.MustCompile(`(?m)^\\(un)?restrict .*$`).ReplaceAll(out, nil)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), out, 0o600))
}
