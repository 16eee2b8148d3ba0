package sqlite

import (
	"path/filepath"
	"testing"
)

// TestCommitsAreSynced asks the database itself: a commit is answered once it
// is on disk (synchronous=FULL is 2), in WAL mode. No kill of a process shows
// the difference, only a power cut does.
func TestCommitsAreSynced(t *testing.T) {
	t.Parallel()
	db, err := shipped().connect(filepath.Join(t.TempDir(), "ledger.db"), 1, durably())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var synchronous int
	var journal string
	if err := db.QueryRowContext(t.Context(), "PRAGMA synchronous").Scan(&synchronous); err != nil {
		t.Fatal(err)
	}
	if err := db.QueryRowContext(t.Context(), "PRAGMA journal_mode").Scan(&journal); err != nil {
		t.Fatal(err)
	}
	if synchronous != 2 || journal != "wal" {
		t.Errorf("got synchronous %d and journal mode %s, want 2 and wal", synchronous, journal)
	}
}
