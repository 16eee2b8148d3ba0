package release_test

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/backstay-dev/backstay/internal/proc"
)

var (
	fullFlag   = flag.Bool("release.full", false, "100 deployments and 100 rollbacks behind each router, and kills all over; minutes")
	roundsFlag = flag.Int("release.rounds", 100, "with -release.full: so many good and so many bad canaries")
	alikeFlag  = flag.Int("release.alike", 50, "with -release.full: so many releases that are no different are judged by evidence")
	worseFlag  = flag.Int("release.worse", 20, "with -release.full: so many releases of each kind that is worse")
	strideFlag = flag.Int("release.stride", 3, "with -release.full: kill at each so-many-th point")
)

func TestMain(m *testing.M) {
	if code, supervised := proc.SupervisorMain(os.Args); supervised {
		os.Exit(code)
	}
	if len(os.Args) > 4 && os.Args[1] == "serve" {
		os.Exit(serve(os.Args[2], os.Args[3]))
	}
	if os.Getenv(envRole) != "" {
		if err := child(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// shopSpec releases a version; its last step makes it a good or a bad release.
const shopSpec = `backstay: v1
release: shop
version: "%[1]s"
environment: dev
artifacts:
  web: {file: "web-%[1]s"}
services:
  web:
    artifact: web
    command: ["{artifact}", "127.0.0.1:{port}"]
    instances: 2
    ready: {http: /healthz, within: 20s}
    drain: 5s
routes:
  shop: %[4]s
gates:
  right: {http: {url: "http://{endpoint}/", contains: "%[1]s"}, every: 20ms, failures: 2}
  errors: {compare: error-rate, margin: 5%%, guard: 0s}
  exact: {compare: error-rate, margin: 0.5%%, guard: 0s}
  latency: {compare: latency, margin: 50%%, quantiles: [50], guard: 2s, warm-up: 1s}
  slower: {compare: latency, margin: 10%%, quantiles: [50], guard: 0s}
  sick: {http: {url: "http://{endpoint}/", contains: "another answer"}, every: 20ms, failures: 2}
%[5]ssteps:
  - release: {service: web, route: shop, %[2]s}
  - name: last
    run: %[3]s
    undo: "true"
    idempotent: true
`

// strategies are the ways to release, as keys of a release step.
func strategies() map[string]string {
	return map[string]string{
		"canary":      "strategy: canary, through: [1%, 50%, 100%], hold: 30ms, gates: [right]",
		"blue-green":  "strategy: blue-green, test: [right], hold: 30ms",
		"rolling":     "strategy: rolling",
		"all-at-once": "strategy: all-at-once",
	}
}

const (
	good = `"true"`
	bad  = `"false"`
)

// shop is a directory with its router running, and a first release in it.
type shop struct {
	t   *testing.T
	dir string
	plane
	next int
	more string    // of its specs: further gates, and sections after them
	said string    // what the last child printed
	data *exec.Cmd // the process of backstay proxy
}

// empty starts a router with nothing behind it: backstay proxy, or the one given.
func empty(t *testing.T, other func(*testing.T) plane) *shop {
	t.Helper()
	s := &shop{t: t, dir: t.TempDir()}
	t.Cleanup(s.sweep)
	if other != nil {
		s.plane = other(t)
	} else {
		s.plane = onProxy(t, s.dir)
		s.proxy()
	}
	return s
}

// open starts a shop behind backstay proxy, or behind the router given.
func open(t *testing.T, other ...func(*testing.T) plane) *shop {
	t.Helper()
	s := empty(t, slices.Concat(other, []func(*testing.T) plane{nil})[0])
	if got := s.deploy("first", "strategy: all-at-once", good, ""); got != "proven" {
		t.Fatalf("the first release ended %s", got)
	}
	return s
}

func (s *shop) write(name string, mode os.FileMode, text string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), mode); err != nil {
		s.t.Fatal(err)
	}
}

// sweep ends what still runs of the shop, and makes its directory removable.
func (s *shop) sweep() {
	for pid := range s.processes() {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	_ = filepath.WalkDir(filepath.Join(s.dir, "data", "releases"), func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			_ = os.Chmod(path, 0o700)
		}
		return nil
	})
}

// processes are the running instances of this shop, found without the code under
// test: pid to version.
func (s *shop) processes() map[int]string {
	found := map[int]string{}
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		text, _ := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		if f := strings.Split(string(text), "\x00"); len(f) > 4 && f[1] == "serve" && f[4] == s.dir {
			found[pid] = f[3]
		}
	}
	return found
}

// launch starts a child of this binary.
func (s *shop) launch(role string, env ...string) (*exec.Cmd, *strings.Builder) {
	s.t.Helper()
	self, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.t.Context()), 20*time.Minute)
	s.t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(append(os.Environ(), envRole+"="+role, envDir+"="+s.dir), env...)
	text := &strings.Builder{}
	cmd.Stderr = text
	if role == "proxy" {
		return cmd, text
	}
	cmd.Stdout = text
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	return cmd, text
}

// proxy starts the data plane and returns when it serves.
func (s *shop) proxy() {
	s.t.Helper()
	cmd, text := s.launch("proxy")
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	if said, err := bufio.NewReader(out).ReadString('\n'); err != nil || said != "serving\n" {
		s.t.Fatalf("the proxy says %q (%v): %s", said, err, text)
	}
	s.data = cmd
}

// deploy releases a version and returns how it ended, "" where it was killed.
func (s *shop) deploy(version, strategy, last, kill string, env ...string) string {
	s.t.Helper()
	return s.drive("deploy", append(env, s.spec(version, strategy, last), envKill+"="+kill)...)
}

// spec writes the program of a version and the spec that releases it, and returns
// what names it to a child.
func (s *shop) spec(version, strategy, last string) string {
	s.t.Helper()
	s.write("web-"+version, 0o700, fmt.Sprintf("#!/bin/sh\nexec '%s' serve \"$1\" %s '%s'\n", os.Args[0], version, s.dir))
	s.next++
	file := fmt.Sprintf("spec-%d.yaml", s.next)
	s.write(file, 0o600, fmt.Sprintf(shopSpec, version, strategy, last, s.route, s.more))
	return envSpec + "=" + file
}

// drive runs a child to its end.
func (s *shop) drive(role string, env ...string) string {
	s.t.Helper()
	cmd, text := s.launch(role, env...)
	err := cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			return ""
		}
		if strings.Contains(text.String(), "may have lapsed") {
			return "" // on a busy machine it stopped by itself, as it must: somebody recovers
		}
	}
	if err != nil {
		s.t.Fatalf("%s: %v\n%s", role, err, text)
	}
	s.said = text.String()
	return line(s.said)
}

// weights are the router's own.
func (s *shop) weights() map[string]int {
	s.t.Helper()
	return s.weighs(s.t)
}

// serves checks that exactly this version serves and runs, and that the router
// gives everything to one side.
func (s *shop) serves(u *users, version string) {
	s.t.Helper()
	w := s.weights()
	if w["blue"]+w["green"] != 100 || w["blue"] != 0 && w["green"] != 0 {
		s.t.Errorf("after %s the router reads %v", version, w)
	}
	for pid, runs := range s.processes() {
		if runs != version {
			s.t.Errorf("process %d of %s still runs, %s is released", pid, runs, version)
		}
	}
	u.seen()
	deadline := time.Now().Add(10 * time.Second)
	for {
		// Streams that began before the move may still end on the other side.
		got := u.seen()
		if slices.Equal(got, []string{version}) {
			return
		}
		if time.Now().After(deadline) {
			s.t.Errorf("users see %v, want %s", got, version)
			return
		}
		time.Sleep(20 * time.Millisecond) //nolint:forbidigo // users ask meanwhile
	}
}

// judge ends the users and checks that none of them noticed anything.
func (s *shop) judge(u *users, end func(), least int) {
	s.t.Helper()
	end()
	asked, failures := u.count()
	s.t.Logf("%d requests, %d failed", asked, len(failures))
	if len(failures) > 0 {
		s.t.Errorf("%d of %d requests failed, the first: %v", len(failures), asked, failures[:min(5, len(failures))])
	}
	if asked < least {
		s.t.Errorf("only %d requests were asked", asked)
	}
}
