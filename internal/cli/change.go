package cli

import (
	"slices"
	"strings"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/engine"
)

// What a change is about.
const (
	changeState   = "state"
	changeStep    = "step"
	changeAct     = "act" // an act that is no step: verify, bake, the final look
	changeFailure = "failure"
	// An armed check answered, and the ledger was told.
	changeEvidence = "evidence"
)

// change is one thing that happened to a deployment between two views. It is
// what plain progress prints and what --json prints as an event.
type change struct {
	Format     string         `json:"format"`
	Deployment string         `json:"deployment"`
	Name       string         `json:"name"`
	Kind       string         `json:"kind"`
	Offset     time.Duration  `json:"offset_ns"` // since the deployment began
	State      backstay.State `json:"state"`
	Step       string         `json:"step,omitempty"`
	Phase      engine.Phase   `json:"phase,omitempty"`
	Took       time.Duration  `json:"took_ns,omitempty"`
	Cause      backstay.Cause `json:"cause,omitempty"`
	Text       string         `json:"text,omitempty"`
	Hint       string         `json:"hint,omitempty"`
	Output     string         `json:"output,omitempty"`
	Until      time.Time      `json:"until,omitzero"`
	// Of evidence.
	Check    string             `json:"check,omitempty"`
	Verdict  *backstay.Verdict  `json:"verdict,omitempty"`
	Samples  int                `json:"samples,omitempty"`
	Evidence *backstay.Evidence `json:"evidence,omitempty"`
	Next     string             `json:"next,omitempty"`

	step *engine.StepView // for words
	hint string           // of a state that waits
}

// changes lists what happened between two views, in the order in which people
// want to read it: what was done, why it turned, what is undone, where it
// stands. It is pure.
func changes(before *engine.View, after engine.View, now time.Time) []change {
	var was engine.View
	if before != nil {
		was = *before
	}
	done, undone := stepChanges(before, after)
	var turned, state, acts []change
	if f := after.Failure; f != nil && was.Failure == nil {
		turned = []change{{Kind: changeFailure, Step: f.Step, Cause: f.Cause, Text: f.Reason, Hint: f.Hint}}
	}
	if before == nil || was.State != after.State {
		label, command := onward(after)
		c := change{Kind: changeState, Text: after.Next, hint: label + ": " + command}
		if after.Until.After(now) {
			c.Until = after.Until
		}
		state = []change{c}
	}
	for _, act := range after.Doing {
		if !stepAct(after, act) && !slices.Contains(was.Doing, act) {
			acts = append(acts, change{Kind: changeAct, Text: act})
		}
	}
	done = slices.Concat(evidenceChanges(before, after), done)
	out := slices.Concat(done, turned, state, undone, acts)
	switch {
	case before == nil:
		out = slices.Concat(state, done, turned, undone, acts)
	case after.State.Settled():
		out = slices.Concat(done, turned, undone, acts, state)
	}
	offset := max(now.Sub(after.Started), 0)
	if after.Started.IsZero() {
		offset = 0
	}
	for i := range out {
		out[i].Deployment, out[i].Name, out[i].State, out[i].Offset = after.Deployment, after.Name, after.State, offset
	}
	return out
}

// stepChanges lists the steps that moved: forward, and back.
func stepChanges(before *engine.View, after engine.View) (done, undone []change) {
	if before == nil {
		return nil, nil
	}
	old := make(map[string]engine.Phase, len(before.Steps))
	for _, s := range before.Steps {
		old[s.ID] = s.Phase
	}
	for i := range after.Steps {
		s := &after.Steps[i]
		if p, known := old[s.ID]; s.Phase == p || (!known && s.Phase == engine.PhasePending) {
			continue
		}
		if p := old[s.ID]; s.Error != "" && s.Phase != engine.PhaseFailed && (p == engine.PhaseOpen || p == engine.PhasePending || p == "") {
			// It failed and is taken back already: both became durable together.
			failed := *s
			failed.Phase = engine.PhaseFailed
			done = append(done, change{
				Kind: changeStep, Step: s.ID, Phase: failed.Phase, Text: s.Error, Hint: s.Hint, Output: s.Output, step: &failed,
			})
		}
		c := change{Kind: changeStep, Step: s.ID, Phase: s.Phase, Text: textOf(*s), step: s}
		switch s.Phase {
		case engine.PhaseFailed:
			c.Hint, c.Output, c.Took = s.Hint, s.Output, since(s.Opened, s.Closed, s.Closed)
		case engine.PhaseApplied:
			c.Took = since(s.Opened, s.Closed, s.Closed)
		case engine.PhaseUndoFailed:
			c.Hint, c.Output = s.UndoHint, s.UndoOutput
		case engine.PhasePending:
			c.Text = "recovery found that it had changed nothing"
		case engine.PhaseOpen, engine.PhaseUndoing, engine.PhaseUndone:
		}
		if s.Phase == engine.PhaseUndoing || s.Phase == engine.PhaseUndone || s.Phase == engine.PhaseUndoFailed {
			undone = append(undone, c)
		} else {
			done = append(done, c)
		}
	}
	// One commit holds the end of an undo and the begin of the next.
	slices.SortStableFunc(undone, func(a, b change) int {
		return boolRank(a.Phase == engine.PhaseUndoing) - boolRank(b.Phase == engine.PhaseUndoing)
	})
	return done, undone
}

func boolRank(b bool) int {
	if b {
		return 1
	}
	return 0
}

// textOf is what there is to say about a step where it stands.
func textOf(s engine.StepView) string {
	switch s.Phase {
	case engine.PhaseFailed:
		return s.Error
	case engine.PhaseUndoFailed:
		return s.UndoError
	case engine.PhaseApplied:
		return orWord(s.Note, s.Summary)
	case engine.PhaseUndoing, engine.PhaseUndone:
		return orWord(s.UndoSummary, s.Summary)
	case engine.PhasePending, engine.PhaseOpen:
	}
	return s.Summary
}

// stepAct reports whether an act under way is about one step: its change of
// phase says it already.
func stepAct(v engine.View, act string) bool {
	for _, s := range v.Steps {
		if act == s.Summary || strings.HasSuffix(act, " "+s.ID) {
			return true
		}
	}
	return false
}
