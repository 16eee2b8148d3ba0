package power_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/all"
	"github.com/backstay-dev/backstay/internal/engine"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/ledger/ledgertest"
	"github.com/backstay-dev/backstay/internal/ledger/sqlite"
	"github.com/backstay-dev/backstay/internal/plan"
	"github.com/backstay-dev/backstay/internal/sim/image"
	"github.com/backstay-dev/backstay/internal/spec"
)

var (
	fullFlag   = flag.Bool("power.full", false, "every image and every n-th failure, as CI runs it, not a sample")
	ledgerFlag = flag.Bool("power.ledger", false, "let the files of the ledger vary one by one, too: at night")
)

const (
	envRoot = "POWER_ROOT"
	envBack = "POWER_BACK" // interrupt at the last step, so that all is undone
)

func TestMain(m *testing.M) {
	if root := os.Getenv(envRoot); root != "" {
		if err := deploy(context.Background(), root, os.Getenv(envBack) != ""); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// powerSpec changes files in every way that a file step can.
const powerSpec = `backstay: v1
release: power
version: "2"
steps:
  - name: conf
    file: {path: "${ROOT}/world/app.conf", content: "version = 2\n", mode: "0640"}
  - name: new
    file: {path: "${ROOT}/world/deep/down/new.conf", content: "new\n", mkdir: true}
  - name: link
    file: {path: "${ROOT}/world/current", symlink: "v2"}
  - name: tree
    file: {path: "${ROOT}/world/site", tree: "site", prune: true}
  - name: gone
    file: {path: "${ROOT}/world/legacy", absent: true}
`

const lastStep = "gone"

// wanted is the world as powerSpec wants it, without times.
func wanted() map[string]string {
	regular := func(mode fs.FileMode, text string) image.File {
		return image.File{Data: []byte(text), Attr: image.Attr{Mode: uint32(mode)}}
	}
	dir := func(mode fs.FileMode) image.File {
		return image.File{Type: image.Dir, Attr: image.Attr{Mode: uint32(mode)}}
	}
	return text(map[string]image.File{
		"app.conf": regular(0o640, "version = 2\n"), "neighbour": regular(0o600, "not in scope"),
		"deep": dir(0o755), "deep/down": dir(0o755), "deep/down/new.conf": regular(0o644, "new\n"),
		"current": {Type: image.Symlink, Target: "v2"},
		"site":    dir(0o750), "site/css": dir(0o750), "site/css/new.css": regular(0o600, "green"), "site/index.html": regular(0o600, page()),
	}, false)
}

func page() string { return strings.Repeat("<p>2</p>", 200) }

// stage lays out a world and what is deployed, and returns the root.
func stage(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	old := time.Date(2020, 1, 2, 3, 4, 5, 6789, time.UTC)
	for path, text := range map[string]string{
		"backstay.yaml": powerSpec, "site/index.html": page(), "site/css/new.css": "green",
		"root/world/app.conf": strings.Repeat("version = 1\n", 100), "root/world/site/index.html": "<h1>1</h1>", "root/world/site/old/old.css": "black",
		"root/world/legacy": "old\n", "root/world/neighbour": "not in scope",
	} {
		p := filepath.Join(dir, path)
		must(t, os.MkdirAll(filepath.Dir(p), 0o750))
		must(t, os.WriteFile(p, []byte(text), 0o600))
		must(t, os.Chtimes(p, old, old))
	}
	must(t, os.Symlink("v1", filepath.Join(root, "world/current")))
	return root
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// deploy is the child: it deploys, and goes back when it is told to.
func deploy(ctx context.Context, root string, back bool) error {
	unix.Umask(0o022)
	s, err := sqlite.Open(ctx, filepath.Join(root, "state"), ledger.Options{Version: "test", TTL: time.Hour})
	if err != nil {
		return err
	}
	interrupt := make(chan struct{}, 8)
	e, kinds, err := newEngine(root, s, newThread(), func(point, step string) error {
		if back && point == "do.after" && step == lastStep {
			interrupt <- struct{}{}
		}
		return nil
	})
	if err != nil {
		return err
	}
	sp, err := spec.Load(spec.Source{File: filepath.Join(root, "../backstay.yaml"), Set: map[string]string{"ROOT": root}}, kinds)
	if err != nil {
		return explain(err)
	}
	d := plan.NewDraft(sp)
	seen, err := e.Survey(ctx, d.Requests(), engine.Declared{Sections: sp.Sections, Dir: sp.Dir, Release: sp.Release, Version: sp.Version})
	if err != nil {
		return explain(err)
	}
	p, err := plan.Build(d, seen)
	if err != nil {
		return explain(err)
	}
	id, err := uuid.NewV7()
	if err != nil {
		return err
	}
	sum, err := e.Deploy(ctx, engine.Start{ID: id.String(), Plan: p, Interrupt: interrupt})
	if err != nil {
		return explain(err)
	}
	fmt.Println(sum.State)
	return s.Close()
}

func explain(err error) error {
	var refused *backstay.RefusedError
	if errors.As(err, &refused) {
		return fmt.Errorf("%w: %v", err, refused.Problems)
	}
	return err
}

func newEngine(root string, s *ledger.Store, on *thread, failpoint func(point, step string) error) (*engine.Engine, spec.Kinds, error) {
	kinds, err := all.New()
	if err != nil {
		return nil, nil, err
	}
	var actions engine.Actions = kinds
	if on != nil {
		actions = pinned{kinds, on}
	}
	e, err := engine.New(s, actions, engine.Options{
		DataDir: filepath.Join(root, "data"), Actor: backstay.Actor{Host: "here"}, Version: "test", Poll: time.Millisecond, Failpoint: failpoint,
	})
	return e, kinds, err
}

// record runs the child under strace. Syncs of what deaf names are left out.
func record(t *testing.T, root string, back bool, deaf func(path string) bool) *image.Journal {
	t.Helper()
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("strace is not installed: apt-get install strace")
	}
	tr, err := newTracer(root)
	must(t, err)
	tr.deaf = deaf
	self, err := os.Executable()
	must(t, err)
	log := filepath.Join(t.TempDir(), "log")
	cmd := exec.CommandContext(t.Context(), strace, "-f", "--seccomp-bpf", "-y", "-xx", "-s", "10000000", "-e", "trace="+calls, "-o", log, self)
	cmd.Env = append(os.Environ(), envRoot+"="+root)
	want := "proven"
	if back {
		cmd.Env = append(cmd.Env, envBack+"=1")
		want = "rolled_back"
	}
	out, err := cmd.CombinedOutput()
	if err != nil && strings.Contains(string(out), "PTRACE") {
		t.Skipf("this host does not let strace trace: %s", out)
	}
	if err != nil || strings.TrimSpace(string(out)) != want {
		t.Fatalf("the undisturbed deployment: %v, %s", err, out)
	}
	f, err := os.Open(log)
	must(t, err)
	defer f.Close()
	must(t, tr.read(f))
	// The record is whole if, with everything kept, it gives what is there now.
	now, err := read(root)
	must(t, err)
	if diff := cmp.Diff(text(now, false), text(tr.journal.Kept().Files(), false)); diff != "" {
		t.Fatalf("the record does not lead to what is there (-there +record):\n%.2000s", diff)
	}
	return tr.journal
}

// text is a tree for people; with times those of files as well.
func text(files map[string]image.File, times bool) map[string]string {
	out := map[string]string{}
	for p, f := range files {
		line := fmt.Sprintf("%v %o %q", f.Type, f.Attr.Mode, f.Data)
		if f.Type == image.Symlink {
			line = "-> " + f.Target
		}
		if times && f.Type == image.Regular {
			line += fmt.Sprint(" ", f.Attr.MTime)
		}
		out[p] = line
	}
	return out
}

// walkSorted visits parents before children.
func walkSorted(files map[string]image.File, visit func(rel string, f image.File) error) error {
	for _, rel := range slices.Sorted(maps.Keys(files)) {
		if err := visit(rel, files[rel]); err != nil {
			return err
		}
	}
	return nil
}

// TestFileImages cuts the power at every system call of a deployment that goes
// forward and of one that goes back.
func TestFileImages(t *testing.T) {
	t.Parallel()
	for _, back := range []bool{false, true} {
		t.Run(fmt.Sprintf("back=%v", back), func(t *testing.T) {
			t.Parallel()
			root := stage(t)
			before := look(t, root, true)
			journal := record(t, root, back, func(string) bool { return false })
			if diff := cmp.Diff(wanted(), look(t, root, false)); !back && diff != "" {
				t.Fatalf("the undisturbed deployment left another world:\n%s", diff)
			}
			c := cutter{root: root, journal: journal, before: before, ends: make(map[backstay.State]int)}
			bounds := image.Bounds{Vary: journal.Outside("state")}
			if *ledgerFlag {
				bounds = image.Bounds{}
			}
			images := journal.Images(bounds)
			stride := 1
			if !*fullFlag {
				stride = len(images)/25 | 1
			}
			if raced {
				stride *= 3
			}
			began, tried := time.Now(), 0
			for i := 0; i < len(images) && !t.Failed(); i += stride {
				tried++
				if err := c.check(t, images[i]); err != nil {
					t.Errorf("image %d, %s (points %d to %d): %v\n%s", i, images[i].Name, images[i].First, images[i].Point, err, c.story(t, images[i]))
				}
			}
			took := time.Since(began).Seconds()
			t.Logf("%d system calls recorded; %d images of ledger and world, %d reopened and recovered, which ended %v; %.1f s, %.0f/s", journal.Len(), len(images), tried, c.ends, took, float64(tried)/took)
		})
	}
}

// TestImagesFindUnsynced tests the tester: if the new content of files were not
// synced before they get their names, some image would be a third world.
func TestImagesFindUnsynced(t *testing.T) {
	t.Parallel()
	root := stage(t)
	before := look(t, root, true)
	journal := record(t, root, false, func(path string) bool { return strings.HasSuffix(path, ".tmp") })
	c := cutter{root: root, journal: journal, before: before, ends: make(map[backstay.State]int)}
	images := journal.Images(image.Bounds{Vary: journal.Outside("state")})
	for i := len(images) - 1; i >= 0; i-- {
		if err := c.check(t, images[i]); err != nil {
			t.Logf("%s: %v", images[i].Name, err)
			return
		}
	}
	t.Errorf("all %d images recover although no new content was synced", len(images))
}

func look(t *testing.T, root string, times bool) map[string]string {
	t.Helper()
	files, err := read(filepath.Join(root, "world"))
	must(t, err)
	return text(files, times)
}

type cutter struct {
	root    string
	journal *image.Journal
	before  map[string]string
	ends    map[backstay.State]int
}

// check lays an image on the disk, recovers twice, and judges.
func (c *cutter) check(t *testing.T, i image.Image) error {
	t.Helper()
	if err := lay(c.root, i.Files()); err != nil {
		return err
	}
	clock := ledgertest.NewClock()
	clock.Reboot("boot-2")
	s, err := sqlite.Open(t.Context(), filepath.Join(c.root, "state"), ledger.Options{Version: "test", TTL: time.Hour, Clock: clock})
	if err != nil {
		return err
	}
	defer s.Close()
	if _, err := ledgertest.CheckTree(t.Context(), s); err != nil {
		return err
	}
	if _, err := c.recover(t, s); err != nil {
		return err
	}
	head, err := s.Head(t.Context())
	if err != nil {
		return err
	}
	if _, err := c.recover(t, s); err != nil {
		return fmt.Errorf("recovering twice: %w", err)
	}
	if again, err := s.Head(t.Context()); err != nil || again != head {
		return fmt.Errorf("recovering twice wrote entries: %w", err)
	}
	if _, err := ledgertest.CheckTree(t.Context(), s); err != nil {
		return err
	}
	return c.judge(t, s)
}

// judge: the world is as before, or as wanted, whichever the ledger says.
func (c *cutter) judge(t *testing.T, s *ledger.Store) error {
	t.Helper()
	deps, err := s.List(t.Context(), ledger.Filter{})
	if err != nil {
		return err
	}
	state := backstay.State("not begun")
	if len(deps) > 0 {
		state = deps[0].State
	}
	c.ends[state]++
	switch state { //nolint:exhaustive // every other end is wrong
	case "not begun", backstay.RolledBack:
		if diff := cmp.Diff(c.before, look(t, c.root, true)); diff != "" {
			return fmt.Errorf("%s, but the world is not as before (-before +now):\n%.1500s", state, diff)
		}
	case backstay.Proven:
		if diff := cmp.Diff(wanted(), look(t, c.root, false)); diff != "" {
			return fmt.Errorf("proven, but the world is not as wanted (-want +now):\n%.1500s", diff)
		}
	default:
		return fmt.Errorf("ended %s", state)
	}
	return nil
}

// recover drives what is not settled to its end, and returns all.
func (c *cutter) recover(t *testing.T, s *ledger.Store) ([]ledger.Deployment, error) {
	t.Helper()
	e, _, err := newEngine(c.root, s, nil, nil)
	if err != nil {
		return nil, err
	}
	deps, err := s.List(t.Context(), ledger.Filter{})
	if err != nil {
		return nil, err
	}
	for _, d := range deps {
		if d.State.Settled() {
			continue
		}
		if _, err := e.Resume(t.Context(), d.ID, nil, nil); err != nil {
			return nil, fmt.Errorf("resume %s: %w", d.Name, err)
		}
	}
	return s.List(t.Context(), ledger.Filter{})
}

// lay puts an image on the disk.
func lay(root string, files map[string]image.File) error {
	if err := errors.Join(os.RemoveAll(root), os.Mkdir(root, 0o750)); err != nil {
		return err
	}
	var dirs []string
	err := walkSorted(files, func(rel string, f image.File) error {
		p := filepath.Join(root, rel)
		switch f.Type {
		case image.Dir:
			dirs = append(dirs, rel)
			return os.Mkdir(p, 0o700)
		case image.Symlink:
			if err := os.Symlink(f.Target, p); err != nil || f.Attr.MTime == 0 {
				return err
			}
			at := unix.NsecToTimespec(f.Attr.MTime)
			return unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{at, at}, unix.AT_SYMLINK_NOFOLLOW)
		case image.Regular:
		}
		if err := os.WriteFile(p, f.Data, 0o600); err != nil {
			return err
		}
		return attributes(p, f.Attr)
	})
	slices.Reverse(dirs)
	for _, rel := range dirs {
		err = errors.Join(err, attributes(filepath.Join(root, rel), files[rel].Attr))
	}
	return err
}

func attributes(p string, attr image.Attr) error {
	if attr.MTime != 0 {
		at := time.Unix(0, attr.MTime)
		if err := os.Chtimes(p, at, at); err != nil {
			return err
		}
	}
	return unix.Chmod(p, attr.Mode)
}

// story is what led to a problem, for the person who looks for its cause.
func (c *cutter) story(t *testing.T, i image.Image) string {
	t.Helper()
	var b strings.Builder
	for at := max(0, i.First-12); at < min(i.First+3, c.journal.Len()); at++ {
		fmt.Fprintln(&b, c.journal.Text(at))
	}
	for p, line := range text(i.Files(), true) {
		if strings.HasPrefix(p, "world") {
			fmt.Fprintf(&b, "%s %.120s\n", p, line)
		}
	}
	s, err := sqlite.OpenReadOnly(t.Context(), filepath.Join(c.root, "state"), ledger.Options{})
	if err != nil {
		return b.String() + err.Error()
	}
	defer s.Close()
	err = s.Walk(t.Context(), ledger.Query{AfterLeaf: -1}, func(l ledger.Leaf) error {
		fmt.Fprintf(&b, "%d %s %s %.200s\n", l.Index, l.Entry.Kind, l.Entry.Step, l.Entry.Body)
		return nil
	})
	if err != nil {
		return b.String() + err.Error()
	}
	return b.String()
}
