package sim

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/engine"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/ledger/sqlite"
	"github.com/backstay-dev/backstay/internal/plan"
)

const (
	// mostLives bounds how often a deployment may need a new process: one per
	// crash or lost write that a run can hold, and the last that finishes.
	mostLives = 4
	// patience is the virtual time in which a process must end (I1): it is
	// longer than all timeouts, holds and bakes of a plan together.
	patience = time.Hour

	deployment = "01900000-0000-7000-8000-000000000002"
	earlier    = "01900000-0000-7000-8000-000000000001"
)

// record is all that one run left behind: what the oracle judges.
type record struct {
	sc      scenario
	plan    *plan.Plan
	script  []fault
	before  map[string]string // the world when the deployment was started
	after   map[string]string
	journal []event
	entries []backstay.Entry // as the ledger has them at the end
	acked   []backstay.Entry // as they were acknowledged, in order
	exists  bool             // the deployment is in the ledger
	row     ledger.Deployment
	summary engine.Summary
	effects map[string]int
	kept    map[string]bool
	want    map[string]string // of a revert: the world before the first deployment
	lives   int
	refused bool
	trace   []string
	unfired []fault

	violations []string
}

func (r *record) violate(format string, args ...any) {
	r.violations = append(r.violations, fmt.Sprintf(format, args...))
}

// run is one simulated deployment under way.
type run struct {
	*record
	w     *world
	book  *book
	store *ledger.Store
	proc  *process
}

// play runs a scenario with additional faults in a bubble of virtual time and
// returns what is left, already judged.
func play(t *testing.T, sc scenario, script []fault) *record {
	t.Helper()
	r := &record{sc: sc, script: append(slices.Clone(sc.script), script...)}
	synctest.Test(t, func(t *testing.T) {
		store, err := sqlite.OpenMemory(t.Context(), ledger.Options{Version: "sim", Host: "here", Clock: bubbleClock{time.Now()}})
		if err != nil {
			t.Fatalf("open the ledger: %v", err)
		}
		defer store.Close()
		opaque := map[backstay.Key]bool{}
		for _, k := range sc.opaque {
			opaque[k] = true
		}
		w := newWorld(sc.cells, opaque, newFaults(nil))
		x := &run{record: r, w: w, book: newBook(w, store), store: store}
		if err := x.prepare(t.Context()); err != nil {
			t.Fatalf("prepare %s: %v", sc.name, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		people := make(chan struct{})
		go func() { defer close(people); x.people(ctx) }()
		x.live(ctx)
		cancel()
		<-people
		x.collect(t.Context())
	})
	return r
}

// prepare makes the plan and, for a revert, the deployment it takes back.
func (x *run) prepare(ctx context.Context) error {
	x.plan = x.sc.freeze(x.sc.cells)
	if x.sc.revert {
		eng, err := x.process(ctx, 0)
		if err != nil {
			return err
		}
		s, err := eng.Deploy(ctx, engine.Start{ID: earlier, Plan: x.plan})
		if err != nil {
			return err
		}
		if s.State != backstay.Proven {
			return fmt.Errorf("the deployment to take back ended %s: %+v", s.State, s.Failure)
		}
		old, done, err := eng.Undone(ctx, earlier)
		if err != nil {
			return err
		}
		if x.plan, err = plan.Revert(old, earlier, s.Name, done); err != nil {
			return err
		}
		x.want = maps.Clone(x.sc.cells)
		x.w.journal, x.w.effects = nil, map[string]int{}
	}
	x.before = x.w.snapshot()
	x.w.faults = newFaults(x.script)
	return nil
}

// process starts a life of the program.
func (x *run) process(ctx context.Context, n int) (*engine.Engine, error) {
	ctx, cancel := context.WithCancel(ctx)
	interrupt := make(chan struct{}, 1)
	p := &process{w: x.w, book: x.book, n: n, kill: cancel}
	p.abort = func() { x.signal(ctx, ledger.Signal{ID: "abort", Kind: engine.SignalAbort, Reason: "on purpose"}) }
	p.stop = func() {
		select {
		case interrupt <- struct{}{}:
		default:
		}
	}
	p.ctx, p.interrupt = ctx, interrupt
	x.proc = p
	return engine.New(&desk{Store: x.store, p: p}, p, engine.Options{
		DataDir: "/nonexistent/sim", Actor: backstay.Actor{UID: 1000, Name: "ada", Host: "here"}, Version: "sim", Failpoint: p.failpoint,
	})
}

// signal sends what a person asks; one that comes too early or too late is lost.
func (x *run) signal(ctx context.Context, s ledger.Signal) {
	s.Actor = backstay.Actor{UID: 1001, Name: "grace", Host: "here"}
	err := x.store.Signal(context.WithoutCancel(ctx), deployment, s)
	if err != nil && !errors.Is(err, ledger.ErrNotFound) {
		x.book.violate("send %s: %v", s.Kind, err)
	}
}

// people look at the deployment now and then and answer when it holds.
func (x *run) people(ctx context.Context) {
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	for x.sc.approval != "" {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		d, err := x.store.Deployment(ctx, deployment)
		if err != nil || d.State != backstay.Holding {
			continue
		}
		digest := x.plan.Digest()
		if x.sc.approval == "other" {
			digest = "0000000000000000000000000000000000000000000000000000000000000000"
		}
		x.signal(ctx, ledger.Signal{ID: "yes", Kind: engine.SignalApprove, Plan: digest, Step: "ok"})
		return
	}
}

// live deploys, and starts new processes until the deployment is settled.
func (x *run) live(ctx context.Context) {
	var err error
	for x.lives < mostLives {
		x.lives++
		err = x.once(ctx, x.lives)
		d, missing := x.store.Deployment(ctx, deployment)
		switch {
		case missing != nil:
			if err == nil {
				x.violate("I1: the process ended well without a deployment")
			}
			x.refused = true
			var refused *backstay.RefusedError
			if err != nil && !errors.As(err, &refused) && !x.excused() {
				x.violate("I1: nothing was deployed because of %v, which no fault explains", err)
			}
			return
		case err == nil && !d.State.Settled():
			x.violate("I1: the process ended well in state %s", d.State)
			return
		case err != nil && !x.excused():
			x.violate("I1: %v, which no fault explains", err)
		}
		if d.State.Settled() {
			return
		}
	}
	x.violate("I1: not settled after %d processes; the last one ended with: %v", x.lives, err)
}

// excused reports whether the process that just ended had a reason to stop
// early: it died, or a write of the ledger gave it an error.
func (x *run) excused() bool {
	return x.proc.dead.Load() || x.proc.storeFailed.Load()
}

// once is one life of the program: deploy first, recover later.
func (x *run) once(ctx context.Context, n int) error {
	eng, err := x.process(ctx, n)
	if err != nil {
		return err
	}
	p := x.proc
	defer p.kill()
	x.w.note(event{Kind: "resume", Proc: n})
	ended := make(chan error, 1)
	go func() {
		var s engine.Summary
		var err error
		if n == 1 {
			s, err = eng.Deploy(p.ctx, engine.Start{ID: deployment, Plan: x.plan, Interrupt: p.interrupt})
		} else {
			s, err = eng.Resume(p.ctx, deployment, p.interrupt, p.retry)
		}
		if err == nil {
			x.summary = s
		}
		ended <- err
	}()
	limit := time.NewTimer(patience)
	defer limit.Stop()
	select {
	case err := <-ended:
		return err
	case <-limit.C:
		x.violate("I1: process %d did not end within %v", n, patience)
		p.kill()
		return <-ended
	}
}

// collect looks at everything once more and lets the oracle judge: first the
// end, then that a second recovery changes nothing.
func (x *run) collect(ctx context.Context) {
	x.trace, x.unfired = slices.Clone(x.w.faults.trace), x.w.faults.unfired()
	x.gather(ctx)
	judge(x.record)
	if !x.exists {
		return
	}
	writes, entries := len(x.w.journal), len(x.entries)
	x.w.faults = newFaults(nil)
	if err := x.once(ctx, mostLives+1); err == nil && x.row.State.Settled() {
		x.violations = append(x.violations, x.book.violations...)
	}
	for _, e := range x.w.journal[writes:] {
		switch e.Kind {
		case "write", "do", "undo", "settle":
			x.violate("I10: a second recovery of a %s deployment did %s %s %s", x.row.State, e.Kind, e.Step, e.Cell)
		}
	}
	again, err := x.store.Entries(ctx, deployment, 0)
	if err != nil || len(again) != entries {
		x.violate("I10: a second recovery left %d entries of %d (%v)", len(again), entries, err)
	}
}

func (x *run) gather(ctx context.Context) {
	x.after, x.journal = x.w.snapshot(), slices.Clone(x.w.journal)
	x.effects, x.kept = maps.Clone(x.w.effects), maps.Clone(x.w.kept)
	x.acked = x.book.acked[deployment]
	x.violations = append(x.violations, x.book.violations...)
	x.book.violations = nil
	var err error
	if x.row, err = x.store.Deployment(ctx, deployment); err != nil {
		if !errors.Is(err, ledger.ErrNotFound) {
			x.violate("I7: read the deployment: %v", err)
		}
		return
	}
	x.exists = true
	if x.entries, err = x.store.Entries(ctx, deployment, 0); err != nil {
		x.violate("I7: read the entries: %v", err)
	}
	if x.summary.State == "" { // the last process died after the end was written
		eng, err := x.process(ctx, mostLives+2)
		if err == nil {
			x.summary, err = eng.Summarise(ctx, deployment)
		}
		if err != nil {
			x.violate("I1: summarise: %v", err)
		}
		x.proc.kill()
	}
}
