package tree

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/durable"
)

// ApplyOptions are what Apply may ask its caller before it changes something.
type ApplyOptions struct {
	// Guard is asked right before a part is changed, with what it is now (nil:
	// absent). An error leaves the part as it is and becomes part of Apply's.
	Guard func(part string, now json.RawMessage) error
	// Validate is asked with the path of the complete new content before that
	// is put in the part's place. An error leaves the part as it is.
	Validate func(ctx context.Context, part, temp string) error
}

// Restore puts exactly the named parts of path back to what target says:
// absent there means removed, a directory only when it is then empty. Content
// comes from blobs. Parts that are right already are not touched. Errors of
// single parts do not stop the others; the end of ctx does.
func Restore(ctx context.Context, p string, target backstay.ResourceState, parts []string, blobs backstay.Blobs) error {
	return Apply(ctx, p, target, parts, blobs, ApplyOptions{})
}

// Apply is Restore with questions in between.
func Apply(ctx context.Context, p string, target backstay.ResourceState, parts []string, blobs backstay.Blobs, opts ApplyOptions) error {
	const op = "restore"
	if len(parts) == 0 {
		return nil
	}
	if !filepath.IsAbs(p) || filepath.Clean(p) != p || p == "/" {
		return classify(op, p, errors.New("not a clean absolute path below /"))
	}
	want, err := Entries(target)
	if err != nil {
		return classify(op, p, err)
	}
	r := &restorer{ctx: ctx, path: p, want: want, blobs: blobs, opts: opts, listed: map[string]bool{}, touched: map[string]time.Time{}}
	for _, part := range parts {
		if part != "" && !validPart(part) {
			return classify(op, p, fmt.Errorf("%q is not a path below the key", part))
		}
		r.listed[part] = true
	}
	r.parts = slices.Sorted(keysOf(r.listed))
	err = r.run()
	if ctxErr := ctx.Err(); ctxErr != nil && err != nil {
		return ctxErr //nolint:wrapcheck // callers compare it
	}
	return err
}

// restorer is one restore of one path.
type restorer struct {
	ctx     context.Context //nolint:containedctx // lives for one call
	path    string
	want    map[string]Entry
	parts   []string // sorted: a directory before what lies in it
	listed  map[string]bool
	blobs   backstay.Blobs
	opts    ApplyOptions
	touched map[string]time.Time // unlisted directories above the parts, with their times at the start
	errs    []error
}

// run removes from the bottom up, creates from the top down, links, and gives
// directories their attributes last, from the bottom up, since work inside
// changes their times.
func (r *restorer) run() error {
	bottomUp := slices.Clone(r.parts)
	slices.Reverse(bottomUp)
	r.each(r.parts, r.note)
	r.each(bottomUp, r.clear)
	r.each(r.parts, r.create)
	r.each(r.parts, r.link)
	r.each(bottomUp, r.finishDir)
	dirs := slices.Sorted(keysOf(r.touched))
	slices.Reverse(dirs)
	r.each(dirs, r.finishTouched)
	r.syncDirs()
	return errors.Join(r.errs...)
}

// each performs one phase on the parts, gathering errors, until ctx ends.
func (r *restorer) each(parts []string, phase func(part string) error) {
	for _, part := range parts {
		if err := r.ctx.Err(); err != nil {
			r.errs = append(r.errs, err)
			return
		}
		if err := phase(part); err != nil {
			r.errs = append(r.errs, classify("restore", filepath.Join(r.path, part), err))
		}
	}
}

// in opens the directory that part lies in and calls do with it and the part's
// own name. Every open walks down from / anew without following a symlink.
func (r *restorer) in(part string, do func(dir *durable.Dir, name string) error) error {
	dirPath, name := filepath.Dir(r.path), filepath.Base(r.path)
	if part != "" {
		raw, err := unescape(part)
		if err != nil {
			return err
		}
		full := r.path + "/" + raw
		dirPath, name = filepath.Dir(full), filepath.Base(full)
	}
	dir, err := durable.OpenDir(dirPath)
	if err != nil {
		return err
	}
	return errors.Join(do(dir, name), dir.Close())
}

// inside opens the directory that part is.
func (r *restorer) inside(part string, do func(dir *durable.Dir) error) error {
	return r.in(part, func(parent *durable.Dir, name string) error {
		dir, err := parent.Sub(name)
		if err != nil {
			return err
		}
		return errors.Join(do(dir), dir.Close())
	})
}

// note remembers the time of the directory that part lies in, before anything
// is changed. A directory that is listed gets its own; the one that the keyed
// path itself lies in is nobody's part.
func (r *restorer) note(part string) error {
	parent := parentPart(part)
	if _, known := r.touched[parent]; part == "" || known || r.listed[parent] {
		return nil
	}
	err := r.inside(parent, func(dir *durable.Dir) error {
		st, err := dir.Lstat(".")
		if err == nil {
			r.touched[parent] = mtimeOf(st)
		}
		return err
	})
	if gone(err) {
		return nil
	}
	return err
}

// gone reports whether a directory on the way is missing or no directory (any
// more): what lies in it is absent, by whatever other road it may be reached.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, durable.ErrSymlink)
}

// allow asks the context, the lease and the guard right before a change.
func (r *restorer) allow(part string, now *Entry) error {
	if err := r.leased(); err != nil {
		return err
	}
	if r.opts.Guard != nil {
		var value json.RawMessage
		if now != nil {
			value = now.JSON()
		}
		return r.opts.Guard(part, value)
	}
	return nil
}

// leased asks the context and the lease.
func (r *restorer) leased() error {
	if err := r.ctx.Err(); err != nil {
		return err //nolint:wrapcheck // callers compare it
	}
	_, err := backstay.LeaseLeft(r.ctx)
	return err //nolint:wrapcheck // says what and where already
}

// clear removes what target does not have, and what stands in the way because
// it is a directory where none is wanted or the other way round.
func (r *restorer) clear(part string) error {
	want, wanted := r.want[part]
	err := r.in(part, func(dir *durable.Dir, name string) error {
		if err := dir.Sweep(name); err != nil {
			return err
		}
		st, err := dir.Lstat(name)
		if err != nil {
			return err
		}
		isDir := modeOf(st)&unix.S_IFMT == unix.S_IFDIR
		if wanted && isDir == (want.Type == Dir) {
			return nil
		}
		now, err := r.current(dir, name)
		if err != nil {
			return err
		}
		if err := r.allow(part, now); err != nil {
			return err
		}
		if !isDir {
			return dir.Remove(name)
		}
		return r.removeDir(dir, name)
	})
	if gone(err) {
		return nil
	}
	return err
}

// removeDir removes an empty directory. What remains in it is an outsider's,
// except temporary files of killed processes.
func (r *restorer) removeDir(dir *durable.Dir, name string) error {
	sub, err := dir.Sub(name)
	if err != nil {
		return err
	}
	names, err := sub.Names(1000)
	for _, n := range names {
		if err == nil && durable.IsTemp(n) {
			err = sub.SweepTemp(n)
		}
	}
	if err := errors.Join(err, sub.Close()); err != nil {
		return err
	}
	err = dir.RemoveDir(name)
	if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, fs.ErrExist) {
		return &backstay.Error{
			Class: backstay.Conflict, Op: "remove directory", Subject: quote(dir.Join(name)), Err: unix.ENOTEMPTY,
			Hint: "it holds files that this deployment did not make; look at them, then remove the directory by hand",
		}
	}
	return err
}

// describe reads what name is, alone and without keeping content.
func (r *restorer) describe(dir *durable.Dir, name string, st *unix.Stat_t) (Entry, error) {
	c := &capturer{
		ctx: r.ctx, path: dir.Join(name), opts: Options{Shallow: true, SplitLinks: true, Limits: Limits{Files: 1, Bytes: st.Size}},
		entries: map[string]Entry{}, groups: map[inode][]string{}, nlink: map[inode]int{}, problems: &UnrestorableError{},
	}
	if err := c.visit(dir, name, "", st, 0); err != nil {
		return Entry{}, err
	}
	e := c.entries[""]
	if e.Type == Dir {
		e.MTime = FormatMTime(mtimeOf(st))
	}
	return e, nil
}

// create makes directories, files and symlinks that are not as wanted.
func (r *restorer) create(part string) error {
	want, wanted := r.want[part]
	if !wanted || want.Link != "" {
		return nil
	}
	return r.in(part, func(dir *durable.Dir, name string) error {
		switch want.Type {
		case Dir:
			return r.createDir(dir, name, part)
		case File:
			return r.createFile(dir, name, part, want)
		case Symlink:
			return r.createSymlink(dir, name, part, want)
		case FIFO, Socket, CharDevice, BlockDevice, Mount:
		}
		return fmt.Errorf("a %s cannot be restored", want.Type)
	})
}

func (r *restorer) createDir(dir *durable.Dir, name, part string) error {
	st, err := dir.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		if err := r.allow(part, nil); err != nil {
			return err
		}
		return dir.Mkdir(name, 0o700)
	}
	if err != nil {
		return err
	}
	// Work inside needs access; finishDir sets the wanted mode in the end.
	if os.Geteuid() != 0 && modeOf(st)&0o700 != 0o700 {
		if err := r.leased(); err != nil {
			return err
		}
		if err := unix.Fchmodat(dir.FD(), name, modeOf(st)&0o7777|0o700, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return &fs.PathError{Op: "set mode", Path: dir.Join(name), Err: err}
		}
	}
	return nil
}

func (r *restorer) createSymlink(dir *durable.Dir, name, part string, want Entry) error {
	target, err := unescape(want.Target)
	if err != nil {
		return err
	}
	now, err := r.current(dir, name)
	if err != nil {
		return err
	}
	if now != nil && want.same(*now) {
		return nil
	}
	if err := r.allow(part, now); err != nil {
		return err
	}
	if now == nil || !want.sameContent(*now) {
		if err := dir.Symlink(target, name); err != nil {
			return err
		}
	}
	if err := unix.Fchownat(dir.FD(), name, want.UID, want.GID, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &fs.PathError{Op: "set owner", Path: dir.Join(name), Err: err}
	}
	return setMTime(dir, name, want)
}

// current describes name; nil where there is nothing. What cannot be read is
// described as far as its stat goes, so that it differs from anything wanted.
func (r *restorer) current(dir *durable.Dir, name string) (*Entry, error) {
	st, err := dir.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	now, err := r.describe(dir, name, st)
	if err != nil {
		if ctxErr := r.ctx.Err(); ctxErr != nil {
			return nil, ctxErr //nolint:wrapcheck // callers compare it
		}
		if !errors.Is(err, fs.ErrPermission) && !errors.Is(err, errChanged) {
			return nil, err
		}
		now = entryOf(st)
		now.SHA256 = "unreadable"
	}
	return &now, nil
}

// link makes hard links to parts that create has put in place.
func (r *restorer) link(part string) error {
	want, wanted := r.want[part]
	if !wanted || want.Link == "" {
		return nil
	}
	return r.in(part, func(dir *durable.Dir, name string) error {
		return r.in(want.Link, func(from *durable.Dir, first string) error {
			leader, err := r.current(from, first)
			if err != nil {
				return err
			}
			if leader == nil || !want.same(*leader) {
				// The first of the group is an outsider's now: right content
				// under this name is all that is left to give.
				alone := want
				alone.Link = ""
				err := &backstay.Error{
					Class: backstay.Conflict, Op: "link", Subject: quote(dir.Join(name)),
					Err:  fmt.Errorf("%s is not as it was", quote(from.Join(first))),
					Hint: "the file was restored without the hard link",
				}
				return errors.Join(err, r.createFile(dir, name, part, alone))
			}
			a, errA := from.Lstat(first)
			b, errB := dir.Lstat(name)
			if errA == nil && errB == nil && a.Dev == b.Dev && a.Ino == b.Ino {
				return nil
			}
			now, err := r.current(dir, name)
			if err != nil {
				return err
			}
			if err := r.allow(part, now); err != nil {
				return err
			}
			return dir.Link(from, first, name)
		})
	})
}

// syncDirs makes all renames, removals and attributes durable.
func (r *restorer) syncDirs() {
	if r.ctx.Err() != nil {
		return // the caller knows that it is not done
	}
	dirs := map[string]bool{}
	for _, part := range r.parts {
		dirs[parentPart(part)] = true
		if r.want[part].Type == Dir {
			dirs[part] = true
		}
	}
	sync := func(dir *durable.Dir) error { return dir.SyncEntries() }
	for _, part := range slices.Sorted(keysOf(dirs)) {
		err := r.inside(part, sync)
		if err == nil || gone(err) {
			continue
		}
		r.errs = append(r.errs, classify("restore", r.path+"/"+part, err))
	}
	if r.listed[""] {
		err := r.in("", func(dir *durable.Dir, _ string) error { return dir.SyncEntries() })
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			r.errs = append(r.errs, classify("restore", r.path, err))
		}
	}
}
