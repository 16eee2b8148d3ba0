package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/ledger"
)

// watched is what one armed check said so far: since when its answers pass
// without a break, how many failed in a row, and the last answer. asked and at are
// when that was asked for and came; noted is when it was last put into the ledger.
type watched struct {
	passes  bool
	since   time.Time
	broke   time.Time // since when they do not
	failed  int
	last    backstay.CheckResult
	samples int
	asked   time.Time
	noted   time.Time
	kept    time.Time // when its state was
	told    backstay.Verdict
}

// note takes in an answer. What is undecided is neither a pass nor a failure: it
// only begins the time of passing anew.
func (w *watched) note(res backstay.CheckResult, asked, now time.Time) {
	if w.passes || w.asked.IsZero() {
		w.broke = now
	}
	w.last, w.asked, w.samples = res, asked, w.samples+max(res.Samples, 1)
	if res.Evidence != nil {
		w.samples = res.Samples // its evidence counts all of them
	}
	switch res.Verdict {
	case backstay.Pass:
		w.failed = 0
		if !w.passes {
			w.passes, w.since = true, now
		}
	case backstay.Fail:
		w.failed++
		w.passes = false
	case backstay.Undecided:
		w.passes = false
	}
}

// gateWait is an open gate: since when it waits, in this process, and since when
// each check of it passes there.
type gateWait struct {
	began time.Time
	open  bool // it may be judged
	late  bool // its time is over
}

// verdictOf says how a gate stands, and why. It is undecided as long as it must
// wait. Only answers to questions since it began count: those before were about
// another share.
func verdictOf(g *backstay.Gate, began, now time.Time, watches map[string]*watched) (backstay.Verdict, string) {
	var missing []string
	for _, check := range g.Checks {
		w := watches[check.Name]
		switch {
		case w == nil || w.asked.Before(began):
			missing = append(missing, check.Name+": it was not asked yet")
			continue
		case failing(check, w):
			return backstay.Fail, fmt.Sprintf("%s: %s", check.Name, w.last.Reason)
		case !w.passes:
			missing = append(missing, fmt.Sprintf("%s: %s (%s)", check.Name, w.last.Reason, w.last.Verdict))
			continue
		}
		since := w.since
		if since.Before(began) {
			since = began
		}
		if passed := now.Sub(since); passed < check.For.Std() {
			missing = append(missing, fmt.Sprintf("%s passes since %s of %s", check.Name, passed.Round(time.Millisecond), check.For))
		}
	}
	if len(missing) > 0 {
		return backstay.Undecided, strings.Join(missing, "; ")
	}
	waited := now.Sub(began)
	if waited < g.Hold.Std() {
		return backstay.Undecided, "it holds for " + g.Hold.String()
	}
	return backstay.Pass, fmt.Sprintf("held for %s", waited.Round(time.Millisecond))
}

func failing(check backstay.GateCheck, w *watched) bool {
	return w.failed >= max(check.Failures, 1)
}

// flightCheck and flightGate begin the names of flights that ask one armed check,
// and that wait for the time at which an open gate has to be judged.
const (
	flightCheck = ":check "
	flightGate  = ":gate "
)

// How often an armed check's answer is put into the ledger, where it has evidence
// or state; a verdict that changed is at once.
const (
	noteEvery = 10 * time.Second
	keepEvery = 30 * time.Second
)

// watch asks an armed check once, after a pause if it was asked before. The loop
// asks again as long as it is armed: through waits for people, pauses and the bake.
func (r *runner) watch(acts context.Context, name, step string) {
	flight := flightCheck + name
	if r.busy(flight) || (r.progress.Steps[step].Phase == PhaseOpen && r.gates[step] == nil) {
		return // the gate's wait begins when its intent is durable
	}
	st := r.core.steps[step]
	i := slices.IndexFunc(st.Gate.Checks, func(c backstay.GateCheck) bool { return c.Name == name })
	check := st.Gate.Checks[i]
	call := backstay.Call{
		Step: backstay.Step{ID: check.Name, Prepared: check.Prepared}, Slots: r.slotsBehind(st),
		Gate: &backstay.GateView{
			Step: st.ID, Route: st.Gate.Route, Weight: st.Gate.Weight, Shares: r.core.sharesOf(st),
			Since: r.progress.Steps[st.ID].Opened, State: r.progress.Gauges[name].State,
		},
	}
	before := r.watches[name]
	pause := time.Duration(0)
	if before != nil {
		call.Gate.State = before.last.State
		pause = max(check.Every.Std(), time.Millisecond)
		if before.asked.Before(r.gateBegan(step)) {
			pause = 0 // what it said was about another share
		}
	}
	r.start(acts, flight, "", false, func(ctx context.Context) func() {
		rest(ctx, pause)
		if ctx.Err() != nil {
			return func() {}
		}
		asked := time.Now()
		res := r.ask(ctx, r.e.opts.Judge, call)
		if len(res.State) == 0 {
			res.State = call.Gate.State // what could not be asked remembers what it knew
		}
		cut := ctx.Err() != nil
		return func() {
			if !cut {
				r.noted(check, step, res, asked)
			}
		}
	})
}

// gateBegan is since when a gate waits in this process; zero where it does not.
func (r *runner) gateBegan(step string) time.Time {
	if wait := r.gates[step]; wait != nil {
		return wait.began
	}
	return time.Time{}
}

// noted takes in an answer of an armed check, and acts on a breach: it beats any
// wait.
func (r *runner) noted(check backstay.GateCheck, step string, res backstay.CheckResult, asked time.Time) {
	if r.progress.Failure != nil || r.progress.State.Settled() {
		return
	}
	now := time.Now()
	w := r.watches[check.Name]
	if w == nil {
		w = &watched{}
		r.watches[check.Name] = w
	}
	w.note(res, asked, now)
	if convicted, why := r.convicted(); convicted {
		w.failed, w.last.Verdict, w.last.Reason = max(check.Failures, 1), backstay.Fail, why
	}
	open := r.progress.Steps[step].Phase == PhaseOpen
	if failing(check, w) && !open {
		r.tell(check.Name, step, PhaseOfWatch, w, true)
		return
	}
	if res.Evidence != nil && (w.told != w.last.Verdict || w.noted.IsZero() || now.Sub(w.noted) >= noteEvery) {
		r.tell(check.Name, step, PhaseOfGate, w, w.told != w.last.Verdict || now.Sub(w.kept) >= keepEvery)
	}
	if open {
		r.judgeGate(r.core.steps[step])
	}
}

// tell puts a check's last answer into the ledger, with its state or without.
func (r *runner) tell(name, step, phase string, w *watched, keep bool) {
	body := backstay.VerdictBody{Check: name, Phase: phase, CheckResult: w.last}
	body.Samples = w.samples
	w.noted, w.told = time.Now(), w.last.Verdict
	if keep {
		w.kept = w.noted
	} else {
		body.State = nil
	}
	r.append(backstay.EntryVerdict, step, body)
}

// convicted weighs the evidence of all comparisons of the plan together.
func (r *runner) convicted() (bool, string) {
	var all []backstay.Evidence
	var said []string
	for _, name := range slices.Sorted(maps.Keys(r.watches)) {
		e := r.watches[name].last.Evidence
		if e == nil || e.Part <= 0 {
			continue
		}
		all = append(all, *e)
		said = append(said, fmt.Sprintf("%s %s : 1", name, backstay.Odds(e.Odds)))
	}
	whole := r.core.comparing()
	if backstay.Weigh(all, whole) < 1 {
		return false, ""
	}
	return true, fmt.Sprintf("the new side is worse than the running one: evidence %s, over the threshold of %.4g : 1", strings.Join(said, ", "), all[0].FailAt)
}

// watchGate waits at a gate whose intent is durable, until the loop has decided or
// the deployment turns around. It writes nothing to any target: a wait that was cut
// off begins anew.
func (r *runner) watchGate(acts context.Context, st *backstay.Step) {
	r.gates[st.ID] = &gateWait{began: time.Now()}
	r.start(acts, st.ID, st.Summary, false, func(ctx context.Context) func() {
		<-ctx.Done()
		stopped := errors.Is(context.Cause(ctx), ErrStopped) || errors.Is(context.Cause(ctx), ledger.ErrLapsed)
		return func() {
			delete(r.gates, st.ID)
			if stopped || r.progress.Steps[st.ID].Phase != PhaseOpen {
				return
			}
			r.results(st)
			r.append(backstay.EntryObserved, st.ID, backstay.ObservedBody{Finding: backstay.NotApplied, Reason: "the deployment turned around while it waited"})
		}
	})
}

// armGates keeps a timer for every open gate: to judge it for the first time (one
// that waits for nothing passes then), for the end of its time and of its hold, and
// for checks that have to pass for a while.
func (r *runner) armGates(acts context.Context) {
	for id, wait := range r.gates {
		st := r.core.steps[id]
		if !wait.open {
			r.start(acts, flightGate+id, "", false, func(context.Context) func() {
				if err := r.e.hit("do.before", id); err != nil {
					return func() { r.stopFor(err) }
				}
				return func() {
					wait.open = true
					r.judgeGate(st)
				}
			})
			continue
		}
		now := time.Now()
		at := wait.began.Add(st.Gate.Within.Std())
		sooner := func(t time.Time) {
			if t.After(now) && (t.Before(at) || wait.late) {
				at = t
			}
		}
		sooner(wait.began.Add(st.Gate.Hold.Std()))
		for _, check := range st.Gate.Checks {
			if w := r.watches[check.Name]; w != nil && w.passes {
				since := w.since
				if since.Before(wait.began) {
					since = wait.began
				}
				sooner(since.Add(check.For.Std()))
			}
		}
		if wait.late && !at.After(now) {
			continue
		}
		r.start(acts, flightGate+id, "", false, func(ctx context.Context) func() {
			rest(ctx, max(at.Sub(now), time.Millisecond))
			return func() { r.judgeGate(st) }
		})
	}
}

// judgeGate ends an open gate that is decided.
func (r *runner) judgeGate(st *backstay.Step) {
	wait := r.gates[st.ID]
	if wait == nil || !wait.open || r.turning() || r.progress.Steps[st.ID].Phase != PhaseOpen {
		return
	}
	now := time.Now()
	verdict, why := verdictOf(st.Gate, wait.began, now, r.watches)
	switch {
	case verdict != backstay.Undecided:
		r.gateEnds(st, verdict, why)
	case wait.late || now.Before(wait.began.Add(st.Gate.Within.Std())):
	case st.Gate.Undecided == backstay.HoldUndecided:
		wait.late = true
		r.append(backstay.EntryVerdict, st.ID, backstay.VerdictBody{
			Check: st.ID, Phase: PhaseOfGate, CheckResult: backstay.CheckResult{Reason: fmt.Sprintf("undecided after %s: %s", st.Gate.Within, why)},
		})
	case st.Gate.Undecided == backstay.PromoteUndecided:
		r.gateEnds(st, backstay.Pass, fmt.Sprintf("undecided after %s, and the gate's policy goes on: %s", st.Gate.Within, why))
	default:
		r.gateEnds(st, backstay.Undecided, why)
	}
}

// passGate lets a person's word stand for the evidence of an open gate.
func (r *runner) passGate(id string) {
	st := r.core.steps[id]
	if r.gates[id] == nil {
		return // resolved first: its wait begins anew
	}
	_, why := verdictOf(st.Gate, r.gates[id].began, time.Now(), r.watches)
	r.gateEnds(st, backstay.Pass, "promoted by a person; the evidence was: "+why)
}

// results puts what the checks of a gate said into the ledger, with their states.
func (r *runner) results(st *backstay.Step) {
	for _, check := range st.Gate.Checks {
		w := r.watches[check.Name]
		if w == nil {
			w = &watched{last: backstay.CheckResult{Reason: "it was not asked yet"}}
		}
		r.tell(check.Name, st.ID, PhaseOfGate, w, true)
	}
}

// gateEnds records what the checks said, and how the wait ended.
func (r *runner) gateEnds(st *backstay.Step, verdict backstay.Verdict, why string) {
	if crash := r.e.hit("do.after", st.ID); crash != nil {
		r.stopFor(crash)
		return
	}
	took := time.Since(r.gates[st.ID].began)
	delete(r.gates, st.ID)
	r.results(st)
	ref, err := (&recorder{shared: r.blobs}).ref(backstay.Image{})
	if err != nil {
		r.fatal = err
		return
	}
	body := backstay.OutcomeBody{OK: verdict == backstay.Pass, After: &ref, Tries: 1, Duration: backstay.Duration(took)}
	if body.OK {
		body.Note = r.scrub.text(why)
	} else {
		body.Class, body.Cause, body.Error = backstay.Permanent, backstay.CauseGateFailed, r.scrub.text(why)
		if verdict == backstay.Undecided {
			body.Error = fmt.Sprintf("undecided after %s: %s", st.Gate.Within, body.Error)
		}
	}
	r.append(backstay.EntryOutcome, st.ID, body)
	r.land(st.ID)
	r.land(flightGate + st.ID)
}

// disarm lets go of what watches, once it does not matter any more.
func (r *runner) disarm() {
	for name := range r.flights {
		if strings.HasPrefix(name, flightCheck) || strings.HasPrefix(name, flightGate) {
			r.land(name)
		}
	}
}

// unsure says which armed checks do not pass now, and what is to happen for it; ""
// where all pass. Young: some of it may pass again by itself.
func (r *runner) unsure() (policy backstay.GatePolicy, why string, young bool) {
	var missing []string
	for _, a := range r.core.armed(r.progress) {
		w := r.watches[a.check]
		if w != nil && w.passes {
			continue
		}
		reason := "it was not asked yet"
		if w != nil {
			reason = w.last.Reason
		}
		young = young || w == nil || time.Since(w.broke) < r.e.opts.Grace
		missing = append(missing, a.check+": "+reason)
		switch own := r.core.steps[a.step].Gate.Undecided; {
		case own == backstay.HoldUndecided || policy == backstay.HoldUndecided:
			policy = backstay.HoldUndecided
		case own == backstay.PromoteUndecided && policy != backstay.RollBackUndecided:
			policy = backstay.PromoteUndecided
		default:
			policy = backstay.RollBackUndecided
		}
	}
	return policy, strings.Join(missing, "; "), young
}

// slotsBehind are the run-time facts (addresses, the side) of the steps that the
// gate waits behind: those of its release, or, where it is part of none, all.
func (r *runner) slotsBehind(st *backstay.Step) map[string]string {
	slots := map[string]string{}
	for i := range r.plan.Steps {
		other := &r.plan.Steps[i]
		if other.ID == st.ID {
			break
		}
		if other.Of == st.Of || st.Of == "" {
			maps.Copy(slots, r.progress.Steps[other.ID].Slots)
		}
	}
	return slots
}
