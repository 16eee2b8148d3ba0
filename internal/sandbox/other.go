//go:build !linux

package sandbox

import (
	"context"
	"errors"
	"io"
	"os/exec"
)

var errLinux = errors.New("sandboxes need Linux")

// Change is one path that is not as on the host.
type Change struct {
	Path string
	What string
	Dir  bool
}

// Available says why this process cannot make sandboxes.
func Available() error { return errLinux }

// Command is not to be used here.
func Command(ctx context.Context, _ string, _ ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "/nonexistent")
}

// Door is one thing outside that processes inside may talk to.
type Door struct {
	At   string
	Dial func(ctx context.Context) (io.ReadWriteCloser, error)
}

// Doors cannot be made here.
func Doors(context.Context, *exec.Cmd, ...Door) (func(), error) { return nil, errLinux }

// Listen has no doors to open.
func Listen() error { return errLinux }

// Main returns false: no process here was started in a sandbox.
func Main() (bool, error) { return false, nil }

// Inside is false.
func Inside() bool { return false }

// Changes cannot be listed.
func Changes() ([]Change, error) { return nil, errLinux }

// Processes cannot be listed.
func Processes() ([]string, error) { return nil, errLinux }

// Seal cannot be done.
func Seal() error { return errLinux }

// Hidden cannot be listed.
func Hidden() ([]string, error) { return nil, errLinux }
