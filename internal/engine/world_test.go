package engine_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/engine"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/ledger/sqlite"
	"github.com/backstay-dev/backstay/internal/plan"
)

// world is a small in-memory target with scripted behaviour: resources are
// strings by key. It implements engine.Actions.
type world struct {
	mu      sync.Mutex
	values  map[backstay.Key]string
	doErr   map[string]error  // by step: Do writes (unless noEffect) and then fails
	noWrite map[string]bool   // by step: Do fails before it writes
	undoErr map[string]error  // by step: Undo does nothing and fails
	lies    map[string]bool   // by step: Undo does nothing and succeeds
	before  map[string]func() // by step: called before Do acts
	checks  func() backstay.Verdict
	opaque  map[backstay.Key]bool
	calls   []string
	settled map[string]bool
	block   map[string]chan struct{} // by step: Do waits for ctx or the channel
}

func newWorld(values map[backstay.Key]string) *world {
	if values == nil {
		values = map[backstay.Key]string{}
	}
	return &world{
		values: maps.Clone(values), doErr: map[string]error{}, noWrite: map[string]bool{}, undoErr: map[string]error{},
		lies: map[string]bool{}, before: map[string]func(){}, opaque: map[backstay.Key]bool{}, settled: map[string]bool{},
		block: map[string]chan struct{}{},
	}
}

func (w *world) snapshot() map[backstay.Key]string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.values)
}

func (w *world) set(k backstay.Key, v string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.values[k] = v
}

func (w *world) note(format string, args ...any) {
	w.calls = append(w.calls, fmt.Sprintf(format, args...))
}

type body struct {
	Writes map[backstay.Key]string `json:"writes"`
}

func (w *world) Prepare(context.Context, string, backstay.Request) (backstay.Prepared, error) {
	return backstay.Prepared{}, errors.New("the test world prepares nothing")
}

func (w *world) PrepareCheck(context.Context, string, backstay.Request) (backstay.Prepared, error) {
	return backstay.Prepared{}, errors.New("the test world prepares nothing")
}

func (w *world) Observe(_ context.Context, c backstay.Call) (backstay.Image, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	im := backstay.Image{}
	for _, k := range c.Step.Keys {
		im[k] = w.state(k)
	}
	return im, nil
}

func (w *world) state(k backstay.Key) backstay.ResourceState {
	if w.opaque[k] {
		return backstay.ResourceState{Opaque: true}
	}
	v, ok := w.values[k]
	if !ok {
		return backstay.ResourceState{}
	}
	return backstay.PartValue(v)
}

func (w *world) Do(ctx context.Context, c backstay.Call) (backstay.Result, error) {
	if f := w.before[c.Step.ID]; f != nil {
		f()
	}
	if ch := w.block[c.Step.ID]; ch != nil {
		select {
		case <-ch:
		case <-ctx.Done():
			return backstay.Result{}, ctx.Err()
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.note("do %s", c.Step.ID)
	if w.noWrite[c.Step.ID] {
		return backstay.Result{}, w.doErr[c.Step.ID]
	}
	var b body
	if err := json.Unmarshal(c.Step.Body, &b); err != nil {
		return backstay.Result{}, err
	}
	maps.Copy(w.values, b.Writes)
	return backstay.Result{}, w.doErr[c.Step.ID]
}

func (w *world) Undo(_ context.Context, c backstay.Call) (backstay.Result, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.note("undo %s", c.Step.ID)
	if err := w.undoErr[c.Step.ID]; err != nil || w.lies[c.Step.ID] {
		return backstay.Result{}, err
	}
	if c.Step.Restorable {
		for k := range c.Restore {
			w.restore(k, c.Before[k])
		}
		return backstay.Result{}, nil
	}
	for k, s := range c.Before {
		w.restore(k, s)
	}
	return backstay.Result{}, nil
}

func (w *world) restore(k backstay.Key, s backstay.ResourceState) {
	raw, ok := s.Parts[""]
	if !ok {
		delete(w.values, k)
		return
	}
	var v string
	if json.Unmarshal(raw, &v) == nil {
		w.values[k] = v
	}
}

func (w *world) Probe(context.Context, backstay.Call) (backstay.Finding, error) {
	return backstay.Unknown, nil
}

func (w *world) Check(context.Context, backstay.Call) (backstay.CheckResult, error) {
	if w.checks == nil {
		return backstay.CheckResult{Verdict: backstay.Pass}, nil
	}
	return backstay.CheckResult{Verdict: w.checks(), Reason: "scripted"}, nil
}

func (w *world) Reap(context.Context, backstay.Call) error { return nil }

func (w *world) Settle(_ context.Context, c backstay.Call) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.settled[c.Step.ID] = c.Proven
	return nil
}

func (w *world) Settles(kind string) bool { return kind == "keeper" }

var _ engine.Actions = (*world)(nil)

// set declares a step that writes one value to one key of its own name.
func set(id string, needs ...string) backstay.Step {
	k := backstay.Key("mem:" + id)
	return backstay.Step{ID: id, Needs: needs, Prepared: backstay.Prepared{
		Kind: "mem", Body: backstay.Canonical(body{Writes: map[backstay.Key]string{k: "new-" + id}}), Keys: []backstay.Key{k},
		Class: backstay.Exact, Effect: backstay.Idempotent, Fence: backstay.Leased, Restorable: true, HasUndo: true,
		Want:    backstay.Image{k: backstay.PartValue("new-" + id)},
		Timeout: backstay.Duration(10 * time.Second), UndoTimeout: backstay.Duration(10 * time.Second),
		Summary: "set " + id, UndoSummary: "put back " + id, ReadSummary: "read " + id,
	}}
}

// chain makes a plan of the steps, each needing the one before unless it says.
func chain(steps ...backstay.Step) *plan.Plan {
	p := &plan.Plan{Format: plan.Format, Release: "test", Version: "1"}
	for i, s := range steps {
		s.Seq = i + 1
		if s.Needs == nil && i > 0 {
			s.Needs = []string{steps[i-1].ID}
		}
		if s.Pivot {
			p.Pivot = s.ID
		}
		p.Locks = append(p.Locks, s.Keys...)
		p.Steps = append(p.Steps, s)
	}
	return p
}

// bench is one engine over one in-memory ledger.
type bench struct {
	t     *testing.T
	world *world
	store *ledger.Store
	eng   *engine.Engine
}

func newBench(t *testing.T, w *world, mutate ...func(*engine.Options)) *bench {
	t.Helper()
	store, err := sqlite.OpenMemory(t.Context(), ledger.Options{Version: "test"})
	if err != nil {
		t.Fatalf("open the in-memory ledger: %v", err)
	}
	t.Cleanup(func() { _ = store.Close() })
	b := &bench{t: t, world: w, store: store}
	b.eng = b.engine(mutate...)
	return b
}

func (b *bench) engine(mutate ...func(*engine.Options)) *engine.Engine {
	b.t.Helper()
	o := engine.Options{
		DataDir: b.t.TempDir(), Actor: backstay.Actor{UID: 1000, Name: "ada", Host: "here"}, Version: "test",
		Poll: 5 * time.Millisecond, Backoff: time.Millisecond,
	}
	for _, m := range mutate {
		m(&o)
	}
	e, err := engine.New(b.store, b.world, o)
	if err != nil {
		b.t.Fatal(err)
	}
	return e
}

// newID returns a fresh deployment ID.
func newID(t *testing.T) string {
	t.Helper()
	id, err := uuid.NewV7()
	if err != nil {
		t.Fatal(err)
	}
	return id.String()
}

func (b *bench) deploy(p *plan.Plan) engine.Summary {
	b.t.Helper()
	s, err := b.eng.Deploy(b.t.Context(), engine.Start{ID: newID(b.t), Plan: p})
	if err != nil {
		b.t.Fatalf("deploy: %v", err)
	}
	return s
}
