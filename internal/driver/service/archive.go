package service

import (
	"archive/tar"
	"archive/zip"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/backstay-dev/backstay"
)

// format is what kind of file an artifact is, by its name.
type format string

const (
	plain  format = "file"
	tarred format = "tar"
	zipped format = "zip"
	gzTar  format = "tar.gz"
)

func formatOf(file string) format {
	name := strings.ToLower(filepath.Base(file))
	switch {
	case strings.HasSuffix(name, ".tar"):
		return tarred
	case strings.HasSuffix(name, ".tar.gz"), strings.HasSuffix(name, ".tgz"):
		return gzTar
	case strings.HasSuffix(name, ".zip"):
		return zipped
	}
	return plain
}

// limits of an archive's content.
type limits struct {
	files int   // and directories
	bytes int64 // never more
	ratio int64 // to the archive's own size
	free  int64 // bytes that are allowed whatever the ratio
}

func standardLimits() limits {
	return limits{files: 50_000, bytes: 4 << 30, ratio: 100, free: 64 << 20}
}

// maxName bounds a name and a link's target.
const maxName = 4096

// unsafeError says which entry of an archive is refused and why.
type unsafeError struct{ name, why string }

func (e *unsafeError) Error() string { return fmt.Sprintf("archive entry %q %s", e.name, e.why) }

// unpacker takes the entries of one archive. With a root it writes them below
// it, else it only checks them: what it then accepts is safe but for links that
// leave only by way of other links.
type unpacker struct {
	ctx   context.Context
	root  *os.Root
	seen  map[string]entryKind
	links []string
	files int // the most there may be
	bytes int64
	limit int64 // of bytes
}

type entryKind int

const (
	implied entryKind = iota + 1 // a directory that an entry lies in
	directory
	regular
	symlink
)

// inspect checks an artifact of a size without writing anything.
func inspect(ctx context.Context, f format, r io.ReaderAt, size int64, most limits) error {
	return unpack(ctx, f, r, size, most, nil)
}

// unpack writes an archive below root; nil only checks it. A plain file has
// nothing to unpack.
func unpack(ctx context.Context, f format, r io.ReaderAt, size int64, most limits, root *os.Root) error {
	u := &unpacker{ctx: ctx, root: root, seen: map[string]entryKind{}, files: most.files, limit: min(max(most.free, size*most.ratio), most.bytes)}
	stream := io.NewSectionReader(r, 0, size)
	var err error
	switch f {
	case plain:
		return nil
	case tarred:
		err = u.tar(stream)
	case gzTar:
		var gz *gzip.Reader
		if gz, err = gzip.NewReader(stream); err == nil {
			err = u.tar(gz)
		}
	case zipped:
		err = u.zip(r, size)
	default:
		return fmt.Errorf("unpack artifact: unknown format %q", f)
	}
	if err == nil {
		err = u.finish()
	}
	if bad := new(unsafeError); errors.As(err, &bad) {
		return &backstay.Error{Class: backstay.Permanent, Op: "unpack artifact", Err: err, Hint: "nothing was unpacked; build the archive again without that entry"}
	}
	if err != nil {
		return fmt.Errorf("unpack artifact: %w", err)
	}
	return nil
}

func (u *unpacker) tar(r io.Reader) error {
	archive := tar.NewReader(r)
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return err
		}
		switch h.Typeflag {
		case tar.TypeXGlobalHeader:
		case tar.TypeDir:
			err = u.directory(strings.TrimSuffix(h.Name, "/"))
		case tar.TypeReg:
			err = u.file(h.Name, h.FileInfo().Mode(), archive)
		case tar.TypeSymlink:
			err = u.symlink(h.Name, h.Linkname)
		case tar.TypeLink:
			err = &unsafeError{h.Name, "is a hard link, which is not supported"}
		default:
			err = &unsafeError{h.Name, "is neither file, directory nor symbolic link"}
		}
		if err != nil {
			return err
		}
	}
}

func (u *unpacker) zip(r io.ReaderAt, size int64) error {
	archive, err := zip.NewReader(r, size)
	if err != nil && !errors.Is(err, zip.ErrInsecurePath) {
		return err
	}
	if len(archive.File) > u.files {
		return u.tooMany()
	}
	for _, f := range archive.File {
		if err := u.zipEntry(f); err != nil {
			return err
		}
	}
	return nil
}

func (u *unpacker) zipEntry(f *zip.File) (err error) {
	mode := f.Mode()
	if mode.IsDir() || strings.HasSuffix(f.Name, "/") {
		return u.directory(strings.TrimSuffix(f.Name, "/"))
	}
	if !mode.IsRegular() && mode.Type() != fs.ModeSymlink {
		return &unsafeError{f.Name, "is neither file, directory nor symbolic link"}
	}
	r, err := f.Open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if mode.IsRegular() {
		return u.file(f.Name, mode, r)
	}
	target, err := io.ReadAll(io.LimitReader(r, maxName+1))
	if err != nil {
		return err
	}
	return u.symlink(f.Name, string(target))
}

// claim checks an entry's name and notes it and the directories above it.
func (u *unpacker) claim(name string, kind entryKind) (string, error) {
	if err := u.ctx.Err(); err != nil {
		return "", ending(u.ctx)
	}
	clean := path.Clean(name)
	switch {
	case name == "" || len(name) > maxName:
		return "", &unsafeError{name[:min(len(name), 80)], "has no name, or one that is too long"}
	case !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl):
		return "", &unsafeError{name, "has a name that is not printable text"}
	case strings.ContainsRune(name, '\\') || len(name) > 1 && name[1] == ':':
		return "", &unsafeError{name, "has a path of another operating system"}
	case path.IsAbs(name):
		return "", &unsafeError{name, "has an absolute path"}
	case !filepath.IsLocal(clean) || strings.Contains("/"+name+"/", "/../"):
		return "", &unsafeError{name, "leads out of the archive"}
	case clean == "." && kind != directory:
		return "", &unsafeError{name, "stands for the archive itself"}
	}
	had := u.seen[clean]
	if had != 0 && (had != implied || kind != directory) {
		return "", &unsafeError{name, "occurs twice"}
	}
	u.seen[clean] = kind
	for up := path.Dir(clean); up != "."; up = path.Dir(up) {
		switch u.seen[up] {
		case 0:
			u.seen[up] = implied
		case regular, symlink:
			return "", &unsafeError{name, "lies below " + up + ", which is no directory"}
		case implied, directory:
		}
	}
	if len(u.seen) > u.files {
		return "", u.tooMany()
	}
	return clean, nil
}

func (u *unpacker) tooMany() error {
	return &unsafeError{"", fmt.Sprintf("is one too many: the archive has more than %d files", u.files)}
}

func (u *unpacker) directory(name string) error {
	clean, err := u.claim(name, directory)
	if err != nil || u.root == nil {
		return err
	}
	return u.root.MkdirAll(clean, 0o755)
}

func (u *unpacker) file(name string, mode fs.FileMode, r io.Reader) (err error) {
	clean, err := u.claim(name, regular)
	if err != nil {
		return err
	}
	w := io.Discard
	if u.root != nil {
		if err := u.root.MkdirAll(path.Dir(clean), 0o755); err != nil {
			return err
		}
		f, err := u.root.OpenFile(clean, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		if err := f.Chmod(readOnly(mode)); err != nil {
			return err
		}
		w = f
	}
	n, err := io.Copy(w, io.LimitReader(contextReader{u.ctx, r}, u.limit-u.bytes+1))
	if u.bytes += n; u.bytes > u.limit {
		return &unsafeError{name, fmt.Sprintf("makes the content larger than %d KiB, out of proportion to the archive", u.limit>>10)}
	}
	return err
}

// readOnly keeps nothing of a mode but whether the file can be executed.
func readOnly(mode fs.FileMode) fs.FileMode {
	if mode&0o111 != 0 {
		return 0o555
	}
	return 0o444
}

func (u *unpacker) symlink(name, target string) error {
	clean, err := u.claim(name, symlink)
	if err != nil {
		return err
	}
	if target == "" || len(target) > maxName || path.IsAbs(target) || strings.ContainsAny(target, "\x00\\") ||
		!filepath.IsLocal(path.Join(path.Dir(clean), target)) {
		return &unsafeError{name, "is a link that leads out of the archive"}
	}
	u.links = append(u.links, clean)
	if u.root == nil {
		return nil
	}
	if err := u.root.MkdirAll(path.Dir(clean), 0o755); err != nil {
		return err
	}
	return u.root.Symlink(target, clean)
}

// finish follows every link: one that leaves by way of others is refused here,
// by os.Root, and so is one that leads nowhere.
func (u *unpacker) finish() error {
	if len(u.seen) == 0 {
		return &unsafeError{"", "is missing: the archive is empty"}
	}
	if u.root == nil {
		return nil
	}
	for _, name := range u.links {
		if _, err := u.root.Stat(name); err != nil {
			return &unsafeError{name, "is a link that leads nowhere inside the archive"}
		}
	}
	return nil
}

// contextReader ends with its context.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, ending(c.ctx)
	}
	return c.r.Read(p) //nolint:wrapcheck // io.EOF must stay itself
}
