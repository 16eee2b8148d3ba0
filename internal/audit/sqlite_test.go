package audit_test

import (
	"bytes"
	"database/sql"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/audit"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/ledger/sqlite"
	"github.com/backstay-dev/backstay/internal/plan"
)

var (
	_ audit.Source    = (*ledger.Store)(nil)
	_ audit.Store     = (*ledger.Store)(nil)
	_ audit.LogSource = (*ledger.Store)(nil)
)

// fill writes two deployments and a refusal into a store as an engine does.
func fill(t *testing.T, s *ledger.Store) {
	t.Helper()
	p := &plan.Plan{Format: plan.Format, Release: "shop", Version: "v1", Steps: []backstay.Step{{ID: "conf", Seq: 1}, {ID: "web", Seq: 2}}}
	if err := s.SavePlan(t.Context(), p.Digest(), p.Encode(), nil); err != nil {
		t.Fatal(err)
	}
	entry := func(kind backstay.EntryKind, step string, body any) backstay.Entry {
		return backstay.Entry{Kind: kind, Step: step, Actor: ann(), Body: backstay.Canonical(body)}
	}
	move := func(from backstay.State, event string, to backstay.State) backstay.Entry {
		return entry(backstay.EntryTransition, "", backstay.TransitionBody{From: from, Event: event, To: to})
	}
	after := image("new")
	intent := func(step string) backstay.Entry {
		return entry(backstay.EntryIntent, step, backstay.IntentBody{Before: image("old")})
	}
	done := func(step string) backstay.Entry {
		return entry(backstay.EntryOutcome, step, backstay.OutcomeBody{OK: true, After: &after})
	}
	for range 2 {
		id, err := uuid.NewV7()
		if err != nil {
			t.Fatal(err)
		}
		lease, err := s.Create(t.Context(), ledger.NewDeployment{
			ID: id.String(), Release: "shop", Version: "v1", PlanDigest: p.Digest(), Author: *ann(), State: backstay.Running, Locks: []backstay.Key{"file:/etc/shop.conf"},
			Entries: []backstay.Entry{
				entry(backstay.EntryPlanned, "", backstay.PlannedBody{PlanDigest: p.Digest(), Release: "shop", Version: "v1"}),
				move(backstay.Planned, "approve", backstay.Approved), move(backstay.Approved, "start", backstay.Running),
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, u := range []ledger.Update{
			{State: backstay.Running, Entries: []backstay.Entry{intent("conf")}},
			{State: backstay.Running, Entries: []backstay.Entry{done("conf"), intent("web")}},
			{State: backstay.RollingBack, Entries: []backstay.Entry{
				entry(backstay.EntryOutcome, "web", backstay.OutcomeBody{Error: "<no> & \u2028", Cause: backstay.CauseStepFailed}), move(backstay.Running, "fail", backstay.RollingBack),
			}},
			{State: backstay.RollingBack, Entries: []backstay.Entry{
				entry(backstay.EntryCompensation, "web", backstay.CompensationBody{Result: "untouched"}),
				entry(backstay.EntryUndoIntent, "conf", backstay.UndoIntentBody{Now: after}),
			}},
			{State: backstay.RolledBack, Disown: true, Entries: []backstay.Entry{
				entry(backstay.EntryCompensation, "conf", backstay.CompensationBody{Result: "restored"}), move(backstay.RollingBack, "undone", backstay.RolledBack),
			}},
		} {
			if _, err := s.Append(t.Context(), &lease, u); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := s.Record(t.Context(), entry(backstay.EntryRefused, "", backstay.RefusedBody{What: "drift", Release: "shop"})); err != nil {
		t.Fatal(err)
	}
}

// sizeOfFill is how many entries fill writes.
const sizeOfFill = 25

func TestRealStore(t *testing.T) {
	t.Parallel()
	s, err := sqlite.OpenMemory(t.Context(), ledger.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	fill(t, s)
	c, err := audit.Checkpoint(t.Context(), s, signer(t), start())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := audit.Checkpoint(t.Context(), s, signer(t), start()); err != nil {
		t.Fatalf("a second checkpoint of the same head: %v", err)
	}
	if r := verify(t, s, options(t, c.Note)); !r.OK || r.Entries != sizeOfFill || r.Deployments != 2 || r.Kept != 1 || r.Checkpoints != 1 {
		t.Errorf("got\n%s", text(t, r))
	}
	var out bytes.Buffer
	if _, err := audit.Export(t.Context(), s, &out); err != nil {
		t.Fatal(err)
	}
	if r := verifyExport(t, out.Bytes()); !r.OK || r.Entries != sizeOfFill {
		t.Errorf("export: got\n%s", text(t, r))
	}
	n := 0
	if err := audit.Log(t.Context(), s, ledger.Query{AfterLeaf: -1, Kind: backstay.EntryIntent}, func(audit.Row) error { n++; return nil }); err != nil || n != 4 {
		t.Errorf("log: got %d intents, %v; want 4", n, err)
	}
}

// TestTamperedFile tampers with a copy of a real ledger file.
func TestTamperedFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, err := sqlite.Open(t.Context(), dir, ledger.Options{})
	if err != nil {
		t.Fatal(err)
	}
	fill(t, s)
	kept, err := audit.Checkpoint(t.Context(), s, signer(t), start())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(filepath.Join(dir, sqlite.File))
	if err != nil {
		t.Fatal(err)
	}
	const flip = "UPDATE entry SET record = CAST(replace(CAST(record AS TEXT), 'ann', 'bob') AS BLOB) WHERE leaf = 5"
	tests := []struct {
		name  string
		sql   []string
		codes string // one of them must be reported
	}{
		{"nothing", nil, ""},
		{"a byte of a record", []string{flip}, "record_changed"},
		{"record that is no JSON", []string{"UPDATE entry SET record = x'7b7b' WHERE leaf = 5"}, "record_changed"},
		{"record that is empty", []string{"UPDATE entry SET record = x'' WHERE leaf = 5"}, "record_changed"},
		{"salt", []string{"UPDATE entry SET salt = zeroblob(16) WHERE leaf = 5"}, "record_changed"},
		{"swapped records", []string{
			"CREATE TEMP TABLE x AS SELECT leaf, salt, record FROM entry WHERE leaf IN (5, 6)",
			"UPDATE entry SET record = (SELECT record FROM x WHERE leaf = 11 - entry.leaf), salt = (SELECT salt FROM x WHERE leaf = 11 - entry.leaf) WHERE leaf IN (5, 6)",
		}, "record_changed"},
		{"record of another deployment", []string{"UPDATE entry SET record = (SELECT record FROM entry WHERE leaf = 17), salt = (SELECT salt FROM entry WHERE leaf = 17) WHERE leaf = 5"}, "record_changed"},
		{"middle removed", []string{"DELETE FROM entry WHERE leaf BETWEEN 5 AND 7"}, "record_missing"},
		{"end removed", []string{"DELETE FROM entry WHERE leaf >= 22"}, "record_missing"},
		{"tree", []string{"UPDATE tree SET hash = zeroblob(32) WHERE id = 6"}, "tree_changed"},
		{"tree removed", []string{"DELETE FROM tree WHERE id = 6"}, "tree_missing"},
		{"head", []string{"UPDATE head SET root = zeroblob(32)"}, "head_changed"},
		{"head set back", []string{"UPDATE head SET size = 20"}, "truncated"},
		{"state of a row", []string{"UPDATE deployment SET state = 'proven' WHERE number = 1"}, "row_differs"},
		{"count of a row", []string{"UPDATE deployment SET n = 3 WHERE number = 1"}, "row_differs"},
		{"number's column", []string{"UPDATE entry SET n = 99 WHERE leaf = 5"}, "columns_differ"},
		{"deployment's column", []string{"UPDATE entry SET deployment_id = 'x' WHERE leaf = 5"}, "columns_differ"},
		{"kind's column", []string{"UPDATE entry SET kind = 'note' WHERE leaf = 5"}, "columns_differ"},
		{"plan", []string{"UPDATE plan SET body = CAST(replace(CAST(body AS TEXT), 'web', 'wev') AS BLOB)"}, "plan_changed"},
		{"checkpoint", []string{"UPDATE checkpoint SET note = CAST(replace(CAST(note AS TEXT), 'backstay/', 'Backstay/') AS BLOB)"}, "checkpoint_not_trusted"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), sqlite.File)
			if err := os.WriteFile(path, whole, 0o600); err != nil {
				t.Fatal(err)
			}
			change(t, path, tt.sql)
			src, err := sqlite.OpenReadOnly(t.Context(), path, ledger.Options{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = src.Close() })
			r := verify(t, src, options(t, kept.Note))
			if r.OK != (tt.codes == "") || (tt.codes != "" && !strings.Contains(strings.Join(codes(r), " "), tt.codes)) {
				t.Errorf("want %q, got\n%s", tt.codes, text(t, r))
			}
		})
	}
}

// change runs statements on one connection and leaves one file behind.
func change(t *testing.T, path string, statements []string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	for _, s := range statements {
		got, err := db.ExecContext(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := got.RowsAffected(); !strings.HasPrefix(s, "CREATE") && (err != nil || n == 0) {
			t.Fatalf("%s changed %d rows, %v", s, n, err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}
