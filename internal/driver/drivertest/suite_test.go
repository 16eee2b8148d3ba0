package drivertest_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver"
	"github.com/backstay-dev/backstay/internal/driver/drivertest"
)

// note is a kind that writes two files, and that can be broken in every way
// that the suite is there to notice.
type note struct{ bug, dir string }

var _ driver.Kind = note{}

const noteKey = backstay.Key("note:it")

func (note) Name() string { return "note" }
func (note) Config() any  { return nil }

func (n note) Prepare(_ context.Context, req backstay.Request) (backstay.Prepared, error) {
	secret := "secret:env/X"
	if n.bug == "secret in body" {
		secret = "canary"
	}
	if n.bug == "prepare writes" {
		if err := n.write("one", "prepared"); err != nil {
			return backstay.Prepared{}, err
		}
	}
	want := backstay.Image{noteKey: n.state(map[string]string{"one": "new", "two": "new"})}
	if n.bug == "wrong want" {
		want = backstay.Image{noteKey: n.state(map[string]string{"one": "other"})}
	}
	return backstay.Prepared{
		Kind: "note", Body: backstay.Canonical(map[string]string{"secret": secret}), Keys: []backstay.Key{noteKey},
		Class: backstay.Exact, Effect: backstay.Idempotent, Fence: backstay.Leased, Window: 1, Restorable: true, HasUndo: true,
		Want: want, Timeout: 1, UndoTimeout: 1, Summary: "write a note",
	}, nil
}

func (n note) state(files map[string]string) backstay.ResourceState {
	s := backstay.ResourceState{Parts: map[string]json.RawMessage{}}
	for name, content := range files {
		s.Parts[name] = backstay.Canonical(content)
	}
	return s
}

func (n note) write(name, content string) error {
	return os.WriteFile(filepath.Join(n.dir, name), []byte(content), 0o600)
}

func (n note) read() (map[string]string, error) {
	files := map[string]string{}
	for _, name := range []string{"one", "two"} {
		b, err := os.ReadFile(filepath.Join(n.dir, name))
		if err == nil {
			files[name] = string(b)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return files, nil
}

func (n note) Observe(_ context.Context, _ backstay.Call) (backstay.Image, error) {
	files, err := n.read()
	if err != nil {
		return nil, err
	}
	switch n.bug {
	case "observe is blind":
		delete(files, "two")
	case "observe writes":
		if err := n.write("seen", "x"); err != nil {
			return nil, err
		}
	case "observe leaves out the key":
		return backstay.Image{}, nil
	}
	return backstay.Image{noteKey: n.state(files)}, nil
}

func (n note) Do(ctx context.Context, call backstay.Call) (backstay.Result, error) {
	if n.bug != "do ignores the context" && ctx.Err() != nil {
		return backstay.Result{}, ctx.Err()
	}
	if n.bug != "do ignores the lease" && n.bug != "do ignores the context" {
		if _, err := backstay.LeaseLeft(ctx); err != nil {
			return backstay.Result{}, err
		}
	}
	content := "new"
	if n.bug == "do accumulates" {
		files, err := n.read()
		if err != nil {
			return backstay.Result{}, err
		}
		content = files["one"] + "new"
	}
	if n.bug == "do leaves something" {
		if err := n.write("leftover", "x"); err != nil {
			return backstay.Result{}, err
		}
	}
	if err := n.write("one", content); err != nil {
		return backstay.Result{}, err
	}
	if ctx.Err() != nil {
		return backstay.Result{}, ctx.Err()
	}
	if n.bug == "secret in slots" {
		return backstay.Result{Slots: map[string]string{"k": "canary"}}, n.write("two", "new")
	}
	return backstay.Result{}, n.write("two", "new")
}

func (n note) Undo(ctx context.Context, call backstay.Call) (backstay.Result, error) {
	if n.bug == "undo does nothing" {
		return backstay.Result{}, nil
	}
	if n.bug == "undo needs both" && len(call.Restore[noteKey]) == 1 {
		return backstay.Result{}, nil
	}
	for _, part := range call.Restore[noteKey] {
		if ctx.Err() != nil {
			return backstay.Result{}, ctx.Err()
		}
		if _, err := backstay.LeaseLeft(ctx); err != nil && n.bug != "undo ignores the lease" {
			return backstay.Result{}, err
		}
		raw, ok := call.Before[noteKey].Parts[part]
		if !ok {
			if err := os.Remove(filepath.Join(n.dir, part)); err != nil && (n.bug == "undo once only" || !errors.Is(err, fs.ErrNotExist)) {
				return backstay.Result{}, err
			}
			continue
		}
		var content string
		if err := json.Unmarshal(raw, &content); err != nil {
			return backstay.Result{}, err
		}
		if err := n.write(part, content); err != nil {
			return backstay.Result{}, err
		}
	}
	if n.bug == "undo forgets the rest" && len(call.Restore[noteKey]) == 0 {
		return backstay.Result{}, n.write("two", "undone")
	}
	return backstay.Result{}, nil
}

// noteSuite is the suite of a note with a bug; "" is the right one.
func noteSuite(bug string) drivertest.Suite {
	return drivertest.Suite{New: func(t *testing.T) drivertest.Fixture {
		t.Helper()
		n := note{bug: bug, dir: t.TempDir()}
		if err := n.write("one", "old"); err != nil {
			t.Fatal(err)
		}
		return drivertest.Fixture{
			Kind: n,
			World: func(tb testing.TB) map[string]string {
				tb.Helper()
				world := map[string]string{}
				list, err := os.ReadDir(n.dir)
				if err != nil {
					tb.Fatal(err)
				}
				for _, e := range list {
					content, err := os.ReadFile(filepath.Join(n.dir, e.Name()))
					if err != nil {
						tb.Fatal(err)
					}
					world[e.Name()] = string(content)
				}
				return world
			},
			Leftovers: func(tb testing.TB) []string {
				tb.Helper()
				left, err := filepath.Glob(filepath.Join(n.dir, "leftover"))
				if err != nil {
					tb.Fatal(err)
				}
				return left
			},
			Mutations: []drivertest.Mutation{{Name: "two appears", Apply: func(tb testing.TB) {
				tb.Helper()
				if err := n.write("two", "outsider"); err != nil {
					tb.Fatal(err)
				}
			}}},
			Canaries: []string{"canary"},
		}
	}}
}

// TestRun runs the suite on the right kind, or, in a child of TestRunCatches, on a broken one.
func TestRun(t *testing.T) {
	t.Parallel()
	drivertest.Run(t, noteSuite(os.Getenv("BACKSTAY_TEST_BUG")))
}

// TestRunCatches: every broken kind fails the suite, in the test that is for it.
func TestRunCatches(t *testing.T) {
	t.Parallel()
	for bug, test := range map[string]string{
		"prepare writes":             "prepare changes nothing",
		"wrong want":                 "do reaches what was wanted",
		"do accumulates":             "do twice is do once",
		"do leaves something":        "do reaches what was wanted",
		"do ignores the context":     "do with an ended context changes nothing",
		"do ignores the lease":       "acts after the lease change nothing",
		"undo ignores the lease":     "acts after the lease change nothing",
		"undo does nothing":          "undo restores",
		"undo once only":             "undo twice is undo once",
		"undo needs both":            "do half done is undone",
		"undo forgets the rest":      "undo without do changes nothing",
		"observe is blind":           "observe notices outsiders",
		"observe writes":             "observe is honest",
		"observe leaves out the key": "undo restores",
		"secret in body":             "secrets stay out",
		"secret in slots":            "secrets stay out",
	} {
		t.Run(bug, func(t *testing.T) {
			t.Parallel()
			child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestRun$", "-test.v")
			child.Env = append(os.Environ(), "BACKSTAY_TEST_BUG="+bug)
			out, err := child.CombinedOutput()
			want := "--- FAIL: TestRun/" + strings.ReplaceAll(test, " ", "_")
			if err == nil || !strings.Contains(string(out), want) {
				t.Errorf("the suite did not notice (%v); want a failure of %q:\n%.2000s", err, test, out)
			}
		})
	}
}

func TestCutContext(t *testing.T) {
	t.Parallel()
	for n := range 4 {
		ctx := drivertest.NewCut(t.Context(), n)
		asked := 0
		for ctx.Err() == nil {
			asked++
			if asked > 10 {
				t.Fatal("it never ends")
			}
		}
		if asked != n || !ctx.WasCut() || !errors.Is(ctx.Err(), context.Canceled) {
			t.Errorf("NewCut(%d) ended after %d questions, cut %v", n, asked, ctx.WasCut())
		}
		<-ctx.Done()
		ctx.Stop()
	}
}

func TestWalkSeesEverything(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/f", []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{fmt.Sprint(drivertest.Walk(t, dir, nil, nil)): true}
	for name, change := range map[string]func() error{
		"content": func() error { return os.WriteFile(dir+"/f", []byte("y"), 0o600) },
		"mode":    func() error { return os.Chmod(dir+"/f", 0o640) },
		"link":    func() error { return os.Link(dir+"/f", dir+"/g") },
		"symlink": func() error { return os.Symlink("f", dir+"/s") },
	} {
		if err := change(); err != nil {
			t.Fatal(err)
		}
		world := fmt.Sprint(drivertest.Walk(t, dir, nil, nil))
		if seen[world] {
			t.Errorf("Walk does not see a changed %s", name)
		}
		seen[world] = true
	}
}
