package engine

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/plan"
)

// pollSignals looks for what people asked of this deployment since the last
// look. A read that fails is tried again at the next tick; gates stay armed.
func (r *runner) pollSignals(ctx context.Context) {
	version, err := r.e.store.Version(ctx)
	if err != nil || version == r.seen {
		return
	}
	signals, err := r.e.store.Signals(ctx, r.lease.Deployment)
	if err != nil {
		r.e.opts.Log.Warn("signals could not be read", "deployment", r.lease.Deployment, "error", err)
		return
	}
	r.seen = version
	for _, s := range signals {
		r.takeSignal(s)
	}
}

// takeSignal answers one signal with one entry: accepted, or refused with why.
func (r *runner) takeSignal(s ledger.Signal) {
	if r.progress.Signals[s.ID] {
		return
	}
	body := backstay.SignalBody{ID: s.ID, Signal: s.Kind, Reason: r.scrub.text(s.Reason), Plan: s.Plan, Step: s.Step}
	if s.Alarm != nil {
		alarm := s.Alarm.Map(r.scrub.text)
		body.Alarm = &alarm
	}
	if s.Kind == SignalApprove && body.Step == "" {
		body.Step = r.openHold()
	}
	if s.Kind == SignalPromote && body.Step == "" && r.progress.State != backstay.Committed {
		body.Step = r.core.openGate(r.progress)
	}
	body.Why = r.core.answer(r.progress, body, s.Actor, answerContext{
		author: r.deployed.Author, guest: s.Guest, now: r.e.now(), planDigest: r.deployed.PlanDigest, memberOf: r.e.opts.MemberOf,
	})
	body.Accepted = body.Why == ""
	r.appendEntry(backstay.Entry{Kind: backstay.EntrySignal, Step: body.Step, Actor: &s.Actor, Body: backstay.Canonical(body)})
	r.consumed = append(r.consumed, s.ID)
	turns := body.Turns() != ""
	if f, baking := r.flights[flightBake]; baking && (turns || body.Accepted && s.Kind == SignalPromote) {
		f.cancel(errBakeEnds)
	}
	if f, verifying := r.flights[flightVerify]; verifying && turns {
		f.cancel(errSibling)
	}
}

// answerContext is what answering a signal depends on beside plan and progress.
type answerContext struct {
	author     backstay.Actor
	guest      bool // the actor cannot open the ledger
	now        time.Time
	planDigest string
	memberOf   func(backstay.Actor, string) bool
}

// answer says why a signal is refused; "" accepts it. It is pure.
func (c *core) answer(s *Progress, sig backstay.SignalBody, actor backstay.Actor, in answerContext) string {
	if in.guest && !Named(c.plan, actor, in.memberOf) {
		return fmt.Sprintf("%s is named by no approve step of the plan, and does not own the ledger", actor)
	}
	going := s.State == backstay.Running || s.State == backstay.Holding
	switch sig.Signal {
	case SignalApprove:
		return c.answerApproval(s, sig, actor, in)
	case SignalAbort:
		return c.answerTurn(s, "abort")
	case SignalFail:
		if s.State != backstay.RollingBack { // there it is evidence, and changes nothing
			return c.answerTurn(s, "fail")
		}
	case SignalResolved:
		if s.State.Settled() {
			return fmt.Sprintf("the deployment ended: it is %s", s.State)
		}
	case SignalPause:
		if !going || s.Failure != nil {
			return fmt.Sprintf("the deployment is %s; only one that goes forward can be paused", s.State)
		}
	case SignalResume:
		if !s.Paused {
			return "the deployment is not paused"
		}
	case SignalPromote:
		gate := s.Steps[sig.Step]
		switch {
		case s.Failure != nil:
			return "the deployment turns around: " + s.Failure.Reason
		case going && gate != nil && gate.Phase == PhaseOpen && c.steps[sig.Step].Gate != nil:
		case s.State != backstay.Committed:
			return fmt.Sprintf("the deployment is %s; only one that waits at a gate or bakes can be promoted", s.State)
		}
	case SignalRetry, SignalClose:
		if s.State != backstay.Held {
			return fmt.Sprintf("the deployment is %s, not held", s.State)
		}
	default:
		return fmt.Sprintf("signal %q is not known", sig.Signal)
	}
	return ""
}

// answerTurn answers what would turn the deployment around.
func (c *core) answerTurn(s *Progress, verb string) string {
	switch {
	case s.State != backstay.Running && s.State != backstay.Holding && s.State != backstay.Committed:
		return fmt.Sprintf("the deployment is %s; there is nothing to %s", s.State, verb)
	case s.State == backstay.Committed && s.Baked == backstay.Pass:
		return "the bake has passed; take it back with `backstay rollback` once it is proven"
	case c.pastPivot(s):
		return fmt.Sprintf("past the point of no return (step %s); it is driven forward", c.plan.Pivot)
	}
	return ""
}

func (c *core) answerApproval(s *Progress, sig backstay.SignalBody, actor backstay.Actor, in answerContext) string {
	st, ok := c.steps[sig.Step]
	if !ok || st.Hold == nil || s.Steps[sig.Step].Phase != PhaseOpen {
		return fmt.Sprintf("nothing waits for an approval (state %s)", s.State)
	}
	hold := st.Hold
	late := s.Steps[sig.Step].Opened.Add(hold.Within.Std())
	switch {
	case sig.Plan != in.planDigest:
		return fmt.Sprintf("the approval is for plan %.12s, this deployment runs plan %.12s", sig.Plan, in.planDigest)
	case s.Failure != nil && !c.pastPivot(s):
		return "the deployment already turns around: " + s.Failure.Reason
	case hold.Within > 0 && in.now.After(late):
		return "too late: it had to come before " + late.Format(time.RFC3339)
	case hold.NotAuthor && actor.UID == in.author.UID && actor.Host == in.author.Host:
		return "who started the deployment may not approve it"
	case in.guest && len(hold.From) == 0:
		return fmt.Sprintf("step %s names nobody: only who can open the ledger may approve it", sig.Step)
	case len(hold.From) > 0 && !namedBy(hold, actor, in.memberOf):
		return fmt.Sprintf("%s is none of %v", actor, hold.From)
	case slices.ContainsFunc(s.Approvals[sig.Step], func(a backstay.Actor) bool { return a.UID == actor.UID && a.Host == actor.Host }):
		return fmt.Sprintf("%s approved already; another person is needed", actor)
	}
	return ""
}

// Named reports whether an approve step of the plan names the actor in its
// `from`. Such a person may steer the deployment without owning the ledger.
func Named(p *plan.Plan, actor backstay.Actor, memberOf func(backstay.Actor, string) bool) bool {
	return slices.ContainsFunc(p.Steps, func(st backstay.Step) bool { return st.Hold != nil && namedBy(st.Hold, actor, memberOf) })
}

func namedBy(h *backstay.Hold, actor backstay.Actor, memberOf func(backstay.Actor, string) bool) bool {
	return slices.ContainsFunc(h.From, func(w string) bool { return memberOf(actor, w) })
}

// openHold returns the step that waits for people, or "".
func (r *runner) openHold() string {
	for _, i := range r.core.holds {
		if r.progress.order[i].Phase == PhaseOpen {
			return r.plan.Steps[i].ID
		}
	}
	return ""
}

// holdDeadline is when the wait that is open ends, for people.
func (r *runner) holdDeadline() time.Time {
	id := r.openHold()
	if id == "" || r.core.steps[id].Hold.Within == 0 {
		return time.Time{}
	}
	return r.progress.Steps[id].Opened.Add(r.core.steps[id].Hold.Within.Std())
}

// armHolds keeps a timer for every open wait: the deadline lives outside
// whatever else happens, and elapses on monotonic time.
func (r *runner) armHolds(acts context.Context) {
	if r.progress.State.Settled() {
		return
	}
	for _, i := range r.core.holds {
		st, sp := &r.plan.Steps[i], r.progress.order[i]
		if sp.Phase != PhaseOpen || st.Hold.Within == 0 {
			continue
		}
		left := min(sp.Opened.Add(st.Hold.Within.Std()).Sub(r.e.now()), st.Hold.Within.Std())
		r.start(acts, st.ID, "wait for approval of "+st.ID, false, func(ctx context.Context) func() {
			timer := time.NewTimer(left)
			defer timer.Stop()
			select {
			case <-timer.C:
			case <-ctx.Done():
				return func() {}
			}
			return func() {
				if r.progress.Steps[st.ID].Phase == PhaseOpen {
					r.append(backstay.EntryOutcome, st.ID, backstay.OutcomeBody{
						Cause: backstay.CauseNotApproved, Class: backstay.Permanent,
						Error: fmt.Sprintf("nobody approved within %s", st.Hold.Within),
					})
				}
			}
		})
	}
}
