package audit

import (
	"fmt"
	"maps"
	"slices"

	"github.com/backstay-dev/backstay"
)

// saga is what the records of one deployment say so far. Its rules are the
// grammar of the ledger, written down a second time from the design and not
// from the engine: an engine that breaks them is found out here.
type saga struct {
	n       int64 // number of the last entry
	epoch   int64
	state   backstay.State
	planned backstay.PlannedBody
	author  *backstay.Actor
	steps   map[string]*act
	passed  map[string]bool // verdicts over a whole phase: verify, bake
	// inPlan are the plan's steps; nil where the plan is not at hand.
	inPlan map[string]bool
	// lost is set after the first problem: what follows would follow from it.
	lost bool
	// digest chains the canonical form of the entries, to compare with what
	// queries return.
	digest [32]byte
}

// stage of one step's do and undo.
type stage string

const (
	stagePending stage = "not begun"
	stageOpen    stage = "open"
	stageApplied stage = "applied"
	stageFailed  stage = "failed"
	stageUndoing stage = "being undone"
	stageUndone  stage = "undone"
	stageStuck   stage = "not undoable"
)

// act is one step's part in the saga.
type act struct {
	stage     stage
	touched   bool   // an intent was written and not found to be without effect
	hold      bool   // its intent holds no image: it waits for people
	with      string // the step whose undo covers this one
	approvals int
}

// moves lists the transitions: from, event, to.
func moves() map[[2]string]backstay.State {
	return map[[2]string]backstay.State{
		{"planned", "approve"}:     backstay.Approved,
		{"planned", "refuse"}:      backstay.Refused,
		{"approved", "start"}:      backstay.Running,
		{"approved", "refuse"}:     backstay.Refused,
		{"running", "hold"}:        backstay.Holding,
		{"running", "commit"}:      backstay.Committed,
		{"running", "fail"}:        backstay.RollingBack,
		{"running", "stick"}:       backstay.Held,
		{"holding", "resume"}:      backstay.Running,
		{"holding", "fail"}:        backstay.RollingBack,
		{"holding", "stick"}:       backstay.Held,
		{"committed", "prove"}:     backstay.Proven,
		{"committed", "fail"}:      backstay.RollingBack,
		{"committed", "stick"}:     backstay.Held,
		{"rolling_back", "undone"}: backstay.RolledBack,
		{"rolling_back", "stick"}:  backstay.Held,
		{"held", "retry"}:          backstay.RollingBack,
		{"held", "accept"}:         backstay.Closed,
	}
}

// take folds one entry in and says what is wrong with it; "" is nothing.
// Numbering is checked first and always; the rest until the first problem.
func (s *saga) take(e backstay.Entry) string {
	wrong := ""
	if e.N != s.n+1 {
		wrong = fmt.Sprintf("entry %d follows entry %d: %s", e.N, s.n, hole(s.n, e.N))
	}
	s.n = max(e.N, s.n)
	if wrong == "" && !s.lost {
		wrong = s.fold(e)
	}
	if wrong != "" {
		s.lost = true
	}
	return wrong
}

func hole(last, n int64) string {
	switch {
	case n <= last:
		return "the number was used before"
	case n == last+2:
		return fmt.Sprintf("entry %d is missing", last+1)
	}
	return fmt.Sprintf("entries %d to %d are missing", last+1, n-1)
}

func (s *saga) fold(e backstay.Entry) string {
	if e.V > backstay.EntryFormat {
		s.lost = true // of a newer version: not understood, not wrong
		return ""
	}
	if e.Epoch < s.epoch && e.Epoch != 0 {
		return fmt.Sprintf("written under epoch %d after epoch %d: a stale owner's write got in", e.Epoch, s.epoch)
	}
	s.epoch = max(s.epoch, e.Epoch)
	if s.state == "" && e.Kind != backstay.EntryPlanned {
		return fmt.Sprintf("a %s entry before the deployment was planned", e.Kind)
	}
	switch e.Kind {
	case backstay.EntryPlanned:
		return s.open(e)
	case backstay.EntryTransition:
		return s.move(e)
	case backstay.EntryIntent, backstay.EntryOutcome, backstay.EntryObserved,
		backstay.EntryUndoIntent, backstay.EntryCompensation, backstay.EntrySettled:
		return s.step(e)
	case backstay.EntryVerdict:
		var b backstay.VerdictBody
		if err := e.Decode(&b); err != nil {
			return unreadableBody(e, err)
		}
		if b.Check == b.Phase {
			s.passed[b.Phase] = b.Verdict == backstay.Pass
		}
	case backstay.EntrySignal:
		return s.signal(e)
	case backstay.EntryTakeover, backstay.EntryNote, backstay.EntryRefused, backstay.EntryLockBroken, backstay.EntryDrill, backstay.EntryFlag, backstay.EntryMitigation:
	}
	return "" // kinds that are not known are kept, and say nothing here
}

func unreadableBody(e backstay.Entry, err error) string {
	return fmt.Sprintf("the body of the %s entry cannot be read: %v", e.Kind, err)
}

func (s *saga) open(e backstay.Entry) string {
	if s.state != "" {
		return "the deployment is planned a second time"
	}
	if err := e.Decode(&s.planned); err != nil {
		return unreadableBody(e, err)
	}
	s.state, s.author = backstay.Planned, e.Actor
	s.steps, s.passed = map[string]*act{}, map[string]bool{}
	return ""
}

func (s *saga) signal(e backstay.Entry) string {
	var b backstay.SignalBody
	if err := e.Decode(&b); err != nil {
		return unreadableBody(e, err)
	}
	if !b.Accepted || b.Signal != "approve" {
		return ""
	}
	if b.Plan != s.planned.PlanDigest {
		return fmt.Sprintf("an approval of plan %.12s was accepted, the deployment runs plan %.12s", b.Plan, s.planned.PlanDigest)
	}
	if a := s.steps[b.Step]; a != nil {
		a.approvals++
	}
	return ""
}

func (s *saga) move(e backstay.Entry) string {
	var b backstay.TransitionBody
	if err := e.Decode(&b); err != nil {
		return unreadableBody(e, err)
	}
	if b.From != s.state {
		return fmt.Sprintf("moves from %s, but the deployment is %s", b.From, s.state)
	}
	to, ok := moves()[[2]string{string(b.From), b.Event}]
	if !ok || to != b.To {
		return fmt.Sprintf("moves from %s to %s by %q: there is no such transition", b.From, b.To, b.Event)
	}
	wrong := ""
	switch b.Event {
	case "commit":
		wrong = s.mayCommit()
	case "prove":
		if !s.passed["bake"] {
			wrong = "proven without a passed bake"
		}
	case "undone":
		wrong = s.mayEnd(b)
	case "retry":
		for _, a := range s.steps {
			if a.stage == stageStuck {
				a.stage = stageFailed
			}
		}
	}
	s.state = to
	switch to {
	case backstay.Proven, backstay.RolledBack, backstay.Closed, backstay.Refused:
		s.steps, s.passed, s.inPlan = nil, nil, nil // over: nothing of it is needed again
	case backstay.Planned, backstay.Approved, backstay.Running, backstay.Holding, backstay.Committed, backstay.RollingBack, backstay.Held:
	}
	return wrong
}

// mayCommit is invariant I2 as far as records can tell.
func (s *saga) mayCommit() string {
	for _, id := range slices.Sorted(maps.Keys(s.steps)) {
		if a := s.steps[id]; a.stage != stageApplied {
			return fmt.Sprintf("committed while step %q is %s", id, a.stage)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(s.inPlan)) {
		if s.steps[id] == nil {
			return fmt.Sprintf("committed without step %q, which the plan has", id)
		}
	}
	if !s.passed["verify"] {
		return "committed without a passed verification"
	}
	return ""
}

// mayEnd is invariant I10: every touched step has its compensation record,
// but for those that had to wait for an undo that failed.
func (s *saga) mayEnd(b backstay.TransitionBody) string {
	if len(b.Residue) > 0 {
		return "rolled back with residue: that is held"
	}
	stuck := false
	for _, a := range s.steps {
		stuck = stuck || a.stage == stageStuck
	}
	for _, id := range slices.Sorted(maps.Keys(s.steps)) {
		if a := s.steps[id]; a.touched && !stuck && a.stage != stageUndone {
			return fmt.Sprintf("rolled back while step %q is %s and has no compensation record", id, a.stage)
		}
	}
	return ""
}

// step checks one entry about a step: write-ahead, one outcome per intent, one
// compensation per undone intent.
func (s *saga) step(e backstay.Entry) string {
	if e.Step == "" {
		return fmt.Sprintf("a %s entry that names no step", e.Kind)
	}
	if s.inPlan != nil && !s.inPlan[e.Step] {
		return fmt.Sprintf("names step %q, which the plan does not have", e.Step)
	}
	if s.steps == nil {
		return fmt.Sprintf("a %s of step %q after the deployment was %s", e.Kind, e.Step, s.state)
	}
	a := s.steps[e.Step]
	if a == nil {
		a = &act{stage: stagePending}
		s.steps[e.Step] = a
	}
	switch e.Kind {
	case backstay.EntryIntent:
		return s.intent(e, a)
	case backstay.EntryOutcome:
		return a.outcome(e)
	case backstay.EntryObserved:
		return a.observed(e)
	case backstay.EntryUndoIntent:
		if s.state != backstay.RollingBack || !a.touched || (a.stage != stageApplied && a.stage != stageFailed && a.stage != stageUndoing) {
			return fmt.Sprintf("an undo of step %q begins while the deployment is %s and the step is %s", e.Step, s.state, a.stage)
		}
		a.stage = stageUndoing
		return s.cover(e)
	case backstay.EntryCompensation:
		return s.compensation(e, a)
	case backstay.EntrySettled:
		if s.state != backstay.Committed && s.state != backstay.RollingBack {
			return fmt.Sprintf("step %q is cleaned up while the deployment is %s", e.Step, s.state)
		}
	case backstay.EntryPlanned, backstay.EntryTransition, backstay.EntryVerdict, backstay.EntrySignal,
		backstay.EntryTakeover, backstay.EntryNote, backstay.EntryRefused, backstay.EntryLockBroken, backstay.EntryDrill, backstay.EntryFlag, backstay.EntryMitigation:
	}
	return ""
}

func (s *saga) intent(e backstay.Entry, a *act) string {
	var b backstay.IntentBody
	if err := e.Decode(&b); err != nil {
		return unreadableBody(e, err)
	}
	if s.state != backstay.Running && s.state != backstay.Holding {
		return fmt.Sprintf("step %q begins while the deployment is %s", e.Step, s.state)
	}
	if a.stage != stagePending && a.stage != stageFailed {
		return fmt.Sprintf("step %q begins while it is %s", e.Step, a.stage)
	}
	a.stage, a.touched, a.hold = stageOpen, true, b.Before.Digest == ""
	return ""
}

func (a *act) outcome(e backstay.Entry) string {
	var b backstay.OutcomeBody
	if err := e.Decode(&b); err != nil {
		return unreadableBody(e, err)
	}
	// A step may fail before it touched anything: then it has no intent.
	if a.stage != stageOpen && (b.OK || (a.stage != stagePending && a.stage != stageFailed)) {
		return fmt.Sprintf("an outcome of step %q without an intent before it (the step is %s)", e.Step, a.stage)
	}
	if b.OK && a.hold && a.approvals == 0 {
		return fmt.Sprintf("step %q was passed without an approval", e.Step)
	}
	a.stage = stageFailed
	if b.OK {
		a.stage = stageApplied
	}
	return ""
}

func (a *act) observed(e backstay.Entry) string {
	var b backstay.ObservedBody
	if err := e.Decode(&b); err != nil {
		return unreadableBody(e, err)
	}
	if a.stage != stageOpen {
		return fmt.Sprintf("recovery's finding about step %q without an open intent (the step is %s)", e.Step, a.stage)
	}
	switch b.Finding {
	case backstay.NotApplied:
		a.stage, a.touched = stagePending, false
	case backstay.Applied:
		a.stage = stageApplied
	case backstay.Partial, backstay.Unknown:
		a.stage = stageFailed
	default:
		return fmt.Sprintf("finding %q about step %q is not known", b.Finding, e.Step)
	}
	return ""
}

// cover notes which steps an undo that begins takes back as well.
func (s *saga) cover(e backstay.Entry) string {
	var b backstay.UndoIntentBody
	if err := e.Decode(&b); err != nil {
		return unreadableBody(e, err)
	}
	for _, id := range b.Covers {
		other := s.steps[id]
		if other == nil || !other.touched || (other.stage != stageApplied && other.stage != stageOpen) {
			return fmt.Sprintf("the undo of step %q covers step %q, which was not done", e.Step, id)
		}
		other.with = e.Step
	}
	return ""
}

func (s *saga) compensation(e backstay.Entry, a *act) string {
	var b backstay.CompensationBody
	if err := e.Decode(&b); err != nil {
		return unreadableBody(e, err)
	}
	switch {
	case s.state != backstay.RollingBack:
		return fmt.Sprintf("a compensation record of step %q while the deployment is %s", e.Step, s.state)
	case a.stage == stageUndone || a.stage == stageStuck:
		return fmt.Sprintf("a second compensation record of step %q", e.Step)
	case !a.touched:
		return fmt.Sprintf("a compensation record of step %q, which has no intent", e.Step)
	}
	acted := b.Result == "restored" || b.Result == "compensated"
	if b.With != "" && b.With != a.with && acted {
		return fmt.Sprintf("step %q was %s with step %q, whose undo does not cover it", e.Step, b.Result, b.With)
	}
	if acted && a.stage != stageUndoing && b.With == "" {
		return fmt.Sprintf("step %q was %s without an undo intent before it", e.Step, b.Result)
	}
	a.stage = stageUndone
	if b.Result == "failed" {
		a.stage = stageStuck
	}
	return ""
}
