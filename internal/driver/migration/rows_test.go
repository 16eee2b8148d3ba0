package migration_test

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/drivertest"
)

// beside is what stands beside the state of the step's one key.
func beside(im backstay.Image) map[string]string {
	out := map[string]string{}
	for _, state := range im {
		for part, value := range state.Beside {
			out[part] = string(value)
		}
	}
	return out
}

// rolled applies a step with check: rows, writes, and takes it back.
func rolled(t *testing.T, p place, dir string, writes ...string) (before, after map[string]string, note string) {
	t.Helper()
	tr := drivertest.NewTrial(t, p.fixture(dir, map[string]any{"check": "rows"}))
	tr.Begin(t)
	if err := tr.Do(t.Context()); err != nil {
		t.Fatal(err)
	}
	tr.After = tr.Observe(t, true)
	p.exec(t, writes...)
	if err := tr.Undo(t, t.Context()); err != nil {
		t.Fatal(err)
	}
	now := tr.Observe(t, true)
	if !tr.Before.Equal(now) {
		t.Errorf("the state is not as before: %s", backstay.Canonical(now))
	}
	return beside(tr.Before), beside(now), tr.Notes[len(tr.Notes)-1]
}

func TestCheckRows(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, l lab, p place) {
		t.Helper()
		l.before(t, p)
		p.exec(t, "CREATE TABLE prices (id int, price decimal(9,2), weight double precision)", "INSERT INTO prices VALUES (1, 1.25, 0.5), (2, NULL, NULL)",
			"CREATE TABLE other (id int)")
		dir := write(t, "00001_base.sql", goose(l.base(), "DROP TABLE users;"), "00002_level.sql", goose(
			"ALTER TABLE users ADD COLUMN level int NOT NULL DEFAULT 0;\nUPDATE prices SET price = price + 1 WHERE id > 0;\nCREATE TABLE news (id int);",
			"DROP TABLE news;\nUPDATE prices SET price = price - 1 WHERE id > 0;\nALTER TABLE users DROP COLUMN level;"))

		before, after, note := rolled(t, p, dir)
		if diff := cmp.Diff([]string{"rows prices", "rows users"}, slices.Sorted(maps.Keys(before))); diff != "" {
			t.Errorf("which rows are counted (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(before, after); diff != "" {
			t.Errorf("nobody wrote, and the rows differ (-before +after):\n%s", diff)
		}
		if want := "; the rows of prices, users read as before"; !strings.HasSuffix(note, want) {
			t.Errorf("the undo's note is %q, want it to end with %q", note, want)
		}
		var users struct{ Rows int }
		if err := json.Unmarshal([]byte(before["rows users"]), &users); err != nil || users.Rows != 3 {
			t.Errorf("rows of users: %s, want 3", before["rows users"])
		}

		// Somebody writes a row, and another fraction.
		_, _, note = rolled(t, p, dir, "INSERT INTO users (id, mail) VALUES (9, 'd@example.org')", "UPDATE prices SET weight = 0.25 WHERE id = 1")
		for _, words := range []string{"rows differ from before in prices (2 rows, sum ", "users (3 rows, sum ", " before, 4 rows, sum "} {
			if !strings.Contains(note, words) {
				t.Errorf("the undo's note is %q, want it to say %q", note, words)
			}
		}
	})
}

// What a migration did to rows and its down does not undo is found out.
func TestCheckRowsFindsWhatTheDownLeaves(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, l lab, p place) {
		t.Helper()
		l.before(t, p)
		dir := write(t, "00001_base.sql", goose(l.base(), "DROP TABLE users;"), "00002_mail.sql", goose(
			"UPDATE users SET mail = 'x' WHERE id = 2;", "UPDATE users SET mail = 'y' WHERE id = 2;"))
		_, _, note := rolled(t, p, dir)
		if !strings.Contains(note, "rows differ from before in users (3 rows, sum ") {
			t.Errorf("the undo's note is %q", note)
		}
	})
}

// A statement that nothing can look into may touch every table. Only evidence
// reads rows: other looks do not.
func TestCheckRowsOfOpaqueMigrations(t *testing.T) {
	t.Parallel()
	l := labs()[0]
	p := l.shared(t)(t)
	l.before(t, p)
	p.exec(t, "CREATE TABLE other (id int)")
	dir := write(t, "00001_base.sql", goose(l.base(), "DROP TABLE users;"), "00002_x.sql", goose("UPSERT x;", "SELECT 1;"))
	tr := drivertest.NewTrial(t, p.fixture(dir, map[string]any{"check": "rows", "allow": []string{"opaque"}}))
	if diff := cmp.Diff([]string{"rows other", "rows users"}, slices.Sorted(maps.Keys(beside(tr.Observe(t, true))))); diff != "" {
		t.Errorf("which rows are counted (-want +got):\n%s", diff)
	}
	if got := beside(tr.Observe(t, false)); len(got) > 0 {
		t.Errorf("a look that keeps nothing read the rows: %v", got)
	}
	if !strings.Contains(tr.Step.ReadSummary, "and the rows of other, users") {
		t.Errorf("the plan says %q", tr.Step.ReadSummary)
	}
}
