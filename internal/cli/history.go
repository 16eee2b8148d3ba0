package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/report"
)

func (c *call) historyCommand() *cobra.Command {
	var release, sinceWhen string
	var limit int
	var stats bool
	var format string
	cmd := c.command("history [flags]", "List deployments, newest first; --stats: rates and times",
		"Lists deployments with how they ended and which one is in effect. --stats reads the whole ledger\nonce and tells rates and times of all of them: docs/guide/reports.md defines each figure.",
		cobra.NoArgs, func(ctx context.Context, c *call, _ []string) error {
			if stats {
				return c.historyStats(ctx, release, sinceWhen, format)
			}
			return c.history(ctx, release, sinceWhen, limit)
		})
	cmd.Flags().BoolVar(&stats, "stats", false, "tell rates and times instead of the list")
	cmd.Flags().StringVar(&format, "format", "text", "of --stats: text, json, markdown or html")
	cmd.Flags().StringVar(&release, "release", "", "only this release")
	cmd.Flags().StringVar(&sinceWhen, "since", "", "only since: 2h, 14d, 2026-11-21 or 2026-11-21T10:00:00Z")
	cmd.Flags().IntVar(&limit, "limit", 20, "at most this many")
	cmd.MarkFlagsMutuallyExclusive("stats", "limit")
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
		return c.out.document(listDocument{Format: c.format(), Deployments: list})
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

// historyStats tells the rates and times of all deployments.
func (c *call) historyStats(ctx context.Context, release, sinceWhen, format string) error {
	if !slices.Contains(reportFormats(), format) {
		return usagef("--format %s: want one of %s", format, strings.Join(reportFormats(), ", "))
	}
	if c.json {
		format = "json"
	}
	since, err := c.moment("--since", sinceWhen)
	if err != nil {
		return err
	}
	stats, err := c.statistics(ctx, report.StatsFilter{Release: release, Since: since})
	if err != nil {
		return err
	}
	return map[string]func(io.Writer) error{
		"text": stats.WriteText, "json": stats.WriteJSON, "markdown": stats.WriteMarkdown, "html": stats.WriteHTML,
	}[format](c.out)
}

// statistics are those of an empty ledger where nothing was deployed yet.
func (c *call) statistics(ctx context.Context, f report.StatsFilter) (*report.Stats, error) {
	s, err := c.openExisting(ctx)
	if errors.Is(err, ledger.ErrNotFound) {
		return report.NoStats(f), nil
	}
	if err != nil {
		return nil, err
	}
	defer s.close()
	return report.HistoryStats(ctx, s.store, f)
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
