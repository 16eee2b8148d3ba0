package migration_test

import (
	"context"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/drivertest"
	"github.com/backstay-dev/backstay/internal/driver/migration"
	"github.com/backstay-dev/backstay/internal/driver/migration/database"
	"github.com/backstay-dev/backstay/internal/driver/migration/files"
	"github.com/backstay-dev/backstay/internal/driver/migration/mysql"
)

// database is the name of the place's own on MariaDB's server.
func (p place) database() string { return p.dsn[strings.LastIndexByte(p.dsn, '/')+1:] }

// On MariaDB a statement that names a database acts there, from a scratch database
// too: neither verify nor a drill runs it.
func TestScratchReachesNoOtherDatabase(t *testing.T) {
	t.Parallel()
	l := labs()[2]
	p := l.shared(t)(t)
	p.exec(t, "CREATE TABLE users (id bigint PRIMARY KEY, mail varchar(40))", "INSERT INTO users VALUES (1, 'ann')")
	name := p.database()
	name, _, _ = strings.Cut(name, "?")
	before, rows := p.dump(t), p.world(t, "users")
	for what, statement := range map[string]string{
		"plain":   "ALTER TABLE " + name + ".users ADD COLUMN level int;",
		"quoted":  "DELETE FROM `" + name + "` . users WHERE id = 1;",
		"comment": "ALTER TABLE /*!50000 " + name + ". */ users ADD COLUMN level int;",
		"body":    "CREATE PROCEDURE tidy() DELETE FROM " + name + ".users;",
		"apart":   "DELETE FROM " + name + "/* its */.users WHERE id = 1;",
		"dot":     "DELETE FROM " + name + " /*!50000 .users */ WHERE id = 1;",
		"version": "DELETE FROM /*!50000" + name + ".users */ WHERE id = 1;",
		"drops":   "CREATE PROCEDURE tidy() DROP DATABASE IF EXISTS " + name + ";",
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

// Some statements that act on the server or on another database are not known to the
// grammar, or stand in comments that servers execute, as in files made of a dump.
func TestMySQLOutside(t *testing.T) {
	t.Parallel()
	l := labs()[2]
	p := l.shared(t)(t)
	p.exec(t, "CREATE TABLE users (id bigint PRIMARY KEY)", "INSERT INTO users VALUES (1)")
	name := p.database()
	before, rows := p.dump(t), p.world(t, "users")
	for _, statement := range []string{
		"/*!40000 DROP DATABASE IF EXISTS `" + name + "`*/;",
		"DROP /*!50000 DATABASE */ " + name + ";",
		"CREATE DATABASE /*!32312 IF NOT EXISTS*/ " + name + "_more;",
		"CREATE OR REPLACE DATABASE " + name + ";",
		"SET STATEMENT lock_wait_timeout = 1 FOR DROP DATABASE " + name + ";",
		"/*!50000 USE " + name + " */;\nDROP TABLE users;",
		"EXECUTE IMMEDIATE 'DROP DATABASE " + name + "';",
		"/*!40101 SET GLOBAL max_connections = 499 */;",
		"RENAME USER nobody TO noone;",
	} {
		f := p.fixture(write(t, "1_a.sql", goose(statement, "SELECT 1;")), map[string]any{"allow": []string{"opaque", "drop-table"}})
		if _, err := f.Kind.Prepare(t.Context(), f.Request); err == nil || !strings.Contains(drivertest.Explain(err), "the server or another database") {
			t.Errorf("%s: prepared: %s", statement, drivertest.Explain(err))
		}
		v, err := migration.New().Verify(t.Context(), f.Request, backstay.VerifyFrom{})
		if err != nil || v.Migrations[0].Result != backstay.VerifiedUpFails {
			t.Errorf("%s: verify: %v, %+v", statement, err, v.Migrations)
		}
	}
	if diff := cmp.Diff(before, p.dump(t)); diff != "" {
		t.Errorf("the step's own database changed:\n%s", diff)
	}
	if diff := cmp.Diff(rows, p.world(t, "users")); diff != "" {
		t.Errorf("its rows changed:\n%s", diff)
	}
}

// Names of databases are found however they are written.
func TestMySQLQualified(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"DELETE FROM größe.users WHERE id = 1", "DELETE FROM \"größe\".users WHERE id = 1", "DELETE FROM größe\v.users WHERE id = 1",
		"DELETE FROM größe # its\n.users WHERE id = 1", "DELETE FROM größe -- its\n.users WHERE id = 1", "DELETE FROM `größe`/**/.users WHERE id = 1",
		"SELECT `a`, größe.users.id, `.` FROM x",
	} {
		all, _ := mysql.Dialect{}.Parse(files.Script{Chunks: []files.Chunk{{Text: text, Line: 1, Whole: true}}}, database.NewKnown())
		if len(all) != 1 || mysql.Elsewhere(all[0].Qualified, []string{"größe"}) == "" {
			t.Errorf("%q: got %+v", text, all)
		}
		if mysql.Leads("CREATE PROCEDURE p()\n"+text+";\n", []string{"größe"}) == "" {
			t.Errorf("%q in a dump leads nowhere", text)
		}
	}
	all, _ := mysql.Dialect{}.Parse(files.Script{Chunks: []files.Chunk{{Text: "ALTER TABLE größe ADD COLUMN shop int", Line: 1}}}, database.NewKnown())
	if name := mysql.Elsewhere(all[0].Qualified, []string{"größe", "shop"}); name != "" {
		t.Errorf("a table is taken for the database %s", name)
	}
}

// What was made under another character set of the database has its dump set that, by
// the database's name.
func TestScratchSetsNoCharacterSetElsewhere(t *testing.T) {
	t.Parallel()
	p := labs()[2].shared(t)(t)
	name := p.database()
	p.exec(t, "CREATE TABLE users (id bigint PRIMARY KEY)", "CREATE TRIGGER watch BEFORE INSERT ON users FOR EACH ROW SET NEW.id = NEW.id + 1", "ALTER DATABASE "+name+" CHARACTER SET utf8mb4",
		"SET GLOBAL log_output = 'TABLE'", "SET GLOBAL general_log = ON")
	t.Cleanup(func() { p.exec(t, "SET GLOBAL general_log = OFF", "TRUNCATE mysql.general_log") })
	f := p.fixture(write(t, "1_a.sql", goose("CREATE TABLE b (id int);", "DROP TABLE b;")), nil)
	s, err := migration.New().Scratch(t.Context(), drivertest.NewTrial(t, f).Step, f.Request.Secrets)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(t.Context()); err != nil {
		t.Error(err)
	}
	if all := p.texts(t, "SELECT argument FROM mysql.general_log WHERE argument LIKE 'ALTER DATABASE `"+name+"`%'"); len(all) > 0 {
		t.Errorf("the step's own database was changed: %q", all)
	}
	if all := p.texts(t, "SELECT argument FROM mysql.general_log WHERE argument LIKE 'ALTER DATABASE  %CHARACTER SET%'"); len(all) == 0 {
		t.Error("the dump sets no character set: nothing was tested")
	}
}

// A template serves all steps of its database: each is looked at before it acts.
func TestRebindLooksAtEachStep(t *testing.T) {
	t.Parallel()
	p := labs()[2].shared(t)(t)
	name := p.database()
	p.exec(t, "CREATE TABLE users (id bigint PRIMARY KEY)")
	step := func(up string) (backstay.Step, drivertest.Fixture) {
		f := p.fixture(write(t, "1_a.sql", goose(up, "SELECT 1;")), nil)
		return drivertest.NewTrial(t, f).Step, f
	}
	good, f := step("CREATE TABLE b (id int);")
	bad, _ := step("ALTER TABLE " + name + ".users ADD COLUMN level int;")
	s, err := migration.New().Scratch(t.Context(), good, f.Request.Secrets)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Remove(context.WithoutCancel(t.Context())) }()
	address, err := url.Parse(p.url)
	if err != nil {
		t.Fatal(err)
	}
	one, err := s.Copy(t.Context(), address.Host)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = one.Remove(context.WithoutCancel(t.Context())) }()
	if _, err := migration.New().Rebind(t.Context(), backstay.Call{Step: good, Secrets: secrets(one.Secrets)}); err != nil {
		t.Error(err)
	}
	if _, err := migration.New().Rebind(t.Context(), backstay.Call{Step: bad, Secrets: secrets(one.Secrets)}); err == nil || !strings.Contains(err.Error(), "name the database "+name) {
		t.Errorf("a step that names the database acts on a copy: %v", err)
	}
}

// PostgreSQL's databases share roles, their own names and rights, and what code does
// over connections of its own.
func TestScratchReachesNothingShared(t *testing.T) {
	t.Parallel()
	p := labs()[1].shared(t)(t)
	address, err := url.Parse(p.url)
	if err != nil {
		t.Fatal(err)
	}
	name := strings.TrimPrefix(address.Path, "/")
	p.exec(t, "CREATE TABLE role (id int)", "GRANT CONNECT ON DATABASE "+name+" TO PUBLIC")
	shared := func() []string {
		return append(p.texts(t, "SELECT datacl::text, shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = '"+name+"'"), p.texts(t, "SELECT rolname FROM pg_roles")...)
	}
	before := shared()
	for what, statement := range map[string]string{
		"rights":  "REVOKE CONNECT ON DATABASE " + name + " FROM PUBLIC;",
		"comment": "COMMENT ON DATABASE " + name + " IS 'a drill was here';",
		"owner":   "ALTER DATABASE " + name + " OWNER TO backstay;",
		"name":    "ALTER ROLE nobody RENAME TO noone;",
		"owned":   "REASSIGN OWNED BY backstay TO backstay;",
		"code":    "DO $$ BEGIN CREATE ROLE a_drill_was_here; END $$;",
		"dblink":  "CREATE FUNCTION tidy() RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM dblink_exec('dbname=" + name + "', 'DELETE FROM role'); END $$;",
	} {
		dir := write(t, "1_a.sql", goose("-- +goose StatementBegin\n"+statement+"\n-- +goose StatementEnd", "SELECT 1;"))
		f := p.fixture(dir, map[string]any{"allow": []string{"opaque"}})
		v, err := migration.New().Verify(t.Context(), f.Request, backstay.VerifyFrom{})
		if err != nil || v.Migrations[0].Result != backstay.VerifiedUpFails || !strings.Contains(v.Migrations[0].Reason, "would from the scratch database too") {
			t.Errorf("%s: verify: %v, %+v", what, err, v.Migrations)
		}
		step := drivertest.NewTrial(t, f).Step
		if s, err := migration.New().Scratch(t.Context(), step, f.Request.Secrets); err == nil || !strings.Contains(err.Error(), "would from a scratch database too") {
			t.Errorf("%s: a scratch database was made (%v, %v)", what, s, err)
		}
	}
	if diff := cmp.Diff(before, shared()); diff != "" {
		t.Errorf("what all databases share changed:\n%s", diff)
	}

	f := p.fixture(write(t, "1_a.sql", goose("CREATE INDEX by_id ON role (id);\nGRANT SELECT ON role TO PUBLIC;\nCOMMENT ON TABLE role IS 'create role here';", "DROP INDEX by_id;")), nil)
	step := drivertest.NewTrial(t, f).Step
	s, err := migration.New().Scratch(t.Context(), step, f.Request.Secrets)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(t.Context()); err != nil {
		t.Error(err)
	}
	p.exec(t, "CREATE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM dblink_exec('dbname="+name+"', 'DELETE FROM role'); RETURN NEW; END $$")
	if s, err := migration.New().Scratch(t.Context(), step, f.Request.Secrets); err == nil || !strings.Contains(err.Error(), "its function watch() has dblink_exec") {
		t.Errorf("with a trigger's function: a scratch database was made (%v, %v)", s, err)
	}
}
