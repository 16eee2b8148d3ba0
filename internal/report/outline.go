package report

import (
	"time"

	"github.com/backstay-dev/backstay"
)

// outline is a deployment in a few figures, told by its entries one after the
// other. It is small, so that many can be held at once.
type outline struct {
	plan    string
	reverts string
	state   backstay.State

	started, touched, committed time.Time
	failedFrom, failedAt        time.Time // the first failure: what failed had begun, it was recorded
	turned                      time.Time // the first rollback began
	contained                   time.Time // it, or when the last dial was moved back
	backSince, heldSince        time.Time // of the present state
	undoing                     time.Duration
	rollbacks                   int // that began
	firstRollback               backstay.State
	wasHeld                     bool

	failure  outlineFailure
	acting   map[string]time.Time // open intents
	applied  time.Time            // the last good outcome
	lastSeen time.Time
}

// outlineFailure is what failed first.
type outlineFailure struct {
	step, check string
	cause       backstay.Cause
	class       backstay.ErrorClass
	reason      string
}

// spans are what an outline tells its reader as soon as it is known.
type spans interface {
	// undid is one undo that acted.
	undid(step string, took time.Duration)
	// did is one act of a step that succeeded.
	did(step string, took time.Duration)
	// held is how long a person was waited for.
	held(took time.Duration)
}

// take reads one entry. Clocks that were set back give no negative times: what
// cannot be told is left out by those who ask.
func (o *outline) take(e backstay.Entry, tell spans) error {
	o.lastSeen = e.At
	switch e.Kind {
	case backstay.EntryPlanned:
		return read(e, func(e backstay.Entry, b backstay.PlannedBody) {
			o.plan, o.reverts, o.started, o.state = b.PlanDigest, b.Reverts, e.At, backstay.Planned
		})
	case backstay.EntryTransition:
		return read(e, func(e backstay.Entry, b backstay.TransitionBody) { o.move(e.At, b, tell) })
	case backstay.EntryIntent:
		return read(e, func(e backstay.Entry, b backstay.IntentBody) {
			if o.acting == nil {
				o.acting = map[string]time.Time{}
			}
			o.acting[e.Step] = e.At
			if b.Before.Digest != "" && o.touched.IsZero() {
				o.touched = e.At
			}
		})
	case backstay.EntryOutcome:
		return read(e, func(e backstay.Entry, b backstay.OutcomeBody) { o.outcome(e, b, tell) })
	case backstay.EntryObserved:
		return read(e, func(e backstay.Entry, b backstay.ObservedBody) {
			if b.Finding == backstay.Partial || b.Finding == backstay.Unknown {
				o.fail(e.At, o.acting[e.Step], outlineFailure{step: e.Step, cause: backstay.CauseCrashed, reason: b.Reason})
			}
			delete(o.acting, e.Step)
		})
	case backstay.EntryCompensation:
		return read(e, func(e backstay.Entry, b backstay.CompensationBody) {
			if moved, err := time.Parse(time.RFC3339Nano, b.Slots["moved"]); err == nil && !moved.After(e.At) {
				o.contained = moved // a dial went back: users were safe from here on
			}
			if b.Duration > 0 {
				tell.undid(e.Step, b.Duration.Std())
			}
		})
	case backstay.EntryVerdict:
		return read(e, func(e backstay.Entry, b backstay.VerdictBody) { o.verdict(e.At, b) })
	case backstay.EntrySignal:
		return read(e, func(e backstay.Entry, b backstay.SignalBody) {
			if cause := b.Turns(); cause != "" {
				o.fail(e.At, time.Time{}, outlineFailure{cause: cause, reason: b.Reason})
			}
		})
	case backstay.EntryUndoIntent, backstay.EntrySettled, backstay.EntryTakeover, backstay.EntryNote,
		backstay.EntryRefused, backstay.EntryLockBroken, backstay.EntryDrill, backstay.EntryFlag, backstay.EntryMitigation:
	}
	return nil
}

func (o *outline) outcome(e backstay.Entry, b backstay.OutcomeBody, tell spans) {
	from := o.acting[e.Step]
	delete(o.acting, e.Step)
	if b.OK {
		o.applied = e.At
		if b.Duration > 0 {
			tell.did(e.Step, b.Duration.Std())
		}
		return
	}
	o.fail(e.At, from, outlineFailure{step: e.Step, cause: b.Cause, class: b.Class, reason: b.Error})
}

func (o *outline) verdict(at time.Time, b backstay.VerdictBody) {
	if b.Phase == "watch" && b.Verdict == backstay.Fail { // an armed check of a gate that had passed
		o.fail(at, o.applied, outlineFailure{check: b.Check, cause: backstay.CauseGateFailed, reason: b.Reason})
	}
	if b.Check != b.Phase || b.Verdict != backstay.Fail || b.Phase == "gate" {
		return
	}
	from, cause := o.applied, backstay.CauseVerifyFailed
	if b.Phase == "bake" {
		from, cause = o.committed, backstay.CauseBakeFailed
	}
	o.fail(at, from, outlineFailure{check: b.Phase, cause: cause, reason: b.Reason})
}

// fail keeps the first failure.
func (o *outline) fail(at, from time.Time, f outlineFailure) {
	if o.failedAt.IsZero() {
		o.failedAt, o.failedFrom, o.failure = at, from, f
	}
}

func (o *outline) move(at time.Time, b backstay.TransitionBody, tell spans) {
	if b.From == backstay.Held && !o.heldSince.IsZero() {
		tell.held(at.Sub(o.heldSince))
		o.heldSince = time.Time{}
	}
	switch b.To {
	case backstay.RollingBack:
		o.rollbacks++
		o.backSince = at
		if o.turned.IsZero() {
			o.turned, o.contained = at, at
		}
		o.fail(at, o.acting[b.Step], outlineFailure{step: b.Step, cause: b.Cause, reason: b.Reason})
	case backstay.RolledBack, backstay.Held:
		if b.From == backstay.RollingBack {
			if o.rollbacks == 1 {
				o.firstRollback = b.To
			}
			o.undoing += at.Sub(o.backSince)
			o.backSince = time.Time{}
		}
		if b.To == backstay.Held {
			o.heldSince, o.wasHeld = at, true
			o.fail(at, time.Time{}, outlineFailure{step: b.Step, cause: b.Cause, reason: b.Reason})
		}
	case backstay.Committed:
		o.committed = at
	case backstay.Planned, backstay.Approved, backstay.Running, backstay.Holding, backstay.Proven, backstay.Closed, backstay.Refused:
	}
	o.state = b.To
}

// between is the time from one moment to another, if both are known and in
// this order.
func between(from, to time.Time) (time.Duration, bool) {
	d := span(from, to)
	if d == nil {
		return 0, false
	}
	return d.Std(), true
}
