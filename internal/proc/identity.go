package proc

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Identity names one process for as long as the host is up, and after: a pid
// alone is reused, pid and start time within one boot are not.
type Identity struct {
	PID    int    `json:"pid"`
	Start  uint64 `json:"start"` // clock ticks since boot: field 22 of /proc/PID/stat
	BootID string `json:"boot"`  // /proc/sys/kernel/random/boot_id
}

// ErrGone is returned by Signal when the process has ended (or is a zombie),
// also where its pid has been given to another one.
var ErrGone = errors.New("the process is gone")

// Identify returns the identity of a running process (or zombie).
func Identify(pid int) (Identity, error) {
	boot, err := bootID()
	if err != nil {
		return Identity{}, err
	}
	st, err := readStat(pid)
	if err != nil {
		return Identity{}, fmt.Errorf("identify process %d: %w", pid, err)
	}
	return Identity{PID: pid, Start: st.start, BootID: boot}, nil
}

// Alive reports whether exactly this process runs. A zombie does not.
func (id Identity) Alive() bool {
	if id.PID <= 0 {
		return false
	}
	boot, err := bootID()
	if err != nil || boot != id.BootID {
		return false
	}
	st, err := readStat(id.PID)
	return err == nil && st.start == id.Start && !st.dead()
}

// Signal sends sig to exactly this process; ErrGone if it does not run any more.
func (id Identity) Signal(sig unix.Signal) error {
	if id.PID <= 0 {
		return ErrGone
	}
	// The pidfd is opened first and the identity checked after: what the
	// descriptor holds is then either this process or already dead.
	fd, err := unix.PidfdOpen(id.PID, 0)
	if errors.Is(err, unix.ENOSYS) {
		return id.signalByPID(sig)
	}
	if err != nil {
		return signalError(id.PID, err)
	}
	defer func() { _ = unix.Close(fd) }()
	if !id.Alive() {
		return ErrGone
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil {
		return signalError(id.PID, err)
	}
	return nil
}

// signalByPID is for kernels before 5.3: between check and kill a pid could in
// theory be reused.
func (id Identity) signalByPID(sig unix.Signal) error {
	if !id.Alive() {
		return ErrGone
	}
	if err := unix.Kill(id.PID, sig); err != nil {
		return signalError(id.PID, err)
	}
	return nil
}

func signalError(pid int, err error) error {
	if errors.Is(err, unix.ESRCH) {
		return ErrGone
	}
	return fmt.Errorf("signal process %d: %w", pid, err)
}

func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	return string(bytes.TrimSpace(b)), nil
}

// stat holds the fields of /proc/PID/stat that are used here.
type stat struct {
	pid     int
	state   byte
	ppid    int
	session int
	start   uint64
}

// dead reports a zombie or a process being removed: it runs no code.
func (s stat) dead() bool { return s.state == 'Z' || s.state == 'X' || s.state == 'x' }

func readStat(pid int) (stat, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return stat{}, err
	}
	return parseStat(b)
}

// parseStat reads one line of /proc/PID/stat (proc_pid_stat(5)). The command
// name in parentheses may hold spaces, parentheses and newlines: fields are
// counted from its last closing parenthesis.
func parseStat(b []byte) (stat, error) {
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 1 || end < open {
		return stat{}, fmt.Errorf("malformed stat line")
	}
	f := bytes.Fields(b[end+1:])
	if len(f) < 20 || len(f[0]) != 1 {
		return stat{}, fmt.Errorf("malformed stat line: %d fields", len(f))
	}
	s := stat{state: f[0][0]}
	var err error
	if s.pid, err = strconv.Atoi(string(bytes.TrimSpace(b[:open]))); err != nil {
		return stat{}, fmt.Errorf("malformed stat line: pid: %w", err)
	}
	if s.ppid, err = strconv.Atoi(string(f[1])); err != nil {
		return stat{}, fmt.Errorf("malformed stat line: parent: %w", err)
	}
	if s.session, err = strconv.Atoi(string(f[3])); err != nil {
		return stat{}, fmt.Errorf("malformed stat line: session: %w", err)
	}
	if s.start, err = strconv.ParseUint(string(f[19]), 10, 64); err != nil {
		return stat{}, fmt.Errorf("malformed stat line: start: %w", err)
	}
	return s, nil
}
