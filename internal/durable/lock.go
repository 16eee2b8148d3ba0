package durable

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// FileLock is a held lock file. The kernel lets go of it when the process ends,
// however it ends. The file itself stays: removing it would let two processes
// hold "the" lock.
type FileLock struct{ file *os.File }

// HeldError says which process holds a lock. PID is 0 where the file does not
// tell.
type HeldError struct {
	Path string
	PID  int
}

func (e *HeldError) Error() string {
	if e.PID == 0 {
		return fmt.Sprintf("lock %s: held by another process", e.Path)
	}
	return fmt.Sprintf("lock %s: held by process %d", e.Path, e.PID)
}

// Lock takes the lock file at path, creating it with mode 0600, without
// waiting. Where another open of the file holds it (in this process too) the
// error is a *HeldError.
func Lock(path string) (*FileLock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock file: %w", err)
	}
	if err := flock(f); err != nil {
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
		}
		held := &HeldError{Path: path, PID: readPID(f)}
		return nil, errors.Join(held, f.Close())
	}
	if err := writePID(f); err != nil {
		return nil, errors.Join(fmt.Errorf("write holder into lock file: %w", err), f.Close())
	}
	return &FileLock{file: f}, nil
}

// Unlock lets go of the lock. Closing the file alone would not: a process that is
// just being started by another goroutine has it open until it executes.
func (l *FileLock) Unlock() error {
	err := l.file.Truncate(0)
	unlocked := retry(func() error { return unix.Flock(int(l.file.Fd()), unix.LOCK_UN) })
	return errors.Join(err, unlocked, l.file.Close())
}

func readPID(f *os.File) int {
	b, err := io.ReadAll(io.LimitReader(f, 32))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid < 0 {
		return 0
	}
	return pid
}

func writePID(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return fmt.Errorf("empty: %w", err)
	}
	_, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}

func flock(f *os.File) error {
	return retry(func() error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) })
}
