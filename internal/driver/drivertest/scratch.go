package drivertest

import (
	"os"
	"testing"
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
