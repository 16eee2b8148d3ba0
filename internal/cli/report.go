package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/report"
)

func (c *call) reportCommand() *cobra.Command {
	var format, out string
	cmd := c.command("report [REF] [flags]", "Tell what a deployment did: timeline, cause, times, residue",
		"Tells the story of one deployment from the ledger alone: what changed, what failed and why, the\ntime to detect and to undo, approvals, residue. Without REF: the newest one.",
		cobra.MaximumNArgs(1), func(ctx context.Context, c *call, args []string) error { return c.report(ctx, args, format, out) })
	cmd.Flags().StringVar(&format, "format", "text", "text, json, markdown or html")
	cmd.Flags().StringVarP(&out, "output", "o", "", "write it to this new file instead of stdout")
	return cmd
}

// reportFormats are the words of --format.
func reportFormats() []string { return []string{"text", "json", "markdown", "html"} }

func (c *call) report(ctx context.Context, args []string, format, out string) error {
	if !slices.Contains(reportFormats(), format) {
		return usagef("--format %s: want one of %s", format, strings.Join(reportFormats(), ", "))
	}
	if c.json {
		format = "json"
	}
	s, err := c.openExisting(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	dep, err := s.newest(ctx, args)
	if err != nil {
		return err
	}
	story, err := report.Timeline(ctx, s.store, dep.ID)
	if err != nil {
		return err
	}
	write := map[string]func(io.Writer) error{
		"text": story.WriteText, "json": story.WriteJSON, "markdown": story.WriteMarkdown, "html": story.WriteHTML,
	}[format]
	if err := c.toFile(out, write); err != nil {
		return err
	}
	if out != "" {
		c.progress("wrote %s", out)
	}
	return nil
}

// newest resolves args[0], or takes the newest deployment.
func (s *session) newest(ctx context.Context, args []string) (ledger.Deployment, error) {
	if len(args) > 0 {
		return s.find(ctx, args[0])
	}
	list, err := s.store.List(ctx, ledger.Filter{Limit: 1})
	if err == nil && len(list) == 0 {
		err = fmt.Errorf("newest deployment: %w", ledger.ErrNotFound)
	}
	if err != nil {
		return ledger.Deployment{}, err
	}
	return list[0], nil
}
