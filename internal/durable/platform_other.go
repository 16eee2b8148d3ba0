//go:build !linux

package durable

import "golang.org/x/sys/unix"

const (
	// traverse opens a directory on the way; without O_PATH it must be readable.
	traverse = 0
	// omitTime is the nanosecond value that leaves a time alone (utimensat(2)
	// of macOS and FreeBSD).
	omitTime = -2
)

func modeOf(st *unix.Stat_t) uint32 { return uint32(st.Mode) }
