package migration_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/drivertest"
)

// each runs a test on an empty database of every kind.
func each(t *testing.T, run func(t *testing.T, l lab, p place)) {
	t.Helper()
	for _, l := range labs() {
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			run(t, l, l.shared(t)(t))
		})
	}
}

func TestUndoRefusesToLoseWhatWasWritten(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, l lab, p place) {
		t.Helper()
		l.before(t, p)
		f := p.fixture(l.shop(t), nil)
		tr := drivertest.NewTrial(t, f)
		tr.Begin(t)
		if err := tr.Do(t.Context()); err != nil {
			t.Fatal(err)
		}
		p.exec(t, "INSERT INTO orders (id, user_id) VALUES (7, 2)", "UPDATE users SET level = 9 WHERE id = 1")
		before := p.world(t, "users", "orders")
		err := tr.Undo(t, t.Context())
		if !errors.Is(err, backstay.ErrNoUndo) {
			t.Fatalf("the undo returned %v, want a refusal", err)
		}
		for _, words := range []string{"holds 3 rows, 2 of them", "holds 3 values, 2 of them"} {
			if !strings.Contains(err.Error(), words) {
				t.Errorf("the refusal says %q, want it to say %q", err, words)
			}
		}
		if diff := cmp.Diff(before, p.world(t, "users", "orders")); diff != "" {
			t.Errorf("the refused undo changed something (-before +after):\n%s", diff)
		}
	})
}

// What an undo keeps comes back when the migration is applied again.
func TestKeep(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, l lab, p place) {
		t.Helper()
		l.before(t, p)
		start := p.dump(t)
		f := p.fixture(l.shop(t), map[string]any{"keep": true})
		tr := drivertest.NewTrial(t, f)
		tr.Begin(t)
		if err := tr.Do(t.Context()); err != nil {
			t.Fatal(err)
		}
		p.exec(t, "INSERT INTO orders (id, user_id) VALUES (7, 2)", "UPDATE users SET level = 9 WHERE id = 1")
		written := p.world(t, "users", "orders")
		tr.After = tr.Observe(t, false)
		if err := tr.Undo(t, t.Context()); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(start, p.dump(t)); diff != "" {
			t.Errorf("the schema is not as before (-before +after):\n%s", diff)
		}
		again := drivertest.NewTrial(t, f)
		again.Begin(t)
		if err := again.Do(t.Context()); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(written, p.world(t, "users", "orders")); diff != "" {
			t.Errorf("applied again, what was kept is not back (-written +now):\n%s", diff)
		}
	})
}

// A migration whose last statement fails is gone after the undo, and what was
// there before it under the names that it uses is not.
func TestHalfAMigrationIsTakenBack(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, l lab, p place) {
		t.Helper()
		p.exec(t, "CREATE TABLE theirs (id int)", "INSERT INTO theirs VALUES (1)")
		dir := write(t, "1_a.sql", goose("CREATE TABLE ours (id int);\nCREATE INDEX ours_id ON ours (id);\nCREATE TABLE theirs (id int);", "DROP TABLE theirs;\nDROP TABLE ours;"))
		before := p.world(t, "theirs")
		tr := drivertest.NewTrial(t, p.fixture(dir, nil))
		tr.Begin(t)
		err := tr.Do(t.Context())
		if err == nil || !strings.Contains(err.Error(), "1_a.sql:4:") {
			t.Fatalf("do returned %v, want an error that names 1_a.sql:4", err)
		}
		if err := tr.Undo(t, t.Context()); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(before, p.world(t, "theirs")); diff != "" {
			t.Errorf("(-before +after):\n%s", diff)
		}
		if !tr.Before.Equal(tr.Observe(t, false)) {
			t.Errorf("the state is not as before: %s", backstay.Canonical(tr.Observe(t, false)))
		}
	})
}

// A down that drops what its up did not add is refused before anything is lost.
func TestDownThatDropsTooMuch(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, _ lab, p place) {
		t.Helper()
		p.exec(t, "CREATE TABLE theirs (id int)", "INSERT INTO theirs VALUES (1)")
		dir := write(t, "1_a.sql", goose("CREATE TABLE IF NOT EXISTS theirs (id int);", "DROP TABLE theirs;"))
		tr := drivertest.NewTrial(t, p.fixture(dir, nil))
		tr.Begin(t)
		if err := tr.Do(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := tr.Undo(t, t.Context()); !errors.Is(err, backstay.ErrNoUndo) {
			t.Errorf("the undo returned %v, want a refusal", err)
		}
		if rows := p.texts(t, "SELECT id FROM theirs"); len(rows) != 1 {
			t.Errorf("rows of the other table: %v", rows)
		}
	})
}

func TestStaleTokenIsRefused(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, l lab, p place) {
		t.Helper()
		l.before(t, p)
		f := p.fixture(l.shop(t), nil)
		tr := drivertest.NewTrial(t, f)
		tr.Begin(t)
		newer, older := tr.Call(), tr.Call()
		newer.Token.Epoch, older.Token.Epoch = 2, 1
		if _, err := f.Kind.Do(t.Context(), newer); err != nil {
			t.Fatal(err)
		}
		after := p.dump(t)
		if _, err := f.Kind.Undo(t.Context(), older); backstay.ClassOf(err) != backstay.Conflict {
			t.Errorf("an older process's undo returned %v, want a conflict", err)
		}
		if diff := cmp.Diff(after, p.dump(t)); diff != "" {
			t.Errorf("an older process changed the schema:\n%s", diff)
		}
	})
}

// Another database behind the same reference is not touched.
func TestAnotherDatabaseIsRefused(t *testing.T) {
	t.Parallel()
	for _, l := range labs() {
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			make := l.shared(t)
			p, other := make(t), make(t)
			f := p.fixture(l.shop(t), nil)
			tr := drivertest.NewTrial(t, f)
			tr.Begin(t)
			call := tr.Call()
			call.Secrets = secrets{"secret:env/DATABASE_URL": other.url}
			if l.name == "sqlite" {
				swap(t, strings.TrimPrefix(p.url, "sqlite:"))
				call.Secrets = nil
			}
			_, err := f.Kind.Do(t.Context(), call)
			if backstay.ClassOf(err) != backstay.Conflict {
				t.Errorf("do returned %v, want a conflict", err)
			}
			if got := other.dump(t); strings.Contains(got, "users") {
				t.Errorf("the other database was changed: %s", got)
			}
		})
	}
}

// swap puts another file in the place of a database.
func swap(tb testing.TB, path string) {
	tb.Helper()
	next := filepath.Join(filepath.Dir(path), "next.db")
	if err := os.WriteFile(next, nil, 0o600); err != nil {
		tb.Fatal(err)
	}
	if err := os.Link(path, path+".old"); err != nil { // keeps the file's number in use
		tb.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		tb.Fatal(err)
	}
	if err := os.Link(next, path); err != nil {
		tb.Fatal(err)
	}
}

func TestConventionsKeepTheToolsTable(t *testing.T) {
	t.Parallel()
	up, down := "CREATE TABLE a (id int);", "DROP TABLE a;"
	dirs := map[string][]string{
		"golang-migrate": {"1_a.up.sql", up, "1_a.down.sql", down, "2_b.up.sql", "CREATE TABLE b (id int);", "2_b.down.sql", "DROP TABLE b;"},
		"flyway":         {"V1__a.sql", up, "U1__a.sql", down, "V2__b.sql", "CREATE TABLE b (id int);", "U2__b.sql", "DROP TABLE b;"},
		"dbmate":         {"1_a.sql", "-- migrate:up\n" + up + "\n-- migrate:down\n" + down, "2_b.sql", "-- migrate:up\nCREATE TABLE b (id int);\n-- migrate:down\nDROP TABLE b;"},
		"goose":          {"1_a.sql", goose(up, down), "2_b.sql", goose("CREATE TABLE b (id int);", "DROP TABLE b;")},
	}
	tables := map[string]string{"golang-migrate": "SELECT version FROM schema_migrations", "flyway": "SELECT version FROM flyway_schema_history WHERE success", "dbmate": "SELECT version FROM schema_migrations", "goose": "SELECT version_id FROM goose_db_version"}
	lists := map[string]string{"golang-migrate": "2", "flyway": "1 2", "dbmate": "1 2", "goose": "0 1 2"}
	for _, l := range labs() {
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			make := l.shared(t)
			for name, files := range dirs {
				p := make(t)
				empty := p.dump(t)
				tr := drivertest.NewTrial(t, p.fixture(write(t, files...), nil))
				tr.Begin(t)
				if err := tr.Do(t.Context()); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				if got := strings.Join(p.texts(t, tables[name]), " "); got != lists[name] {
					t.Errorf("%s: the tool's table lists %s, want %s", name, got, lists[name])
				}
				if again := drivertest.NewTrial(t, p.fixture(write(t, files...), nil)); again.Step.Class != backstay.Exact {
					t.Errorf("%s: planned again, something is pending: %s", name, again.Step.Summary)
				}
				if err := tr.Undo(t, t.Context()); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				if diff := cmp.Diff(empty, p.dump(t)); diff != "" {
					t.Errorf("%s: after the undo (-before +after):\n%s", name, diff)
				}
			}
		})
	}
}

func TestPrepareRefuses(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		sql  string // of an up; the down is nothing much
		want string
	}{
		{"drop table", "DROP TABLE users;", "destructive: drop-table"},
		{"drop column", "ALTER TABLE users DROP COLUMN mail;", "destructive: drop-column"},
		{"delete without where", "DELETE FROM users;", "destructive: delete-all"},
		{"a commit inside", "CREATE TABLE x (id int);\nCOMMIT;\nCREATE TABLE y (id int);", "transaction"},
		{"nested transactions", strings.Repeat("BEGIN;\n", 2) + "CREATE TABLE x (id int);" + strings.Repeat("\nCOMMIT;", 2), "transaction"},
	}
	only := map[string][]struct{ name, sql, want string }{
		"postgres": {
			{"lock timeout", "SET lock_timeout = 0;", "SET lock_timeout"},
			{"lock timeout by a function", "SELECT set_config('lock_timeout', '0', false);", "set_config"},
			{"a syntax error at the end", "CREATE TABLE x (id int);\nCREATE TABEL y (id int);", "syntax error"},
			{"concurrently among others", "CREATE TABLE x (id int);\nCREATE INDEX CONCURRENTLY i ON x (id);", "cannot run inside a transaction"},
			{"code", "DO $$ BEGIN NULL; END $$;", "opaque"},
			{"truncate", "TRUNCATE users;", "destructive: truncate"},
			{"narrower", "ALTER TABLE users ALTER COLUMN mail TYPE varchar(10);", "destructive: change-type"},
		},
		"mariadb": {
			{"a global setting", "SET GLOBAL max_connections = 1;", "SET GLOBAL"},
			{"lock timeout", "SET SESSION lock_wait_timeout = 1;", "lock_wait_timeout"},
			{"two tables at once", "DROP TABLE a, b;", "several tables"},
			{"narrower", "ALTER TABLE users MODIFY mail varchar(10);", "destructive: change-type"},
			{"another database", "USE mysql;", "session"},
		},
		"sqlite": {{"attach", "ATTACH 'x.db' AS x;", "another database"}, {"pragma", "PRAGMA journal_mode = OFF;", "journal_mode"}},
	}
	each(t, func(t *testing.T, l lab, p place) {
		t.Helper()
		l.before(t, p)
		all := only[l.name]
		for _, tt := range tests {
			all = append(all, struct{ name, sql, want string }{tt.name, tt.sql, tt.want})
		}
		start := p.world(t, "users")
		for _, tt := range all {
			dir := write(t, "1_base.sql", goose(l.base(), "DROP TABLE users;"), "2_x.sql", goose(tt.sql, "CREATE TABLE z (id int);"))
			f := p.fixture(dir, nil)
			_, err := f.Kind.Prepare(t.Context(), f.Request)
			if text := drivertest.Explain(err); err == nil || !strings.Contains(text, tt.want) {
				t.Errorf("%s: got %v, want it to say %q", tt.name, text, tt.want)
			}
			if strings.Contains(drivertest.Explain(err), canary) {
				t.Errorf("%s: the refusal shows the password", tt.name)
			}
		}
		if diff := cmp.Diff(start, p.world(t, "users")); diff != "" {
			t.Errorf("refusals changed something:\n%s", diff)
		}
	})
}

// An allowed destructive statement makes the step the point of no return.
func TestAllowedIsIrreversible(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, l lab, p place) {
		t.Helper()
		l.before(t, p)
		dir := write(t, "1_base.sql", goose(l.base(), "DROP TABLE users;"), "2_x.sql", goose("ALTER TABLE users DROP COLUMN mail;", "ALTER TABLE users ADD COLUMN mail varchar(100);"))
		tr := drivertest.NewTrial(t, p.fixture(dir, map[string]any{"allow": []string{"drop-column"}}))
		if tr.Step.Class != backstay.Irreversible || tr.Step.HasUndo || !strings.Contains(tr.Step.Irreversible, "drop column") {
			t.Errorf("class %s, has undo %v, reason %q", tr.Step.Class, tr.Step.HasUndo, tr.Step.Irreversible)
		}
	})
}

// A file that was applied and changed since is refused, and one that is missing.
func TestChangedFilesAreRefused(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, _ lab, p place) {
		t.Helper()
		first := goose("CREATE TABLE a (id int);", "DROP TABLE a;")
		tr := drivertest.NewTrial(t, p.fixture(write(t, "1_a.sql", first), nil))
		tr.Begin(t)
		if err := tr.Do(t.Context()); err != nil {
			t.Fatal(err)
		}
		for want, files := range map[string][]string{
			"another content of this file": {"1_a.sql", goose("CREATE TABLE a (id bigint);", "DROP TABLE a;")},
			"no file has it":               {"2_b.sql", first},
		} {
			f := p.fixture(write(t, files...), nil)
			_, err := f.Kind.Prepare(t.Context(), f.Request)
			if text := drivertest.Explain(err); !strings.Contains(text, want) {
				t.Errorf("got %s, want it to say %q", text, want)
			}
		}
	})
}
