package cli

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/engine"
)

func (c *call) explainCommand() *cobra.Command {
	cmd := c.command("explain STATE|EXIT-CODE|CAUSE|FAILURE", "Say what a state, an exit code, a cause or a kind of failure means, and what to do",
		"Explains one word of Backstay's: a state (held), an exit code (3), a cause (undo_failed), a kind of\nfailure (transient, persistent, systemic) or the class of an error (conflict). Without an argument it\nlists them.",
		cobra.MaximumNArgs(1), func(_ context.Context, c *call, args []string) error { return c.explain(args) })
	return cmd
}

// explanation is the result of explain.
type explanation struct {
	Format  string   `json:"format"`
	Word    string   `json:"word"`
	Kind    string   `json:"kind"` // state, exit code, cause, failure, error class
	Meaning string   `json:"meaning"`
	Next    string   `json:"next,omitempty"`
	Moves   []moveTo `json:"moves,omitempty"` // of a state
	// Of a cause its kind of failure; of a kind of failure, the classes of errors.
	Failure backstay.FailureWord  `json:"failure,omitempty"`
	Classes []backstay.ErrorClass `json:"classes,omitempty"`
	// What it leads to: of a cause, or of a failure of a step, an undo and a check.
	Leads []backstay.Lead `json:"leads,omitempty"`
	Undo  []backstay.Lead `json:"undo_leads,omitempty"`
	Ask   []backstay.Lead `json:"check_leads,omitempty"`
}

// moveTo is one way out of a state.
type moveTo struct {
	Event string         `json:"event"`
	To    backstay.State `json:"to"`
	Why   string         `json:"why"`
}

func (c *call) explain(args []string) error {
	if len(args) == 0 {
		return c.explainAll()
	}
	word := strings.ReplaceAll(strings.ToLower(args[0]), "-", "_")
	word = strings.ReplaceAll(word, " ", "_")
	e, ok := c.explainWord(word)
	if !ok {
		return &backstay.Error{
			Class: backstay.NotFound, Op: "explain", Subject: args[0], Err: errors.New("it is no state, exit code, cause or kind of failure"),
			Hint: "list them with `backstay explain`",
		}
	}
	e.Format = c.format()
	if c.json {
		return c.out.document(e)
	}
	c.out.line("%s (%s)", c.out.paint(boldTone, e.Word), e.Kind)
	c.out.line("  %s", e.Meaning)
	for _, m := range e.Moves {
		c.out.line("  → %s on %s: %s", m.To, m.Event, m.Why)
	}
	if e.Failure != "" {
		c.out.line("  kind of failure: %s", e.Failure)
	}
	switch {
	case e.Undo != nil:
		c.out.line("  in a step: %s", leadWords(e.Leads))
		c.out.line("  in an undo: %s", leadWords(e.Undo))
		c.out.line("  in a check or a source: %s", leadWords(e.Ask))
	case len(e.Leads) > 0:
		c.out.line("  leads to: %s", leadWords(e.Leads))
	}
	if e.Next != "" {
		c.out.line("  next: %s", e.Next)
	}
	return nil
}

// leadWords are what a failure leads to, in order.
func leadWords(leads []backstay.Lead) string {
	words := make([]string, 0, len(leads))
	for _, l := range leads {
		words = append(words, string(l))
	}
	return strings.Join(words, ", then ")
}

func (c *call) explainWord(word string) (explanation, bool) {
	if meaning, moves := engine.MeaningOf(backstay.State(word)); meaning != "" {
		e := explanation{Word: word, Kind: "state", Meaning: meaning, Next: nextOfState(backstay.State(word))}
		for _, m := range moves {
			e.Moves = append(e.Moves, moveTo{string(m.On), m.To, m.Why})
		}
		return e, true
	}
	if n, err := strconv.Atoi(word); err == nil {
		for _, code := range ExitCodes() {
			if code.Code == n {
				return explanation{Word: word, Kind: "exit code", Meaning: code.Meaning, Next: code.Next}, true
			}
		}
	}
	if m, ok := backstay.MeaningOf(backstay.Cause(word)); ok {
		return explanation{Word: word, Kind: "cause", Meaning: m.Meaning, Next: m.Next, Failure: m.Word, Leads: m.Leads}, true
	}
	for _, k := range backstay.FailureKinds() {
		e := explanation{Word: word, Kind: "failure", Meaning: k.Meaning, Next: k.Next, Classes: k.Classes, Leads: k.Do, Undo: k.Undo, Ask: k.Ask}
		if word == string(k.Word) {
			return e, true
		}
		if slices.Contains(k.Classes, backstay.ErrorClass(word)) {
			e.Kind, e.Failure, e.Classes = "error class", k.Word, nil
			return e, true
		}
	}
	return explanation{}, false
}

// states lists the states in the order of a life.
func states() []backstay.State {
	return []backstay.State{
		backstay.Planned, backstay.Approved, backstay.Running, backstay.Holding, backstay.Committed, backstay.Proven,
		backstay.RollingBack, backstay.RolledBack, backstay.Held, backstay.Closed, backstay.Refused,
	}
}

func (c *call) explainAll() error {
	var all []explanation
	for _, s := range states() {
		e, _ := c.explainWord(string(s))
		all = append(all, e)
	}
	for _, code := range ExitCodes() {
		all = append(all, explanation{Word: strconv.Itoa(code.Code), Kind: "exit code", Meaning: code.Meaning, Next: code.Next})
	}
	for _, m := range backstay.Causes() {
		e, _ := c.explainWord(string(m.Cause))
		all = append(all, e)
	}
	for _, k := range backstay.FailureKinds() {
		e, _ := c.explainWord(string(k.Word))
		all = append(all, e)
	}
	if c.json {
		return c.out.document(struct {
			Format string        `json:"format"`
			Words  []explanation `json:"words"`
		}{c.format(), all})
	}
	rows := make([][]string, 0, len(all))
	for _, e := range all {
		rows = append(rows, []string{e.Kind, e.Word, e.Meaning})
	}
	c.out.table([]string{"KIND", "WORD", "MEANING"}, rows)
	return nil
}

// nextOfState is what a person does about a deployment in a state.
func nextOfState(s backstay.State) string {
	switch s {
	case backstay.Holding:
		return "backstay status REF says what it waits for; backstay approve REF, backstay resume REF or backstay rollback REF"
	case backstay.Held:
		return "backstay status REF shows the residue; repair and backstay rollback REF --retry, or backstay rollback REF --close --reason WHY"
	case backstay.Committed:
		return "wait for the bake; backstay promote REF ends it early, backstay rollback REF takes it back"
	case backstay.Running, backstay.RollingBack:
		return "backstay status -w REF; if nobody drives it: backstay recover REF"
	case backstay.Planned, backstay.Approved:
		return "backstay recover REF, or backstay agent"
	case backstay.RolledBack:
		return "backstay report REF, fix the cause, deploy again"
	case backstay.Proven:
		return "backstay rollback REF takes it back by a new deployment"
	case backstay.Closed:
		return "deploy forward what you want there"
	case backstay.Refused:
		return "fix what was refused, deploy again"
	}
	return ""
}
