package cli

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/demo"
	"github.com/backstay-dev/backstay/internal/report"
)

//go:embed demo/backstay.yaml
var demoSpec []byte

//go:embed demo/proxy.yaml
var demoProxy []byte

func (c *call) demoCommand() *cobra.Command {
	var d demonstration
	cmd := c.command("demo [flags]", "Show it: a good release and two bad ones, under load, in two minutes",
		`Starts a small shop behind backstay proxy, lets users ask it all the time, and releases three
versions as canaries: a good one, one that fails 1 % of its requests, and one that is slower. Each
is promoted or rolled back on evidence alone. It shows how soon it was noticed, how soon users were
back, and that moving traffic failed no request. Nothing has to be installed, everything is on
loopback and in one directory. Exit code 0: it all went as it should.

Its margins are wide, so that a verdict fits into seconds of little traffic: the page says which.`,
		cobra.NoArgs, func(ctx context.Context, c *call, _ []string) error { return d.run(ctx, c) })
	cmd.Flags().StringVar(&d.dir, "dir", "", "where to put everything: a new or empty directory (default: a new temporary one)")
	cmd.Flags().IntVar(&d.rate, "rate", 500, "requests per second of all users together")
	cmd.Flags().BoolVar(&d.keep, "keep", false, "leave shop and proxy running, to look around")
	cmd.AddCommand(c.shopCommand())
	return cmd
}

// shopCommand is the shop itself; the demo's service starts it.
func (c *call) shopCommand() *cobra.Command {
	var shop demo.Shop
	var listen string
	cmd := c.command("shop [flags]", "Serve one version of the demo's shop", "The service of the demo starts this.",
		cobra.NoArgs, func(ctx context.Context, _ *call, _ []string) error { return shop.Serve(ctx, listen) })
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:0", "the address to serve at")
	cmd.Flags().StringVar(&shop.Version, "version", "dev", "what it says it is")
	cmd.Flags().Float64Var(&shop.Failing, "failing", 0, "percent of answers that are status 500")
	cmd.Flags().Float64Var(&shop.Slower, "slower", 0, "percent by which answers take longer")
	cmd.Hidden = true
	return cmd
}

// demonstration is one run of the demo.
type demonstration struct {
	dir  string
	rate int
	keep bool

	c       *call
	program string
	shop    string // URL of the route
	proxy   *exec.Cmd
	users   *demo.Users
}

// demoAct is one release of the demo and what came of it.
type demoAct struct {
	Version string  `json:"version"`
	What    string  `json:"what"`
	Failing float64 `json:"failing_percent"`
	Slower  float64 `json:"slower_percent"`
	Want    int     `json:"want_exit_code"`

	ExitCode int                `json:"exit_code"`
	Took     backstay.Duration  `json:"took"`
	Verdict  string             `json:"verdict,omitempty"`
	Answered int                `json:"answered"` // requests that this version answered
	Bad      int                `json:"bad"`      // of them with status 500
	Failed   int                `json:"failed"`   // requests without a whole answer: a fault of moving traffic
	Detect   *backstay.Duration `json:"detect,omitempty"`
	Contain  *backstay.Duration `json:"contain,omitempty"`
	Undo     *backstay.Duration `json:"undo,omitempty"`
	Page     string             `json:"page,omitempty"`
}

func demoActs() []demoAct {
	return []demoAct{
		{Version: "v1", What: "the first release"},
		{Version: "v2", What: "a good one"},
		{Version: "v3", What: "fails 1 % of its requests", Failing: 1, Want: exitRolledBack},
		{Version: "v4", What: "answers 60 % slower", Slower: 60, Want: exitRolledBack},
	}
}

func (d *demonstration) run(ctx context.Context, c *call) (err error) {
	d.c = c
	if d.rate < 50 || d.rate > 5000 {
		return usagef("--rate %d: want 50 to 5000 requests a second", d.rate)
	}
	if err := d.prepare(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.end()) }()
	if err := d.startProxy(ctx); err != nil {
		return err
	}
	c.progress("a shop at %s, with %d requests a second; everything is in %s", d.shop, d.rate, d.dir)
	acts := demoActs()
	good := true
	for i := range demoActs() {
		if err := d.play(ctx, &acts[i]); err != nil {
			return err
		}
		good = acts[i].ExitCode == acts[i].Want && acts[i].Failed == 0
		if !good {
			acts = acts[:i+1] // what comes after it would show nothing
			break
		}
		if i == 0 {
			d.users = demo.Come(ctx, d.shop+"/", d.rate)
			if err := pause(ctx, 3*time.Second); err != nil { // a baseline is what users had before
				return err
			}
		}
	}
	if err := d.tell(acts, good); err != nil || good {
		return err
	}
	return exit(exitFailed)
}

// prepare makes the directory and writes the files.
func (d *demonstration) prepare() (err error) {
	if d.program, err = os.Executable(); err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	if d.dir == "" {
		if d.dir, err = os.MkdirTemp("", "backstay-demo-"); err != nil {
			return fmt.Errorf("make a directory for the demo: %w", err)
		}
	} else if err := os.MkdirAll(d.dir, 0o755); err != nil {
		return fmt.Errorf("make a directory for the demo: %w", err)
	}
	if d.dir, err = filepath.Abs(d.dir); err != nil {
		return err
	}
	if there, err := os.ReadDir(d.dir); err != nil || len(there) > 0 {
		return errors.Join(err, usagef("--dir %s: want a new or an empty directory", d.dir))
	}
	for name, data := range map[string][]byte{"backstay.yaml": demoSpec, "proxy.yaml": demoProxy} {
		if err := os.WriteFile(filepath.Join(d.dir, name), data, 0o644); err != nil {
			return fmt.Errorf("write the demo's files: %w", err)
		}
	}
	return os.Mkdir(filepath.Join(d.dir, "proxy"), 0o700)
}

// self is a command line of this program, in the demo's directory.
func (d *demonstration) self(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, d.program, args...)
	cmd.Dir = d.dir
	cmd.Env = append(d.c.app.Environ, "BACKSTAY_STATE="+filepath.Join(d.dir, "state"), "BACKSTAY_DATA_DIR=")
	// The end of ctx is a Ctrl-C, which is an orderly rollback, and never cuts it off.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
	cmd.WaitDelay = time.Minute
	return cmd
}

// startProxy starts the proxy, out of reach of a Ctrl-C, and waits until it answers.
func (d *demonstration) startProxy(ctx context.Context) error {
	port, err := freePort()
	if err != nil {
		return fmt.Errorf("find a free port: %w", err)
	}
	address := "127.0.0.1:" + strconv.Itoa(port)
	d.shop = "http://" + address
	log, err := os.Create(filepath.Join(d.dir, "proxy.log"))
	if err != nil {
		return fmt.Errorf("start the proxy: %w", err)
	}
	defer func() { _ = log.Close() }() // the proxy has its own
	d.proxy = d.self(context.WithoutCancel(ctx), "proxy", "--config", "proxy.yaml", "--state", "proxy", "--listen", address)
	d.proxy.Stdout, d.proxy.Stderr = log, log
	d.proxy.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := d.proxy.Start(); err != nil {
		return fmt.Errorf("start the proxy: %w", err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; {
		resp, err := http.Get(d.shop + "/")
		if err == nil {
			return resp.Body.Close()
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("start the proxy: it does not answer: %w (see %s)", err, log.Name())
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer func() { _ = l.Close() }()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(port)
}

// play releases one version and notes what came of it.
func (d *demonstration) play(ctx context.Context, a *demoAct) error {
	d.c.progress("")
	d.c.progress("== %s: %s", a.Version, a.What)
	number := func(f float64) string { return strconv.FormatFloat(f, 'g', -1, 64) }
	args := []string{
		"deploy", "--set", "VERSION=" + a.Version, "--set", "FAILING=" + number(a.Failing), "--set", "SLOWER=" + number(a.Slower),
		"--set", "SHOP=" + d.shop, "--set", "BACKSTAY=" + d.program,
	}
	before := d.seen()
	cmd := d.self(ctx, args...)
	cmd.Stdout, cmd.Stderr = d.c.app.Stderr, d.c.app.Stderr // the demo's own result is what comes of it
	if d.c.json {
		cmd.Stdout, cmd.Stderr = io.Discard, io.Discard
	}
	began := time.Now()
	err := cmd.Run()
	a.Took = backstay.Duration(time.Since(began).Round(time.Millisecond))
	var ended *exec.ExitError
	if err != nil && !errors.As(err, &ended) {
		return fmt.Errorf("deploy %s: %w", a.Version, err)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	a.ExitCode = cmd.ProcessState.ExitCode()
	after := d.seen()
	a.Answered = after.Good[a.Version] + after.Bad[a.Version]
	a.Bad = after.Bad[a.Version]
	a.Failed = after.FailedRequests() - before.FailedRequests()
	for why, n := range after.Failed {
		if n -= before.Failed[why]; n > 0 {
			d.c.progress("%d requests failed: %s", n, why)
		}
	}
	return d.look(ctx, a)
}

func (d *demonstration) seen() demo.Count {
	if d.users == nil {
		return demo.Count{}
	}
	return d.users.Seen()
}

// look takes the times from the deployment's report and writes its page.
func (d *demonstration) look(ctx context.Context, a *demoAct) error {
	var out bytes.Buffer
	cmd := d.self(ctx, "report", "--json")
	cmd.Stdout = &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("report %s: %w", a.Version, err)
	}
	var r report.Report
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		return fmt.Errorf("report %s: %w", a.Version, err)
	}
	if r.Failure != nil {
		a.Detect, a.Contain, a.Undo, a.Verdict = r.Times.Detect, r.Times.Contain, r.Times.Undo, r.Failure.Reason
	}
	a.Page = filepath.Join(d.dir, "report-"+a.Version+".html")
	if err := d.self(ctx, "report", "--format", "html", "-o", a.Page).Run(); err != nil {
		return fmt.Errorf("report %s: %w", a.Version, err)
	}
	return nil
}

// tell says what came of it all.
func (d *demonstration) tell(acts []demoAct, good bool) error {
	seen := d.seen()
	if d.c.json {
		return d.c.out.document(struct {
			Format  string    `json:"format"`
			Good    bool      `json:"good"`
			Dir     string    `json:"dir"`
			Asked   int       `json:"asked"`
			Failed  int       `json:"failed"`
			Acts    []demoAct `json:"acts"`
			Widened string    `json:"widened"`
		}{d.c.format(), good, d.dir, seen.Asked, seen.FailedRequests(), acts, demoWidened})
	}
	out := d.c.out
	out.line("")
	rows := make([][]string, 0, len(acts))
	for _, a := range acts {
		ended := map[int]string{exitOK: "promoted", exitRolledBack: "rolled back"}[a.ExitCode]
		if ended == "" {
			ended = "exit code " + strconv.Itoa(a.ExitCode)
		}
		rows = append(rows, []string{
			a.Version, a.What, ended, strconv.Itoa(a.Answered), strconv.Itoa(a.Bad), orDash(a.Detect), orDash(a.Contain), orDash(a.Undo), strconv.Itoa(a.Failed),
		})
	}
	out.table([]string{"version", "what it is", "ended", "it answered", "wrong", "noticed after", "users back in", "undone in", "failed by the move"}, rows)
	out.line("")
	for _, a := range acts {
		if a.Verdict != "" {
			out.line("%s  %s", a.Version, a.Verdict)
		}
	}
	out.line("")
	out.line("users asked %d times; moving traffic failed %d of them", seen.Asked, seen.FailedRequests())
	out.line("wider than the defaults, to fit into two minutes: %s", demoWidened)
	out.line("  spec     %s", filepath.Join(d.dir, "backstay.yaml"))
	out.line("  reports  %s", filepath.Join(d.dir, "report-v3.html"))
	out.line("  ledger   %s", filepath.Join(d.dir, "state"))
	out.line("  look     cd %s && export BACKSTAY_STATE=$PWD/state && backstay history", d.dir)
	if d.keep {
		out.line("  the shop still runs: %s; end it with: kill %d", d.shop, d.proxy.Process.Pid)
	}
	if !good {
		out.line("this is not what it should show: see above, and the reports")
	}
	return nil
}

// demoWidened says what the spec of the demo changes about its gates.
const demoWidened = "errors margin 0.7% (default: a budget of 0.05%), latency margin 30% at the median (10% at median and p99), guard 1s (10s)"

func orDash(d *backstay.Duration) string {
	if d == nil {
		return "-"
	}
	return d.Std().Round(time.Millisecond).String()
}

// end lets users go, then ends shop and proxy.
func (d *demonstration) end() error {
	if d.users != nil {
		d.users.Leave()
	}
	if d.proxy == nil || d.proxy.Process == nil || d.keep {
		return nil
	}
	err := d.endShop()
	if bad := d.proxy.Process.Signal(syscall.SIGTERM); bad != nil {
		return errors.Join(err, bad)
	}
	_ = d.proxy.Wait() // it was told to end
	return err
}

// endShop ends the instances, which outlive who started them. A process that is
// not of this demo, under a pid that was used again, is left alone.
func (d *demonstration) endShop() error {
	records, err := filepath.Glob(filepath.Join(d.dir, "state", "data", "services", "*", "instances", "*.json"))
	if err != nil {
		return err
	}
	var all error
	for _, name := range records {
		var instance struct {
			PID int `json:"pid"`
		}
		data, err := os.ReadFile(name)
		if err == nil {
			err = json.Unmarshal(data, &instance)
		}
		if err != nil {
			all = errors.Join(all, err)
			continue
		}
		program, err := os.Readlink("/proc/" + strconv.Itoa(instance.PID) + "/exe")
		if err == nil && strings.HasPrefix(program, d.dir+string(filepath.Separator)) {
			all = errors.Join(all, syscall.Kill(instance.PID, syscall.SIGTERM))
		}
	}
	return all
}

// pause waits, or says why it could not.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
