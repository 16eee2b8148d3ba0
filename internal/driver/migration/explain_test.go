package migration_test

import (
	"strings"
	"testing"

	"github.com/backstay-dev/backstay/internal/driver/drivertest"
	"github.com/backstay-dev/backstay/internal/driver/migration"
)

// A person goes on with the tool whose files they are, and the URL is nowhere.
func TestExplain(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		files    []string
		up, down string
	}{
		{"goose", []string{"1_a.sql", goose("CREATE TABLE a (id int);", "DROP TABLE a;"), "2_b.sql", goose("CREATE TABLE b (id int);", "DROP TABLE b;")}, " up-to 2", " down-to 0"},
		{"golang-migrate", []string{"1_a.up.sql", "CREATE TABLE a (id int);", "1_a.down.sql", "DROP TABLE a;"}, " goto 1", " down -all"},
		{"dbmate", []string{"1_a.sql", "-- migrate:up\nCREATE TABLE a (id int);\n-- migrate:down\nDROP TABLE a;\n"}, " up", " rollback"},
		{"flyway", []string{"V1__a.sql", "CREATE TABLE a (id int);", "U1__a.sql", "DROP TABLE a;"}, " -target=1 migrate", " -target=1 undo"},
	}
	each(t, func(t *testing.T, _ lab, p place) {
		t.Helper()
		for _, tt := range tests {
			step := drivertest.NewTrial(t, p.fixture(write(t, tt.files...), nil)).Step
			e, err := migration.New().Explain(step)
			if err != nil || len(e.Do) != 1 || len(e.Undo) != 1 || len(e.Read) == 0 {
				t.Fatalf("%s: got %+v, %v", tt.name, e, err)
			}
			if !strings.HasSuffix(e.Do[0].Line, tt.up) || !strings.HasSuffix(e.Undo[0].Line, tt.down) {
				t.Errorf("%s: it says %q and %q, want them to end with %q and %q", tt.name, e.Do[0].Line, e.Undo[0].Line, tt.up, tt.down)
			}
			for _, c := range [][]string{{e.Do[0].Line}, {e.Undo[0].Line}, {e.Read[0].Line}} {
				if strings.Contains(c[0], "://") {
					t.Errorf("%s: a URL is shown: %q", tt.name, c[0])
				}
			}
		}
	})
}
