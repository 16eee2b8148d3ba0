package migration_test

import (
	"testing"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/drivertest"
	"github.com/backstay-dev/backstay/internal/driver/migration"
)

// Columns in another order are another table: users insert by it. Keys in another
// order are the same.
func TestRehearsedSeesTheOrder(t *testing.T) {
	t.Parallel()
	p := labs()[2].shared(t)(t)
	p.exec(t, "CREATE TABLE users (id bigint PRIMARY KEY, mail varchar(40), nick varchar(40), KEY a (mail), KEY b (nick))")
	f := p.fixture(write(t, "1_a.sql", goose("CREATE TABLE b (id int);", "DROP TABLE b;")), nil)
	call := backstay.Call{Step: drivertest.NewTrial(t, f).Step, Secrets: f.Request.Secrets}
	using, err := migration.New().Rehearse(t.Context(), call)
	if err != nil {
		t.Fatal(err)
	}
	p.exec(t, "DROP INDEX a ON users", "CREATE INDEX a ON users (mail)")
	if got, err := using.End(t.Context()); err != nil || len(got.Differs) > 0 {
		t.Errorf("a key made again: %v, %q", err, got.Differs)
	}
	for order, want := range map[string]int{"mail": 0, "nick": 1} {
		using, err := migration.New().Rehearse(t.Context(), call)
		if err != nil {
			t.Fatal(err)
		}
		p.exec(t, "ALTER TABLE users MODIFY COLUMN nick varchar(40) AFTER id", "ALTER TABLE users MODIFY COLUMN "+order+" varchar(40) AFTER id")
		got, err := using.End(t.Context())
		if err != nil || len(got.Differs) != want {
			t.Errorf("%s first: %v, %q", order, err, got.Differs)
		}
		p.exec(t, "ALTER TABLE users MODIFY COLUMN mail varchar(40) AFTER id")
	}
}
