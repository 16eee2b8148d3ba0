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

func modeOf(st *unix.Stat_t) uint32 { return uint32(st.Mode) }

func devOf(st *unix.Stat_t) uint64 { return uint64(st.Dev) }

func linksOf(st *unix.Stat_t) int { return int(st.Nlink) }
