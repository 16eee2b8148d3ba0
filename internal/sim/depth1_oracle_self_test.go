package sim

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/ledger"
)

// edit changes the body of the last entry of a kind (of a step, unless "") in
// both places where a record has it.
func edit[B any](t *testing.T, r *record, kind backstay.EntryKind, step string, change func(*B)) {
	t.Helper()
	for i := len(r.journal) - 1; i >= 0; i-- {
		e := r.journal[i]
		if e.Kind != "entry" || e.Entry.Kind != kind || step != "" && e.Step != step {
			continue
		}
		var body B
		if err := json.Unmarshal(e.Entry.Body, &body); err != nil {
			t.Fatal(err)
		}
		old := *e.Entry
		now := old
		change(&body)
		now.Body = backstay.Canonical(body)
		r.journal[i].Entry = &now
		for j := range r.entries {
			if sameEntry(r.entries[j], old) {
				r.entries[j].Body = now.Body
			}
		}
		for j := range r.acked {
			if sameEntry(r.acked[j], old) {
				r.acked[j].Body = now.Body
			}
		}
		return
	}
	t.Fatalf("the run has no %s of step %q", kind, step)
}

// place finds the last line of the journal that fits.
func place(t *testing.T, r *record, fits func(event) bool) int {
	t.Helper()
	for i := len(r.journal) - 1; i >= 0; i-- {
		if fits(r.journal[i]) {
			return i
		}
	}
	t.Fatal("the journal has no such line")
	return 0
}

func entryOf(kind backstay.EntryKind, step string) func(event) bool {
	return func(e event) bool { return e.Kind == "entry" && e.Entry.Kind == kind && e.Step == step }
}

// TestOracleSees falsifies honest records, one fact at a time: the oracle must
// object with the invariant that is broken.
func TestOracleSees(t *testing.T) {
	t.Parallel()
	const index = "/srv/site/index"
	for _, tc := range []struct {
		name, plan, fault, want string
		falsify                 func(*testing.T, *record)
	}{
		{"a needless rollback", "linear", "abort@do.end/c#1", "I1: ended rolled_back for no reason", func(_ *testing.T, r *record) {
			r.journal = slices.DeleteFunc(r.journal, func(e event) bool { return e.Kind == "signal" })
		}},
		{"a commit that was not true", "linear", "", "I2: committed with /etc/shop.conf", func(t *testing.T, r *record) {
			at := place(t, r, func(e event) bool {
				return e.Kind == "entry" && strings.Contains(string(e.Entry.Body), `"to":"committed"`)
			})
			r.journal[at].Cells["/etc/shop.conf"] = "one"
		}},
		{"an outsider's value that is gone", "linear-outsider", "", "I3: /srv/site/index", func(_ *testing.T, r *record) { r.after[index] = "one" }},
		{"a rollback that was not true", "linear-fails", "", "I4: run:pool is", func(_ *testing.T, r *record) { r.after["run:pool"] = "two" }},
		{"a step that never began and changed", "linear", "fail@do/a#1", "I3: /etc/shop.conf", func(_ *testing.T, r *record) { r.after["/etc/shop.conf"] = "two" }},
		{"residue that is left out", "linear-undo-fails", "", "and is not listed", func(t *testing.T, r *record) {
			edit(t, r, backstay.EntryTransition, "", func(b *backstay.TransitionBody) { b.Residue = b.Residue[1:] })
		}},
		{"residue that is guessed", "linear-undo-fails", "", "I4: /srv/site/index is listed as \"one\" now", func(t *testing.T, r *record) {
			edit(t, r, backstay.EntryTransition, "", func(b *backstay.TransitionBody) {
				i := slices.IndexFunc(b.Residue, func(x backstay.Residue) bool { return x.Part == "index" })
				b.Residue[i].Current = backstay.Canonical("one")
			})
		}},
		{"residue without a next command", "linear-undo-fails", "", "next command", func(t *testing.T, r *record) {
			edit(t, r, backstay.EntryTransition, "", func(b *backstay.TransitionBody) { b.Residue[0].Next = "" })
		}},
		{"something readable called unknown", "linear-undo-fails", "", "could be read", func(t *testing.T, r *record) {
			edit(t, r, backstay.EntryTransition, "", func(b *backstay.TransitionBody) { b.Residue[0].Unknown = "no idea" })
		}},
		{"an outsider that never was", "linear-outsider", "", "who never wrote it", func(t *testing.T, r *record) {
			edit(t, r, backstay.EntryTransition, "", func(b *backstay.TransitionBody) { b.Kept[0].Part = "old" })
		}},
		{"a cause that is not so", "linear-undo-fails", "", "I5:", func(t *testing.T, r *record) {
			edit(t, r, backstay.EntryTransition, "", func(b *backstay.TransitionBody) { b.Residue[0].Cause = backstay.CauseDrift })
		}},
		{"held without residue", "linear-undo-fails", "", "I5: held without residue", func(t *testing.T, r *record) {
			edit(t, r, backstay.EntryTransition, "", func(b *backstay.TransitionBody) { b.Residue = nil })
		}},
		{"a before-image of another moment", "linear", "", "I6: the before-image of step c", func(t *testing.T, r *record) {
			edit(t, r, backstay.EntryIntent, "c", func(b *backstay.IntentBody) { b.Before.Inline[conf] = backstay.PartValue("two") })
		}},
		{"a before-image without a key", "linear", "", "I6: the before-image of step c lacks", func(t *testing.T, r *record) {
			edit(t, r, backstay.EntryIntent, "c", func(b *backstay.IntentBody) { delete(b.Before.Inline, conf) })
		}},
		{"a lost acknowledgement", "linear", "", "I7:", func(_ *testing.T, r *record) {
			r.entries = append(slices.Clone(r.entries[:5]), r.entries[6:]...)
		}},
		{"an older epoch that writes", "linear", "crash@do/c#1", "I8: step c", func(t *testing.T, r *record) {
			at := place(t, r, func(e event) bool { return e.Kind == "write" })
			r.journal[at].Epoch = 0
		}},
		{"an effect that took place twice", "at-most-once", "", "I9: the effect of at_most_once step mail", func(_ *testing.T, r *record) {
			r.effects = maps.Clone(r.effects)
			r.effects["mail"] = 2
		}},
		{"a step that was left out", "linear", "", "I9: committed, and the effect of step b", func(_ *testing.T, r *record) { r.effects["b"] = 0 }},
		{"a write after the compensation record", "linear-fails", "", "I10: step b writes", func(t *testing.T, r *record) {
			at := place(t, r, entryOf(backstay.EntryCompensation, "b"))
			r.journal = slices.Insert(r.journal, at+1, event{Kind: "write", Step: "b", Back: true, Epoch: 1, Cell: "run:pool", Old: "one", New: "one"})
		}},
		{"a second compensation record", "linear-fails", "", "I10: 2 compensation records of step b", func(t *testing.T, r *record) {
			at := place(t, r, entryOf(backstay.EntryCompensation, "b"))
			r.journal = slices.Insert(r.journal, at+1, r.journal[at])
		}},
		{"undo in the wrong order", "linear-fails", "", "I11: step b is undone before step c", func(t *testing.T, r *record) {
			from, to := place(t, r, entryOf(backstay.EntryUndoIntent, "b")), place(t, r, entryOf(backstay.EntryCompensation, "c"))
			e := r.journal[from]
			r.journal = slices.Insert(slices.Delete(slices.Clone(r.journal), from, from+1), to, e)
		}},
		{"an independent branch that was left", "diamond-undo-fails", "", "I11: step b was not undone", func(t *testing.T, r *record) {
			edit(t, r, backstay.EntryCompensation, "b", func(b *backstay.CompensationBody) { b.Result = "failed" })
		}},
		{"an undo past the point of no return", "pivot", "", "I11: step a was taken back past", func(_ *testing.T, r *record) {
			r.journal = append(r.journal, event{Kind: "write", Step: "a", Back: true, Epoch: 1, Cell: index, Old: "two", New: "one"})
		}},
		{"a step beyond the budget", "budget", "", "budget: step b began", func(t *testing.T, r *record) {
			at := place(t, r, entryOf(backstay.EntryOutcome, "a"))
			intent := *r.journal[place(t, r, entryOf(backstay.EntryIntent, "a"))].Entry
			r.journal = slices.Insert(r.journal, at+1, event{Kind: "entry", Step: "b", Entry: &intent})
		}},
		{"an approval of another plan", "pivot", "", "I12: an approval of plan", func(t *testing.T, r *record) {
			edit(t, r, backstay.EntrySignal, "", func(b *backstay.SignalBody) { b.Plan = "another" })
		}},
		{"no approval at all", "pivot", "", "I12: irreversible step drop ran", func(t *testing.T, r *record) {
			edit(t, r, backstay.EntrySignal, "", func(b *backstay.SignalBody) { b.Accepted = false })
		}},
		{"a move that is not in the table", "linear", "", "I13: entry", func(t *testing.T, r *record) {
			edit(t, r, backstay.EntryTransition, "", func(b *backstay.TransitionBody) { b.To = backstay.RolledBack })
		}},
		{"an outcome that hides a failure", "linear-fails", "", "I13: step c failed and its outcome", func(t *testing.T, r *record) {
			edit(t, r, backstay.EntryOutcome, "c", func(b *backstay.OutcomeBody) { b.OK = true })
		}},
		{"a verdict on no samples", "verify", "", "I17:", func(t *testing.T, r *record) {
			at := place(t, r, func(e event) bool {
				return e.Kind == "entry" && strings.Contains(string(e.Entry.Body), `"check":"health","phase":"verify"`)
			})
			edited := *r.journal[at].Entry
			edited.Body = json.RawMessage(strings.Replace(string(edited.Body), `"samples":1`, `"samples":0`, 1))
			i := slices.IndexFunc(r.entries, func(e backstay.Entry) bool { return sameEntry(e, *r.journal[at].Entry) })
			r.entries[i].Body = edited.Body
		}},
		{"a neighbour that changed", "linear", "", "I18: neighbour /srv/site2/index", func(_ *testing.T, r *record) { r.after["/srv/site2/index"] = "ours" }},
		{"a write out of scope", "linear", "", "I18: step a wrote", func(t *testing.T, r *record) {
			at := place(t, r, func(e event) bool { return e.Kind == "write" && e.Step == "a" })
			r.journal[at].Cell = "/srv/site2/index"
		}},
		{"an outsider's value that was overwritten", "linear-outsider", "", "I18: step a (back true) overwrote", func(t *testing.T, r *record) {
			at := place(t, r, entryOf(backstay.EntryCompensation, "a"))
			r.journal = slices.Insert(r.journal, at, event{Kind: "write", Step: "a", Back: true, Epoch: 1, Cell: index, Old: "early", New: "one"})
		}},
		{"a keeper that let go too early", "keeper-fails", "", "I10: step web let go", func(t *testing.T, r *record) {
			at := place(t, r, entryOf(backstay.EntryUndoIntent, "web"))
			r.journal = slices.Insert(r.journal, at, event{Kind: "settle", Step: "web"})
		}},
		{"users on a side that does not run", "release-canary", "", "I15: step rel.to-1 leaves 1% of the users", func(t *testing.T, r *record) {
			at := place(t, r, func(e event) bool { return e.Kind == "write" && e.Cell == string(newSide) })
			r.journal[at].New = ""
		}},
		{"a router that was not put back", "release-canary-last-fails", "", `I15: rolled back, and the router reads "1"`, func(t *testing.T, r *record) {
			at := place(t, r, func(e event) bool { return e.Kind == "write" && e.Cell == string(route) && e.Back })
			r.journal[at].New = "1"
		}},
		{"an old side that was retired too early", "release-blue-green", "", "on an old side that is retired", func(t *testing.T, r *record) {
			at := place(t, r, func(e event) bool { return e.Kind == "write" && e.Cell == string(newSide) })
			r.journal = slices.Insert(r.journal, at, event{Kind: "write", Step: "rel.retire", Cell: string(oldSide), Old: "one"})
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			sc, known := scenarioNamed(tc.plan)
			script, err := parseFaults(tc.fault)
			if !known || err != nil {
				t.Fatalf("plan %q fault %q: %v", tc.plan, tc.fault, err)
			}
			sc.untilEnd = true
			r := play(t, sc, script)
			if len(r.violations) > 0 {
				t.Fatalf("the honest record is objected to: %v", r.violations)
			}
			tc.falsify(t, r)
			judge(r)
			if !slices.ContainsFunc(r.violations, func(v string) bool { return strings.Contains(v, tc.want) }) {
				t.Errorf("got %q, want an objection with %q", r.violations, tc.want)
			}
		})
	}
}

// TestWriteWithoutIntentIsSeen makes the world itself object at the moment of
// a write that the ledger knows nothing of.
func TestWriteWithoutIntentIsSeen(t *testing.T) {
	t.Parallel()
	sc, _ := scenarioNamed("linear")
	inLab(t, func(l *lab) {
		w := newWorld(sc.cells, nil, newFaults(nil))
		p := &process{w: w, book: newBook(w, l.store), n: 1, ctx: l.t.Context(), kill: func() {}}
		ctx, plan := l.t.Context(), sc.freeze(sc.cells)
		planned := backstay.Entry{Kind: backstay.EntryPlanned, Body: backstay.Canonical(backstay.PlannedBody{PlanDigest: plan.Digest(), Release: "sim"})}
		if err := l.store.SavePlan(ctx, plan.Digest(), plan.Encode(), nil); err != nil {
			l.t.Fatal(err)
		}
		const id = "01900000-0000-7000-8000-000000000001"
		if _, err := l.store.Create(ctx, ledger.NewDeployment{
			ID: id, Release: "sim", PlanDigest: plan.Digest(), State: backstay.Planned, Entries: []backstay.Entry{planned},
		}); err != nil {
			l.t.Fatal(err)
		}
		s, _ := plan.Step("c")
		if _, err := p.Do(ctx, backstay.Call{Deployment: id, Step: s}); err != nil {
			l.t.Fatal(err)
		}
		if got := strings.Join(p.book.violations, "\n"); !strings.Contains(got, "I6: step c writes /etc/shop.conf without a durable") {
			l.t.Errorf("got %q", got)
		}
	})
}

// TestFaultTexts: what is printed is what is played again.
func TestFaultTexts(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "crash@do/a#1", "outside(/srv/site/new=)@fp:create.before/#1", "lost@do/a#*+crash@append.end#3"} {
		script, err := parseFaults(text)
		if got := faultText(script); err != nil || got != text {
			t.Errorf("got %q (%v), want %q", got, err, text)
		}
	}
	for _, text := range []string{"crash", "crash@do/a", "crash@do/a#x"} {
		if _, err := parseFaults(text); err == nil {
			t.Errorf("%q was read as faults", text)
		}
	}
}

// TestDeadProcessesTouchNothing: what a dead process still tries has no effect.
func TestDeadProcessesTouchNothing(t *testing.T) {
	t.Parallel()
	sc, _ := scenarioNamed("linear")
	inLab(t, func(l *lab) {
		w := newWorld(sc.cells, nil, newFaults([]fault{{Action: actCrash, Point: "do.w2/a", N: 1}}))
		p := &process{w: w, book: newBook(w, l.store), n: 1, ctx: l.t.Context(), kill: func() {}}
		s, _ := sc.freeze(sc.cells).Step("a")
		began := time.Now()
		if _, err := p.Do(l.t.Context(), backstay.Call{Step: s}); err == nil || !p.dead.Load() {
			l.t.Fatalf("got %v, want the death of the process", err)
		}
		if time.Since(began) > time.Minute {
			l.t.Errorf("dying took %v of virtual time", time.Since(began))
		}
		_, undo := p.Undo(l.t.Context(), backstay.Call{Step: s})
		_, look := p.Observe(l.t.Context(), backstay.Call{Step: s})
		if undo == nil || look == nil {
			l.t.Errorf("a dead process acted: undo %v, look %v", undo, look)
		}
		if got := w.snapshot(); got["/srv/site/index"] != "two" || got["/srv/site/old"] != "one" {
			l.t.Errorf("got %v, want exactly the first of three writes", got)
		}
	})
}
