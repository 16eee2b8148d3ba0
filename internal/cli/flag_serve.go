package cli

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/config"
	"github.com/backstay-dev/backstay/internal/flag"
)

// serveFlags are the flags of flag serve.
type serveFlags struct {
	listen  []string
	copy    string
	tokens  []string
	origins []string
	open    bool
}

func (c *call) flagServeCommand() *cobra.Command {
	var f serveFlags
	cmd := c.command("serve [flags]", "Serve the flags to programs by OFREP, until SIGTERM",
		`Serves every flag by the OpenFeature Remote Evaluation Protocol, so that any OpenFeature SDK reads it: single
flags, all flags with an ETag, and a stream of changes. It is a process of its own: it follows the ledger, keeps a
durable copy, and serves on from it when the ledger is gone, also after a restart.

Look:   curl -d '{"context": {"targetingKey": "ann"}}' http://127.0.0.1:8016/ofrep/v1/evaluate/flags/KEY`,
		cobra.NoArgs, func(ctx context.Context, c *call, _ []string) error { return c.flagServe(ctx, f) })
	cmd.Flags().StringArrayVar(&f.listen, "listen", []string{"127.0.0.1:8016"}, "serve at this address (repeatable)")
	cmd.Flags().StringVar(&f.copy, "copy", "", "directory of the durable copy (default: flags, in the data directory)")
	cmd.Flags().StringArrayVar(&f.tokens, "token", nil, "a reference to a token that clients must bring: secret:env/NAME, secret:file/PATH (repeatable)")
	cmd.Flags().StringArrayVar(&f.origins, "origin", nil, "a web origin whose pages may read: https://shop.example (repeatable)")
	cmd.Flags().BoolVar(&f.open, "without-token", false, "serve other hosts although no token is wanted")
	return cmd
}

func (c *call) flagServe(ctx context.Context, f serveFlags) error {
	server, err := c.flagServer(f)
	if err != nil {
		return err
	}
	ctx, end := context.WithCancel(ctx)
	defer end()
	defer c.onSignal(func(os.Signal) { end() })()
	return server.Run(ctx)
}

// flagServer makes the server that the flags ask for.
func (c *call) flagServer(f serveFlags) (flag.Server, error) {
	var server flag.Server
	st, err := c.findState()
	if err != nil {
		return server, err
	}
	tokens, err := c.tokens(f.tokens)
	if err != nil {
		return server, err
	}
	for _, address := range f.listen {
		if len(tokens) == 0 && !f.open && !isLoopback(address) {
			return server, &backstay.RefusedError{
				What: "flag", Err: &net.AddrError{Err: "other hosts can reach it, and no token is wanted", Addr: address},
				Hint: "give --token secret:file/PATH, or say --without-token where something else keeps strangers out",
			}
		}
	}
	if f.copy == "" {
		f.copy = filepath.Join(st.DataDir, "flags")
	}
	if f.copy, err = filepath.Abs(f.copy); err != nil {
		return server, err
	}
	level := slog.LevelInfo
	if c.verbose {
		level = slog.LevelDebug
	}
	server = flag.Server{
		Listen: f.listen, Dir: f.copy, Options: flag.Options{Tokens: tokens, Origins: f.origins},
		Log: slog.New(slog.NewTextHandler(c.err, &slog.HandlerOptions{Level: level})),
		Open: func(ctx context.Context) (flag.Source, error) {
			s, err := c.openState(ctx, st)
			if err != nil {
				return nil, err
			}
			return s.store, nil
		},
		Serving: func(addresses []string, flags int) {
			if c.json {
				_ = c.out.record(servingEvent{c.format(), addresses, flags, f.copy}) // the printer keeps the error
				return
			}
			c.progress("serving %s at %s; copy in %s; SIGTERM or Ctrl-C ends", count(flags, "flag"), strings.Join(addresses, ", "), f.copy)
		},
	}
	return server, nil
}

// servingEvent is the line of flag serve --json when it serves.
type servingEvent struct {
	Format    string   `json:"format"`
	Addresses []string `json:"addresses"`
	Flags     int      `json:"flags"`
	Copy      string   `json:"copy"`
}

// tokens resolves references; values are kept in memory only.
func (c *call) tokens(refs []string) ([]string, error) {
	dir, err := workingDir()
	if err != nil {
		return nil, err
	}
	secrets, err := config.NewSecrets(dir, c.app.getenv)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, ref := range refs {
		value, err := secrets.Resolve(ref)
		if err != nil {
			return nil, err
		}
		out = append(out, value)
	}
	return out, nil
}

func isLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return true // listening says what is wrong with it
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
