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

	step *engine.StepView // for words
}

// changes lists what happened between two views, in the order in which people
// want to read it. It is pure.
func changes(before *engine.View, after engine.View, now time.Time) []change {
	var out []change
	offset := max(now.Sub(after.Started), 0)
	if after.Started.IsZero() {
		offset = 0
	}
	add := func(c change) {
		c.Deployment, c.Name, c.State, c.Offset = after.Deployment, after.Name, after.State, offset
		out = append(out, c)
	}
	old := map[string]engine.StepView{}
	var was engine.View
	if before != nil {
		was = *before
		for _, s := range was.Steps {
			old[s.ID] = s
		}
	}
	for i := range after.Steps {
		s := &after.Steps[i]
		p := engine.PhasePending
		if o, ok := old[s.ID]; ok {
			p = o.Phase
		}
		if s.Phase == p || before == nil {
			continue
		}
		c := change{Kind: changeStep, Step: s.ID, Phase: s.Phase, Text: textOf(*s), step: s}
		if s.Phase == engine.PhaseFailed || s.Phase == engine.PhaseUndoFailed {
			c.Hint, c.Output = s.Hint, s.Output
		}
		if !s.Closed.IsZero() && !s.Opened.IsZero() && (s.Phase == engine.PhaseApplied || s.Phase == engine.PhaseFailed) {
			c.Took = max(s.Closed.Sub(s.Opened), 0)
		}
		add(c)
	}
	if after.Failure != nil && was.Failure == nil {
		f := after.Failure
		add(change{Kind: changeFailure, Step: f.Step, Cause: f.Cause, Text: f.Reason, Hint: f.Hint})
	}
	if before == nil || was.State != after.State {
		add(change{Kind: changeState, Text: after.Next, Until: after.Until})
	}
	for _, act := range after.Doing {
		if !stepAct(after, act) && !slices.Contains(was.Doing, act) {
			add(change{Kind: changeAct, Text: act})
		}
	}
	return out
}

// textOf is what there is to say about a step where it stands.
func textOf(s engine.StepView) string {
	switch s.Phase {
	case engine.PhaseFailed, engine.PhaseUndoFailed:
		return s.Error
	case engine.PhaseApplied:
		return orWord(s.Note, s.Summary)
	case engine.PhasePending, engine.PhaseOpen, engine.PhaseUndoing, engine.PhaseUndone:
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
