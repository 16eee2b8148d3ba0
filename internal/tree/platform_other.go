//go:build !linux

package tree

import (
	"golang.org/x/sys/unix"

	"github.com/backstay-dev/backstay/internal/durable"
)

// protection tells whether name lies on another device than its directory;
// file flags are not read on this system.
func protection(dir *durable.Dir, _ string, st *unix.Stat_t) (mount, frozen bool, err error) {
	parent, err := dir.Lstat(".")
	if err != nil {
		return false, false, err
	}
	return parent.Dev != st.Dev, false, nil
}
