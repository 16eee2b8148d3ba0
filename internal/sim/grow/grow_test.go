package grow_test

import (
	"context"
	"flag"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/ledger/sqlite"
	"github.com/backstay-dev/backstay/internal/plan"
)

var (
	dir     = flag.String("grow.dir", "", "state directory to write")
	entries = flag.Int("grow.entries", 2000, "how many entries")
)

const steps = 47 // an intent and an outcome each: with the seven others about 100 entries a deployment

// TestGrow writes a ledger of complete, proven deployments, as the engine
// would have: valid for replay and audit, only quicker to make.
func TestGrow(t *testing.T) {
	t.Parallel()
	state := *dir
	if state == "" {
		state = t.TempDir()
	}
	store, err := sqlite.Open(t.Context(), state, ledger.Options{Version: "grow"})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	if err := store.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	p := template()
	if err := store.SavePlan(t.Context(), p.Digest(), p.Encode(), nil); err != nil {
		t.Fatal(err)
	}
	const writers = 16
	var all sync.WaitGroup
	work := make(chan int)
	for range writers {
		all.Go(func() {
			for range work {
				if err := deployment(t.Context(), store, p); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range max(1, *entries/(2*steps+7)) {
		work <- i
	}
	close(work)
	all.Wait()
	head, err := store.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d entries", head.Size)
}

func template() *plan.Plan {
	p := &plan.Plan{Format: plan.Format, Release: "grown", Version: "1"}
	for i := range steps {
		st := backstay.Step{ID: fmt.Sprintf("s%d", i), Seq: i + 1, Prepared: backstay.Prepared{
			Kind: "run", Class: backstay.Compensated, Effect: backstay.AtMostOnce, HasUndo: true,
			Timeout: backstay.Duration(time.Minute), UndoTimeout: backstay.Duration(time.Minute), Summary: "run true",
		}}
		if i > 0 {
			st.Needs = []string{fmt.Sprintf("s%d", i-1)}
		}
		p.Steps = append(p.Steps, st)
	}
	return p
}

func deployment(ctx context.Context, store *ledger.Store, p *plan.Plan) error {
	id, err := uuid.NewV7()
	if err != nil {
		return err
	}
	actor := backstay.Actor{UID: 1000, Name: "ada", Host: "here"}
	entry := func(kind backstay.EntryKind, step string, body any) backstay.Entry {
		return backstay.Entry{Kind: kind, Step: step, Actor: &actor, Body: backstay.Canonical(body)}
	}
	move := func(from, to backstay.State, event string) backstay.Entry {
		return entry(backstay.EntryTransition, "", backstay.TransitionBody{From: from, Event: event, To: to})
	}
	lease, err := store.Create(ctx, ledger.NewDeployment{
		ID: id.String(), Release: p.Release, Version: p.Version, PlanDigest: p.Digest(), Author: actor, State: backstay.Running,
		Entries: []backstay.Entry{
			entry(backstay.EntryPlanned, "", backstay.PlannedBody{PlanDigest: p.Digest(), Release: p.Release, Version: p.Version}),
			move(backstay.Planned, backstay.Approved, "approve"), move(backstay.Approved, backstay.Running, "start"),
		},
	})
	if err != nil {
		return err
	}
	before := backstay.ImageRef{Digest: backstay.Image{}.Digest(), Inline: backstay.Image{}}
	var all []backstay.Entry
	for _, s := range p.Steps {
		intent := entry(backstay.EntryIntent, s.ID, backstay.IntentBody{Before: before})
		outcome := entry(backstay.EntryOutcome, s.ID, backstay.OutcomeBody{OK: true, After: &before, Tries: 1})
		intent.Attempt, outcome.Attempt = 1, 1
		all = append(all, intent, outcome)
	}
	passed := func(phase string) backstay.Entry {
		return entry(backstay.EntryVerdict, "", backstay.VerdictBody{Check: phase, Phase: phase, CheckResult: backstay.CheckResult{Verdict: backstay.Pass, Reason: "grown"}})
	}
	all = append(all, passed("verify"), move(backstay.Running, backstay.Committed, "commit"),
		passed("bake"), move(backstay.Committed, backstay.Proven, "prove"))
	_, err = store.Append(ctx, &lease, ledger.Update{Entries: all, State: backstay.Proven, Disown: true})
	return err
}
