package tree_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/drivertest"
	"github.com/backstay-dev/backstay/internal/durable"
	"github.com/backstay-dev/backstay/internal/tree"
)

// scene is a directory on the real file system that random operations change.
type scene struct {
	root   string
	xattrs bool
	rng    *rand.Rand
}

func newScene(tb testing.TB, dir string, seed uint64) *scene {
	tb.Helper()
	probe := filepath.Join(dir, "probe")
	if err := os.WriteFile(probe, nil, 0o600); err != nil {
		tb.Fatal(err)
	}
	err := unix.Setxattr(probe, "user.backstay.probe", []byte("1"), 0)
	if err != nil && !errors.Is(err, unix.ENOTSUP) {
		tb.Fatal(err)
	}
	return &scene{root: filepath.Join(dir, "key"), xattrs: err == nil, rng: rand.New(rand.NewPCG(seed, 1))}
}

// all lists every path at and below the root, the root first.
func (s *scene) all() []string {
	var paths []string
	_ = filepath.WalkDir(s.root, func(p string, _ os.DirEntry, err error) error {
		if err == nil {
			paths = append(paths, p)
		}
		return nil
	})
	return paths
}

func (s *scene) pick() string {
	all := s.all()
	if len(all) == 0 {
		return s.root
	}
	return all[s.rng.IntN(len(all))]
}

// place is a free or taken path in some directory.
func (s *scene) place() string {
	names := []string{"a", "a.txt", "b", "with space", "x\\y", "ü", "\xff\xfe", "-rf", "new\nline"}
	dir := s.pick()
	if info, err := os.Lstat(dir); err != nil || !info.IsDir() {
		return dir
	}
	return filepath.Join(dir, names[s.rng.IntN(len(names))])
}

// mutate performs one random operation; ones that do not fit do nothing.
func (s *scene) mutate() string {
	p := s.place()
	at := time.Unix(s.rng.Int64N(4e9), s.rng.Int64N(1e9))
	switch op := s.rng.IntN(14); op {
	case 0, 1:
		_ = os.Mkdir(p, 0o755)
		return "mkdir " + p
	case 2, 3:
		_ = os.WriteFile(p, fmt.Append(nil, s.rng.IntN(5)), 0o644)
		return "write " + p
	case 4:
		_ = os.WriteFile(p, []byte(strings.Repeat("x", s.rng.IntN(100_000))), 0o600)
		return "write big " + p
	case 5:
		_ = os.Symlink([]string{"a", "/nonexistent", "../..", "\xff"}[s.rng.IntN(4)], p)
		return "symlink " + p
	case 6:
		_ = os.Link(s.pick(), p)
		return "link " + p
	case 7:
		p = s.pick()
		if info, err := os.Lstat(p); err == nil && info.Mode()&os.ModeSymlink == 0 {
			_ = unix.Chmod(p, uint32(0o700|s.rng.IntN(0o10000)))
		}
		return "chmod " + p
	case 8:
		p = s.pick()
		_ = unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{unix.NsecToTimespec(at.UnixNano()), unix.NsecToTimespec(at.UnixNano())}, unix.AT_SYMLINK_NOFOLLOW)
		return "touch " + p
	case 9:
		p = s.pick()
		_ = os.Lchown(p, s.rng.IntN(3), s.rng.IntN(3)) // does nothing without root
		return "chown " + p
	case 10:
		p = s.pick()
		if s.xattrs {
			_ = unix.Lsetxattr(p, fmt.Sprintf("user.%d", s.rng.IntN(2)), fmt.Append(nil, s.rng.IntN(9)), 0)
		}
		return "setxattr " + p
	case 11:
		p = s.pick()
		_ = os.RemoveAll(p)
		return "remove " + p
	case 12:
		_ = os.Rename(s.pick(), p)
		return "rename to " + p
	default:
		p = s.pick()
		_ = unix.Lremovexattr(p, "user.0")
		return "removexattr " + p
	}
}

func (s *scene) mutateN(n int) []string {
	var log []string
	for range n {
		log = append(log, s.mutate())
	}
	return log
}

func capture(tb interface {
	Helper()
	Fatalf(string, ...any)
}, path string, blobs backstay.Blobs,
) backstay.ResourceState {
	tb.Helper()
	state, err := tree.Capture(context.Background(), path, tree.Options{Blobs: blobs})
	if err != nil {
		tb.Fatalf("Capture: %v", err)
	}
	return state
}

// TestRestoreRandom: random tree, capture, random changes, restore of all that
// differs: the same world again by an independent look, and nothing left to do.
func TestRestoreRandom(t *testing.T) {
	t.Parallel()
	base, round := t.TempDir(), 0
	rapid.Check(t, func(rt *rapid.T) {
		round++
		dir := filepath.Join(base, fmt.Sprint(round))
		if err := os.Mkdir(dir, 0o755); err != nil {
			rt.Fatal(err)
		}
		s := newScene(t, dir, rapid.Uint64().Draw(rt, "seed"))
		s.mutateN(rapid.IntRange(0, 40).Draw(rt, "built by"))
		blobs := drivertest.NewBlobs()
		before, world := capture(rt, s.root, blobs), drivertest.Walk(t, s.root, nil, nil)
		log := s.mutateN(rapid.IntRange(0, 25).Draw(rt, "changed by"))
		parts := tree.Differing(before, capture(rt, s.root, nil))
		if err := tree.Restore(t.Context(), s.root, before, parts, blobs); err != nil {
			rt.Fatalf("Restore after %q: %v", log, err)
		}
		if diff := cmp.Diff(world, drivertest.Walk(t, s.root, nil, nil)); diff != "" {
			rt.Fatalf("after %q and Restore of %q (-before +now):\n%s", log, parts, diff)
		}
		if changes := tree.Diff(before, capture(rt, s.root, nil)); len(changes) > 0 {
			rt.Fatalf("after %q: Capture still sees %v", log, changes)
		}
	})
}

// TestRestoreInterrupted: the same, but Restore is stopped at every k-th point
// it asks its context, k = 0, 1, 2 …, and then repeated with the same list.
func TestRestoreInterrupted(t *testing.T) {
	t.Parallel()
	for seed := range uint64(15) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			points := 0
			for k := 0; ; k++ {
				s := newScene(t, drivertest.Scratch(t), seed)
				s.mutateN(25)
				blobs := drivertest.NewBlobs()
				before, world := capture(t, s.root, blobs), drivertest.Walk(t, s.root, nil, nil)
				log := s.mutateN(12)
				parts := tree.Differing(before, capture(t, s.root, nil))
				cut := drivertest.NewCut(t.Context(), k)
				err := tree.Restore(cut, s.root, before, parts, blobs)
				cut.Stop()
				if err != nil && !errors.Is(err, context.Canceled) {
					t.Fatalf("point %d: Restore: %v", k, err)
				}
				if err := tree.Restore(t.Context(), s.root, before, parts, blobs); err != nil {
					t.Fatalf("point %d: repeated Restore: %v", k, err)
				}
				if diff := cmp.Diff(world, drivertest.Walk(t, s.root, nil, nil)); diff != "" {
					t.Fatalf("point %d after %q (-before +now):\n%s", k, log, diff)
				}
				if !cut.WasCut() {
					break
				}
				points++
				k += points / 20 // every point while they are few, then wider steps
			}
			if points == 0 {
				t.Fatal("no interruption point was reached")
			}
		})
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func mustDo(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestRestoreLeavesOthersAlone(t *testing.T) {
	t.Parallel()
	root := filepath.Join(t.TempDir(), "key")
	write(t, root+"/mine", "before")
	write(t, root+"/theirs", "before")
	blobs := drivertest.NewBlobs()
	before := capture(t, root, blobs)
	write(t, root+"/mine", "after")
	write(t, root+"/theirs", "outsider")
	write(t, root+"/new", "outsider")
	dirTime := time.Unix(1_700_000_000, 5)
	mustDo(t, os.Chtimes(root, dirTime, dirTime))
	mustDo(t, tree.Restore(t.Context(), root, before, []string{"mine"}, blobs))
	for name, want := range map[string]string{"mine": "before", "theirs": "outsider", "new": "outsider"} {
		if got, err := os.ReadFile(filepath.Join(root, name)); err != nil || string(got) != want {
			t.Errorf("%s holds %q (%v), want %q", name, got, err, want)
		}
	}
	if info, err := os.Stat(root); err != nil || !info.ModTime().Equal(dirTime) {
		t.Errorf("the directory's time is %v (%v), want the outsider's %v", info.ModTime(), err, dirTime)
	}
}

// A process that was stopped in the middle wakes after its lease.
func TestRestoreChangesNothingAfterTheLease(t *testing.T) {
	t.Parallel()
	root := filepath.Join(t.TempDir(), "key")
	write(t, root+"/one", "before")
	write(t, root+"/two", "before")
	blobs := drivertest.NewBlobs()
	before := capture(t, root, blobs)
	write(t, root+"/one", "after")
	write(t, root+"/two", "after")
	lapsed := errors.New("lapsed")
	looks := 0
	ctx := backstay.WithLease(t.Context(), func() (time.Duration, error) {
		if looks++; looks > 2 { // one file takes two
			return 0, lapsed
		}
		return time.Second, nil
	})
	if err := tree.Restore(ctx, root, before, []string{"one", "two"}, blobs); !errors.Is(err, lapsed) {
		t.Errorf("got %v", err)
	}
	for name, want := range map[string]string{"one": "before", "two": "after"} {
		if got, err := os.ReadFile(filepath.Join(root, name)); err != nil || string(got) != want {
			t.Errorf("%s holds %q (%v), want %q", name, got, err, want)
		}
	}
}

// The attributes of a directory, which come last, are a change too.
func TestRestoreLeavesDirectoriesAfterTheLease(t *testing.T) {
	t.Parallel()
	root := filepath.Join(t.TempDir(), "key")
	write(t, root+"/sub/file", "same")
	blobs := drivertest.NewBlobs()
	mustDo(t, os.Chmod(root+"/sub", 0o700))
	before := capture(t, root, blobs)
	mustDo(t, os.Chmod(root+"/sub", 0o755))
	lapsed := errors.New("lapsed")
	ctx := backstay.WithLease(t.Context(), func() (time.Duration, error) { return 0, lapsed })
	if err := tree.Restore(ctx, root, before, []string{"sub"}, blobs); !errors.Is(err, lapsed) {
		t.Errorf("got %v", err)
	}
	if info, err := os.Stat(root + "/sub"); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("the directory's mode is %v (%v), want it left", info.Mode(), err)
	}
}

func TestRestoreKeepsDirectoryWithOutsidersFile(t *testing.T) {
	t.Parallel()
	root := filepath.Join(t.TempDir(), "key")
	before := capture(t, root, drivertest.NewBlobs())
	write(t, root+"/mine", "x")
	parts := tree.Differing(before, capture(t, root, nil))
	write(t, root+"/theirs", "outsider")
	err := tree.Restore(t.Context(), root, before, parts, drivertest.NewBlobs())
	if backstay.ClassOf(err) != backstay.Conflict || backstay.HintOf(err) == "" {
		t.Errorf("Restore returned %v (class %s), want a conflict with a hint", err, backstay.ClassOf(err))
	}
	names, err := os.ReadDir(root)
	mustDo(t, err)
	if len(names) != 1 || names[0].Name() != "theirs" {
		t.Errorf("left over: %v, want only theirs", names)
	}
}

func TestRestoreFollowsNoPlantedSymlink(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, swap string }{{"below the key", "key/sub"}, {"the key", "key"}, {"above the key", "."}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			base := t.TempDir()
			top, elsewhere := filepath.Join(base, "top"), filepath.Join(base, "elsewhere")
			root := filepath.Join(top, "key")
			write(t, root+"/sub/file", "before")
			blobs := drivertest.NewBlobs()
			before := capture(t, root, blobs)
			write(t, root+"/sub/file", "after")
			victim := filepath.Join(top, tt.swap)
			mustDo(t, os.Rename(victim, elsewhere))
			mustDo(t, os.Symlink(elsewhere, victim))
			world := drivertest.Walk(t, elsewhere, nil, nil)
			err := tree.Restore(t.Context(), root, before, []string{"sub/file"}, blobs)
			if !errors.Is(err, durable.ErrSymlink) || backstay.ClassOf(err) != backstay.Conflict {
				t.Errorf("Restore returned %v (class %s), want a refused symlink", err, backstay.ClassOf(err))
			}
			if diff := cmp.Diff(world, drivertest.Walk(t, elsewhere, nil, nil)); diff != "" {
				t.Errorf("Restore wrote through the symlink:\n%s", diff)
			}
		})
	}
}

func TestRestoreRefusesEscapingParts(t *testing.T) {
	t.Parallel()
	root := filepath.Join(t.TempDir(), "key")
	write(t, root+"/f", "x")
	write(t, filepath.Join(filepath.Dir(root), "victim"), "x")
	for _, part := range []string{"../victim", "/etc/passwd", "a/../../victim", ".", "a//b", "nul\x00"} {
		if err := tree.Restore(t.Context(), root, backstay.ResourceState{}, []string{part}, nil); err == nil {
			t.Errorf("Restore of part %q was not refused", part)
		}
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(root), "victim")); err != nil {
		t.Errorf("the victim is gone: %v", err)
	}
}

func TestRestoreSweepsKilledWriters(t *testing.T) {
	t.Parallel()
	root := filepath.Join(t.TempDir(), "key")
	write(t, root+"/f", "before")
	blobs := drivertest.NewBlobs()
	before, world := capture(t, root, blobs), drivertest.Walk(t, root, nil, nil)
	stale := filepath.Join(root, durable.TempName("f"))
	write(t, stale, "half written by a killed process")
	if !before.Equal(mustCaptureWithout(t, root, before)) {
		t.Error("Backstay's own temporary file counts as state")
	}
	mustDo(t, tree.Restore(t.Context(), root, before, []string{"f"}, blobs))
	if diff := cmp.Diff(world, drivertest.Walk(t, root, nil, nil)); diff != "" {
		t.Errorf("(-before +now):\n%s", diff)
	}
}

// mustCaptureWithout captures root with the time of its directory taken from like.
func mustCaptureWithout(t *testing.T, root string, like backstay.ResourceState) backstay.ResourceState {
	t.Helper()
	now := capture(t, root, nil)
	now.Parts[""] = like.Parts[""]
	return now
}

func TestRestoreRefusesDamagedContent(t *testing.T) {
	t.Parallel()
	root := filepath.Join(t.TempDir(), "key")
	write(t, root, "before")
	blobs := drivertest.NewBlobs()
	before := capture(t, root, blobs)
	write(t, root, "after")
	err := tree.Restore(t.Context(), root, before, []string{""}, drivertest.NewBlobs())
	if backstay.ClassOf(err) != backstay.NotFound {
		t.Errorf("Restore without the content returned %v, class %s", err, backstay.ClassOf(err))
	}
	if got, _ := os.ReadFile(root); string(got) != "after" {
		t.Errorf("the file holds %q after a refused Restore, want it untouched", got)
	}
	left, err := os.ReadDir(filepath.Dir(root))
	mustDo(t, err)
	if len(left) != 1 {
		t.Errorf("temporary files are left: %v", left)
	}
}

func TestRestoreOnFullDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Skipf("a small tmpfs cannot be mounted here (%v): a full disk is not tested", err)
	}
	t.Cleanup(func() { mustDo(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	root := filepath.Join(dir, "key")
	write(t, root, strings.Repeat("b", 100<<10))
	blobs := drivertest.NewBlobs()
	before := capture(t, root, blobs)
	write(t, root, "small")
	write(t, filepath.Join(dir, "hog"), strings.Repeat("h", 200<<10))
	err := tree.Restore(t.Context(), root, before, []string{""}, blobs)
	if !errors.Is(err, unix.ENOSPC) || backstay.HintOf(err) == "" {
		t.Fatalf("Restore on a full disk returned %v, want ENOSPC with a hint", err)
	}
	if got, _ := os.ReadFile(root); string(got) != "small" {
		t.Errorf("the old file is not whole: %.20q", got)
	}
	if names, _ := os.ReadDir(dir); len(names) != 2 {
		t.Errorf("temporary files are left: %v", names)
	}
	mustDo(t, os.Remove(filepath.Join(dir, "hog")))
	mustDo(t, tree.Restore(t.Context(), root, before, []string{""}, blobs))
	if !before.Equal(capture(t, root, nil)) {
		t.Error("Restore after space was freed did not bring the file back")
	}
}

func TestDiffWords(t *testing.T) {
	t.Parallel()
	root := filepath.Join(t.TempDir(), "key")
	write(t, root+"/edited", "a")
	write(t, root+"/mode", "a")
	write(t, root+"/gone", "a")
	before := capture(t, root, nil)
	write(t, root+"/edited", "ab")
	mustDo(t, os.Chmod(root+"/mode", 0o600))
	mustDo(t, os.Remove(root+"/gone"))
	write(t, root+"/made", "a")
	got := map[string]string{}
	for _, c := range tree.Diff(before, capture(t, root, nil)) {
		got[c.Part], _, _ = strings.Cut(c.What, ", modification time")
	}
	delete(got, "")
	want := map[string]string{"edited": "content changed (1 → 2 bytes)", "mode": "mode 0644 → 0600", "gone": "removed", "made": "created"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Diff (-want +got):\n%s", diff)
	}
	if !slices.IsSortedFunc(tree.Diff(before, backstay.ResourceState{}), func(a, b tree.PartChange) int { return strings.Compare(a.Part, b.Part) }) {
		t.Error("Diff is not sorted")
	}
}
