package sim

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/engine"
	"github.com/backstay-dev/backstay/internal/ledger"
)

// errDead is what a dead process gets from everything it still tries.
var errDead = errors.New("sim: this process is dead")

// process is one life of the program: the actions and the store as one engine
// sees them. Once it is dead nothing that its goroutines still do has any
// effect on the world or on the ledger.
type process struct {
	w    *world
	book *book
	n    int
	dead atomic.Bool
	// kill ends the context of a process that died, so that it stops waiting.
	kill context.CancelFunc
	// abort asks for an orderly rollback through the ledger and reports whether
	// there was a deployment to ask; stop asks by Ctrl-C.
	abort func() bool
	stop  func()
	// second is somebody who starts another deployment on a key of this one.
	second func()
	bug    func(p *process, verb string, c backstay.Call)
	quiet  bool // no faults and no journal: it is not this run's process

	ctx         context.Context
	interrupt   chan struct{}
	retry       *ledger.Signal // what this life of the program begins with
	storeFailed atomic.Bool    // a fault made a write of the ledger fail
}

var _ engine.Actions = (*process)(nil)

// at passes a named point: it counts it and lets the faults that wait there
// happen. The returned actions are the caller's to perform.
func (p *process) at(label string) (hits, error) {
	if p.dead.Load() {
		return nil, errDead
	}
	if p.quiet {
		return nil, nil
	}
	found := p.w.faults.pass(label)
	for _, f := range found {
		switch f.Action {
		case actCrash:
			p.crash(label)
			return nil, errDead
		case actOutside:
			p.w.put(event{Kind: "outsider"}, f.Cell, f.Value)
		case actAbort:
			if p.abort() {
				p.w.note(event{Kind: "signal", Step: "abort"})
			}
		case actSecond:
			p.second()
		case actStop:
			p.w.note(event{Kind: "signal", Step: "stop"})
			p.stop()
		}
	}
	return found, nil
}

func (p *process) crash(label string) {
	p.w.note(event{Kind: "crash", Proc: p.n, Fault: label})
	p.dead.Store(true)
	p.kill()
}

// failpoint is the engine's Failpoint.
func (p *process) failpoint(point, step string) error {
	_, err := p.at("fp:" + point + "/" + step)
	return err
}

// pause lets virtual time pass, so that parallel steps interleave in one order.
func (p *process) pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	if p.dead.Load() {
		return errDead
	}
	return nil
}

// Prepare is not simulated: plans are made in memory.
func (p *process) Prepare(context.Context, string, backstay.Request) (backstay.Prepared, error) {
	return backstay.Prepared{}, errors.New("sim: the world prepares nothing")
}

// PrepareCheck is not simulated either.
func (p *process) PrepareCheck(context.Context, string, backstay.Request) (backstay.Prepared, error) {
	return backstay.Prepared{}, errors.New("sim: the world prepares nothing")
}

// Observe reads the step's keys.
func (p *process) Observe(ctx context.Context, c backstay.Call) (backstay.Image, error) {
	hit, err := p.at("observe/" + c.Step.ID)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	e := event{Kind: "seen", Step: c.Step.ID, Proc: p.n, Epoch: c.Token.Epoch, Back: p.book.goesBack(c.Deployment, c.Step.ID)}
	im := backstay.Image{}
	p.w.mu.Lock()
	e.Cells = maps.Clone(p.w.cells)
	for _, k := range c.Step.Keys {
		switch {
		case p.w.opaque[k]:
			im[k] = backstay.ResourceState{Opaque: true}
		case hit.has(actUnread):
			e.Fault = actUnread
			im[k] = backstay.ResourceState{Unreadable: "the target does not answer to " + token(c)}
		default:
			im[k] = stateOf(e.Cells, k)
		}
	}
	if hit.has(actObserveErr) {
		e.Fault, e.Err = actObserveErr, "the target does not answer to "+token(c)
	}
	p.w.journal = append(p.w.journal, e)
	p.w.mu.Unlock()
	if e.Err != "" {
		return nil, errors.New(e.Err)
	}
	if _, err := p.at("observed/" + c.Step.ID); err != nil {
		return nil, err
	}
	return im, nil
}

// act is one do or undo under way.
type act struct {
	p       *process
	c       backstay.Call
	verb    string // do, undo
	hit     hits
	changes []change
	back    bool
	secret  string
}

func (p *process) begin(verb string, c backstay.Call, changes []change) (*act, error) {
	hit, err := p.at(verb + "/" + c.Step.ID)
	if err != nil {
		return nil, err
	}
	a := &act{p: p, c: c, verb: verb, hit: hit, changes: changes, back: p.book.goesBack(c.Deployment, c.Step.ID)}
	a.note(verb, "", hit.fault())
	if len(changes) > 0 { // not only when it writes: what begins may write at once
		p.book.mustHaveIntent(p.ctx, c, changes[0].cell())
	}
	a.secret = token(c)
	if c.Output != nil {
		if _, err := c.Output.Write([]byte("the token is " + a.secret + "\n")); err != nil {
			return nil, err
		}
	}
	if bug := p.bug; bug != nil {
		bug(p, verb, c)
	}
	return a, nil
}

func (a *act) note(kind, err, fault string) {
	a.p.w.note(event{Kind: kind, Step: a.c.Step.ID, Proc: a.p.n, Epoch: a.c.Token.Epoch, Back: a.back, Err: err, Fault: fault})
}

// write performs the first n of the act's changes, with a named point and a
// moment of time before each.
func (a *act) write(ctx context.Context, n int) error {
	for i, ch := range a.changes[:n] {
		if err := a.p.pause(ctx, time.Millisecond+time.Duration(a.c.Step.Seq)*10*time.Microsecond); err != nil {
			return err
		}
		if _, err := a.p.at(fmt.Sprintf("%s.w%d/%s", a.verb, i+1, a.c.Step.ID)); err != nil {
			return err
		}
		a.p.book.mustHaveIntent(ctx, a.c, ch.cell())
		a.p.w.put(event{Kind: "write", Step: a.c.Step.ID, Proc: a.p.n, Epoch: a.c.Token.Epoch, Back: a.back}, ch.cell(), ch.To)
		a.p.w.count(a, i+1)
		a.p.w.faults.mark()
	}
	return nil
}

// count keeps the books of how often an effect took place, and of the
// idempotency keys that the target has worked off.
func (w *world) count(a *act, written int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if written == 1 && a.verb == "do" && !a.back {
		w.effects[a.c.Step.ID]++
	}
	if written == len(a.changes) {
		w.seen[a.c.IdempotencyKey] = true
	}
}

// perform writes what the faults leave of the act and returns its error.
func (a *act) perform(ctx context.Context) error {
	all, some := len(a.changes), len(a.changes)/2
	fault := a.hit.fault()
	var err error
	switch fault {
	case actFail, actTransient:
		err = fmt.Errorf("broken on purpose with %s", a.secret)
	case actLie:
	case actPartLie:
		err = a.write(ctx, some)
	case actPart:
		if err = a.write(ctx, some); err == nil {
			err = errors.New("broken half-way on purpose")
		}
	case actFull, actLost:
		if err = a.write(ctx, all); err == nil {
			err = errors.New("done, but reported as broken")
		}
	case actHang, actHangPart:
		if fault == actHangPart {
			err = a.write(ctx, some)
		}
		if err == nil {
			<-ctx.Done()
			err = ctx.Err()
		}
	default:
		err = a.write(ctx, all)
	}
	if fault == actTransient || fault == actLost {
		err = backstay.Classify(backstay.Transient, err)
	}
	return err
}

// end passes the point after the act, before its answer arrives.
func (a *act) end(err error) error {
	if a.p.dead.Load() {
		return errDead
	}
	text := ""
	if err != nil {
		text = err.Error()
	}
	a.note(a.verb+".end", text, a.hit.fault())
	if _, dead := a.p.at(a.verb + ".end/" + a.c.Step.ID); dead != nil {
		return dead
	}
	return err
}

// Do applies the step's changes one after another.
func (p *process) Do(ctx context.Context, c backstay.Call) (backstay.Result, error) {
	b := bodyOf(c.Step)
	a, err := p.begin("do", c, b.Do)
	if err != nil {
		return backstay.Result{}, err
	}
	if b.Takes > 0 {
		if err := p.pause(ctx, b.Takes.Std()); err != nil {
			return backstay.Result{}, a.end(err)
		}
	}
	p.w.mu.Lock()
	known := c.Step.Kind == kindKeyed && p.w.seen[c.IdempotencyKey]
	if c.Step.Kind == kindKeeper {
		p.w.kept[c.Step.ID] = true
		p.w.faults.mark()
	}
	p.w.mu.Unlock()
	if known {
		return backstay.Result{Note: "known already"}, a.end(nil)
	}
	return backstay.Result{}, a.end(a.perform(ctx))
}

// Undo restores exactly what it is told to, or runs the step's command.
func (p *process) Undo(ctx context.Context, c backstay.Call) (backstay.Result, error) {
	changes := bodyOf(c.Step).Undo
	if c.Step.Restorable {
		changes = nil
		for _, k := range slices.Sorted(maps.Keys(c.Restore)) {
			for _, part := range slices.Sorted(slices.Values(c.Restore[k])) {
				changes = append(changes, change{Key: k, Part: part, To: valueOf(c.Before[k].Parts[part])})
			}
		}
	}
	a, err := p.begin("undo", c, changes)
	if err != nil {
		return backstay.Result{}, err
	}
	p.w.mu.Lock()
	gone := c.Step.Kind == kindKeeper && !p.w.kept[c.Step.ID]
	p.w.mu.Unlock()
	if gone {
		return backstay.Result{}, a.end(errors.New("what the undo needs was let go of"))
	}
	return backstay.Result{}, a.end(a.perform(ctx))
}

// Probe looks behind the veil for the kind that can.
func (p *process) Probe(_ context.Context, c backstay.Call) (backstay.Finding, error) {
	if _, err := p.at("probe/" + c.Step.ID); err != nil {
		return backstay.Unknown, err
	}
	if c.Step.Kind != kindProbe {
		return backstay.Unknown, nil
	}
	return p.w.applied(bodyOf(c.Step)), nil
}

// applied is the truth about how much of a do stands.
func (w *world) applied(b body) backstay.Finding {
	w.mu.Lock()
	defer w.mu.Unlock()
	last := map[string]string{}
	begun := false
	for _, ch := range b.Do {
		last[ch.cell()] = ch.To
		begun = begun || w.cells[ch.cell()] == ch.To
	}
	for cell, to := range last {
		switch {
		case w.cells[cell] == to:
		case begun:
			return backstay.Partial
		default:
			return backstay.NotApplied
		}
	}
	return backstay.Applied
}

// Check is a verify probe: it passes unless a fault speaks.
func (p *process) Check(_ context.Context, c backstay.Call) (backstay.CheckResult, error) {
	hit, err := p.at("check/" + c.Step.ID)
	if err != nil {
		return backstay.CheckResult{}, err
	}
	e := event{Kind: "check", Step: c.Step.ID, Proc: p.n, Fault: hit.fault()}
	p.w.note(e)
	switch e.Fault {
	case actFail:
		return backstay.CheckResult{Verdict: backstay.Fail, Reason: "broken on purpose", Samples: 1}, nil
	case actUnread:
		return backstay.CheckResult{}, errors.New("nobody answers")
	case actLie: // no data at all
		return backstay.CheckResult{}, nil
	}
	return backstay.CheckResult{Verdict: backstay.Pass, Samples: 1}, nil
}

// Reap finds nothing: the dead leave nothing running here.
func (p *process) Reap(_ context.Context, c backstay.Call) error {
	_, err := p.at("reap/" + c.Step.ID)
	return err
}

// Settle lets go of what the step kept.
func (p *process) Settle(_ context.Context, c backstay.Call) error {
	hit, err := p.at("settle/" + c.Step.ID)
	if err != nil {
		return err
	}
	p.w.note(event{Kind: "settle", Step: c.Step.ID, Proc: p.n, Fault: hit.fault(), Back: !c.Proven})
	p.book.mayLetGo(p.ctx, c)
	if hit.fault() == actFail {
		return errors.New("cannot let go, on purpose")
	}
	p.w.mu.Lock()
	delete(p.w.kept, c.Step.ID)
	p.w.mu.Unlock()
	p.w.faults.mark()
	_, err = p.at("settled/" + c.Step.ID)
	return err
}

// Settles names the kind that keeps something.
func (p *process) Settles(kind string) bool { return kind == kindKeeper }
