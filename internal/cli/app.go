// Package cli is the command line: verbs, flags, exit codes and what people
// see on a terminal. It owns the call (one verb being run), the session (state,
// ledger and engine opened for it), the watch (progress as it happens) and the
// ending (what every foreground verb closes with).
//
// Promises. stdout is the result and stderr the progress. Every verb has
// --json with a versioned document "backstay.<verb>/v1". Exit codes are those of
// one table (ExitCodes). Nothing asks a question without a terminal. Everything
// that users, scripts or targets control is cleaned of control characters
// before it reaches a terminal. What blocks names holder, age and the safe next
// command. The first Ctrl-C rolls back in order; the second stops at once with
// a consistent ledger.
//
// It decides nothing about deployments: engine and ledger do. It never ends the
// process; Main returns the exit code.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/engine"
	"github.com/backstay-dev/backstay/internal/spec"
)

// Kinds is what the command line needs of the step kinds; *driver.Registry fits.
type Kinds interface {
	spec.Kinds
	engine.Actions
}

// Build says which binary this is.
type Build struct {
	Version string `json:"version"`
	Commit  string `json:"commit,omitempty"`
	Go      string `json:"go"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
}

// Terminals says which of the standard streams are terminals.
type Terminals struct {
	Stdin, Stdout, Stderr bool
	// Width of stderr's terminal in columns; nil: 80.
	Width func() int
}

// App is the world of one invocation. All fields but Now and Dir are required.
type App struct {
	Stdin   io.Reader
	Stdout  io.Writer
	Stderr  io.Writer
	Environ []string // NAME=VALUE
	TTY     Terminals
	Build   Build
	// Kinds makes the step kinds, on first need.
	Kinds func() (Kinds, error)
	// Signals brings SIGINT, SIGTERM and SIGHUP.
	Signals <-chan os.Signal
	// Now is the wall clock, for what people read; nil: time.Now.
	Now func() time.Time
}

// Main runs one command line and returns its exit code.
func (a App) Main(ctx context.Context, args []string) int {
	if a.Now == nil {
		a.Now = time.Now
	}
	c := newCall(&a)
	root := c.root()
	root.SetArgs(args)
	root.SetIn(a.Stdin)
	root.SetOut(a.Stdout)
	root.SetErr(a.Stderr)
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	var listening sync.WaitGroup
	listening.Go(func() { c.listen(cancel, done) })
	err := root.ExecuteContext(ctx)
	close(done)
	listening.Wait()
	cancel(nil)
	if err != nil && !c.started {
		c.json = c.json || asksForJSON(args)
		err = &usageError{err}
	}
	return c.finish(err)
}

// asksForJSON finds --json where flags could not be parsed.
func asksForJSON(args []string) bool {
	for _, arg := range args {
		switch arg {
		case "--":
			return false
		case "--json":
			return true
		}
	}
	return false
}

// getenv reads the invocation's environment.
func (a *App) getenv(name string) (string, bool) {
	for i := len(a.Environ) - 1; i >= 0; i-- {
		if k, v, ok := strings.Cut(a.Environ[i], "="); ok && k == name {
			return v, true
		}
	}
	return "", false
}

// call is one verb being run: its global flags and printers.
type call struct {
	app     *App
	verb    string // "deploy", "audit verify"
	started bool   // flags and arguments were good
	json    bool
	state   string
	dataDir string
	lease   time.Duration
	verbose bool
	events  bool     // the verb prints events, whatever its name says
	out     *printer // the result
	err     *printer // the progress
	live    bool     // a live view fits stderr

	receiver atomic.Pointer[func(os.Signal)] // of signals; nil: they end the context
}

func newCall(a *App) *call {
	_, noColor := a.getenv("NO_COLOR")
	if v, _ := a.getenv("NO_COLOR"); v == "" {
		noColor = false // https://no-color.org: present and not empty
	}
	termName, _ := a.getenv("TERM")
	dumb := termName == "" || termName == "dumb"
	return &call{
		app:  a,
		out:  newPrinter(a.Stdout, a.TTY.Stdout && !noColor && !dumb),
		err:  newPrinter(a.Stderr, a.TTY.Stderr && !noColor && !dumb),
		live: a.TTY.Stderr && !dumb,
	}
}

// format names the version of the verb's JSON document.
func (c *call) format() string {
	return "backstay." + strings.ReplaceAll(c.verb, " ", "-") + "/v1"
}

// finish reports how the call ended and returns the exit code.
func (c *call) finish(err error) int {
	code := exitCodeOf(err)
	var done *exitError
	if err != nil && !errors.As(err, &done) {
		c.fail(err, code)
	}
	// A result that was not written is not a success; a closed pipe (head) is
	// the reader's choice and not reported.
	if werr := c.out.err(); werr != nil && code == 0 {
		code = exitFailed
		if !isClosedPipe(werr) {
			c.err.line("backstay: write the result: %s", werr)
		}
	}
	return code
}

// runner is the body of a verb.
type runner func(ctx context.Context, c *call, args []string) error

// command makes a cobra command whose body runs as this call.
func (c *call) command(use, short, long string, args cobra.PositionalArgs, run runner) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Long: long, Args: explained(args), DisableFlagsInUseLine: true}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c.started = true
		c.verb = strings.TrimPrefix(cmd.CommandPath(), "backstay ")
		return run(cmd.Context(), c, args)
	}
	return cmd
}

// explained says of arguments that do not fit what the verb wants instead.
func explained(args cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, given []string) error {
		if args(cmd, given) == nil {
			return nil
		}
		e := &backstay.Error{Op: strings.TrimPrefix(cmd.CommandPath(), "backstay "), Hint: "usage: " + cmd.CommandPath() + strings.TrimPrefix(cmd.Use, cmd.Name())}
		switch {
		case len(given) == 0:
			e.Err = errors.New("something is missing after it")
		case args(cmd, nil) == nil && args(cmd, given[:1]) != nil:
			e.Err = fmt.Errorf("it takes no argument, and was given %q", given[0])
			if cmd.Flags().Lookup("file") != nil {
				e.Hint = fmt.Sprintf("name the file with -f: %s -f %s", cmd.CommandPath(), quoted(given[0]))
			}
		default:
			e.Err = fmt.Errorf("%d arguments do not fit", len(given))
		}
		return e
	}
}

// unknownVerb says of a verb that there is none, and which one may be meant.
func unknownVerb(root *cobra.Command, given []string) error {
	if len(given) == 0 {
		return nil
	}
	e := &backstay.Error{Err: fmt.Errorf("unknown command %q", given[0]), Hint: "list the verbs with `backstay --help`"}
	if near := root.SuggestionsFor(given[0]); len(near) > 0 {
		e.Hint = "did you mean `backstay " + strings.Join(near, "` or `backstay ") + "`?"
	}
	return e
}

// group makes a command that only holds others.
func (c *call) group(use, short, long string, children ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, Long: long, Args: cobra.NoArgs, DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			names := make([]string, 0, len(children))
			for _, child := range children {
				names = append(names, child.Name())
			}
			return fmt.Errorf("%s needs one of: %s", cmd.CommandPath(), strings.Join(names, ", "))
		},
	}
	cmd.AddCommand(children...)
	return cmd
}

func (c *call) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "backstay",
		Short: "Makes a deployment a transaction",
		Long: `Backstay makes a deployment a transaction: everything a release changes either
lands together or is put back exactly as it was, and Backstay can prove which.

Start:      backstay wrap --touch PATH -- ./deploy.sh     an existing script, as it is
            backstay init && backstay plan && backstay deploy
After:      backstay status · backstay rollback · backstay recover --all

Exit codes: ` + exitCodeLine(),
		SilenceErrors: true, SilenceUsage: true, DisableFlagsInUseLine: true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: false},
		Args:              unknownVerb,
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },

		SuggestionsMinimumDistance: 2,
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return err })
	flags := root.PersistentFlags()
	flags.BoolVar(&c.json, "json", false, "print the result as a versioned JSON document")
	flags.StringVar(&c.state, "state", "", "where the ledger is: a directory, or postgres://… (default $BACKSTAY_STATE, else a directory of yours)")
	flags.StringVar(&c.dataDir, "data-dir", "", "where this host keeps releases, logs, the control socket and, of a ledger on a server, its audit key (default $BACKSTAY_DATA_DIR, else beside the ledger)")
	flags.DurationVar(&c.lease, "lease", 0, "how long this process counts as alive without a sign of life; others take over after it (default 15s)")
	flags.BoolVarP(&c.verbose, "verbose", "v", false, "show commands' output and diagnostics on stderr")
	root.AddGroup(
		&cobra.Group{ID: "write", Title: "Prepare:"},
		&cobra.Group{ID: "run", Title: "Deploy:"},
		&cobra.Group{ID: "steer", Title: "Steer:"},
		&cobra.Group{ID: "back", Title: "Take back and repair:"},
		&cobra.Group{ID: "read", Title: "Look and prove:"},
	)
	add := func(group string, cmds ...*cobra.Command) {
		for _, cmd := range cmds {
			cmd.GroupID = group
			root.AddCommand(cmd)
		}
	}
	add("write", c.initCommand(), c.lintCommand(), c.planCommand(), c.drillCommand(), c.migrateCommand(), c.configCommand(), c.docsCommand())
	add("run", c.deployCommand(), c.wrapCommand(), c.agentCommand(), c.proxyCommand(), c.flagCommand(), c.demoCommand())
	add("steer", c.approveCommand(), c.promoteCommand(), c.pauseCommand(), c.resumeCommand(), c.signalCommand())
	add("back", c.rollbackCommand(), c.mitigateCommand(), c.recoverCommand(), c.driftCommand(), c.lockCommand())
	add("read", c.statusCommand(), c.historyCommand(), c.reportCommand(), c.runbookCommand(), c.auditCommand(), c.explainCommand())
	root.AddCommand(c.versionCommand())
	return root
}
