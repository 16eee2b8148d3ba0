package tree

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/durable"
)

// maxProblems is how many items an UnrestorableError lists before it only counts.
const maxProblems = 50

// Unrestorable is one file below a path that could not be put back, and why.
type Unrestorable struct {
	Path string
	Why  string
}

// UnrestorableError lists what at a path could not be restored, so that nothing
// there may be changed under the promise of an undo.
type UnrestorableError struct {
	Path  string
	Items []Unrestorable
	More  int // further items that are not listed
}

func (e *UnrestorableError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s cannot be restored: ", quote(e.Path))
	for i, item := range e.Items {
		if i > 0 {
			b.WriteString("; ")
		}
		fmt.Fprintf(&b, "%s %s", quote(item.Path), item.Why)
	}
	if e.More > 0 {
		fmt.Fprintf(&b, "; and %d more", e.More)
	}
	return b.String()
}

func (e *UnrestorableError) add(path, why string) {
	if len(e.Items) == maxProblems {
		e.More++
		return
	}
	e.Items = append(e.Items, Unrestorable{Path: path, Why: why})
}

// classify gives an error of the file system its class and next step.
func classify(op, path string, err error) error {
	if err == nil {
		return nil
	}
	out := &backstay.Error{Class: backstay.Permanent, Op: op, Subject: quote(path), Err: err}
	var unrestorable *UnrestorableError
	var known *backstay.Error
	switch {
	case errors.As(err, &known) && known.Class != "":
		out.Class = known.Class // it knows better, its hint too
	case errors.As(err, &unrestorable):
		out.Op, out.Subject = "", "" // its message says it all
		out.Hint = "name smaller paths, or leave these files out"
	case errors.Is(err, errChanged):
		out.Class = backstay.Transient
		out.Hint = "something else is writing there; stop it or name a smaller path"
	case errors.Is(err, durable.ErrBusy):
		out.Class = backstay.Transient
	case errors.Is(err, durable.ErrSymlink):
		out.Class = backstay.Conflict
		out.Hint = "name the path without symlinks in its directories"
		if real, evalErr := filepath.EvalSymlinks(filepath.Dir(path)); evalErr == nil {
			out.Hint += ": " + quote(filepath.Join(real, filepath.Base(path)))
		}
	case errors.Is(err, fs.ErrNotExist):
		out.Class = backstay.NotFound
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		out.Hint = "free space on that file system, then repeat"
	case errors.Is(err, fs.ErrPermission):
		out.Hint = "run as the files' owner or as root"
	case errors.Is(err, unix.ENOTEMPTY), errors.Is(err, unix.EBUSY), errors.Is(err, unix.ETXTBSY):
		out.Class = backstay.Conflict
	case errors.Is(err, unix.ESTALE), errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
		out.Class = backstay.Transient
	}
	return out
}

// quote writes a path for people: quoted only where it could deceive a terminal.
func quote(path string) string {
	if q := fmt.Sprintf("%q", path); q[1:len(q)-1] != path || path == "" {
		return q
	}
	return path
}
