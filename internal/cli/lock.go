package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/ledger"
)

func (c *call) lockCommand() *cobra.Command {
	list := func(ctx context.Context, c *call, _ []string) error { return c.locks(ctx) }
	cmd := c.command("lock", "Show which deployment holds which resource", "Lists the locks: resource, holder, its state, age, who drives it.\nA deployment holds its locks until it is proven, rolled back or closed.", cobra.NoArgs, list)
	var reason string
	breaking := c.command("break KEY [flags]", "Take a lock away from a deployment",
		"Removes one lock. The next deployment on that resource may then find it half changed: settle the\nholder with `backstay recover` or `backstay rollback` instead, where that is possible. It is\nrecorded with the reason.",
		cobra.ExactArgs(1), func(ctx context.Context, c *call, args []string) error { return c.breakLock(ctx, args[0], reason) })
	breaking.Flags().StringVar(&reason, "reason", "", "why, for the ledger (required)")
	cmd.AddCommand(c.command("list", "Show which deployment holds which resource", "The same as `backstay lock`.", cobra.NoArgs, list), breaking)
	return cmd
}

// lockDocument is the result of lock.
type lockDocument struct {
	Format string        `json:"format"`
	Locks  []ledger.Lock `json:"locks"`
}

func (c *call) locks(ctx context.Context) error {
	s, err := c.openExisting(ctx)
	if err != nil {
		return c.nothingYet(err, true)
	}
	defer s.close()
	locks, err := s.store.Locks(ctx)
	if err != nil {
		return fmt.Errorf("read the locks: %w", err)
	}
	if c.json {
		if locks == nil {
			locks = []ledger.Lock{}
		}
		return c.out.document(lockDocument{c.format(), locks})
	}
	if len(locks) == 0 {
		c.out.line("no locks are held")
		return nil
	}
	rows := make([][]string, 0, len(locks))
	for _, l := range locks {
		rows = append(rows, []string{string(l.Key), l.Name, stateWord(l.State), c.age(l.Since), c.ownerWord(l.Owner)})
	}
	c.out.table([]string{"RESOURCE", "HELD BY", "STATE", "FOR", "DRIVEN BY"}, rows)
	return nil
}

// brokenDocument is the result of lock break.
type brokenDocument struct {
	Format string       `json:"format"`
	Lock   ledger.Lock  `json:"lock"`
	Ledger headDocument `json:"ledger"`
}

func (c *call) breakLock(ctx context.Context, key, reason string) error {
	if strings.TrimSpace(reason) == "" {
		return usagef("lock break needs --reason WHY")
	}
	s, err := c.openExisting(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	l, err := s.store.BreakLock(ctx, backstay.Key(key), s.actor, reason)
	var owned *ledger.OwnedError
	if errors.As(err, &owned) {
		return &backstay.RefusedError{
			What: "lock", Err: err, Hint: fmt.Sprintf("a lock under a live deployment is not broken; end it with `backstay rollback %s`", owned.Deployment),
		}
	}
	if errors.Is(err, ledger.ErrNotFound) {
		return &backstay.Error{Class: backstay.NotFound, Op: "break lock", Subject: key, Err: errors.New("nobody holds it"), Hint: "list the locks with `backstay lock`"}
	}
	if err != nil {
		return err
	}
	head, err := s.store.Head(ctx)
	if err != nil {
		return fmt.Errorf("read the ledger's head: %w", err)
	}
	if c.json {
		return c.out.document(brokenDocument{c.format(), l, headOf(head)})
	}
	c.out.line("%s is free now; it was held by %s (%s), which is still to be settled: backstay status %s", l.Key, l.Name, stateWord(l.State), l.Name)
	return nil
}
