package engine

import (
	"fmt"
	"slices"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/plan"
)

// Names that entries and signals use; part of the ledger format.
const (
	SignalAbort   = "abort"
	SignalPause   = "pause"
	SignalResume  = "resume"
	SignalPromote = "promote"
	SignalApprove = "approve"
	SignalRetry   = "retry"
	SignalClose   = "close"

	// What is reported from outside: that the release is bad, and that this is over.
	SignalFail     = "fail"
	SignalResolved = "resolved"

	PhaseOfVerify = "verify"
	PhaseOfBake   = "bake"
	PhaseOfGate   = "gate"
	PhaseOfWatch  = "watch" // an armed check that failed while no gate with it waited

	CompensationRestored    = "restored"
	CompensationCompensated = "compensated"
	CompensationUntouched   = "untouched"
	CompensationKept        = "kept"
	CompensationFailed      = "failed"
)

// op is what next can ask the runner to do.
type op string

const (
	opMove    op = "move"    // append a transition
	opBegin   op = "begin"   // observe, intent, do, observe, outcome
	opResolve op = "resolve" // an open intent: cancel it if it is ours, else observe it
	opHold    op = "hold"    // open a wait for people
	opGrant   op = "grant"   // enough people agreed
	opUndo    op = "undo"    // look, undo intent, undo, look, compensation
	opVerify  op = "verify"  // read everything back, run the probes
	opBake    op = "bake"    // watch the probes until the bake ends
	opSettle  op = "settle"  // let go of what the step kept for its undo
	opWatch   op = "watch"   // ask an armed check
	opPass    op = "pass"    // a person promoted an open gate
	opFinish  op = "finish"  // final look at every key, then the last transition
)

// final reports whether the op concludes from everything before it (and may let
// go of what an undo would need), so that all of that must be durable first.
func (o op) final() bool {
	return o == opVerify || o == opBake || o == opSettle || o == opFinish
}

// command is one thing for the runner. Step is set where it concerns one.
type command struct {
	op     op
	step   string
	check  string
	event  Event
	cause  backstay.Cause
	reason string
}

const (
	// maxParallel bounds how many steps act at once.
	maxParallel = 16
	// maxForwardFailures bounds how often a step past the point of no return
	// is driven forward before the deployment is held.
	maxForwardFailures = 5
)

// estimates are measured undo durations by step ID. A step without one counts
// with what its do took this time.
type estimates map[string]time.Duration

// core decides over one plan. It is immutable.
type core struct {
	plan       *plan.Plan
	steps      map[string]*backstay.Step
	at         map[string]int // position of a step in the plan
	needs      [][]int        // by position in the plan: the positions of the steps it needs
	dependents [][]int        // and of those that need it
	holds      []int          // positions of the waits for people
	gates      []int          // and for evidence
	estimates  estimates
	settles    func(kind string) bool
}

func newCore(p *plan.Plan, est estimates, settles func(kind string) bool) *core {
	c := &core{
		plan: p, estimates: est, settles: settles,
		steps: make(map[string]*backstay.Step, len(p.Steps)), at: make(map[string]int, len(p.Steps)),
	}
	for i := range p.Steps {
		c.at[p.Steps[i].ID] = i
	}
	c.needs, c.dependents = make([][]int, len(p.Steps)), make([][]int, len(p.Steps))
	for i := range p.Steps {
		s := &p.Steps[i]
		c.steps[s.ID] = s
		if s.Hold != nil {
			c.holds = append(c.holds, i)
		}
		if s.Gate != nil {
			c.gates = append(c.gates, i)
		}
		for _, need := range s.Needs {
			c.needs[i] = append(c.needs[i], c.at[need])
			c.dependents[c.at[need]] = append(c.dependents[c.at[need]], i)
		}
	}
	return c
}

// next says what to do now, beside asking the armed checks. It is a pure function of plan and progress:
// calling it again without new entries gives the same commands, and a runner
// skips those it has in flight. No commands and nothing in flight means that
// the deployment is settled or waits for the outside.
func (c *core) next(s *Progress) []command {
	return append(c.decide(s), c.watches(s)...)
}

func (c *core) decide(s *Progress) []command {
	switch s.State {
	case backstay.Planned:
		return []command{{op: opMove, event: EventApprove, reason: "the plan asks for no approval before its start"}}
	case backstay.Approved:
		return []command{{op: opMove, event: EventStart}}
	case backstay.Running, backstay.Holding:
		return c.forward(s)
	case backstay.Committed:
		return c.afterCommit(s)
	case backstay.RollingBack:
		return c.backward(s)
	case backstay.Held:
		if s.Retry {
			return []command{{op: opMove, event: EventRetry, reason: "asked for by a person"}}
		}
		if s.Accepted {
			return []command{{op: opMove, event: EventAccept, reason: "signed for by a person"}}
		}
		return nil
	case backstay.Proven, backstay.RolledBack, backstay.Closed, backstay.Refused:
		return nil
	}
	return nil
}

// forward decides while the deployment goes forward.
func (c *core) forward(s *Progress) []command {
	resolve := c.open(s)
	if s.Failure != nil {
		return c.turnAround(s, resolve)
	}
	begins, holds, grants := c.ready(s)
	if len(grants) > 0 {
		return append(resolve, grants...)
	}
	if veto := c.overBudget(s, begins); veto != nil {
		return []command{*veto}
	}
	stalled := c.stalled(s) != ""
	waiting := s.Paused || c.waitsForPeople(s) || len(holds) > 0 || stalled
	working := len(begins) > 0 || len(resolve) > 1 || (len(resolve) == 1 && !stalled)
	switch {
	case s.State == backstay.Holding && (working || !waiting):
		return []command{{op: opMove, event: EventResume}}
	case len(holds) > 0:
		return holds
	case s.State == backstay.Running && !working && waiting:
		return []command{{op: opMove, event: EventHold, reason: c.holdReason(s)}}
	case working:
		return append(resolve, begins...)
	case waiting:
		return resolve
	}
	if s.Verified == backstay.Pass {
		return []command{{op: opMove, event: EventCommit}}
	}
	return []command{{op: opVerify}}
}

// open returns a resolve for every intent without outcome.
func (c *core) open(s *Progress) []command {
	var cmds []command
	for i := range c.plan.Steps {
		st := &c.plan.Steps[i]
		if st.Hold == nil && s.order[i].Phase == PhaseOpen {
			cmds = append(cmds, command{op: opResolve, step: st.ID})
		}
	}
	return cmds
}

// ready returns the steps that may begin, the holds to open and to grant.
func (c *core) ready(s *Progress) (begins, holds, grants []command) {
	busy := 0
	for i, sp := range s.order {
		st := &c.plan.Steps[i]
		switch {
		case sp.Phase == PhaseOpen && st.Hold != nil:
			if len(distinct(s.Approvals[st.ID])) >= st.Hold.Count {
				grants = append(grants, command{op: opGrant, step: st.ID})
			}
		case sp.Phase == PhaseOpen && sp.Promoted:
			grants = append(grants, command{op: opPass, step: st.ID})
		case sp.Phase == PhaseOpen:
			busy++
		case sp.Phase != PhasePending || s.Paused || !c.satisfied(s, i):
		case st.Hold != nil:
			holds = append(holds, command{op: opHold, step: st.ID})
		case busy+len(begins) < maxParallel:
			begins = append(begins, command{op: opBegin, step: st.ID})
		}
	}
	return begins, holds, grants
}

func (c *core) satisfied(s *Progress, i int) bool {
	for _, need := range c.needs[i] {
		if s.order[need].Phase != PhaseApplied {
			return false
		}
	}
	return true
}

func (c *core) waitsForPeople(s *Progress) bool {
	for _, i := range c.holds {
		if s.order[i].Phase == PhaseOpen {
			return true
		}
	}
	return false
}

func (c *core) holdReason(s *Progress) string {
	if s.Paused {
		return "paused by an operator"
	}
	if id := c.stalled(s); id != "" {
		return "gate " + id + " is " + s.Steps[id].Stalled
	}
	return "waits for approval"
}

// distinct returns the actors without repeating a person.
func distinct(actors []backstay.Actor) []backstay.Actor {
	var out []backstay.Actor
	for _, a := range actors {
		same := func(b backstay.Actor) bool { return a.UID == b.UID && a.Host == b.Host }
		if !slices.ContainsFunc(out, same) {
			out = append(out, a)
		}
	}
	return out
}

// turnAround decides after a failure while going forward: first the siblings'
// outcomes, then back, or, past the point of no return, onward or held.
func (c *core) turnAround(s *Progress, resolve []command) []command {
	if len(resolve) > 0 {
		return resolve
	}
	if !c.pastPivot(s) {
		return []command{{op: opMove, event: EventFail, step: s.Failure.Step, cause: s.Failure.Cause, reason: s.Failure.Reason}}
	}
	return c.onward(s)
}

// onward drives a deployment home that failed past the point of no return, or
// gives it to a person.
func (c *core) onward(s *Progress) []command {
	stick := []command{{op: opFinish, event: EventStick}}
	var again []command
	for i, sp := range s.order {
		st := &c.plan.Steps[i]
		if sp.Phase != PhaseFailed {
			continue
		}
		if st.Effect == backstay.AtMostOnce || st.Pivot || st.Waits() || sp.Failures >= maxForwardFailures {
			return stick
		}
		again = append(again, command{op: opBegin, step: st.ID})
	}
	switch {
	case len(again) == 0: // no step failed: verify did
		return stick
	case s.Paused && s.State == backstay.Running:
		return []command{{op: opMove, event: EventHold, reason: c.holdReason(s)}}
	case s.Paused:
		return nil
	case s.State == backstay.Holding:
		return []command{{op: opMove, event: EventResume}}
	}
	// Once they are home the failure is forgotten and the rest goes on as usual.
	begins, _, _ := c.ready(s)
	return append(again, begins...)
}

// pastPivot reports whether the point of no return was, or may have been, passed.
func (c *core) pastPivot(s *Progress) bool {
	if c.plan.Pivot == "" {
		return false
	}
	sp := s.Steps[c.plan.Pivot]
	if !sp.Touched {
		return false
	}
	return sp.Phase != PhaseFailed || !unchanged(sp)
}

// unchanged reports whether it was read back that a step changed nothing.
func unchanged(sp *StepProgress) bool {
	if sp.Before == nil || sp.After == nil || sp.Before.Stored || sp.After.Stored {
		return false
	}
	return sp.Before.Inline.Equal(sp.After.Inline)
}

// overBudget vetoes going forward when undoing what has been done, plus what
// would begin now, would not fit the time that the rollback is given.
func (c *core) overBudget(s *Progress, begins []command) *command {
	if len(begins) == 0 || c.pastPivot(s) {
		return nil
	}
	check := func(within backstay.Duration, stage string, all bool) *command {
		if within == 0 {
			return nil
		}
		cost := c.undoCost(s, stage, all, begins...)
		if cost <= within.Std() {
			return nil
		}
		return &command{
			op: opMove, event: EventFail, cause: backstay.CauseBudget, step: begins[0].step,
			reason: fmt.Sprintf("undoing what is done and step %s would take about %s, more than rollback.within %s", begins[0].step, cost.Round(time.Millisecond), within),
		}
	}
	if veto := check(c.plan.Within, "", true); veto != nil {
		return veto
	}
	for _, stage := range c.plan.Stages {
		if veto := check(stage.Within, stage.Name, false); veto != nil {
			return veto
		}
	}
	return nil
}

// undoCost is the measured (or, unmeasured, the do's) time that undoing the
// touched steps, and those that would begin, takes, of one stage or of all.
func (c *core) undoCost(s *Progress, stage string, all bool, begins ...command) time.Duration {
	var sum time.Duration
	dials := map[backstay.Key]time.Duration{} // one move takes back all moves of a dial
	for i, sp := range s.order {
		st := &c.plan.Steps[i]
		begin := slices.ContainsFunc(begins, func(b command) bool { return b.step == st.ID })
		if (!sp.Touched && !begin) || sp.Phase == PhaseUndone || st.Waits() || (!all && st.Stage != stage) {
			continue
		}
		cost, measured := c.estimates[st.ID]
		if !measured {
			cost = sp.Outcome.Duration.Std()
		}
		if st.Dial != "" {
			cost, dials[st.Dial] = max(cost-dials[st.Dial], 0), max(cost, dials[st.Dial])
		}
		sum += cost
	}
	return sum
}

// afterCommit decides between commit and proven.
func (c *core) afterCommit(s *Progress) []command {
	if s.Failure != nil && s.Baked != backstay.Pass {
		if c.pastPivot(s) {
			return []command{{op: opFinish, event: EventStick}}
		}
		return []command{{op: opMove, event: EventFail, cause: s.Failure.Cause, reason: s.Failure.Reason}}
	}
	if s.Baked != backstay.Pass {
		return []command{{op: opBake}}
	}
	if settle := c.unsettled(s, func(sp *StepProgress) bool { return sp.Phase == PhaseApplied }); len(settle) > 0 {
		return settle
	}
	return []command{{op: opMove, event: EventProve}}
}

// backward decides while rolling back: undo whatever is touched once nothing
// that needs it is still to be undone. A failed undo stops only what it needs.
func (c *core) backward(s *Progress) []command {
	if resolve := c.open(s); len(resolve) > 0 {
		return resolve
	}
	var undo []command
	undoing := false
	for i, sp := range slices.Backward(s.order) {
		if !sp.needsUndo() {
			continue
		}
		blocked := slices.ContainsFunc(c.dependents[i], func(d int) bool {
			return s.order[d].needsUndo() || s.order[d].blocks() || c.keepsSchema(s, d)
		})
		if blocked {
			continue
		}
		undoing = true
		if len(undo) < maxParallel {
			undo = append(undo, command{op: opUndo, step: c.plan.Steps[i].ID})
		}
	}
	if undoing {
		return undo
	}
	if settle := c.unsettled(s, func(sp *StepProgress) bool { return sp.Phase == PhaseUndone }); len(settle) > 0 {
		return settle
	}
	return []command{{op: opFinish}}
}

// needsUndo reports whether the step is touched and not yet compensated.
func (st *StepProgress) needsUndo() bool {
	return st.Touched && (st.Phase == PhaseApplied || st.Phase == PhaseFailed || st.Phase == PhaseUndoing || st.Phase == PhaseOpen)
}

// blocks reports whether the step's undo failed in a way that makes undoing
// what it needs wrong. A step that never had an undo blocks nothing.
func (st *StepProgress) blocks() bool {
	return st.Phase == PhaseUndoFailed && st.Undo != nil && st.Undo.Cause != backstay.CauseNoUndo
}

// keepsSchema reports whether a step changed a schema and could not be undone, so
// that the version before this plan's could not use it: what brought this plan's
// version stays.
func (c *core) keepsSchema(s *Progress, i int) bool {
	return s.order[i].Phase == PhaseUndoFailed && len(c.plan.Steps[i].Excludes) > 0
}

// keptBy is the step whose schema keeps the i-th step from being undone: one that
// needs it, at any remove, and stays. False: there is none.
func (c *core) keptBy(s *Progress, i int) (by int, ok bool) {
	for d := range c.plan.Steps {
		sp := s.order[d]
		if len(c.plan.Steps[d].Excludes) > 0 && sp.Touched && sp.Phase != PhaseUndone && c.reaches(d, i) {
			return d, true
		}
	}
	return 0, false
}

// reaches reports whether a step needs another, at any remove.
func (c *core) reaches(from, to int) bool {
	seen := map[int]bool{}
	for todo := []int{from}; len(todo) > 0; {
		next := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for _, need := range c.needs[next] {
			if need == to {
				return true
			}
			if !seen[need] {
				seen[need] = true
				todo = append(todo, need)
			}
		}
	}
	return false
}

func (c *core) unsettled(s *Progress, which func(*StepProgress) bool) []command {
	var cmds []command
	for i, sp := range s.order {
		st := &c.plan.Steps[i]
		if !st.Waits() && len(cmds) < maxParallel && c.settles(st.Kind) && !sp.Settled && which(sp) {
			cmds = append(cmds, command{op: opSettle, step: st.ID})
		}
	}
	return cmds
}
