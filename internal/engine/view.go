package engine

import (
	"context"
	"time"

	"github.com/backstay-dev/backstay"
)

// View is what is known about a deployment at one moment, for people who
// watch: a copy, safe to keep.
type View struct {
	Deployment string             `json:"deployment"`
	Name       string             `json:"name"`
	Release    string             `json:"release"`
	Version    string             `json:"version,omitempty"`
	State      backstay.State     `json:"state"`
	Steps      []StepView         `json:"steps"`
	Failure    *Failure           `json:"failure,omitempty"`
	Doing      []string           `json:"doing,omitempty"` // acts and looks under way
	Next       string             `json:"next,omitempty"`  // what happens or is waited for next
	Until      time.Time          `json:"until,omitzero"`
	Started    time.Time          `json:"started"`
	Ended      time.Time          `json:"ended,omitzero"`
	UndoCost   time.Duration      `json:"undo_cost_ns"`   // measured time to undo what is done
	Budget     time.Duration      `json:"undo_budget_ns"` // rollback.within; 0: none
	Residue    []backstay.Residue `json:"residue,omitempty"`
	Kept       []backstay.Residue `json:"kept,omitempty"`
	Gates      []GateState        `json:"gates,omitempty"`  // that wait
	Checks     []CheckState       `json:"checks,omitempty"` // of all gates, by name
	// Convicts is the evidence of all comparisons together against "the new side is no
	// worse": it is rolled back from 1 on.
	Convicts float64 `json:"convicts,omitempty"`
}

// StepView is one step of a View.
type StepView struct {
	ID      string         `json:"id"`
	Kind    string         `json:"kind"`
	Summary string         `json:"summary"`
	Class   backstay.Class `json:"class"`
	Phase   Phase          `json:"phase"`
	Opened  time.Time      `json:"opened,omitzero"`
	Closed  time.Time      `json:"closed,omitzero"`
	Error   string         `json:"error,omitempty"`
	Hint    string         `json:"hint,omitempty"`
	Output  string         `json:"output,omitempty"`
	Note    string         `json:"note,omitempty"`
	// How it is (or was) taken back: one line, the compensation's result and error.
	UndoSummary string            `json:"undo_summary,omitempty"`
	Undo        string            `json:"undo,omitempty"`
	UndoError   string            `json:"undo_error,omitempty"`
	UndoHint    string            `json:"undo_hint,omitempty"`
	UndoOutput  string            `json:"undo_output,omitempty"`
	Slots       map[string]string `json:"slots,omitempty"`
}

// publish shows the watcher what is known now. Only durable facts are in it,
// and what is being done and measured.
func (r *runner) publish() {
	if r.e.opts.Watch == nil || len(r.pending) > 0 {
		return
	}
	v := r.view()
	for _, f := range r.flights {
		if !f.looking && f.what != "" {
			v.Doing = append(v.Doing, f.what)
		}
	}
	r.e.opts.Watch(v)
}

func (r *runner) view() View {
	v := r.core.view(r.progress)
	v.Deployment, v.Name = r.lease.Deployment, r.deployed.Name
	r.newest(&v)
	return v
}

// ViewOf reads one deployment as a View.
func (e *Engine) ViewOf(ctx context.Context, id string) (View, error) {
	dep, err := e.store.Deployment(ctx, id)
	if err != nil {
		return View{}, err
	}
	p, progress, err := e.Replay(ctx, dep.ID)
	if err != nil {
		return View{}, err
	}
	est, err := e.store.Timings(ctx, dep.Release)
	if err != nil {
		return View{}, err
	}
	v := newCore(p, est, e.actions.Settles).view(progress)
	v.Deployment, v.Name = dep.ID, dep.Name
	return v, nil
}

func (c *core) view(s *Progress) View {
	v := View{
		Release: c.plan.Release, Version: c.plan.Version, State: s.State, Started: s.Started, Ended: s.Ended,
		UndoCost: c.undoCost(s, "", true), Budget: c.plan.Within.Std(), Residue: s.Residue, Kept: s.Kept,
		Steps: make([]StepView, 0, len(c.plan.Steps)),
	}
	if s.Failure != nil {
		f := *s.Failure
		v.Failure = &f
	}
	for i := range c.plan.Steps {
		st := &c.plan.Steps[i]
		sp := s.order[i]
		sv := StepView{
			ID: st.ID, Kind: st.Kind, Summary: st.Summary, UndoSummary: st.UndoSummary, Class: st.Class, Phase: sp.Phase, Opened: sp.Opened, Closed: sp.Closed,
			Error: sp.Outcome.Error, Hint: sp.Outcome.Hint, Output: sp.Outcome.Output, Note: sp.Outcome.Note, Slots: sp.Slots,
		}
		if sp.Undo != nil {
			sv.Undo, sv.UndoError, sv.UndoHint, sv.UndoOutput = sp.Undo.Result, sp.Undo.Error, sp.Undo.Hint, sp.Undo.Output
		}
		v.Steps = append(v.Steps, sv)
	}
	v.Next, v.Until = c.upcoming(s)
	v.Gates, v.Checks = c.gateStates(s), c.checkStates(s)
	v.Convicts = c.convicts(v.Checks)
	return v
}

// upcoming says in a few words what happens or is waited for next.
func (c *core) upcoming(s *Progress) (string, time.Time) {
	switch s.State {
	case backstay.Committed:
		return "bake, then proven", s.BakeUntil
	case backstay.Holding:
		return c.holdReason(s), s.HoldUntil
	case backstay.RollingBack:
		return "undo what was done, newest first", time.Time{}
	case backstay.Held:
		return "a person: repair or accept the residue", time.Time{}
	case backstay.Planned, backstay.Approved, backstay.Running, backstay.Proven, backstay.RolledBack, backstay.Closed, backstay.Refused:
	}
	if s.State.Settled() {
		return "", time.Time{}
	}
	for i := range c.plan.Steps {
		if st := &c.plan.Steps[i]; s.order[i].Phase == PhasePending {
			return st.Summary, time.Time{}
		}
	}
	return "verify", time.Time{}
}

// Summary is how a foreground verb ends.
type Summary struct {
	View
	ExitCode int `json:"exit_code"`
}

// Summarise reads one deployment as a Summary.
func (e *Engine) Summarise(ctx context.Context, id string) (Summary, error) {
	v, err := e.ViewOf(ctx, id)
	if err != nil {
		return Summary{}, err
	}
	return Summary{View: v, ExitCode: v.State.ExitCode()}, nil
}
