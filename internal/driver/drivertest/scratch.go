package drivertest

import (
	"os"
	"testing"
	"time"
)

// memory is where Linux has a file system in memory.
const memory = "/dev/shm"

// Scratch returns a directory of the test's own, in memory where that is
// possible: for tests that try hundreds of interruption points, whose fsyncs
// would take most of the time and prove nothing.
func Scratch(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp(memory, "backstay-test-") //nolint:usetesting // t.TempDir is on the disk
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove scratch directory: %v", err)
		}
	})
	return dir
}

// Eventually waits until ok, for at most ten seconds.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("still not: %s", what)
		}
	}
}
