package tree

import (
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"

	"github.com/backstay-dev/backstay/internal/durable"
)

// protection tells whether name is where another file system begins (bind
// mounts included), and whether the kernel forbids to change it.
func protection(dir *durable.Dir, name string, _ *unix.Stat_t) (mount, frozen bool, err error) {
	var stx unix.Statx_t
	if err := unix.Statx(dir.FD(), name, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, 0, &stx); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return false, false, errChanged
		}
		return false, false, &fs.PathError{Op: "statx", Path: dir.Join(name), Err: err}
	}
	return stx.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0,
		stx.Attributes&(unix.STATX_ATTR_IMMUTABLE|unix.STATX_ATTR_APPEND) != 0, nil
}

func modeOf(st *unix.Stat_t) uint32 { return st.Mode }

func devOf(st *unix.Stat_t) uint64 { return st.Dev }

func linksOf(st *unix.Stat_t) int { return int(st.Nlink) } //nolint:gosec // link counts are small
