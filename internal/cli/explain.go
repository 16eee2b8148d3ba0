package cli

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/engine"
)

func (c *call) explainCommand() *cobra.Command {
	cmd := c.command("explain STATE|EXIT-CODE|CAUSE", "Say what a state, an exit code or a cause means, and what to do",
		"Explains one word of Backstay's: a state (held), an exit code (3) or a cause (undo_failed).\nWithout an argument it lists them.",
		cobra.MaximumNArgs(1), func(_ context.Context, c *call, args []string) error { return c.explain(args) })
	return cmd
}

// explanation is the result of explain.
type explanation struct {
	Format  string   `json:"format"`
	Word    string   `json:"word"`
	Kind    string   `json:"kind"` // state, exit code, cause
	Meaning string   `json:"meaning"`
	Next    string   `json:"next,omitempty"`
	Moves   []moveTo `json:"moves,omitempty"` // of a state
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
			Class: backstay.NotFound, Op: "explain", Subject: args[0], Err: errors.New("it is no state, exit code or cause"),
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
	if e.Next != "" {
		c.out.line("  next: %s", e.Next)
	}
	return nil
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
	if m, ok := causes()[backstay.Cause(word)]; ok {
		return explanation{Word: word, Kind: "cause", Meaning: m.meaning, Next: m.next}, true
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
	for _, name := range slices.Sorted(maps.Keys(causes())) {
		e, _ := c.explainWord(string(name))
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

// causeMeaning explains one cause.
type causeMeaning struct{ meaning, next string }

// causes is what every cause means and what to do about it.
func causes() map[backstay.Cause]causeMeaning {
	return map[backstay.Cause]causeMeaning{
		backstay.CauseNoUndo:       {"A step that cannot be undone had taken effect.", "put it right by hand or deploy forward, then rollback --retry or --close"},
		backstay.CauseUndoFailed:   {"An undo ran and failed, or what it restored does not read as before.", "look at its output with backstay report REF, repair, rollback --retry"},
		backstay.CauseDrift:        {"Somebody else changed a resource; it was not overwritten.", "decide which value is right; backstay drift shows both"},
		backstay.CauseAmbiguous:    {"A process died while a step acted, and nothing tells how far it came.", "look at the target, put it right, then rollback --retry or --close"},
		backstay.CauseUnreachable:  {"A resource could not be read, so nothing is known about it.", "make it reachable, then rollback --retry"},
		backstay.CauseDeadline:     {"A step or an undo did not end within its time and was ended.", "look at its output; raise timeout or undo-timeout where the work is right"},
		backstay.CauseIncompatible: {"Going back would lose what the new version wrote.", "read the counts in the report; deploy forward, or accept the loss by hand"},
		backstay.CauseLedgerDamage: {"The ledger does not hold what the undo needs.", "backstay audit verify; restore the ledger from a copy"},
		backstay.CauseStepFailed:   {"A step failed; everything done before it is undone.", "backstay report REF shows its output"},
		backstay.CauseVerifyFailed: {"A verify check did not pass, or a resource did not read as its step left it.", "backstay report REF shows which"},
		backstay.CauseBakeFailed:   {"The checks stopped passing while the release was watched after its commit.", "backstay report REF shows since when"},
		backstay.CauseAborted:      {"A person or a signal (Ctrl-C, SIGTERM) asked for the rollback.", "backstay audit log --deployment REF shows who"},
		backstay.CauseBudget:       {"Undoing what was done would have taken longer than rollback.within.", "make the undo quicker, split the release, or raise rollback.within"},
		backstay.CauseNotApproved:  {"Nobody approved in time.", "deploy again when somebody can"},
		backstay.CauseCrashed:      {"The process that drove the deployment died in the middle of a step.", "backstay report REF shows what recovery found"},
	}
}
