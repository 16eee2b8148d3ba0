package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/proxy"
	"github.com/backstay-dev/backstay/internal/proxy/wire"
)

// proxyFlags are the flags of proxy and of what asks it.
type proxyFlags struct {
	config string
	state  string
	admin  string
	listen []string
	drain  string
	flags  string // an address: serve flags too
}

func (c *call) proxyCommand() *cobra.Command {
	var f proxyFlags
	cmd := c.command("proxy [flags]", "Serve traffic, split by weight between the sides of each route",
		`Runs the data plane until SIGTERM or Ctrl-C, which let requests in flight finish. It is a process
of its own: it serves on when nothing drives it. Routes come from --config and from the admin
socket; they are durable in --state and are there again after a restart. SIGHUP reads the TLS
certificates again.

A start:  backstay proxy --config proxy.yaml
Look:     backstay proxy status · backstay proxy routes --json`,
		cobra.NoArgs, func(ctx context.Context, c *call, _ []string) error { return c.proxy(ctx, f) })
	cmd.Flags().StringVarP(&f.config, "config", "f", "", "the configuration file: listeners, TLS, routes to start with")
	cmd.Flags().StringArrayVar(&f.listen, "listen", nil, "serve HTTP at this address, besides what the file says (repeatable)")
	cmd.Flags().StringVar(&f.drain, "drain", "", "how long requests in flight may take after SIGTERM (default 30s, or what the file says)")
	cmd.Flags().StringVar(&f.flags, "flags", "", "also serve the feature flags of the ledger at $BACKSTAY_STATE, by OFREP, at this loopback address (like flag serve)")
	status := c.command("status [flags]", "Show how a running proxy is", "Asks a running proxy on its admin socket: is it ready, its routes, the share of each side, and what is\nnot ready and why.",
		cobra.NoArgs, func(ctx context.Context, c *call, _ []string) error { return c.proxyStatus(ctx, f, false) })
	routes := c.command("routes [flags]", "Show the routes of a running proxy, read back", "Asks a running proxy on its admin socket for its routes with every side and instance. With --json, the\nwhole durable state of each route, with the digest that a change has to name.",
		cobra.NoArgs, func(ctx context.Context, c *call, _ []string) error { return c.proxyStatus(ctx, f, true) })
	for _, sub := range []*cobra.Command{cmd, status, routes} {
		// --state here is the proxy's: it has no ledger.
		sub.Flags().StringVar(&f.state, "state", "", "directory of the proxy's durable state (default: proxy, in the data directory)")
		sub.Flags().StringVar(&f.admin, "admin", "", "path of the admin socket (default: admin.sock in the state directory)")
	}
	cmd.AddCommand(status, routes)
	return cmd
}

// directory is where the proxy's state is.
func (c *call) proxyDirectory(f proxyFlags) (string, error) {
	if f.state != "" {
		return filepath.Abs(f.state)
	}
	state, err := c.findState()
	if err != nil {
		return "", err
	}
	return filepath.Join(state.DataDir, "proxy"), nil
}

func (c *call) proxy(ctx context.Context, f proxyFlags) error {
	config := &proxy.Config{}
	if f.config != "" {
		var err error
		if config, err = proxy.ReadConfig(f.config); err != nil {
			return err
		}
	}
	for _, address := range f.listen {
		config.Listen = append(config.Listen, proxy.Listen{Address: address})
	}
	if f.drain != "" {
		d, err := backstay.ParseDuration(f.drain)
		if err != nil {
			return usagef("--drain: %w", err)
		}
		config.Drain = d
	}
	dir, err := c.proxyDirectory(f)
	if err != nil {
		return err
	}
	ctx, end := context.WithCancel(ctx)
	defer end()
	reload := make(chan struct{}, 1)
	defer c.onSignal(func(sig os.Signal) {
		if sig == syscall.SIGHUP {
			select {
			case reload <- struct{}{}:
			default: // one is waiting already
			}
			return
		}
		end()
	})()
	level := slog.LevelInfo
	if c.verbose {
		level = slog.LevelDebug
	}
	options := proxy.RunOptions{
		State: dir, Admin: f.admin, Stdout: c.app.Stdout, Reload: reload,
		Log: slog.New(slog.NewTextHandler(c.err, &slog.HandlerOptions{Level: level})),
		Serving: func(addresses []string) {
			if c.json {
				_ = c.out.record(proxyEvent{c.format(), addresses, dir}) // the printer keeps the error
				return
			}
			c.progress("serving at %s; state in %s; SIGTERM or Ctrl-C drains", strings.Join(addresses, ", "), dir)
		},
	}
	if err := c.proxyWithFlags(ctx, f, end, func() error { return proxy.Run(ctx, config, options) }); err != nil {
		return err
	}
	c.progress("ended; no request was cut")
	return nil
}

// proxyWithFlags runs the proxy and, where an address was given, the flag server
// beside it in the same process. If one fails, both end.
func (c *call) proxyWithFlags(ctx context.Context, f proxyFlags, end func(), run func() error) error {
	if f.flags == "" {
		return run()
	}
	server, err := c.flagServer(serveFlags{listen: []string{f.flags}})
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	go func() {
		defer end()
		failed <- server.Run(ctx)
	}()
	err = run()
	end()
	return errors.Join(err, <-failed)
}

// proxyEvent is the line of proxy --json when it serves.
type proxyEvent struct {
	Format    string   `json:"format"`
	Addresses []string `json:"addresses"`
	State     string   `json:"state"`
}

// proxyDocument is the result of proxy status and proxy routes.
type proxyDocument struct {
	Format string       `json:"format"`
	Proxy  *wire.Status `json:"proxy"`
}

func (c *call) proxyStatus(ctx context.Context, f proxyFlags, all bool) error {
	socket := f.admin
	if socket == "" {
		dir, err := c.proxyDirectory(f)
		if err != nil {
			return err
		}
		socket = filepath.Join(dir, "admin.sock")
	}
	client := wire.NewClient(socket)
	defer client.Close()
	status, err := client.Status(ctx)
	if err != nil {
		return err
	}
	if c.json {
		return c.out.document(proxyDocument{c.format(), status})
	}
	if !all {
		word := "ready"
		if status.Draining {
			word = "draining"
		}
		c.out.line("%s at %s; %s, revision %d", word, strings.Join(status.Listen, ", "), count(len(status.Routes), "route"), status.Revision)
	}
	if len(status.Routes) == 0 {
		c.out.line("there are no routes; give them in --config, or deploy a service with a route")
		return nil
	}
	c.proxyTable(status, all)
	return nil
}

func (c *call) proxyTable(status *wire.Status, all bool) {
	head := []string{"ROUTE", "SIDE", "WEIGHT", "SHARE", "READY", "ACTIVE", "NOTE"}
	if all {
		head = []string{"ROUTE", "SIDE", "WEIGHT", "SHARE", "INSTANCE", "ACTIVE", "NOTE"}
	}
	var rows [][]string
	for _, r := range status.Routes {
		for _, s := range r.Sides {
			if !all {
				ready, note := readyOf(s)
				rows = append(rows, []string{r.Route.Name, s.Name, percent(s.Weight), percent(s.Share), ready, strconv.FormatInt(s.Active, 10), note})
				continue
			}
			for _, in := range s.Instances {
				rows = append(rows, []string{r.Route.Name, s.Name, percent(s.Weight), percent(s.Share), in.URL, strconv.FormatInt(in.Active, 10), in.Why})
			}
		}
		for _, d := range r.Draining {
			rows = append(rows, []string{r.Route.Name, d.Side, "-", "-", d.URL, strconv.FormatInt(d.Active, 10), "draining"})
		}
		if r.Unplaced > 0 {
			rows = append(rows, []string{r.Route.Name, "-", "-", percent(r.Unplaced), "-", "-", "no side is ready for this share; it gets the fallback"})
		}
	}
	c.out.table(head, rows)
}

// readyOf says how many instances are ready, and why the first other one is not.
func readyOf(s wire.SideStatus) (ready, note string) {
	n := 0
	for _, in := range s.Instances {
		switch {
		case in.Ready:
			n++
		case note == "":
			note = in.URL + ": " + in.Why
		}
	}
	return fmt.Sprintf("%d/%d", n, len(s.Instances)), note
}

func percent(n int) string { return strconv.Itoa(n) + "%" }
