package tree

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/durable"
)

// Limits bound what one capture reads. A zero field means DefaultLimits.
type Limits struct {
	Files int   // files and directories
	Bytes int64 // of content
}

// DefaultLimits is what a capture reads at most where nothing else is said.
func DefaultLimits() Limits { return Limits{Files: 50_000, Bytes: 1 << 30} }

// maxDepth bounds directories inside directories: each costs an open descriptor.
const maxDepth = 200

// Options of a capture.
type Options struct {
	// Blobs takes the content of files. With it the capture is for keeping: all
	// that could not be restored is refused with an UnrestorableError. Without
	// it the capture is a look: devices, sockets and the like are described.
	Blobs  backstay.Blobs
	Limits Limits
	// Ignore are path.Match patterns on whole part names; what matches is not
	// part of the state, with all below it.
	Ignore []string
	// Only restricts the state to these parts and the directories above them;
	// what else the directories hold is not looked at. Nil: everything.
	Only []string
	// Shallow describes the path itself and nothing below it. A directory's
	// modification time is then left out.
	Shallow bool
	// Source reads a tree to be copied elsewhere: who owns it, hard links from
	// outside and write protection do not matter.
	Source bool
	// SplitLinks accepts files with hard links outside the state. Restoring
	// one splits it from its outside names.
	SplitLinks bool
}

var (
	errChanged = errors.New("changed while it was read")
	errStop    = errors.New("stop reading: a limit is reached")
)

// Capture reads the canonical state of an absolute path. Nothing at path is a
// state without parts. What changes while it is read is read again, then the
// error is Transient.
func Capture(ctx context.Context, p string, opts Options) (backstay.ResourceState, error) {
	const op = "read state of"
	if opts.Limits.Files == 0 {
		opts.Limits.Files = DefaultLimits().Files
	}
	if opts.Limits.Bytes == 0 {
		opts.Limits.Bytes = DefaultLimits().Bytes
	}
	if !filepath.IsAbs(p) || filepath.Clean(p) != p || p == "/" {
		return backstay.ResourceState{}, classify(op, p, errors.New("not a clean absolute path below /"))
	}
	var err error
	for range 3 {
		var entries map[string]Entry
		entries, err = captureOnce(ctx, p, opts)
		if err == nil {
			return State(entries), nil
		}
		if !errors.Is(err, errChanged) {
			break
		}
	}
	if ctxErr := ctx.Err(); ctxErr != nil {
		return backstay.ResourceState{}, ctxErr //nolint:wrapcheck // callers compare it
	}
	return backstay.ResourceState{}, classify(op, p, err)
}

type inode struct{ dev, ino uint64 }

// capturer is one pass over a path.
type capturer struct {
	ctx      context.Context //nolint:containedctx // lives for one call
	path     string
	opts     Options
	keep     bool // for restoring in place
	children map[string][]string
	entries  map[string]Entry
	groups   map[inode][]string
	nlink    map[inode]int
	bytes    int64
	problems *UnrestorableError
}

func captureOnce(ctx context.Context, p string, opts Options) (_ map[string]Entry, err error) {
	c := &capturer{
		ctx: ctx, path: p, opts: opts,
		keep:     opts.Blobs != nil && !opts.Source,
		children: childrenOf(opts.Only),
		entries:  map[string]Entry{}, groups: map[inode][]string{}, nlink: map[inode]int{},
		problems: &UnrestorableError{Path: p},
	}
	dir, err := durable.OpenDir(filepath.Dir(p))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	if c.keep {
		c.checkWritable(dir, p)
	}
	st, err := dir.Lstat(filepath.Base(p))
	if errors.Is(err, fs.ErrNotExist) {
		if len(c.problems.Items) > 0 {
			return nil, c.problems
		}
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if err := c.visit(dir, filepath.Base(p), "", st, 0); err != nil && !errors.Is(err, errStop) {
		return nil, err
	}
	c.link()
	if len(c.problems.Items) > 0 {
		return nil, c.problems
	}
	return c.entries, nil
}

// visit reads name in dir as part, and all below it.
func (c *capturer) visit(dir *durable.Dir, name, part string, st *unix.Stat_t, depth int) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	if len(c.entries) >= c.opts.Limits.Files {
		return c.stop(part, fmt.Sprintf("lies beyond the limit of %d files", c.opts.Limits.Files))
	}
	e := entryOf(st)
	if y := mtimeOf(st).UTC().Year(); y < 1 || y > 9999 {
		c.refuse(part, "has a modification time that cannot be written down")
	}
	mount, frozen, err := protection(dir, name, st)
	if err != nil {
		return err
	}
	switch {
	case mount && part == "" && e.Type != Dir:
		c.refuse(part, "is a mount point and cannot be replaced")
	case mount && part != "":
		c.refuse(part, "is a mount point")
		e.Type = Mount
	}
	if frozen && !c.opts.Source {
		c.refuse(part, "is immutable or append-only (chattr -i -a)")
	}
	if c.keep {
		c.checkOwner(part, st)
	}
	switch e.Type {
	case File:
		err = c.file(dir, name, part, st, &e)
	case Symlink:
		var target string
		target, err = dir.Readlink(name)
		e.Target = Escape(target)
	case Dir:
		err = c.dir(dir, name, part, st, &e, depth)
	case FIFO, Socket, CharDevice, BlockDevice:
		c.refuse(part, "is a "+string(e.Type)+", which no undo can bring back")
	case Mount:
	default:
		c.refuse(part, "is of an unknown type")
	}
	c.entries[part] = e
	return err
}

func (c *capturer) dir(parent *durable.Dir, name, part string, st *unix.Stat_t, e *Entry, depth int) (err error) {
	if depth >= maxDepth {
		return c.stop(part, fmt.Sprintf("is nested deeper than %d directories", maxDepth))
	}
	sub, err := parent.Sub(name)
	if err != nil {
		return c.unreadable(part, err)
	}
	defer func() { err = errors.Join(err, sub.Close()) }()
	if now, err := sub.Lstat("."); err != nil || !unchanged(st, now) {
		return errChanged
	}
	if e.Xattrs, err = readXattrs(sub.FD()); err != nil {
		return err
	}
	if c.opts.Shallow {
		e.MTime = ""
		return nil
	}
	if c.keep {
		c.checkWritable(sub, c.full(part))
	}
	c.entries[part] = *e // counts before its content does
	names, err := c.names(sub, part)
	if err != nil {
		return err
	}
	for _, n := range names {
		below := joinPart(part, Escape(n))
		if durable.IsTemp(n) || c.ignored(below) {
			continue
		}
		childSt, err := sub.Lstat(n)
		if errors.Is(err, fs.ErrNotExist) {
			if c.children != nil {
				continue
			}
			return errChanged
		}
		if err != nil {
			return err
		}
		if err := c.visit(sub, n, below, childSt, depth+1); err != nil {
			return err
		}
	}
	if now, err := sub.Lstat("."); err != nil || !unchanged(st, now) {
		return errChanged
	}
	return nil
}

// names lists a directory, or the part of it that Only asks for, sorted.
func (c *capturer) names(sub *durable.Dir, part string) ([]string, error) {
	if c.children != nil {
		var names []string
		for _, child := range c.children[part] {
			name, err := unescape(child)
			if err != nil {
				return nil, err
			}
			names = append(names, name)
		}
		return names, nil
	}
	limit := max(c.opts.Limits.Files-len(c.entries), 1)
	if len(c.opts.Ignore) > 0 {
		limit += DefaultLimits().Files // ignored names do not count, but have an end too
	}
	names, err := sub.Names(limit)
	if err != nil {
		return nil, err
	}
	if len(names) > limit {
		return nil, c.stop(part, fmt.Sprintf("holds more files than the limit of %d", c.opts.Limits.Files))
	}
	slices.Sort(names)
	return names, nil
}

func (c *capturer) file(dir *durable.Dir, name, part string, st *unix.Stat_t, e *Entry) error {
	id := inode{dev: devOf(st), ino: st.Ino}
	if st.Nlink > 1 {
		c.nlink[id] = linksOf(st)
		c.groups[id] = append(c.groups[id], part)
		if first := c.groups[id][0]; first != part {
			known := c.entries[first]
			e.SHA256, e.Size, e.Xattrs = known.SHA256, known.Size, known.Xattrs
			return nil
		}
	}
	if st.Size > c.opts.Limits.Bytes-c.bytes {
		return c.stop(part, fmt.Sprintf("(%d bytes) exceeds what is left of the limit of %d bytes of content", st.Size, c.opts.Limits.Bytes))
	}
	c.bytes += st.Size
	f, err := dir.Open(name)
	if err != nil {
		return c.unreadable(part, err)
	}
	err = c.content(f, st, e)
	return errors.Join(err, f.Close())
}

// content reads an open file that st described, and makes sure that it was one
// state of it that was read.
func (c *capturer) content(f *os.File, st *unix.Stat_t, e *Entry) error {
	var err error
	if e.Xattrs, err = readXattrs(int(f.Fd())); err != nil {
		return err
	}
	in := io.LimitReader(contextReader{c.ctx, f}, st.Size+1)
	var n int64
	if c.opts.Blobs != nil {
		e.SHA256, n, err = c.opts.Blobs.Put(in)
	} else {
		h := sha256.New()
		n, err = io.Copy(h, in)
		e.SHA256 = hex.EncodeToString(h.Sum(nil))
	}
	if err != nil {
		return fmt.Errorf("read content: %w", err)
	}
	var now unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &now); err != nil {
		return &fs.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	if n != st.Size || !unchanged(st, &now) {
		return errChanged
	}
	return nil
}

// link names, in each group of hard links, the first part for all others.
func (c *capturer) link() {
	for id, parts := range c.groups {
		if len(parts) < c.nlink[id] && !c.opts.SplitLinks && !c.opts.Source {
			c.refuse(parts[0], "has hard links outside the path")
		}
		slices.Sort(parts)
		for _, part := range parts[1:] {
			e := c.entries[part]
			e.Link = parts[0]
			if parts[0] == "" { // a file alone cannot have a second name below itself
				e.Link = ""
			}
			c.entries[part] = e
		}
	}
}

func (c *capturer) full(part string) string { return path.Join(c.path, part) }

// refuse notes what could not be restored; a mere look does not mind.
func (c *capturer) refuse(part, why string) {
	if c.opts.Blobs != nil {
		c.problems.add(c.full(part), why)
	}
}

// stop ends the reading at a limit, which holds for a mere look too.
func (c *capturer) stop(part, why string) error {
	c.problems.add(c.full(part), why)
	return errStop
}

func (c *capturer) unreadable(part string, err error) error {
	if errors.Is(err, fs.ErrPermission) && c.opts.Blobs != nil {
		c.problems.add(c.full(part), "cannot be read by this user")
		return nil
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ELOOP) || errors.Is(err, durable.ErrSymlink) {
		return errChanged // it was something else a moment ago
	}
	return err
}

func (c *capturer) checkOwner(part string, st *unix.Stat_t) {
	if os.Geteuid() == 0 {
		return
	}
	if int(st.Uid) != os.Geteuid() {
		c.refuse(part, fmt.Sprintf("belongs to user %d, and only root can give it back", st.Uid))
		return
	}
	groups, err := os.Getgroups()
	if err != nil || (int(st.Gid) != os.Getegid() && !slices.Contains(groups, int(st.Gid))) {
		c.refuse(part, fmt.Sprintf("belongs to group %d, of which this user is no member", st.Gid))
	}
}

func (c *capturer) checkWritable(dir *durable.Dir, full string) {
	if err := unix.Faccessat(dir.FD(), ".", unix.W_OK|unix.X_OK, unix.AT_EACCESS); err != nil {
		c.problems.add(full, "lies in a directory that cannot be written ("+err.Error()+")")
	}
}

func (c *capturer) ignored(part string) bool {
	return slices.ContainsFunc(c.opts.Ignore, func(pattern string) bool {
		ok, err := path.Match(pattern, part)
		return err == nil && ok
	})
}

// childrenOf maps each directory above the parts to the names wanted in it.
func childrenOf(only []string) map[string][]string {
	if only == nil {
		return nil
	}
	children := map[string][]string{}
	for _, part := range only {
		for part != "" {
			dir, name := parentPart(part), path.Base(part)
			if slices.Contains(children[dir], name) {
				break
			}
			children[dir] = append(children[dir], name)
			part = dir
		}
	}
	for _, names := range children {
		slices.Sort(names)
	}
	return children
}

// unchanged reports whether two looks found the same file in the same state.
func unchanged(a, b *unix.Stat_t) bool {
	return a.Dev == b.Dev && a.Ino == b.Ino && a.Mode == b.Mode && a.Size == b.Size && a.Mtim == b.Mtim && a.Ctim == b.Ctim
}

type contextReader struct {
	ctx context.Context //nolint:containedctx // lives for one read
	r   io.Reader
}

func (r contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err //nolint:wrapcheck // callers compare it
	}
	return r.r.Read(p) //nolint:wrapcheck // a Reader's io.EOF must stay itself
}
