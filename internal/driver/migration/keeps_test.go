package migration_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay/internal/driver/drivertest"
	"github.com/backstay-dev/backstay/internal/driver/migration/database"
	"github.com/backstay-dev/backstay/internal/driver/migration/files"
	"github.com/backstay-dev/backstay/internal/driver/migration/mysql"
	"github.com/backstay-dev/backstay/internal/driver/migration/postgres"
	"github.com/backstay-dev/backstay/internal/driver/migration/sqlite"
)

// What a statement that keeps all values leaves is not measured again. Where that
// were told of too many, an undo would take the deployment's own rows for others'.
func TestStatementsThatKeepValues(t *testing.T) {
	t.Parallel()
	dialects := []database.Dialect{postgres.Dialect{}, mysql.Dialect{}, sqlite.Dialect{}}
	tests := []struct {
		sql                     string
		postgres, mysql, sqlite bool
	}{
		{"CREATE TABLE a (id int)", true, true, true},
		{"CREATE TABLE a AS SELECT 1 AS one", false, false, false},
		{"CREATE INDEX i ON a (id)", true, true, true},
		{"CREATE VIEW v AS SELECT 1", true, true, true},
		{"ALTER TABLE a ADD COLUMN b int", true, true, true},
		{"ALTER TABLE a ADD COLUMN b int DEFAULT 7 NOT NULL", true, true, true},
		{"ALTER TABLE a DROP COLUMN b", false, false, false},
		{"ALTER TABLE a RENAME COLUMN b TO c", false, false, false},
		{"ALTER TABLE a RENAME TO b", false, false, false},
		{"ALTER TABLE a ALTER COLUMN b SET DEFAULT 7", false, false, false},
		{"ALTER TABLE a ADD COLUMN b int, DROP COLUMN c", false, false, false},
		{"ALTER TABLE a ALTER COLUMN b TYPE bigint", false, false, false},
		{"ALTER TABLE a MODIFY COLUMN b bigint", false, false, false},
		{"DROP TABLE a", true, true, false},
		{"DROP TABLE a CASCADE", false, true, false},
		{"DROP INDEX i", true, false, true},
		{"DROP INDEX i ON a", false, true, true},
		{"INSERT INTO a VALUES (1)", false, false, false},
		{"UPDATE a SET id = 1 WHERE id = 2", false, false, false},
		{"DELETE FROM a WHERE id = 1", false, false, false},
		{"TRUNCATE TABLE a", false, false, false},
		{"SELECT f()", false, false, false},
		{"DO $$ BEGIN DELETE FROM a; END $$", false, false, false},
		{"no statement at all", false, false, false},
	}
	for _, tt := range tests {
		for i, want := range []bool{tt.postgres, tt.mysql, tt.sqlite} {
			all, _ := dialects[i].Parse(files.Script{Chunks: []files.Chunk{{Text: tt.sql, Line: 1}}}, database.NewKnown())
			for _, st := range all {
				if st.Keeps != want {
					t.Errorf("%s, %q keeps all values: got %v", dialects[i].Name(), tt.sql, st.Keeps)
				}
			}
		}
	}
}

// What later migrations write into what earlier ones added is the deployment's own.
func TestLaterMigrationsChangeWhatEarlierOnesAdded(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, l lab, p place) {
		t.Helper()
		dir := write(t,
			"1_a.sql", goose("CREATE TABLE a (id int PRIMARY KEY, mail varchar(20));\nINSERT INTO a VALUES (1, 'one');", "DROP TABLE a;"),
			"2_b.sql", goose("CREATE TABLE b (id int PRIMARY KEY);", "DROP TABLE b;"),
			"3_c.sql", goose("INSERT INTO a VALUES (2, 'two');\nINSERT INTO b VALUES (1);", "DELETE FROM a WHERE id = 2;\nDELETE FROM b WHERE id = 1;"),
			"4_d.sql", goose("ALTER TABLE a ADD COLUMN level int;", "ALTER TABLE a DROP COLUMN level;"),
			"5_e.sql", goose("UPDATE a SET level = id, mail = 'three' WHERE id = 2;", "UPDATE a SET level = NULL, mail = 'two' WHERE id = 2;"))
		before := p.dump(t)
		tr := drivertest.NewTrial(t, p.fixture(dir, nil))
		tr.Begin(t)
		if err := tr.Do(t.Context()); err != nil {
			t.Fatal(err)
		}
		tr.After = tr.Observe(t, false)
		if err := tr.Undo(t, t.Context()); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(before, p.dump(t)); diff != "" {
			t.Errorf("the schema is not as before (-before +after):\n%s", diff)
		}
	})
}
