package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/backstay-dev/backstay/internal/engine"
	"github.com/backstay-dev/backstay/internal/ledger"
)

func (c *call) recoverCommand() *cobra.Command {
	var all, restored bool
	var wait time.Duration
	cmd := c.command("recover [REF] [flags]", "Go on with a deployment whose process died",
		`Takes over a deployment that is not settled and that nobody drives, looks at what its last act
did, and brings it to its end: forward, or back. Doing it twice changes nothing the second time.
A deployment that a live process drives is not touched; who that is, is said.

--restored says that the ledger is a restored backup, which may not know the newest entries: that
is recorded, and fencing tokens begin anew above all that the lost entries used.`,
		cobra.MaximumNArgs(1), func(ctx context.Context, c *call, args []string) error {
			if all && len(args) > 0 {
				return usagef("give REF or --all, not both")
			}
			if restored {
				if err := c.restored(ctx); err != nil {
					return err
				}
			}
			return c.recover(ctx, args, all, wait)
		})
	cmd.Flags().BoolVar(&all, "all", false, "every deployment that nobody drives")
	cmd.Flags().BoolVar(&restored, "restored", false, "the ledger was restored from a backup: record it first")
	cmd.Flags().DurationVar(&wait, "wait", 0, "wait this long for the lease of a process that is gone to end")
	return cmd
}

func (c *call) recover(ctx context.Context, args []string, all bool, wait time.Duration) error {
	s, err := c.openExisting(ctx)
	if err != nil {
		return c.nothingYet(err, len(args) == 0)
	}
	defer s.close()
	if all {
		return s.recoverAll(ctx)
	}
	var dep ledger.Deployment
	if len(args) == 0 {
		open, err := s.store.List(ctx, ledger.Filter{States: unsettled(), Limit: allOfThem})
		if err != nil {
			return fmt.Errorf("list deployments: %w", err)
		}
		switch len(open) {
		case 0:
			return s.nothingToRecover()
		case 1:
			dep = open[0]
		default:
			return s.ambiguous(open, "are not settled")
		}
	} else if dep, err = s.find(ctx, args[0]); err != nil {
		return err
	}
	sum, err := s.recoverOne(ctx, dep, wait)
	if err != nil {
		return err
	}
	return s.end(ctx, sum)
}

// restored records that the ledger was restored from a backup.
func (c *call) restored(ctx context.Context) error {
	s, err := c.openExisting(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	if err := s.store.Restored(ctx, s.actor); err != nil {
		return err
	}
	s.c.err.line("recorded: the ledger was restored from a backup; fencing tokens go on above all that were used")
	return nil
}

func (s *session) nothingToRecover() error {
	if s.c.json {
		return s.c.out.record(listDocument{Format: s.c.format(), Deployments: []ledger.Deployment{}})
	}
	s.c.out.line("nothing to recover: every deployment is settled")
	return nil
}

// recoverOne brings one deployment to its end. A settled one is only reported.
func (s *session) recoverOne(ctx context.Context, dep ledger.Deployment, wait time.Duration) (engine.Summary, error) {
	if dep.State.Settled() {
		e, err := s.here()
		if err != nil {
			return engine.Summary{}, err
		}
		s.c.progress("%s is settled already; nothing was done", dep.Name)
		return e.Summarise(ctx, dep.ID)
	}
	return s.resume(ctx, dep, nil, wait)
}

// resume takes a deployment over, waiting for a dead owner's lease if asked to,
// and drives it to its end.
func (s *session) resume(ctx context.Context, dep ledger.Deployment, sig *ledger.Signal, wait time.Duration) (engine.Summary, error) {
	dir, err := workingDir()
	if err != nil {
		return engine.Summary{}, err
	}
	deadline := s.c.app.Now().Add(wait)
	told := false
	for {
		sum, err := s.drive(ctx, dir, func(ctx context.Context, e *engine.Engine, interrupt <-chan struct{}) (engine.Summary, error) {
			return e.Resume(ctx, dep.ID, interrupt, sig)
		})
		var owned *ledger.OwnedError
		if !errors.As(err, &owned) {
			return sum, err
		}
		owned.Deployment = dep.Name
		if gone(&owned.Owner) {
			// Its lease ends by itself; nobody else has to be asked.
			deadline = laterOf(deadline, s.c.app.Now().Add(owned.Owner.Left+time.Second))
		}
		if !s.c.app.Now().Before(deadline) {
			return sum, owned
		}
		if !told {
			s.c.progress("%s is driven by %s; waiting for its lease to end", dep.Name, s.c.ownerWord(&owned.Owner))
			told = true
		}
		pause := time.NewTimer(min(max(owned.Owner.Left, lockEvery), max(deadline.Sub(s.c.app.Now()), 0)))
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return sum, context.Cause(ctx)
		}
	}
}

func laterOf(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// recoverAll drives everything that nobody drives, one after the other, and
// ends with the worst exit code.
func (s *session) recoverAll(ctx context.Context) error {
	open, err := s.store.List(ctx, ledger.Filter{States: unsettled(), Limit: allOfThem})
	if err != nil {
		return fmt.Errorf("list deployments: %w", err)
	}
	if len(open) == 0 {
		return s.nothingToRecover()
	}
	worst := exitOK
	for i := len(open) - 1; i >= 0; i-- { // oldest first
		dep := open[i]
		sum, err := s.recoverOne(ctx, dep, 0)
		var owned *ledger.OwnedError
		if errors.As(err, &owned) {
			s.c.progress("left alone: %s", owned)
			s.c.progress("  watch: backstay status -w %s", dep.Name)
			continue
		}
		if err == nil {
			err = s.end(ctx, sum)
		}
		var done *exitError
		if err != nil && !errors.As(err, &done) {
			return err
		}
		worst = worse(worst, exitCodeOf(err))
	}
	return exit(worst)
}

// worse picks the exit code that a person must know about first: held, then
// what waits, then rolled back.
func worse(a, b int) int {
	rank := map[int]int{exitOK: 0, exitRolledBack: 1, exitWaiting: 2, exitHeld: 3}
	if rank[b] > rank[a] {
		return b
	}
	return a
}

func (c *call) agentCommand() *cobra.Command {
	var parallel int
	cmd := c.command("agent [flags]", "Drive deployments that nobody drives, until SIGTERM",
		"Claims deployments that were detached or whose process died, runs their timers and bakes, and\ngoes on until SIGTERM or Ctrl-C. Several agents on one ledger share the work.",
		cobra.NoArgs, func(ctx context.Context, c *call, _ []string) error { return c.agent(ctx, parallel) })
	cmd.Flags().IntVar(&parallel, "parallel", 50, "how many deployments to drive at once")
	return cmd
}

func (c *call) agent(ctx context.Context, parallel int) error {
	if parallel < 1 {
		return usagef("--parallel %d: want at least 1", parallel)
	}
	for {
		err := c.agentNode(ctx, parallel)
		if !errors.Is(err, ledger.ErrLapsed) {
			return err
		}
		// It slept past its lease and others took over. A node that is declared
		// dead stays dead; this process goes on as a new one.
		c.progress("%s; going on as a new node", err)
	}
}

// agentNode is one life of an agent: as one node of the ledger.
func (c *call) agentNode(ctx context.Context, parallel int) error {
	s, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	e, err := s.here()
	if err != nil {
		return err
	}
	defer s.host(ctx)()
	c.progress("driving what nobody drives in %s; SIGTERM or Ctrl-C ends it", s.state.Redacted())
	err = e.Agent(ctx, engine.AgentOptions{Parallel: parallel, Ended: func(sum engine.Summary, err error) {
		switch {
		case errors.Is(err, engine.ErrStopped):
		case err != nil:
			c.progress("%s", err)
		case c.json:
			_ = c.out.record(agentEvent{c.format(), sum}) // the printer keeps the error
		default:
			c.out.line("%s %s  %s", sum.Name, headline(sum.View), sum.Deployment)
		}
	}})
	if err != nil {
		return err
	}
	c.progress("ended; what is not settled goes on with the next agent or `backstay recover`")
	return nil
}

// agentEvent is one line of agent --json: a deployment that it drove to an end.
type agentEvent struct {
	Format  string         `json:"format"`
	Summary engine.Summary `json:"summary"`
}
