package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/engine"
	"github.com/backstay-dev/backstay/internal/ledger"
)

// answerPatience is how long a verb that steers waits for the driver's answer.
const answerPatience = 10 * time.Second

func (c *call) approveCommand() *cobra.Command {
	var step, reason, digest string
	cmd := c.command("approve [REF] [flags]", "Agree that a deployment goes on",
		"Approves the plan that the deployment runs, as the user the kernel reports. The approval is bound\nto the plan's digest. It is refused when it comes late, or from somebody who may not give it.",
		cobra.MaximumNArgs(1), func(ctx context.Context, c *call, args []string) error {
			return c.steer(ctx, args, steering{
				kind: engine.SignalApprove, what: "waits for an approval", states: []backstay.State{backstay.Holding},
				step: step, reason: reason, plan: digest, done: "approved",
			})
		})
	cmd.Flags().StringVar(&step, "step", "", "the approve step that is meant, where several wait")
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the ledger")
	cmd.Flags().StringVar(&digest, "plan", "", "the digest of the plan that you looked at (default: the one it runs)")
	return cmd
}

func (c *call) promoteCommand() *cobra.Command {
	return c.steerCommand("promote", "End the bake early: it counts as passed",
		steering{kind: engine.SignalPromote, what: "bakes", states: []backstay.State{backstay.Committed}, done: "promoted"})
}

func (c *call) pauseCommand() *cobra.Command {
	return c.steerCommand("pause", "Begin no further step",
		steering{kind: engine.SignalPause, what: "goes forward", states: []backstay.State{backstay.Running, backstay.Holding}, done: "paused"})
}

func (c *call) resumeCommand() *cobra.Command {
	return c.steerCommand("resume", "Go on after a pause",
		steering{kind: engine.SignalResume, what: "is paused", states: []backstay.State{backstay.Running, backstay.Holding}, done: "resumed"})
}

func (c *call) steerCommand(verb, short string, st steering) *cobra.Command {
	cmd := c.command(verb+" [REF] [flags]", short, short+".", cobra.MaximumNArgs(1),
		func(ctx context.Context, c *call, args []string) error { return c.steer(ctx, args, st) })
	cmd.Flags().StringVar(&st.reason, "reason", "", "why, for the ledger")
	return cmd
}

// steering is what a person asks of a deployment that somebody else drives.
type steering struct {
	kind   string
	what   string // completes "no deployment …"
	states []backstay.State
	step   string
	reason string
	plan   string
	done   string // the word when it was accepted
}

// steerDocument is the result of approve, promote, pause and resume.
type steerDocument struct {
	Format     string `json:"format"`
	Deployment string `json:"deployment"`
	Name       string `json:"name"`
	Signal     string `json:"signal"`
	Step       string `json:"step,omitempty"`
	Plan       string `json:"plan,omitempty"`
	Answered   bool   `json:"answered"` // false: it waits in the ledger for a driver
	Accepted   bool   `json:"accepted"`
	Why        string `json:"why,omitempty"`
	ExitCode   int    `json:"exit_code"`
}

func (c *call) steer(ctx context.Context, args []string, st steering) error {
	s, err := c.openExisting(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	dep, err := s.choose(ctx, args, st.what, st.states...)
	if err != nil {
		return err
	}
	if dep.State.Settled() {
		return refuseState(dep, "it is settled, nothing can steer it", "backstay status "+dep.Name)
	}
	sig, err := s.signal(st.kind, st.reason)
	if err != nil {
		return err
	}
	sig.Step = st.step
	if st.kind == engine.SignalApprove {
		sig.Plan = orWord(st.plan, dep.PlanDigest)
	}
	body, err := s.ask(ctx, dep.ID, sig, answerPatience)
	if err != nil {
		return err
	}
	doc := steerDocument{Format: c.format(), Deployment: dep.ID, Name: dep.Name, Signal: st.kind, Plan: sig.Plan, Step: st.step, ExitCode: exitWaiting}
	if body != nil {
		doc.Answered, doc.Accepted, doc.Why, doc.Step = true, body.Accepted, body.Why, body.Step
		doc.ExitCode = exitRefused
		if body.Accepted {
			doc.ExitCode = exitOK
		}
	}
	return s.endSteering(dep, doc, st)
}

func (s *session) endSteering(dep ledger.Deployment, doc steerDocument, st steering) error {
	if s.c.json {
		return errors.Join(s.c.out.document(doc), exit(doc.ExitCode))
	}
	switch {
	case doc.Accepted:
		what := ""
		if doc.Plan != "" {
			what = fmt.Sprintf(" plan %.12s, step %s", doc.Plan, doc.Step)
		}
		s.c.out.line("%s: %s%s  %s", dep.Name, st.done, what, dep.ID)
	case doc.Answered:
		s.c.err.line("%s %s of %s was refused: %s", s.c.err.paint(badTone, "backstay:"), st.kind, dep.Name, doc.Why)
		s.c.err.line("  hint: backstay status %s", dep.Name)
	case driven(dep):
		s.c.err.line("%s was not answered within %s by %s; it stays in the ledger and is answered when that process goes on", st.kind, answerPatience, s.c.ownerWord(dep.Owner))
		s.c.err.line("  hint: backstay status -w %s", dep.Name)
	default:
		s.c.err.line("nobody drives %s now; the %s stays in the ledger and is answered when somebody does", dep.Name, st.kind)
		s.c.err.line("  hint: backstay recover %s, or backstay agent", dep.Name)
	}
	return exit(doc.ExitCode)
}
