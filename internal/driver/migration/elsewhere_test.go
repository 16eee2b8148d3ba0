package migration_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/drivertest"
	"github.com/backstay-dev/backstay/internal/driver/migration"
)

// On MariaDB a statement that names a database acts there, from a scratch database
// too: neither verify nor a drill runs it.
func TestScratchReachesNoOtherDatabase(t *testing.T) {
	t.Parallel()
	l := labs()[2]
	p := l.shared(t)(t)
	p.exec(t, "CREATE TABLE users (id bigint PRIMARY KEY, mail varchar(40))", "INSERT INTO users VALUES (1, 'ann')")
	name := p.dsn[strings.LastIndexByte(p.dsn, '/')+1:]
	name, _, _ = strings.Cut(name, "?")
	before, rows := p.dump(t), p.world(t, "users")
	for what, statement := range map[string]string{
		"plain":   "ALTER TABLE " + name + ".users ADD COLUMN level int;",
		"quoted":  "DELETE FROM `" + name + "` . users WHERE id = 1;",
		"comment": "ALTER TABLE /*!50000 " + name + ". */ users ADD COLUMN level int;",
		"body":    "CREATE PROCEDURE tidy() DELETE FROM " + name + ".users;",
	} {
		dir := write(t, "1_a.sql", goose("-- +goose StatementBegin\n"+statement+"\n-- +goose StatementEnd", "SELECT 1;"))
		f := p.fixture(dir, map[string]any{"allow": []string{"opaque", "delete-all"}})
		v, err := migration.New().Verify(t.Context(), f.Request, backstay.VerifyFrom{Scratch: ""})
		if err != nil || v.Migrations[0].Result != backstay.VerifiedUpFails || !strings.Contains(v.Migrations[0].Reason, "names the database "+name) {
			t.Errorf("%s: verify: %v, %+v", what, err, v.Migrations)
		}
		step := drivertest.NewTrial(t, f).Step
		if s, err := migration.New().Scratch(t.Context(), step, f.Request.Secrets); err == nil || !strings.Contains(err.Error(), "name the database "+name) {
			t.Errorf("%s: a scratch database was made (%v, %v)", what, s, err)
		}
	}
	if diff := cmp.Diff(before, p.dump(t)); diff != "" {
		t.Errorf("the step's own database changed:\n%s", diff)
	}
	if diff := cmp.Diff(rows, p.world(t, "users")); diff != "" {
		t.Errorf("its rows changed:\n%s", diff)
	}

	// What is there already may lead back as well.
	p.exec(t, "CREATE TRIGGER watch AFTER INSERT ON users FOR EACH ROW DELETE FROM "+name+".users WHERE id = 0")
	f := p.fixture(write(t, "1_a.sql", goose("CREATE TABLE b (id int);", "DROP TABLE b;")), nil)
	step := drivertest.NewTrial(t, f).Step
	if s, err := migration.New().Scratch(t.Context(), step, f.Request.Secrets); err == nil || !strings.Contains(err.Error(), "names the database "+name) {
		t.Errorf("with a trigger: a scratch database was made (%v, %v)", s, err)
	}
}
