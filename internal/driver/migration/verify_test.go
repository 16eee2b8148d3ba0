package migration_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/migration"
)

func TestVerify(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, l lab, p place) {
		t.Helper()
		before := p.dump(t)
		dir := write(t,
			"1_good.sql", goose("CREATE TABLE a (id int);\nCREATE INDEX a_id ON a (id);", "DROP TABLE a;"),
			"2_leaves.sql", goose("CREATE TABLE b (id int);\nCREATE TABLE c (id int);", "DROP TABLE b;"),
			"3_one_way.sql", "-- +goose Up\nALTER TABLE b ADD COLUMN n int;\n",
			"4_wrong_down.sql", goose("CREATE TABLE d (id int);", "DROP TABLE nothing;"),
			"5_good.sql", goose("ALTER TABLE b ADD COLUMN m int;", "ALTER TABLE b DROP COLUMN m;"),
			"6_loses.sql", goose("DROP TABLE b;", "CREATE TABLE b (id int, n int, m int);"),
			"7_wrong_up.sql", goose("DROP TABLE nowhere;", "SELECT 1;"),
			"8_after.sql", goose("CREATE TABLE e (id int);", "DROP TABLE e;"),
		)
		f := p.fixture(dir, nil)
		v, err := migration.New().Verify(t.Context(), f.Request, backstay.VerifyFrom{})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, m := range v.Migrations {
			got = append(got, m.Version+" "+string(m.Result))
			for _, d := range m.Differs {
				got = append(got, "  "+d.Object[strings.LastIndexAny(d.Object, " .")+1:])
			}
		}
		want := []string{"1 restores", "2 differs", "  c", "3 no_down", "4 down_fails", "5 restores", "6 restores", "7 up_fails", "8 not_run"}
		if diff := cmp.Diff(got, want); diff != "" {
			t.Errorf("(-got +want):\n%s\n%s", diff, backstay.Canonical(v))
		}
		if loses := v.Migrations[5].Loses; len(loses) != 1 || !strings.Contains(loses[0], "drop-table") {
			t.Errorf("what the sixth loses: %v", loses)
		}
		if text := string(backstay.Canonical(v)); strings.Contains(text, canary) {
			t.Errorf("the result shows the password: %s", text)
		}
		if diff := cmp.Diff(before, p.dump(t)); diff != "" {
			t.Errorf("the step's own database changed:\n%s", diff)
		}
	})
}
