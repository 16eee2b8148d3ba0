package migration_test

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/drivertest"
	"github.com/backstay-dev/backstay/internal/driver/migration/snapshot"
	"github.com/backstay-dev/backstay/internal/parts"
)

// snapshot is a step that takes a snapshot of a place.
func (p place) snapshot(more map[string]any) drivertest.Fixture {
	f := p.fixture(".", nil)
	ref := "secret:env/DATABASE_URL"
	if strings.HasPrefix(p.url, "sqlite:") {
		ref = p.url
	}
	keys := map[string]any{"database": ref}
	maps.Copy(keys, more)
	config, err := json.Marshal(map[string]any{"snapshot": keys})
	if err != nil {
		panic(err)
	}
	f.Kind, f.Request.Config, f.Request.ID = snapshot.New(), config, "save"
	return f
}

// saved is what a directory of snapshots holds, by name.
func saved(tb testing.TB, dir string) map[string]string {
	tb.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		tb.Fatal(err)
	}
	files := map[string]string{}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			tb.Fatal(err)
		}
		files["file "+e.Name()] = info.Mode().String()
	}
	return files
}

func snapshotConformance(t *testing.T, l lab, make func(testing.TB) place) {
	t.Helper()
	drivertest.Run(t, drivertest.Suite{
		MaxCuts:     cuts(),
		CancelAfter: []time.Duration{80 * time.Millisecond},
		New: func(t *testing.T) drivertest.Fixture {
			t.Helper()
			p, dir := make(t), t.TempDir()
			l.before(t, p)
			f := p.snapshot(map[string]any{"into": dir})
			f.World = func(tb testing.TB) map[string]string {
				tb.Helper()
				w := p.world(tb, "users")
				maps.Copy(w, saved(tb, dir))
				return w
			}
			f.Leftovers = func(tb testing.TB) []string {
				tb.Helper()
				parts, err := filepath.Glob(filepath.Join(dir, "*.part*"))
				if err != nil {
					tb.Fatal(err)
				}
				return parts
			}
			if l.name != "sqlite" {
				f.Canaries = []string{canary}
			}
			f.Mutations = []drivertest.Mutation{{Name: "another deployment's", Apply: func(tb testing.TB) {
				tb.Helper()
				act(tb, p.snapshot(map[string]any{"into": dir}), "0190a000-0000-7000-8000-00000000000f")
			}}}
			return f
		},
	})
}

// A dump holds the rows, is for nobody else to read, and says in its manifest what
// was found when it was loaded.
func snapshotHolds(t *testing.T, l lab, make func(testing.TB) place) {
	t.Helper()
	p := make(t)
	l.before(t, p)
	p.exec(t, "CREATE TABLE empty_one (id int)")
	dir, before := t.TempDir(), p.world(t, "users")
	note := act(t, p.snapshot(map[string]any{"into": dir}), "0190a000-0000-7000-8000-000000000002")
	t.Log(note)
	if !strings.Contains(note, "in 3 tables") {
		t.Errorf("the note does not tell of three tables: %s", note)
	}
	for name, mode := range saved(t, dir) {
		if mode != "-rw-------" {
			t.Errorf("%s has mode %s", name, mode)
		}
	}
	text, err := os.ReadFile(filepath.Join(dir, "shop.save.0190a000-0000-7000-8000-000000000002.json"))
	if err != nil {
		t.Fatal(err)
	}
	var m struct {
		Verified bool
		Rows     map[string]int64
	}
	if err := json.Unmarshal(text, &m); err != nil {
		t.Fatal(err)
	}
	got := map[string]int64{}
	for table, n := range m.Rows {
		got[strings.Trim(table, "`\"")] = n
	}
	if diff := cmp.Diff(map[string]int64{"users": 3, "empty_one": 0, "goose_db_version": 2}, got); diff != "" || !m.Verified {
		t.Errorf("the manifest (verified %v) counts other rows (-want +got):\n%s", m.Verified, diff)
	}
	if strings.Contains(string(text), canary) {
		t.Error("the manifest holds the password")
	}
	// It is restored from by the commands of the guide.
	p.exec(t, "DELETE FROM users WHERE id < 3", "DROP TABLE empty_one")
	p.load(t, filepath.Join(dir, "shop.save.0190a000-0000-7000-8000-000000000002.dump"))
	if diff := cmp.Diff(before, p.world(t, "users")); diff != "" {
		t.Errorf("restored from the dump (-before +now):\n%s", diff)
	}
	// What cannot be taken is refused by the plan.
	for name, tt := range map[string]struct {
		more map[string]any
		want string
	}{
		"no place":       {map[string]any{}, "needs a place"},
		"no directory":   {map[string]any{"into": dir + "/none"}, "cannot be opened"},
		"not archived":   {map[string]any{"method": "restore-point"}, "archive its log"},
		"a file's place": {map[string]any{"into": filepath.Join(dir, "shop.save.0190a000-0000-7000-8000-000000000002.json")}, "no directory"},
	} {
		if name == "not archived" && l.name != "postgres" {
			tt.want = "only PostgreSQL"
		}
		_, err := snapshot.New().Prepare(t.Context(), p.snapshot(tt.more).Request)
		if got := drivertest.Explain(err); err == nil || !strings.Contains(got, tt.want) {
			t.Errorf("%s: got %v, want a refusal that says %q", name, got, tt.want)
		}
	}
}

// load restores a place from a dump, as docs/guide/databases.md says.
func (p place) load(t *testing.T, dump string) {
	t.Helper()
	switch p.driver {
	case "pgx":
		tool(t, "pg_restore", "--clean", "--if-exists", "--single-transaction", "--exit-on-error", "--dbname", p.dsn, dump)
	case "mysql":
		content, err := os.Open(dump)
		if err != nil {
			t.Fatal(err)
		}
		defer content.Close()
		_, rest, _ := strings.Cut(p.dsn, ":")
		port, name, _ := strings.Cut(rest, ")/")
		cmd := exec.CommandContext(t.Context(), "mariadb", "-h", "127.0.0.1", "-P", port, "-u", "root", name)
		cmd.Stdin = content
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	default:
		content, err := os.ReadFile(dump)
		if err == nil {
			err = os.WriteFile(strings.TrimPrefix(p.url, "sqlite:"), content, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// A restore point is one: a second cluster, from a base backup and the archive,
// comes up with the rows from before it and none from after, byte for byte.
func TestRestorePointRecovers(t *testing.T) {
	t.Parallel()
	pg := parts.StartPostgres(t)
	archive := pg.Archive(t)
	dsn := pg.Database(t)
	p := place{url: strings.Replace(dsn, "backstay@", "backstay:"+canary+"@", 1), driver: "pgx", dsn: dsn}
	dump := func(dsn string) string { return tool(t, "pg_dump", "-T", "backstay_*", dsn) }
	p.exec(t, "CREATE TABLE users (id bigint PRIMARY KEY, mail text)", "INSERT INTO users SELECT i, 'mail ' || i FROM generate_series(1, 1000) i")
	backup := pg.Backup(t)
	p.exec(t, "UPDATE users SET mail = 'after the backup' WHERE id = 7", "CREATE TABLE later (id int)")

	tr := drivertest.NewTrial(t, p.snapshot(map[string]any{"method": "restore-point", "within": "30s"}))
	tr.Begin(t)
	want := dump(dsn)
	if err := tr.Do(t.Context()); err != nil {
		t.Fatalf("Do: %v (hint: %s)", err, backstay.HintOf(err))
	}
	t.Log(tr.Notes[0])
	tr.After = tr.Observe(t, false)
	var at struct{ Name string }
	if err := json.Unmarshal(tr.After[tr.Step.Keys[0]].Parts[""], &at); err != nil || at.Name == "" {
		t.Fatalf("the state names no restore point: %v", err)
	}
	p.exec(t, "DROP TABLE later", "DELETE FROM users WHERE id > 10", "INSERT INTO users VALUES (5000, 'too late')")

	second := pg.Second(t, backup, "recovery.signal",
		"restore_command = 'cp "+archive+"/%f %p'", "recovery_target_name = '"+at.Name+"'", "recovery_target_action = 'promote'", "archive_mode = 'off'")
	recovered := place{driver: "pgx", dsn: second.DSN()[:strings.LastIndexByte(second.DSN(), '/')] + dsn[strings.LastIndexByte(dsn, '/'):]}
	wait(t, "it has recovered", func() bool {
		return recovered.texts(t, "SELECT CASE WHEN pg_is_in_recovery() THEN 'no' ELSE 'yes' END")[0] == "yes"
	})
	if diff := cmp.Diff(want, dump(recovered.dsn)); diff != "" {
		t.Errorf("the recovered database is not the one at the restore point (-want +got):\n%s", diff)
	}

	// Taken once, and forgotten by the undo.
	if err := tr.Do(t.Context()); err != nil || tr.Notes[len(tr.Notes)-1] != "it is taken already" {
		t.Errorf("the second do: %v, %v", err, tr.Notes)
	}
	if err := tr.Undo(t, t.Context()); err != nil || !tr.Observe(t, false).Equal(tr.Before) {
		t.Errorf("after the undo (%v) the state is not as before", err)
	}
	// An archive that fails is no restore point.
	pg.Exec(t, pg.DSN(), "ALTER SYSTEM SET archive_command = 'false'")
	pg.Exec(t, pg.DSN(), "SELECT pg_reload_conf()")
	failing := drivertest.NewTrial(t, p.snapshot(map[string]any{"method": "restore-point", "within": "2s"}))
	failing.Begin(t)
	if err := failing.Do(t.Context()); err == nil || !strings.Contains(err.Error(), "not archived in time") {
		t.Errorf("an archive that fails: got %v", err)
	}
	if !failing.Observe(t, false).Equal(failing.Before) {
		t.Error("a restore point that is not archived counts")
	}
}
