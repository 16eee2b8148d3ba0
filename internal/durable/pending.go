package durable

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	tempPrefix = ".backstay-"
	tempSuffix = ".tmp"
	tempDigits = 16
)

// ErrBusy is wrapped where another process is writing the same target.
var ErrBusy = errors.New("another process is writing it")

// TempName is the name under which the next content of name is written, in the
// same directory.
func TempName(name string) string {
	sum := sha256.Sum256([]byte(name))
	return tempPrefix + hex.EncodeToString(sum[:tempDigits/2]) + tempSuffix
}

// IsTemp reports whether name is one that TempName makes.
func IsTemp(name string) bool {
	digits, ok := strings.CutPrefix(name, tempPrefix)
	if !ok {
		return false
	}
	digits, ok = strings.CutSuffix(digits, tempSuffix)
	return ok && len(digits) == tempDigits && strings.Trim(digits, "0123456789abcdef") == ""
}

// Pending is content on its way to a name: a locked temporary file that nobody
// sees under the name before Commit. Exactly one of Commit and Abort ends it;
// Abort after Commit does nothing. It belongs to one goroutine.
type Pending struct {
	dir  *Dir
	name string
	file *os.File
	done bool
}

// Create begins the next content of name, mode 0600. What a killed process left
// of an earlier attempt is removed; a living one's is ErrBusy.
func (d *Dir) Create(name string) (*Pending, error) {
	if err := checkName(name); err != nil {
		return nil, &fs.PathError{Op: "create", Path: d.Join(name), Err: err}
	}
	temp := TempName(name)
	for range 8 { // bounded: a rival that keeps winning is busy
		f, err := d.openMode(temp, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, 0o600)
		if errors.Is(err, fs.ErrExist) {
			if err := d.Sweep(name); err != nil {
				return nil, err
			}
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("create temporary file: %w", err)
		}
		// The lock tells a sweeper that the file is alive. A sweeper that came
		// between the creation and the lock has unlinked it: then begin again.
		if err := flock(f); err == nil && d.holds(temp, f) {
			return &Pending{dir: d, name: name, file: f}, nil
		}
		if err := f.Close(); err != nil {
			return nil, fmt.Errorf("close temporary file: %w", err)
		}
	}
	return nil, &fs.PathError{Op: "create", Path: d.Join(name), Err: ErrBusy}
}

// Sweep removes the temporary file that a killed process left beside name.
// None is no error; one that a living process holds is ErrBusy.
func (d *Dir) Sweep(name string) error { return d.SweepTemp(TempName(name)) }

// SweepTemp is Sweep by the temporary file's own name; any other name is
// refused.
func (d *Dir) SweepTemp(temp string) error {
	if !IsTemp(temp) {
		return &fs.PathError{Op: "sweep", Path: d.Join(temp), Err: errors.New("not a temporary file of Backstay")}
	}
	st, err := d.Lstat(temp)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !isType(st, unix.S_IFREG) {
		return ignoreMissing(d.Remove(temp)) // a half-made symlink, or planted: unlink follows nothing
	}
	f, err := d.Open(temp)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("sweep temporary file: %w", err)
	}
	if err := flock(f); err != nil {
		return errors.Join(&fs.PathError{Op: "sweep", Path: d.Join(temp), Err: ErrBusy}, f.Close())
	}
	if d.holds(temp, f) {
		err = ignoreMissing(d.Remove(temp))
	}
	return errors.Join(err, f.Close())
}

// File is the temporary file, for reading it and setting its attributes.
func (p *Pending) File() *os.File { return p.file }

// Path is where the temporary file can be read before Commit.
func (p *Pending) Path() string { return p.dir.Join(TempName(p.name)) }

// Write adds to the content.
func (p *Pending) Write(b []byte) (int, error) {
	n, err := p.file.Write(b)
	if err != nil {
		return n, fmt.Errorf("write temporary file: %w", err)
	}
	return n, nil
}

// SyncFile makes content and attributes durable under the temporary name. Commit does
// it too; doing it first shortens the time between a last check and the rename.
func (p *Pending) SyncFile() error { return wrapSync(p.Path(), p.file.Sync()) }

// Commit makes the content durable and puts it in the name's place. The rename
// itself is durable after Dir.SyncEntries. On error the old file is in place and the
// temporary one is gone.
func (p *Pending) Commit() error {
	if err := p.SyncFile(); err != nil {
		return errors.Join(err, p.Abort())
	}
	temp := TempName(p.name)
	if !p.dir.holds(temp, p.file) {
		return errors.Join(&fs.PathError{Op: "replace", Path: p.dir.Join(p.name), Err: ErrBusy}, p.Abort())
	}
	if err := unix.Renameat(p.dir.fd(), temp, p.dir.fd(), p.name); err != nil {
		return errors.Join(&fs.PathError{Op: "replace", Path: p.dir.Join(p.name), Err: err}, p.Abort())
	}
	p.done = true
	if err := p.file.Close(); err != nil {
		return fmt.Errorf("close replaced file: %w", err)
	}
	return nil
}

// Abort removes the temporary file.
func (p *Pending) Abort() error {
	if p.done {
		return nil
	}
	p.done = true
	var err error
	if temp := TempName(p.name); p.dir.holds(temp, p.file) {
		err = ignoreMissing(p.dir.Remove(temp))
	}
	return errors.Join(err, p.file.Close())
}

// WriteFile is the function WriteFile in this directory.
func (d *Dir) WriteFile(name string, r io.Reader, attr Attr) (err error) {
	p, err := d.Create(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Abort()) }()
	if _, err := io.Copy(p, r); err != nil {
		return fmt.Errorf("write %s: %w", d.Join(name), err)
	}
	if attr.Owner != nil {
		if err := p.file.Chown(attr.Owner.UID, attr.Owner.GID); err != nil {
			return fmt.Errorf("set owner: %w", err)
		}
	}
	if err := p.file.Chmod(attr.Mode); err != nil {
		return fmt.Errorf("set mode: %w", err)
	}
	if !attr.MTime.IsZero() {
		if err := d.SetMTime(TempName(name), attr.MTime); err != nil {
			return err
		}
	}
	if err := p.Commit(); err != nil {
		return err
	}
	return d.SyncEntries()
}

// Symlink puts a symlink to target in name's place. It does not sync.
func (d *Dir) Symlink(target, name string) error {
	return d.swapIn(name, func(temp string) error { return unix.Symlinkat(target, d.fd(), temp) })
}

// Link puts a hard link to oldName of the directory from in name's place. It
// does not sync.
func (d *Dir) Link(from *Dir, oldName, name string) error {
	// rename(2) of one link onto another of the same file does nothing and
	// leaves both: then the name is right already.
	if d.sameFile(name, from, oldName) {
		return nil
	}
	return d.swapIn(name, func(temp string) error { return unix.Linkat(from.fd(), oldName, d.fd(), temp, 0) })
}

func (d *Dir) swapIn(name string, create func(temp string) error) error {
	if err := checkName(name); err != nil {
		return &fs.PathError{Op: "replace", Path: d.Join(name), Err: err}
	}
	if err := d.Sweep(name); err != nil {
		return err
	}
	temp := TempName(name)
	if err := retry(func() error { return create(temp) }); err != nil {
		return &fs.PathError{Op: "link", Path: d.Join(name), Err: err}
	}
	if err := unix.Renameat(d.fd(), temp, d.fd(), name); err != nil {
		return errors.Join(&fs.PathError{Op: "replace", Path: d.Join(name), Err: err}, ignoreMissing(d.Remove(temp)))
	}
	return nil
}

func (d *Dir) sameFile(name string, other *Dir, otherName string) bool {
	a, errA := d.Lstat(name)
	b, errB := other.Lstat(otherName)
	return errA == nil && errB == nil && a.Dev == b.Dev && a.Ino == b.Ino
}

// holds reports whether name is still the open file f.
func (d *Dir) holds(name string, f *os.File) bool {
	st, err := d.Lstat(name)
	if err != nil {
		return false
	}
	var open unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &open); err != nil {
		return false
	}
	return st.Dev == open.Dev && st.Ino == open.Ino
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
