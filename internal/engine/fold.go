package engine

import (
	"encoding/json"
	"fmt"
	"maps"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/plan"
)

// Phase is how far one step has come.
type Phase string

// The phases of a step.
const (
	PhasePending    Phase = "pending"
	PhaseOpen       Phase = "open"    // intent durable, no outcome
	PhaseApplied    Phase = "applied" // outcome: done and read back
	PhaseFailed     Phase = "failed"  // outcome: failed, or found partial or unknown by recovery
	PhaseUndoing    Phase = "undoing" // undo intent durable, no compensation record
	PhaseUndone     Phase = "undone"  // compensation record: restored, compensated, untouched or kept
	PhaseUndoFailed Phase = "undo_failed"
)

// StepProgress is what the ledger says about one step.
type StepProgress struct {
	Phase   Phase
	Attempt int
	// Touched is true from the first durable intent until it is known that
	// nothing was applied: what is touched must be undone.
	Touched  bool
	Before   *backstay.ImageRef
	After    *backstay.ImageRef
	Slots    map[string]string
	Opened   time.Time // wall time of the intent, for people and for holds
	Closed   time.Time // wall time of the outcome or compensation
	Outcome  backstay.OutcomeBody
	Finding  backstay.Finding // of recovery, for the open intent
	Undo     *backstay.CompensationBody
	Retried  []undoTry          // failed undos that a person asked to try again, oldest first
	UndoNow  *backstay.ImageRef // what was there when the (last) undo began
	Covers   []string           // what that undo takes back as well, newest first
	Settled  bool
	Failures int // failed outcomes so far
	// Of a gate: that its time is over and what was missing; that a person's word
	// stands for its evidence.
	Stalled  string
	Promoted bool
}

// undoTry is a failed undo: what was there when it began (nil: it never did),
// what it left, and how it failed.
type undoTry struct {
	then, left *backstay.ImageRef
	err        string
}

// Failure is why the deployment turned (or turns) around: the first reason.
type Failure struct {
	Step   string         `json:"step,omitempty"`
	Cause  backstay.Cause `json:"cause"`
	Reason string         `json:"reason,omitempty"`
	Hint   string         `json:"hint,omitempty"`
	At     time.Time      `json:"at"`
}

// Progress is the fold of a deployment's entries: everything next decides by.
type Progress struct {
	State      backstay.State
	N          int64
	PlanDigest string
	Reason     string // of the planned entry
	Started    time.Time
	Ended      time.Time
	Steps      map[string]*StepProgress
	order      []*StepProgress // the same, in the plan's order: next walks them at every event
	Failure    *Failure
	Abort      *backstay.SignalBody
	Paused     bool
	Promoted   bool
	Retry      bool // a person asked a held deployment to try again
	Accepted   bool // a person signed for a held deployment's residue
	Verified   backstay.Verdict
	Baked      backstay.Verdict
	HoldUntil  time.Time
	BakeUntil  time.Time
	Approvals  map[string][]backstay.Actor // by step
	Residue    []backstay.Residue
	Kept       []backstay.Residue
	Signals    map[string]bool // IDs already answered
	Gauges     map[string]Gauge
}

// Gauge is the last durable answer of an armed check, in the name of which gate,
// and the state that it asked to be given back.
type Gauge struct {
	Step   string               `json:"step"`
	At     time.Time            `json:"at"`
	Result backstay.CheckResult `json:"result"`
	State  json.RawMessage      `json:"-"`
}

// Fold replays a deployment's entries over its plan. An entry that the grammar
// does not allow is an error: the ledger is damaged or of a newer version.
func Fold(p *plan.Plan, entries []backstay.Entry) (*Progress, error) {
	s := newProgress(p)
	for _, e := range entries {
		if err := s.apply(e); err != nil {
			return nil, fmt.Errorf("fold entry %d (%s): %w", e.N, e.Kind, err)
		}
	}
	return s, nil
}

func newProgress(p *plan.Plan) *Progress {
	s := &Progress{
		Steps:     make(map[string]*StepProgress, len(p.Steps)),
		Approvals: map[string][]backstay.Actor{},
		Signals:   map[string]bool{},
		Gauges:    map[string]Gauge{},
	}
	s.order = make([]*StepProgress, len(p.Steps))
	for i := range p.Steps {
		s.order[i] = &StepProgress{Phase: PhasePending}
		s.Steps[p.Steps[i].ID] = s.order[i]
	}
	return s
}

// apply folds one entry in. Kinds it does not know change nothing.
func (s *Progress) apply(e backstay.Entry) error {
	if e.N != 0 {
		if e.N != s.N+1 {
			return fmt.Errorf("follows entry %d", s.N)
		}
		s.N = e.N
	}
	switch e.Kind {
	case backstay.EntryPlanned:
		var body backstay.PlannedBody
		if err := e.Decode(&body); err != nil {
			return err
		}
		s.State, s.PlanDigest, s.Started, s.Reason = backstay.Planned, body.PlanDigest, e.At, body.Reason
		return nil
	case backstay.EntryTransition:
		return s.applyTransition(e)
	case backstay.EntrySignal:
		return s.applySignal(e)
	case backstay.EntryVerdict:
		return s.applyVerdict(e)
	case backstay.EntryIntent, backstay.EntryOutcome, backstay.EntryObserved,
		backstay.EntryUndoIntent, backstay.EntryCompensation, backstay.EntrySettled:
		st, ok := s.Steps[e.Step]
		if !ok {
			return fmt.Errorf("names step %q, which the plan does not have", e.Step)
		}
		return s.applyStep(st, e)
	case backstay.EntryTakeover, backstay.EntryNote, backstay.EntryRefused, backstay.EntryLockBroken, backstay.EntryDrill, backstay.EntryFlag, backstay.EntryMitigation:
		return nil
	}
	return nil
}

func (s *Progress) applyTransition(e backstay.Entry) error {
	var body backstay.TransitionBody
	if err := e.Decode(&body); err != nil {
		return err
	}
	if body.From != s.State {
		return fmt.Errorf("moves from %q, but the state is %q", body.From, s.State)
	}
	to, err := move(s.State, Event(body.Event))
	if err != nil {
		return err
	}
	if to != body.To {
		return fmt.Errorf("event %q leads to %q, not %q", body.Event, to, body.To)
	}
	s.State = to
	switch Event(body.Event) {
	case EventFail:
		s.fail(body.Step, body.Cause, body.Reason, "", e.At)
	case EventHold:
		s.HoldUntil = body.Until
	case EventCommit:
		s.BakeUntil = body.Until
	case EventStick, EventUndone:
		s.Residue, s.Kept, s.Retry = body.Residue, body.Kept, false
		if Event(body.Event) == EventStick {
			s.fail(body.Step, body.Cause, body.Reason, "", e.At)
		}
	case EventRetry:
		s.Retry, s.Residue = false, nil
		for _, st := range s.Steps {
			if st.Phase == PhaseUndoFailed {
				st.Retried = append(st.Retried, undoTry{then: st.UndoNow, left: st.Undo.Now, err: st.Undo.Error})
				st.Phase, st.Undo, st.UndoNow, st.Covers = PhaseFailed, nil, nil, nil
			}
		}
	case EventResume:
		// What was read back before a wait is not what is there after it.
		s.Verified = backstay.Undecided
	case EventApprove, EventStart, EventProve, EventAccept, EventRefuse:
	}
	if s.State.Settled() {
		s.Ended = e.At
	} else {
		s.Ended = time.Time{}
	}
	return nil
}

func (s *Progress) applySignal(e backstay.Entry) error {
	var body backstay.SignalBody
	if err := e.Decode(&body); err != nil {
		return err
	}
	s.Signals[body.ID] = true
	if !body.Accepted {
		return nil
	}
	switch body.Signal {
	case SignalAbort:
		s.Abort = &body
		s.fail("", backstay.CauseAborted, body.Reason, "", e.At)
	case SignalFail:
		s.fail("", backstay.CauseSignalled, body.Reason, "", e.At)
	case SignalResolved: // kept, and changes nothing
	case SignalPause:
		s.Paused = true
	case SignalResume:
		s.Paused = false
	case SignalPromote:
		if st := s.Steps[body.Step]; st != nil {
			st.Promoted = true
			return nil
		}
		s.Promoted = true
	case SignalRetry:
		s.Retry = true
	case SignalClose:
		s.Accepted = true
	case SignalApprove:
		if e.Actor != nil {
			s.Approvals[body.Step] = append(s.Approvals[body.Step], *e.Actor)
		}
	}
	return nil
}

func (s *Progress) applyVerdict(e backstay.Entry) error {
	var body backstay.VerdictBody
	if err := e.Decode(&body); err != nil {
		return err
	}
	// Single probes are evidence; the sum of a round ("verify", "bake") decides, and
	// an armed check that failed while no gate with it waited.
	switch {
	case body.Phase == PhaseOfGate && body.Check == e.Step:
		s.Steps[e.Step].Stalled = body.Reason
	case body.Phase == PhaseOfGate:
		s.gauge(e, body)
	case body.Phase == PhaseOfWatch:
		s.gauge(e, body)
		if body.Verdict == backstay.Fail {
			s.fail("", backstay.CauseGateFailed, body.Check+": "+body.Reason, "", e.At)
		}
	case body.Check == PhaseOfVerify && body.Phase == PhaseOfVerify:
		s.Verified = body.Verdict
		if body.Verdict == backstay.Fail {
			s.fail("", backstay.CauseVerifyFailed, body.Reason, "", e.At)
		}
	case body.Check == PhaseOfBake && body.Phase == PhaseOfBake:
		s.Baked = body.Verdict
		if body.Verdict == backstay.Fail {
			s.fail("", backstay.CauseBakeFailed, body.Reason, "", e.At)
		}
	}
	return nil
}

func (s *Progress) gauge(e backstay.Entry, body backstay.VerdictBody) {
	g := Gauge{Step: e.Step, At: e.At, Result: body.CheckResult, State: body.State}
	if len(g.State) == 0 {
		g.State = s.Gauges[body.Check].State
	}
	g.Result.State = nil
	s.Gauges[body.Check] = g
}

func (s *Progress) fail(step string, cause backstay.Cause, reason, hint string, at time.Time) {
	if s.Failure == nil {
		s.Failure = &Failure{Step: step, Cause: cause, Reason: reason, Hint: hint, At: at}
	}
}

func (s *Progress) applyStep(st *StepProgress, e backstay.Entry) error {
	switch e.Kind {
	case backstay.EntryIntent:
		return s.applyIntent(st, e)
	case backstay.EntryOutcome:
		return s.applyOutcome(st, e)
	case backstay.EntryObserved:
		return s.applyObserved(st, e)
	case backstay.EntryUndoIntent:
		if st.Phase != PhaseApplied && st.Phase != PhaseFailed && st.Phase != PhaseUndoing {
			return fmt.Errorf("undo intent of step %q in phase %q", e.Step, st.Phase)
		}
		var body backstay.UndoIntentBody
		if err := e.Decode(&body); err != nil {
			return err
		}
		if st.Phase != PhaseUndoing {
			st.UndoNow, st.Covers = &body.Now, body.Covers // a repeated undo keeps the first look
		}
		st.Phase = PhaseUndoing
		return nil
	case backstay.EntryCompensation:
		return s.applyCompensation(st, e)
	case backstay.EntrySettled:
		st.Settled = true
		return nil
	case backstay.EntryPlanned, backstay.EntryTransition, backstay.EntryVerdict, backstay.EntrySignal,
		backstay.EntryTakeover, backstay.EntryNote, backstay.EntryRefused, backstay.EntryLockBroken, backstay.EntryDrill, backstay.EntryFlag, backstay.EntryMitigation:
	}
	return nil
}

func (s *Progress) applyIntent(st *StepProgress, e backstay.Entry) error {
	if st.Phase != PhasePending && st.Phase != PhaseFailed {
		return fmt.Errorf("intent of step %q in phase %q", e.Step, st.Phase)
	}
	var body backstay.IntentBody
	if err := e.Decode(&body); err != nil {
		return err
	}
	if !st.Touched {
		// A retry keeps the first before-image: what was there before this
		// deployment wrote anything.
		st.Before = &body.Before
	}
	st.Phase, st.Touched, st.Attempt, st.Opened = PhaseOpen, true, e.Attempt, e.At
	st.After, st.Finding, st.Outcome = nil, "", backstay.OutcomeBody{}
	st.Stalled, st.Promoted = "", false
	return nil
}

func (s *Progress) applyOutcome(st *StepProgress, e backstay.Entry) error {
	var body backstay.OutcomeBody
	if err := e.Decode(&body); err != nil {
		return err
	}
	acted := st.Phase == PhaseOpen
	if !acted && (body.OK || (st.Phase != PhasePending && st.Phase != PhaseFailed)) {
		return fmt.Errorf("outcome of step %q in phase %q", e.Step, st.Phase)
	}
	st.Outcome, st.Closed = body, e.At
	if acted {
		// A look that refused another try says nothing about what the try before left.
		st.After = body.After
	}
	st.mergeSlots(body.Slots)
	if body.OK {
		st.Phase = PhaseApplied
		s.home()
		return nil
	}
	st.Phase = PhaseFailed
	st.Failures++
	s.fail(e.Step, body.Cause, body.Error, body.Hint, e.At)
	return nil
}

// home forgets the failure of steps that were driven home after all, past the
// point of no return: the deployment did not turn around.
func (s *Progress) home() {
	if s.Failure == nil || s.Failure.Step == "" || s.State == backstay.RollingBack {
		return
	}
	for _, st := range s.Steps {
		if st.Phase == PhaseFailed {
			return
		}
	}
	s.Failure = nil
}

func (st *StepProgress) mergeSlots(slots map[string]string) {
	if len(slots) == 0 {
		return
	}
	if st.Slots == nil {
		st.Slots = map[string]string{}
	}
	maps.Copy(st.Slots, slots)
}

func (s *Progress) applyObserved(st *StepProgress, e backstay.Entry) error {
	if st.Phase != PhaseOpen {
		return fmt.Errorf("finding about step %q in phase %q", e.Step, st.Phase)
	}
	var body backstay.ObservedBody
	if err := e.Decode(&body); err != nil {
		return err
	}
	st.Finding, st.Closed = body.Finding, e.At
	switch body.Finding {
	case backstay.NotApplied:
		st.Phase, st.Touched = PhasePending, false
		if st.Failures > 0 {
			// This try did nothing; one before it may have left something.
			st.Phase, st.Touched = PhaseFailed, true
		}
	case backstay.Applied:
		st.Phase, st.After = PhaseApplied, body.Now
		st.Outcome = backstay.OutcomeBody{OK: true, After: body.Now, Note: "found applied by recovery"}
		s.home()
	case backstay.Partial, backstay.Unknown:
		// What was found is its own partial effect; what changes after that is not.
		st.Phase, st.After = PhaseFailed, body.Now
		st.Failures++
		s.fail(e.Step, backstay.CauseCrashed, body.Reason, "", e.At)
	default:
		return fmt.Errorf("finding %q is not known", body.Finding)
	}
	return nil
}

func (s *Progress) applyCompensation(st *StepProgress, e backstay.Entry) error {
	if st.Phase == PhaseUndone {
		return fmt.Errorf("second compensation record of step %q", e.Step)
	}
	var body backstay.CompensationBody
	if err := e.Decode(&body); err != nil {
		return err
	}
	st.Undo, st.Closed = &body, e.At
	st.mergeSlots(body.Slots)
	st.Phase = PhaseUndone
	if body.Result == CompensationFailed {
		st.Phase = PhaseUndoFailed
	}
	return nil
}
