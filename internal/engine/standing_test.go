package engine_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/engine"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/plan"
)

const schemaKey = backstay.Key("database:x")

// schema is a step that decides who can use the schema.
func schema(text string) backstay.Step {
	st := set("schema")
	st.Keys, st.Restorable = []backstay.Key{schemaKey}, false
	st.Body = backstay.Canonical(body{Writes: map[backstay.Key]string{schemaKey: text}})
	st.Want = backstay.Image{schemaKey: backstay.PartValue(text)}
	st.Schema = &backstay.Schema{}
	if text != "" {
		st.Schema.For = map[string]string{"shop": text}
	}
	return st
}

// service is a step that brings the version.
func service() backstay.Step {
	st := set("web")
	st.Kind = "service"
	return st
}

func versioned(release, version string, steps ...backstay.Step) *plan.Plan {
	p := chain(steps...)
	p.Release, p.Version = release, version
	return p
}

// try deploys and gives the refusal, or how it ended.
func (b *bench) try(p *plan.Plan) string {
	b.t.Helper()
	sum, err := b.eng.Deploy(b.t.Context(), engine.Start{ID: newID(b.t), Plan: p, AcceptDrift: true})
	var refused *backstay.RefusedError
	switch {
	case errors.As(err, &refused) && refused.What == "compatibility":
		return "refused: " + refused.Problems[0].Message
	case err != nil:
		b.t.Fatal(err)
	}
	return string(sum.State)
}

// takeBack reverts a proven deployment.
func (b *bench) takeBack(name string) string {
	b.t.Helper()
	return b.try(b.revertOf(name))
}

// revertOf is the plan that takes a proven deployment back.
func (b *bench) revertOf(name string) *plan.Plan {
	b.t.Helper()
	all, err := b.store.List(b.t.Context(), ledger.Filter{Limit: 1000})
	if err != nil {
		b.t.Fatal(err)
	}
	for _, d := range all {
		if d.Name != name {
			continue
		}
		old, done, err := b.eng.Undone(b.t.Context(), d.ID)
		if err != nil {
			b.t.Fatal(err)
		}
		p, err := plan.Revert(old, d.ID, d.Name, done)
		if err != nil {
			b.t.Fatal(err)
		}
		return p
	}
	b.t.Fatalf("no deployment %s", name)
	return nil
}

// Which ranges are in force, and what is live, follows from the deployments that
// are in effect.
func TestCompatibilityFollowsTheLedger(t *testing.T) {
	t.Parallel()
	b := newBench(t, newWorld(nil))
	step := func(what, got, want string) {
		t.Helper()
		if !strings.HasPrefix(got, want) {
			t.Fatalf("%s: got %q, want %q", what, got, want)
		}
	}
	proven, refused := string(backstay.Proven), "refused: "
	step("db 1", b.try(versioned("db", "1", schema(">= 1, < 3"))), proven)
	step("shop 1", b.try(versioned("shop", "1", service())), proven)
	step("shop 3 is ahead of the schema", b.try(versioned("shop", "3", service())), refused+"version 3 of shop is outside of >= 1, < 3: that is who can use database:x since step schema of db#1")
	step("db 2 is ahead of the shop", b.try(versioned("db", "2", schema(">= 2"))), refused+"version 1 of shop is outside of >= 2, and it is live (shop#1)")
	step("shop 2", b.try(versioned("shop", "2", service())), proven)
	step("db 2", b.try(versioned("db", "2", schema(">= 2"))), proven)
	step("shop 1 again", b.try(versioned("shop", "1", service())), refused+"version 1 of shop is outside of >= 2")
	step("rollback of shop 2", b.takeBack("shop#2"), refused+"version 1 of shop is outside of >= 2, and it would be live (shop#1)")
	step("shop 3", b.try(versioned("shop", "3", service())), proven)
	step("rollback of db 2", b.takeBack("db#2"), refused+"version 3 of shop is outside of >= 1, < 3, and it would be live (shop#3)")
	step("rollback of shop 3", b.takeBack("shop#3"), proven)
	step("rollback of db 2 now", b.takeBack("db#2"), proven)
	step("shop 3 onto the schema before", b.try(versioned("shop", "3", service())), refused+"version 3 of shop is outside of >= 1, < 3")
	step("rollback of shop 2 now", b.takeBack("shop#2"), proven)
	step("a schema that says nothing", b.try(versioned("db", "3", schema(""))), proven)
	step("shop 9", b.try(versioned("shop", "9", service())), proven)

	// A plan on databases alone brings no version: what ran before it runs on.
	step("a schema of the shop's own", b.try(versioned("shop", "10", schema(">= 9"))), proven)
	step("db 4", b.try(versioned("db", "4", schema(">= 10"))), refused+"version 9 of shop is outside of >= 10, and it is live")

	// Another environment has schemas and versions of its own.
	other := versioned("db", "4", schema("< 1"))
	other.Environment = "staging"
	step("another environment", b.try(other), proven)
}

// While a deployment is not settled it may go either way: both stand.
func TestUnsettledDeploymentsStandBothWays(t *testing.T) {
	t.Parallel()
	w := newWorld(nil)
	b := newBench(t, w)
	if got := b.try(versioned("db", "1", schema(">= 1, < 3"))); got != string(backstay.Proven) {
		t.Fatal(got)
	}
	if got := b.try(versioned("shop", "2", service())); got != string(backstay.Proven) {
		t.Fatal(got)
	}
	p := versioned("db", "2", schema(">= 2"), approval("ok", time.Hour))
	bothStand(t, b, p)
}

// bothStand deploys a plan that waits for a word: meanwhile a version of shop must fit
// the schema before it and the one behind it, and after it the latter only.
func bothStand(t *testing.T, b *bench, p *plan.Plan) {
	t.Helper()
	id := newID(t)
	whenHolding(t, b, id, func() {
		for version, want := range map[string]string{"1": ">= 2", "3": ">= 1, < 3"} {
			_, err := b.eng.Deploy(t.Context(), engine.Start{ID: newID(t), Plan: versioned("shop", version, service())})
			if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("version %s of shop is outside of %s: ", version, want)) {
				t.Errorf("version %s: got %v, want it outside of %s", version, err, want)
			}
		}
		approve(t, b, id, p)
	})
	if sum := b.deployBy(p, id); sum.State != backstay.Proven {
		t.Fatalf("got state %s", sum.State)
	}
	if got := b.try(versioned("shop", "3", service())); got != string(backstay.Proven) {
		t.Error(got)
	}
}

// A rollback that is being taken back may go either way, and so may what it took back.
func TestRollbackTakenBackStandsBothWays(t *testing.T) {
	t.Parallel()
	b := newBench(t, newWorld(nil))
	for _, p := range []*plan.Plan{versioned("db", "1", schema(">= 1, < 3")), versioned("shop", "2", service()), versioned("db", "2", schema(">= 2"))} {
		if got := b.try(p); got != string(backstay.Proven) {
			t.Fatal(got)
		}
	}
	if got := b.takeBack("db#2"); got != string(backstay.Proven) {
		t.Fatal(got)
	}
	p := b.revertOf("db#3") // the rollback
	p.Steps[0].Needs = []string{"ok"}
	p.Steps = append([]backstay.Step{approval("ok", time.Hour)}, p.Steps...)
	for i := range p.Steps {
		p.Steps[i].Seq = i + 1
	}
	bothStand(t, b, p)
}

// One that is not settled stands, though a newer one of its release on other
// resources was proven meanwhile.
func TestUnsettledBehindProvenStands(t *testing.T) {
	t.Parallel()
	b := newBench(t, newWorld(nil))
	p := versioned("shop", "1", service(), approval("ok", time.Hour))
	id := newID(t)
	whenHolding(t, b, id, func() {
		worker := set("worker")
		worker.Kind = "service"
		sum, err := b.eng.Deploy(t.Context(), engine.Start{ID: newID(t), Plan: versioned("shop", "2", worker)})
		if err != nil || sum.State != backstay.Proven {
			t.Errorf("shop 2: %v, state %s", err, sum.State)
		}
		_, err = b.eng.Deploy(t.Context(), engine.Start{ID: newID(t), Plan: versioned("db", "1", schema(">= 2"))})
		if err == nil || !strings.Contains(err.Error(), "version 1 of shop is outside of >= 2, and it is live (shop#1)") {
			t.Errorf("got %v", err)
		}
		approve(t, b, id, p)
	})
	if sum := b.deployBy(p, id); sum.State != backstay.Proven {
		t.Fatalf("got state %s", sum.State)
	}
}

// A schema that could not be taken back keeps the version that can use it: the one
// before is not put onto it, and the deployment is held as incompatible.
func TestHeldIncompatible(t *testing.T) {
	t.Parallel()
	excluding := func() backstay.Step {
		st := schema(">= 2")
		st.Excludes = []string{"1"}
		return st
	}
	pivot := excluding()
	pivot.Class, pivot.HasUndo, pivot.Pivot, pivot.Irreversible = backstay.Irreversible, false, true, "drops a column"
	free := excluding()
	free.Excludes = nil
	tests := []struct {
		name   string
		schema backstay.Step
		undo   error
		cause  backstay.Cause
		undone bool // the service goes back
	}{
		{"its undo is refused", excluding(), fmt.Errorf("values were written: %w", backstay.ErrNoUndo), backstay.CauseIncompatible, false},
		{"its undo fails", excluding(), errors.New("lock timeout"), backstay.CauseIncompatible, false},
		{"past the pivot", pivot, nil, backstay.CauseIncompatible, false},
		{"the version before can use it", free, fmt.Errorf("values were written: %w", backstay.ErrNoUndo), backstay.CauseNoUndo, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(map[backstay.Key]string{"mem:web": "version 1"})
			w.undoErr["schema"] = tt.undo
			w.checks = func() backstay.Verdict { return backstay.Fail }
			b := newBench(t, w)
			p := versioned("shop", "2", service(), tt.schema)
			p.Verify = []plan.Check{{ID: "smoke", Prepared: backstay.Prepared{Kind: "mem"}}}
			id := newID(t)
			sum := b.deployBy(p, id)
			if sum.State != backstay.Held {
				t.Fatalf("got state %s, failure %+v", sum.State, sum.Failure)
			}
			causes := map[string]backstay.Cause{}
			for _, r := range sum.Residue {
				causes[r.Step] = r.Cause
				if r.Step == "web" && !strings.Contains(r.Detail, "step schema stays, and version 1 of shop could not use its schema") {
					t.Errorf("web: %q", r.Detail)
				}
			}
			if got := w.snapshot()["mem:web"]; (got == "version 1") != tt.undone {
				t.Errorf("web is %q", got)
			}
			if _, listed := causes["web"]; listed == tt.undone || listed && causes["web"] != backstay.CauseIncompatible || causes["schema"] == "" {
				t.Errorf("residue %v", causes)
			}
			entries, err := b.store.Entries(t.Context(), id, 0)
			if err != nil {
				t.Fatal(err)
			}
			var last backstay.TransitionBody
			if err := entries[len(entries)-1].Decode(&last); err != nil || last.Cause != tt.cause {
				t.Errorf("held with %q (%v), want %q", last.Cause, err, tt.cause)
			}
			if tt.undo == nil {
				return
			}
			// Once the schema can be taken back, both are.
			delete(w.undoErr, "schema")
			again, err := b.eng.Resume(t.Context(), id, nil, &ledger.Signal{ID: "again", Kind: engine.SignalRetry, Reason: "moved the values away"})
			if err != nil || again.State != backstay.RolledBack || w.snapshot()["mem:web"] != "version 1" {
				t.Errorf("retried: %v, state %s, web %q", err, again.State, w.snapshot()["mem:web"])
			}
		})
	}
}
