package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/durable"
)

// releases are the unpacked artifacts of a host, one directory each, named by
// the artifact's digest (and for a plain file by its name). Making and removing
// one is done under a lock, because services share them.
type releases struct{ dataDir string }

const (
	makingPrefix = ".making-" // a directory that is not complete
	keepReleases = 3          // kept beyond those in use
)

func (r releases) dir() string { return filepath.Join(r.dataDir, "releases") }

func releaseName(d definition) string {
	if d.Format == plain {
		return d.Release + "-" + d.File
	}
	return d.Release
}

// ensure returns the complete release directory of a definition, unpacking it
// where it is missing. The service's reference to it is durable first, so that
// nobody prunes it.
func (r releases) ensure(ctx context.Context, s store, d definition, blobs backstay.Blobs) (dir string, err error) {
	unlock, err := r.lock(ctx)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	name := releaseName(d)
	if err := s.setWanted(name); err != nil {
		return "", err
	}
	dir = filepath.Join(r.dir(), name)
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("look for release: %w", err)
	}
	if err := r.sweep(); err != nil {
		return "", err
	}
	making := filepath.Join(r.dir(), makingPrefix+name)
	if err := r.fill(ctx, making, d, blobs); err != nil {
		return "", errors.Join(fmt.Errorf("make release %.12s of service %s: %w", d.Release, d.Name, err), removeTree(making))
	}
	if err := durable.Rename(making, dir); err != nil {
		return "", errors.Join(fmt.Errorf("make release %.12s: %w", d.Release, err), removeTree(making))
	}
	return dir, nil
}

// fill makes the directory's content and makes it durable and read-only.
func (r releases) fill(ctx context.Context, making string, d definition, blobs backstay.Blobs) error {
	if blobs == nil {
		return errors.New("there is no stored content here")
	}
	content, err := blobs.Get(d.Release)
	if err != nil {
		return err
	}
	defer func() { _ = content.Close() }() // only read
	if err := os.Mkdir(making, 0o755); err != nil {
		return err
	}
	if d.Format == plain {
		err = copyFile(ctx, filepath.Join(making, d.File), content, 0o555)
	} else {
		err = unpackInto(ctx, making, d.Format, content)
	}
	if err != nil {
		return err
	}
	if err := lockModes(making); err != nil {
		return err
	}
	return durable.SyncTree(making)
}

func copyFile(ctx context.Context, to string, content io.Reader, mode fs.FileMode) (err error) {
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := io.Copy(f, contextReader{ctx, content}); err != nil {
		return err
	}
	return f.Chmod(mode)
}

// unpackInto unpacks by way of a copy of the archive: a zip is read at random.
func unpackInto(ctx context.Context, making string, f format, content io.Reader) (err error) {
	archive := making + ".archive"
	if err := copyFile(ctx, archive, content, 0o600); err != nil {
		return errors.Join(err, os.Remove(archive))
	}
	defer func() { err = errors.Join(err, os.Remove(archive)) }()
	file, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }() // only read
	st, err := file.Stat()
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(making)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	return unpack(ctx, f, file, st.Size(), standardLimits(), root)
}

// lockModes takes the write permission from all directories; files have none.
func lockModes(dir string) error { return chmodDirs(dir, 0o555) }

// removeTree removes a directory whose directories may be read-only.
func removeTree(dir string) error {
	if err := chmodDirs(dir, 0o755); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove release: %w", err)
	}
	return durable.RemoveAll(dir) //nolint:wrapcheck // says what it did
}

// chmodDirs sets the mode of a directory and all below it, and leaves it never.
func chmodDirs(dir string, mode fs.FileMode) (err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	return fs.WalkDir(root.FS(), ".", func(p string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() {
			return err
		}
		return root.Chmod(p, mode)
	})
}

// sweep removes what killed makers left. The lock is held.
func (r releases) sweep() error {
	entries, err := os.ReadDir(r.dir())
	if err != nil {
		return fmt.Errorf("list releases: %w", err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), makingPrefix) {
			if err := removeTree(filepath.Join(r.dir(), e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// prune removes the releases that no service refers to, but for the newest few.
func (r releases) prune(ctx context.Context) (err error) {
	unlock, err := r.lock(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	used, err := r.used()
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(r.dir())
	if err != nil {
		return fmt.Errorf("list releases: %w", err)
	}
	var idle []fs.FileInfo
	for _, e := range entries {
		info, err := e.Info()
		if err == nil && e.IsDir() && !used[e.Name()] && !strings.HasPrefix(e.Name(), makingPrefix) {
			idle = append(idle, info)
		}
	}
	slices.SortFunc(idle, func(a, b fs.FileInfo) int { return b.ModTime().Compare(a.ModTime()) })
	for _, info := range idle[min(len(idle), keepReleases):] {
		if err := removeTree(filepath.Join(r.dir(), info.Name())); err != nil {
			return err
		}
	}
	return nil
}

// used are the names of the releases that some service refers to. An
// unreadable record is an error: then nothing is removed.
func (r releases) used() (map[string]bool, error) {
	services, err := os.ReadDir(filepath.Join(r.dataDir, "services"))
	if err != nil {
		return nil, fmt.Errorf("list services: %w", err)
	}
	used := map[string]bool{}
	for _, e := range services {
		if name, _, _ := strings.Cut(e.Name(), "."); !validName(name) {
			continue
		}
		s := openStore(r.dataDir, e.Name())
		wanted, err := s.wanted()
		if err != nil {
			return nil, err
		}
		cur, err := s.current()
		if err != nil {
			return nil, err
		}
		all, err := s.instances()
		if err != nil {
			return nil, err
		}
		used[wanted] = true
		if cur != nil {
			used[releaseName(cur.Definition)] = true
		}
		for _, i := range all {
			used[i.ReleaseName] = true
		}
	}
	return used, nil
}

const lockEvery = 20 * time.Millisecond

// lock waits for the releases' lock.
func (r releases) lock(ctx context.Context) (unlock func() error, err error) {
	if err := durable.MkdirAll(r.dir(), 0o711); err != nil {
		return nil, err //nolint:wrapcheck // says what it did
	}
	tick := time.NewTicker(lockEvery)
	defer tick.Stop()
	for {
		lock, err := durable.Lock(filepath.Join(r.dir(), ".lock"))
		if err == nil {
			return lock.Unlock, nil
		}
		if held := new(durable.HeldError); !errors.As(err, &held) {
			return nil, err //nolint:wrapcheck // says what it did
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for the lock of the releases: %w", ending(ctx))
		case <-tick.C:
		}
	}
}
