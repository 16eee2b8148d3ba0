package proc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
)

func script(t *testing.T, text string) Command {
	t.Helper()
	return Command{
		Argv: []string{"/bin/sh", "-euc", text}, Dir: t.TempDir(), Grace: 100 * time.Millisecond,
		Token: Token{Deployment: newRunName(), Step: "s", Fence: backstay.Token{Epoch: 1, Seq: 1}},
	}
}

// eventually polls until the condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-deadline.C:
			t.Fatalf("never: %s", what)
		case <-tick.C:
		}
	}
}

// pidIn waits for a pid to be written to a file and identifies the process.
func pidIn(t *testing.T, path string) Identity {
	t.Helper()
	var id Identity
	eventually(t, "a pid in "+filepath.Base(path), func() bool {
		b, err := os.ReadFile(path)
		if err != nil || !bytes.HasSuffix(b, []byte("\n")) {
			return false
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
		if err != nil {
			t.Fatalf("%s holds %q", path, b)
		}
		id, err = Identify(pid)
		if err != nil {
			t.Fatalf("identify %d: %v", pid, err)
		}
		return true
	})
	return id
}

func TestRun(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		script string
		want   Exit
		output string
	}{
		{"success", "echo out; echo err >&2; echo more", Exit{}, "out\nerr\nmore\n"},
		{"status", "exit 7", Exit{Code: 7}, ""},
		{"killed by itself", "kill -KILL $$", Exit{Code: -1, Signal: "SIGKILL"}, ""},
		{"standard input is empty", "cat; echo read", Exit{}, "read\n"},
		{"a short tail may end by itself", "(sleep 0.05; echo tail) & exit 0", Exit{}, "tail\n"},
		{"a leftover is ended", "sleep 1000 & exit 0", Exit{Leftovers: 1}, ""},
		{"a leftover in its own session is ended", "setsid sleep 1000 >/dev/null 2>&1 & exit 3", Exit{Code: 3, Leftovers: 1}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := script(t, tt.script)
			var out bytes.Buffer
			c.Output = &out
			got, err := Run(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("exit (-want +got):\n%s", diff)
			}
			if out.String() != tt.output {
				t.Errorf("output %q, want %q", out.String(), tt.output)
			}
			noneLeft(t, c.Token)
		})
	}
}

func noneLeft(t *testing.T, token Token) {
	t.Helper()
	left, err := Find(func(o Token) bool { return o.Deployment == token.Deployment })
	if err != nil {
		t.Fatal(err)
	}
	if len(left) > 0 {
		t.Errorf("left running: %v", left)
	}
}

func TestRunEnvironment(t *testing.T) {
	t.Parallel()
	c := script(t, "env | sort | grep -v -e ^PWD= -e ^_= -e ^SHLVL= -e ^OLDPWD=")
	c.Env = map[string]string{"SHOP": "a=b c\xff", "EMPTY": ""}
	c.Info = map[string]string{"BACKSTAY_STEP": "s"}
	c.Run = "a-run"
	var out, errs bytes.Buffer
	c.Output, c.Stdout = &errs, &out
	exit, err := Run(t.Context(), c)
	if err != nil || !exit.OK() {
		t.Fatalf("%v, %v: %s", exit, err, &errs)
	}
	want := "BACKSTAY_RUN=a-run\nBACKSTAY_STEP=s\nBACKSTAY_TOKEN=" + c.Token.String() + "\nEMPTY=\nPATH=" + DefaultPath + "\nSHOP=a=b c\xff\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
}

func TestRunRefuses(t *testing.T) {
	t.Parallel()
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, []byte("#!/bin/sh\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name  string
		alter func(*Command)
		is    error
		says  string
	}{
		{"no program", func(c *Command) { c.Argv = nil }, nil, "no program"},
		{"no such program", func(c *Command) { c.Argv = []string{"no-such-program"} }, fs.ErrNotExist, "not found in PATH"},
		{"no such file", func(c *Command) { c.Argv = []string{"./no-such-program"} }, fs.ErrNotExist, "start ./no-such-program"},
		{"not executable", func(c *Command) { c.Argv = []string{plain} }, fs.ErrPermission, "permission denied"},
		{"relative PATH entry", func(c *Command) { c.Argv = []string{"sh"}; c.Env = map[string]string{"PATH": "bin:."} }, fs.ErrNotExist, "not found"},
		{"no directory", func(c *Command) { c.Dir += "/none" }, fs.ErrNotExist, "working directory"},
		{"relative directory", func(c *Command) { c.Dir = "x" }, nil, "not absolute"},
		{"reserved variable", func(c *Command) { c.Env = map[string]string{"BACKSTAY_TOKEN": "x"} }, nil, "BACKSTAY_TOKEN"},
		{"malformed variable", func(c *Command) { c.Env = map[string]string{"A=B": "x"} }, nil, "A=B"},
		{"NUL in an argument", func(c *Command) { c.Argv = append(c.Argv, "a\x00b") }, nil, "NUL"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := script(t, "exit 0")
			tt.alter(&c)
			_, err := Run(t.Context(), c)
			if err == nil || !strings.Contains(err.Error(), tt.says) || (tt.is != nil && !errors.Is(err, tt.is)) {
				t.Errorf("error %v, want one that says %q and is %v", err, tt.says, tt.is)
			}
		})
	}
}

// stubborn starts three processes that ignore SIGTERM and writes their pids:
// the script itself, a double-forked one in a session of its own, and one that
// also wiped its environment.
const stubborn = `
trap '' TERM
( setsid sh -c 'trap "" TERM; echo $$ > forked; while :; do sleep 0.01; done' & )
( setsid env -i /bin/sh -c 'trap "" TERM; echo $$ > wiped; while :; do /bin/sleep 0.01; done' & )
echo $$ > main
while :; do sleep 0.01; done
`

func stubbornPids(t *testing.T, dir string) []Identity {
	t.Helper()
	var ids []Identity
	for _, name := range []string{"main", "forked", "wiped"} {
		ids = append(ids, pidIn(t, filepath.Join(dir, name)))
	}
	return ids
}

func TestRunEndsStubbornTrees(t *testing.T) {
	t.Parallel()
	c := script(t, stubborn)
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	why := errors.New("the step is late")
	type result struct{ err error }
	done := make(chan result, 1)
	go func() {
		_, err := Run(ctx, c)
		done <- result{err}
	}()
	ids := stubbornPids(t, c.Dir)
	begun := time.Now()
	cancel(why)
	got := <-done
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("ending took %s", took)
	}
	if !errors.Is(got.err, why) {
		t.Errorf("error %v, want the context's cause", got.err)
	}
	for i, id := range ids {
		if id.Alive() {
			t.Errorf("process %d (%v) lives on", i, id)
		}
	}
}

func TestRunDiesWithItsCaller(t *testing.T) {
	t.Parallel()
	dir, deployment := t.TempDir(), newRunName()
	caller := exec.Command(os.Args[0], "run-script", "cd "+dir+"; "+stubborn, deployment)
	if err := caller.Start(); err != nil {
		t.Fatal(err)
	}
	ids := stubbornPids(t, dir)
	if err := caller.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = caller.Wait()
	for _, id := range ids {
		eventually(t, fmt.Sprintf("the end of %v", id), func() bool { return !id.Alive() })
	}
	eventually(t, "the end of its supervisor", func() bool {
		left, err := Find(func(o Token) bool { return o.Deployment == deployment })
		return err == nil && len(left) == 0
	})
}

// A stopped caller (SIGSTOP past its lease) does not close the pipe: then the
// token leads to the run, supervisor and processes without environment included.
func TestEndTokenOfAStoppedCaller(t *testing.T) {
	t.Parallel()
	dir, deployment := t.TempDir(), newRunName()
	caller := exec.Command(os.Args[0], "run-script", "cd "+dir+"; "+stubborn, deployment)
	if err := caller.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = caller.Process.Kill(); _ = caller.Wait() }()
	ids := stubbornPids(t, dir)
	self, err := Identify(caller.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := self.Signal(19); err != nil { // SIGSTOP
		t.Fatal(err)
	}
	if err := EndToken(t.Context(), OlderActs(deployment, "s", backstay.Token{})); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		if !id.Alive() {
			t.Errorf("%v was ended though its epoch is not older", id)
		}
	}
	if err := EndToken(t.Context(), OlderActs(deployment, "s", backstay.Token{Epoch: 1})); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		if id.Alive() {
			t.Errorf("%v lives on", id)
		}
	}
	noneLeft(t, Token{Deployment: deployment})
	if !self.Alive() {
		t.Errorf("the caller itself, which carries no token, was ended")
	}
}

// A caller that was stopped on the way to the start wakes after its lease.
func TestRunStartsNothingAfterTheLease(t *testing.T) {
	t.Parallel()
	lapsed := errors.New("lapsed")
	tests := []struct {
		name   string
		left   []time.Duration // by each look; 0: lapsed
		starts bool
	}{
		{"before the order", []time.Duration{0}, false},
		{"between order and start", []time.Duration{1, 0}, false},
		{"renewed meanwhile", []time.Duration{1, time.Hour, time.Hour}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := script(t, "echo there > started")
			looks := 0
			ctx := backstay.WithLease(t.Context(), func() (time.Duration, error) {
				left := tt.left[looks]
				looks++
				if left == 0 {
					return 0, lapsed
				}
				return left, nil
			})
			_, err := Run(ctx, c)
			if tt.starts == errors.Is(err, lapsed) || tt.starts != (err == nil) {
				t.Errorf("got %v", err)
			}
			if _, err := os.Stat(filepath.Join(c.Dir, "started")); tt.starts != (err == nil) {
				t.Errorf("the command: %v", err)
			}
			if looks != len(tt.left) {
				t.Errorf("looked at the lease %d times, want %d", looks, len(tt.left))
			}
			noneLeft(t, c.Token)
		})
	}
}

// A caller that was stopped after its look at the lease orders by what it saw then.
func TestRunOrdersByTheTimeOfItsLook(t *testing.T) {
	t.Parallel()
	c := script(t, "echo there > started")
	lapsed, looks := errors.New("lapsed"), 0
	ctx := backstay.WithLease(t.Context(), func() (time.Duration, error) {
		if looks++; looks > 1 {
			return 0, lapsed
		}
		const left = 50 * time.Millisecond
		<-time.After(2 * left) // stopped, until after the lease
		return left, nil
	})
	if _, err := Run(ctx, c); !errors.Is(err, lapsed) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(filepath.Join(c.Dir, "started")); err == nil {
		t.Error("the command was started")
	}
	noneLeft(t, c.Token)
}

func TestRunSurvivesItsSupervisorsDeath(t *testing.T) {
	t.Parallel()
	c := script(t, "echo $$ > main; setsid sh -c 'echo $$ > forked; while :; do sleep 0.01; done' >/dev/null 2>&1 & while :; do sleep 0.01; done")
	done := make(chan error, 1)
	go func() {
		_, err := Run(t.Context(), c)
		done <- err
	}()
	ids := []Identity{pidIn(t, filepath.Join(c.Dir, "main")), pidIn(t, filepath.Join(c.Dir, "forked"))}
	st, err := readStat(ids[0].PID)
	if err != nil {
		t.Fatal(err)
	}
	supervisor, err := Identify(st.ppid)
	if err != nil {
		t.Fatal(err)
	}
	if err := supervisor.Signal(9); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err == nil || !strings.Contains(err.Error(), "supervisor was killed") {
		t.Errorf("error %v", err)
	}
	for _, id := range ids {
		if id.Alive() {
			t.Errorf("%v lives on", id)
		}
	}
}

func TestRunDetached(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		code  int
		lives bool
	}{{"success leaves it", 0, true}, {"failure ends it", 1, false}}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := script(t, fmt.Sprintf("sleep 1000 & echo $! > left; exit %d", tt.code))
			c.Detached = true
			begun := time.Now()
			exit, err := Run(t.Context(), c)
			if err != nil || exit.Code != tt.code {
				t.Fatalf("%v, %v", exit, err)
			}
			if took := time.Since(begun); took > 10*time.Second {
				t.Errorf("took %s: it waited for the process that holds its output", took)
			}
			left, err := Find(func(o Token) bool { return o == c.Token })
			if err != nil {
				t.Fatal(err)
			}
			if got := len(left) == 1; got != tt.lives {
				t.Errorf("left running: %v", left)
			}
			if err := EndToken(t.Context(), func(o Token) bool { return o == c.Token }); err != nil {
				t.Fatal(err)
			}
			noneLeft(t, c.Token)
		})
	}
}

// limited refuses more than n bytes.
type limited struct{ n int }

var errLimit = errors.New("printed too much")

func (l *limited) Write(p []byte) (int, error) {
	if l.n -= len(p); l.n < 0 {
		return 0, errLimit
	}
	return len(p), nil
}

func TestRunFlood(t *testing.T) {
	t.Parallel()
	t.Run("stopped by its reader", func(t *testing.T) {
		t.Parallel()
		c := script(t, "yes")
		c.Stdout = &limited{1 << 20}
		if _, err := Run(t.Context(), c); !errors.Is(err, errLimit) {
			t.Errorf("error %v, want the writer's", err)
		}
		noneLeft(t, c.Token)
	})
	t.Run("stopped by its deadline", func(t *testing.T) {
		t.Parallel()
		c := script(t, "trap '' TERM; yes & yes & yes")
		c.Output = io.Discard
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		begun := time.Now()
		if _, err := Run(ctx, c); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v, want the deadline's", err)
		}
		if took := time.Since(begun); took > 10*time.Second {
			t.Errorf("took %s", took)
		}
		noneLeft(t, c.Token)
	})
	t.Run("forks and forks", func(t *testing.T) {
		t.Parallel()
		// Each generation forks two and ends; bounded, should this ever escape.
		c := script(t, `cat > f <<'X'
[ -e stop ] && exit
[ "$1" -gt 0 ] || exec sleep 60
setsid sh f $(($1-1)) & setsid sh f $(($1-1)) &
X
trap 'touch stop' EXIT; echo up > up; sh f 9; sleep 60`)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		done := make(chan error, 1)
		go func() {
			_, err := Run(ctx, c)
			done <- err
		}()
		eventually(t, "a start", func() bool { _, err := os.Stat(filepath.Join(c.Dir, "up")); return err == nil })
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
		noneLeft(t, c.Token)
	})
}

func TestRunWithAnEndedContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c := script(t, "touch ran")
	if _, err := Run(ctx, c); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if _, err := os.Stat(filepath.Join(c.Dir, "ran")); err == nil {
		t.Errorf("it ran")
	}
}

func BenchmarkRun(b *testing.B) {
	dir := b.TempDir()
	for b.Loop() {
		if _, err := Run(b.Context(), Command{Argv: []string{"/bin/true"}, Dir: dir}); err != nil {
			b.Fatal(err)
		}
	}
}
