// Package durable is the only place of Backstay that renames, syncs and locks
// files. It owns atomic replacement (temporary file beside the target, write,
// fsync, rename, fsync of the directory), directories reached without following
// a symlink, and lock files.
//
// It promises: when a call returns nil, its effect survives a power cut, as far
// as the file system keeps its word; when it returns an error, the old file is
// whole and no temporary file of this call is left; every error of fsync is
// returned, because after one nothing is known about what is on disk. A killed
// process can leave a temporary file: its name follows from its target's
// (TempName), the next writer of that target takes it over, and Dir.Sweep
// removes it.
//
// Functions that take a path follow symlinks in its directories, as the
// operating system does: they are for paths that only trusted users can write.
// Dir and its methods follow none and are for all others.
package durable

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Attr is what a written file gets before it becomes visible. Mode holds the
// permission bits and setuid, setgid and sticky, set exactly, whatever the umask.
type Attr struct {
	Mode  fs.FileMode
	Owner *Owner    // nil: the process's
	MTime time.Time // zero: now
}

// Owner is a numeric owner and group; -1 leaves either alone.
type Owner struct{ UID, GID int }

// WriteFile replaces path by what r yields, or creates it. Readers see the old
// content or all of the new.
func WriteFile(path string, r io.Reader, attr Attr) error {
	return inParent(path, func(d *Dir, name string) error { return d.WriteFile(name, r, attr) })
}

// Symlink replaces path by a symlink to target, or creates it. A directory at
// path is an error.
func Symlink(target, path string) error {
	return inParent(path, func(d *Dir, name string) error {
		if err := d.Symlink(target, name); err != nil {
			return err
		}
		return d.SyncEntries()
	})
}

// RemoveAll removes path and all below it, following no symlink. Nothing at
// path is no error.
func RemoveAll(path string) error {
	err := inParent(path, func(d *Dir, name string) error {
		if err := d.RemoveAll(name); err != nil {
			return err
		}
		return d.SyncEntries()
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Rename moves oldPath to newPath on one file system, replacing what rename(2)
// replaces. The content of what is moved must be synced already (SyncTree).
func Rename(oldPath, newPath string) error {
	return inParent(oldPath, func(from *Dir, oldName string) error {
		return inParent(newPath, func(to *Dir, newName string) error {
			if err := unix.Renameat(from.fd(), oldName, to.fd(), newName); err != nil {
				return &os.LinkError{Op: "rename", Old: oldPath, New: newPath, Err: err}
			}
			if err := to.SyncEntries(); err != nil {
				return err
			}
			return from.SyncEntries()
		})
	})
}

// MkdirAll creates path and its missing parents with exactly perm, and syncs
// each directory in which it created one. An existing directory is left as it is.
func MkdirAll(path string, perm fs.FileMode) error {
	path = filepath.Clean(path)
	if info, err := os.Stat(path); err == nil {
		if !info.IsDir() {
			return &fs.PathError{Op: "mkdir", Path: path, Err: unix.ENOTDIR}
		}
		return nil
	}
	parent := filepath.Dir(path)
	if parent != path {
		if err := MkdirAll(parent, perm); err != nil {
			return err
		}
	}
	if err := os.Mkdir(path, perm); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return MkdirAll(path, perm) // another process was quicker; or it is a dangling symlink
		}
		return fmt.Errorf("create directory: %w", err)
	}
	if err := os.Chmod(path, perm); err != nil {
		return fmt.Errorf("set mode of new directory: %w", err)
	}
	if err := SyncDir(path); err != nil {
		return err
	}
	return SyncDir(parent)
}

// SyncDir makes the entries of a directory durable.
func SyncDir(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open directory to sync: %w", err)
	}
	err = f.Sync()
	return errors.Join(wrapSync(path, err), f.Close())
}

// SyncOpen makes content and attributes of an open file durable.
func SyncOpen(f *os.File) error { return wrapSync(f.Name(), f.Sync()) }

// SyncTree makes a file, or a directory and all below it, durable. Symlinks
// are not followed, and special files are left out.
func SyncTree(path string) error {
	return inParent(path, func(d *Dir, name string) error { return d.syncTree(name) })
}

func wrapSync(path string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("sync %s (nothing is known about what is on disk): %w", path, err)
}

// inParent calls do with path's directory, reached as the operating system does.
func inParent(path string, do func(*Dir, string) error) error {
	path = filepath.Clean(path)
	name := filepath.Base(path)
	if err := checkName(name); err != nil {
		return &fs.PathError{Op: "use", Path: path, Err: err}
	}
	f, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("open directory: %w", err)
	}
	d := &Dir{file: f, path: filepath.Dir(path)}
	return errors.Join(do(d, name), d.Close())
}
