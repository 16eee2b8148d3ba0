package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/plan"
)

// ErrStopped is returned when driving was stopped from outside with the
// deployment unsettled: `recover` goes on from the ledger.
var ErrStopped = errors.New("stopped before the deployment was settled")

// runner drives one deployment. One goroutine (run) owns all its fields; acts
// run in workers, which hand a closure back to that goroutine.
type runner struct {
	e        *Engine
	plan     *plan.Plan
	core     *core
	lease    ledger.Lease
	progress *Progress
	deployed ledger.Deployment

	pending   []backstay.Entry // folded into progress, not yet durable
	consumed  []string
	resources []ledger.Resource
	timings   []ledger.Timing
	overdue   bool            // pending entries waited long enough
	then      []func()        // acts whose intent is in pending: started after the flush
	queued    map[string]bool // the steps they belong to

	blobs   *ledger.BlobBuffer
	scrub   *scrubber
	origin  map[string]*StepProgress // of the deployment this one reverts
	orphans map[string]bool          // steps whose acts may have outlived their process

	watches map[string]*watched  // armed checks, by name
	gates   map[string]*gateWait // open gates that this process waits at

	flights   map[string]*flight
	looking   int // flights that only read and will add an intent: worth waiting for with a flush
	done      chan func()
	workers   sync.WaitGroup
	interrupt <-chan struct{}
	seen      int64          // ledger version at the last look for signals
	told      backstay.State // the state in the deployment's row
	fatal     error
}

// Flights that concern no step; a step's ID cannot begin with a colon.
const (
	flightVerify = ":verify"
	flightBake   = ":bake"
	flightFinish = ":finish"
)

// flight is one act or look under way.
type flight struct {
	what    string
	cancel  context.CancelCauseFunc
	started time.Time
	looking bool
}

func (e *Engine) newRunner(ctx context.Context, lease ledger.Lease) (*runner, error) {
	dep, err := e.store.Deployment(ctx, lease.Deployment)
	if err != nil {
		return nil, fmt.Errorf("read deployment %s: %w", lease.Deployment, err)
	}
	data, err := e.store.Plan(ctx, dep.PlanDigest)
	if err != nil {
		return nil, fmt.Errorf("read the plan of %s: %w", dep.Name, err)
	}
	p, err := plan.Decode(data)
	if err != nil {
		return nil, err
	}
	entries, err := e.store.Entries(ctx, lease.Deployment, 0)
	if err != nil {
		return nil, fmt.Errorf("read the entries of %s: %w", dep.Name, err)
	}
	progress, err := Fold(p, entries)
	if err != nil {
		return nil, &backstay.Error{
			Class: backstay.Permanent, Op: "replay deployment", Subject: dep.Name, Err: err,
			Hint: "run `backstay audit verify`; the ledger is damaged or was written by a newer version",
		}
	}
	est, err := e.store.Timings(ctx, dep.Release)
	if err != nil {
		return nil, fmt.Errorf("read measured undo times: %w", err)
	}
	r := &runner{
		e: e, plan: p, core: newCore(p, est, e.actions.Settles), lease: lease, progress: progress, deployed: dep, told: dep.State,
		blobs: e.store.NewBlobBuffer(context.WithoutCancel(ctx)), scrub: newScrubber(e.opts.Secrets),
		orphans: map[string]bool{}, watches: map[string]*watched{}, gates: map[string]*gateWait{}, flights: map[string]*flight{}, queued: map[string]bool{}, done: make(chan func()),
	}
	for id, sp := range progress.Steps {
		switch sp.Phase {
		case PhaseOpen, PhaseUndoing, PhaseFailed, PhaseUndoFailed:
			// A failed one too: what it failed for may be that its processes
			// could not be ended.
			r.orphans[id] = true
		case PhasePending, PhaseApplied, PhaseUndone:
		}
	}
	if err := r.loadOrigin(ctx); err != nil {
		return nil, err
	}
	return r, nil
}

// loadOrigin reads the deployment that a revert plan takes back: its slots and
// images are what the undo needs.
func (r *runner) loadOrigin(ctx context.Context) error {
	r.origin = map[string]*StepProgress{}
	folded := map[string]*Progress{}
	for _, st := range r.plan.Steps {
		if st.Reverts == nil {
			continue
		}
		id := st.Reverts.Deployment
		if folded[id] == nil {
			_, progress, err := r.e.Replay(ctx, id)
			if err != nil {
				return fmt.Errorf("read the reverted deployment: %w", err)
			}
			folded[id] = progress
		}
		r.origin[st.ID] = folded[id].Steps[st.Reverts.Step]
	}
	return nil
}

// Replay reads and folds one deployment.
func (e *Engine) Replay(ctx context.Context, id string) (*plan.Plan, *Progress, error) {
	dep, err := e.store.Deployment(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	data, err := e.store.Plan(ctx, dep.PlanDigest)
	if err != nil {
		return nil, nil, err
	}
	p, err := plan.Decode(data)
	if err != nil {
		return nil, nil, err
	}
	entries, err := e.store.Entries(ctx, id, 0)
	if err != nil {
		return nil, nil, err
	}
	progress, err := Fold(p, entries)
	return p, progress, err
}

// run is the loop: decide, make durable, wait. It returns when the deployment
// is settled, or with the error that stopped it (the ledger is consistent then).
func (r *runner) run(ctx context.Context) error {
	acts, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	defer r.workers.Wait()
	defer stop(ErrStopped)
	poll := time.NewTicker(r.e.opts.Poll)
	defer poll.Stop()
	r.publish()
	if !r.progress.State.Settled() {
		r.pollSignals(ctx) // what was sent while nobody drove is not overtaken by the next step
	}
	for {
		for r.fatal == nil && r.dispatch(acts) {
		}
		if r.fatal == nil && r.mustFlush() {
			r.flush(ctx)
			continue
		}
		if r.fatal != nil {
			return r.abandon(stop)
		}
		if r.progress.State.Settled() && len(r.flights) == 0 && len(r.core.next(r.progress)) == 0 {
			return nil
		}
		select {
		case apply := <-r.done:
			apply()
		case <-poll.C:
			r.overdue = len(r.pending) > 0
			r.pollSignals(ctx)
		case _, ok := <-r.interrupt:
			if !ok {
				r.interrupt = nil
				continue
			}
			r.takeSignal(ledger.Signal{
				ID:   "interrupt-" + r.e.store.NodeID() + "-" + fmt.Sprint(r.progress.N+int64(len(r.pending))),
				Kind: SignalAbort, Reason: "interrupted (Ctrl-C)", Actor: r.e.opts.Actor,
			})
		case <-ctx.Done():
			r.fatal = fmt.Errorf("%w: %w", ErrStopped, context.Cause(ctx))
		}
	}
}

// abandon stops all acts and waits until none is left running.
func (r *runner) abandon(stop context.CancelCauseFunc) error {
	stop(r.fatal)
	waited := make(chan struct{})
	go func() {
		r.workers.Wait()
		close(waited)
	}()
	for {
		select {
		case <-r.done: // its news is lost on purpose: recovery observes instead
		case <-waited:
			return r.fatal
		}
	}
}

// dispatch performs what next asks for and reports whether anything changed.
func (r *runner) dispatch(acts context.Context) bool {
	before := len(r.pending)
	for _, cmd := range r.core.next(r.progress) {
		if len(r.pending) > 0 && cmd.op.final() {
			continue // what it follows from is made durable first
		}
		switch cmd.op {
		case opMove:
			r.transition(cmd.event, backstay.TransitionBody{Cause: cmd.cause, Reason: cmd.reason, Step: cmd.step})
			return r.fatal == nil
		case opResolve:
			r.resolve(acts, cmd.step)
		case opBegin:
			r.begin(acts, cmd.step)
		case opHold:
			r.append(backstay.EntryIntent, cmd.step, backstay.IntentBody{})
		case opGrant:
			r.append(backstay.EntryOutcome, cmd.step, backstay.OutcomeBody{OK: true, Note: "approved"})
			r.land(cmd.step)
		case opWatch:
			r.watch(acts, cmd.check, cmd.step)
		case opPass:
			r.passGate(cmd.step)
		case opUndo:
			r.undo(acts, cmd.step)
		case opVerify:
			r.verify(acts)
		case opBake:
			r.bake(acts)
		case opSettle:
			r.settle(acts, cmd.step)
		case opFinish:
			r.finish(acts, cmd.event)
		}
	}
	r.armHolds(acts)
	r.armGates(acts)
	return len(r.pending) > before && r.fatal == nil
}

// start runs work in a worker under the name of what it is about; the closure
// it returns runs in the loop. A name that is in flight is not started again.
func (r *runner) start(acts context.Context, name, what string, looking bool, work func(ctx context.Context) func()) {
	if r.busy(name) {
		return
	}
	ctx, cancel := context.WithCancelCause(acts)
	f := &flight{what: what, cancel: cancel, started: r.e.now(), looking: looking}
	r.flights[name] = f
	if looking {
		r.looking++
	}
	r.workers.Go(func() {
		apply := work(ctx)
		news := func() {
			if r.flights[name] == f {
				r.land(name)
			}
			apply()
		}
		select {
		case r.done <- news:
		case <-acts.Done(): // nobody listens any more
		}
	})
	r.publish()
}

// busy reports whether something about name is under way, or will be after
// the next flush.
func (r *runner) busy(name string) bool { return r.flights[name] != nil || r.queued[name] }

// afterFlush starts an act as soon as its intent, now pending, is durable.
func (r *runner) afterFlush(step string, act func()) {
	r.queued[step] = true
	r.then = append(r.then, act)
}

// land forgets a flight that came back (or was called off).
func (r *runner) land(name string) {
	f, ok := r.flights[name]
	if !ok {
		return
	}
	f.cancel(nil)
	if f.looking {
		r.looking--
	}
	delete(r.flights, name)
}

// append folds an entry in and queues it for the next flush.
func (r *runner) append(kind backstay.EntryKind, step string, body any, blobs ...string) {
	e := backstay.Entry{Kind: kind, Step: step, Body: backstay.Canonical(body), Blobs: blobs}
	if kind == backstay.EntryIntent {
		e.Attempt = r.progress.Steps[step].Attempt + 1
	} else if step != "" {
		e.Attempt = r.progress.Steps[step].Attempt
	}
	r.appendEntry(e)
}

func (r *runner) appendEntry(e backstay.Entry) {
	e.V, e.Deployment, e.At = backstay.EntryFormat, r.lease.Deployment, r.e.now()
	if e.Actor == nil {
		e.Actor = &r.e.opts.Actor
	}
	if err := r.progress.apply(e); err != nil {
		r.fatal = fmt.Errorf("record %s of %q: %w", e.Kind, e.Step, err)
		return
	}
	r.pending = append(r.pending, e)
}

// transition appends a transition from the current state.
func (r *runner) transition(event Event, body backstay.TransitionBody) {
	to, err := move(r.progress.State, event)
	if err != nil {
		r.fatal = err
		return
	}
	body.From, body.Event, body.To = r.progress.State, string(event), to
	switch event {
	case EventCommit:
		body.Until = r.e.now().Add(r.plan.Bake.For.Std())
	case EventHold:
		body.Until = r.holdDeadline()
	case EventFail, EventApprove, EventStart, EventResume, EventProve, EventUndone, EventStick, EventRetry, EventAccept, EventRefuse:
	}
	r.append(backstay.EntryTransition, "", body)
	r.projectResources(event)
	if event == EventFail || event == EventStick {
		r.disarm()
		if f, baking := r.flights[flightBake]; baking {
			f.cancel(errBakeEnds)
		}
	}
	if to.Settled() {
		for name := range r.flights {
			r.land(name) // timers of waits that nobody needs any more
		}
	}
}

// mustFlush says whether to make the pending entries durable now. An outcome
// may wait for the next step's look, so that outcome and next intent share one
// commit; nobody was told of it yet.
func (r *runner) mustFlush() bool {
	return len(r.pending) > 0 && (len(r.then) > 0 || r.looking == 0 || r.overdue || len(r.pending) > 64)
}

// flush makes the pending entries durable in one transaction and then starts
// the acts whose intents were among them.
func (r *runner) flush(ctx context.Context) {
	for _, e := range r.pending {
		if r.fatal = r.e.hit(pointOf(e)+".before", e.Step); r.fatal != nil {
			return
		}
	}
	var moved backstay.State
	if r.told != r.progress.State {
		moved = r.progress.State
	}
	ack, err := r.e.store.Append(context.WithoutCancel(ctx), &r.lease, ledger.Update{
		Entries: r.pending, State: moved, Consumed: r.consumed, Blobs: r.blobs,
		Resources: r.resources, Timings: r.timings, Disown: r.progress.State.Settled(),
	})
	if err != nil {
		r.fatal = fmt.Errorf("write the ledger: %w", err)
		return
	}
	r.progress.N, r.told = r.lease.N, r.progress.State
	for _, e := range r.pending {
		if r.fatal = r.e.hit(pointOf(e)+".after", e.Step); r.fatal != nil {
			return
		}
	}
	r.pending, r.consumed, r.resources, r.timings = nil, nil, nil, nil
	then := r.then
	r.then, r.queued, r.overdue = nil, map[string]bool{}, false
	for _, act := range then {
		act()
	}
	if ack.Signals && !r.progress.State.Settled() {
		// Somebody's word is waiting: it must not be overtaken by the next step.
		r.pollSignals(ctx)
	}
	r.publish()
}

// pointOf names the failpoint of an entry: its kind, or "transition.EVENT".
func pointOf(e backstay.Entry) string {
	if e.Kind != backstay.EntryTransition {
		return string(e.Kind)
	}
	var body backstay.TransitionBody
	if e.Decode(&body) != nil {
		return string(e.Kind)
	}
	return string(e.Kind) + "." + body.Event
}

// call is the driver call for a step.
func (r *runner) call(st *backstay.Step, rec *recorder) backstay.Call {
	sp := r.progress.Steps[st.ID]
	slots := map[string]string{}
	for k, v := range sp.Slots {
		slots[k] = v
	}
	if o := r.origin[st.ID]; o != nil {
		for k, v := range o.Slots {
			if _, own := slots[k]; !own {
				slots[k] = v
			}
		}
	}
	c := backstay.Call{
		Deployment: r.lease.Deployment, Release: r.plan.Release, Step: *st, Attempt: sp.Attempt,
		Token:   backstay.Token{Generation: r.lease.Generation, Epoch: r.lease.Epoch, Seq: r.lease.N},
		DataDir: r.e.opts.DataDir, Secrets: r.scrub, Slots: slots,
	}
	c.Flags = flags{r.e.store, ledger.FlagWriter{
		Actor: r.e.opts.Actor, By: &backstay.FlagBy{Deployment: c.Deployment, Step: st.ID, Token: c.Token},
	}}
	if rec != nil {
		c.Blobs = rec
	}
	return c
}

// recorder is the view of the blobs that one act gets; it remembers what was
// put, so that the entry can pin it. The buffer itself is shared by all acts.
type recorder struct {
	shared *ledger.BlobBuffer

	mu  sync.Mutex // an act may put from several goroutines
	put []string
}

var _ backstay.Blobs = (*recorder)(nil)

// Put stores content in the shared buffer and remembers its address.
func (rec *recorder) Put(rd io.Reader) (string, int64, error) {
	digest, size, err := rec.shared.Put(rd)
	if err == nil {
		rec.mu.Lock()
		rec.put = append(rec.put, digest)
		rec.mu.Unlock()
	}
	return digest, size, err
}

// Has reports whether the content is stored or buffered.
func (rec *recorder) Has(digest string) (bool, error) {
	return rec.shared.Has(digest)
}

// Get opens stored or buffered content.
func (rec *recorder) Get(digest string) (io.ReadCloser, error) {
	return rec.shared.Get(digest)
}
