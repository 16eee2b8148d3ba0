package service

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/drivertest"
	"github.com/backstay-dev/backstay/internal/proc"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	delays := []time.Duration{10 * time.Millisecond, 60 * time.Millisecond}
	for _, former := range []bool{false, true} {
		t.Run(fmt.Sprintf("with a former release %v", former), func(t *testing.T) {
			t.Parallel()
			drivertest.Run(t, drivertest.Suite{CancelAfter: delays, MaxCuts: 3, New: func(t *testing.T) drivertest.Fixture {
				t.Helper()
				w, config := newWorld(t), webConfig()
				if !former {
					config["instances"] = 1 // fewer processes: quicker
				}
				f := drivertest.Fixture{
					Kind: New(), World: w.read, Canaries: []string{canary},
					Request: w.request(w.artifact(t, "v2", "ok"), config),
					Spoil: func(tb testing.TB) {
						tb.Helper()
						if err := os.Remove(filepath.Join(w.spec, "web-v2")); err != nil {
							tb.Fatal(err)
						}
					},
				}
				if former {
					w.deploy(t, "former", "v1").settle(t, true)
					f.Mutations = []drivertest.Mutation{{Name: "an instance dies", Apply: func(tb testing.TB) { tb.Helper(); w.killOne(tb) }}}
				}
				return f
			}})
		})
	}
}

// killOne kills one server and waits until it is gone.
func (w world) killOne(tb testing.TB) {
	tb.Helper()
	all := w.processes()
	for pid := range all {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			tb.Fatal(err)
		}
		eventually(tb, "an end", func() bool { return len(w.processes()) < len(all) })
		return
	}
	tb.Fatal("there is no server to kill")
}

func eventually(tb testing.TB, what string, holds func() bool) {
	tb.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-deadline.C:
			tb.Fatalf("never: %s", what)
		case <-tick.C:
		}
	}
}

// hammer asks an endpoint without a pause until stop is called, which returns
// how often it was answered right and the first failure.
func hammer(t *testing.T, endpoint, want string) (stop func() (int, error)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	answers, failure := 0, error(nil)
	group.Go(func() {
		for ctx.Err() == nil {
			version, err := get("http://" + endpoint + "/")
			if err == nil && version != want {
				err = fmt.Errorf("answered %q", version)
			}
			if err != nil && failure == nil {
				failure = err
			}
			answers++
		}
	})
	return func() (int, error) {
		cancel()
		group.Wait()
		return answers, failure
	}
}

func TestCrashingReleaseLeavesTheOldOneAnswering(t *testing.T) {
	t.Parallel()
	// Only what never answers needs a short time to be ready in.
	for behaviour, within := range map[string]string{"crash": "20s", "deaf": "300ms", "sick": "3s"} {
		t.Run(behaviour, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.deploy(t, "first", "v1").settle(t, true)
			second := w.deploy(t, "second", "v2")
			if got := w.running(); got != "v1+v1+v2+v2" {
				t.Errorf("after v2, before it is proven, there run %q", got)
			}
			second.settle(t, true)
			if got := w.running(); got != "v2+v2" {
				t.Errorf("after v2 is proven there run %q", got)
			}
			before, endpoints := w.read(t), w.endpoints(t)
			stop := hammer(t, endpoints[0], "v2")

			f := drivertest.Fixture{Kind: New(), Request: w.request(w.artifact(t, "v3", behaviour), withReady(within))}
			third := &deployment{drivertest.NewTrial(t, f), "third", 1}
			third.begin(t)
			err := third.do(t)
			if err == nil {
				t.Fatal("v3 was deployed")
			}
			checkStartError(t, err, behaviour)
			third.undo(t)
			third.settle(t, false)
			answers, failure := stop()
			if failure != nil || answers == 0 {
				t.Errorf("of %d requests to v2's old port one failed: %v", answers, failure)
			}
			if diff := cmp.Diff(before, w.read(t)); diff != "" {
				t.Errorf("the world differs (-before +after):\n%s", diff)
			}
			if diff := cmp.Diff(endpoints, w.endpoints(t)); diff != "" {
				t.Errorf("the ports differ:\n%s", diff)
			}
		})
	}
}

func withReady(within string) map[string]any {
	c := webConfig()
	c["ready"] = map[string]any{"http": "/healthz", "within": within}
	if within != "" {
		c["drain"] = "1s"
	}
	return c
}

func checkStartError(t *testing.T, err error, behaviour string) {
	t.Helper()
	says := map[string]string{"crash": "exited with status 3", "deaf": "not ready within 300ms", "sick": "status 503"}[behaviour]
	if !strings.Contains(err.Error(), says) {
		t.Errorf("error %q does not say %q", err, says)
	}
	path, ok := strings.CutPrefix(backstay.HintOf(err), "see ")
	if !ok {
		t.Fatalf("hint %q does not name the log", backstay.HintOf(err))
	}
	log, readErr := os.ReadFile(path)
	if readErr != nil || behaviour == "crash" && string(log) != "crashing as told\n" {
		t.Errorf("log %q, %v", log, readErr)
	}
	if strings.Contains(err.Error(), canary) {
		t.Errorf("the error shows a secret: %v", err)
	}
}

func TestUndoStartsAgainWhatDied(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.deploy(t, "first", "v1").settle(t, true)
	old := w.processes()
	second := w.deploy(t, "second", "v2")
	for pid := range old {
		_ = syscall.Kill(pid, syscall.SIGKILL)
		break
	}
	eventually(t, "an end", func() bool { return w.running() == "v1+v2+v2" })
	second.undo(t)
	second.settle(t, false)
	want := map[string]string{"running": "v1+v1", "endpoint 0": "v1", "endpoint 1": "v1"}
	if diff := cmp.Diff(want, w.read(t)); diff != "" {
		t.Errorf("world (-want +got):\n%s", diff)
	}
	kept := 0
	for pid := range w.processes() {
		if _, same := old[pid]; same {
			kept++
		}
	}
	if kept != 1 {
		t.Errorf("%d old instances live on, want the one that had not died", kept)
	}
}

// The same release once more, rolled back: the state never differed, so the
// engine has nothing to undo, and settling must tell the instances apart.
func TestRolledBackRepetitionLeavesTheOldInstances(t *testing.T) {
	t.Parallel()
	for _, died := range []bool{false, true} {
		t.Run(fmt.Sprintf("one had died %v", died), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.deploy(t, "first", "v1").settle(t, true)
			old, before := w.endpoints(t), w.read(t)
			again := w.deploy(t, "again", "v1")
			if got := w.running(); got != "v1+v1+v1+v1" {
				t.Errorf("there run %q", got)
			}
			if died {
				w.killPort(t, old[0])
			}
			again.settle(t, false)
			if diff := cmp.Diff(before, w.read(t)); diff != "" {
				t.Errorf("the world differs (-before +after):\n%s", diff)
			}
			if same := slices.Equal(old, w.endpoints(t)); same == died {
				t.Errorf("the old ports are current: %v", same)
			}
		})
	}
}

// killPort kills the recorded instance with an endpoint.
func (w world) killPort(tb testing.TB, endpoint string) {
	tb.Helper()
	all, err := openStore(w.data, "web").instances()
	if err != nil {
		tb.Fatal(err)
	}
	for _, i := range all {
		if address(i.Port) == endpoint {
			if err := i.Signal(9); err != nil {
				tb.Fatal(err)
			}
			eventually(tb, "its end", func() bool { return !i.Alive() })
		}
	}
}

// A revert is a new deployment whose undo brings back an image of long ago:
// its instances were stopped and are started from stored content.
func TestRevertStartsAFormerRelease(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := w.deploy(t, "first", "v1")
	first.settle(t, true)
	second := w.deploy(t, "second", "v2")
	second.settle(t, true)
	if err := removeTree(filepath.Join(w.data, "releases")); err != nil {
		t.Fatal(err)
	}
	second.name = "third" // the engine calls the undo under the new deployment
	second.undo(t)
	if got := w.read(t); got["endpoint 0"] != "v1" || got["running"] != "v1+v1+v2+v2" {
		t.Errorf("after the revert: %v", got)
	}
	second.settle(t, true)
	if got := w.running(); got != "v1+v1" {
		t.Errorf("after it is proven there run %q", got)
	}
}

func TestReapEndsOnlyWhatIsNotCurrent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := w.deploy(t, "first", "v1")
	b, err := decode(d.Step)
	if err != nil {
		t.Fatal(err)
	}
	s := openStore(w.data, "web")
	// An instance that was started and recorded, and one whose record a crash
	// prevented.
	call := d.call()
	l := launcher{store: s, call: call, definition: b.Definition, digest: b.Digest, set: setOf(call)}
	extra, err := l.launch(t.Context(), 2)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(s.dir, s.recordPath(extra[0].ID))); err != nil {
		t.Fatal(err)
	}
	if err := New().Reap(t.Context(), call); err != nil {
		t.Fatal(err)
	}
	if got := w.running(); got != "v1+v1+v1+v1" {
		t.Errorf("reaping under the same epoch left %q", got)
	}
	call.Token.Epoch++
	if err := New().Reap(t.Context(), call); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"running": "v1+v1", "endpoint 0": "v1", "endpoint 1": "v1"}, w.read(t)); diff != "" {
		t.Errorf("world (-want +got):\n%s", diff)
	}
	all, err := s.instances()
	if err != nil || len(all) != 2 {
		t.Errorf("%d records, %v; want those of the current instances", len(all), err)
	}
}

// A rolled back deployment leaves nothing of its own, even what no undo knew
// of, and touches no other deployment's instances.
func TestSettleAfterARollback(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.deploy(t, "first", "v1") // not settled: its own matter
	d := w.plan(t, "second", "v2", "ok")
	d.begin(t)
	b, err := decode(d.Step)
	if err != nil {
		t.Fatal(err)
	}
	call := d.call()
	l := launcher{store: openStore(w.data, "web"), call: call, definition: b.Definition, digest: b.Digest, set: setOf(call)}
	if _, err := l.launch(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	d.settle(t, false)
	if got := w.running(); got != "v1+v1" {
		t.Errorf("there run %q", got)
	}
}

func TestAReusedPidIsNotStopped(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := w.deploy(t, "first", "v1")
	s := openStore(w.data, "web")
	all, err := s.instances()
	if err != nil {
		t.Fatal(err)
	}
	// A record of before: its pid now belongs to a process that started later.
	stale := all[0]
	stale.ID, stale.Set, stale.Start = "stale", "older/service-1", stale.Start-1
	if err := s.record(stale); err != nil {
		t.Fatal(err)
	}
	d.settle(t, true)
	if got := w.running(); got != "v1+v1" {
		t.Errorf("there run %q", got)
	}
	if all, err = s.instances(); err != nil || len(all) != 2 {
		t.Errorf("%d records, %v; the stale one should be gone", len(all), err)
	}
}

func TestStubbornInstanceIsKilledAfterItsDrain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	f := drivertest.Fixture{Kind: New(), Request: w.request(w.artifact(t, "v1", "stubborn"), withReady("20s"))}
	d := &deployment{drivertest.NewTrial(t, f), "first", 1}
	d.begin(t)
	if err := d.do(t); err != nil {
		t.Fatal(err)
	}
	d.undo(t)
	if got := w.running(); got != "" {
		t.Errorf("there run %q", got)
	}
	if got := w.endpoints(t); got != nil {
		t.Errorf("endpoints %v of a service that was never there", got)
	}
}

func TestCancelledStartLeavesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := w.plan(t, "first", "v1", "deaf")
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("the lease lapsed")
	done := make(chan error, 1)
	go func() {
		_, err := New().Do(ctx, d.call())
		done <- err
	}()
	eventually(t, "a start", func() bool { return w.running() == "v1+v1" })
	cancel(why)
	if err := <-done; !errors.Is(err, context.Canceled) || !errors.Is(err, why) {
		t.Errorf("error %v, want the context's and its cause", err)
	}
	if got := w.running(); got != "" {
		t.Errorf("there run %q", got)
	}
}

func TestSecretsReachTheService(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.deploy(t, "first", "v1")
	got, err := get("http://" + w.endpoints(t)[0] + "/secret")
	if err != nil || got != canary {
		t.Errorf("the service has TOKEN=%q, %v", got, err)
	}
	err = filepath.WalkDir(w.data, func(p string, e os.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(p)
		if err == nil && strings.Contains(string(b), canary) {
			t.Errorf("%s holds the secret", p)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestPruneKeepsWhatIsUsed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := w.deploy(t, "first", "v1")
	r := releases{w.data}
	for i := range 6 {
		dir := filepath.Join(r.dir(), fmt.Sprint("old", i))
		if err := os.MkdirAll(filepath.Join(dir, "sub"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := lockModes(dir); err != nil {
			t.Fatal(err)
		}
		at := time.Unix(int64(1_700_000_000+i), 0)
		if err := os.Chtimes(dir, at, at); err != nil {
			t.Fatal(err)
		}
	}
	d.settle(t, true)
	entries, err := os.ReadDir(r.dir())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, strings.TrimRight(e.Name(), "0123456789abcdef-")+e.Name()[len(e.Name())-2:])
		}
	}
	want := []string{"old3", "old4", "old5"}
	for _, n := range want {
		if !slices.ContainsFunc(entries, func(e os.DirEntry) bool { return e.Name() == n }) {
			t.Errorf("%s is gone; left: %v", n, names)
		}
	}
	if len(names) != 4 {
		t.Errorf("left: %v, want the used one and %v", names, want)
	}
}

func TestObserveOfADamagedRecordIsUnreadable(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := w.deploy(t, "first", "v1")
	if err := os.WriteFile(filepath.Join(w.data, "services", "web", "current"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	image := d.Observe(t, false)
	if image[keyOf("web")].Unreadable == "" {
		t.Errorf("image %v", image)
	}
}

func TestPrepareRefuses(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		alter func(config map[string]any, req *backstay.Request)
		path  string
		says  string
	}{
		{"name that is a path", func(_ map[string]any, r *backstay.Request) {
			r.Config = backstay.Canonical(map[string]string{"service": "../web"})
		}, "service", "not a name"},
		{"no such service", func(_ map[string]any, r *backstay.Request) {
			r.Config = backstay.Canonical(map[string]string{"service": "other"})
		}, "service", "no service"},
		{"no such artifact", func(c map[string]any, _ *backstay.Request) { c["artifact"] = "none" }, "service.artifact", "no artifact"},
		{"artifact that changed", func(_ map[string]any, r *backstay.Request) {
			a := r.Artifacts["web"]
			a.SHA256 = strings.Repeat("0", 64)
			r.Artifacts = map[string]backstay.Artifact{"web": a}
		}, "service.artifact", "has the digest"},
		{"empty command", func(c map[string]any, _ *backstay.Request) { c["command"] = []string{} }, "service.command", "empty"},
		{"unknown placeholder", func(c map[string]any, _ *backstay.Request) { c["command"] = []string{"{artefact}", "{port}"} }, "service.command[0]", "{artefact}"},
		{"no port for http", func(c map[string]any, _ *backstay.Request) { c["command"] = []string{"{artifact}", "{instance}"} }, "service.command", "its port"},
		{"instances alike", func(c map[string]any, _ *backstay.Request) {
			c["command"], c["ready"] = []string{"{artifact}"}, map[string]any{"run": []string{"true"}}
		}, "service.command", "the same way"},
		{"no readiness", func(c map[string]any, _ *backstay.Request) { delete(c, "ready") }, "service.ready", "exactly one"},
		{"two readinesses", func(c map[string]any, _ *backstay.Request) { c["ready"] = map[string]any{"http": "/", "tcp": true} }, "service.ready", "exactly one"},
		{"ready path that is an address", func(c map[string]any, _ *backstay.Request) { c["ready"] = map[string]any{"http": "@169.254.169.254/"} }, "service.ready.http", "not a path"},
		{"too many instances", func(c map[string]any, _ *backstay.Request) { c["instances"] = 101 }, "service.instances", "101"},
		{"directory outside", func(c map[string]any, _ *backstay.Request) { c["dir"] = "../x" }, "service.dir", "leads out"},
		{"loader variable", func(c map[string]any, _ *backstay.Request) { c["env"] = map[string]string{"LD_PRELOAD": "/x.so"} }, "service.env.LD_PRELOAD", "load other code"},
		{"own variable", func(c map[string]any, _ *backstay.Request) { c["env"] = map[string]string{"BACKSTAY_TOKEN": "x"} }, "service.env.BACKSTAY_TOKEN", "own"},
		{"unknown secret", func(c map[string]any, _ *backstay.Request) { c["env"] = map[string]string{"T": "secret:env/NONE"} }, "service.env.T", "secret:env/NONE"},
		{"unknown user", func(c map[string]any, _ *backstay.Request) { c["user"] = "nobody-of-that-name" }, "service.user", "unknown user"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			config := webConfig()
			req := w.request(w.artifact(t, "v1", "ok"), config)
			tt.alter(config, &req)
			req.Sections = w.request(backstay.Artifact{}, config).Sections
			_, err := New().Prepare(t.Context(), req)
			var refused *backstay.RefusedError
			if !errors.As(err, &refused) {
				t.Fatalf("error %v, want a refusal", err)
			}
			if !slices.ContainsFunc(refused.Problems, func(p backstay.Problem) bool {
				return p.Path == tt.path && strings.Contains(p.Message, tt.says)
			}) {
				t.Errorf("problems %s, want one at %s that says %q", drivertest.Explain(err), tt.path, tt.says)
			}
		})
	}
}

func TestRunAsAnotherUser(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can run a service as another user")
	}
	env := map[string]string{"HOME": "/declared"}
	cred, err := credential("nobody", env)
	if err != nil {
		t.Skipf("this host has no user nobody: %v", err)
	}
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := proc.StartDetached(proc.Command{Argv: []string{"sh", "-c", "id -u; echo $HOME $USER"}, Dir: "/", Env: env, Credential: cred}, log)
	if err != nil {
		t.Fatal(err)
	}
	if !p.Exit().OK() {
		t.Fatalf("it %s", p.Exit())
	}
	got, err := os.ReadFile(log.Name())
	if want := fmt.Sprintf("%d\n/declared nobody\n", cred.Uid); err != nil || string(got) != want {
		t.Errorf("it printed %q, %v; want %q", got, err, want)
	}
}
