package fault

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/backstay-dev/backstay"
)

// Verb is one of the two acts that change a target.
type Verb string

// The verbs.
const (
	Do   Verb = "do"
	Undo Verb = "undo"
)

// CheckID is the ID of the one verify probe that the injector answers itself.
const CheckID = "drill"

// Target is what acts on the world, and can be made to do it badly.
type Target interface {
	Prepare(ctx context.Context, kind string, req backstay.Request) (backstay.Prepared, error)
	PrepareCheck(ctx context.Context, kind string, req backstay.Request) (backstay.Prepared, error)
	Observe(ctx context.Context, call backstay.Call) (backstay.Image, error)
	Do(ctx context.Context, call backstay.Call) (backstay.Result, error)
	Undo(ctx context.Context, call backstay.Call) (backstay.Result, error)
	Probe(ctx context.Context, call backstay.Call) (backstay.Finding, error)
	Check(ctx context.Context, call backstay.Call) (backstay.CheckResult, error)
	Reap(ctx context.Context, call backstay.Call) error
	Settle(ctx context.Context, call backstay.Call) error
	Settles(kind string) bool

	// Half does about half of what the act would do, and returns.
	Half(ctx context.Context, verb Verb, call backstay.Call) error
	// Outsider changes one of the step's keys as somebody else would.
	Outsider(step backstay.Step) error
}

// Planted is a fault at a step, or, where Step has no ID, at the plan.
type Planted struct {
	Fault
	Step backstay.Step
	// Refused says that an abort during this step will be refused, because it
	// is past the point of no return: the step goes on after the answer.
	Refused bool

	fired int
	died  int // how many of the failpoints in crash were met
}

// Injector is a target with faults in it. Its methods fit the engine's Actions;
// Failpoint and Interrupt belong into the engine's options and starts. It is
// safe for concurrent use.
type Injector struct {
	Target
	crash     error
	interrupt chan struct{}
	answered  chan struct{}

	mu      sync.Mutex
	planted []*Planted
	checks  int
	lifted  bool
}

// errOnPurpose is what a broken act reports.
var errOnPurpose = errors.New("broken on purpose by a drill")

// New puts faults into a target. crash is the error with which the engine
// stops as if its process had died; what an act did that returns it is left
// for recovery to find.
func New(target Target, crash error, planted ...Planted) *Injector {
	i := &Injector{Target: target, crash: crash, interrupt: make(chan struct{}, 1), answered: make(chan struct{})}
	for _, p := range planted {
		i.planted = append(i.planted, &p)
	}
	return i
}

// Interrupt is how a person aborts.
func (i *Injector) Interrupt() <-chan struct{} { return i.interrupt }

// Lift takes all faults away: from now on everything works, and verify passes.
func (i *Injector) Lift() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.lifted = true
}

// Idle lists the planted faults that did not fire, or not to their end.
func (i *Injector) Idle() []Planted {
	i.mu.Lock()
	defer i.mu.Unlock()
	var idle []Planted
	for _, p := range i.planted {
		if (p.fired == 0 || p.died < len(p.crash)) && p.control != noFault && p.control != verifyBad {
			idle = append(idle, *p)
		}
	}
	return idle
}

// Fired reports whether one of the planted faults that fit happened.
func (i *Injector) Fired(fit func(Fault) bool) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, p := range i.planted {
		if p.fired > 0 && fit(p.Fault) {
			return true
		}
	}
	return false
}

// take returns the first fault at a step that waits for what happens now, and
// counts it as fired.
func (i *Injector) take(step string, waits func(*Planted) bool) (Planted, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.lifted {
		return Planted{}, false
	}
	for _, p := range i.planted {
		if p.Step.ID == step && waits(p) {
			p.fired++
			return *p, true
		}
	}
	return Planted{}, false
}

// Failpoint is the engine's. It lets the process die.
func (i *Injector) Failpoint(point, step string) error {
	switch point {
	case "signal.after":
		i.mu.Lock()
		select {
		case <-i.answered:
		default:
			close(i.answered)
		}
		i.mu.Unlock()
	case "outcome.after":
		if p, ok := i.take(step, func(p *Planted) bool { return p.outsider == afterOutcome && p.fired == 0 }); ok {
			if err := i.Outsider(p.Step); err != nil {
				return err
			}
		}
	case "intent.after":
		// A step that waits for people: the abort comes instead.
		if _, ok := i.take(step, func(p *Planted) bool { return p.control == abort && p.Step.Hold != nil && p.fired == 0 }); ok {
			i.interrupt <- struct{}{}
		}
	}
	dies := func(p *Planted) bool {
		hit := p.died < len(p.crash) && p.crash[p.died] == point
		if hit {
			p.died++
		}
		return hit
	}
	if _, ok := i.take(step, dies); ok {
		return fmt.Errorf("%w at %s", i.crash, point)
	}
	return nil
}

// Approves reports whether people may approve this step by themselves: not
// where the fault is that they do not.
func (i *Injector) Approves(step string) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, p := range i.planted {
		if p.Step.ID == step && (p.control == notAgreed || p.control == abort) && !i.lifted {
			if p.control == notAgreed {
				p.fired++
			}
			return false
		}
	}
	return true
}

// Observe is the target's, but for what cannot be read, or is changed by
// somebody else just before. Only looks of a deployment that begins a step
// count, which are those that store what they read.
func (i *Injector) Observe(ctx context.Context, call backstay.Call) (backstay.Image, error) {
	if call.Blobs != nil && call.Deployment != "" {
		p, ok := i.take(call.Step.ID, func(p *Planted) bool {
			return p.fired == 0 && (p.outsider == beforeDo || p.control == unreadable)
		})
		switch {
		case !ok:
		case p.control == unreadable:
			return nil, errOnPurpose
		default:
			if err := i.Outsider(call.Step); err != nil {
				return nil, err
			}
		}
	}
	return i.Target.Observe(ctx, call)
}

// Do is the target's, done badly where a fault waits for it.
func (i *Injector) Do(ctx context.Context, call backstay.Call) (backstay.Result, error) {
	p, ok := i.take(call.Step.ID, func(p *Planted) bool { return p.fired == 0 && (p.do != normal || p.control == abort) })
	if !ok {
		return i.Target.Do(ctx, call)
	}
	if p.control == abort {
		return i.abort(ctx, call, p)
	}
	return i.bend(ctx, p.do, call, Do, i.Target.Do)
}

// abort lets a person abort when half of the step is done, or, where that will
// be refused, before the step.
func (i *Injector) abort(ctx context.Context, call backstay.Call, p Planted) (backstay.Result, error) {
	if !p.Refused {
		if err := i.Half(ctx, Do, call); err != nil {
			return backstay.Result{}, err
		}
		i.interrupt <- struct{}{}
		<-ctx.Done()
		return backstay.Result{}, ctx.Err()
	}
	i.interrupt <- struct{}{}
	select {
	case <-i.answered:
		return i.Target.Do(ctx, call)
	case <-ctx.Done():
		return backstay.Result{}, ctx.Err()
	}
}

// Undo is the target's, done badly where a fault waits for it.
func (i *Injector) Undo(ctx context.Context, call backstay.Call) (backstay.Result, error) {
	p, ok := i.take(call.Step.ID, func(p *Planted) bool {
		return p.undo != normal && (p.fired == 0 || p.undo == failsAlways) || p.outsider == duringUndo && p.fired == 0
	})
	if !ok {
		return i.Target.Undo(ctx, call)
	}
	if p.outsider == duringUndo {
		res, err := i.Target.Undo(ctx, call)
		return res, errors.Join(err, i.Outsider(call.Step))
	}
	return i.bend(ctx, p.undo, call, Undo, i.Target.Undo)
}

// bend does what the fault leaves of an act.
func (i *Injector) bend(ctx context.Context, how act, call backstay.Call, verb Verb, whole func(context.Context, backstay.Call) (backstay.Result, error)) (backstay.Result, error) {
	var res backstay.Result
	var err error
	switch how {
	case normal:
		return whole(ctx, call)
	case lies:
		return res, nil
	case failsBefore, failsAlways:
		return res, errOnPurpose
	case failsOnce:
		return res, backstay.Classify(backstay.Transient, errOnPurpose)
	case failsHalf, hangs, diesHalf:
		err = i.Half(ctx, verb, call)
	case failsAfter, answerLost:
		res, err = whole(ctx, call)
	}
	if err != nil {
		return res, err
	}
	switch how {
	case hangs:
		<-ctx.Done()
		return res, ctx.Err()
	case diesHalf:
		return res, fmt.Errorf("%w in the act", i.crash)
	case answerLost:
		return res, backstay.Classify(backstay.Transient, errOnPurpose)
	case normal, lies, failsBefore, failsAlways, failsOnce, failsHalf, failsAfter:
	}
	return res, errOnPurpose
}

// Check answers the probe CheckID: it fails, unless the drill wants to see a
// commit; others are the target's.
func (i *Injector) Check(ctx context.Context, call backstay.Call) (backstay.CheckResult, error) {
	if call.Step.ID != CheckID {
		return i.Target.Check(ctx, call)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.checks++
	pass := i.lifted
	for _, p := range i.planted {
		switch p.control {
		case noFault:
			pass = true
		case bakeBad:
			p.fired++
			pass = pass || i.checks == 1
		case nothing, verifyBad, abort, notAgreed, unreadable:
		}
	}
	if pass {
		return backstay.CheckResult{Verdict: backstay.Pass, Reason: "the drill lets it pass"}, nil
	}
	return backstay.CheckResult{Verdict: backstay.Fail, Reason: "the drill lets it fail"}, nil
}
