package cli

import (
	"context"
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/engine"
	"github.com/backstay-dev/backstay/internal/ledger"
)

// errSecondInterrupt is the cause with which a second Ctrl-C ends driving.
var errSecondInterrupt = errors.New("stopped by a second Ctrl-C")

// onSignal makes f the receiver of signals until the returned function is
// called. Without a receiver a signal ends the call's context.
func (c *call) onSignal(f func(os.Signal)) (restore func()) {
	old := c.receiver.Swap(&f)
	return func() { c.receiver.Store(old) }
}

// listen hands signals to their receiver until done is closed.
func (c *call) listen(cancel context.CancelCauseFunc, done <-chan struct{}) {
	for {
		select {
		case sig := <-c.app.Signals:
			if f := c.receiver.Load(); f != nil {
				(*f)(sig)
				continue
			}
			cancel(context.Canceled)
		case <-done:
			return
		}
	}
}

// driving is a deployment that this process drives in the foreground.
type driving struct {
	watch     watch
	interrupt chan struct{}
	cancel    context.CancelCauseFunc
	signals   atomic.Int32
	stopped   atomic.Bool

	mu   sync.Mutex
	last engine.View
}

// show keeps the newest view, for the words at the end, and passes it on.
func (d *driving) show(v engine.View) {
	d.mu.Lock()
	d.last = v
	d.mu.Unlock()
	d.watch.show(v)
}

func (d *driving) say(format string, args ...any) { d.watch.say(format, args...) }
func (d *driving) output(step, line string)       { d.watch.output(step, line) }
func (d *driving) close()                         { d.watch.close() }

var _ watch = (*driving)(nil)

func (d *driving) view() engine.View {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.last
}

// take is what a signal does to a deployment in the foreground: the first one
// asks for an orderly rollback; a Ctrl-C after that stops at once. SIGTERM and
// SIGHUP never stop an orderly rollback.
func (d *driving) take(sig os.Signal) {
	if d.signals.Add(1) == 1 {
		d.watch.say("%s: going back in order; Ctrl-C (again) stops at once and leaves the rest to `backstay recover`", signalWord(sig))
		d.interrupt <- struct{}{} // has room for it
		return
	}
	if sig == os.Interrupt {
		d.watch.say("stopping at once; the ledger stays consistent")
		d.stopped.Store(true)
		d.cancel(errSecondInterrupt)
	}
}

func signalWord(sig os.Signal) string {
	switch sig {
	case os.Interrupt:
		return "Ctrl-C"
	case syscall.SIGTERM:
		return "SIGTERM"
	case syscall.SIGHUP:
		return "the terminal went away"
	}
	return sig.String()
}

// act is one way to drive a deployment: Deploy or Resume of an engine.
type act func(ctx context.Context, e *engine.Engine, interrupt <-chan struct{}) (engine.Summary, error)

// drive runs a deployment in the foreground to its end, showing it. dir is
// where its relative secret files start.
func (s *session) drive(ctx context.Context, dir string, do act) (engine.Summary, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	d := &driving{watch: newRelay(s.c.watch()), interrupt: make(chan struct{}, 1), cancel: cancel}
	defer s.c.onSignal(d.take)()
	e, err := s.engine(dir, d)
	if err != nil {
		d.close()
		return engine.Summary{}, err
	}
	endHosting := s.host(ctx)
	sum, err := do(ctx, e, d.interrupt)
	endHosting()
	d.close()
	if err != nil {
		return sum, driveError(err, d.view())
	}
	return sum, nil
}

// driveError names the deployment that an error left unsettled, if one was
// begun.
func driveError(err error, v engine.View) error {
	if v.Deployment == "" {
		return err
	}
	return &stoppedError{ref: orWord(v.Name, v.Deployment), err: err}
}

// followEvery is how often a deployment that another process drives is looked at.
const followEvery = 200 * time.Millisecond

// follow shows a deployment that another process drives until it is settled,
// until says so, or nobody drives it any more. until may be nil.
func (s *session) follow(ctx context.Context, id string, w watch, until func(engine.View) bool) (ledger.Deployment, error) {
	e, err := s.here()
	if err != nil {
		return ledger.Deployment{}, err
	}
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	var seen int64 = -1
	for {
		dep, err := s.store.Deployment(ctx, id)
		if err != nil {
			return dep, err
		}
		if dep.N != seen {
			v, err := e.ViewOf(ctx, id)
			if err != nil {
				return dep, err
			}
			seen = dep.N
			w.show(v)
			if until != nil && until(v) {
				return dep, nil
			}
		}
		if dep.State.Settled() || !driven(dep) {
			return dep, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return dep, context.Cause(ctx)
		}
	}
}

// ask sends a signal to a deployment and waits until its driver answered it.
// The answer is nil when nobody did within patience.
func (s *session) ask(ctx context.Context, id string, sig ledger.Signal, patience time.Duration) (*backstay.SignalBody, error) {
	if err := s.store.Signal(ctx, id, sig); err != nil {
		return nil, err
	}
	return s.answer(ctx, id, sig.ID, patience)
}

// answer waits for the entry that answers a signal.
func (s *session) answer(ctx context.Context, id, signal string, patience time.Duration) (*backstay.SignalBody, error) {
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(followEvery / 2)
	defer tick.Stop()
	var after int64
	for {
		entries, err := s.store.Entries(ctx, id, after)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			after = e.N
			if e.Kind != backstay.EntrySignal {
				continue
			}
			var body backstay.SignalBody
			if err := e.Decode(&body); err != nil {
				return nil, err
			}
			if body.ID == signal {
				return &body, nil
			}
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			return nil, nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// signal makes a signal of this call's actor.
func (s *session) signal(kind, reason string) (ledger.Signal, error) {
	id, err := newID()
	return ledger.Signal{ID: id, Kind: kind, Reason: reason, Actor: s.actor, At: s.c.app.Now().UTC()}, err
}
