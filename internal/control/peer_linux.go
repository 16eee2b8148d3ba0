package control

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// openDirectory opens a directory for its place only: others than its owner
// cannot read it.
const openDirectory = unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC

// peerOf is who connected, as the kernel recorded it then.
func peerOf(conn *net.UnixConn) (Peer, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return Peer{}, fmt.Errorf("identify peer: %w", err)
	}
	var cred *unix.Ucred
	var optErr error
	if err := raw.Control(func(fd uintptr) { cred, optErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return Peer{}, fmt.Errorf("identify peer: %w", err)
	}
	if optErr != nil {
		return Peer{}, fmt.Errorf("identify peer: %w", optErr)
	}
	if !mapped(cred.Uid) {
		return Peer{}, fmt.Errorf("identify peer: uid %d stands for every user of other user namespaces", cred.Uid)
	}
	return Peer{UID: int(cred.Uid), PID: int(cred.Pid)}, nil
}

// mapped reports whether a uid means one user here. In a user namespace that
// does not know all of them, the kernel shows each unknown one as the same
// overflow uid (user_namespaces(7)), which then is nobody in particular.
func mapped(uid uint32) bool {
	const everyone = "0 0 4294967295"
	known, err := os.ReadFile("/proc/self/uid_map")
	if err == nil && strings.Join(strings.Fields(string(known)), " ") == everyone {
		return true
	}
	overflow := uint64(65534)
	if text, err := os.ReadFile("/proc/sys/kernel/overflowuid"); err == nil {
		if n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 32); err == nil {
			overflow = n
		}
	}
	return uint64(uid) != overflow
}
