package sandbox

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Change is one path that is not as on the host.
type Change struct {
	Path string
	// What differs: "added", "removed", "type", "content", "mode", "owner",
	// "time" (of modification), "target" (of a link), "attributes".
	What string
	Dir  bool
}

// Changes lists what differs now from the host, by path. Directories that were
// only entered for writing, and files that were rewritten as they were, do not.
// What the host itself changed since the sandbox began cannot be told and is
// left out. Only a process inside can ask.
func Changes() ([]Change, error) {
	if !Inside() {
		return nil, errors.New("list the changes: not in a sandbox")
	}
	var layers []layer
	if err := json.Unmarshal([]byte(os.Getenv(envLayers)), &layers); err != nil {
		return nil, fmt.Errorf("list the changes: %w", err)
	}
	since, err := strconv.ParseInt(os.Getenv(envSince), 10, 64)
	if err != nil {
		return nil, fmt.Errorf("list the changes: %w", err)
	}
	var all []Change
	for _, l := range layers {
		for _, fd := range []int{l.Upper, l.Lower} {
			unix.CloseOnExec(fd) // nobody else's
		}
		found, err := l.changes(since)
		if err != nil {
			return nil, fmt.Errorf("list the changes of %s: %w", l.At, err)
		}
		all = append(all, found...)
	}
	slices.SortFunc(all, func(a, b Change) int { return cmp.Compare(a.Path, b.Path) })
	return all, nil
}

func (l layer) changes(since int64) ([]Change, error) {
	view, err := unix.Open(l.At, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(view) }()
	w := &walker{view: view, upper: l.Upper, lower: l.Lower, at: l.At, since: since}
	err = w.dir(".")
	return w.found, err
}

// Seal keeps what runs inside from finding the open directories of the layers.
// The program calls it first.
func Seal() error {
	_, err := Changes()
	return err
}

// Hidden lists where file systems are mounted on the host that are not there
// inside.
func Hidden() ([]string, error) {
	var all []string
	if err := json.Unmarshal([]byte(cmp.Or(os.Getenv(envHidden), "null")), &all); err != nil {
		return nil, fmt.Errorf("read what is hidden: %w", err)
	}
	return all, nil
}

// walker compares the view with the host, where one layer's upper side says
// that something may have changed.
type walker struct {
	view, upper, lower int
	at                 string
	since              int64
	found              []Change
}

func (w *walker) add(name, what string, dir bool) {
	w.found = append(w.found, Change{Path: path.Join(w.at, name), What: what, Dir: dir})
}

// dir compares what lies in a directory that is in the view and on the host.
func (w *walker) dir(name string) error {
	touched, err := list(w.upper, name)
	if err != nil {
		return err
	}
	now, err := list(w.view, name)
	if err != nil {
		return err
	}
	was, err := list(w.lower, name)
	if err != nil {
		return err
	}
	for _, n := range was {
		if slices.Contains(now, n) {
			continue
		}
		if removed, err := w.removed(path.Join(name, n)); err != nil {
			return err
		} else if removed {
			w.add(path.Join(name, n), "removed", false)
		}
	}
	for _, n := range now {
		if !slices.Contains(touched, n) {
			continue
		}
		if err := w.entry(path.Join(name, n), slices.Contains(was, n)); err != nil {
			return err
		}
	}
	return nil
}

// removed tells a name that is gone in the view from one that the host made
// later, which the view does not see either.
func (w *walker) removed(name string) (bool, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(w.upper, name, &st, unix.AT_SYMLINK_NOFOLLOW); err == nil {
		return true, nil // a whiteout
	}
	// Without one, its directory was made anew.
	switch err := unix.Fstatat(w.lower, name, &st, unix.AT_SYMLINK_NOFOLLOW); {
	case errors.Is(err, unix.ENOENT):
		return false, nil
	case err != nil:
		return false, err
	}
	return !w.hosts(&st), nil
}

// hosts reports whether the host changed what lies below since the sandbox began.
func (w *walker) hosts(lower *unix.Stat_t) bool { return lower.Ctim.Nano() > w.since }

// entry compares one name that was written to.
func (w *walker) entry(name string, was bool) error {
	var now, before unix.Stat_t
	if err := unix.Fstatat(w.view, name, &now, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	kind := now.Mode & unix.S_IFMT
	dir := kind == unix.S_IFDIR
	if !was {
		w.add(name, "added", dir)
		return nil // with all that is in it
	}
	switch err := unix.Fstatat(w.lower, name, &before, unix.AT_SYMLINK_NOFOLLOW); {
	case errors.Is(err, unix.ENOENT):
		return nil // the host removed it a moment ago
	case err != nil:
		return err
	case w.hosts(&before) && kind == before.Mode&unix.S_IFMT:
		if dir {
			return w.dir(name)
		}
		return nil
	}
	if kind != before.Mode&unix.S_IFMT {
		w.add(name, "type", dir)
		return nil
	}
	what, err := w.differs(name, &now, &before)
	if err != nil {
		return err
	}
	if what != "" {
		w.add(name, what, dir)
	}
	if dir {
		return w.dir(name)
	}
	return nil
}

func (w *walker) differs(name string, now, before *unix.Stat_t) (string, error) {
	switch now.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		same := now.Size == before.Size
		if same {
			a, err := sum(w.view, name)
			if err != nil {
				return "", err
			}
			b, err := sum(w.lower, name)
			if err != nil {
				return "", err
			}
			same = a == b
		}
		if !same {
			return "content", nil
		}
	case unix.S_IFLNK:
		a, errA := readlink(w.view, name)
		b, errB := readlink(w.lower, name)
		if err := errors.Join(errA, errB); err != nil {
			return "", err
		}
		if a != b {
			return "target", nil
		}
	}
	switch {
	case now.Mode != before.Mode:
		return "mode", nil
	case now.Uid != before.Uid || now.Gid != before.Gid:
		return "owner", nil
	case !slices.Equal(attributes(w.view, name), attributes(w.lower, name)):
		return "attributes", nil
	case now.Mtim != before.Mtim:
		return "time", nil
	}
	return "", nil
}

// open opens a name below a directory for reading, never through a link.
func open(dir int, name string, flags int) (int, error) {
	return unix.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC|flags, 0)
}

func list(dir int, name string) ([]string, error) {
	fd, err := open(dir, name, unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	defer func() { _ = f.Close() }()
	names, err := f.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}

func sum(dir int, name string) (string, error) {
	fd, err := open(dir, name, unix.O_NONBLOCK)
	if err != nil {
		return "", err
	}
	f := os.NewFile(uintptr(fd), name)
	defer func() { _ = f.Close() }()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return string(h.Sum(nil)), nil
}

func readlink(dir int, name string) (string, error) {
	buf := make([]byte, 4096)
	n, err := unix.Readlinkat(dir, name, buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// attributes are the extended attributes that a user sees, as name=value.
func attributes(dir int, name string) []string {
	buf := make([]byte, 64<<10)
	link := fdPath(dir, name)
	n, err := unix.Llistxattr(link, buf)
	if err != nil {
		return nil
	}
	var all []string
	for _, attr := range bytes.Split(buf[:n], []byte{0}) {
		a := string(attr)
		if a == "" || strings.HasPrefix(a, "trusted.overlay.") || strings.HasPrefix(a, "user.overlay.") {
			continue
		}
		all = append(all, a+"="+xattr(dir, name, a))
	}
	slices.Sort(all)
	return all
}

func xattr(dir int, name, attr string) string {
	buf := make([]byte, 64<<10)
	n, err := unix.Lgetxattr(fdPath(dir, name), attr, buf)
	if err != nil {
		return ""
	}
	return string(buf[:n])
}

// fdPath is the path of a name below an open directory.
func fdPath(dir int, name string) string { return fmt.Sprintf("/proc/self/fd/%d/%s", dir, name) }
