package cli

import (
	"context"

	"github.com/spf13/cobra"
)

func (c *call) signalCommand() *cobra.Command {
	var fail, resolved bool
	var reason, source string
	cmd := c.command("signal [REF] [flags]", "Report from outside that a deployment is bad",
		`Says to a deployment what was noticed outside of it: --fail turns one around that goes forward, and
rolls one back that bakes, as a gate that failed does; --resolved says that it is over, and changes
nothing. Either is kept in the ledger as evidence, with who reported it, as the kernel says.

Monitors report by webhook: backstay signal serve.

`+guestHelp,
		cobra.MaximumNArgs(1), func(ctx context.Context, c *call, args []string) error {
			switch {
			case fail == resolved:
				return usagef("give one of --fail and --resolved")
			case fail && cleanLine(reason) == "":
				return usagef("--fail wants --reason: the ledger keeps why")
			}
			name := "resolved"
			if fail {
				name = "fail"
			}
			st := steerings()[name]
			st.reason, st.source = reason, source
			return c.steer(ctx, args, st)
		})
	cmd.Flags().BoolVar(&fail, "fail", false, "the release is bad: turn it around")
	cmd.Flags().BoolVar(&resolved, "resolved", false, "what was reported is over: kept, and changes nothing")
	cmd.Flags().StringVar(&reason, "reason", "", "what was noticed, for the ledger")
	cmd.Flags().StringVar(&source, "source", "", "who noticed it: a monitor, a team, a ticket")
	cmd.AddCommand(c.signalServeCommand())
	return cmd
}
