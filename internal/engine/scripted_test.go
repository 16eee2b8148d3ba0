package engine_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/engine"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/plan"
)

// scripted is a world of which a test replaces single acts.
type scripted struct {
	*world
	observe func(ctx context.Context, c backstay.Call) (backstay.Image, error)
	do      func(ctx context.Context, c backstay.Call) (backstay.Result, error)
	undo    func(ctx context.Context, c backstay.Call) (backstay.Result, error)
	probe   func(ctx context.Context, c backstay.Call) (backstay.Finding, error)
	reap    func(ctx context.Context, c backstay.Call) error
	check   func(ctx context.Context, c backstay.Call) (backstay.CheckResult, error)
}

func (s *scripted) Check(ctx context.Context, c backstay.Call) (backstay.CheckResult, error) {
	if s.check != nil {
		return s.check(ctx, c)
	}
	return s.world.Check(ctx, c)
}

func (s *scripted) Observe(ctx context.Context, c backstay.Call) (backstay.Image, error) {
	if s.observe != nil {
		return s.observe(ctx, c)
	}
	return s.world.Observe(ctx, c)
}

func (s *scripted) Do(ctx context.Context, c backstay.Call) (backstay.Result, error) {
	if s.do != nil {
		return s.do(ctx, c)
	}
	return s.world.Do(ctx, c)
}

func (s *scripted) Undo(ctx context.Context, c backstay.Call) (backstay.Result, error) {
	if s.undo != nil {
		return s.undo(ctx, c)
	}
	return s.world.Undo(ctx, c)
}

func (s *scripted) Probe(ctx context.Context, c backstay.Call) (backstay.Finding, error) {
	if s.probe != nil {
		return s.probe(ctx, c)
	}
	return s.world.Probe(ctx, c)
}

func (s *scripted) Reap(ctx context.Context, c backstay.Call) error {
	if s.reap != nil {
		return s.reap(ctx, c)
	}
	return s.world.Reap(ctx, c)
}

// script puts the actions behind a new bench's engine.
func script(t *testing.T, s *scripted, mutate ...func(*engine.Options)) *bench {
	t.Helper()
	b := newBench(t, s.world)
	o := engine.Options{
		DataDir: t.TempDir(), Actor: backstay.Actor{UID: 1000, Name: "ada", Host: "here"}, Version: "test",
		Poll: 5 * time.Millisecond, Backoff: time.Millisecond,
	}
	for _, m := range mutate {
		m(&o)
	}
	e, err := engine.New(b.store, s, o)
	if err != nil {
		t.Fatal(err)
	}
	b.eng = e
	return b
}

// pivotal declares the step "drop", which is a point of no return.
func pivotal() backstay.Step {
	st := set("drop")
	st.Class, st.HasUndo, st.Restorable, st.Pivot, st.Irreversible = backstay.Irreversible, false, false, true, "drops a table"
	return st
}

// approval declares a wait for one person.
func approval(id string, within time.Duration) backstay.Step {
	return backstay.Step{ID: id, Prepared: backstay.Prepared{
		Kind: "approve", Class: backstay.Exact, Effect: backstay.Idempotent, Hold: &backstay.Hold{Count: 1, Within: backstay.Duration(within)},
	}}
}

// deployBy deploys with a bound on the whole, so that a hang is a failure.
func (b *bench) deployBy(p *plan.Plan, id string) engine.Summary {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 10*time.Second)
	defer cancel()
	s, err := b.eng.Deploy(ctx, engine.Start{ID: id, Plan: p})
	if err != nil {
		b.t.Fatalf("deploy: %v", err)
	}
	return s
}

// approve says yes to whatever the deployment waits for.
func approve(t *testing.T, b *bench, id string, p *plan.Plan) {
	t.Helper()
	_ = b.store.Signal(t.Context(), id, ledger.Signal{ID: "yes", Kind: engine.SignalApprove, Plan: p.Digest(), Actor: backstay.Actor{UID: 1001, Name: "grace", Host: "here"}})
}

// approveWhenHolding approves as soon as the deployment waits for it.
func approveWhenHolding(t *testing.T, b *bench, id string, p *plan.Plan) {
	t.Helper()
	whenHolding(t, b, id, func() { approve(t, b, id, p) })
}

// whenHolding calls then once the deployment waits.
func whenHolding(t *testing.T, b *bench, id string, then func()) {
	t.Helper()
	ctx := t.Context()
	go func() {
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if d, err := b.store.Deployment(ctx, id); err == nil && d.State == backstay.Holding {
				then()
				return
			}
		}
	}()
}

type oneSecret string

func (o oneSecret) Resolve(string) (string, error) { return string(o), nil }

// flaky is a store whose n-th append fails.
type flaky struct {
	*ledger.Store
	mu   sync.Mutex
	left int
}

func (f *flaky) Append(ctx context.Context, l *ledger.Lease, u ledger.Update) (ledger.Ack, error) {
	f.mu.Lock()
	f.left--
	fail := f.left == 0
	f.mu.Unlock()
	if fail {
		return ledger.Ack{}, errors.New("the database is away")
	}
	return f.Store.Append(ctx, l, u)
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
