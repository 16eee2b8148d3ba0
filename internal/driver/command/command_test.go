package command

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/drivertest"
	"github.com/backstay-dev/backstay/internal/proc"
)

func (w world) trial(t *testing.T, config map[string]any) *drivertest.Trial {
	t.Helper()
	return drivertest.NewTrial(t, drivertest.Fixture{Kind: New(), Request: w.request(t, config)})
}

func TestPromise(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	touched := backstay.Key("file:" + w.dir)
	type promise struct {
		Class      backstay.Class
		Effect     backstay.Effect
		Keys       []backstay.Key
		Restorable bool
		HasUndo    bool
		Readable   bool
	}
	tests := []struct {
		name   string
		config map[string]any
		want   promise
	}{
		{"undo", map[string]any{"undo": "true"}, promise{backstay.Compensated, backstay.AtMostOnce, []backstay.Key{"run:shop/warm"}, false, true, false}},
		{"undo and probe", map[string]any{"undo": "true", "probe": "true"}, promise{backstay.Compensated, backstay.Probed, []backstay.Key{"run:shop/warm"}, false, true, false}},
		{"undo and read", map[string]any{"undo": "true", "read": "true"}, promise{backstay.Equivalent, backstay.Probed, []backstay.Key{"run:shop/warm"}, false, true, true}},
		{"idempotent", map[string]any{"undo": "true", "idempotent": true}, promise{backstay.Compensated, backstay.Idempotent, []backstay.Key{"run:shop/warm"}, false, true, false}},
		{"touches", map[string]any{"touches": []string{w.dir}}, promise{backstay.Exact, backstay.Probed, []backstay.Key{touched}, true, true, true}},
		{"touches and undo", map[string]any{"touches": []string{w.dir}, "undo": "true"}, promise{backstay.Compensated, backstay.Probed, []backstay.Key{touched, "run:shop/warm"}, true, true, false}},
		{"touches, undo and read", map[string]any{"touches": []string{w.dir}, "undo": "true", "read": "true"}, promise{backstay.Equivalent, backstay.Probed, []backstay.Key{touched, "run:shop/warm"}, true, true, true}},
		{"irreversible", map[string]any{"irreversible": "mails"}, promise{backstay.Irreversible, backstay.AtMostOnce, []backstay.Key{"run:shop/warm"}, false, false, false}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.config["run"] = "true"
			p := w.trial(t, tt.config).Step.Prepared
			got := promise{p.Class, p.Effect, p.Keys, p.Restorable, p.HasUndo, p.ReadSummary != ""}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("promise (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPrepareRefuses(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		config func(w world) map[string]any
		path   string
		says   string
	}{
		{"nothing to undo by", func(world) map[string]any { return map[string]any{} }, "run", "how to take this back"},
		{"undo and irreversible", func(world) map[string]any { return map[string]any{"undo": "true", "irreversible": "x"} }, "irreversible", "not irreversible"},
		{"blank reason", func(world) map[string]any { return map[string]any{"irreversible": " "} }, "irreversible", "blank"},
		{"empty command", func(world) map[string]any { return map[string]any{"run": " ", "undo": "true"} }, "run", "empty"},
		{"empty list", func(world) map[string]any { return map[string]any{"undo": []string{}} }, "undo", "empty"},
		{"NUL byte", func(world) map[string]any { return map[string]any{"run": "a\x00b", "undo": "true"} }, "run", "NUL"},
		{"ignore without touches", func(world) map[string]any { return map[string]any{"undo": "true", "ignore": []string{"x"}} }, "ignore", "no touched"},
		{"bad pattern", func(w world) map[string]any {
			return map[string]any{"touches": []string{w.dir}, "ignore": []string{"[x"}}
		}, "ignore[0]", "not a pattern"},
		{"everything", func(world) map[string]any { return map[string]any{"touches": []string{"/"}} }, "touches[0]", "whole file system"},
		{"the ledger", func(w world) map[string]any { return map[string]any{"touches": []string{w.data + "/../data"}} }, "touches[0]", "own data"},
		{"above the ledger", func(w world) map[string]any { return map[string]any{"touches": []string{filepath.Dir(w.data)}} }, "touches[0]", "own data"},
		{"one path in another", func(w world) map[string]any { return map[string]any{"touches": []string{w.dir, w.dir + "/kept.conf"}} }, "touches[1]", "overlaps"},
		{"a FIFO", func(w world) map[string]any {
			_ = exec.Command("mkfifo", filepath.Join(w.dir, "fifo")).Run()
			return map[string]any{"touches": []string{w.dir}}
		}, "touches[0]", "cannot be restored"},
		{"loader", func(world) map[string]any {
			return map[string]any{"undo": "true", "env": map[string]string{"LD_PRELOAD": "/x"}}
		}, "env.LD_PRELOAD", "load other code"},
		{"loader path", func(world) map[string]any {
			return map[string]any{"undo": "true", "pass-env": []string{"LD_LIBRARY_PATH"}}
		}, "pass-env[0]", "load other code"},
		{"own variable", func(world) map[string]any {
			return map[string]any{"undo": "true", "env": map[string]string{"BACKSTAY_TOKEN": "x"}}
		}, "env.BACKSTAY_TOKEN", "own"},
		{"relative PATH", func(world) map[string]any {
			return map[string]any{"undo": "true", "env": map[string]string{"PATH": "/bin:."}}
		}, "env.PATH", "not absolute"},
		{"no variable", func(world) map[string]any { return map[string]any{"undo": "true", "env": map[string]string{"1A": "x"}} }, "env.1A", "not a name"},
		{"unknown secret", func(world) map[string]any {
			return map[string]any{"undo": "true", "env": map[string]string{"A": "secret:env/NONE"}}
		}, "env.A", "secret:env/NONE"},
		{"twice", func(world) map[string]any {
			return map[string]any{"undo": "true", "env": map[string]string{"A": "x"}, "pass-env": []string{"A"}}
		}, "pass-env[0]", "also set"},
		{"script without its mode", func(w world) map[string]any {
			_ = os.WriteFile(filepath.Join(w.spec, "plain.sh"), nil, 0o600)
			return map[string]any{"run": "./plain.sh --x", "undo": "true"}
		}, "run", "not executable"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			config := tt.config(w)
			if config["run"] == nil {
				config["run"] = "true"
			}
			_, err := New().Prepare(t.Context(), w.request(t, config))
			var refused *backstay.RefusedError
			if !errors.As(err, &refused) || !slices.ContainsFunc(refused.Problems, func(p backstay.Problem) bool {
				return p.Path == tt.path && strings.Contains(p.Message, tt.says)
			}) {
				t.Errorf("problems %s, want one at %s that says %q", drivertest.Explain(err), tt.path, tt.says)
			}
		})
	}
}

func TestFirstWord(t *testing.T) {
	t.Parallel()
	tests := []struct {
		line Line
		want string // "" means: not a relative path
	}{
		{Line{Shell: "./a.sh"}, "./a.sh"},
		{Line{Shell: "bin/a.sh --flag x"}, "bin/a.sh"},
		{Line{Shell: "./a.sh;true"}, "./a.sh"},
		{Line{Shell: "./a.sh\ntrue"}, "./a.sh"},
		{Line{Shell: "./a$X.sh"}, ""},
		{Line{Shell: `./a\ b.sh`}, ""},
		{Line{Shell: `"./a b.sh"`}, ""},
		{Line{Shell: "a.sh"}, ""},
		{Line{Shell: "/bin/true"}, ""},
		{Line{Shell: "X=1 ./a.sh"}, ""},
		{Line{Shell: "./a*"}, ""},
		{Line{Argv: []string{"./a b.sh", "x"}}, "./a b.sh"},
		{Line{Argv: []string{"sh", "./a.sh"}}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.line.String(), func(t *testing.T) {
			t.Parallel()
			got, ok := firstWord(tt.line)
			if !ok {
				got = ""
			}
			if got != tt.want {
				t.Errorf("first word %q, want %q", got, tt.want)
			}
		})
	}
}

// The script runs as it was planned, whatever becomes of its file; the copy is
// private, and a tampered copy is written anew.
func TestPinnedScripts(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		run   any
		spoil func(w world, script string) error
	}{
		{"unchanged", "./it's.sh", func(world, string) error { return nil }},
		{"removed", []string{"./it's.sh", "arg"}, func(_ world, s string) error { return os.Remove(s) }},
		{"changed", []string{"./it's.sh", "arg"}, func(_ world, s string) error { return os.WriteFile(s, []byte("#!/bin/sh\necho evil"), 0o755) }},
		{"removed, shell", "./its.sh arg; echo after", func(_ world, s string) error { return os.Remove(strings.Replace(s, "'", "", 1)) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			script := filepath.Join(w.spec, "it's.sh")
			for _, s := range []string{script, filepath.Join(w.spec, "its.sh")} {
				if err := os.WriteFile(s, []byte("#!/bin/sh\necho planned $1 $(basename \"$0\")"), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if tt.name == "unchanged" {
				tt.run = []string{"./it's.sh", "arg"}
			}
			tr := w.trial(t, map[string]any{"run": tt.run, "irreversible": "x"})
			if err := tt.spoil(w, script); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				var out bytes.Buffer
				call := tr.Call()
				call.Output = &out
				if _, err := New().Do(t.Context(), call); err != nil {
					t.Fatal(err)
				}
				if !strings.HasPrefix(out.String(), "planned arg it") {
					t.Errorf("it ran %q", out.String())
				}
				copies, _ := filepath.Glob(filepath.Join(w.data, "scripts", "*", "*"))
				if (len(copies) == 0) != (tt.name == "unchanged") {
					t.Errorf("copies: %v", copies)
				}
				for _, c := range copies {
					if st, err := os.Stat(c); err != nil || st.Mode() != 0o700 {
						t.Errorf("copy has mode %v, %v", st.Mode(), err)
					}
					if err := os.WriteFile(c, []byte("#!/bin/sh\necho evil"), 0o700); err != nil {
						t.Fatal(err)
					}
				}
			}
		})
	}
}

func TestScriptLinkedFromOutsideIsNotPinned(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if err := os.Symlink("/bin/true", filepath.Join(w.spec, "true")); err != nil {
		t.Fatal(err)
	}
	p := w.trial(t, map[string]any{"run": "./true", "irreversible": "x"}).Step.Prepared
	if len(p.Blobs) != 0 || len(p.Warnings) != 1 || !strings.Contains(p.Warnings[0], "not pinned") {
		t.Errorf("blobs %v, warnings %v", p.Blobs, p.Warnings)
	}
}

func TestEnvironmentIsExplicit(t *testing.T) {
	t.Setenv("SHOP_PASSED", "passed")
	t.Setenv("SHOP_LEAK", "leak")
	w := newWorld(t)
	tr := w.trial(t, map[string]any{
		"run": `echo "$SHOP_PASSED $TOKEN $BACKSTAY_STEP $BACKSTAY_ACT $BACKSTAY_IDEMPOTENCY_KEY ${SHOP_LEAK-unset}/${HOME-unset} $(pwd)"`, "irreversible": "x",
		"pass-env": []string{"SHOP_PASSED", "SHOP_UNSET"}, "env": map[string]string{"TOKEN": "secret:env/TOKEN"}, "dir": w.dir,
	})
	var out bytes.Buffer
	call := tr.Call()
	call.Output = &out
	if _, err := New().Do(t.Context(), call); err != nil {
		t.Fatal(err)
	}
	if want := "passed " + canary + " warm run " + call.IdempotencyKey + " unset/unset " + w.dir + "\n"; out.String() != want {
		t.Errorf("it saw %q, want %q", out.String(), want)
	}
}

func TestErrors(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		run   any
		class backstay.ErrorClass
		says  string
	}{
		{"status", "echo $TOKEN; echo $TOKEN >&2; exit 3", backstay.Permanent, "exited with status 3 (see output)"},
		{"try again", "exit 75", backstay.Transient, "status 75"},
		{"no such command", "no-such-command", backstay.Permanent, "status 127"},
		{"no such program", []string{"no-such-program"}, backstay.NotFound, "not found"},
		{"unset variable", "echo $NO_SUCH_VARIABLE", backstay.Permanent, "exited with status"},
		{"killed", "kill -9 $$", backstay.Permanent, "was ended by SIGKILL"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			tr := w.trial(t, map[string]any{"run": tt.run, "irreversible": "x", "env": map[string]string{"TOKEN": "secret:env/TOKEN"}})
			_, err := New().Do(t.Context(), tr.Call())
			if err == nil || backstay.ClassOf(err) != tt.class || !strings.Contains(err.Error(), tt.says) {
				t.Fatalf("error %v of class %q, want class %q and %q", err, backstay.ClassOf(err), tt.class, tt.says)
			}
			if strings.Contains(err.Error()+backstay.HintOf(err), canary) {
				t.Errorf("the error shows a secret: %v", err)
			}
		})
	}
}

func TestReadIsBoundedAndHonest(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		read string
		want string // the value
		why  string // or why it is unreadable
	}{
		{"trimmed", "echo; echo ' v1 '; echo log >&2", `"v1"`, ""},
		{"empty", "true", `""`, ""},
		{"failed", "echo v1; exit 2", "", "status 2"},
		{"no text", `printf '\377'`, "", "UTF-8"},
		{"endless", "yes", "", "more than 1024 KiB"},
		{"a secret", `echo "x${TOKEN}y"`, "", "secret:env/TOKEN"},
		{"no such program", "exec /no/such", "", "status 127"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			tr := w.trial(t, map[string]any{"run": "true", "undo": "true", "read": tt.read, "env": map[string]string{"TOKEN": "secret:env/TOKEN"}})
			state := tr.Observe(t, false)["run:shop/warm"]
			if got := string(state.Parts[""]); got != tt.want {
				t.Errorf("value %s, want %s", got, tt.want)
			}
			if (state.Unreadable == "") != (tt.why == "") || !strings.Contains(state.Unreadable, tt.why) || strings.Contains(state.Unreadable, canary) {
				t.Errorf("unreadable: %q, want %q", state.Unreadable, tt.why)
			}
		})
	}
}

func TestProbe(t *testing.T) {
	t.Parallel()
	for status, want := range map[string]backstay.Finding{"0": backstay.Applied, "1": backstay.NotApplied, "2": backstay.Unknown, "75": backstay.Unknown} {
		t.Run(status, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			tr := w.trial(t, map[string]any{"run": "true", "undo": "true", "probe": "exit " + status})
			got, err := New().Probe(t.Context(), tr.Call())
			if err != nil || got != want {
				t.Errorf("finding %s, %v; want %s", got, err, want)
			}
		})
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	tests := []struct {
		run     string
		timeout time.Duration
		want    backstay.Verdict
		says    string
	}{
		{"exit 0", time.Minute, backstay.Pass, "status 0"},
		{"exit 1", time.Minute, backstay.Fail, "status 1"},
		{"trap '' TERM; sleep 60", 300 * time.Millisecond, backstay.Fail, "took longer than 300ms"},
	}
	for _, tt := range tests {
		t.Run(tt.run, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			req := w.request(t, map[string]any{"run": tt.run})
			req.Timeout = backstay.Duration(tt.timeout)
			p, err := New().PrepareCheck(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			got, err := New().Check(t.Context(), backstay.Call{Step: backstay.Step{ID: "c", Prepared: p}, DataDir: w.data})
			if err != nil || got.Verdict != tt.want || !strings.Contains(got.Reason, tt.says) {
				t.Errorf("%+v, %v; want %s and %q", got, err, tt.want, tt.says)
			}
		})
	}
}

// A step that is late is killed whole, even what ignores SIGTERM, called setsid
// and double-forked; then its paths are restored.
func TestLateStepIsKilledWhole(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	tr := w.trial(t, map[string]any{
		"touches": []string{w.dir}, "run": "trap '' TERM; cd '" + w.dir + "'\n" +
			`( setsid sh -c 'trap "" TERM; while :; do date > forked; done' & )` + "\nwhile :; do date > kept.conf; done",
	})
	before := w.read(t)
	tr.Begin(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- tr.Do(ctx) }()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for range tick.C {
		if _, err := os.Stat(filepath.Join(w.dir, "forked")); err == nil {
			break
		}
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v", err)
	}
	if err := tr.Undo(t, t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, w.read(t)); diff != "" {
		t.Errorf("the world differs (-before +now):\n%s", diff)
	}
}

func TestUndoKeepsAnOutsidersChange(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	tr := w.trial(t, map[string]any{"touches": []string{w.dir}, "run": "echo ours > '" + w.dir + "/kept.conf'; rm '" + w.dir + "/gone.conf'"})
	tr.Begin(t)
	if err := tr.Do(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.put(t, filepath.Join(w.dir, "kept.conf"), "theirs\n", 0o640)
	call := tr.Call()
	call.Restore = map[backstay.Key][]string{backstay.Key("file:" + w.dir): {"gone.conf", ""}} // what the engine found to be ours
	if _, err := New().Undo(t.Context(), call); err != nil {
		t.Fatal(err)
	}
	got := w.read(t)
	if !strings.Contains(got["kept.conf"], "theirs") || !strings.Contains(got["gone.conf"], "to be removed") {
		t.Errorf("world %v", got)
	}
}

func TestBackground(t *testing.T) {
	t.Parallel()
	for _, background := range []bool{false, true} {
		w := newWorld(t)
		tr := w.trial(t, map[string]any{"run": "sleep 1000 >/dev/null 2>&1 &", "irreversible": "x", "background": background})
		call := tr.Call()
		call.Deployment = "background-" + filepath.Base(filepath.Dir(w.spec)) + t.Name()
		call.Deployment = strings.ReplaceAll(call.Deployment, "/", "-")
		result, err := New().Do(t.Context(), call)
		if err != nil {
			t.Fatal(err)
		}
		running := func() int {
			found, err := proc.Find(func(o proc.Token) bool { return o.Deployment == call.Deployment })
			if err != nil {
				t.Fatal(err)
			}
			return len(found)
		}
		if got := running(); (got == 1) != background {
			t.Errorf("background %v: %d processes run", background, got)
		}
		if (result.Note != "") == background {
			t.Errorf("background %v: note %q", background, result.Note)
		}
		call.Token.Epoch++
		if err := New().Reap(t.Context(), call); err != nil {
			t.Fatal(err)
		}
		if got := running(); got != 0 {
			t.Errorf("after reaping %d processes run", got)
		}
	}
}

// FuzzLine looks for lines that do not survive their own form.
func FuzzLine(f *testing.F) {
	f.Add([]byte(`"./a.sh x"`))
	f.Add([]byte(`["a","b c"]`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var l, again Line
		if json.Unmarshal(data, &l) != nil {
			return
		}
		_, _ = firstWord(l)
		if err := json.Unmarshal(backstay.Canonical(l), &again); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(l, again); diff != "" {
			t.Errorf("it changed (-before +after):\n%s", diff)
		}
	})
}
