package public_test

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/openfga/openfga/assets"
	"github.com/riverqueue/river/riverdriver/riverdatabasesql"
	"github.com/riverqueue/river/riverdriver/riversqlite"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/migration"
	"github.com/backstay-dev/backstay/internal/parts"
)

// set are the migrations of one project for one kind of database.
type set struct {
	name     string
	files    fs.FS
	dir      string
	database func(t *testing.T) string
	// known is what is found, by version, where a down does not restore the schema:
	// it is theirs, and looked at once. Everything else must restore it.
	known map[string]backstay.VerifiedResult
}

func sets() []set {
	return []set{
		{name: "openfga, PostgreSQL", files: assets.EmbedMigrations, dir: "migrations/postgres", database: onPostgres},
		{name: "openfga, MariaDB", files: assets.EmbedMigrations, dir: "migrations/mysql", database: onMariaDB, known: map[string]backstay.VerifiedResult{
			"7": backstay.VerifiedUpFails, "8": backstay.VerifiedNotRun, // MySQL's LOCK = NONE, which MariaDB does not know there
		}},
		{name: "openfga, SQLite", files: assets.EmbedMigrations, dir: "migrations/sqlite", database: onSQLite},
		{name: "river, PostgreSQL", files: riverdatabasesql.New(nil).GetMigrationFS("main"), dir: "migration/main", database: onPostgres, known: map[string]backstay.VerifiedResult{
			"4": backstay.VerifiedDiffers, // a value of an enumeration stays, as the file says
		}},
		{name: "river, SQLite", files: riversqlite.New(nil).GetMigrationFS("main"), dir: "migration/main", database: onSQLite, known: map[string]backstay.VerifiedResult{
			"8": backstay.VerifiedDiffers, // the columns come in another order
		}},
	}
}

// TestVerify runs every migration up, down and up on a scratch database and reports how
// many downs restore the schema.
func TestVerify(t *testing.T) {
	t.Parallel()
	for _, s := range sets() {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			dir := s.write(t)
			config, err := json.Marshal(map[string]any{"migrate": map[string]any{"database": "secret:env/DATABASE_URL", "dir": dir}})
			if err != nil {
				t.Fatal(err)
			}
			v, err := migration.New().Verify(t.Context(), backstay.Request{
				ID: "schema", Release: "public", Config: config, Dir: dir, DataDir: t.TempDir(), Secrets: secret(s.database(t)),
			}, backstay.VerifyFrom{})
			if err != nil {
				t.Fatal(err)
			}
			restore := 0
			for _, m := range v.Migrations {
				want, known := s.known[m.Version]
				if !known {
					want = backstay.VerifiedRestores
				}
				if m.Result == backstay.VerifiedRestores {
					restore++
				}
				var differs []string
				for _, d := range m.Differs {
					differs = append(differs, d.Object)
				}
				if m.Result != want {
					t.Errorf("%s: %s, want %s", m.File, m.Result, want)
				}
				if m.Result != backstay.VerifiedRestores {
					t.Logf("%s: %s %s %v", m.File, m.Result, m.Reason, differs)
				}
			}
			t.Logf("%d of %d downs restore the schema", restore, len(v.Migrations))
			if len(v.Migrations) == 0 {
				t.Error("there is nothing to verify")
			}
		})
	}
}

// write puts the files into a directory.
func (s set) write(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	entries, err := fs.ReadDir(s.files, s.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".sql") {
			continue
		}
		data, err := fs.ReadFile(s.files, s.dir+"/"+e.Name())
		// River's are templates, which it fills with the name of a schema, or nothing.
		data = bytes.ReplaceAll(data, []byte("/* TEMPLATE: schema */"), nil)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, e.Name()), data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

type secret string

func (s secret) Resolve(string) (string, error) { return string(s), nil }

func onPostgres(t *testing.T) string {
	t.Helper()
	return parts.StartPostgres(t).DSN()
}

func onMariaDB(t *testing.T) string {
	t.Helper()
	m := parts.StartMariaDB(t)
	return m.URL(m.Database(t))
}

func onSQLite(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "public.db")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return "sqlite:" + path
}
