package tree_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
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

func entries(t *testing.T, state backstay.ResourceState) map[string]tree.Entry {
	t.Helper()
	e, err := tree.Entries(state)
	mustDo(t, err)
	return e
}

func TestCaptureIsCanonical(t *testing.T) {
	t.Parallel()
	root := filepath.Join(t.TempDir(), "f")
	write(t, root, "hello")
	mustDo(t, os.Chmod(root, 0o640))
	at := time.Date(2024, 2, 29, 23, 59, 59, 7, time.UTC)
	mustDo(t, os.Chtimes(root, at, at))
	got := string(capture(t, root, nil).Parts[""])
	want := fmt.Sprintf(`{"type":"file","mode":"0640","uid":%d,"gid":%d,"mtime":"2024-02-29T23:59:59.000000007Z","size":5,`+
		`"sha256":"2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"}`, os.Getuid(), os.Getgid())
	if got != want {
		t.Errorf("entry is %s\nwant     %s", got, want)
	}
}

func TestCaptureOfNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir+"/f", "")
	for _, p := range []string{dir + "/missing", dir + "/missing/below", dir + "/f/below"} {
		if state := capture(t, p, drivertest.NewBlobs()); len(state.Parts) != 0 {
			t.Errorf("%s: %v, want absent", p, state)
		}
	}
	for _, p := range []string{"relative", "/", "/a/../b", "/a/", ""} {
		if _, err := tree.Capture(t.Context(), p, tree.Options{}); err == nil {
			t.Errorf("path %q was not refused", p)
		}
	}
}

func TestCaptureRefusesSymlinksOnTheWay(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir+"/real/f", "x")
	mustDo(t, os.Symlink("real", dir+"/link"))
	_, err := tree.Capture(t.Context(), dir+"/link/f", tree.Options{})
	if !errors.Is(err, durable.ErrSymlink) || !strings.Contains(backstay.HintOf(err), dir+"/real/f") {
		t.Errorf("Capture: %v (hint %q), want a refusal that names the real path", err, backstay.HintOf(err))
	}
	if e := entries(t, capture(t, dir+"/link", nil))[""]; e.Type != tree.Symlink || e.Target != "real" {
		t.Errorf("the symlink itself is %+v", e)
	}
}

// TestCaptureRefusesWhatItCannotRestore: all of it in one error when kept for
// an undo, described when only looked at.
func TestCaptureRefusesWhatItCannotRestore(t *testing.T) {
	t.Parallel()
	// A short path: the names of sockets are limited.
	dir := t.TempDir()
	root := dir + "/key"
	write(t, root+"/fine", "x")
	write(t, dir+"/outside", "x")
	mustDo(t, unix.Mkfifo(root+"/fifo", 0o600))
	mustDo(t, os.Link(dir+"/outside", root+"/shared"))
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	mustDo(t, err)
	t.Cleanup(func() { mustDo(t, unix.Close(fd)) })
	listener, err := net.Listen("unix", root+"/sock") //nolint:noctx // no connection is made
	mustDo(t, err)
	t.Cleanup(func() { mustDo(t, listener.Close()) })
	want := map[string]string{
		root + "/fifo":   "is a fifo, which no undo can bring back",
		root + "/sock":   "is a socket, which no undo can bring back",
		root + "/shared": "has hard links outside the path",
	}
	looked := map[string]tree.Type{"": tree.Dir, "fine": tree.File, "fifo": tree.FIFO, "sock": tree.Socket, "shared": tree.File}
	if err := unix.Mknod(root+"/null", unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))); err == nil {
		want[root+"/null"], looked["null"] = "is a chardev, which no undo can bring back", tree.CharDevice
	}
	mustDo(t, os.Mkdir(root+"/mnt", 0o755))
	looked["mnt"] = tree.Dir
	if err := unix.Mount("tmpfs", root+"/mnt", "tmpfs", 0, "size=64k"); err == nil {
		t.Cleanup(func() { mustDo(t, unix.Unmount(root+"/mnt", unix.MNT_DETACH)) })
		write(t, root+"/mnt/hidden", "x")
		want[root+"/mnt"], looked["mnt"] = "is a mount point", tree.Mount
	}
	write(t, root+"/frozen", "x")
	looked["frozen"] = tree.File
	if setImmutable(t, root+"/frozen", true) {
		t.Cleanup(func() { setImmutable(t, root+"/frozen", false) })
		want[root+"/frozen"] = "is immutable or append-only (chattr -i -a)"
	}

	_, err = tree.Capture(t.Context(), root, tree.Options{Blobs: drivertest.NewBlobs()})
	var refused *tree.UnrestorableError
	if !errors.As(err, &refused) {
		t.Fatalf("Capture for keeping: %v, want an UnrestorableError", err)
	}
	got := map[string]string{}
	for _, item := range refused.Items {
		got[item.Path] = item.Why
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("refused (-want +got):\n%s", diff)
	}
	types := map[string]tree.Type{}
	for part, e := range entries(t, capture(t, root, nil)) {
		types[part] = e.Type
	}
	if diff := cmp.Diff(looked, types); diff != "" {
		t.Errorf("looked at (-want +got):\n%s", diff)
	}
}

// setImmutable sets or clears the file attribute; false where that is not possible.
func setImmutable(t *testing.T, path string, on bool) bool {
	t.Helper()
	f, err := os.Open(path)
	mustDo(t, err)
	defer func() { mustDo(t, f.Close()) }()
	flags := 0
	if on {
		flags = 0x10 // FS_IMMUTABLE_FL of linux/fs.h
	}
	return unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags) == nil
}

// TestRestoreRemovesSpecialFiles: what a look describes, a restore can remove.
func TestRestoreRemovesSpecialFiles(t *testing.T) {
	t.Parallel()
	root := filepath.Join(t.TempDir(), "key")
	write(t, root+"/was", "x")
	blobs := drivertest.NewBlobs()
	before, world := capture(t, root, blobs), drivertest.Walk(t, root, nil, nil)
	mustDo(t, os.Remove(root+"/was"))
	mustDo(t, unix.Mkfifo(root+"/was", 0o600))
	mustDo(t, unix.Mkfifo(root+"/new", 0o600))
	mustDo(t, tree.Restore(t.Context(), root, before, tree.Differing(before, capture(t, root, nil)), blobs))
	if diff := cmp.Diff(world, drivertest.Walk(t, root, nil, nil)); diff != "" {
		t.Errorf("(-before +now):\n%s", diff)
	}
}

func TestCaptureLimits(t *testing.T) {
	t.Parallel()
	root := filepath.Join(t.TempDir(), "key")
	for i := range 20 {
		write(t, fmt.Sprintf("%s/%d", root, i), "0123456789")
	}
	for _, tt := range []struct {
		name   string
		limits tree.Limits
		why    string
	}{
		{"too many files", tree.Limits{Files: 20}, "limit of 20"},
		{"too much content", tree.Limits{Bytes: 199}, "limit of 199 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for _, blobs := range []backstay.Blobs{nil, drivertest.NewBlobs()} {
				_, err := tree.Capture(t.Context(), root, tree.Options{Blobs: blobs, Limits: tt.limits})
				var refused *tree.UnrestorableError
				if !errors.As(err, &refused) || !strings.Contains(err.Error(), tt.why) {
					t.Errorf("Capture: %v, want a refusal saying %q", err, tt.why)
				}
			}
		})
	}
	if _, err := tree.Capture(t.Context(), root, tree.Options{Limits: tree.Limits{Files: 21, Bytes: 200}}); err != nil {
		t.Errorf("at the limits: %v", err)
	}
}

// TestCaptureOfMonsters: a sparse terabyte and 100,000 files are refused soon,
// without being read.
func TestCaptureOfMonsters(t *testing.T) {
	t.Parallel()
	dir := drivertest.Scratch(t)
	write(t, dir+"/sparse", "")
	if err := os.Truncate(dir+"/sparse", 1<<40); err != nil {
		t.Logf("no sparse terabyte here: %v", err)
		mustDo(t, os.Truncate(dir+"/sparse", 2<<30))
	}
	mustDo(t, os.Mkdir(dir+"/many", 0o755))
	write(t, dir+"/many/f-0", "")
	for i := 1; i < 100_000; i++ { // hard links: as many names for less work
		from := fmt.Sprintf("%s/many/f-%d", dir, i/10_000*10_000)
		to := fmt.Sprintf("%s/many/f-%d", dir, i)
		if i%10_000 == 0 {
			write(t, to, "")
			continue
		}
		mustDo(t, os.Link(from, to))
	}
	for _, p := range []string{dir + "/sparse", dir + "/many"} {
		blobs := drivertest.NewBlobs()
		_, err := tree.Capture(t.Context(), p, tree.Options{Blobs: blobs})
		var refused *tree.UnrestorableError
		if !errors.As(err, &refused) {
			t.Errorf("%s: %v, want an UnrestorableError", p, err)
		}
		for _, content := range blobs.All() {
			if len(content) > 0 {
				t.Errorf("%s: content was stored", p)
			}
		}
	}
}

func TestCaptureOfDeepNesting(t *testing.T) {
	t.Parallel()
	root := filepath.Join(t.TempDir(), "key")
	mustDo(t, os.MkdirAll(root+strings.Repeat("/d", 400), 0o755))
	_, err := tree.Capture(t.Context(), root, tree.Options{Blobs: drivertest.NewBlobs()})
	var refused *tree.UnrestorableError
	if !errors.As(err, &refused) {
		t.Errorf("Capture: %v, want an UnrestorableError", err)
	}
}

func TestCaptureNamesEveryName(t *testing.T) {
	t.Parallel()
	root := filepath.Join(t.TempDir(), "key")
	names := []string{"\xff", "\xff\xfe", `\xff`, `\`, "new\nline", "\x1b[31m", strings.Repeat("n", 255), " ", "-rf", "Case", "case", "é", "e\u0301"}
	for _, name := range names {
		write(t, root+"/"+name, name)
	}
	blobs := drivertest.NewBlobs()
	before, world := capture(t, root, blobs), drivertest.Walk(t, root, nil, nil)
	if len(before.Parts) != len(names)+1 {
		t.Fatalf("%d parts for %d names: two names became one", len(before.Parts), len(names))
	}
	// Through JSON, as the ledger keeps it.
	var kept backstay.ResourceState
	mustDo(t, json.Unmarshal(backstay.Canonical(before), &kept))
	mustDo(t, os.RemoveAll(root))
	mustDo(t, tree.Restore(t.Context(), root, kept, tree.Differing(kept, backstay.ResourceState{}), blobs))
	if diff := cmp.Diff(world, drivertest.Walk(t, root, nil, nil)); diff != "" {
		t.Errorf("(-before +now):\n%s", diff)
	}
}

func TestCaptureViews(t *testing.T) {
	t.Parallel()
	root := filepath.Join(t.TempDir(), "key")
	for _, f := range []string{"a/x", "a/y", "b/x", "c", "log/1", "log/2"} {
		write(t, root+"/"+f, f)
	}
	for _, tt := range []struct {
		name string
		opts tree.Options
		want []string
	}{
		{"all", tree.Options{}, []string{"", "a", "a/x", "a/y", "b", "b/x", "c", "log", "log/1", "log/2"}},
		{"ignoring", tree.Options{Ignore: []string{"log", "*/y"}}, []string{"", "a", "a/x", "b", "b/x", "c"}},
		{"only", tree.Options{Only: []string{"a/x", "c", "missing/one"}}, []string{"", "a", "a/x", "c"}},
		{"only the path", tree.Options{Only: []string{}}, []string{""}},
		{"shallow", tree.Options{Shallow: true}, []string{""}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			state, err := tree.Capture(t.Context(), root, tt.opts)
			mustDo(t, err)
			if diff := cmp.Diff(tt.want, tree.Differing(state, backstay.ResourceState{})); diff != "" {
				t.Errorf("parts (-want +got):\n%s", diff)
			}
			if shallow := entries(t, state)[""].MTime == ""; shallow != tt.opts.Shallow {
				t.Errorf("the directory's time is left out: %v", shallow)
			}
		})
	}
}

// meddling is blobs that change the file while it is being read.
type meddling struct {
	*drivertest.Blobs
	path  string
	times int
}

func (m *meddling) Put(r io.Reader) (string, int64, error) {
	if m.times > 0 {
		m.times--
		if err := os.WriteFile(m.path, fmt.Append(nil, "changed ", m.times), 0o600); err != nil {
			return "", 0, err
		}
	}
	return m.Blobs.Put(r)
}

func TestCaptureOfChangingFile(t *testing.T) {
	t.Parallel()
	root := filepath.Join(t.TempDir(), "f")
	write(t, root, "original content")
	state, err := tree.Capture(t.Context(), root, tree.Options{Blobs: &meddling{Blobs: drivertest.NewBlobs(), path: root, times: 1}})
	mustDo(t, err)
	if !state.Equal(capture(t, root, nil)) {
		t.Error("a file that changed once was not read again")
	}
	_, err = tree.Capture(t.Context(), root, tree.Options{Blobs: &meddling{Blobs: drivertest.NewBlobs(), path: root, times: 1000}})
	if backstay.ClassOf(err) != backstay.Transient || backstay.HintOf(err) == "" {
		t.Errorf("a file that keeps changing: %v (class %s), want transient with a hint", err, backstay.ClassOf(err))
	}
}

func TestCaptureCancelled(t *testing.T) {
	t.Parallel()
	root := filepath.Join(t.TempDir(), "f")
	write(t, root, "x")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := tree.Capture(ctx, root, tree.Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("Capture: %v", err)
	}
}

// TestAttributesReturn: ACLs, capabilities and setuid, which the kernel changes
// behind a careless order of calls.
func TestAttributesReturn(t *testing.T) {
	t.Parallel()
	root := filepath.Join(t.TempDir(), "key")
	write(t, root+"/acl", "x")
	write(t, root+"/cap", "x")
	write(t, root+"/suid", "x")
	// version 2; user::rw-, user:1234:rwx, group::r--, mask::rw-, other::---
	acl := "\x02\x00\x00\x00" + "\x01\x00\x06\x00\xff\xff\xff\xff" + "\x02\x00\x07\x00\xd2\x04\x00\x00" +
		"\x04\x00\x04\x00\xff\xff\xff\xff" + "\x10\x00\x06\x00\xff\xff\xff\xff" + "\x20\x00\x00\x00\xff\xff\xff\xff"
	if err := unix.Setxattr(root+"/acl", "system.posix_acl_access", []byte(acl), 0); err != nil {
		t.Logf("no ACLs on this file system: %v", err)
	}
	if err := unix.Setxattr(root, "system.posix_acl_default", []byte(acl), 0); err != nil {
		t.Logf("no default ACLs on this file system: %v", err)
	}
	capability := "\x01\x00\x00\x02" + "\x00\x04\x00\x00" + strings.Repeat("\x00", 12) // cap_net_bind_service=ep
	if err := unix.Setxattr(root+"/cap", "security.capability", []byte(capability), 0); err != nil {
		t.Logf("no capabilities on files here: %v", err)
	}
	mustDo(t, os.Lchown(root+"/suid", os.Getuid(), os.Getgid()))
	mustDo(t, unix.Chmod(root+"/suid", 0o6755))
	blobs := drivertest.NewBlobs()
	before, world := capture(t, root, blobs), drivertest.Walk(t, root, nil, nil)
	for name, spoil := range map[string]func(string) error{
		"content": func(p string) error { return os.WriteFile(p, []byte("other"), 0o600) },
		"mode":    func(p string) error { return os.Chmod(p, 0o600) },
		"owner":   func(p string) error { return ignorePermission(os.Chown(p, 12, 34)) },
		"removed": os.Remove,
	} {
		for _, f := range []string{"acl", "cap", "suid"} {
			mustDo(t, spoil(root+"/"+f))
		}
		_ = unix.Removexattr(root, "system.posix_acl_default")
		parts := tree.Differing(before, capture(t, root, nil))
		mustDo(t, tree.Restore(t.Context(), root, before, parts, blobs))
		if diff := cmp.Diff(world, drivertest.Walk(t, root, nil, nil)); diff != "" {
			t.Errorf("%s (-before +now):\n%s", name, diff)
		}
	}
}

func ignorePermission(err error) error {
	if errors.Is(err, os.ErrPermission) {
		return nil
	}
	return err
}

func FuzzEntries(f *testing.F) {
	f.Add(`{"":{"type":"file","mode":"0644","uid":0,"gid":0,"sha256":"x","link":"a/b"}}`)
	f.Add(`{"../x":{"type":"dir"}}`)
	f.Add(`{"a":{"type":"dir","mode":"99999"}}`)
	f.Add(`{"\\xff":{"type":"symlink","target":"\\x","mtime":"2024-01-01T00:00:00Z"}}`)
	f.Fuzz(func(t *testing.T, text string) {
		var state backstay.ResourceState
		if json.Unmarshal([]byte(text), &state.Parts) != nil {
			return
		}
		read, err := tree.Entries(state)
		if err != nil {
			return
		}
		for part, e := range read {
			if part != "" && !filepath.IsLocal(part) || e.Link != "" && !filepath.IsLocal(e.Link) {
				t.Errorf("part %q link %q leaves the tree", part, e.Link)
			}
		}
		again, err := tree.Entries(tree.State(read))
		if err != nil || !cmp.Equal(read, again) {
			t.Errorf("written and read again: %v %v, was %v", again, err, read)
		}
		// Restoring into nothing must end, whatever the state says, and stay inside.
		dir := t.TempDir()
		write(t, dir+"/neighbour", "x")
		_ = tree.Restore(t.Context(), dir+"/key", state, tree.Differing(state, backstay.ResourceState{}), drivertest.NewBlobs())
		for _, name := range mustNames(t, dir) {
			if name != "key" && name != "neighbour" {
				t.Errorf("Restore made %q outside the key", name)
			}
		}
		_ = os.RemoveAll(dir + "/key")
	})
}

func mustNames(t *testing.T, dir string) []string {
	t.Helper()
	list, err := os.ReadDir(dir)
	mustDo(t, err)
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}
