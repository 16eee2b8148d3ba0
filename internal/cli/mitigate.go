package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/engine"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/plan"
	"github.com/backstay-dev/backstay/internal/spec"
)

// accountFor is how long broken glass may stand when --expires does not say.
const accountFor = time.Hour

// mitigateFlags are mitigate's own flags.
type mitigateFlags struct {
	input

	list, approve, yes bool
	breakGlass         bool
	reason             string
	expires            time.Duration
	acceptDrift        bool
}

func (c *call) mitigateCommand() *cobra.Command {
	var f mitigateFlags
	cmd := c.command("mitigate [NAME] [flags]", "Run a small plan that was written and approved ahead of an emergency",
		`Runs a mitigation of the specification (see `+"`backstay docs mitigations`"+`): a small plan of ordinary
steps in the ordinary ledger, taken back by `+"`backstay rollback`"+`. It is tried on its cell first, then done
whole. Its plan is shown before anybody is asked.

--approve records that you looked at it, bound to what is written; any change voids that. It needs as
many approvals as it says, given ahead. --break-glass runs it at once, past its cell and its approvals:
that needs a reason, is shouted by audit and status, and somebody has to account for it within --expires,
by --approve or by taking it back. --list shows what there is, and whether it is ready.`,
		cobra.MaximumNArgs(1), func(ctx context.Context, c *call, args []string) error { return c.mitigate(ctx, args, f) })
	f.flags(cmd)
	fl := cmd.Flags()
	fl.BoolVar(&f.list, "list", false, "list the mitigations, whether they are approved, and when they were drilled")
	fl.BoolVar(&f.approve, "approve", false, "approve it ahead, as it is written now; nothing is run")
	fl.BoolVarP(&f.yes, "yes", "y", false, "do not ask")
	fl.BoolVar(&f.breakGlass, "break-glass", false, "at once, past its cell and its approvals (needs --reason)")
	fl.StringVar(&f.reason, "reason", "", "why, for the ledger")
	fl.DurationVar(&f.expires, "expires", accountFor, "with --break-glass: until when somebody must have accounted for it")
	fl.BoolVar(&f.acceptDrift, "accept-drift", false, "go on although resources differ from what the ledger says")
	cmd.MarkFlagsMutuallyExclusive("list", "approve", "break-glass")
	return cmd
}

func (c *call) mitigate(ctx context.Context, args []string, f mitigateFlags) error {
	switch {
	case f.list && len(args) > 0:
		return usagef("--list takes no NAME")
	case !f.list && len(args) == 0:
		return usagef("which one? backstay mitigate NAME; --list shows what there is")
	case f.breakGlass && strings.TrimSpace(f.reason) == "":
		return usagef("--break-glass needs --reason WHY")
	case f.breakGlass && f.expires <= 0:
		return usagef("--expires must be more than 0s")
	}
	s, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	if f.list {
		return s.listMitigations(ctx, f)
	}
	made, err := s.planFor(ctx, deployFlags{input: f.input, mitigation: args[0], whole: f.breakGlass})
	if err != nil {
		return s.recordRefusal(ctx, "", err)
	}
	if f.breakGlass {
		made.plan.Mitigation.Glass = &plan.Glass{Reason: f.reason, Until: c.app.Now().Add(f.expires).UTC().Round(0)}
	}
	if f.approve {
		return s.approveMitigation(ctx, made, f)
	}
	return s.runMitigation(ctx, made, f)
}

// runMitigation shows the plan, asks, and runs it as a deployment.
func (s *session) runMitigation(ctx context.Context, made planned, f mitigateFlags) error {
	if err := s.showMitigation(made); err != nil {
		return err
	}
	if !f.yes {
		question := fmt.Sprintf("Run mitigation %s?", made.plan.Mitigation.Name)
		if f.breakGlass {
			question = "Break the glass: " + question
		}
		if err := s.c.confirm(ctx, question); err != nil {
			return err
		}
	}
	locked, err := s.lockedFor(ctx, made.plan)
	if err != nil {
		return err
	}
	if locked != nil {
		return s.recordLocked(ctx, made.plan, locked)
	}
	sum, err := s.deployPlan(ctx, made, deployFlags{reason: orWord(f.reason, "mitigation "+made.plan.Mitigation.Name), acceptDrift: f.acceptDrift})
	if err != nil {
		return err
	}
	return s.end(ctx, sum)
}

func (s *session) showMitigation(made planned) error {
	if s.c.json {
		return nil
	}
	made.preview.Command = ""
	return made.preview.WriteText(s.c.err)
}

// approveMitigation records an approval that is given ahead.
func (s *session) approveMitigation(ctx context.Context, made planned, f mitigateFlags) error {
	e, err := s.engine(made.dir, nil)
	if err != nil {
		return err
	}
	m := made.plan.Mitigation
	if !e.MayApprove(*m, s.actor) {
		return &backstay.RefusedError{What: "approval", Err: fmt.Errorf("%s is none of %s", s.actor, strings.Join(m.From, ", ")), Hint: "let one of them approve it"}
	}
	if err := s.showMitigation(made); err != nil {
		return err
	}
	if !f.yes {
		if err := s.c.confirm(ctx, fmt.Sprintf("Approve mitigation %s, to be run without asking you again?", m.Name)); err != nil {
			return err
		}
	}
	entry := backstay.Entry{Kind: backstay.EntryMitigation, Actor: &s.actor, Body: backstay.Canonical(backstay.MitigationBody{
		Act: backstay.MitigationApproved, Release: made.plan.Release, Name: m.Name, Definition: m.Definition, Reason: f.reason,
	})}
	if _, err := s.store.Record(ctx, entry); err != nil {
		return fmt.Errorf("record the approval: %w", err)
	}
	got, err := e.Approvals(ctx, made.plan)
	if err != nil {
		return err
	}
	if s.c.json {
		return s.c.out.document(struct {
			Format     string `json:"format"`
			Name       string `json:"name"`
			Definition string `json:"definition"`
			Approvals  int    `json:"approvals"`
			Needed     int    `json:"needed"`
		}{s.c.format(), m.Name, m.Definition, got, m.Count})
	}
	s.c.out.line("approved mitigation %s, definition sha256:%s, until %s (%d of %d)", m.Name, m.Definition, s.c.app.Now().Add(m.MaxAge.Std()).UTC().Format(time.DateOnly), got, m.Count)
	return nil
}

// mitigationLine is one mitigation in a list.
type mitigationLine struct {
	Name      string     `json:"name"`
	For       string     `json:"for"`
	Cell      bool       `json:"cell"`
	AtOnce    string     `json:"at_once,omitempty"`
	Approvals int        `json:"approvals"`
	Needed    int        `json:"needed"`
	Drilled   *time.Time `json:"drilled,omitempty"` // the last good drill of what is written now
	Problem   string     `json:"problem,omitempty"` // why it could not be run now
}

func (s *session) listMitigations(ctx context.Context, f mitigateFlags) error {
	loaded, err := f.load(s.c, s.kinds)
	if err != nil {
		return err
	}
	e, err := s.engine(loaded.Dir, nil)
	if err != nil {
		return err
	}
	lines := []mitigationLine{}
	for _, m := range loaded.Mitigations {
		l, err := s.mitigationLine(ctx, e, loaded, m)
		if err != nil {
			return err
		}
		lines = append(lines, l)
	}
	if s.c.json {
		return s.c.out.document(struct {
			Format      string           `json:"format"`
			Mitigations []mitigationLine `json:"mitigations"`
		}{s.c.format(), lines})
	}
	if len(lines) == 0 {
		s.c.out.line("%s has no mitigations; see `backstay docs mitigations`", loaded.File)
		return nil
	}
	rows := make([][]string, 0, len(lines))
	for _, l := range lines {
		first, drilled, ready := "on its cell", "never", fmt.Sprintf("%d of %d approvals", l.Approvals, l.Needed)
		if !l.Cell {
			first = "at once"
		}
		if l.Drilled != nil {
			drilled = s.c.age(*l.Drilled) + " ago"
		}
		if l.Approvals >= l.Needed {
			ready = "ready"
		}
		if l.Problem != "" {
			ready = "would be refused: " + l.Problem
		}
		rows = append(rows, []string{l.Name, first, drilled, ready, l.For})
	}
	s.c.out.table([]string{"MITIGATION", "FIRST", "DRILLED", "STATE", "FOR"}, rows)
	return nil
}

func (s *session) mitigationLine(ctx context.Context, e *engine.Engine, loaded *spec.Spec, m spec.Mitigation) (mitigationLine, error) {
	l := mitigationLine{Name: m.Name, For: m.For, Cell: m.HasCell(), AtOnce: m.AtOnce, Needed: m.Approve.Count}
	of, err := loaded.Mitigation(m.Name, true)
	if err != nil {
		return l, err
	}
	made, err := s.planSpec(ctx, of)
	var refused *backstay.RefusedError
	switch {
	case errors.As(err, &refused):
		if l.Problem = refused.Error(); len(refused.Problems) > 0 {
			l.Problem = refused.Problems[0].Message
		}
		return l, nil
	case err != nil:
		return l, err
	}
	if l.Approvals, err = e.Approvals(ctx, made.plan); err != nil {
		return l, err
	}
	l.Drilled, err = s.drilledMitigation(ctx, made.plan)
	return l, err
}

// drilledMitigation is when what is written now was last drilled well. The world
// may have been another then.
func (s *session) drilledMitigation(ctx context.Context, p *plan.Plan) (*time.Time, error) {
	all, err := s.drills(ctx)
	if err != nil {
		return nil, err
	}
	for _, d := range slices.Backward(all) {
		if !d.Good || d.Release != p.Release {
			continue
		}
		data, err := s.store.Plan(ctx, d.Plan)
		if err != nil {
			return nil, fmt.Errorf("read the plan of drill %s: %w", d.ID, err)
		}
		old, err := plan.Decode(data)
		if err != nil {
			return nil, err
		}
		if old.Mitigation != nil && old.Mitigation.Definition == p.Mitigation.Definition {
			return &d.At, nil
		}
	}
	return nil, nil
}

// brokenGlass is a mitigation that ran past its approvals and that nobody
// accounted for.
type brokenGlass struct {
	Deployment string         `json:"deployment"`
	Name       string         `json:"name"`
	Mitigation string         `json:"mitigation"`
	By         backstay.Actor `json:"by"`
	At         time.Time      `json:"at"`
	Reason     string         `json:"reason"`
	Until      time.Time      `json:"until"`
	Expired    bool           `json:"expired"`
}

func (s *session) brokenGlass(ctx context.Context) ([]brokenGlass, error) {
	e, err := s.here()
	if err != nil {
		return nil, err
	}
	entries, err := e.Mitigations(ctx)
	if err != nil {
		return nil, err
	}
	var all []brokenGlass
	for i, b := range entries {
		if b.Act != backstay.GlassBroken || accounted(b, entries[i+1:]) {
			continue
		}
		dep, err := s.store.Deployment(ctx, b.Deployment)
		if errors.Is(err, ledger.ErrNotFound) {
			continue // it never began
		}
		if err != nil {
			return nil, err
		}
		if dep.RevertedBy != "" || dep.State == backstay.RolledBack || dep.State == backstay.Refused {
			continue
		}
		all = append(all, brokenGlass{b.Deployment, dep.Name, b.Name, b.Actor, b.At, b.Reason, b.Until, !s.c.app.Now().Before(b.Until)})
	}
	return all, nil
}

// shout says where glass was broken and nobody accounted for it.
func (s *session) shout(all []brokenGlass) {
	p := s.c.out
	for _, b := range all {
		left := "account for it within " + rounded(b.Until.Sub(s.c.app.Now()))
		if b.Expired {
			left = "EXPIRED " + s.c.age(b.Until) + " ago"
		}
		p.line("%s %s (%s) by %s, %s ago: %s", p.paint(badTone, "BROKEN GLASS"), b.Name, b.Mitigation, b.By, s.c.age(b.At), b.Reason)
		p.line("  %s: backstay mitigate %s --approve, or backstay rollback %s", left, b.Mitigation, b.Name)
	}
}

// accounted reports whether somebody approved the mitigation after its glass was
// broken.
func accounted(b engine.Mitigated, later []engine.Mitigated) bool {
	return slices.ContainsFunc(later, func(l engine.Mitigated) bool {
		return l.Act == backstay.MitigationApproved && l.Name == b.Name && l.Release == b.Release
	})
}
