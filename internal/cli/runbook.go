package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/engine"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/report"
)

// runbookFlags say of which plan, and how.
type runbookFlags struct {
	input
	plan, format, out string
	fromFile          bool // -f or another flag of the specification was given
}

func (c *call) runbookCommand() *cobra.Command {
	var f runbookFlags
	cmd := c.command("runbook [REF] [flags]", "Write what people need to know of a plan: commands, failure modes, who to ask",
		"Writes the runbook of a plan: every step with the commands that do, undo and read it, what can go\nwrong and what Backstay does then, what a person does when it is held, and the evidence. Of the\nspecification (as `plan` reads it; needs no ledger), of a saved plan, or of a deployment's plan.",
		cobra.MaximumNArgs(1), func(ctx context.Context, c *call, args []string) error { return c.runbook(ctx, args, f) })
	f.flags(cmd)
	cmd.Flags().StringVar(&f.plan, "plan", "", "of this saved plan: its digest or the beginning of it")
	cmd.Flags().StringVar(&f.format, "format", "text", "text, json, markdown or html")
	cmd.Flags().StringVarP(&f.out, "output", "o", "", "write it to this new file instead of stdout")
	run := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		f.fromFile = slices.ContainsFunc([]string{"file", "environment", "set", "env-file"}, cmd.Flags().Changed)
		return run(cmd, args)
	}
	return cmd
}

func (c *call) runbook(ctx context.Context, args []string, f runbookFlags) error {
	if !slices.Contains(reportFormats(), f.format) {
		return usagef("--format %s: want one of %s", f.format, strings.Join(reportFormats(), ", "))
	}
	named := 0
	for _, given := range []bool{len(args) > 0, f.plan != "", f.fromFile} {
		if given {
			named++
		}
	}
	if named > 1 {
		return usagef("runbook takes one of: a deployment, --plan, or a specification (-f)")
	}
	if c.json {
		f.format = "json"
	}
	var book *report.Runbook
	var err error
	if len(args) > 0 || f.plan != "" {
		book, err = c.runbookOfLedger(ctx, args, f.plan)
	} else {
		book, err = c.runbookOfSpec(ctx, f.input)
	}
	if err != nil {
		return err
	}
	write := map[string]func(io.Writer) error{
		"text": book.WriteText, "json": book.WriteJSON, "markdown": book.WriteMarkdown, "html": book.WriteHTML,
	}[f.format]
	if err := c.toFile(f.out, write); err != nil {
		return err
	}
	if f.out != "" {
		c.progress("wrote %s", f.out)
	}
	return nil
}

// runbookOfLedger is of a plan that the ledger holds.
func (c *call) runbookOfLedger(ctx context.Context, args []string, digest string) (*report.Runbook, error) {
	s, err := c.openExisting(ctx)
	if err != nil {
		return nil, err
	}
	defer s.close()
	on := report.Occasion{AsOf: c.app.Now()}
	if len(args) > 0 {
		dep, err := s.find(ctx, args[0])
		if err != nil {
			return nil, err
		}
		digest, on.Deployment = dep.PlanDigest, dep.Name
	}
	p, err := s.savedPlan(ctx, digest)
	if err != nil {
		return nil, err
	}
	if on.Deployment == "" {
		on.Command = c.planCommandLine(p)
	}
	return report.NewRunbook(ctx, p, s.store, c.rules(s.kinds), on)
}

// runbookOfSpec plans a specification as `plan` does, without saving the plan.
// Where nothing was deployed yet it leaves no ledger behind.
func (c *call) runbookOfSpec(ctx context.Context, in input) (*report.Runbook, error) {
	kinds, err := c.app.Kinds()
	if err != nil {
		return nil, err
	}
	loaded, err := in.load(c, kinds)
	if err != nil {
		return nil, err
	}
	s, err := c.openExisting(ctx)
	fresh := errors.Is(err, ledger.ErrNotFound)
	if fresh {
		var remove func()
		if s, remove, err = c.openNowhere(ctx); err == nil {
			defer remove()
		}
	}
	if err != nil {
		return nil, err
	}
	defer s.close()
	made, err := s.planSpec(ctx, loaded)
	if err != nil {
		return nil, err
	}
	on := report.Occasion{AsOf: c.app.Now(), Command: deployLine(in, c)}
	var src report.RunbookSource
	if !fresh {
		src = s.store
	}
	return report.NewRunbook(ctx, made.plan, src, c.rules(kinds), on)
}

// openNowhere opens a ledger that goes away with remove.
func (c *call) openNowhere(ctx context.Context) (*session, func(), error) {
	st, err := c.findState()
	if err != nil {
		return nil, nil, err
	}
	dir, err := os.MkdirTemp("", "backstay-runbook-")
	if err != nil {
		return nil, nil, fmt.Errorf("make a folder for the plan: %w", err)
	}
	remove := func() { _ = os.RemoveAll(dir) } // holds nothing that is kept
	st.Dir = dir
	s, err := c.openState(ctx, st)
	if err != nil {
		remove()
		return nil, nil, err
	}
	return s, remove, nil
}

// deployLine is the command that plans and runs the same specification.
func deployLine(in input, c *call) string {
	words := []string{"backstay deploy -f " + quoted(in.file)}
	if in.environment != "" {
		words = append(words, "-e "+quoted(in.environment))
	}
	for _, pair := range in.set {
		words = append(words, "--set "+quoted(pair))
	}
	if in.envFile != "" {
		words = append(words, "--env-file "+quoted(in.envFile))
	}
	return strings.Join(words, " ") + stateFlag(c)
}

// explainer is what kinds offer that can say which commands they run.
type explainer interface {
	Explain(step backstay.Step) (backstay.Explanation, error)
}

// rules are what engine and kinds say, as a runbook needs it.
func (c *call) rules(kinds Kinds) report.Rules {
	r := report.Rules{Explain: func(st backstay.Step) (backstay.Explanation, error) {
		if e, ok := kinds.(explainer); ok {
			return e.Explain(st)
		}
		return backstay.Explanation{}, nil
	}}
	for _, t := range engine.Transitions() {
		r.Moves = append(r.Moves, report.Move{From: t.From, Event: string(t.On), To: t.To, Why: t.Why})
	}
	for _, cause := range []backstay.Cause{
		backstay.CauseNoUndo, backstay.CauseUndoFailed, backstay.CauseDrift, backstay.CauseAmbiguous,
		backstay.CauseUnreachable, backstay.CauseDeadline, backstay.CauseIncompatible, backstay.CauseLedgerDamage,
	} {
		m, _ := backstay.MeaningOf(cause)
		r.Causes = append(r.Causes, report.RunbookCause{Cause: cause, Meaning: m.Meaning, Next: m.Next})
	}
	return r
}

var _ report.RunbookSource = (*ledger.Store)(nil)
