package durable

import "golang.org/x/sys/unix"

const (
	// traverse opens a directory on the way with search permission only.
	traverse = unix.O_PATH
	// omitTime is the nanosecond value that leaves a time alone.
	omitTime = unix.UTIME_OMIT
)

func modeOf(st *unix.Stat_t) uint32 { return st.Mode }
