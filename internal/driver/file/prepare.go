package file

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/tree"
)

const (
	defaultTimeout = time.Minute
	treeTimeout    = 5 * time.Minute
	defaultRetries = 2
	// window is what one file's fsync, last look and rename are allowed after
	// the last question whether the lease still holds.
	window = time.Second
	// fallbackMode is the mode of a file for which nobody says one.
	fallbackMode = 0o644
	secretMode   = 0o600
)

// preparation is one Prepare.
type preparation struct {
	ctx      context.Context //nolint:containedctx // lives for one call
	req      backstay.Request
	cfg      Config
	source   string
	mode     int
	uid, gid int
	at       string // the modification time of what is written
	body     body
	existing map[string]tree.Entry
	out      backstay.Prepared
	problems problems
}

// Prepare pins the content and freezes what shall stand at the path.
func (k *Kind) Prepare(ctx context.Context, req backstay.Request) (backstay.Prepared, error) {
	p := &preparation{ctx: ctx, req: req, at: tree.FormatMTime(k.now().UTC().Truncate(time.Second))}
	if p.cfg = decode(req.Config, &p.problems); len(p.problems) > 0 {
		return backstay.Prepared{}, p.problems.refusal()
	}
	p.source = p.cfg.source(&p.problems)
	p.cfg.checkCombination(p.source, &p.problems)
	p.mode = parseMode(p.cfg.Mode, &p.problems)
	p.uid, p.gid = p.cfg.lookUp(&p.problems)
	p.checkTarget()
	p.body = body{V: bodyVersion, Path: p.cfg.Path, Key: keyOf(p.cfg.Path), View: viewSelf}
	p.body.Validate = p.validator()
	if p.source == "" || len(p.problems) > 0 {
		return backstay.Prepared{}, p.problems.refusal()
	}
	if err := p.plan(); err != nil {
		return backstay.Prepared{}, err
	}
	if err := ctx.Err(); err != nil {
		return backstay.Prepared{}, err //nolint:wrapcheck // callers compare it
	}
	if err := p.problems.refusal(); err != nil {
		return backstay.Prepared{}, err
	}
	return p.finish(), nil
}

func (p *preparation) checkTarget() {
	if why := checkPath(p.cfg.Path); why != "" {
		p.problems.add("path", "an absolute, clean path such as /etc/shop/shop.conf", "path %q %s", p.cfg.Path, why)
		return
	}
	if p.req.DataDir == "" {
		return
	}
	own := []string{filepath.Clean(p.req.DataDir)}
	if real, err := filepath.EvalSymlinks(p.req.DataDir); err == nil {
		own = append(own, real)
	}
	for _, dir := range own {
		if within(dir, p.cfg.Path) || ((p.cfg.Tree != "" || p.cfg.Absent) && within(p.cfg.Path, dir)) {
			p.problems.add("path", "choose a path outside of it", "path holds Backstay's own state (%s)", dir)
			return
		}
	}
}

// plan reads source and target and makes the wanted image.
func (p *preparation) plan() error {
	switch p.source {
	case "tree":
		return p.planTree()
	case "absent":
		p.body.View = viewWhole
		p.look()
		if len(p.existing) > 1 && !p.cfg.Prune {
			p.problems.add("absent", "say `prune: true` to remove them too", "%s is a directory with %d files in it", p.cfg.Path, len(p.existing)-1)
		}
		p.out.Want = backstay.Image{p.body.Key: {}}
		return nil
	case "symlink":
		p.look()
		p.parents()
		p.planSymlink()
		return nil
	default:
		p.look()
		p.parents()
		return p.planFile()
	}
}

// look reads what stands at the path, as strictly as the before-image will be.
func (p *preparation) look() {
	opts := p.body.options(p.body.Key, discard{})
	opts.SplitLinks = p.body.View == viewSelf // warned about; in trees refused
	state, err := tree.Capture(p.ctx, p.cfg.Path, opts)
	var unrestorable *tree.UnrestorableError
	switch {
	case errors.As(err, &unrestorable):
		for _, item := range unrestorable.Items {
			p.problems.add("path", backstay.HintOf(err), "%s %s: it could not be restored", item.Path, item.Why)
		}
		return
	case err != nil:
		p.problems.addErr("path", err)
		return
	}
	if p.existing, err = tree.Entries(state); err != nil {
		p.problems.addErr("path", err)
	}
}

// parents finds the missing directories above the path.
func (p *preparation) parents() {
	var missing []string
	dir := path.Dir(p.cfg.Path)
	for ; dir != "/"; dir = path.Dir(dir) {
		info, err := os.Lstat(dir)
		if err == nil {
			if !info.IsDir() {
				p.problems.add("path", "name the path without symlinks in its directories", "%s is no directory", dir)
			}
			break
		}
		if !errors.Is(err, fs.ErrNotExist) {
			p.problems.add("path", "", "look at %s: %v", dir, err)
			return
		}
		missing = append(missing, dir)
	}
	if len(missing) == 0 {
		return
	}
	if !p.cfg.Mkdir {
		p.problems.add("path", "create it first, or say `mkdir: true`", "the directory %s does not exist", path.Dir(p.cfg.Path))
		return
	}
	slices.Reverse(missing)
	p.body.Parents = missing
	p.body.Parent = &tree.Entry{Type: tree.Dir, Mode: "0755", UID: os.Geteuid(), GID: os.Getegid()}
}

// owners chooses owner and group: the declared, else the existing file's, else
// what a new file in that directory would get.
func (p *preparation) owners(existing tree.Entry, exists bool) (uid, gid int) {
	uid, gid = os.Geteuid(), os.Getegid()
	if exists {
		uid, gid = existing.UID, existing.GID
	} else if info, err := os.Lstat(path.Dir(p.cfg.Path)); err == nil && info.Mode()&fs.ModeSetgid != 0 {
		var st unix.Stat_t
		if unix.Lstat(path.Dir(p.cfg.Path), &st) == nil {
			gid = int(st.Gid)
		}
	}
	if p.uid >= 0 {
		uid = p.uid
	}
	if p.gid >= 0 {
		gid = p.gid
	}
	return uid, gid
}

func (p *preparation) planSymlink() {
	existing, exists := p.existing[""]
	if exists && existing.Type == tree.Dir {
		p.problems.add("path", "remove it in a step before (absent: true)", "%s is a directory", p.cfg.Path)
		return
	}
	e := tree.Entry{Type: tree.Symlink, MTime: p.at, Target: tree.Escape(p.cfg.Symlink)}
	e.UID, e.GID = p.owners(existing, exists)
	if exists && existing.Type == tree.Symlink && existing.Target == e.Target {
		e.MTime = existing.MTime
	}
	p.want(map[string]tree.Entry{"": e})
}

// planFile makes the entry of a single file from any of its sources.
func (p *preparation) planFile() error {
	existing, exists := p.existing[""]
	if exists && existing.Type != tree.File {
		hint := "remove it in a step before (absent: true)"
		if existing.Type == tree.Symlink {
			hint = "name the file that it points to, or remove the link in a step before (absent: true)"
		}
		p.problems.add("path", hint, "%s is a %s, not a file", p.cfg.Path, existing.Type)
		return nil
	}
	content, err := p.content()
	if err != nil || len(p.problems) > 0 {
		return err
	}
	e := tree.Entry{Type: tree.File, MTime: p.at, SHA256: content.digest, Size: content.size}
	e.UID, e.GID = p.owners(existing, exists)
	e.Mode = tree.FormatMode(content.mode)
	if exists {
		p.inherit(&e, existing)
	}
	if p.mode >= 0 {
		e.Mode = tree.FormatMode(uint32(p.mode)) //nolint:gosec // at most 07777
	}
	if p.body.Secret != nil {
		if exists {
			p.problems.add("secret", "remove the file by hand first, or write it in another way",
				"%s exists: undoing a secret file would need its old content, which is never stored", p.cfg.Path)
		}
		p.body.Secret.Entry = e
		return nil
	}
	p.want(map[string]tree.Entry{"": e})
	p.warnLinks()
	return nil
}

// inherit takes over from the existing file what the declaration leaves open.
func (p *preparation) inherit(e *tree.Entry, existing tree.Entry) {
	e.Mode = existing.Mode
	e.Xattrs = maps.Clone(existing.Xattrs)
	if existing.SHA256 == e.SHA256 {
		e.MTime = existing.MTime
	} else {
		// Privileges were given to the old content, not to the new.
		delete(e.Xattrs, "security.capability")
		if len(e.Mode) == 4 {
			e.Mode = tree.FormatMode(modeBits(e.Mode) &^ 0o6000)
		}
	}
	if p.mode >= 0 && tree.FormatMode(uint32(p.mode)) != existing.Mode { //nolint:gosec // at most 07777
		delete(e.Xattrs, "system.posix_acl_access") // its mask would override the declared mode
	}
	if len(e.Xattrs) == 0 {
		e.Xattrs = nil
	}
}

func modeBits(text string) uint32 {
	var ignored problems
	return uint32(max(parseMode(text, &ignored), 0)) //nolint:gosec // at most 07777
}

// warnLinks says so when replacing the file splits it from its other names.
func (p *preparation) warnLinks() {
	var st unix.Stat_t
	if unix.Lstat(p.cfg.Path, &st) != nil || st.Nlink < 2 || len(p.existing) == 0 {
		return
	}
	p.body.Split = true
	p.out.Modulo = []string{"hard links from elsewhere to " + p.cfg.Path}
	p.out.Warnings = append(p.out.Warnings,
		fmt.Sprintf("%s has %d names (hard links); writing it splits it from the others, which keep the old content", p.cfg.Path, st.Nlink))
}

// want sets the wanted image.
func (p *preparation) want(entries map[string]tree.Entry) {
	p.out.Want = backstay.Image{p.body.Key: tree.State(entries)}
	for _, dir := range p.body.Parents {
		p.out.Want[keyOf(dir)] = tree.State(map[string]tree.Entry{"": *p.body.Parent})
	}
}

// finish fills in everything about the step that does not depend on its source.
func (p *preparation) finish() backstay.Prepared {
	out := p.out
	out.Kind, out.Body, out.Keys = "file", backstay.Canonical(p.body), p.body.keys()
	out.Class, out.Effect, out.Fence, out.Window = backstay.Exact, backstay.Idempotent, backstay.Leased, backstay.Duration(window)
	if len(out.Modulo) > 0 {
		out.Class = backstay.Equivalent
	}
	out.Restorable, out.HasUndo = true, true
	out.Timeout, out.UndoTimeout = p.req.Timeout, p.req.UndoTimeout
	fallback := backstay.Duration(defaultTimeout)
	if p.body.View == viewWhole || p.body.View == viewParts {
		fallback = backstay.Duration(treeTimeout)
	}
	if out.Timeout == 0 {
		out.Timeout = fallback
	}
	if out.UndoTimeout == 0 {
		out.UndoTimeout = fallback
	}
	out.Retries = defaultRetries
	if p.req.Retries != nil {
		out.Retries = *p.req.Retries
	}
	slices.Sort(out.Blobs)
	out.Blobs = slices.Compact(out.Blobs)
	out.Summary, out.UndoSummary = p.summaries()
	out.ReadSummary = "read " + p.cfg.Path
	return out
}

func (p *preparation) summaries() (do, undo string) {
	target := p.cfg.Path
	undo = "put " + target + " back as it was"
	if len(p.existing) == 0 {
		undo = "remove " + target
	}
	switch p.source {
	case "tree":
		do = fmt.Sprintf("copy %s to %s (%d files)", p.cfg.Tree, target, len(p.out.Want[p.body.Key].Parts))
		if p.cfg.Prune {
			do += ", removing what else is there"
		}
	case "absent":
		do = "remove " + target
	case "symlink":
		do = fmt.Sprintf("link %s to %s", target, p.cfg.Symlink)
	default:
		source := p.source // "content": the text stands in the spec
		if name := p.cfg.From + p.cfg.Template; name != "" {
			source = name
		}
		do = "write " + target + " from " + source
	}
	if len(p.body.Parents) > 0 {
		do += ", creating " + p.body.Parents[0]
	}
	return do, undo
}
