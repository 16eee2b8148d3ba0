package control

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// asThread does something with the effective uid of one thread changed, which
// ends with it.
func asThread(t *testing.T, uid int, do func() error) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0)); errno != 0 {
			done <- errno
			return
		}
		done <- do()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
