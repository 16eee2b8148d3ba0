package migration_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/migration"
)

// Verified on the schema of the step's own database, with a sample of its rows, a
// down that brings back the schema and not the values is found; the database itself
// is only read.
func TestVerifyRestored(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, l lab, p place) {
		t.Helper()
		p.exec(t, "CREATE TABLE users (id "+l.serial+", mail varchar(40) NOT NULL, born date)",
			"CREATE TABLE orders (id int PRIMARY KEY, user_id bigint NOT NULL, price decimal(9,2), FOREIGN KEY (user_id) REFERENCES users (id))",
			"CREATE INDEX users_by_mail ON users (mail)",
			"INSERT INTO users (mail, born) VALUES ('ann', '2001-02-03'), ('bob', NULL), ('eve', '1999-12-31')",
			"INSERT INTO orders VALUES (1, 1, 1.25), (2, 3, NULL)")
		schema, rows := p.dump(t), p.world(t, "users", "orders")
		dir := write(t,
			"1_level.sql", goose("ALTER TABLE users ADD COLUMN level int;\nUPDATE users SET level = 1 WHERE id > 1;", "ALTER TABLE users DROP COLUMN level;"),
			"2_tidy.sql", goose("UPDATE users SET mail = 'nobody' WHERE id = 2;", "SELECT 1;"),
			"3_more.sql", goose("INSERT INTO users (mail) VALUES ('dan');", "DELETE FROM users WHERE mail = 'dan';"),
			"4_leaves.sql", goose("CREATE TABLE b (id int);", "SELECT 1;"))
		verify := func(from backstay.VerifyFrom) (backstay.Verification, string) {
			v, err := migration.New().Verify(t.Context(), p.fixture(dir, nil).Request, from)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, m := range v.Migrations {
				got = append(got, m.Version+" "+string(m.Result))
			}
			return v, strings.Join(got, ", ")
		}
		if _, got := verify(backstay.VerifyFrom{}); !strings.HasPrefix(got, "1 up_fails") {
			t.Errorf("on an empty database: %s", got)
		}
		if _, got := verify(backstay.VerifyFrom{Restored: true}); got != "1 restores, 2 restores, 3 restores, 4 differs" {
			t.Errorf("on the schema alone: %s", got)
		}
		v, got := verify(backstay.VerifyFrom{Restored: true, Rows: 100})
		if got != "1 restores, 2 loses_rows, 3 restores, 4 differs" || len(v.NotCopied) > 0 {
			t.Errorf("with rows: %s; not copied: %v", got, v.NotCopied)
		}
		if r := v.Migrations[1].Rows; len(r) != 1 || !strings.HasPrefix(r[0], "users: 3 rows, contents ") || !strings.Contains(r[0], "; after up and down 3 rows, contents ") {
			t.Errorf("what the second does to rows: %q", r)
		}
		if diff := cmp.Diff(schema, p.dump(t)); diff != "" {
			t.Errorf("the step's own database changed:\n%s", diff)
		}
		if diff := cmp.Diff(rows, p.world(t, "users", "orders")); diff != "" {
			t.Errorf("its rows changed:\n%s", diff)
		}
	})
}
