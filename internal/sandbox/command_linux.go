package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// The two lives of a process in a sandbox: the first makes the view and becomes
// the second.
const (
	envStage   = "BACKSTAY_SANDBOX"
	envScratch = "BACKSTAY_SANDBOX_SCRATCH"
	envLayers  = "BACKSTAY_SANDBOX_LAYERS"
	envHidden  = "BACKSTAY_SANDBOX_HIDDEN"
	envDoors   = "BACKSTAY_SANDBOX_DOORS"
	envSince   = "BACKSTAY_SANDBOX_SINCE" // nanoseconds since 1970, by the clock that files are stamped by
	enter      = "enter"
	inside     = "inside"
)

// Available says why this process cannot make sandboxes; nil: it can.
func Available() error {
	if os.Geteuid() != 0 {
		return errors.New("only root can make the private view of this host that it needs")
	}
	if !mayMount() {
		return errors.New("this process may not mount (it has not the capability CAP_SYS_ADMIN, as in most containers)")
	}
	known, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		return fmt.Errorf("look for overlayfs: %w", err)
	}
	if !strings.Contains(string(known), "\toverlay\n") {
		return errors.New("this kernel has no overlayfs (modprobe overlay)")
	}
	if Inside() {
		return errors.New("this process is in a sandbox already")
	}
	return nil
}

// mayMount reports whether this process has the capability that mounting needs.
func mayMount() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	return unix.Capget(&header, &data[0]) == nil && data[0].Effective&(1<<unix.CAP_SYS_ADMIN) != 0
}

// Command is this very binary, with these arguments, in a new sandbox. scratch
// is an empty directory of the caller's, on which the view is built; nothing is
// left there. The program must call Main before anything else.
func Command(ctx context.Context, scratch string, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, "/proc/self/exe", args...)
	c.Args[0] = os.Args[0] // some binaries are told by their name what they are
	c.Env = append(os.Environ(), envStage+"="+enter, envScratch+"="+scratch)
	c.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
		Pdeathsig:  syscall.SIGKILL,
	}
	return c
}

// Main makes the view, in a process that Command started, and becomes the
// program inside it. It returns false at once in any other process, and true
// only with the error that kept it from going on.
func Main() (failed bool, err error) {
	if os.Getenv(envStage) != enter {
		return false, nil
	}
	return true, fmt.Errorf("make the sandbox: %w", becomeInside())
}

// Inside reports whether this process runs in a sandbox.
func Inside() bool { return os.Getenv(envStage) == inside }
