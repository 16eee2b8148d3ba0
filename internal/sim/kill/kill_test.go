package kill_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/all"
	"github.com/backstay-dev/backstay/internal/engine"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/ledger/postgres"
	"github.com/backstay-dev/backstay/internal/ledger/sqlite"
	"github.com/backstay-dev/backstay/internal/parts"
	"github.com/backstay-dev/backstay/internal/plan"
	"github.com/backstay-dev/backstay/internal/proc"
	"github.com/backstay-dev/backstay/internal/spec"
)

// The child process: this test binary, told by the environment what to do.
const (
	envRole  = "SIM_ROLE" // deploy, recover
	envDir   = "SIM_DIR"
	envState = "SIM_STATE" // a directory or a postgres URL
	envKill  = "SIM_KILL"  // POINT:N: SIGKILL itself at the N-th hit
	envStop  = "SIM_STOP"  // POINT:N: SIGSTOP itself at the N-th hit
	envTTL   = "SIM_TTL"
	envHits  = "SIM_HITS" // a file that gets one line for each point that is hit
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
	flag.Parse()
	// Most of the time a child waits for the lease of the one that was killed, so
	// more run beside each other than there are processors.
	if p := flag.Lookup("test.parallel"); p.Value.String() == p.DefValue {
		_ = flag.Set("test.parallel", strconv.Itoa(4*runtime.GOMAXPROCS(0)))
	}
	began := time.Now()
	code := m.Run()
	if full() && flag.Lookup("test.run").Value.String() == "" && os.Getenv("BACKSTAY_REAL") == "1" && kills.Load() < 300 {
		fmt.Printf("only %d children were killed, want 300\n", kills.Load())
		code = 1
	}
	if testing.Verbose() || full() {
		took := time.Since(began).Seconds()
		fmt.Printf("%d children were ended by SIGKILL (%d on PostgreSQL) and recovered from in %.1f s: %.1f/s\n", kills.Load(), onPostgres.Load(), took, float64(kills.Load())/took)
	}
	os.Exit(code)
}

func openStore(ctx context.Context, state string, ttl time.Duration) (*ledger.Store, error) {
	o := ledger.Options{Version: "test", TTL: ttl}
	if strings.Contains(state, "://") {
		return postgres.Open(ctx, state, o)
	}
	return sqlite.Open(ctx, state, o)
}

// child deploys the spec below SIM_DIR, or recovers what is unsettled.
func child(ctx context.Context) error {
	dir, state := os.Getenv(envDir), os.Getenv(envState)
	ttl := 700 * time.Millisecond
	if strings.Contains(state, "://") {
		ttl = 2 * time.Second // a statement's timeout is shorter than the lease, and the machine is busy
	}
	if v, err := time.ParseDuration(os.Getenv(envTTL)); err == nil {
		ttl = v
	}
	store, err := openStore(ctx, state, ttl)
	if err != nil {
		return err
	}
	defer store.Close()
	kinds, err := all.New()
	if err != nil {
		return err
	}
	count, err := counter(os.Getenv(envHits))
	if err != nil {
		return err
	}
	kill, stop := trigger(os.Getenv(envKill), syscall.SIGKILL), trigger(os.Getenv(envStop), syscall.SIGSTOP)
	eng, err := engine.New(store, kinds, engine.Options{
		DataDir: filepath.Join(dir, "data"), Actor: backstay.Actor{UID: os.Getuid(), Host: "here"}, Version: "test", Poll: 10 * time.Millisecond,
		Failpoint: func(at, _ string) error {
			count(at)
			kill(at)
			stop(at)
			return nil
		},
	})
	if err != nil {
		return err
	}
	if os.Getenv(envRole) == "recover" {
		return recoverAll(ctx, store, eng)
	}
	p, err := planOf(ctx, store, eng, kinds, dir)
	if err != nil {
		return err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return err
	}
	s, err := eng.Deploy(ctx, engine.Start{ID: id.String(), Plan: p})
	if err != nil {
		return err
	}
	fmt.Println(s.State)
	return nil
}

// trigger signals this process at the N-th hit of a point, "POINT:N".
func trigger(text string, signal syscall.Signal) func(at string) {
	point, nth, _ := strings.Cut(text, ":")
	n, _ := strconv.Atoi(nth)
	var mu sync.Mutex
	hits := 0
	return func(at string) {
		mu.Lock()
		defer mu.Unlock()
		if at != point {
			return
		}
		if hits++; hits == n {
			_ = syscall.Kill(os.Getpid(), signal)
		}
	}
}

// counter writes down each point that is hit; "" writes nothing.
func counter(file string) (func(at string), error) {
	if file == "" {
		return func(string) {}, nil
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	return func(at string) { _, _ = f.WriteString(at + "\n") }, nil
}

// hits are how often an undisturbed deployment comes by each point.
func hits(t *testing.T, failing bool) map[string]int {
	t.Helper()
	dir := stage(t, lastStep(failing))
	file := filepath.Join(dir, "hits")
	cmd, out := launch(t, "deploy", dir, filepath.Join(dir, "state"), envHits+"="+file)
	if err := cmd.Wait(); err != nil {
		t.Fatalf("the undisturbed deployment: %v, %s", err, out)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	n := map[string]int{}
	for at := range strings.FieldsSeq(string(text)) {
		n[at]++
	}
	return n
}

func recoverAll(ctx context.Context, store *ledger.Store, eng *engine.Engine) error {
	deps, err := store.List(ctx, ledger.Filter{})
	if err != nil {
		return err
	}
	for _, d := range deps {
		if d.State.Settled() {
			fmt.Println(d.State)
			continue
		}
		for {
			s, err := eng.Resume(ctx, d.ID, nil, nil)
			var owned *ledger.OwnedError
			if errors.As(err, &owned) {
				time.Sleep(owned.Owner.Left + 10*time.Millisecond) //nolint:forbidigo // the dead owner's lease must lapse
				continue
			}
			if err != nil {
				return err
			}
			fmt.Println(s.State)
			break
		}
	}
	return nil
}

func planOf(ctx context.Context, store *ledger.Store, eng *engine.Engine, kinds spec.Kinds, dir string) (*plan.Plan, error) {
	sp, err := spec.Load(spec.Source{File: filepath.Join(dir, "backstay.yaml"), Set: map[string]string{"WORLD": filepath.Join(dir, "world")}}, kinds)
	if err != nil {
		return nil, explain(err)
	}
	artifacts, err := pin(ctx, store, sp)
	if err != nil {
		return nil, err
	}
	d := plan.NewDraft(sp)
	seen, err := eng.Survey(ctx, d.Requests(), engine.Declared{Sections: sp.Sections, Artifacts: artifacts, Dir: sp.Dir, Release: sp.Release, Version: sp.Version})
	if err != nil {
		return nil, explain(err)
	}
	p, err := plan.Build(d, seen)
	return p, explain(err)
}

// pin puts the artifacts of a spec into the ledger.
func pin(ctx context.Context, store *ledger.Store, sp *spec.Spec) (map[string]backstay.Artifact, error) {
	blobs, pinned := store.NewBlobBuffer(ctx), map[string]backstay.Artifact{}
	for name, a := range sp.Artifacts {
		path := filepath.Join(sp.Dir, a.File)
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		digest, size, err := blobs.Put(f)
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, err
		}
		pinned[name] = backstay.Artifact{Name: name, File: path, SHA256: digest, Size: size}
	}
	return pinned, blobs.Flush(ctx)
}

func explain(err error) error {
	var refused *backstay.RefusedError
	if errors.As(err, &refused) {
		return fmt.Errorf("%w: %v", err, refused.Problems)
	}
	return err
}

// killSpec has every way a step can change files, and a last step that fails
// or not, so that kills land in both directions.
const killSpec = `backstay: v1
release: killed
version: "2"
steps:
  - name: conf
    file: {path: "${WORLD}/app.conf", content: "version = 2\n"}
  - name: tree
    file: {path: "${WORLD}/site", tree: new, prune: true}
  - name: script
    run: |
      cd ${WORLD}/lib
      echo two > code
      sleep 0.02
      rm -f legacy
      mkdir -p more
      sleep 0.02
      echo three > more/code
      chmod 600 code
    touches: ["${WORLD}/lib"]
  - name: pair
    run: echo on > ${WORLD}/switch
    undo: echo off > ${WORLD}/switch
    read: cat ${WORLD}/switch
    idempotent: true
  - parallel:
      - name: left
        file: {path: "${WORLD}/left", content: "L2"}
      - name: right
        file: {path: "${WORLD}/right", content: "R2"}
  - name: last
    run: %s
    undo: "true"
    idempotent: true
`

// stage writes a world and its spec and returns the folder.
func stage(t *testing.T, last string) string {
	t.Helper()
	dir := t.TempDir()
	files := map[string]string{
		"backstay.yaml": fmt.Sprintf(killSpec, last), "new/index.html": "<h1>2</h1>", "new/css/new.css": "green",
		"world/app.conf": "version = 1\n", "world/site/index.html": "<h1>1</h1>", "world/site/old.css": "black",
		"world/lib/code": "one\n", "world/lib/legacy": "old\n", "world/switch": "off\n", "world/left": "L1", "world/right": "R1",
		"world/neighbour": "not in scope",
	}
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// picture is the oracle's own look at a folder: every path with type, mode,
// content or target, and for files the time of change of the content.
func picture(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		line := info.Mode().String()
		switch {
		case info.Mode().IsRegular():
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += " " + info.ModTime().Format(time.RFC3339Nano) + " " + string(data)
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += " -> " + target
		}
		out[rel] = line
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// launch starts a child.
func launch(t *testing.T, role, dir, state string, env ...string) (*exec.Cmd, *strings.Builder) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 2*time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(append(os.Environ(), envRole+"="+role, envDir+"="+dir, envState+"="+state), env...)
	text := &strings.Builder{}
	cmd.Stdout, cmd.Stderr = text, text
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, text
}

// spawn runs a child to its end and returns what it printed.
func spawn(t *testing.T, role, dir, state, kill string, killAfter time.Duration) (out string, killed bool) {
	t.Helper()
	cmd, text := launch(t, role, dir, state, envKill+"="+kill)
	if killAfter > 0 {
		timer := time.AfterFunc(killAfter, func() { _ = cmd.Process.Kill() })
		defer timer.Stop()
	}
	err := cmd.Wait()
	if signaled(err) {
		kills.Add(1)
		if strings.Contains(state, "://") {
			onPostgres.Add(1)
		}
		return text.String(), true
	}
	if err != nil && strings.Contains(text.String(), "may have lapsed") {
		// On a machine so busy that no heartbeat got through in time, the child
		// stopped by itself, as it must: somebody recovers, as after a kill.
		return text.String(), true
	}
	if err != nil {
		t.Fatalf("%s child: %v\n%s", role, err, text.String())
	}
	return text.String(), false
}

// settle recovers until a recovery was not stopped on its way.
func settle(t *testing.T, dir, state string) {
	t.Helper()
	for range 10 {
		if _, stopped := spawn(t, "recover", dir, state, "", 0); !stopped {
			return
		}
	}
	t.Fatal("ten recoveries were stopped on their way")
}

// signaled reports whether a process was ended by a signal.
func signaled(err error) bool {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return false
	}
	status, ok := exit.Sys().(syscall.WaitStatus)
	return ok && status.Signaled()
}

// points are the failpoints of a deployment, found by name in the engine.
func points() []string {
	return []string{
		"create.before", "create.after", "intent.before", "intent.after", "do.before", "do.after",
		"outcome.before", "outcome.after", "verify.before", "transition.commit.before", "transition.commit.after",
		"bake.before", "transition.prove.before", "transition.prove.after",
		"transition.fail.before", "transition.fail.after", "undo_intent.before", "undo_intent.after", "undo.before", "undo.after",
		"compensation.before", "compensation.after", "finish.before", "transition.undone.before", "transition.undone.after",
	}
}

// backwards reports whether a point is hit only by a deployment that goes back.
func backwards(point string) bool {
	return slices.ContainsFunc([]string{"fail", "undo", "undone", "compensation", "finish"}, func(w string) bool { return strings.Contains(point, w) })
}

// judge looks at the world and the ledger after recovery.
func judge(t *testing.T, dir, state string, before, after map[string]string, failing bool) {
	t.Helper()
	store, err := openStore(t.Context(), state, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	deps, err := store.List(t.Context(), ledger.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	now := picture(t, filepath.Join(dir, "world"))
	// The switch is put back by a command of the user's, which writes it anew:
	// that step promises its content, not its time.
	before, now = maps.Clone(before), maps.Clone(now)
	for _, im := range []map[string]string{before, now} {
		im["switch"] = contents(im)["switch"]
	}
	if len(deps) == 0 {
		if diff := cmp.Diff(before, now); diff != "" {
			t.Errorf("nothing was recorded, yet the world changed (-before +now):\n%s", diff)
		}
		return
	}
	switch d := deps[0]; {
	case d.State == backstay.RolledBack:
		if diff := cmp.Diff(before, now); diff != "" {
			t.Errorf("rolled back, but the world differs (-before +now):\n%s", diff)
		}
	case d.State == backstay.Proven && !failing:
		if diff := cmp.Diff(contents(after), contents(now)); diff != "" {
			t.Errorf("proven, but the world differs from the plan (-want +now):\n%s", diff)
		}
	default:
		t.Errorf("ended %s", d.State)
	}
	entries, err := store.Entries(t.Context(), deps[0].ID, 0)
	if err != nil {
		t.Fatal(err)
	}
	grammar(t, entries)
	if t.Failed() || testing.Verbose() {
		for _, e := range entries {
			t.Logf("%d %s %s %.200s", e.N, e.Kind, e.Step, e.Body)
		}
	}
}

// contents drops the times: two deployments write at different ones.
func contents(in map[string]string) map[string]string {
	out := map[string]string{}
	for p, line := range in {
		fields := strings.SplitN(line, " ", 3)
		if len(fields) == 3 && fields[1] != "->" {
			line = fields[0] + " " + fields[2]
		}
		out[p] = line
	}
	return out
}

// grammar checks the entries as a language: write-ahead, one compensation per
// step, numbers without holes.
func grammar(t *testing.T, entries []backstay.Entry) {
	t.Helper()
	open, undone := map[string]bool{}, map[string]int{}
	for i, e := range entries {
		if e.N != int64(i+1) {
			t.Errorf("entry %d has number %d", i+1, e.N)
		}
		var body struct {
			Result string `json:"result"`
			OK     bool   `json:"ok"`
		}
		_ = json.Unmarshal(e.Body, &body)
		switch e.Kind { //nolint:exhaustive // only these have an order
		case backstay.EntryIntent:
			open[e.Step] = true
		case backstay.EntryOutcome:
			if !open[e.Step] && body.OK {
				t.Errorf("entry %d: step %s has an outcome without an intent", e.N, e.Step)
			}
		case backstay.EntryUndoIntent, backstay.EntryCompensation:
			if !open[e.Step] {
				t.Errorf("entry %d: step %s is undone without an intent", e.N, e.Step)
			}
			if e.Kind == backstay.EntryCompensation && body.Result != "failed" {
				if undone[e.Step]++; undone[e.Step] > 1 {
					t.Errorf("entry %d: step %s is compensated twice", e.N, e.Step)
				}
			}
		}
	}
}

// fullFlag asks for everything, as CI does in a run of its own, instead of the
// sample that keeps `go test ./...` (and the race detector's run) quick.
var (
	fullFlag  = flag.Bool("kill.full", false, "kill at every point and often at random, not a sample of them")
	nightFlag = flag.Bool("kill.night", false, "with kill.full: kill exposures of flags at every point, not at a seventh of them")
	timesFlag = flag.Int("kill.times", 1, "do the random kills and those on PostgreSQL this many times over, at night")
)

func full() bool { return *fullFlag }

// kills counts the children that ended by SIGKILL.
var kills, onPostgres atomic.Int64

func TestKilledAtEveryFailpoint(t *testing.T) {
	t.Parallel()
	after := reference(t)
	at := kills.Load()
	hit := map[bool]map[string]int{false: hits(t, false), true: hits(t, true)}
	t.Run("kills", func(t *testing.T) {
		for i, point := range points() {
			if hit[false][point]+hit[true][point] == 0 {
				t.Errorf("no deployment comes by %s: it has another name now", point)
			}
			for _, failing := range []bool{false, true} {
				last := hit[failing][point]
				for _, nth := range slices.Compact([]int{min(1, last), min(2, last), last}) {
					if nth == 0 || !full() && (i+nth)%4 != 0 {
						continue
					}
					t.Run(fmt.Sprintf("%s/%d/failing=%v", point, nth, failing), func(t *testing.T) {
						t.Parallel()
						crash(t, "", fmt.Sprintf("%s:%d", point, nth), 0, failing, after)
					})
				}
			}
		}
	})
	if n := kills.Load() - at; n < 20 || (full() && n < 150) {
		t.Errorf("only %d kills landed: the failpoints have other names now", n)
	}
}

func TestKilledAtRandom(t *testing.T) {
	t.Parallel()
	after := reference(t)
	seed := uint64(time.Now().UnixNano())
	rng := rand.New(rand.NewPCG(seed, 1))
	rounds := 10
	if full() {
		rounds = 120 * *timesFlag
	}
	for i := range rounds {
		delay := time.Duration(20+rng.IntN(400)) * time.Millisecond
		t.Run(fmt.Sprintf("%d after %s", i, delay), func(t *testing.T) {
			t.Parallel()
			crash(t, "", "", delay, i%2 == 1, after)
		})
	}
}

// TestKilledOnPostgres is the same on a PostgreSQL ledger.
func TestKilledOnPostgres(t *testing.T) {
	t.Parallel()
	pg := parts.StartPostgres(t)
	after := reference(t)
	at := onPostgres.Load()
	t.Run("kills", func(t *testing.T) {
		for i, point := range points() {
			if !full() && i%6 != 0 {
				continue
			}
			back := backwards(point)
			for round := range *timesFlag {
				t.Run(fmt.Sprintf("%s/%d", point, round), func(t *testing.T) {
					t.Parallel()
					crash(t, pg.Database(t), point+":1", 0, back || (i+round)%3 == 0, after)
				})
			}
		}
	})
	if n := onPostgres.Load() - at; full() && n < 30 {
		t.Errorf("only %d kills landed", n)
	}
}

// TestStoppedOwnerIsFenced stops a deploying process past its lease, lets a
// second one take over, and wakes the first: it must change nothing any more.
func TestStoppedOwnerIsFenced(t *testing.T) {
	t.Parallel()
	after := reference(t)
	for _, point := range []string{"intent.after:2", "do.before:2", "do.after:2", "outcome.before:2", "transition.commit.before:1", "undo.before:2"} {
		for _, failing := range []bool{false, true} {
			if strings.HasPrefix(point, "undo") != failing {
				continue
			}
			t.Run(point, func(t *testing.T) {
				t.Parallel()
				stopped(t, "", point, failing, after)
			})
		}
	}
}

// TestStoppedOwnerIsFencedOnPostgres is the same where nobody may end the
// stopped process: its stale write must be refused.
func TestStoppedOwnerIsFencedOnPostgres(t *testing.T) {
	t.Parallel()
	pg := parts.StartPostgres(t)
	after := reference(t)
	for _, point := range []string{"intent.after:3", "outcome.before:3", "transition.commit.before:1"} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			stopped(t, pg.Database(t), point, false, after)
		})
	}
}

func stopped(t *testing.T, state, point string, failing bool, after map[string]string) {
	t.Helper()
	dir := stage(t, lastStep(failing))
	if state == "" {
		state = filepath.Join(dir, "state")
	}
	before := picture(t, filepath.Join(dir, "world"))
	first, out := launch(t, "deploy", dir, state, envStop+"="+point)
	waitStopped(t, first.Process.Pid)
	settle(t, dir, state)
	judge(t, dir, state, before, after, failing)
	settled := picture(t, filepath.Join(dir, "world"))
	if err := first.Process.Signal(syscall.SIGCONT); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatal(err)
	}
	err := first.Wait()
	// It is told that it is fenced; or, stopped while it held the database's
	// write lock, it was ended by the one that took over; or the server ended its
	// open transaction, or is gone for it, so that its write did not happen.
	told := slices.ContainsFunc([]string{"fenced", "lapsed", "idle-in-transaction", "context deadline exceeded"}, func(w string) bool { return strings.Contains(out.String(), w) })
	if err == nil || (!told && !signaled(err)) {
		t.Errorf("the stopped process ended with %v and said %q; it must be told that it is fenced", err, out.String())
	}
	if diff := cmp.Diff(settled, picture(t, filepath.Join(dir, "world"))); diff != "" {
		t.Errorf("the stale process changed the world:\n%s", diff)
	}
	judge(t, dir, state, before, after, failing)
}

// waitStopped waits until the kernel says that the process is stopped.
func waitStopped(t *testing.T, pid int) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(30 * time.Second)
	for {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(data), ") ")
		if strings.HasPrefix(rest, "T") {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("process %d was not stopped in 30 s (%s)", pid, rest[:1])
		}
	}
}

// reference deploys once without any kill: the world as it must be after a commit.
func reference(t *testing.T) map[string]string {
	t.Helper()
	dir := stage(t, lastStep(false))
	out, _ := spawn(t, "deploy", dir, filepath.Join(dir, "state"), "", 0)
	if strings.TrimSpace(out) != "proven" {
		t.Fatalf("the undisturbed deployment ended %q", out)
	}
	return picture(t, filepath.Join(dir, "world"))
}

func lastStep(failing bool) string {
	if failing {
		return "exit 7"
	}
	return "'true'"
}

// crash deploys, is killed, recovers (being killed once more on the way), and
// recovers again, which must change nothing.
func crash(t *testing.T, state, point string, delay time.Duration, failing bool, after map[string]string) {
	t.Helper()
	dir := stage(t, lastStep(failing))
	if state == "" {
		state = filepath.Join(dir, "state")
	}
	before := picture(t, filepath.Join(dir, "world"))
	_, killed := spawn(t, "deploy", dir, state, point, delay)
	if killed {
		// The recovery is killed too, at the same kind of point, and then goes on.
		spawn(t, "recover", dir, state, point, 0)
		settle(t, dir, state)
	}
	judge(t, dir, state, before, after, failing)
	once := picture(t, filepath.Join(dir, "world"))
	settle(t, dir, state)
	if diff := cmp.Diff(once, picture(t, filepath.Join(dir, "world"))); diff != "" {
		t.Errorf("recovering again changed the world:\n%s", diff)
	}
}
