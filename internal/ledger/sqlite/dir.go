package sqlite

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/durable"
)

// ErrForeign is wrapped by the refusal of a directory that another user owns.
var ErrForeign = errors.New("it belongs to another user")

// dirMode is the mode of a state directory that Open makes. Others may pass
// through, to the control socket below it, and see nothing: the files in it are
// their owner's alone.
const dirMode = 0o711

// prepareDir makes sure that dir is a directory on a local file system that
// only its user (or root) can write and replace.
func prepareDir(dir string) error {
	link, err := os.Lstat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		if err := durable.MkdirAll(dir, dirMode); err != nil {
			return unwritable(dir, err)
		}
		link, err = os.Lstat(dir)
	}
	if err != nil {
		return unwritable(dir, err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return unwritable(dir, err)
	}
	for _, i := range []fs.FileInfo{link, info} {
		if uid, ok := owner(i); ok && uid != uint32(os.Geteuid()) && uid != 0 { //nolint:gosec // a uid is never negative on Unix
			return refuse(dir, fmt.Errorf("%w: uid %d, who could replace the ledger", ErrForeign, uid), "use a directory of your own, or run as that user")
		}
	}
	switch {
	case !info.IsDir():
		return refuse(dir, errors.New("it is no directory"), "name a directory")
	case info.Mode().Perm()&0o002 != 0:
		return refuse(dir, errors.New("everybody can write there, and so replace the ledger"), "chmod 0700 "+dir)
	}
	kind, err := networkFS(dir)
	if err != nil {
		return unwritable(dir, err)
	}
	if kind != "" {
		return refuse(dir, fmt.Errorf("it is on %s, where SQLite's locks and syncs do not hold", kind), "use a local disk, or --state postgres://…")
	}
	// Asked, not tried: trying would leave a file behind.
	if err := unix.Access(dir, unix.W_OK|unix.X_OK); err != nil {
		return unwritable(dir, &fs.PathError{Op: "write", Path: dir, Err: err})
	}
	return nil
}

func owner(i fs.FileInfo) (uint32, bool) {
	st, ok := i.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return st.Uid, true
}

func refuse(dir string, err error, hint string) error {
	return &backstay.RefusedError{What: "state", Err: fmt.Errorf("open state directory %s: %w", dir, err), Hint: hint}
}

func unwritable(dir string, err error) error {
	hint := "name a directory that you can write with --state"
	if errors.Is(err, unix.EROFS) {
		hint = "the file system is mounted read-only: name another directory with --state, or remount it"
	}
	return refuse(dir, err, hint)
}
