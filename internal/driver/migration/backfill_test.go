package migration_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/drivertest"
	"github.com/backstay-dev/backstay/internal/driver/migration/backfill"
)

// stock puts a table of n rows there with a column that is still empty. Every
// fifth row has been filled by the program already.
func (l lab) stock(tb testing.TB, p place, n int) {
	tb.Helper()
	p.exec(tb, "CREATE TABLE stock (id "+l.serial+", price int NOT NULL, amount int NOT NULL, label varchar(20) NOT NULL DEFAULT 'old', total int)")
	const most = 1000
	for from := 1; from <= n; from += most {
		var rows []string
		for i := from; i < from+most && i <= n; i++ {
			total := "NULL"
			if i%5 == 0 {
				total = "-1"
			}
			rows = append(rows, fmt.Sprintf("(%d, %d, %d, 'old', %s)", i, i%97, i%7, total))
		}
		p.exec(tb, "INSERT INTO stock (id, price, amount, label, total) VALUES "+strings.Join(rows, ", "))
	}
}

// backfill is a step that fills the table of stock.
func (p place) backfill(more map[string]any) drivertest.Fixture {
	f := p.fixture(".", nil)
	ref := "secret:env/DATABASE_URL"
	if strings.HasPrefix(p.url, "sqlite:") {
		ref = p.url
	}
	keys := map[string]any{
		"database": ref, "table": "stock", "set": map[string]string{"total": "price * amount", "label": "'new'"}, "where": "total IS NULL -- still",
		"batch": 40, "pause": "1ms", "lock-timeout": "2s",
	}
	maps.Copy(keys, more)
	config, err := json.Marshal(map[string]any{"backfill": keys})
	if err != nil {
		panic(err)
	}
	f.Kind, f.Request.Config, f.Request.ID = backfill.New(), config, "fill"
	f.World = func(tb testing.TB) map[string]string {
		tb.Helper()
		return p.world(tb, "stock")
	}
	return f
}

// cuts is how many points a do or undo is cut off at: all of them where kills are
// asked for at every message.
func cuts() int {
	if *killStride == 1 {
		return 100
	}
	return 3
}

// One server of each kind serves all of it. Snapshots by the databases' own programs
// go through the whole suite only where kills are asked for at every message.
func TestBackfillAndSnapshot(t *testing.T) {
	t.Parallel()
	for _, l := range labs() {
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			make := l.shared(t)
			parts := map[string]func(*testing.T, lab, func(testing.TB) place){
				"backfill conformance": backfillConformance, "backfill beside a writer": backfillBesideAWriter, "backfill expand and back": expandBackfillAndBack,
				"backfill killed": backfillKilled, "backfill refusals": backfillRefusals, "snapshot": snapshotHolds,
			}
			if l.name == "sqlite" || *killStride == 1 {
				parts["snapshot conformance"] = snapshotConformance
			}
			for name, run := range parts {
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					run(t, l, make)
				})
			}
		})
	}
}

func backfillConformance(t *testing.T, l lab, make func(testing.TB) place) {
	t.Helper()
	drivertest.Run(t, drivertest.Suite{
		MaxCuts:     cuts(),
		CancelAfter: []time.Duration{20 * time.Millisecond},
		New: func(t *testing.T) drivertest.Fixture {
			t.Helper()
			p := make(t)
			l.stock(t, p, 120)
			f := p.backfill(nil)
			if l.name != "sqlite" {
				f.Canaries = []string{canary}
			}
			f.Mutations = []drivertest.Mutation{{Name: "another deployment", Apply: func(tb testing.TB) {
				tb.Helper()
				act(tb, p.backfill(nil), "0190a000-0000-7000-8000-00000000000f")
			}}}
			return f
		},
	})
}

// act plans and does a step as another deployment.
func act(tb testing.TB, f drivertest.Fixture, deployment string) string {
	tb.Helper()
	tr := drivertest.NewTrial(tb, f)
	call := tr.Call()
	call.Deployment = deployment
	result, err := f.Kind.Do(tb.Context(), call)
	if err != nil {
		tb.Fatalf("Do: %v (hint: %s)", err, backstay.HintOf(err))
	}
	return result.Note
}

// While a program writes, every row is filled, and after the undo every row is
// as the program left it.
func backfillBesideAWriter(t *testing.T, l lab, make func(testing.TB) place) {
	t.Helper()
	p := make(t)
	const rows = 3000
	l.stock(t, p, rows)
	f := p.backfill(map[string]any{"batch": 100, "pause": "3ms"})
	tr := drivertest.NewTrial(t, f)
	tr.Begin(t)
	var written atomic.Int64
	stop := writes(t, p, func(i int) string {
		written.Add(1)
		switch i % 3 {
		case 0: // a new row, as the old version writes it
			return fmt.Sprintf("INSERT INTO stock (id, price, amount) VALUES (%d, 2, 3)", rows+1+i)
		case 1: // the program fills one itself
			return fmt.Sprintf("UPDATE stock SET total = -2, label = 'user' WHERE id = %d", 1+i*37%rows)
		}
		return fmt.Sprintf("UPDATE stock SET price = price + 1 WHERE id = %d", 1+i*11%rows)
	})
	if err := tr.Do(t.Context()); err != nil {
		stop()
		t.Fatalf("Do: %v (hint: %s)", err, backstay.HintOf(err))
	}
	stop()
	t.Logf("%d writes beside it; %s", written.Load(), tr.Notes[len(tr.Notes)-1])
	if left := p.texts(t, "SELECT id FROM stock WHERE total IS NULL AND id <= "+strconv.Itoa(rows)); len(left) > 0 {
		t.Errorf("rows that were there before are not filled: %v", left)
	}
	if written.Load() < 20 {
		t.Errorf("only %d writes happened beside the backfill: nothing is shown", written.Load())
	}
	// What users wrote since stays; the rest is as before.
	p.exec(t, "UPDATE stock SET label = 'NEW' WHERE id = 1", "UPDATE stock SET total = 77 WHERE id = 2", "DELETE FROM stock WHERE id = 3")
	before := p.texts(t, "SELECT id, price, amount FROM stock")
	tr.After = tr.Observe(t, false)
	if err := tr.Undo(t, t.Context()); err != nil {
		t.Fatalf("Undo: %v", err)
	}
	t.Log(tr.Notes[len(tr.Notes)-1])
	if diff := cmp.Diff(before, p.texts(t, "SELECT id, price, amount FROM stock")); diff != "" {
		t.Errorf("the undo changed what it did not fill (-before +after):\n%s", diff)
	}
	got := p.texts(t, "SELECT id, label, total FROM stock WHERE NOT (label = 'old' AND total IS NULL) AND NOT (total = -1 AND label = 'old') AND NOT (total = -2 AND label = 'user')")
	if diff := cmp.Diff([]string{"1|NEW|1", "2|new|77"}, got); diff != "" {
		t.Errorf("rows that are neither as before nor a user's (-want +got):\n%s", diff)
	}
	if now := tr.Observe(t, false); !now.Equal(tr.Before) {
		t.Errorf("the state after the undo is not the one before: %s", backstay.Canonical(now))
	}
}

// A backfill that was killed goes on where it was, and one that follows an
// expanding migration is taken back with it.
func expandBackfillAndBack(t *testing.T, l lab, make func(testing.TB) place) {
	t.Helper()
	p := make(t)
	l.stock(t, p, 500)
	before := p.world(t, "stock")
	dir := write(t, "00001_grade.sql", goose("ALTER TABLE stock ADD COLUMN grade int;", "ALTER TABLE stock DROP COLUMN grade;"))
	expand := drivertest.NewTrial(t, p.fixture(dir, nil))
	f := p.backfill(map[string]any{"set": map[string]string{"grade": "amount + 1"}, "where": "grade IS NULL"})
	fill := drivertest.NewTrial(t, f) // planned before the column is there
	if !slices.ContainsFunc(fill.Step.Warnings, func(w string) bool { return strings.Contains(w, "not there yet") }) {
		t.Errorf("the plan does not say that the column is not there yet: %v", fill.Step.Warnings)
	}
	expand.Begin(t)
	if err := expand.Do(t.Context()); err != nil {
		t.Fatal(err)
	}
	fill.Begin(t)
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Millisecond)
	defer cancel()
	_ = fill.Do(ctx) // cut off somewhere, or done: both must be gone on with
	if err := fill.Do(t.Context()); err != nil {
		t.Fatal(err)
	}
	if wrong := p.texts(t, "SELECT id FROM stock WHERE grade IS NULL OR grade <> amount + 1"); len(wrong) > 0 {
		t.Errorf("%d rows are not filled", len(wrong))
	}
	if note := act(t, f, "0190a000-0000-7000-8000-00000000000f"); note != "nothing to fill" {
		t.Errorf("the next deployment's backfill: %s", note)
	}
	fill.After, expand.After = fill.Observe(t, false), expand.Observe(t, false)
	for _, tr := range []*drivertest.Trial{fill, expand} {
		if err := tr.Undo(t, t.Context()); err != nil {
			t.Fatalf("Undo: %v (hint: %s)", err, backstay.HintOf(err))
		}
	}
	if diff := cmp.Diff(before, p.world(t, "stock")); diff != "" {
		t.Errorf("after expand, backfill and back (-before +after):\n%s", diff)
	}
}

// A process that is killed while it fills, or takes back, leaves what the next one
// reads from the database and goes on with.
func backfillKilled(t *testing.T, l lab, make func(testing.TB) place) {
	t.Helper()
	p := make(t)
	const rows, rounds = 600, 4
	l.stock(t, p, rows)
	before, schema := p.texts(t, "SELECT * FROM stock"), p.dump(t)
	f := p.backfill(map[string]any{"batch": 20, "pause": "2ms"})
	tr := drivertest.NewTrial(t, f)
	tr.Begin(t)
	halves := 0
	for round := range rounds {
		killed(t, p, tr, false, time.Duration(1+round*14)*time.Millisecond)
		if found, err := backfill.New().Probe(t.Context(), tr.Call()); err != nil || found == backstay.Unknown {
			t.Fatalf("round %d: found %s, %v", round, found, err)
		} else if found == backstay.Partial {
			halves++
		}
		if round%2 == 0 {
			if err := tr.Do(t.Context()); err != nil {
				t.Fatalf("round %d: going on: %v", round, err)
			}
			if wrong := p.texts(t, "SELECT id FROM stock WHERE total IS NULL OR (id % 5 <> 0 AND (total <> price * amount OR label <> 'new'))"); len(wrong) > 0 {
				t.Errorf("round %d: %d rows are not filled", round, len(wrong))
			}
		}
		killed(t, p, tr, true, time.Duration(1+round*10)*time.Millisecond)
		tr.After = tr.Observe(t, false)
		if err := tr.Undo(t, t.Context()); err != nil {
			t.Fatalf("round %d: Undo: %v", round, err)
		}
		if diff := cmp.Diff(before, p.texts(t, "SELECT * FROM stock")); diff != "" {
			t.Fatalf("round %d: the world is not as before (-before +after):\n%s", round, diff)
		}
	}
	if diff := cmp.Diff(schema, p.dump(t)); diff != "" {
		t.Errorf("the schema is not as before (-before +after):\n%s", diff)
	}
	t.Logf("%d of %d processes were killed in the middle of filling", halves, rounds)
	if halves == 0 {
		t.Error("no process was killed in the middle: nothing is shown")
	}
}

// killed lets a process act, and kills it a while after its first row changed.
func killed(t *testing.T, p place, tr *drivertest.Trial, undo bool, after time.Duration) {
	t.Helper()
	call := tr.Call()
	call.Blobs, call.Secrets = nil, nil
	input, err := json.Marshal(errand{Undo: undo, Call: call, URL: p.url})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"=1")
	cmd.Stdin = strings.NewReader(string(input))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // killed, or it was quicker
	}()
	db := p.open(t)
	defer db.Close()
	was := -1
	for begun := false; !begun; {
		var n int
		if db.QueryRowContext(t.Context(), "SELECT count(*) FROM stock WHERE label = 'new'").Scan(&n) == nil {
			begun, was = was >= 0 && n != was, n
		}
		select {
		case <-ended:
			return
		case <-time.After(time.Millisecond):
		}
	}
	select {
	case <-time.After(after):
	case <-ended:
	}
	_ = cmd.Process.Kill()
	<-ended
}

// What cannot work is said before anything is touched, or after one batch that
// left no trace.
func backfillRefusals(t *testing.T, l lab, make func(testing.TB) place) {
	t.Helper()
	p := make(t)
	l.stock(t, p, 100)
	p.exec(t, "CREATE TABLE loose (a int, total int)", "CREATE TABLE pair (a int NOT NULL, b int NOT NULL, total int, PRIMARY KEY (a, b))")
	before := p.world(t, "stock", "loose")
	for name, tt := range map[string]struct {
		more map[string]any
		want string
	}{
		"two statements":     {map[string]any{"where": "total IS NULL); DELETE FROM stock; SELECT (1"}, "not one"},
		"no such expression": {map[string]any{"set": map[string]string{"total": "nonsense + 1"}}, "do not fit"},
		"bad syntax":         {map[string]any{"set": map[string]string{"total": "price *"}}, "set and where"},
		"no key":             {map[string]any{"table": "loose", "set": map[string]string{"total": "a"}}, "no primary key"},
		"the key itself":     {map[string]any{"set": map[string]string{"id": "1"}}, "primary key"},
		"a quote in a name":  {map[string]any{"table": `stock" x`}, "not the name"},
		"no condition":       {map[string]any{"where": " "}, "is empty"},
	} {
		_, err := p.backfill(nil).Kind.Prepare(t.Context(), p.backfill(tt.more).Request)
		if text := fmt.Sprint(drivertest.Explain(err)); err == nil || !strings.Contains(text, tt.want) {
			t.Errorf("%s: got %v, want a refusal that says %q", name, text, tt.want)
		}
	}
	tr := drivertest.NewTrial(t, p.backfill(map[string]any{"where": "price >= 0"}))
	tr.Begin(t)
	if err := tr.Do(t.Context()); err == nil || !strings.Contains(err.Error(), "still picks") {
		t.Errorf("a condition that goes on holding: got %v", err)
	}
	if err := tr.Undo(t, t.Context()); err != nil {
		t.Errorf("Undo: %v", err)
	}
	if diff := cmp.Diff(before, p.world(t, "stock", "loose")); diff != "" {
		t.Errorf("refusals changed the world (-before +after):\n%s", diff)
	}
	// A key of two columns.
	var pairs []string
	for i := range 77 {
		pairs = append(pairs, fmt.Sprintf("(%d, %d)", i%7, i%11))
	}
	p.exec(t, "INSERT INTO pair (a, b) VALUES "+strings.Join(pairs, ", "))
	act(t, p.backfill(map[string]any{"table": "pair", "set": map[string]string{"total": "a * b"}, "batch": 10}), "0190a000-0000-7000-8000-00000000000f")
	if wrong := p.texts(t, "SELECT a, b FROM pair WHERE total IS NULL OR total <> a * b"); len(wrong) > 0 {
		t.Errorf("rows with a key of two columns are not filled: %v", wrong)
	}
}

// writes runs statements beside the test until stop is called.
func writes(t *testing.T, p place, statement func(i int) string) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	db := p.open(t)
	go func() {
		defer close(ended)
		for i := 0; ctx.Err() == nil; i++ {
			// A row that is locked, or a whole SQLite file, is tried again.
			for s := statement(i); ctx.Err() == nil; {
				if _, err := db.ExecContext(ctx, s); err == nil {
					break
				}
			}
			select {
			case <-time.After(time.Millisecond):
			case <-ctx.Done():
			}
		}
	}()
	return func() { cancel(); <-ended; _ = db.Close() }
}
