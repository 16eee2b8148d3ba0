package cli

import (
	"context"

	"github.com/spf13/cobra"
)

func (c *call) versionCommand() *cobra.Command {
	return c.command("version", "Print which binary this is", "Prints version, commit, Go version and platform.",
		cobra.NoArgs, func(_ context.Context, c *call, _ []string) error {
			b := c.app.Build
			if c.json {
				return c.out.document(struct {
					Format string `json:"format"`
					Build
				}{c.format(), b})
			}
			commit := ""
			if b.Commit != "" {
				commit = " (" + b.Commit + ")"
			}
			c.out.line("backstay %s%s %s %s/%s", b.Version, commit, b.Go, b.OS, b.Arch)
			return nil
		})
}
