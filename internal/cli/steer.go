package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/control"
	"github.com/backstay-dev/backstay/internal/engine"
	"github.com/backstay-dev/backstay/internal/ledger"
)

// answerPatience is how long a verb that steers waits for the driver's answer.
const answerPatience = 10 * time.Second

func (c *call) approveCommand() *cobra.Command {
	var step, reason, digest string
	cmd := c.command("approve [REF] [flags]", "Agree that a deployment goes on",
		"Approves the plan that the deployment runs, as the user the kernel reports. The approval is bound\nto the plan's digest. It is refused when it comes late, or from somebody who may not give it.\n\n"+guestHelp,
		cobra.MaximumNArgs(1), func(ctx context.Context, c *call, args []string) error {
			st := steerings()["approve"]
			st.step, st.reason, st.plan = step, reason, digest
			return c.steer(ctx, args, st)
		})
	cmd.Flags().StringVar(&step, "step", "", "the approve step that is meant, where several wait")
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the ledger")
	cmd.Flags().StringVar(&digest, "plan", "", "the digest of the plan that you looked at (default: the one it runs)")
	return cmd
}

// guestHelp says how somebody steers who cannot open the ledger.
const guestHelp = `Who cannot open the ledger asks the process that drives the deployment, through its control
socket in the data directory; give --state (or --data-dir) of the one who deploys. Only people
whom an approve step of the plan names in ` + "`from`" + ` may steer that way.`

func (c *call) promoteCommand() *cobra.Command {
	return c.steerCommand("promote", "Go on past a gate that waits for evidence, or end the bake early")
}

func (c *call) pauseCommand() *cobra.Command {
	return c.steerCommand("pause", "Begin no further step")
}

func (c *call) resumeCommand() *cobra.Command {
	return c.steerCommand("resume", "Go on after a pause")
}

func (c *call) steerCommand(verb, short string) *cobra.Command {
	st := steerings()[verb]
	cmd := c.command(verb+" [REF] [flags]", short, short+".\n\n"+guestHelp, cobra.MaximumNArgs(1),
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
	source string // of signal: who reports it
	done   string // the word when it was accepted
}

// request is the steering as another process is asked for it.
func (st steering) request(verb string) control.Request {
	req := control.Request{Verb: verb, Step: st.step, Plan: st.plan, Reason: st.reason, Source: st.source}
	if verb == "signal" {
		req.Signal = st.kind
	}
	return req
}

// asked is the steering that another process asks for.
func asked(req control.Request) steering {
	name := req.Verb
	if name == "signal" {
		name = req.Signal
	}
	st := steerings()[name]
	st.step, st.reason, st.plan, st.source = req.Step, req.Reason, req.Plan, req.Source
	return st
}

// steerings are the verbs that steer.
func steerings() map[string]steering {
	forward := []backstay.State{backstay.Running, backstay.Holding}
	return map[string]steering{
		"approve":  {kind: engine.SignalApprove, what: "waits for an approval", states: []backstay.State{backstay.Holding}, done: "approved"},
		"promote":  {kind: engine.SignalPromote, what: "waits at a gate or bakes", states: append(forward, backstay.Committed), done: "promoted"},
		"pause":    {kind: engine.SignalPause, what: "goes forward", states: forward, done: "paused"},
		"resume":   {kind: engine.SignalResume, what: "is paused", states: forward, done: "resumed"},
		"fail":     {kind: engine.SignalFail, what: "goes forward or bakes", states: append(forward, backstay.Committed), done: "taken as evidence; it turns around"},
		"resolved": {kind: engine.SignalResolved, what: "is under way", states: unsettled(), done: "kept as evidence; it changes nothing"},
		"rollback": {kind: engine.SignalAbort, what: "goes forward or bakes", states: append(forward, backstay.Committed), done: "turned around; what was done is being undone"},
	}
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

	driver string // who drives the deployment, in words; empty: nobody does
}

func (c *call) steer(ctx context.Context, args []string, st steering) error {
	s, err := c.openExisting(ctx)
	if lockedOut(err) {
		return c.steerAsGuest(ctx, args, st, err)
	}
	if err != nil {
		return err
	}
	defer s.close()
	dep, err := s.choose(ctx, args, st.what, st.states...)
	if err != nil {
		return err
	}
	sig, err := s.signal(st.kind, st.reason)
	if err != nil {
		return err
	}
	doc, err := s.steerDeployment(ctx, dep, sig, st)
	if err != nil {
		return err
	}
	return c.endSteering(doc, st)
}

// steerDeployment leaves the signal for whoever drives the deployment and says
// how it was answered.
func (s *session) steerDeployment(ctx context.Context, dep ledger.Deployment, sig ledger.Signal, st steering) (steerDocument, error) {
	if dep.State.Settled() {
		return steerDocument{}, refuseState(dep, "it is settled, nothing can steer it", "backstay status "+dep.Name)
	}
	sig.Step = st.step
	if st.kind == engine.SignalFail || st.kind == engine.SignalResolved {
		sig.Alarm = &backstay.Alarm{Source: cleanLine(st.source)}
	}
	if st.kind == engine.SignalApprove {
		sig.Plan = orWord(st.plan, dep.PlanDigest)
	}
	body, err := s.ask(ctx, dep.ID, sig, answerPatience)
	if err != nil {
		return steerDocument{}, err
	}
	doc := steerDocument{Format: s.c.format(), Deployment: dep.ID, Name: dep.Name, Signal: st.kind, Plan: sig.Plan, Step: st.step}
	if body != nil {
		doc.Answered, doc.Accepted, doc.Why, doc.Step = true, body.Accepted, body.Why, body.Step
	}
	if driven(dep) {
		doc.driver = s.c.ownerWord(dep.Owner)
	}
	return doc, nil
}

func (c *call) endSteering(doc steerDocument, st steering) error {
	switch {
	case !doc.Answered, doc.Accepted && st.kind == engine.SignalAbort:
		doc.ExitCode = exitWaiting // the other process goes on with it
	case !doc.Accepted:
		doc.ExitCode = exitRefused
	}
	if c.json {
		return errors.Join(c.out.document(doc), exit(doc.ExitCode))
	}
	switch {
	case doc.Accepted:
		what := ""
		if doc.Plan != "" {
			what = fmt.Sprintf(" plan %.12s, step %s", doc.Plan, doc.Step)
		}
		c.out.line("%s: %s%s  %s", doc.Name, st.done, what, doc.Deployment)
	case doc.Answered:
		c.err.line("%s %s of %s was refused: %s", c.err.paint(badTone, "backstay:"), st.kind, doc.Name, doc.Why)
		c.err.line("  hint: backstay status %s", doc.Name)
	case doc.driver != "":
		c.err.line("%s was not answered within %s by %s; it stays in the ledger and is answered when that process goes on", st.kind, answerPatience, doc.driver)
		c.err.line("  hint: backstay status -w %s", doc.Name)
	default:
		c.err.line("nobody drives %s now; the %s stays in the ledger and is answered when somebody does", doc.Name, st.kind)
		c.err.line("  hint: backstay recover %s, or backstay agent", doc.Name)
	}
	return exit(doc.ExitCode)
}
