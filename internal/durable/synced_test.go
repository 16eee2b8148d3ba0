package durable_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/backstay-dev/backstay/internal/durable"
)

// TestSyncSaysThatItFailed: a sync that the kernel refuses is an error. (Of a
// closed file it refuses it on any system.)
func TestSyncSaysThatItFailed(t *testing.T) {
	t.Parallel()
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	if err := durable.SyncOpen(f); err != nil {
		t.Errorf("sync an open file: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := durable.SyncOpen(f); err == nil {
		t.Error("the sync of a closed file is said to have worked")
	}
}
