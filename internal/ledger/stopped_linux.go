package ledger

import (
	"context"
	"errors"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// endStopped ends processes of this host that are stopped (SIGSTOP, a
// debugger) and whose lease has run out, and returns how many. Such a process
// may hold the embedded database's write lock, so that nobody can write until
// it is gone; or be in the middle of an act that it would go on with when it
// wakes. With dead, only those are ended that somebody took over from. A
// process is ended only if its pid and start time are the node's and the kernel
// says that it is stopped.
func (s *Store) endStopped(ctx context.Context, dead bool) int {
	least := 0
	if dead {
		least = 1
	}
	const query = "SELECT pid, start FROM node WHERE boot = $1 AND lease_until < $2 AND id <> $3 AND start <> 0 AND dead >= $4"
	rows, err := s.backend.Read.QueryContext(ctx, query, s.boot(), s.opt.Clock.Boot().Microseconds(), s.node, least)
	if err != nil {
		return 0 // the wait goes on, and ends with its own error
	}
	defer rows.Close()
	ended := 0
	for rows.Next() {
		var pid int
		var start int64
		if rows.Scan(&pid, &start) == nil && endIfStopped(pid, start) {
			ended++
		}
	}
	if rows.Err() != nil {
		return 0
	}
	return ended
}

// endIfStopped kills the process if it is the one that started then and is
// stopped. The pidfd is opened before the look, so that a reused pid is not hit.
func endIfStopped(pid int, start int64) bool {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	state, began, ok := processStat(strconv.Itoa(pid))
	if !ok || began != start || !strings.ContainsAny(state, "Tt") {
		return false
	}
	if unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) != nil {
		return false
	}
	// Its locks, also those on files that it was writing, go with it and not with
	// the signal: who takes over would find them held.
	ended := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}} //nolint:gosec // a descriptor fits
	for range 20 {
		if n, err := unix.Poll(ended, 100); n > 0 || err != nil && !errors.Is(err, unix.EINTR) {
			break
		}
	}
	return true
}

// processStat reads a process's state letter and its start in clock ticks.
func processStat(pid string) (state string, start int64, ok bool) {
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return "", 0, false
	}
	// The command name, in parentheses, may hold anything: count from its end.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 20 {
		return "", 0, false
	}
	start, err = strconv.ParseInt(fields[19], 10, 64)
	return fields[0], start, err == nil
}
