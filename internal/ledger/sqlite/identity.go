package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/durable"
	"github.com/backstay-dev/backstay/internal/ledger"
)

// IdentityFile stands beside the ledger and names it. A ledger that was emptied,
// or exchanged for another, would else be taken for the one that knows what was
// deployed here.
const IdentityFile = "ledger.id"

// expected reads which ledger is kept in dir; "" where none ever was. A ledger
// that is gone or empty although one was here is refused before a new one is
// made in its place.
func expected(dir string) (string, error) {
	data, err := os.ReadFile(filepath.Join(dir, IdentityFile))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read which ledger is kept in %s: %w", dir, err)
	}
	id := strings.TrimSpace(string(data))
	path := filepath.Join(dir, File)
	if info, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) || (err == nil && info.Size() == 0) {
		return "", notTheLedger(dir, fmt.Errorf("%s is missing or empty, but ledger %s was kept here", path, id))
	}
	return id, nil
}

// identify holds an open ledger against what is expected, and writes down its
// name where it is the first here.
func identify(ctx context.Context, dir, want string, store *ledger.Store) error {
	id, err := store.LedgerID(ctx)
	if err != nil {
		return fmt.Errorf("identify ledger: %w", err)
	}
	switch want {
	case id:
		return nil
	case "":
		err := durable.WriteFile(filepath.Join(dir, IdentityFile), strings.NewReader(id+"\n"), durable.Attr{Mode: 0o600})
		if err != nil && !errors.Is(err, durable.ErrBusy) { // busy: who opened it at the same time writes the same
			return unwritable(dir, err)
		}
		return nil
	}
	return notTheLedger(dir, fmt.Errorf("%s is ledger %s, but ledger %s was kept here", filepath.Join(dir, File), id, want))
}

func notTheLedger(dir string, err error) error {
	return &backstay.RefusedError{
		What: "state", Err: err,
		Hint: "put the right " + File + " back; if this is meant to begin anew, remove " + filepath.Join(dir, IdentityFile),
	}
}
