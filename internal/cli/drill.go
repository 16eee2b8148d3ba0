package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/drill"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/ledger/sqlite"
	"github.com/backstay-dev/backstay/internal/plan"
	"github.com/backstay-dev/backstay/internal/report"
)

// drillFlags are drill's own flags.
type drillFlags struct {
	input
	plan, format, out string
	level, mitigation string
	only              drill.Only
	selfCheck         bool
}

func (c *call) drillCommand() *cobra.Command {
	var f drillFlags
	cmd := c.command("drill [flags]", "Rehearse a plan: what does rollback restore, whatever goes wrong?",
		`Takes the plan of the specification (or the stored plan of --plan) and lets things go wrong: each
fault at each step, the process dying at each point, somebody else writing meanwhile. After each it
rolls back, recovers, and compares with what was there before. First it says what it does not see.

Level D1: the targets are modelled after what the plan declares; nothing real is read or written.
Level D2 adds the steps' own commands and files, each cell in a private, copy-on-write view of this
host (Linux, root): no network but loopback, and nothing that is done there stays.
What it shows is recorded as evidence about exactly this plan (digest), for 14 days. Exit code 0:
nothing failed or hung; 3: something did.

--self-check drills a plan that comes with Backstay, whose steps do otherwise than they declare,
and its honest twin: each lie must be found, and nothing else. It needs no ledger.`,
		cobra.NoArgs, func(ctx context.Context, c *call, _ []string) error {
			if f.selfCheck {
				return c.drillSelfCheck(ctx)
			}
			return c.drill(ctx, f)
		})
	f.flags(cmd)
	fl := cmd.Flags()
	fl.StringVar(&f.plan, "plan", "", "the stored plan with this digest")
	fl.StringVar(&f.mitigation, "mitigation", "", "drill this mitigation of the specification instead of its release")
	fl.StringVar(&f.level, "level", drill.LevelModel, "D1, or D2 for both levels")
	fl.StringVar(&f.only.Step, "step", "", "only at this step; nothing is recorded")
	fl.StringVar(&f.only.Fault, "fault", "", "only this fault; nothing is recorded")
	fl.BoolVar(&f.selfCheck, "self-check", false, "drill a plan with planted lies instead: is each found, and nothing else?")
	fl.StringVar(&f.format, "format", "text", "text, json, markdown or html")
	fl.StringVarP(&f.out, "output", "o", "", "write it to this new file instead of stdout")
	for _, other := range []string{"file", "environment", "set", "env-file"} {
		cmd.MarkFlagsMutuallyExclusive("plan", other)
		cmd.MarkFlagsMutuallyExclusive("self-check", other)
	}
	cmd.MarkFlagsMutuallyExclusive("plan", "mitigation")
	for _, other := range []string{"plan", "mitigation", "level", "step", "fault", "format", "output"} {
		cmd.MarkFlagsMutuallyExclusive("self-check", other)
	}
	cmd.AddCommand(c.drillListCommand(), c.drillShowCommand(), c.drillInsideCommand())
	return cmd
}

func (c *call) drill(ctx context.Context, f drillFlags) error {
	if err := c.checkFormat(&f.format); err != nil {
		return err
	}
	if f.level != drill.LevelModel && f.level != drill.LevelReal {
		return usagef("--level %s: want D1 or D2", f.level)
	}
	s, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	made, err := s.planFor(ctx, deployFlags{input: f.input, plan: f.plan, mitigation: f.mitigation})
	if err != nil {
		return err
	}
	id, err := newID()
	if err != nil {
		return err
	}
	opts := drill.Options{
		ID: id, Tool: c.app.Build.Version, Only: f.only, Settles: s.kinds.Settles, Now: c.app.Now,
		Ledger: scratchLedger, Progress: c.drillProgress(),
	}
	if f.level == drill.LevelReal {
		var remove func()
		if opts.Real, remove, err = s.sandboxes(ctx, made); err != nil {
			return err
		}
		defer remove()
	}
	r, err := drill.Run(ctx, made.plan, opts)
	if err != nil {
		return err
	}
	if err := s.keepDrill(ctx, made.plan, r); err != nil {
		return err
	}
	page := report.DrillPage{Report: r, Recorded: r.Whole, Command: c.planCommandLine(made.plan)}
	if err := c.writeDrill(page, f.format, f.out); err != nil {
		return err
	}
	for _, t := range r.Tallies {
		if t.Failed+t.Hung > 0 {
			return exit(exitHeld)
		}
	}
	return nil
}

// drillSelfCheck asks whether the drill finds what it is there to find.
func (c *call) drillSelfCheck(ctx context.Context) error {
	r, err := drill.RunSelfCheck(ctx, drill.Options{
		ID: "self-check", Tool: c.app.Build.Version, Settles: func(string) bool { return false }, Now: c.app.Now, Ledger: scratchLedger,
	})
	if err != nil {
		return err
	}
	if c.json {
		err = c.out.document(r)
	} else {
		c.showSelfCheck(r)
	}
	if err == nil && !r.OK {
		err = exit(exitHeld)
	}
	return err
}

func (c *call) showSelfCheck(r *drill.SelfCheck) {
	rows := make([][]string, 0, len(r.Lies))
	for _, l := range r.Lies {
		told, found := l.Lie, "not found"
		if told == "" {
			told, found = "none", "nothing found"
		}
		if n := len(l.Faults); n > 0 {
			found = fmt.Sprintf("found by %s, first %s", count(n, "fault"), l.Faults[0])
		}
		rows = append(rows, []string{l.Step, told, found})
	}
	c.out.table([]string{"STEP", "LIE", "DRILL"}, rows)
	for _, f := range r.Clean {
		c.out.line("%s was blamed without a lie: %s", f.Step, strings.Join(f.Faults, ", "))
	}
	verdict := "every lie was found, and nothing else"
	if !r.OK {
		verdict = "THE DRILL DOES NOT FIND WHAT IT SHOULD: do not rely on it, and report this"
	}
	c.out.line("%s (%s with lies, %s without)", verdict, count(r.LyingCells, "cell"), count(r.CleanCells, "cell"))
}

// checkFormat checks --format; --json goes before.
func (c *call) checkFormat(format *string) error {
	if !slices.Contains(reportFormats(), *format) {
		return usagef("--format %s: want one of %s", *format, strings.Join(reportFormats(), ", "))
	}
	if c.json {
		*format = "json"
	}
	return nil
}

func (c *call) writeDrill(page report.DrillPage, format, out string) error {
	write := map[string]func(io.Writer) error{
		"text": page.WriteText, "json": page.WriteJSON, "markdown": page.WriteMarkdown, "html": page.WriteHTML,
	}[format]
	if err := c.toFile(out, write); err != nil {
		return err
	}
	if out != "" {
		c.progress("wrote %s", out)
	}
	return nil
}

// scratchLedger is the ledger that cells run on. It is in memory; its lease is
// long, because nobody else could take over there.
func scratchLedger(ctx context.Context) (drill.Ledger, error) {
	return sqlite.OpenMemory(ctx, ledger.Options{Version: "drill", Host: "drill", TTL: time.Hour})
}

// drillProgress says each tenth of the cells.
func (c *call) drillProgress() func(done, all int) {
	told := 0
	return func(done, all int) {
		if tenth := done * 10 / all; tenth > told {
			told = tenth
			c.progress("drill: %d of %d cells", done, all)
		}
	}
}

// keepDrill stores the plan, so that it can be deployed as it was drilled, and,
// of a whole drill, its report, pinned with the plan, and one entry.
func (s *session) keepDrill(ctx context.Context, p *plan.Plan, r *backstay.DrillReport) error {
	blobs := s.store.NewBlobBuffer(ctx)
	address := ""
	if r.Whole {
		var err error
		if address, _, err = blobs.Put(bytes.NewReader(backstay.Canonical(r))); err != nil {
			return fmt.Errorf("store the drill's report: %w", err)
		}
	}
	if err := s.store.SavePlan(ctx, p.Digest(), p.Encode(), blobs); err != nil {
		return fmt.Errorf("save the drilled plan: %w", err)
	}
	if !r.Whole {
		return nil
	}
	entry := backstay.Entry{
		Kind: backstay.EntryDrill, Actor: &s.actor, Body: backstay.Canonical(drill.Body(r, address)), Blobs: []string{address},
	}
	if _, err := s.store.Record(ctx, entry); err != nil {
		return fmt.Errorf("record the drill: %w", err)
	}
	return nil
}

// drilled is one drill as the ledger has it.
type drilled struct {
	At   time.Time      `json:"at"`
	By   backstay.Actor `json:"by"`
	Good bool           `json:"good"` // nothing failed or hung, and it has not expired
	backstay.DrillBody
}

// drills reads all drills of the ledger, oldest first.
func (s *session) drills(ctx context.Context) ([]drilled, error) {
	all := []drilled{}
	err := s.store.Walk(ctx, ledger.Query{Kind: backstay.EntryDrill, AfterLeaf: -1}, func(l ledger.Leaf) error {
		d := drilled{At: l.Entry.At}
		if l.Entry.Kind != backstay.EntryDrill || l.Entry.Decode(&d.DrillBody) != nil {
			return nil // damage is what `audit verify` tells
		}
		if l.Entry.Actor != nil {
			d.By = *l.Entry.Actor
		}
		d.Good = s.c.app.Now().Before(d.Expires)
		for _, t := range d.Tallies {
			d.Good = d.Good && t.Failed+t.Hung == 0
		}
		all = append(all, d)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the drills: %w", err)
	}
	return all, nil
}

func (c *call) drillListCommand() *cobra.Command {
	return c.command("list", "List the drills that the ledger keeps, newest first",
		"Lists what was drilled, when, by whom, what it showed, and until when it is evidence.",
		cobra.NoArgs, func(ctx context.Context, c *call, _ []string) error { return c.drillList(ctx) })
}

func (c *call) drillList(ctx context.Context) error {
	all, err := c.allDrills(ctx)
	if err != nil {
		return err
	}
	slices.Reverse(all)
	if c.json {
		return c.out.document(struct {
			Format string    `json:"format"`
			Drills []drilled `json:"drills"`
		}{c.format(), all})
	}
	if len(all) == 0 {
		c.out.line("no drills")
		return nil
	}
	rows := make([][]string, 0, len(all))
	for _, d := range all {
		var levels []string
		for _, t := range d.Tallies {
			levels = append(levels, fmt.Sprintf("%s: %s, %d failed, %d hung, %d not run", t.Level, count(t.Cells, "cell"), t.Failed, t.Hung, t.NotRun))
		}
		until := "until " + d.Expires.UTC().Format(time.DateOnly)
		if !c.app.Now().Before(d.Expires) {
			until = "expired " + d.Expires.UTC().Format(time.DateOnly)
		}
		rows = append(rows, []string{d.ID, d.Release, fmt.Sprintf("%.16s", d.Plan), strings.Join(levels, "; "), until, c.age(d.At), d.By.Name})
	}
	c.out.table([]string{"DRILL", "RELEASE", "PLAN", "SHOWED", "EVIDENCE", "AGE", "BY"}, rows)
	return nil
}

// allDrills are none where there is no ledger yet.
func (c *call) allDrills(ctx context.Context) ([]drilled, error) {
	s, err := c.openExisting(ctx)
	if errors.Is(err, ledger.ErrNotFound) {
		return []drilled{}, nil
	}
	if err != nil {
		return nil, err
	}
	defer s.close()
	return s.drills(ctx)
}

func (c *call) drillShowCommand() *cobra.Command {
	var format, out string
	cmd := c.command("show [ID] [flags]", "Show what a drill showed",
		"Shows the whole report of a drill that the ledger keeps: by its ID or the beginning of it, or the\nnewest one.",
		cobra.MaximumNArgs(1), func(ctx context.Context, c *call, args []string) error { return c.drillShow(ctx, args, format, out) })
	cmd.Flags().StringVar(&format, "format", "text", "text, json, markdown or html")
	cmd.Flags().StringVarP(&out, "output", "o", "", "write it to this new file instead of stdout")
	return cmd
}

func (c *call) drillShow(ctx context.Context, args []string, format, out string) error {
	if err := c.checkFormat(&format); err != nil {
		return err
	}
	s, err := c.openExisting(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	d, err := s.findDrill(ctx, args)
	if err != nil {
		return err
	}
	rd, err := s.store.Blobs(ctx).Get(d.Report)
	if err != nil {
		return fmt.Errorf("read the report of drill %s: %w", d.ID, err)
	}
	defer rd.Close()
	var r backstay.DrillReport
	if err := json.NewDecoder(rd).Decode(&r); err != nil {
		return fmt.Errorf("decode the report of drill %s: %w", d.ID, err)
	}
	if r.Format != backstay.DrillFormat {
		return &backstay.Error{
			Op: "read drill", Subject: d.ID, Err: fmt.Errorf("format %q, this binary reads %q", r.Format, backstay.DrillFormat),
			Hint: "use the backstay version that wrote it",
		}
	}
	return c.writeDrill(report.DrillPage{Report: &r, Recorded: true}, format, out)
}

// findDrill finds one drill, or the newest.
func (s *session) findDrill(ctx context.Context, args []string) (drilled, error) {
	all, err := s.drills(ctx)
	if err != nil {
		return drilled{}, err
	}
	if len(args) > 0 {
		all = slices.DeleteFunc(all, func(d drilled) bool { return !strings.HasPrefix(d.ID, args[0]) })
	}
	switch {
	case len(all) == 0:
		return drilled{}, &backstay.RefusedError{What: "drill", Err: fmt.Errorf("there is no such drill here"), Hint: "list them with `backstay drill list`, or make one with `backstay drill`"}
	case len(all) > 1 && len(args) > 0:
		return drilled{}, &backstay.RefusedError{What: "drill", Err: fmt.Errorf("%d drills begin with %s", len(all), args[0]), Hint: "give more of the ID"}
	}
	return all[len(all)-1], nil
}
