package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/plan"
	"github.com/backstay-dev/backstay/internal/spec"
)

func (c *call) lintCommand() *cobra.Command {
	var in input
	cmd := c.command("lint [flags]", "Check the specification; all problems at once",
		"Reads the specification and lets every step's kind check its declaration, with all problems\nat once: file, line, column, the source line and what to do. Needs no ledger and changes nothing.",
		cobra.NoArgs, func(ctx context.Context, c *call, _ []string) error { return c.lint(ctx, in) })
	in.flags(cmd)
	return cmd
}

// lintDocument is the result of lint.
type lintDocument struct {
	Format  string   `json:"format"`
	File    string   `json:"file"`
	Release string   `json:"release"`
	Digest  string   `json:"digest"`
	Steps   int      `json:"steps"`
	Checks  int      `json:"checks"`
	Inputs  []string `json:"inputs"`
}

func (c *call) lint(ctx context.Context, in input) error {
	kinds, err := c.app.Kinds()
	if err != nil {
		return err
	}
	loaded, err := in.load(c, kinds)
	if err != nil {
		return err
	}
	if err := c.lintKinds(ctx, kinds, loaded); err != nil {
		return err
	}
	for _, m := range loaded.Mitigations {
		of, err := loaded.Mitigation(m.Name, true)
		if err == nil {
			err = c.lintKinds(ctx, kinds, of)
		}
		if err != nil {
			return err
		}
	}
	doc := lintDocument{Format: c.format(), File: loaded.File, Release: loaded.Release, Digest: loaded.Digest, Steps: len(loaded.Steps), Checks: len(loaded.Verify), Inputs: []string{}}
	for _, i := range loaded.Inputs {
		doc.Inputs = append(doc.Inputs, i.Name)
	}
	if c.json {
		return c.out.document(doc)
	}
	c.out.line("%s: release %s, %s, %s: no problems", doc.File, doc.Release, count(doc.Steps, "step"), count(doc.Checks, "check"))
	return nil
}

// lintKinds lets the kinds refuse what they can without a ledger.
func (c *call) lintKinds(ctx context.Context, kinds Kinds, loaded *spec.Spec) error {
	blobs, remove, err := newScratch()
	if err != nil {
		return err
	}
	defer remove()
	st, err := c.findState()
	if err != nil {
		return err
	}
	d, err := declared(ctx, loaded, blobs)
	var refused *backstay.RefusedError
	if err != nil && !errors.As(err, &refused) {
		return err
	}
	var problems []backstay.Problem
	if refused != nil {
		problems = slices.Clone(refused.Problems)
	}
	for _, q := range requests(plan.NewDraft(loaded)) {
		prepare := kinds.Prepare
		if q.Check {
			prepare = kinds.PrepareCheck
		}
		_, err := prepare(ctx, q.Kind, backstay.Request{
			ID: q.ID, Config: q.Config, Sections: d.Sections, Artifacts: d.Artifacts, Dir: d.Dir, DataDir: st.DataDir,
			Release: d.Release, Version: d.Version, Blobs: blobs, Timeout: q.Timeout, UndoTimeout: q.UndoTimeout, Retries: q.Retries,
		})
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		problems = append(problems, problemsOf(err, q, loaded.File)...)
	}
	if len(problems) > 0 {
		return &backstay.RefusedError{What: "spec", Problems: problems}
	}
	return nil
}

// problemsOf puts a kind's refusal at its step's place in the file.
func problemsOf(err error, q plan.Request, file string) []backstay.Problem {
	if err == nil {
		return nil
	}
	var refused *backstay.RefusedError
	if !errors.As(err, &refused) || len(refused.Problems) == 0 {
		return []backstay.Problem{{File: file, Line: q.Line, Column: q.Column, Path: q.ID, Message: err.Error(), Hint: backstay.HintOf(err)}}
	}
	out := slices.Clone(refused.Problems)
	for i := range out {
		if out[i].File == "" {
			out[i].File = file
		}
		if out[i].Line == 0 {
			out[i].Line, out[i].Column = q.Line, q.Column
		}
		if out[i].Path == "" {
			out[i].Path = q.ID
		} else {
			out[i].Path = q.ID + "." + out[i].Path
		}
	}
	return out
}

func (c *call) planCommand() *cobra.Command {
	var in input
	cmd := c.command("plan [flags]", "Show what a deployment would do, and how each step is taken back",
		"Reads the specification, looks at the world and freezes the plan under a digest: steps and their\nundo, what cannot be undone, drift, the locks it needs, the time to undo. The plan is stored, so\nthat `deploy --plan DIGEST` runs exactly it. Nothing that it is about is touched.",
		cobra.NoArgs, func(ctx context.Context, c *call, _ []string) error { return c.plan(ctx, in) })
	in.flags(cmd)
	return cmd
}

func (c *call) plan(ctx context.Context, in input) error {
	kinds, err := c.app.Kinds()
	if err != nil {
		return err
	}
	loaded, err := in.load(c, kinds)
	if err != nil {
		return err
	}
	s, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	made, err := s.planSpec(ctx, loaded)
	if err != nil {
		return err
	}
	if err := s.store.SavePlan(ctx, made.plan.Digest(), made.plan.Encode(), nil); err != nil {
		return fmt.Errorf("save the plan: %w", err)
	}
	if c.json {
		return c.out.document(made.preview)
	}
	if err := made.preview.WriteText(c.out); err != nil {
		return err //nolint:wrapcheck // as it was written
	}
	return c.printVerified(kinds, made.plan.Steps, s.state.DataDir)
}

func (c *call) configCommand() *cobra.Command {
	var in input
	cmd := c.command("config [flags]", "Print the specification as it is used: overlay merged, inputs put in",
		"Prints the merged specification. Inputs stand above it with where they came from; secrets stay\nthe references that the file holds.",
		cobra.NoArgs, func(_ context.Context, c *call, _ []string) error { return c.config(in) })
	in.flags(cmd)
	return cmd
}

func (c *call) config(in input) error {
	kinds, err := c.app.Kinds()
	if err != nil {
		return err
	}
	loaded, err := in.load(c, kinds)
	if err != nil {
		return err
	}
	if c.json {
		return c.out.document(struct {
			Format string     `json:"format"`
			File   string     `json:"file"`
			Spec   *spec.Spec `json:"spec"`
		}{c.format(), loaded.File, loaded})
	}
	c.out.raw(clean(string(spec.Render(loaded))))
	return nil
}
