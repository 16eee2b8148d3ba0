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
)

// recent is how many settled deployments status shows beside the open ones.
const recent = 5

func (c *call) statusCommand() *cobra.Command {
	var follow bool
	cmd := c.command("status [REF] [flags]", "Show what goes on, or one deployment",
		"Without REF: every deployment that is not settled, what is held, and the last few. With REF (shop#4,\nor the beginning of an ID): its steps, who drives it, what it waits for, endpoints.",
		cobra.MaximumNArgs(1), func(ctx context.Context, c *call, args []string) error {
			s, err := c.openExisting(ctx)
			if err != nil {
				return c.nothingYet(err, len(args) == 0 && !follow)
			}
			defer s.close()
			switch {
			case follow:
				return s.watchStatus(ctx, args)
			case len(args) == 0:
				return s.overview(ctx)
			}
			return s.statusOf(ctx, args[0])
		})
	cmd.Flags().BoolVarP(&follow, "watch", "w", false, "show it as it goes, until it is settled")
	return cmd
}

// nothingYet makes "nothing was deployed yet" an answer where that answers the
// question.
func (c *call) nothingYet(err error, answers bool) error {
	if !answers || !errors.Is(err, ledger.ErrNotFound) {
		return err
	}
	if c.json {
		return c.out.document(listDocument{Format: c.format(), Deployments: []ledger.Deployment{}})
	}
	c.out.line("nothing was deployed yet")
	return nil
}

// listDocument is a list of deployments in JSON.
type listDocument struct {
	Format      string              `json:"format"`
	Deployments []ledger.Deployment `json:"deployments"`
	BrokenGlass []brokenGlass       `json:"broken_glass,omitempty"`
}

func (s *session) overview(ctx context.Context) error {
	open, err := s.store.List(ctx, ledger.Filter{States: append(unsettled(), backstay.Held), Limit: allOfThem})
	if err != nil {
		return fmt.Errorf("list deployments: %w", err)
	}
	last, err := s.store.List(ctx, ledger.Filter{Limit: recent})
	if err != nil {
		return fmt.Errorf("list deployments: %w", err)
	}
	list := slices.Clone(open)
	for _, d := range last {
		if !slices.ContainsFunc(list, func(o ledger.Deployment) bool { return o.ID == d.ID }) {
			list = append(list, d)
		}
	}
	glass, err := s.brokenGlass(ctx)
	if err != nil {
		return err
	}
	if s.c.json {
		return s.c.out.document(listDocument{s.c.format(), list, glass})
	}
	if len(list) == 0 {
		s.c.out.line("nothing was deployed yet")
		return nil
	}
	s.shout(glass)
	s.printList(list)
	for _, d := range open {
		if !d.State.Settled() && !driven(d) {
			s.c.out.line("")
			s.c.out.line("%s is not settled and nobody drives it: backstay recover %s, or backstay agent", d.Name, d.Name)
		}
	}
	return nil
}

func (s *session) printList(list []ledger.Deployment) {
	rows := make([][]string, 0, len(list))
	for _, d := range list {
		driver := "-"
		if !d.State.Settled() {
			driver = s.c.ownerWord(d.Owner)
		}
		note := ""
		switch {
		case d.RevertedBy != "":
			note = "taken back"
		case d.Reverts != "":
			note = "takes back another"
		}
		rows = append(rows, []string{d.Name, orWord(d.Version, "-"), stateWord(d.State), s.c.age(d.CreatedAt), driver, note})
	}
	s.c.out.table([]string{"DEPLOYMENT", "VERSION", "STATE", "AGE", "DRIVEN BY", ""}, rows)
}

// statusDocument is one deployment in JSON.
type statusDocument struct {
	Format     string            `json:"format"`
	Deployment ledger.Deployment `json:"deployment"`
	View       engine.View       `json:"view"`
	Driven     bool              `json:"driven"`
}

func (s *session) statusOf(ctx context.Context, ref string) error {
	dep, err := s.find(ctx, ref)
	if err != nil {
		return err
	}
	e, err := s.here()
	if err != nil {
		return err
	}
	v, err := e.ViewOf(ctx, dep.ID)
	if err != nil {
		return err
	}
	if s.c.json {
		write := s.c.out.document
		if s.c.lines() {
			write = s.c.out.record
		}
		return write(statusDocument{s.c.format(), dep, v, driven(dep)})
	}
	glass, err := s.brokenGlass(ctx)
	if err != nil {
		return err
	}
	s.shout(slices.DeleteFunc(glass, func(b brokenGlass) bool { return b.Deployment != dep.ID }))
	s.printStatus(dep, v)
	return nil
}

func (s *session) printStatus(dep ledger.Deployment, v engine.View) {
	p, now := s.c.out, s.c.app.Now()
	p.line("%s %s", p.paint(boldTone, strings.TrimSpace(dep.Name+" "+dep.Version)), p.paint(stateTone(dep.State), stateWord(dep.State)))
	p.line("  deployment  %s", dep.ID)
	p.line("  plan        sha256:%s", dep.PlanDigest)
	p.line("  started     %s ago by %s", s.c.age(dep.CreatedAt), dep.Author)
	if !dep.State.Settled() {
		p.line("  driven by   %s", s.c.ownerWord(dep.Owner))
	}
	if dep.Reverts != "" {
		p.line("  takes back  %s", dep.Reverts)
	}
	if dep.RevertedBy != "" {
		p.line("  taken back  by %s", dep.RevertedBy)
	}
	if v.Next != "" {
		next := v.Next
		if !v.Until.IsZero() {
			next += fmt.Sprintf(", until %s (%s left)", v.Until.Local().Format(time.DateTime), rounded(max(v.Until.Sub(now), 0)))
		}
		p.line("  waits for   %s", next)
	}
	if v.Failure != nil {
		p.line("  cause       %s: %s", v.Failure.Cause, v.Failure.Reason)
	}
	if v.Budget > 0 {
		p.line("  undo        about %s of rollback.within %s", rounded(v.UndoCost), rounded(v.Budget))
	}
	p.line("")
	rows := make([][]string, 0, len(v.Steps))
	for _, st := range v.Steps {
		glyph, word, _ := stepWord(st)
		took := "-"
		if !st.Opened.IsZero() {
			took = rounded(since(st.Opened, st.Closed, now))
		}
		text := st.Summary
		if st.Error != "" {
			text = st.Error
		}
		rows = append(rows, []string{glyph, st.ID, word, took, text})
	}
	p.table([]string{"", "STEP", "STATE", "TOOK", ""}, rows)
	for _, st := range v.Steps {
		if len(st.Slots) > 0 && st.Phase == engine.PhaseApplied {
			p.line("  %s: %s", st.ID, slotWords(st.Slots))
		}
	}
	if lines := evidenceLines(p, v, now, len(v.Checks)); len(lines) > 0 {
		p.line("")
		for _, l := range lines {
			p.line("  %s", l)
		}
	}
	p.residues(v.Residue)
	if next := s.c.afterwards(v); next != "" && !strings.HasPrefix(next, "backstay status") {
		p.line("")
		p.line("next: %s", next)
	}
	if !dep.State.Settled() && !driven(dep) {
		p.line("nobody drives it: backstay recover %s, or backstay agent", dep.Name)
	}
}

// slotWords shows run-time facts (ports, pids) in a stable order.
func slotWords(slots map[string]string) string {
	words := make([]string, 0, len(slots))
	for k, v := range slots {
		words = append(words, k+"="+v)
	}
	slices.Sort(words)
	return strings.Join(words, " ")
}

// watchStatus follows deployments until they are settled or nobody drives them.
func (s *session) watchStatus(ctx context.Context, args []string) error {
	dep, err := s.choose(ctx, args, "is under way", unsettled()...)
	if err != nil {
		return err
	}
	s.c.events = true
	w := newRelay(s.c.watch())
	dep, err = s.follow(ctx, dep.ID, w, nil)
	w.close()
	if err != nil {
		return err
	}
	return s.afterFollow(ctx, dep)
}

// afterFollow ends a verb that followed a deployment of another process. A
// read verb that worked exits with 0 whatever the deployment's end.
func (s *session) afterFollow(ctx context.Context, dep ledger.Deployment) error {
	if !dep.State.Settled() {
		s.c.progress("nobody drives %[1]s any more; go on with: backstay recover %[1]s", dep.Name)
	}
	return s.statusOf(ctx, dep.ID)
}
