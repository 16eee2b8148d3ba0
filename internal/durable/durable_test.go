package durable_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/backstay-dev/backstay/internal/durable"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	return string(b)
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func open(t *testing.T, dir string) *durable.Dir {
	t.Helper()
	d, err := durable.OpenDir(dir)
	must(t, err)
	t.Cleanup(func() { must(t, d.Close()) })
	return d
}

// failing yields some bytes, then an error.
func failing(err error) io.Reader {
	return io.MultiReader(strings.NewReader("half"), iotestErr{err})
}

type iotestErr struct{ err error }

func (r iotestErr) Read([]byte) (int, error) { return 0, r.err }

func TestWriteFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	at := time.Date(2020, 1, 2, 3, 4, 5, 123456789, time.UTC)
	must(t, durable.WriteFile(path, strings.NewReader("one"), durable.Attr{Mode: 0o640, MTime: at}))
	info, err := os.Stat(path)
	must(t, err)
	if got := read(t, path); got != "one" || info.Mode() != 0o640 || !info.ModTime().Equal(at) {
		t.Errorf("wrote %q, mode %v, time %v", got, info.Mode(), info.ModTime())
	}
	must(t, durable.WriteFile(path, strings.NewReader("two"), durable.Attr{Mode: 0o755, Owner: &durable.Owner{UID: -1, GID: -1}}))
	if got := read(t, path); got != "two" {
		t.Errorf("replaced content is %q", got)
	}
	if diff := cmp.Diff([]string{"f"}, names(t, dir)); diff != "" {
		t.Errorf("directory (-want +got):\n%s", diff)
	}
}

func TestWriteFileFailing(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	must(t, os.WriteFile(path, []byte("old"), 0o600))
	if err := durable.WriteFile(path, failing(boom), durable.Attr{Mode: 0o600}); !errors.Is(err, boom) {
		t.Errorf("error is %v, want the reader's", err)
	}
	if got := read(t, path); got != "old" {
		t.Errorf("old file holds %q", got)
	}
	if diff := cmp.Diff([]string{"f"}, names(t, dir)); diff != "" {
		t.Errorf("a temporary file is left (-want +got):\n%s", diff)
	}
	if err := durable.WriteFile(filepath.Join(dir, "missing", "f"), strings.NewReader(""), durable.Attr{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("into a missing directory: %v", err)
	}
	must(t, os.Mkdir(filepath.Join(dir, "d"), 0o755))
	if err := durable.WriteFile(filepath.Join(dir, "d"), strings.NewReader("x"), durable.Attr{Mode: 0o600}); err == nil {
		t.Error("a directory was replaced by a file")
	}
	if diff := cmp.Diff([]string{"d", "f"}, names(t, dir)); diff != "" {
		t.Errorf("after the refused replacement (-want +got):\n%s", diff)
	}
}

func TestWriteFileOnFullDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("a small tmpfs cannot be mounted here (%v): a full disk is not tested", err)
	}
	t.Cleanup(func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	path := filepath.Join(dir, "f")
	must(t, os.WriteFile(path, []byte("old"), 0o600))
	err := durable.WriteFile(path, bytes.NewReader(make([]byte, 1<<20)), durable.Attr{Mode: 0o600})
	if !errors.Is(err, unix.ENOSPC) {
		t.Errorf("error is %v, want ENOSPC", err)
	}
	if got := read(t, path); got != "old" {
		t.Errorf("old file holds %q", got)
	}
	if diff := cmp.Diff([]string{"f"}, names(t, dir)); diff != "" {
		t.Errorf("a temporary file is left (-want +got):\n%s", diff)
	}
}

// TestReadersSeeWholeFiles: a reader that opens the name again and again never
// sees a mixture, an empty file or none.
func TestReadersSeeWholeFiles(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "f")
	contents := [2]string{strings.Repeat("a", 50_000), strings.Repeat("b", 50_000)}
	must(t, os.WriteFile(path, []byte(contents[0]), 0o600))
	done := make(chan error, 1)
	go func() {
		for i := range 50 {
			if err := durable.WriteFile(path, strings.NewReader(contents[i%2]), durable.Attr{Mode: 0o600}); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for {
		if got := read(t, path); got != contents[0] && got != contents[1] {
			t.Fatalf("a reader saw %d bytes beginning %.10q", len(got), got)
		}
		select {
		case err := <-done:
			must(t, err)
			return
		default:
		}
	}
}

// TestRivals: writers of one name either write whole content or are told that
// they are busy; no mixture, no left-over.
func TestRivals(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	var wg sync.WaitGroup
	var mu sync.Mutex
	written := 0
	for i := range 8 {
		wg.Go(func() {
			content := strings.Repeat(fmt.Sprint(i), 10_000)
			for range 10 {
				err := durable.WriteFile(path, strings.NewReader(content), durable.Attr{Mode: 0o600})
				if err == nil {
					mu.Lock()
					written++
					mu.Unlock()
				} else if !errors.Is(err, durable.ErrBusy) {
					t.Errorf("a rival got %v", err)
				}
			}
		})
	}
	wg.Wait()
	got := read(t, path)
	if written == 0 || len(got) != 10_000 || strings.Trim(got, got[:1]) != "" {
		t.Errorf("%d writes; the file holds %d bytes beginning %.20q", written, len(got), got)
	}
	if diff := cmp.Diff([]string{"f"}, names(t, dir)); diff != "" {
		t.Errorf("left over (-want +got):\n%s", diff)
	}
}

func TestStaleTemporaryFiles(t *testing.T) {
	t.Parallel()
	plant := map[string]func(t *testing.T, temp string){
		"half-written file": func(t *testing.T, temp string) { t.Helper(); must(t, os.WriteFile(temp, []byte("half"), 0o600)) },
		"half-made symlink": func(t *testing.T, temp string) { t.Helper(); must(t, os.Symlink("/etc/passwd", temp)) },
		"FIFO":              func(t *testing.T, temp string) { t.Helper(); must(t, unix.Mkfifo(temp, 0o600)) },
	}
	for name, put := range plant {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			put(t, filepath.Join(dir, durable.TempName("f")))
			d := open(t, dir)
			must(t, d.WriteFile("f", strings.NewReader("new"), durable.Attr{Mode: 0o600}))
			if got := read(t, dir+"/f"); got != "new" {
				t.Errorf("wrote %q", got)
			}
			put(t, filepath.Join(dir, durable.TempName("f")))
			must(t, d.Sweep("f"))
			if diff := cmp.Diff([]string{"f"}, names(t, dir)); diff != "" {
				t.Errorf("after Sweep (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSweepSparesTheLiving(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := open(t, dir)
	p, err := d.Create("f")
	must(t, err)
	if err := d.Sweep("f"); !errors.Is(err, durable.ErrBusy) {
		t.Errorf("Sweep of a living writer's file: %v, want busy", err)
	}
	if _, err := d.Create("f"); !errors.Is(err, durable.ErrBusy) {
		t.Errorf("a second writer: %v, want busy", err)
	}
	_, err = p.Write([]byte("x"))
	must(t, err)
	must(t, p.Commit())
	must(t, p.Abort())
	if got := read(t, dir+"/f"); got != "x" {
		t.Errorf("committed %q", got)
	}
	if err := d.SweepTemp("f"); err == nil {
		t.Error("SweepTemp took a name that is no temporary file")
	}
}

func TestIsTemp(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		durable.TempName("f"):             true,
		".backstay-0123456789abcdef.tmp":  true,
		".backstay-0123456789abcdeF.tmp":  false,
		".backstay-0123456789abcde.tmp":   false,
		".backstay-.tmp":                  false,
		"backstay-0123456789abcdef.tmp":   false,
		".backstay-0123456789abcdef.tmp~": false,
		"":                                false,
	} {
		if got := durable.IsTemp(name); got != want {
			t.Errorf("IsTemp(%q) = %v", name, got)
		}
	}
}

func TestSymlink(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "current")
	for _, target := range []string{"releases/1", "releases/2"} {
		must(t, durable.Symlink(target, path))
		if got, err := os.Readlink(path); err != nil || got != target {
			t.Errorf("link to %q (%v), want %q", got, err, target)
		}
	}
	must(t, os.Mkdir(filepath.Join(dir, "d"), 0o755))
	if err := durable.Symlink("x", filepath.Join(dir, "d")); err == nil {
		t.Error("a directory was replaced by a symlink")
	}
	if diff := cmp.Diff([]string{"current", "d"}, names(t, dir)); diff != "" {
		t.Errorf("left over (-want +got):\n%s", diff)
	}
}

func TestOpenDirFollowsNoSymlink(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	must(t, os.MkdirAll(dir+"/real/sub", 0o755))
	must(t, os.Symlink("real", dir+"/link"))
	must(t, os.WriteFile(dir+"/file", nil, 0o600))
	for _, p := range []string{dir + "/link", dir + "/link/sub"} {
		if _, err := durable.OpenDir(p); !errors.Is(err, durable.ErrSymlink) {
			t.Errorf("OpenDir(%s) = %v, want ErrSymlink", p, err)
		}
	}
	if _, err := durable.OpenDir("relative"); err == nil {
		t.Error("OpenDir took a relative path")
	}
	if _, err := durable.OpenDir(dir + "/file/x"); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("OpenDir below a file: %v", err)
	}
	root, err := os.OpenRoot(dir)
	must(t, err)
	defer func() { must(t, root.Close()) }()
	d, err := durable.DirIn(root, "real/sub")
	must(t, err)
	must(t, d.WriteFile("f", strings.NewReader("x"), durable.Attr{Mode: 0o600}))
	must(t, d.Close())
	if got := read(t, dir+"/real/sub/f"); got != "x" {
		t.Errorf("wrote %q", got)
	}
	for _, p := range []string{"link/sub", "..", "real/../..", "", "/etc"} {
		if _, err := durable.DirIn(root, p); err == nil {
			t.Errorf("DirIn(%q) was not refused", p)
		}
	}
}

// TestDirStaysTheSame: what happens to the path after it was opened does not matter.
func TestDirStaysTheSame(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	must(t, os.MkdirAll(dir+"/d", 0o755))
	must(t, os.MkdirAll(dir+"/victim", 0o755))
	d := open(t, dir+"/d")
	must(t, os.Rename(dir+"/d", dir+"/moved"))
	must(t, os.Symlink("victim", dir+"/d"))
	must(t, d.WriteFile("f", strings.NewReader("x"), durable.Attr{Mode: 0o600}))
	if got := names(t, dir+"/victim"); got != nil {
		t.Errorf("wrote through a swapped path: %v", got)
	}
	if got := read(t, dir+"/moved/f"); got != "x" {
		t.Errorf("wrote %q", got)
	}
}

func TestDirRefusesPaths(t *testing.T) {
	t.Parallel()
	d := open(t, t.TempDir())
	for _, name := range []string{"", ".", "..", "../x", "a/b", "/etc/x", "nul\x00"} {
		if err := d.WriteFile(name, strings.NewReader(""), durable.Attr{Mode: 0o600}); err == nil {
			t.Errorf("WriteFile(%q) was not refused", name)
		}
		if err := d.Symlink("x", name); err == nil {
			t.Errorf("Symlink(%q) was not refused", name)
		}
		if err := d.RemoveAll(name); err == nil {
			t.Errorf("RemoveAll(%q) was not refused", name)
		}
	}
}

func TestRemoveAllFollowsNoSymlink(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	must(t, os.MkdirAll(dir+"/victim/sub", 0o755))
	must(t, os.WriteFile(dir+"/victim/f", []byte("x"), 0o600))
	must(t, os.MkdirAll(dir+"/gone/a/b", 0o755))
	must(t, os.Symlink("../../victim", dir+"/gone/a/link"))
	must(t, os.Symlink(dir+"/victim", dir+"/gone/link"))
	must(t, os.WriteFile(dir+"/gone/a/b/f", nil, 0o400))
	must(t, durable.RemoveAll(dir+"/gone"))
	must(t, durable.RemoveAll(dir+"/gone"))
	must(t, durable.RemoveAll(dir+"/never/was"))
	if diff := cmp.Diff([]string{"f", "sub"}, names(t, dir+"/victim")); diff != "" {
		t.Errorf("victim (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"victim"}, names(t, dir)); diff != "" {
		t.Errorf("left (-want +got):\n%s", diff)
	}
}

func TestMkdirAllAndRename(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	deep := filepath.Join(dir, "a/b/c")
	must(t, durable.MkdirAll(deep, 0o750))
	must(t, durable.MkdirAll(deep, 0o700))
	info, err := os.Stat(deep)
	must(t, err)
	if info.Mode().Perm() != 0o750 {
		t.Errorf("mode %v, want 0750 from the first call", info.Mode())
	}
	must(t, os.WriteFile(deep+"/f", []byte("x"), 0o600))
	if err := durable.MkdirAll(deep+"/f/g", 0o700); err == nil {
		t.Error("a directory was made below a file")
	}
	must(t, durable.SyncTree(filepath.Join(dir, "a")))
	must(t, durable.SyncDir(dir))
	must(t, durable.Rename(deep, filepath.Join(dir, "moved")))
	if got := read(t, dir+"/moved/f"); got != "x" {
		t.Errorf("moved file holds %q", got)
	}
	if err := durable.Rename(filepath.Join(dir, "nothing"), filepath.Join(dir, "x")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Rename of nothing: %v", err)
	}
}

func TestSyncTreeSparesSpecialFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	must(t, unix.Mkfifo(dir+"/fifo", 0o600))
	must(t, os.Symlink("nowhere", dir+"/link"))
	must(t, durable.SyncTree(dir))
	if err := durable.SyncTree(dir + "/missing"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("SyncTree of nothing: %v", err)
	}
}

func TestLock(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock")
	lock, err := durable.Lock(path)
	must(t, err)
	_, err = durable.Lock(path)
	var held *durable.HeldError
	if !errors.As(err, &held) || held.PID != os.Getpid() {
		t.Fatalf("second Lock: %v, want held by %d", err, os.Getpid())
	}
	must(t, lock.Unlock())
	again, err := durable.Lock(path)
	must(t, err)
	must(t, again.Unlock())
	must(t, os.Symlink(path, path+".link"))
	if _, err := durable.Lock(path + ".link"); err == nil {
		t.Error("Lock followed a symlink")
	}
}

// TestUnlockWhileProcessesStart: what is being started has every file open until
// it executes, the lock file too.
func TestUnlockWhileProcessesStart(t *testing.T) {
	t.Parallel()
	var starting sync.WaitGroup
	defer starting.Wait()
	done := make(chan struct{})
	defer close(done)
	for range 2 {
		starting.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					_ = exec.Command("/bin/true").Run() // only its start matters
				}
			}
		})
	}
	path := filepath.Join(t.TempDir(), "lock")
	for range 3000 {
		lock, err := durable.Lock(path)
		must(t, err)
		must(t, lock.Unlock())
	}
}

// TestLockDiesWithItsHolder: kill -9 of the holder frees the lock.
func TestLockDiesWithItsHolder(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock")
	if os.Getenv("BACKSTAY_TEST_LOCK") != "" {
		return
	}
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestLockHolder$")
	child.Env = append(os.Environ(), "BACKSTAY_TEST_LOCK="+path)
	stdin, err := child.StdinPipe()
	must(t, err)
	stdout, err := child.StdoutPipe()
	must(t, err)
	must(t, child.Start())
	if _, err := io.ReadFull(stdout, make([]byte, len("locked"))); err != nil {
		t.Fatalf("the holder did not lock: %v", err)
	}
	_, err = durable.Lock(path)
	var held *durable.HeldError
	if !errors.As(err, &held) || held.PID != child.Process.Pid {
		t.Errorf("Lock: %v, want held by %d", err, child.Process.Pid)
	}
	must(t, child.Process.Kill())
	_ = child.Wait() // it was killed
	must(t, ignoreClosed(stdin.Close()))
	lock, err := durable.Lock(path)
	must(t, err)
	must(t, lock.Unlock())
}

func ignoreClosed(err error) error {
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

// TestLockHolder is the child of TestLockDiesWithItsHolder.
func TestLockHolder(t *testing.T) {
	t.Parallel()
	path := os.Getenv("BACKSTAY_TEST_LOCK")
	if path == "" {
		return // only meant for the child
	}
	_, err := durable.Lock(path)
	must(t, err)
	_, err = os.Stdout.WriteString("locked")
	must(t, err)
	_, _ = io.Copy(io.Discard, os.Stdin) // until killed
}
