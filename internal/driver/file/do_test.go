package file_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/drivertest"
	"github.com/backstay-dev/backstay/internal/durable"
	"github.com/backstay-dev/backstay/internal/tree"
)

func read(tb testing.TB, path string) string {
	tb.Helper()
	content, err := os.ReadFile(path)
	must(tb, err)
	return string(content)
}

// begun prepares a step in the bed and takes its before-image.
func begun(t *testing.T, b bed, cfg map[string]any) *drivertest.Trial {
	t.Helper()
	tr := drivertest.NewTrial(t, b.fixture(t, cfg))
	tr.Begin(t)
	return tr
}

func wantConflict(t *testing.T, err error) {
	t.Helper()
	if backstay.ClassOf(err) != backstay.Conflict || backstay.HintOf(err) == "" {
		t.Errorf("error is %v (class %s, hint %q), want a conflict with a hint", err, backstay.ClassOf(err), backstay.HintOf(err))
	}
}

// TestOutsiderBetweenIntentAndDo: what came between is refused and kept.
func TestOutsiderBetweenIntentAndDo(t *testing.T) {
	t.Parallel()
	for name, meddle := range map[string]func(t *testing.T, b bed){
		"changed content": func(t *testing.T, b bed) { t.Helper(); put(t, b.target+"/f", "outsider", 0o644) },
		"changed mode":    func(t *testing.T, b bed) { t.Helper(); must(t, os.Chmod(b.target+"/f", 0o777)) },
		"removed":         func(t *testing.T, b bed) { t.Helper(); must(t, os.Remove(b.target+"/f")) },
		"symlink planted at the file": func(t *testing.T, b bed) {
			t.Helper()
			must(t, os.Remove(b.target+"/f"))
			must(t, os.Symlink(b.data+"/victim", b.target+"/f"))
		},
		"symlink planted at the directory": func(t *testing.T, b bed) {
			t.Helper()
			must(t, os.Rename(b.target, b.target+".moved"))
			must(t, os.Symlink(b.data, b.target))
		},
		"symlink planted at the directory, same content": func(t *testing.T, b bed) {
			t.Helper()
			must(t, os.Rename(b.target, b.target+".moved"))
			must(t, os.Symlink(b.target+".moved", b.target))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t)
			put(t, b.data+"/victim", "victim", 0o644)
			put(t, b.data+"/f", "victim", 0o644)
			put(t, b.target+"/f", "old", 0o644)
			tr := begun(t, b, map[string]any{"path": b.target + "/f", "content": "new"})
			meddle(t, b)
			world := drivertest.Walk(t, filepath.Dir(b.target), nil, nil)
			err := tr.Do(t.Context())
			if err == nil {
				t.Error("Do went on")
			}
			if !strings.Contains(name, "directory") {
				wantConflict(t, err)
			}
			if diff := cmp.Diff(world, drivertest.Walk(t, filepath.Dir(b.target), nil, nil)); diff != "" {
				t.Errorf("Do changed something:\n%s", diff)
			}
		})
	}
}

// TestOutsiderBetweenLookAndRename: the validation plays the outsider, as it
// runs when the new content is complete and not in place.
func TestOutsiderBetweenLookAndRename(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	put(t, b.target+"/f", "old", 0o644)
	tr := begun(t, b, map[string]any{
		"path": b.target + "/f", "content": "new",
		"validate": []string{"sh", "-c", `echo outsider > "$1"; test -f "$0"`, "{path}", b.target + "/f"},
	})
	wantConflict(t, tr.Do(t.Context()))
	if got := read(t, b.target+"/f"); got != "outsider\n" {
		t.Errorf("the file holds %q, want the outsider's", got)
	}
}

// TestChangedSincePlan: where the engine hands no before-image, the plan's digest decides.
func TestChangedSincePlan(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	put(t, b.target+"/f", "old", 0o644)
	tr := begun(t, b, map[string]any{"path": b.target + "/f", "content": "new"})
	key := tr.Step.Keys[0]
	tr.Step.Before = map[backstay.Key]string{key: tr.Before[key].Digest()}
	tr.Before = nil
	put(t, b.target+"/f", "outsider", 0o644)
	wantConflict(t, tr.Do(t.Context()))
	if got := read(t, b.target+"/f"); got != "outsider" {
		t.Errorf("the file holds %q, want the outsider's", got)
	}
}

func TestValidation(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	put(t, b.target+"/f", "old", 0o644)
	world := drivertest.Walk(t, b.target, nil, func(string) bool { return false })
	tr := begun(t, b, map[string]any{"path": b.target + "/f", "content": "new", "validate": []string{"grep", "-q", "old", "{path}"}})
	err := tr.Do(t.Context())
	if err == nil || backstay.ClassOf(err) != backstay.Permanent || backstay.HintOf(err) == "" {
		t.Errorf("a refused validation: %v, class %s", err, backstay.ClassOf(err))
	}
	if diff := cmp.Diff(world, drivertest.Walk(t, b.target, nil, func(string) bool { return false })); diff != "" {
		t.Errorf("a refused validation changed the world:\n%s", diff)
	}
}

// TestValidationIsKilled: with all that it started, when the time is up.
func TestValidationIsKilled(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	put(t, b.target+"/f", "old", 0o644)
	pids := filepath.Join(b.data, "pids")
	must(t, unix.Mkfifo(pids, 0o600))
	tr := begun(t, b, map[string]any{
		"path": b.target + "/f", "content": "new",
		"validate": []string{"sh", "-c", `trap "" TERM; sleep 600 & echo $$ $! > "$1"; wait; wait`, "{path}", pids},
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- tr.Do(ctx) }()
	line := read(t, pids) // returns when both run
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Do: %v, want the context's error", err)
	}
	for text := range strings.FieldsSeq(line) {
		pid, err := strconv.Atoi(text)
		must(t, err)
		gone(t, pid)
	}
	if got := read(t, b.target+"/f"); got != "old" {
		t.Errorf("the file holds %q", got)
	}
}

// gone waits until the process is dead. A zombie, which only its parent can
// take away, is dead.
func gone(t *testing.T, pid int) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(10 * time.Second)
	for {
		stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("process %d still runs: %s", pid, stat)
		case <-tick.C:
		}
	}
}

func TestHardLinkedTarget(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	put(t, b.target+"/f", "old", 0o644)
	must(t, os.Link(b.target+"/f", b.target+"/other"))
	tr := begun(t, b, map[string]any{"path": b.target + "/f", "content": "new"})
	if tr.Step.Class != backstay.Equivalent || len(tr.Step.Modulo) == 0 || len(tr.Step.Warnings) == 0 {
		t.Errorf("class %s, modulo %v, warnings %v: want it said that the link is split", tr.Step.Class, tr.Step.Modulo, tr.Step.Warnings)
	}
	must(t, tr.Do(t.Context()))
	if got := read(t, b.target+"/f") + " " + read(t, b.target+"/other"); got != "new old" {
		t.Errorf("after do: %q", got)
	}
	must(t, tr.Undo(t, t.Context()))
	if got := read(t, b.target+"/f") + ", " + read(t, b.target+"/other"); got != "old, old" {
		t.Errorf("after undo: %q", got)
	}
}

func TestFullDisk(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	if err := unix.Mount("tmpfs", b.target, "tmpfs", 0, "size=128k"); err != nil {
		t.Skipf("a small tmpfs cannot be mounted here (%v): a full disk is not tested", err)
	}
	t.Cleanup(func() { must(t, unix.Unmount(b.target, unix.MNT_DETACH)) })
	put(t, b.target+"/f", "old", 0o644)
	put(t, b.target+"/hog", strings.Repeat("h", 100<<10), 0o644)
	calm := func(string) bool { return false }
	world := drivertest.Walk(t, b.target, nil, calm)
	tr := begun(t, b, map[string]any{"path": b.target + "/f", "content": strings.Repeat("n", 60<<10)})
	err := tr.Do(t.Context())
	if !errors.Is(err, unix.ENOSPC) || backstay.HintOf(err) == "" {
		t.Errorf("Do on a full disk: %v, want ENOSPC with a hint", err)
	}
	must(t, tr.Undo(t, t.Context()))
	if diff := cmp.Diff(world, drivertest.Walk(t, b.target, nil, calm)); diff != "" {
		t.Errorf("(-before +now):\n%s", diff)
	}
}

// TestKilledWriter: what kill -9 leaves beside the file goes with Reap.
func TestKilledWriter(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	put(t, b.target+"/f", "old", 0o644)
	calm := func(string) bool { return false }
	world := drivertest.Walk(t, b.target, nil, calm)
	tr := begun(t, b, map[string]any{"path": b.target + "/f", "content": "new"})
	put(t, filepath.Join(b.target, durable.TempName("f")), "half", 0o600)
	must(t, newKind(t).Reap(t.Context(), tr.Call()))
	if diff := cmp.Diff(world, drivertest.Walk(t, b.target, nil, calm)); diff != "" {
		t.Errorf("(-before +now):\n%s", diff)
	}
	dir, err := durable.OpenDir(b.target)
	must(t, err)
	defer func() { must(t, dir.Close()) }()
	living, err := dir.Create("f")
	must(t, err)
	if err := newKind(t).Reap(t.Context(), tr.Call()); backstay.ClassOf(err) != backstay.Transient {
		t.Errorf("Reap of a living writer: %v (class %s), want transient", err, backstay.ClassOf(err))
	}
	must(t, living.Abort())
}

// TestPlanTwice: once done, the same declaration wants exactly what is there.
func TestPlanTwice(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	newSite(t, b)
	oldSite(t, b)
	put(t, b.spec+"/x", "x", 0o755)
	for _, cfg := range []map[string]any{
		{"path": b.target + "/f", "from": "x", "mode": "0640"},
		{"path": b.target + "/l", "symlink": "f"},
		{"path": b.target + "/site", "tree": "dist"},
	} {
		first := begun(t, b, cfg)
		must(t, first.Do(t.Context()))
		later := time.Now().Add(time.Hour)
		must(t, os.Chtimes(b.spec+"/x", later, later))
		second := begun(t, b, cfg)
		for key, want := range second.Step.Want {
			if !want.Equal(second.Before[key]) {
				t.Errorf("planned again, %s differs: %v", key, tree.Diff(second.Before[key], want))
			}
		}
		must(t, second.Do(t.Context()))
		if diff := cmp.Diff([]string{"was as wanted already"}, second.Notes); diff != "" {
			t.Errorf("notes (-want +got):\n%s", diff)
		}
	}
}

// TestPermissions: what is declared wins, then what is there, then the source.
func TestPermissions(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		existing os.FileMode // 0: none
		mode     string
		content  string
		want     uint32
	}{
		{"new file follows the source", 0, "", "new", 0o750},
		{"existing mode stays", 0o604, "", "new", 0o604},
		{"declared mode wins", 0o604, "0620", "new", 0o620},
		{"privileges do not pass to new content", 0o755 | os.ModeSetuid, "", "new", 0o755},
		{"privileges stay with the same content", 0o755 | os.ModeSetuid, "", "old", 0o4755},
		{"declared privileges are given", 0, "4755", "new", 0o4755},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t)
			put(t, b.spec+"/src", tt.content, 0o750)
			if tt.existing != 0 {
				put(t, b.target+"/f", "old", tt.existing)
			}
			cfg := map[string]any{"path": b.target + "/f", "from": "src"}
			if tt.mode != "" {
				cfg["mode"] = tt.mode
			}
			tr := begun(t, b, cfg)
			must(t, tr.Do(t.Context()))
			var st unix.Stat_t
			must(t, unix.Lstat(b.target+"/f", &st))
			if got := st.Mode & 0o7777; got != tt.want {
				t.Errorf("mode %04o, want %04o", got, tt.want)
			}
		})
	}
}

// TestTreeAndNeighbours: without prune, others' files in the same directories
// may come and go; with it, they are part of what is compared.
func TestTreeAndNeighbours(t *testing.T) {
	t.Parallel()
	for _, prune := range []bool{false, true} {
		t.Run("prune "+strconv.FormatBool(prune), func(t *testing.T) {
			t.Parallel()
			b := newBed(t)
			newSite(t, b)
			oldSite(t, b)
			tr := begun(t, b, map[string]any{"path": b.target + "/site", "tree": "dist", "prune": prune})
			put(t, b.target+"/site/uploads/another", "theirs", 0o644)
			err := tr.Do(t.Context())
			if got := read(t, b.target+"/site/uploads/another"); got != "theirs" {
				t.Errorf("the neighbour's file holds %q", got)
			}
			if prune {
				wantConflict(t, err)
				if got := read(t, b.target+"/site/index.html"); got != "old" {
					t.Errorf("something was written before the refusal: %q", got)
				}
				return
			}
			must(t, err)
			if got := read(t, b.target+"/site/index.html"); got != "new" {
				t.Errorf("index.html holds %q", got)
			}
			must(t, tr.Undo(t, t.Context()))
			if got := read(t, b.target+"/site/index.html") + read(t, b.target+"/site/uploads/another"); got != "oldtheirs" {
				t.Errorf("after undo: %q", got)
			}
		})
	}
}

// TestUndoKeepsDirectoriesInUse: a directory that mkdir made and an outsider
// uses now stays, with the outsider's file, and that is said.
func TestUndoKeepsDirectoriesInUse(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	tr := begun(t, b, map[string]any{"path": b.target + "/a/b/f", "content": "x", "mkdir": true})
	must(t, tr.Do(t.Context()))
	put(t, b.target+"/a/theirs", "theirs", 0o644)
	wantConflict(t, tr.Undo(t, t.Context()))
	got := drivertest.Walk(t, b.target, nil, nil)
	if len(got) != 3 || got["a/theirs"] == "" {
		t.Errorf("left: %v, want only a and a/theirs", got)
	}
}

// TestTwoStepsShareNewDirectories: both were planned before either ran.
func TestTwoStepsShareNewDirectories(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	first := drivertest.NewTrial(t, b.fixture(t, map[string]any{"path": b.target + "/new/one", "content": "1", "mkdir": true}))
	second := drivertest.NewTrial(t, b.fixture(t, map[string]any{"path": b.target + "/new/two", "content": "2", "mkdir": true}))
	first.Begin(t)
	must(t, first.Do(t.Context()))
	second.Begin(t)
	must(t, second.Do(t.Context()))
	for _, tr := range []*drivertest.Trial{first, second} {
		now := tr.Observe(t, false)
		for key, want := range tr.Step.Want {
			if !want.Equal(now[key]) {
				t.Errorf("%s: %v", key, tree.Diff(want, now[key]))
			}
		}
	}
	must(t, second.Undo(t, t.Context()))
	must(t, first.Undo(t, t.Context()))
	if names, err := os.ReadDir(b.target); err != nil || len(names) != 0 {
		t.Errorf("left: %v (%v)", names, err)
	}
}

// TestSecretAppeared: a file that came to be where a secret one goes is not
// overwritten, as its content could not be kept.
func TestSecretAppeared(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	f := b.fixture(t, map[string]any{"path": b.target + "/key", "content": "secret:env/KEY", "secret": true})
	tr := drivertest.NewTrial(t, f)
	put(t, b.target+"/key", "outsider's secret", 0o600)
	tr.Begin(t)
	wantConflict(t, tr.Do(t.Context()))
	if got := read(t, b.target+"/key"); got != "outsider's secret" {
		t.Errorf("the file holds %q", got)
	}
	blobs, ok := tr.Fixture.Request.Blobs.(*drivertest.Blobs)
	if !ok {
		t.Fatal("the fixture's blobs are of another type")
	}
	for _, content := range blobs.All() {
		if strings.Contains(string(content), "secret") {
			t.Errorf("stored: %q", content)
		}
	}
}

func TestSecretContentAndMode(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	tr := begun(t, b, map[string]any{"path": b.target + "/key", "content": "secret:env/KEY", "secret": true})
	must(t, tr.Do(t.Context()))
	info, err := os.Stat(b.target + "/key")
	must(t, err)
	if got := read(t, b.target+"/key"); got != "key-canary\n" || info.Mode() != 0o600 {
		t.Errorf("wrote %q, mode %v", got, info.Mode())
	}
}
