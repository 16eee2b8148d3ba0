// Command backstay makes a deployment a transaction.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"

	"golang.org/x/term"

	"github.com/backstay-dev/backstay/internal/cli"
	"github.com/backstay-dev/backstay/internal/driver/all"
	"github.com/backstay-dev/backstay/internal/proc"
	"github.com/backstay-dev/backstay/internal/sandbox"
)

// version is set by the linker.
var version = "dev"

func main() { os.Exit(run()) }

func run() int {
	// First of all: this very binary is also what makes a sandbox for drills, and
	// the supervisor of commands.
	if failed, err := sandbox.Main(); failed {
		_, _ = io.WriteString(os.Stderr, "backstay: "+err.Error()+"\n")
		return 1
	}
	if code, supervised := proc.SupervisorMain(os.Args); supervised {
		return code
	}
	// Room for several: a signal that finds no room is lost.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	// A reader that goes away (| head) must not kill a deployment. Caught, not
	// ignored: what is ignored, commands would inherit.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	app := cli.App{
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Environ: os.Environ(),
		TTY: cli.Terminals{
			Stdin: isTerminal(os.Stdin), Stdout: isTerminal(os.Stdout), Stderr: isTerminal(os.Stderr),
			Width: func() int {
				width, _, err := term.GetSize(int(os.Stderr.Fd()))
				if err != nil {
					return 0
				}
				return width
			},
		},
		Build:   build(),
		Kinds:   func() (cli.Kinds, error) { return all.New() },
		Signals: signals,
	}
	return app.Main(context.Background(), os.Args[1:])
}

func isTerminal(f io.Writer) bool {
	file, ok := f.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// build says which binary this is, as the toolchain recorded it.
func build() cli.Build {
	b := cli.Build{Version: version, Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				b.Commit = s.Value
			}
		}
	}
	return b
}
