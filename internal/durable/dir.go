package durable

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ErrSymlink is wrapped where a directory on the way turned out to be a
// symlink: nothing was followed.
var ErrSymlink = errors.New("is a symlink, and none is followed here")

// Dir is an open directory that was reached without following a symlink, and
// stays the same directory whatever happens to its path. Names are single path
// elements. Methods are safe for concurrent use on different names.
type Dir struct {
	file *os.File
	path string
}

// OpenDir opens the directory at an absolute path. Any symlink in it, the last
// element included, is refused with ErrSymlink.
func OpenDir(dir string) (*Dir, error) {
	if !filepath.IsAbs(dir) {
		return nil, &fs.PathError{Op: "open directory", Path: dir, Err: errors.New("path is not absolute")}
	}
	root, err := os.Open("/")
	if err != nil {
		return nil, fmt.Errorf("open directory: %w", err)
	}
	return descend(&Dir{file: root, path: "/"}, strings.TrimPrefix(filepath.Clean(dir), "/"))
}

// DirIn opens a directory below an os.Root, by a slash path; "." is the root
// itself. Unlike the root's own methods it follows no symlink, not even one
// that stays inside.
func DirIn(root *os.Root, dir string) (*Dir, error) {
	if err := checkRelative(dir); err != nil {
		return nil, err
	}
	f, err := root.Open(".")
	if err != nil {
		return nil, fmt.Errorf("open directory: %w", err)
	}
	return descend(&Dir{file: f, path: root.Name()}, trimDot(dir))
}

// Sub opens a directory below this one by a slash path without following a symlink.
func (d *Dir) Sub(dir string) (*Dir, error) {
	if err := checkRelative(dir); err != nil {
		return nil, err
	}
	f, err := d.open(".", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	return descend(&Dir{file: f, path: d.path}, trimDot(dir))
}

// descend walks down from d, which it takes over, element by element.
func descend(d *Dir, rest string) (*Dir, error) {
	for rest != "" {
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		flags := unix.O_DIRECTORY | traverse
		if rest == "" {
			flags = unix.O_DIRECTORY | unix.O_RDONLY
		}
		f, err := d.open(name, flags)
		if err != nil {
			err = d.explain(name, err)
			return nil, errors.Join(err, d.Close())
		}
		next := &Dir{file: f, path: path.Join(d.path, name)}
		if err := d.Close(); err != nil {
			return nil, errors.Join(err, next.Close())
		}
		d = next
	}
	return d, nil
}

// explain turns the ENOTDIR or ELOOP that a symlink gives into ErrSymlink.
func (d *Dir) explain(name string, err error) error {
	if st, statErr := d.Lstat(name); statErr == nil && isType(st, unix.S_IFLNK) {
		return &fs.PathError{Op: "open directory", Path: path.Join(d.path, name), Err: ErrSymlink}
	}
	return err
}

// Close frees the handle.
func (d *Dir) Close() error {
	if err := d.file.Close(); err != nil {
		return fmt.Errorf("close directory: %w", err)
	}
	return nil
}

// Path is the path by which the directory was opened, for messages.
func (d *Dir) Path() string { return d.path }

// Join is Path with name, for messages.
func (d *Dir) Join(name string) string { return path.Join(d.path, name) }

// FD is the directory's descriptor, for system calls of the *at family. It is
// valid until Close.
func (d *Dir) FD() int { return d.fd() }

func (d *Dir) fd() int { return int(d.file.Fd()) }

// SyncEntries makes the directory's entries and attributes durable.
func (d *Dir) SyncEntries() error { return wrapSync(d.path, d.file.Sync()) }

// Lstat reads what name is, without following it.
func (d *Dir) Lstat(name string) (*unix.Stat_t, error) {
	var st unix.Stat_t
	if err := retry(func() error { return unix.Fstatat(d.fd(), name, &st, unix.AT_SYMLINK_NOFOLLOW) }); err != nil {
		return nil, &fs.PathError{Op: "lstat", Path: d.Join(name), Err: err}
	}
	return &st, nil
}

// Open opens name for reading without following it and without waiting for a
// FIFO's other end. The caller checks what kind of file it got.
func (d *Dir) Open(name string) (*os.File, error) {
	if err := checkName(name); err != nil {
		return nil, &fs.PathError{Op: "open", Path: d.Join(name), Err: err}
	}
	return d.open(name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY)
}

func (d *Dir) open(name string, flags int) (*os.File, error) { return d.openMode(name, flags, 0) }

func (d *Dir) openMode(name string, flags int, perm uint32) (*os.File, error) {
	var fd int
	err := retry(func() (err error) {
		fd, err = unix.Openat(d.fd(), name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, perm)
		return err
	})
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: d.Join(name), Err: err}
	}
	return os.NewFile(uintptr(fd), d.Join(name)), nil
}

// Names lists the directory, unsorted. With limit > 0 it stops after more than
// limit names, so that a directory of millions costs no memory.
func (d *Dir) Names(limit int) ([]string, error) {
	f, err := d.open(".", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	var names []string
	for limit <= 0 || len(names) <= limit {
		chunk, err := f.Readdirnames(1024)
		names = append(names, chunk...)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("list directory: %w", err), f.Close())
		}
	}
	if err := f.Close(); err != nil {
		return nil, fmt.Errorf("close directory: %w", err)
	}
	return names, nil
}

// Readlink reads the symlink name.
func (d *Dir) Readlink(name string) (string, error) {
	for size := 256; ; size *= 2 {
		buf := make([]byte, size)
		var n int
		err := retry(func() (err error) { n, err = unix.Readlinkat(d.fd(), name, buf); return err })
		if err != nil {
			return "", &fs.PathError{Op: "readlink", Path: d.Join(name), Err: err}
		}
		if n < size {
			return string(buf[:n]), nil
		}
	}
}

// Mkdir creates the directory name with exactly perm. It does not sync.
func (d *Dir) Mkdir(name string, perm fs.FileMode) error {
	if err := retry(func() error { return unix.Mkdirat(d.fd(), name, uint32(perm.Perm())) }); err != nil {
		return &fs.PathError{Op: "mkdir", Path: d.Join(name), Err: err}
	}
	return nil
}

// Remove removes a name that is no directory. It does not sync.
func (d *Dir) Remove(name string) error { return d.unlink(name, 0) }

// RemoveDir removes an empty directory. It does not sync.
func (d *Dir) RemoveDir(name string) error { return d.unlink(name, unix.AT_REMOVEDIR) }

func (d *Dir) unlink(name string, flags int) error {
	if err := retry(func() error { return unix.Unlinkat(d.fd(), name, flags) }); err != nil {
		return &fs.PathError{Op: "remove", Path: d.Join(name), Err: err}
	}
	return nil
}

// RemoveAll removes name and all below it, following no symlink: what a
// symlink points to is never touched. Nothing there is no error. It does not sync
// this directory.
func (d *Dir) RemoveAll(name string) error {
	if err := checkName(name); err != nil {
		return &fs.PathError{Op: "remove", Path: d.Join(name), Err: err}
	}
	err := d.Remove(name)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	st, statErr := d.Lstat(name)
	if statErr != nil || !isType(st, unix.S_IFDIR) {
		return err
	}
	sub, err := d.Sub(name)
	if err != nil {
		return err
	}
	names, err := sub.Names(0)
	for _, n := range names {
		if err == nil {
			err = sub.RemoveAll(n)
		}
	}
	if err := errors.Join(err, sub.Close()); err != nil {
		return err
	}
	if err := d.RemoveDir(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// syncTree makes name and all below it durable, children first.
func (d *Dir) syncTree(name string) error {
	st, err := d.Lstat(name)
	if err != nil {
		return err
	}
	switch modeOf(st) & unix.S_IFMT {
	case unix.S_IFREG:
		f, err := d.Open(name)
		if err != nil {
			return err
		}
		return errors.Join(SyncOpen(f), f.Close())
	case unix.S_IFDIR:
		sub, err := d.Sub(name)
		if err != nil {
			return err
		}
		names, err := sub.Names(0)
		for _, n := range names {
			if err == nil {
				err = sub.syncTree(n)
			}
		}
		return errors.Join(err, sub.SyncEntries(), sub.Close())
	}
	return nil
}

// SetMTime sets the modification time of name (of a symlink: its own; "." is
// the directory itself) to the nanosecond and leaves its access time alone. It
// does not sync.
func (d *Dir) SetMTime(name string, at time.Time) error {
	mtime, err := unix.TimeToTimespec(at)
	if err == nil {
		times := []unix.Timespec{{Nsec: omitTime}, mtime}
		err = retry(func() error { return unix.UtimesNanoAt(d.fd(), name, times, unix.AT_SYMLINK_NOFOLLOW) })
	}
	if err != nil {
		return &fs.PathError{Op: "set modification time", Path: d.Join(name), Err: err}
	}
	return nil
}

func isType(st *unix.Stat_t, kind uint32) bool { return modeOf(st)&unix.S_IFMT == kind }

// checkRelative refuses what is not a slash path downwards; "." is the
// directory itself. Names may be any bytes, unlike in fs.ValidPath.
func checkRelative(dir string) error {
	if dir == "." {
		return nil
	}
	for name := range strings.SplitSeq(dir, "/") {
		if err := checkName(name); err != nil {
			return &fs.PathError{Op: "open directory", Path: dir, Err: err}
		}
	}
	return nil
}

func trimDot(dir string) string {
	if dir == "." {
		return ""
	}
	return dir
}

// checkName refuses what is not one path element.
func checkName(name string) error {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("%q is not the name of a file", name)
	}
	return nil
}

// retry repeats a system call that a signal interrupted.
func retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
