package sqlite_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/ledger/sqlite"
)

// TestExchangedLedgerIsRefused: a ledger that was emptied, lost or exchanged
// for another must not be taken for the one that knows what was deployed here.
func TestExchangedLedgerIsRefused(t *testing.T) {
	t.Parallel()
	other := t.TempDir()
	closed(t, other)
	for _, tc := range []struct {
		name, want string
		spoil      func(path string) error
	}{
		{"emptied", "missing or empty", func(path string) error { return os.Truncate(path, 0) }},
		{"removed", "missing or empty", os.Remove},
		{"exchanged", "was kept here", func(path string) error {
			data, err := os.ReadFile(filepath.Join(other, sqlite.File))
			if err != nil {
				return err
			}
			return os.WriteFile(path, data, 0o600)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			closed(t, dir)
			if err := tc.spoil(filepath.Join(dir, sqlite.File)); err != nil {
				t.Fatal(err)
			}
			store, err := sqlite.Open(t.Context(), dir, ledger.Options{Version: "test"})
			if err == nil {
				_ = store.Close()
			}
			var refused *backstay.RefusedError
			if !errors.As(err, &refused) || !strings.Contains(err.Error(), tc.want) || refused.Hint == "" {
				t.Fatalf("got %v, want a refusal that says %q and what to do", err, tc.want)
			}
			if err := os.Remove(filepath.Join(dir, sqlite.IdentityFile)); err != nil {
				t.Fatal(err)
			}
			closed(t, dir) // accepted on purpose
		})
	}
}

// closed opens the ledger in dir and closes it.
func closed(t *testing.T, dir string) {
	t.Helper()
	store, err := sqlite.Open(t.Context(), dir, ledger.Options{Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
}
