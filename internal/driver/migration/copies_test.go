package migration_test

import (
	"errors"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/drivertest"
)

var side = regexp.MustCompile(`backstay_before_[a-z0-9_]+`)

// What a destructive statement takes is in the copy that the note names, and what
// the migrations do not destroy is not copied.
func TestCopyBeforeDestruction(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, l lab, p place) {
		t.Helper()
		l.before(t, p)
		p.exec(t, "CREATE TABLE old_orders (id int, price decimal(9,2))", "INSERT INTO old_orders VALUES (1, 1.25), (2, NULL)", "CREATE TABLE other (id int)")
		users, orders := p.texts(t, "SELECT id, mail FROM users"), p.texts(t, "SELECT id, price FROM old_orders")
		dir := write(t, "00001_base.sql", goose(l.base(), "DROP TABLE users;"),
			"00002_contract.sql", goose("ALTER TABLE other ADD COLUMN more int;\nDROP TABLE old_orders;", "CREATE TABLE old_orders (id int);\nALTER TABLE other DROP COLUMN more;"),
			"00003_mail.sql", goose("ALTER TABLE users DROP COLUMN mail;", "ALTER TABLE users ADD COLUMN mail varchar(100);"))
		tr := drivertest.NewTrial(t, p.fixture(dir, map[string]any{"allow": []string{"drop-table", "drop-column"}, "snapshot": "table"}))
		if !strings.Contains(tr.Step.Summary, "with copies of old_orders, users before it") {
			t.Errorf("the plan says %q", tr.Step.Summary)
		}
		tr.Begin(t)
		if err := tr.Do(t.Context()); err != nil {
			t.Fatal(err)
		}
		note := tr.Notes[len(tr.Notes)-1]
		names := side.FindAllString(note, -1)
		if len(names) != 4 || !strings.Contains(note, "old_orders (2 rows) in "+names[0]) || !strings.Contains(note, "users (3 rows) in "+names[1]) ||
			!strings.Contains(note, "DROP TABLE "+names[0]+", "+names[1]+" once") {
			t.Fatalf("the note is %q", note)
		}
		if diff := cmp.Diff(orders, p.texts(t, "SELECT id, price FROM "+names[0])); diff != "" {
			t.Errorf("the copy of old_orders (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(users, p.texts(t, "SELECT id, mail FROM "+names[1])); diff != "" {
			t.Errorf("the copy of users (-want +got):\n%s", diff)
		}
		// Done again, it says the same and copies nothing again.
		if err := tr.Do(t.Context()); err != nil || tr.Notes[len(tr.Notes)-1] != note {
			t.Errorf("again: %v, note %q", err, tr.Notes[len(tr.Notes)-1])
		}
		p.exec(t, "DROP TABLE "+names[0], "DROP TABLE "+names[1])
	})
}

// A copy that cannot be made stops the migration before anything is destroyed, and
// leaves nothing behind.
func TestNoCopyNoDestruction(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, l lab, p place) {
		t.Helper()
		l.before(t, p)
		dir := write(t, "00001_base.sql", goose(l.base(), "DROP TABLE users;"), "00002_mail.sql", goose("ALTER TABLE users DROP COLUMN mail;", "ALTER TABLE users ADD COLUMN mail varchar(100);"))
		tr := drivertest.NewTrial(t, p.fixture(dir, map[string]any{"allow": []string{"drop-column"}, "snapshot": "table"}))
		tr.Begin(t)
		before := p.world(t, "users")
		// A view under the copy's name is in its way. The name is told by a trial of the same step elsewhere.
		twin := l.shared(t)(t)
		l.before(t, twin)
		probe := drivertest.NewTrial(t, twin.fixture(dir, map[string]any{"allow": []string{"drop-column"}, "snapshot": "table"}))
		probe.Begin(t)
		if err := probe.Do(t.Context()); err != nil {
			t.Fatal(err)
		}
		name := side.FindString(probe.Notes[0])
		p.exec(t, "CREATE VIEW "+name+" AS SELECT 1 AS one")
		if err := tr.Do(t.Context()); err == nil {
			t.Fatal("do succeeded without its copy")
		}
		p.exec(t, "DROP VIEW "+name)
		if diff := cmp.Diff(before, p.world(t, "users")); diff != "" {
			t.Errorf("(-before +after):\n%s", diff)
		}
		if now := tr.Observe(t, false); !tr.Before.Equal(now) {
			t.Errorf("the state is not as before: %s", backstay.Canonical(now))
		}
	})
}

func TestCopyRefusals(t *testing.T) {
	t.Parallel()
	for _, snapshot := range []any{"all", false, []string{"table"}} {
		f := place{url: "sqlite:x"}.fixture(t.TempDir(), map[string]any{"snapshot": snapshot})
		if _, err := f.Kind.Prepare(t.Context(), f.Request); err == nil || !strings.Contains(err.Error(), "is neither `table` nor") {
			t.Errorf("snapshot: %v: got %v", snapshot, err)
		}
	}
	l := labs()[1]
	p := l.shared(t)(t)
	l.before(t, p)
	dir := write(t, "00001_base.sql", goose(l.base(), "DROP TABLE users;"), "00002_x.sql", goose("DROP SCHEMA attic CASCADE;", "CREATE SCHEMA attic;"))
	f := p.fixture(dir, map[string]any{"allow": []string{"drop-schema"}, "snapshot": "table"})
	_, err := f.Kind.Prepare(t.Context(), f.Request)
	var refused *backstay.RefusedError
	if !errors.As(err, &refused) || !strings.Contains(refused.Problems[0].Message, "which `snapshot: table` cannot copy") {
		t.Errorf("got %v", err)
	}
}
