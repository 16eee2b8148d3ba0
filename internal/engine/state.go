package engine

import (
	"fmt"
	"strings"

	"github.com/backstay-dev/backstay"
)

// Event is what moves a deployment from one state to another.
type Event string

// The events of the transition table.
const (
	EventApprove Event = "approve" // everything the plan needs before its start is agreed
	EventStart   Event = "start"   // the first step may begin
	EventHold    Event = "hold"    // nothing can go on without evidence, a person or time
	EventResume  Event = "resume"  // what it waited for came
	EventCommit  Event = "commit"  // every step applied, verified and read back
	EventProve   Event = "prove"   // the bake passed and leftovers are let go
	EventFail    Event = "fail"    // turn around: undo what was done
	EventUndone  Event = "undone"  // every key reads as before, or an outsider's value was kept
	EventStick   Event = "stick"   // something could not be restored: residue, cause, next command
	EventRetry   Event = "retry"   // a person asked to undo the residue again
	EventAccept  Event = "accept"  // a person signed for the residue
	EventRefuse  Event = "refuse"  // nothing was touched
)

// Transition is one row of the table. What is not listed is an error.
type Transition struct {
	From backstay.State
	On   Event
	To   backstay.State
	Why  string
}

// Transitions is the whole life of a deployment as data. The document
// docs/state-machine.md is generated from it.
func Transitions() []Transition {
	return []Transition{
		{backstay.Planned, EventApprove, backstay.Approved, "what must be agreed before the start is agreed"},
		{backstay.Planned, EventRefuse, backstay.Refused, "refused before anything was touched"},
		{backstay.Approved, EventStart, backstay.Running, "locks are held, the first step may begin"},
		{backstay.Approved, EventRefuse, backstay.Refused, "refused before anything was touched"},
		{backstay.Running, EventHold, backstay.Holding, "only a person, time or evidence can move it on"},
		{backstay.Holding, EventResume, backstay.Running, "what it waited for came"},
		{backstay.Running, EventCommit, backstay.Committed, "all steps applied, verified, read back equal to the plan"},
		{backstay.Running, EventFail, backstay.RollingBack, "a step, check, deadline, budget or signal turned it around"},
		{backstay.Holding, EventFail, backstay.RollingBack, "not approved in time, or aborted while waiting"},
		{backstay.Running, EventStick, backstay.Held, "failed past the point of no return"},
		{backstay.Holding, EventStick, backstay.Held, "aborted past the point of no return"},
		{backstay.Committed, EventProve, backstay.Proven, "the bake passed; now a rollback base"},
		{backstay.Committed, EventFail, backstay.RollingBack, "the bake failed or the operator turned it around"},
		{backstay.Committed, EventStick, backstay.Held, "the bake failed past the point of no return"},
		{backstay.RollingBack, EventUndone, backstay.RolledBack, "every key reads as before, or an outsider's later value was kept"},
		{backstay.RollingBack, EventStick, backstay.Held, "something could not be restored: the residue says what and why"},
		{backstay.Held, EventRetry, backstay.RollingBack, "a person asked to undo the residue again"},
		{backstay.Held, EventAccept, backstay.Closed, "a person signed for the residue"},
	}
}

// move returns the state that event leads to from state.
func move(from backstay.State, on Event) (backstay.State, error) {
	for _, t := range Transitions() {
		if t.From == from && t.On == on {
			return t.To, nil
		}
	}
	return from, fmt.Errorf("no transition from state %q on event %q", from, on)
}

// MeaningOf explains a state to a person: what it is, and what may follow.
func MeaningOf(state backstay.State) (meaning string, next []Transition) {
	meanings := map[backstay.State]string{
		backstay.Planned:     "The plan is frozen and recorded; nothing was touched.",
		backstay.Approved:    "Everything that must be agreed before the start is agreed; nothing was touched.",
		backstay.Running:     "Steps are being done. Every one has a durable intent and before-image before it acts.",
		backstay.Holding:     "Waiting for a person, time or evidence. Nothing moves; an abort still rolls back.",
		backstay.Committed:   "Every step was applied and read back equal to the plan. The bake watches it; a failed bake rolls it back.",
		backstay.Proven:      "The bake passed. This is the only state that may become a rollback base.",
		backstay.RollingBack: "What the ledger says was done is being undone, newest first.",
		backstay.RolledBack:  "Every resource reads as it did before, or an outsider's later value was kept and reported.",
		backstay.Held:        "Something could not be restored. The residue lists exactly what, why, and what to type next; locks are kept.",
		backstay.Closed:      "A person signed for the residue. It stays different from before.",
		backstay.Refused:     "Refused before anything was touched.",
	}
	for _, t := range Transitions() {
		if t.From == state {
			next = append(next, t)
		}
	}
	return meanings[state], next
}

// StateMachineMarkdown renders the transition table as docs/state-machine.md.
func StateMachineMarkdown() string {
	var b strings.Builder
	b.WriteString("# The states of a deployment\n\nGenerated from `internal/engine/state.go`; do not edit.\n\n")
	b.WriteString("| from | event | to | when |\n|---|---|---|---|\n")
	for _, t := range Transitions() {
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", t.From, t.On, t.To, t.Why)
	}
	b.WriteString("\n## What each state means\n\n")
	for _, s := range states() {
		meaning, _ := MeaningOf(s)
		fmt.Fprintf(&b, "- **%s**: %s", s, meaning)
		if s.Settled() {
			b.WriteString(" Settled.")
		}
		b.WriteString("\n")
	}
	return b.String()
}

func states() []backstay.State {
	return []backstay.State{
		backstay.Planned, backstay.Approved, backstay.Running, backstay.Holding, backstay.Committed, backstay.Proven,
		backstay.RollingBack, backstay.RolledBack, backstay.Held, backstay.Closed, backstay.Refused,
	}
}
