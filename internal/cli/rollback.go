package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/engine"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/plan"
)

// rollbackFlags are rollback's own flags.
type rollbackFlags struct {
	release   string
	reason    string
	yes       bool
	withLater bool
	retry     bool
	close     bool
	through   []string
	hold      time.Duration
}

func (c *call) rollbackCommand() *cobra.Command {
	var f rollbackFlags
	cmd := c.command("rollback [REF] [flags]", "Take a deployment back",
		`What it does depends on where the deployment stands:

  running, holding, committed   it is turned around: what was done is undone
  proven                        it is taken back by a new deployment; the plan is shown first
  held                          --retry undoes the residue again, --close --reason WHY signs for it

Without REF: the one that is under way or held, else the newest that is in effect. Later
deployments on the same resources are listed and refuse it, unless --with-later takes them
back too, newest first.

`+guestHelp,
		cobra.MaximumNArgs(1), func(ctx context.Context, c *call, args []string) error { return c.rollback(ctx, args, f) })
	cmd.Aliases = []string{"abort", "undo", "revert"}
	fl := cmd.Flags()
	fl.StringVar(&f.release, "release", "", "without REF: only deployments of this release")
	fl.StringVar(&f.reason, "reason", "", "why, for the ledger")
	fl.BoolVarP(&f.yes, "yes", "y", false, "do not ask before taking back a proven deployment")
	fl.BoolVar(&f.withLater, "with-later", false, "also take back later deployments on the same resources")
	fl.StringSliceVar(&f.through, "through", nil, "proven: give the old side these shares of the traffic one after the other, such as 10%,50%,100%")
	fl.DurationVar(&f.hold, "hold", 0, "with --through: how long to stay at each share")
	fl.BoolVar(&f.retry, "retry", false, "held: undo the residue again")
	fl.BoolVar(&f.close, "close", false, "held: sign for the residue (needs --reason)")
	cmd.MarkFlagsMutuallyExclusive("retry", "close")
	return cmd
}

func (c *call) rollback(ctx context.Context, args []string, f rollbackFlags) error {
	if f.hold > 0 && len(f.through) == 0 {
		return usagef("--hold goes with --through")
	}
	through, err := sharesOf(f.through)
	if err != nil {
		return err
	}
	if f.close && strings.TrimSpace(f.reason) == "" {
		return usagef("--close needs --reason WHY: it is a person's signature")
	}
	s, err := c.openExisting(ctx)
	if lockedOut(err) {
		return c.rollbackAsGuest(ctx, args, f, err)
	}
	if err != nil {
		return err
	}
	defer s.close()
	dep, err := s.rollbackTarget(ctx, args, f)
	if err != nil {
		return err
	}
	if len(through) > 0 && dep.State != backstay.Proven {
		return refuseState(dep, "--through is for a proven one: while a release is under way the old side is warm and takes everything back at once", "backstay rollback "+dep.Name)
	}
	if (f.retry || f.close) && dep.State != backstay.Held {
		return refuseState(dep, "--retry and --close are for a held one", "backstay status "+dep.Name)
	}
	switch dep.State {
	case backstay.Planned, backstay.Approved, backstay.Running, backstay.Holding, backstay.Committed:
		return s.abort(ctx, dep, f.reason)
	case backstay.RollingBack:
		return s.finishRollback(ctx, dep)
	case backstay.Held:
		return s.moveHeld(ctx, dep, f)
	case backstay.Proven:
		return s.takeBack(ctx, dep, f, through)
	case backstay.RolledBack, backstay.Closed, backstay.Refused:
	}
	return refuseState(dep, "there is nothing to take back", "list what is in effect with `backstay history`")
}

// rollbackAsGuest asks whoever drives a deployment to turn it around. More than
// that needs the ledger.
func (c *call) rollbackAsGuest(ctx context.Context, args []string, f rollbackFlags, cause error) error {
	if f.release != "" || f.withLater || f.retry || f.close {
		return &backstay.RefusedError{
			What: "rollback", Err: fmt.Errorf("the ledger is another user's: %w", cause),
			Hint: "without opening it only a deployment that goes forward or bakes can be turned around: backstay rollback REF",
		}
	}
	st := steerings()["rollback"]
	st.reason = orWord(f.reason, "rollback asked for")
	return c.steerAsGuest(ctx, args, st, cause)
}

// rollbackTarget finds what is meant: REF, else what is under way or held, else
// the newest deployment that is in effect.
func (s *session) rollbackTarget(ctx context.Context, args []string, f rollbackFlags) (ledger.Deployment, error) {
	if len(args) > 0 {
		return s.find(ctx, args[0])
	}
	open, err := s.store.List(ctx, ledger.Filter{Release: f.release, States: append(unsettled(), backstay.Held), Limit: allOfThem})
	if err != nil {
		return ledger.Deployment{}, fmt.Errorf("list deployments: %w", err)
	}
	if len(open) > 1 {
		return ledger.Deployment{}, s.ambiguous(open, "are under way or held")
	}
	if len(open) == 1 {
		return open[0], nil
	}
	all, err := s.store.List(ctx, ledger.Filter{Release: f.release, States: []backstay.State{backstay.Proven}, Limit: allOfThem})
	if err != nil {
		return ledger.Deployment{}, fmt.Errorf("list deployments: %w", err)
	}
	var newest []ledger.Deployment // of each release
	for _, d := range inEffect(all) {
		// What only takes back another deployment is no release to take back.
		if d.Reverts == "" && !slices.ContainsFunc(newest, func(n ledger.Deployment) bool { return n.Release == d.Release }) {
			newest = append(newest, d)
		}
	}
	switch len(newest) {
	case 0:
		return ledger.Deployment{}, &backstay.RefusedError{What: "choice", Err: errors.New("no deployment is in effect"), Hint: "list them with `backstay history`"}
	case 1:
		return newest[0], nil
	}
	return ledger.Deployment{}, s.ambiguous(newest, "are in effect")
}

// abort turns a deployment around that goes forward, bakes or waits.
func (s *session) abort(ctx context.Context, dep ledger.Deployment, reason string) error {
	sig, err := s.signal(engine.SignalAbort, orWord(reason, "rollback asked for"))
	if err != nil {
		return err
	}
	if !driven(dep) {
		sum, err := s.resume(ctx, dep, &sig, 0)
		if err != nil {
			return err
		}
		return s.endAnswered(ctx, dep, sig.ID, sum)
	}
	s.c.progress("asking %s to take %s back", s.c.ownerWord(dep.Owner), dep.Name)
	body, err := s.ask(ctx, dep.ID, sig, answerPatience)
	if err != nil {
		return err
	}
	if body == nil {
		return &backstay.Error{
			Class: backstay.Transient, Op: "roll back", Subject: dep.Name, Err: fmt.Errorf("%s did not answer within %s", s.c.ownerWord(dep.Owner), answerPatience),
			Hint: fmt.Sprintf("the request stays in the ledger; if that process is gone: backstay recover %s --wait 30s", dep.Name),
		}
	}
	if !body.Accepted {
		return &backstay.RefusedError{What: "rollback", Err: errors.New(body.Why), Hint: "backstay status " + dep.Name}
	}
	return s.finishRollback(ctx, dep)
}

// endAnswered ends a verb whose own signal came with taking over: refused, it
// says why beside how the deployment ended.
func (s *session) endAnswered(ctx context.Context, dep ledger.Deployment, signal string, sum engine.Summary) error {
	body, err := s.answer(ctx, dep.ID, signal, followEvery)
	if err == nil && body != nil && !body.Accepted {
		s.c.progress("%s of %s was refused: %s", body.Signal, dep.Name, body.Why)
	}
	return errors.Join(err, s.end(ctx, sum))
}

// finishRollback follows a rollback that another process does, and does it
// itself where nobody does.
func (s *session) finishRollback(ctx context.Context, dep ledger.Deployment) error {
	if driven(dep) {
		w := newRelay(s.c.watch())
		now, err := s.follow(ctx, dep.ID, w, nil)
		w.close()
		if err != nil {
			return err
		}
		dep = now
	}
	sum, err := s.recoverOne(ctx, dep, 0)
	if err != nil {
		return err
	}
	return s.end(ctx, sum)
}

// moveHeld undoes the residue of a held deployment again, or closes it.
func (s *session) moveHeld(ctx context.Context, dep ledger.Deployment, f rollbackFlags) error {
	kind := engine.SignalRetry
	switch {
	case f.close:
		kind = engine.SignalClose
	case !f.retry:
		if err := s.statusOf(ctx, dep.ID); err != nil {
			return err
		}
		return refuseState(dep, "say what to do about its residue",
			fmt.Sprintf("repair, then `backstay rollback %[1]s --retry`; or sign for it: `backstay rollback %[1]s --close --reason WHY`", dep.Name))
	}
	sig, err := s.signal(kind, f.reason)
	if err != nil {
		return err
	}
	sum, err := s.resume(ctx, dep, &sig, 0)
	if err != nil {
		return err
	}
	return s.endAnswered(ctx, dep, sig.ID, sum)
}

// takeBack reverts a proven deployment, and with --with-later those after it,
// newest first, each by a deployment of its own.
func (s *session) takeBack(ctx context.Context, dep ledger.Deployment, f rollbackFlags, through []int) error {
	e, err := s.here()
	if err != nil {
		return err
	}
	all, err := s.store.List(ctx, ledger.Filter{States: []backstay.State{backstay.Committed, backstay.Proven}, Limit: allOfThem})
	if err != nil {
		return fmt.Errorf("list deployments: %w", err)
	}
	effective := inEffect(all)
	if !slices.ContainsFunc(effective, func(d ledger.Deployment) bool { return d.ID == dep.ID }) {
		return refuseState(dep, "it was taken back already", "backstay history")
	}
	later, err := s.laterOn(ctx, e, dep, effective)
	if err != nil {
		return err
	}
	if len(later) > 0 && !f.withLater {
		names := make([]string, 0, len(later))
		for _, d := range later {
			names = append(names, d.Name)
		}
		return &backstay.RefusedError{
			What: "rollback", Err: fmt.Errorf("%s changed the same resources after %s", strings.Join(names, ", "), dep.Name),
			Hint: fmt.Sprintf("take them back together, newest first: backstay rollback %s --with-later", dep.Name),
		}
	}
	for i, d := range append(later, dep) {
		sum, err := s.revert(ctx, e, d, f, through, i > 0)
		if err != nil {
			return err
		}
		if err := s.end(ctx, sum); err != nil {
			return err
		}
	}
	return nil
}

// laterOn lists the deployments in effect that changed the same resources
// after dep, newest first. What only took another one back, or restored drift
// to an earlier state, is not a change of its own.
func (s *session) laterOn(ctx context.Context, e *engine.Engine, dep ledger.Deployment, effective []ledger.Deployment) ([]ledger.Deployment, error) {
	target, _, err := e.Replay(ctx, dep.ID)
	if err != nil {
		return nil, err
	}
	var later []ledger.Deployment
	for _, d := range effective {
		if d.ID == dep.ID {
			break
		}
		if d.Reverts != "" {
			continue // it and what it took back cancel each other out
		}
		p, _, err := e.Replay(ctx, d.ID)
		if err != nil {
			return nil, err
		}
		if !restoresOnly(p) && overlap(p.Locks, target.Locks) {
			later = append(later, d)
		}
	}
	return later, nil
}

func restoresOnly(p *plan.Plan) bool {
	return p.Reverts == "" && !slices.ContainsFunc(p.Steps, func(st backstay.Step) bool { return st.Reverts == nil })
}

func overlap(a, b []backstay.Key) bool {
	return slices.ContainsFunc(a, func(k backstay.Key) bool { return slices.ContainsFunc(b, k.Overlaps) })
}

// revert takes one proven deployment back by a new one, after showing the plan
// and asking.
func (s *session) revert(ctx context.Context, e *engine.Engine, dep ledger.Deployment, f rollbackFlags, through []int, asked bool) (engine.Summary, error) {
	old, done, err := e.Undone(ctx, dep.ID)
	if err != nil {
		return engine.Summary{}, err
	}
	p, err := plan.Revert(old, dep.ID, dep.Name, done)
	if err != nil {
		return engine.Summary{}, err
	}
	if len(through) > 0 {
		if err := s.stage(p, old, through, f.hold); err != nil {
			return engine.Summary{}, err
		}
	}
	locked, err := s.lockedFor(ctx, p)
	if err != nil {
		return engine.Summary{}, err
	}
	if locked != nil {
		return engine.Summary{}, s.recordLocked(ctx, p, locked)
	}
	if err := s.showRevert(ctx, e, dep, p); err != nil {
		return engine.Summary{}, err
	}
	if !f.yes && !asked {
		if err := s.c.confirm(ctx, fmt.Sprintf("Take %s back?", dep.Name)); err != nil {
			return engine.Summary{}, err
		}
	}
	return s.deployMade(ctx, p, engine.Start{Plan: p, Reason: orWord(f.reason, "rollback of "+dep.Name)})
}

// sharesOf reads --through: whole shares that grow to 100%.
func sharesOf(words []string) ([]int, error) {
	var shares []int
	last := 0
	for _, w := range words {
		n, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(w), "%"))
		if err != nil || n <= last || n > 100 {
			return nil, usagef("--through wants whole shares that grow to 100%%, such as 10%%,50%%,100%%; %q does not fit", w)
		}
		shares, last = append(shares, n), n
	}
	if len(shares) > 0 && last != 100 {
		shares = append(shares, 100)
	}
	return shares, nil
}

// turner is the registry, as far as it knows dials.
type turner interface {
	Turn(step backstay.Step, percent int) (backstay.Prepared, error)
}

// stage makes the way back gradual.
func (s *session) stage(p, old *plan.Plan, through []int, hold time.Duration) error {
	k, ok := s.kinds.(turner)
	if !ok {
		return errors.New("this binary cannot move traffic in stages")
	}
	return plan.Gradual(p, old, through, backstay.Duration(hold), k.Turn)
}

// showRevert shows the undo plan on stderr.
func (s *session) showRevert(ctx context.Context, e *engine.Engine, dep ledger.Deployment, p *plan.Plan) error {
	if s.c.json {
		return nil
	}
	v, err := s.preview(ctx, e, p, nil)
	if err != nil {
		return err
	}
	s.c.err.line("Taking back %s:", dep.Name)
	return v.WriteText(s.c.err)
}

// deployMade drives a plan that this verb made itself.
func (s *session) deployMade(ctx context.Context, p *plan.Plan, start engine.Start) (engine.Summary, error) {
	id, err := newID()
	if err != nil {
		return engine.Summary{}, err
	}
	dir, err := workingDir()
	if err != nil {
		return engine.Summary{}, err
	}
	start.ID, start.Plan = id, p
	return s.drive(ctx, dir, func(ctx context.Context, e *engine.Engine, interrupt <-chan struct{}) (engine.Summary, error) {
		start.Interrupt = interrupt
		return e.Deploy(ctx, start)
	})
}

// confirm asks a yes-or-no question on the terminal; no terminal is a refusal.
func (c *call) confirm(ctx context.Context, question string) error {
	if c.json || !c.app.TTY.Stdin || !c.app.TTY.Stderr {
		return &backstay.RefusedError{What: "confirmation", Err: errors.New("there is no terminal to ask on"), Hint: "look at what would be done, then give --yes"}
	}
	c.err.raw(cleanLine(question) + " [y/N] ")
	answer := make(chan string, 1)
	go func() {
		// It ends with the process where nobody answers.
		line := make([]byte, 0, 16)
		one := make([]byte, 1)
		for {
			n, err := c.app.Stdin.Read(one)
			if n == 1 && one[0] != '\n' && len(line) < cap(line) {
				line = append(line, one[0])
			}
			if err != nil || (n == 1 && one[0] == '\n') {
				answer <- strings.ToLower(strings.TrimSpace(string(line)))
				return
			}
		}
	}()
	select {
	case a := <-answer:
		if a == "y" || a == "yes" {
			return nil
		}
		return &backstay.RefusedError{What: "confirmation", Err: errors.New("not confirmed"), Hint: "nothing was touched"}
	case <-ctx.Done():
		c.err.raw("\n")
		return context.Cause(ctx)
	}
}
