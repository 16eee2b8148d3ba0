package file

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/tree"
)

// maxSource is how many bytes a single source file may have.
const maxSource = 1 << 30

// pinned is content that is in the blobs.
type pinned struct {
	digest string
	size   int64
	mode   uint32
}

// content pins the declared content, or, for a secret one, what it is made from.
func (p *preparation) content() (pinned, error) {
	out := pinned{mode: fallbackMode}
	switch p.source {
	case "from":
		return p.pinFile()
	case "template":
		return p.pinTemplate()
	}
	text := *p.cfg.Content
	if p.cfg.Secret != strings.HasPrefix(text, secretPrefix) {
		p.problems.add("content", `secret content is one reference, such as "secret:env/TLS_KEY", with `+"`secret: true`",
			"secret content and `secret: true` go together")
		return out, nil
	}
	if p.cfg.Secret {
		p.pinSecret(&secretBody{Content: text})
		return pinned{mode: secretMode}, nil
	}
	return p.put(strings.NewReader(text), out.mode)
}

func (p *preparation) put(r io.Reader, mode uint32) (pinned, error) {
	digest, size, err := p.req.Blobs.Put(r)
	if err != nil {
		return pinned{}, fmt.Errorf("pin content: %w", err)
	}
	p.out.Blobs = append(p.out.Blobs, digest)
	return pinned{digest: digest, size: size, mode: mode}, nil
}

// open opens a file below the spec's directory. What leaves the directory, by
// dots or by symlink, and what is no plain file is a problem.
func (p *preparation) open(key, name string) (_ *os.File, err error) {
	if why := checkRelative(name); why != "" {
		p.problems.add(key, "a path below the spec's directory, such as config/shop.conf", "%q %s", name, why)
		return nil, nil
	}
	root, err := os.OpenRoot(p.req.Dir)
	if err != nil {
		return nil, fmt.Errorf("open the spec's directory: %w", err)
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	// A look first: opening some devices does something already.
	info, err := root.Stat(name)
	if err == nil && !info.Mode().IsRegular() {
		p.problems.add(key, "", "%s is no plain file (%s)", name, info.Mode().Type())
		return nil, nil
	}
	var f *os.File
	if err == nil {
		f, err = root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	}
	if err != nil {
		hint := "look for a typing error"
		if !errors.Is(err, fs.ErrNotExist) {
			hint = "sources must be readable and stay below the spec's directory, symlinks included"
		}
		p.problems.add(key, hint, "read %s: %v", name, errors.Unwrap(err))
		return nil, nil
	}
	info, err = f.Stat()
	switch {
	case err != nil:
		return nil, errors.Join(fmt.Errorf("look at source: %w", err), f.Close())
	case !info.Mode().IsRegular():
		p.problems.add(key, "", "%s is no plain file", name)
	case info.Size() > maxSource:
		p.problems.add(key, "", "%s has %d bytes, at most %d are taken", name, info.Size(), int64(maxSource))
	default:
		return f, nil
	}
	return nil, f.Close()
}

func (p *preparation) pinFile() (_ pinned, err error) {
	if p.cfg.Secret {
		p.problems.add("secret", `use content: "secret:file/PATH"`, "content from a file beside the spec is stored; a secret must not be")
		return pinned{}, nil
	}
	f, err := p.open("from", p.cfg.From)
	if err != nil || f == nil {
		return pinned{}, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return pinned{}, fmt.Errorf("look at source: %w", err)
	}
	return p.put(io.LimitReader(f, maxSource), uint32(info.Mode().Perm()))
}

func (p *preparation) pinTemplate() (_ pinned, err error) {
	f, err := p.open("template", p.cfg.Template)
	if err != nil || f == nil {
		return pinned{}, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	text, err := io.ReadAll(io.LimitReader(f, maxTemplate+1))
	if err != nil {
		return pinned{}, fmt.Errorf("read template: %w", err)
	}
	identifier := regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	secret := false
	for _, name := range slices.Sorted(maps.Keys(p.cfg.Values)) {
		if !identifier.MatchString(name) {
			p.problems.add("values", "letters, digits and _", "%q cannot be named in a template", name)
		}
		secret = secret || strings.HasPrefix(p.cfg.Values[name], secretPrefix)
	}
	// Names stand in for values, so that a secret is not needed to find mistakes.
	rendered, err := render(string(text), p.cfg.Values)
	if err != nil {
		p.problems.add("template", "", "%s: %v", p.cfg.Template, err)
		return pinned{}, nil
	}
	if secret != p.cfg.Secret {
		p.problems.add("secret", "", "`secret: true` and values that are secret references go together")
		return pinned{}, nil
	}
	if !secret {
		return p.put(bytes.NewReader(rendered), fallbackMode)
	}
	source, err := p.put(bytes.NewReader(text), 0)
	if err != nil {
		return pinned{}, err
	}
	p.pinSecret(&secretBody{Template: source.digest, Values: p.cfg.Values})
	return pinned{mode: secretMode}, nil
}

// pinSecret notes what the content is made from, and tries the references.
func (p *preparation) pinSecret(s *secretBody) {
	p.body.Secret = s
	p.out.Secrets = s.refs()
	for _, ref := range p.out.Secrets {
		if p.req.Secrets == nil {
			p.problems.add("secret", "", "%s cannot be resolved here", ref)
			continue
		}
		if _, err := p.req.Secrets.Resolve(ref); err != nil {
			p.problems.add("secret", backstay.HintOf(err), "resolve %s: %v", ref, err)
		}
	}
}

// planTree pins a whole directory.
func (p *preparation) planTree() error {
	if why := checkRelative(p.cfg.Tree); why != "" {
		p.problems.add("tree", "a path below the spec's directory, such as dist/site", "%q %s", p.cfg.Tree, why)
		return nil
	}
	base, err := filepath.EvalSymlinks(p.req.Dir)
	if err != nil {
		return fmt.Errorf("find the spec's directory: %w", err)
	}
	state, err := tree.Capture(p.ctx, filepath.Join(base, p.cfg.Tree), tree.Options{Blobs: p.req.Blobs, Source: true})
	if err != nil {
		p.problems.addErr("tree", err)
		return nil
	}
	source, err := tree.Entries(state)
	if err != nil {
		return fmt.Errorf("read source tree: %w", err)
	}
	if source[""].Type != tree.Dir {
		p.problems.add("tree", "`from` takes a single file", "%s is no directory", p.cfg.Tree)
		return nil
	}
	p.checkLinks(source)
	p.body.View = viewWhole
	if !p.cfg.Prune {
		p.body.View, p.body.Parts = viewParts, slices.Sorted(maps.Keys(source))
	}
	p.look()
	p.parents()
	p.wantTree(source)
	return nil
}

// checkLinks refuses symlinks that would point out of the tree.
func (p *preparation) checkLinks(source map[string]tree.Entry) {
	for _, part := range slices.Sorted(maps.Keys(source)) {
		e := source[part]
		if e.Type != tree.Symlink {
			continue
		}
		if path.IsAbs(e.Target) || !filepath.IsLocal(path.Join(path.Dir(part), e.Target)) {
			p.problems.add("tree", "make it relative and keep it inside, or use a `symlink` step",
				"the symlink %s points out of the tree, to %q", part, e.Target)
		}
	}
}

// wantTree makes the wanted entries: content and permissions of the source,
// owner and unchanged times of what exists.
func (p *preparation) wantTree(source map[string]tree.Entry) {
	want := make(map[string]tree.Entry, len(source))
	for part, e := range source {
		existing, exists := p.existing[part]
		if exists && existing.Type != e.Type && (!p.cfg.Prune || part == "") {
			p.problems.add("path", "remove it in a step before (absent: true)",
				"%s is a %s, the tree has a %s there", path.Join(p.cfg.Path, part), existing.Type, e.Type)
			continue
		}
		exists = exists && existing.Type == e.Type
		w := tree.Entry{Type: e.Type, Size: e.Size, SHA256: e.SHA256, Target: e.Target, MTime: p.at}
		w.UID, w.GID = p.owners(existing, exists)
		bits := modeBits(e.Mode) & 0o777
		switch e.Type {
		case tree.File:
			p.out.Blobs = append(p.out.Blobs, e.SHA256)
			if p.mode >= 0 {
				bits = uint32(p.mode) //nolint:gosec // at most 07777
			}
			w.Mode = tree.FormatMode(bits)
		case tree.Dir:
			w.Mode = tree.FormatMode(bits | 0o700)
			if exists {
				w.Mode, w.Xattrs = existing.Mode, existing.Xattrs
			}
		case tree.Symlink, tree.FIFO, tree.Socket, tree.CharDevice, tree.BlockDevice, tree.Mount:
			// A symlink has no mode; the capture of a source lets nothing else through.
		}
		if exists && e.Type != tree.Dir && existing.SHA256 == w.SHA256 && existing.Target == w.Target {
			w.MTime = existing.MTime
		}
		want[part] = w
	}
	p.keepDirTimes(want)
	p.want(want)
}

// keepDirTimes gives directories in which nothing is created, replaced or
// removed the time they have.
func (p *preparation) keepDirTimes(want map[string]tree.Entry) {
	busy := map[string]bool{}
	mark := func(part string) {
		if part == "" {
			return
		}
		dir := path.Dir(part)
		if dir == "." {
			dir = ""
		}
		busy[dir] = true
	}
	for part, w := range want {
		if existing, ok := p.existing[part]; !ok || (w.Type != tree.Dir && !same(existing, w)) {
			mark(part)
		}
	}
	for part := range p.existing {
		if _, ok := want[part]; !ok {
			mark(part)
		}
	}
	for part, w := range want {
		if existing, ok := p.existing[part]; ok && w.Type == tree.Dir && !busy[part] {
			w.MTime = existing.MTime
			want[part] = w
		}
	}
}

func same(a, b tree.Entry) bool { return bytes.Equal(a.JSON(), b.JSON()) }
