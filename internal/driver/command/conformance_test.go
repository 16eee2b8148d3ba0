package command

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/drivertest"
	"github.com/backstay-dev/backstay/internal/proc"
)

// secrets are references and their values.
type secrets map[string]string

func (s secrets) Resolve(ref string) (string, error) {
	if v, ok := s[ref]; ok {
		return v, nil
	}
	return "", &backstay.Error{Class: backstay.NotFound, Op: "resolve", Subject: ref, Err: fs.ErrNotExist, Hint: "set it"}
}

const canary = "canary-4711-secret"

// world is a directory that the step's commands change.
type world struct{ spec, dir, data string }

func newWorld(t *testing.T) world {
	t.Helper()
	root := t.TempDir()
	w := world{filepath.Join(root, "spec"), filepath.Join(root, "world"), filepath.Join(root, "data")}
	for _, d := range []string{w.spec, w.dir, w.data} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	w.put(t, filepath.Join(w.dir, "kept.conf"), "old\n", 0o640)
	w.put(t, filepath.Join(w.dir, "gone.conf"), "to be removed\n", 0o600)
	return w
}

func (w world) put(tb testing.TB, path, content string, mode fs.FileMode) {
	tb.Helper()
	syscall.ForkLock.RLock() // who is forked now would keep a script from being run
	err := os.WriteFile(path, []byte(content), mode)
	syscall.ForkLock.RUnlock()
	if err != nil {
		tb.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		tb.Fatal(err)
	}
	// A fixed time: the suite compares two worlds made at different moments.
	if err := os.Chtimes(path, time.Time{}, time.Unix(1_700_000_000, 0)); err != nil {
		tb.Fatal(err)
	}
}

func (w world) read(tb testing.TB) map[string]string {
	tb.Helper()
	state := map[string]string{}
	err := filepath.WalkDir(w.dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(w.dir, p)
		text := info.Mode().String()
		if info.Mode().IsRegular() {
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			text += " " + string(b)
		}
		state[rel] = text
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	return state
}

func (w world) request(tb testing.TB, config map[string]any) backstay.Request {
	tb.Helper()
	return backstay.Request{
		ID: "warm", Config: backstay.Canonical(config), Dir: w.spec, DataDir: w.data, Release: "shop",
		Blobs: drivertest.NewBlobs(), Secrets: secrets{"secret:env/TOKEN": canary},
	}
}

// leftovers are processes that work in this world.
func (w world) leftovers(tb testing.TB) []string {
	tb.Helper()
	found, err := proc.Find(func(proc.Token) bool { return true })
	if err != nil {
		tb.Fatal(err)
	}
	var left []string
	for _, p := range found {
		if cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", p.PID)); err == nil && cwd == w.spec {
			left = append(left, fmt.Sprint(p.PID))
		}
	}
	return left
}

func (w world) fixture(t *testing.T, config map[string]any) drivertest.Fixture {
	t.Helper()
	script := filepath.Join(w.spec, "change.sh")
	w.put(t, script, "#!/bin/sh -eu\ncd '"+w.dir+"'\n: \"$TOKEN\"\n"+
		"echo new > kept.conf; sleep 0.02; chmod 600 kept.conf; rm -f gone.conf; mkdir -p made/deep; sleep 0.02; echo made > made/deep/file; touch -d @1700000001 kept.conf made/deep/file\n", 0o755)
	config["run"] = "./change.sh"
	config["env"] = map[string]string{"TOKEN": "secret:env/TOKEN"}
	return drivertest.Fixture{
		Kind: New(), Request: w.request(t, config), World: w.read, Leftovers: w.leftovers, Canaries: []string{canary},
		Spoil: func(tb testing.TB) {
			tb.Helper()
			w.put(tb, script, "#!/bin/sh\necho tampered > '"+w.dir+"/tampered'\n", 0o755)
		},
	}
}

func TestConformance(t *testing.T) {
	t.Parallel()
	delays := []time.Duration{15 * time.Millisecond, 35 * time.Millisecond}
	t.Run("touches", func(t *testing.T) {
		t.Parallel()
		drivertest.Run(t, drivertest.Suite{CancelAfter: delays, MaxCuts: 5, New: func(t *testing.T) drivertest.Fixture {
			t.Helper()
			w := newWorld(t)
			f := w.fixture(t, map[string]any{"touches": []string{w.dir}, "idempotent": true})
			f.Mutations = []drivertest.Mutation{
				{Name: "content", Apply: func(tb testing.TB) { tb.Helper(); w.put(tb, filepath.Join(w.dir, "kept.conf"), "theirs\n", 0o640) }},
				{Name: "a new file", Apply: func(tb testing.TB) { tb.Helper(); w.put(tb, filepath.Join(w.dir, "theirs"), "", 0o644) }},
			}
			return f
		}})
	})
	t.Run("touches and undo", func(t *testing.T) {
		t.Parallel()
		drivertest.Run(t, drivertest.Suite{CancelAfter: delays, MaxCuts: 3, New: func(t *testing.T) drivertest.Fixture {
			t.Helper()
			w := newWorld(t)
			// The undo command also dirties what is restored after it.
			return w.fixture(t, map[string]any{"touches": []string{w.dir}, "undo": "echo undone > '" + w.dir + "/undo.log'"})
		}})
	})
	t.Run("undo and read", func(t *testing.T) {
		t.Parallel()
		drivertest.Run(t, drivertest.Suite{CancelAfter: delays, MaxCuts: 3, New: func(t *testing.T) drivertest.Fixture {
			t.Helper()
			w := newWorld(t)
			value := filepath.Join(w.dir, "kept.conf")
			return drivertest.Fixture{
				Kind: New(), World: w.read, Leftovers: w.leftovers, Canaries: []string{canary},
				Request: w.request(t, map[string]any{
					"run":  []string{"sh", "-c", `sleep 0.02; echo new > "$1"; sleep 0.02`, "sh", value},
					"undo": []string{"sh", "-c", `echo old > "$1"`, "sh", value},
					"read": []string{"cat", value}, "idempotent": true,
					"env": map[string]string{"TOKEN": "secret:env/TOKEN"},
				}),
				Mutations: []drivertest.Mutation{{Name: "content", Apply: func(tb testing.TB) { tb.Helper(); w.put(tb, value, "theirs\n", 0o640) }}},
			}
		}})
	})
	t.Run("irreversible", func(t *testing.T) {
		t.Parallel()
		drivertest.Run(t, drivertest.Suite{MaxCuts: 2, New: func(t *testing.T) drivertest.Fixture {
			t.Helper()
			w := newWorld(t)
			return w.fixture(t, map[string]any{"irreversible": "mails are sent"})
		}})
	})
}
