package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/ledger"
)

func (c *call) historyCommand() *cobra.Command {
	var release, sinceWhen string
	var limit int
	cmd := c.command("history [flags]", "List deployments, newest first",
		"Lists deployments with how they ended and which one is in effect.",
		cobra.NoArgs, func(ctx context.Context, c *call, _ []string) error { return c.history(ctx, release, sinceWhen, limit) })
	cmd.Flags().StringVar(&release, "release", "", "only this release")
	cmd.Flags().StringVar(&sinceWhen, "since", "", "only since: 2h, 14d, 2026-11-21 or 2026-11-21T10:00:00Z")
	cmd.Flags().IntVar(&limit, "limit", 20, "at most this many")
	return cmd
}

func (c *call) history(ctx context.Context, release, sinceWhen string, limit int) error {
	if limit < 1 {
		return usagef("--limit %d: want at least 1", limit)
	}
	since, err := c.moment("--since", sinceWhen)
	if err != nil {
		return err
	}
	s, err := c.openExisting(ctx)
	if err != nil {
		return c.nothingYet(err, true)
	}
	defer s.close()
	list, err := s.store.List(ctx, ledger.Filter{Release: release, Since: since, Limit: limit})
	if err != nil {
		return fmt.Errorf("list deployments: %w", err)
	}
	if c.json {
		if list == nil {
			list = []ledger.Deployment{}
		}
		return c.out.document(listDocument{c.format(), list})
	}
	if len(list) == 0 {
		c.out.line("no deployments")
		return nil
	}
	rows := make([][]string, 0, len(list))
	for _, d := range list {
		note := ""
		if d.Reverts != "" {
			name, err := s.nameOf(ctx, d.Reverts)
			if err != nil {
				return err
			}
			note = "takes back " + name
		}
		if d.RevertedBy != "" {
			name, err := s.nameOf(ctx, d.RevertedBy)
			if err != nil {
				return err
			}
			note = "taken back by " + name
		}
		rows = append(rows, []string{
			d.Name, orWord(d.Version, "-"), orWord(d.Environment, "-"), stateWord(d.State), d.CreatedAt.Local().Format(time.DateTime),
			d.Author.String(), fmt.Sprintf("%d", d.State.ExitCode()), note,
		})
	}
	c.out.table([]string{"DEPLOYMENT", "VERSION", "ENVIRONMENT", "STATE", "STARTED", "BY", "EXIT", ""}, rows)
	return nil
}

// moment reads a point in time: an age, a day or an RFC 3339 time; "" is none.
func (c *call) moment(flag, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if d, err := backstay.ParseDuration(text); err == nil {
		return c.app.Now().Add(-d.Std()), nil
	}
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t, nil
	}
	for _, layout := range []string{time.DateOnly, time.DateTime, "2006-01-02 15:04", "2006-01-02T15:04"} {
		if t, err := time.ParseInLocation(layout, text, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, usagef("%s %s: want an age (2h, 14d), a day (2026-11-21) or a time (2026-11-21T10:00:00Z)", flag, text)
}
