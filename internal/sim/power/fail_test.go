package power_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/durable"
	"github.com/backstay-dev/backstay/internal/engine"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/ledger/ledgertest"
	"github.com/backstay-dev/backstay/internal/ledger/sqlite"
)

// thread runs functions one after another on one thread of the kernel's, because
// strace counts the calls of each thread by itself.
type thread struct{ work chan func() }

func newThread() *thread {
	t := &thread{work: make(chan func())}
	go func() {
		runtime.LockOSThread()
		for do := range t.work {
			do()
		}
	}()
	return t
}

// pinned does and undoes on one thread.
type pinned struct {
	engine.Actions
	on *thread
}

func (p pinned) act(ctx context.Context, call backstay.Call, act func(context.Context, backstay.Call) (backstay.Result, error)) (r backstay.Result, err error) {
	done := make(chan struct{})
	p.on.work <- func() {
		defer close(done)
		r, err = act(ctx, call)
	}
	<-done
	return r, err
}

func (p pinned) Do(ctx context.Context, call backstay.Call) (backstay.Result, error) {
	return p.act(ctx, call, p.Actions.Do)
}

func (p pinned) Undo(ctx context.Context, call backstay.Call) (backstay.Result, error) {
	return p.act(ctx, call, p.Actions.Undo)
}

// failure is one system call that fails with one error.
type failure struct{ call, err string }

func failures() []failure {
	var all []failure
	for _, call := range strings.Split("openat,write,fsync,renameat,unlinkat,mkdirat,symlinkat,utimensat,fchmod", ",") {
		all = append(all, failure{call, "EIO"})
	}
	for _, call := range strings.Split("write,mkdirat,symlinkat,renameat,fsync", ",") {
		all = append(all, failure{call, "ENOSPC"})
	}
	return all
}

// TestFileNthFailure lets the n-th system call of one kind on the world fail, for
// n = 1, 2, 3, … until none is met, in a deployment that goes forward and in one
// that goes back. Whatever the process says in the end, the world is before or
// wanted exactly, or it is held and a retry on the mended disk restores it.
func TestFileNthFailure(t *testing.T) {
	t.Parallel()
	for _, back := range []bool{false, true} {
		t.Run(fmt.Sprintf("back=%v", back), func(t *testing.T) {
			t.Parallel()
			root := stage(t)
			start, err := read(root)
			must(t, err)
			before, met, ends := look(t, root, true), 0, map[string]int{}
			began := time.Now()
			for i, f := range failures() {
				if raced && i%4 != 0 {
					continue
				}
				stride, first := 1, 1
				if !*fullFlag {
					stride, first = 29, 1+i%5
				}
				for n := first; ; n += stride {
					must(t, lay(root, start))
					hit, end, err := failing(t, root, back, f, n, before)
					if err != nil {
						t.Errorf("%s fails with %s, n = %d (%s): %v", f.call, f.err, n, end, err)
					}
					if !hit || t.Failed() {
						break
					}
					met++
					ends[end]++
				}
			}
			t.Logf("%d failures met; the process ended %v; %.1f s", met, ends, time.Since(began).Seconds())
		})
	}
}

// paths are what a deployment touches: strace counts calls on these.
func paths(root string) []string {
	world := filepath.Join(root, "world")
	out := []string{world}
	for _, rel := range strings.Fields("app.conf deep deep/down deep/down/new.conf current site site/index.html site/css site/css/new.css site/old site/old/old.css legacy") {
		p := filepath.Join(world, rel)
		out = append(out, p, filepath.Join(filepath.Dir(p), durable.TempName(filepath.Base(p))))
	}
	return out
}

// failing deploys with a failure, and judges the end.
func failing(t *testing.T, root string, back bool, f failure, n int, before map[string]string) (hit bool, end string, err error) {
	t.Helper()
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("strace is not installed: apt-get install strace")
	}
	self, err := os.Executable()
	must(t, err)
	log := filepath.Join(t.TempDir(), "log")
	args := []string{"-f", "--seccomp-bpf", "-o", log, "-e", "trace=" + f.call, "-e", fmt.Sprintf("inject=%s:error=%s:when=%d", f.call, f.err, n)}
	for _, p := range paths(root) {
		args = append(args, "-P", p)
	}
	cmd := exec.CommandContext(t.Context(), strace, append(args, self)...)
	cmd.Env = append(os.Environ(), envRoot+"="+root)
	if back {
		cmd.Env = append(cmd.Env, envBack+"=1")
	}
	out, _ := cmd.CombinedOutput()
	if strings.Contains(string(out), "PTRACE") {
		t.Skipf("this host does not let strace trace: %s", out)
	}
	lines, err := os.ReadFile(log)
	must(t, err)
	hit = strings.Contains(string(lines), "(INJECTED)")
	end, _, _ = strings.Cut(strings.TrimSpace(string(out)), "\n")
	if len(end) > 20 {
		end = "error"
	}
	return hit, end, mended(t, root, before, string(out))
}

// mended looks at the world after a failure, recovers on a disk that works
// again, retries what is held, and judges.
func mended(t *testing.T, root string, before map[string]string, said string) error {
	t.Helper()
	c := cutter{root: root, before: before, ends: make(map[backstay.State]int)}
	if err := c.settledAs(t, said); err != nil {
		return err
	}
	clock := ledgertest.NewClock()
	clock.Reboot("boot-2")
	s, err := sqlite.Open(t.Context(), filepath.Join(root, "state"), ledger.Options{Version: "test", TTL: time.Hour, Clock: clock})
	if err != nil {
		return err
	}
	defer s.Close()
	deps, err := c.recover(t, s)
	if err != nil {
		return fmt.Errorf("recover: %w (the process said: %s)", err, said)
	}
	for _, d := range deps {
		if d.State != backstay.Held {
			continue
		}
		e, _, err := newEngine(root, s, nil, nil)
		if err != nil {
			return err
		}
		sum, err := e.Summarise(t.Context(), d.ID)
		if err != nil || len(sum.Residue) == 0 {
			return fmt.Errorf("held without residue: %w", err)
		}
		id, err := uuid.NewV7()
		if err != nil {
			return err
		}
		if _, err := e.Resume(t.Context(), d.ID, nil, &ledger.Signal{ID: id.String(), Kind: "retry", At: time.Now()}); err != nil {
			return fmt.Errorf("retry: %w", err)
		}
	}
	return c.judge(t, s)
}

// settledAs: a process that says that it rolled back, or that it is done, says so
// rightly at that moment.
func (c *cutter) settledAs(t *testing.T, said string) error {
	t.Helper()
	switch strings.TrimSpace(said) {
	case string(backstay.RolledBack):
		if diff := cmp.Diff(c.before, look(t, c.root, true)); diff != "" {
			return fmt.Errorf("it says rolled_back, but the world is not as before (-before +now):\n%.1500s", diff)
		}
	case string(backstay.Proven):
		if diff := cmp.Diff(wanted(), look(t, c.root, false)); diff != "" {
			return fmt.Errorf("it says proven, but the world is not as wanted (-want +now):\n%.1500s", diff)
		}
	}
	return nil
}
