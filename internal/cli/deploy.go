package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/engine"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/plan"
)

// deployFlags are deploy's own flags.
type deployFlags struct {
	input

	plan        string
	detach      bool
	acceptDrift bool
	reason      string
	wait        time.Duration

	asDrilled  bool   // where a drill is demanded: the plan as it was drilled
	mitigation string // of the specification, instead of its release
	whole      bool   // the mitigation without its cell
}

func (c *call) deployCommand() *cobra.Command {
	var f deployFlags
	cmd := c.command("deploy [flags]", "Deploy: everything lands, or is put back as it was",
		`Plans the specification (or takes the stored plan of --plan) and drives it to its end in the
foreground, through the bake until it is proven. What fails is taken back by itself.

Ctrl-C once takes everything back in order; twice stops at once with a consistent ledger, and
`+"`backstay recover`"+` goes on. --detach leaves the deployment to `+"`backstay agent`"+`.`,
		cobra.NoArgs, func(ctx context.Context, c *call, _ []string) error { return c.deploy(ctx, f) })
	f.flags(cmd)
	fl := cmd.Flags()
	fl.StringVar(&f.plan, "plan", "", "run exactly the stored plan with this digest")
	fl.BoolVar(&f.detach, "detach", false, "record it and leave it to an agent")
	fl.BoolVar(&f.acceptDrift, "accept-drift", false, "deploy over resources that differ from what the ledger says")
	fl.StringVar(&f.reason, "reason", "", "why, for the ledger")
	fl.DurationVar(&f.wait, "wait", 0, "wait this long for locks that others hold (default: refuse)")
	for _, with := range []string{"file", "environment", "set", "env-file"} {
		cmd.MarkFlagsMutuallyExclusive("plan", with)
	}
	return cmd
}

func (c *call) deploy(ctx context.Context, f deployFlags) error {
	f.asDrilled = true
	s, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	deadline := c.app.Now().Add(f.wait)
	for {
		made, err := s.planFor(ctx, f)
		if err != nil {
			return s.recordRefusal(ctx, "", err)
		}
		locked, err := s.lockedFor(ctx, made.plan)
		if err != nil {
			return err
		}
		if locked != nil && !c.app.Now().Before(deadline) {
			return s.recordLocked(ctx, made.plan, locked)
		}
		var sum engine.Summary
		if locked == nil {
			sum, err = s.deployPlan(ctx, made, f)
		}
		if (locked != nil || errors.As(err, &locked)) && c.app.Now().Before(deadline) {
			// What the other one leaves behind is not what was planned on: plan again.
			if err := s.waitForLock(ctx, made.plan, locked, deadline); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		if f.detach {
			return s.detached(ctx, sum)
		}
		return s.end(ctx, sum)
	}
}

// planFor makes or loads the plan that the flags name.
func (s *session) planFor(ctx context.Context, f deployFlags) (planned, error) {
	if f.plan != "" {
		p, err := s.savedPlan(ctx, f.plan)
		if err != nil {
			return planned{}, err
		}
		dir, err := workingDir()
		return planned{plan: p, dir: dir}, err
	}
	loaded, err := f.load(s.c, s.kinds)
	if err == nil && f.mitigation != "" {
		loaded, err = loaded.Mitigation(f.mitigation, !f.whole)
	}
	if err != nil {
		return planned{}, err
	}
	made, err := s.planSpec(ctx, loaded)
	if err != nil || !f.asDrilled {
		return made, err
	}
	made.plan, err = s.asDrilled(ctx, made.plan)
	return made, err
}

// lockedFor says who holds a lock that the plan needs. The engine refuses it
// too, but what the other deployment has changed by now would look like drift
// to it.
func (s *session) lockedFor(ctx context.Context, p *plan.Plan) (*ledger.LockedError, error) {
	locks, err := s.store.Locks(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the locks: %w", err)
	}
	return lockedBy(locks, p.Locks), nil
}

// deployPlan runs a plan in the foreground, or records it for an agent.
func (s *session) deployPlan(ctx context.Context, made planned, f deployFlags) (engine.Summary, error) {
	id, err := newID()
	if err != nil {
		return engine.Summary{}, err
	}
	return s.drive(ctx, made.dir, func(ctx context.Context, e *engine.Engine, interrupt <-chan struct{}) (engine.Summary, error) {
		return e.Deploy(ctx, engine.Start{
			ID: id, Plan: made.plan, Reason: f.reason, AcceptDrift: f.acceptDrift, Detach: f.detach, Interrupt: interrupt,
		})
	})
}

// recordLocked leaves one entry about a deployment that a lock refused.
func (s *session) recordLocked(ctx context.Context, p *plan.Plan, locked *ledger.LockedError) error {
	entry := backstay.Entry{Kind: backstay.EntryRefused, Actor: &s.actor, Body: backstay.Canonical(backstay.RefusedBody{
		What: "lock", Error: locked.Error(), Release: p.Release, Plan: p.Digest(),
	})}
	if _, err := s.store.Record(context.WithoutCancel(ctx), entry); err != nil {
		return errors.Join(locked, fmt.Errorf("record the refusal: %w", err))
	}
	return locked
}

// lockEvery is how often a lock that is waited for is looked at; lockTell how
// often the wait says that it goes on.
const (
	lockEvery = 500 * time.Millisecond
	lockTell  = 30 * time.Second
)

// waitForLock waits until nobody holds a lock that the plan needs.
func (s *session) waitForLock(ctx context.Context, p *plan.Plan, locked *ledger.LockedError, deadline time.Time) error {
	tick := time.NewTicker(lockEvery)
	defer tick.Stop()
	var told time.Time
	for locked != nil {
		if now := s.c.app.Now(); now.Sub(told) >= lockTell {
			l := locked.Lock
			s.c.progress("waiting for %s: held by %s (%s) for %s, driven by %s", l.Key, l.Name, stateWord(l.State), s.c.age(l.Since), s.c.ownerWord(l.Owner))
			s.c.progress("  look: backstay status %[1]s    end it: backstay rollback %[1]s    waiting %[2]s more", l.Name, rounded(deadline.Sub(now)))
			told = now
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		locks, err := s.store.Locks(ctx)
		if err != nil {
			return fmt.Errorf("read the locks: %w", err)
		}
		last := locked
		if locked = lockedBy(locks, p.Locks); locked != nil && !s.c.app.Now().Before(deadline) {
			return s.recordLocked(ctx, p, last)
		}
	}
	return nil
}

// progress writes a line about the call to stderr, but for --json.
func (c *call) progress(format string, args ...any) {
	if !c.json {
		c.err.line(format, args...)
	}
}

// detached says where a deployment is that an agent drives.
func (s *session) detached(ctx context.Context, sum engine.Summary) error {
	if s.c.json {
		sum.ExitCode = exitOK
		return s.end(ctx, sum)
	}
	s.c.out.line("%s is recorded and left to an agent  %s", sum.Name, sum.Deployment)
	s.c.out.line("  drive   backstay agent%s", stateFlag(s.c))
	s.c.out.line("  watch   backstay status -w %s", sum.Name)
	return nil
}

// stateFlag repeats --state in a command to type. A URL may hold a password
// and is not repeated.
func stateFlag(c *call) string {
	switch {
	case c.state == "":
		return ""
	case strings.Contains(c.state, "://"):
		return " --state postgres://…"
	}
	if abs, err := filepath.Abs(c.state); err == nil {
		return " --state " + quoted(abs)
	}
	return " --state " + quoted(c.state)
}
