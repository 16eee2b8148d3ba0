package tree

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/durable"
)

// createFile makes name the wanted file: not at all where it is right, in place
// where only attributes differ and nothing else shares the file, else as a new
// file that replaces the old in one rename, complete with all attributes.
func (r *restorer) createFile(dir *durable.Dir, name, part string, want Entry) error {
	now, err := r.current(dir, name)
	if err != nil {
		return err
	}
	if now != nil && want.sameContent(*now) {
		st, err := dir.Lstat(name)
		if err != nil {
			return err
		}
		if linksOf(st) <= r.groupSize(part) {
			if want.same(*now) {
				return nil
			}
			err := r.adjust(dir, name, part, want, now)
			if !errors.Is(err, fs.ErrPermission) {
				return err
			}
		}
	}
	return r.replace(dir, name, part, want, now)
}

// groupSize is how many names the wanted state gives the file at part.
func (r *restorer) groupSize(part string) int {
	n := 1
	for _, e := range r.want {
		if e.Link == part && part != "" {
			n++
		}
	}
	return n
}

// adjust sets attributes in place.
func (r *restorer) adjust(dir *durable.Dir, name, part string, want Entry, now *Entry) error {
	f, err := dir.Open(name)
	if err != nil {
		return err
	}
	err = func() error {
		var open unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &open); err != nil {
			return &fs.PathError{Op: "stat", Path: dir.Join(name), Err: err}
		}
		if modeOf(&open)&unix.S_IFMT != unix.S_IFREG {
			return errChanged
		}
		if err := r.allow(part, now); err != nil {
			return err
		}
		if err := setAttributes(int(f.Fd()), want); err != nil {
			return err
		}
		if err := setMTime(dir, name, want); err != nil {
			return err
		}
		return durable.SyncOpen(f)
	}()
	return errors.Join(err, f.Close())
}

// replace writes the wanted file beside name and renames it over.
func (r *restorer) replace(dir *durable.Dir, name, part string, want Entry, now *Entry) (err error) {
	if err := r.leased(); err != nil {
		return err // even the new file beside it changes the directory's time
	}
	p, err := dir.Create(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Abort()) }()
	if err := r.copyContent(p, want); err != nil {
		return err
	}
	if r.opts.Validate != nil {
		if err := r.opts.Validate(r.ctx, part, p.Path()); err != nil {
			return err
		}
	}
	if err := setAttributes(int(p.File().Fd()), want); err != nil {
		return err
	}
	if err := setMTime(dir, durable.TempName(name), want); err != nil {
		return err
	}
	if err := p.SyncFile(); err != nil {
		return err
	}
	if r.opts.Guard != nil { // look again as late as can be
		if now, err = r.current(dir, name); err != nil {
			return err
		}
	}
	if err := r.allow(part, now); err != nil {
		return err
	}
	return p.Commit()
}

// copyContent copies the content from the blobs, and checks that it is the one.
func (r *restorer) copyContent(w io.Writer, want Entry) (err error) {
	if r.blobs == nil {
		return &backstay.Error{Class: backstay.NotFound, Op: "open content", Subject: want.SHA256, Err: errors.New("no content was kept")}
	}
	content, err := r.blobs.Get(want.SHA256)
	if err != nil {
		return fmt.Errorf("open content: %w", err)
	}
	defer func() { err = errors.Join(err, content.Close()) }()
	h := sha256.New()
	if _, err := io.Copy(io.MultiWriter(w, h), contextReader{r.ctx, content}); err != nil {
		return fmt.Errorf("copy content: %w", err)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != want.SHA256 {
		return fmt.Errorf("copy content: stored content of %s has digest %s", want.SHA256, got)
	}
	return nil
}

// setAttributes sets owner, mode and extended attributes of an open file or
// directory where they differ. The order matters: a change of owner clears
// setuid and capabilities, user.* needs write permission, and an ACL counts as
// group bits of the mode.
func setAttributes(fd int, want Entry) error {
	mode, err := want.mode()
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("stat: %w", err)
	}
	isUser := func(name string) bool { return strings.HasPrefix(name, "user.") }
	if err := dropXattrs(fd, want.Xattrs); err != nil {
		return err
	}
	if err := writeXattrs(fd, want.Xattrs, isUser); err != nil {
		return err
	}
	if int(st.Uid) != want.UID || int(st.Gid) != want.GID {
		if err := unix.Fchown(fd, want.UID, want.GID); err != nil {
			return fmt.Errorf("set owner: %w", err)
		}
	}
	if err := unix.Fchmod(fd, mode); err != nil {
		return fmt.Errorf("set mode: %w", err)
	}
	return writeXattrs(fd, want.Xattrs, func(name string) bool { return !isUser(name) })
}

func setMTime(dir *durable.Dir, name string, want Entry) error {
	at, err := want.mtime()
	if err != nil || at.IsZero() {
		return err
	}
	return dir.SetMTime(name, at)
}

func keysOf[V any](m map[string]V) iter.Seq[string] { return maps.Keys(m) }
