package sqlite_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/ledger/ledgertest"
	"github.com/backstay-dev/backstay/internal/ledger/sqlite"
)

func TestOpenCreatesPrivately(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "a b?c#d%20", "state")
	s, err := open(t)(sqlite.Open(t.Context(), dir, ledger.Options{}))
	if err != nil {
		t.Fatal(err)
	}
	ledgertest.Create(t, s, ledgertest.New(t, "shop"))
	for path, want := range map[string]fs.FileMode{dir: 0o711, "ledger.db": 0o600, "ledger.db-wal": 0o600, "ledger.db-shm": 0o600} {
		if path != dir {
			path = filepath.Join(dir, path)
		}
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: got %v, %v; want %v", path, info.Mode().Perm(), err, want)
		}
	}
	if s.Describe() != filepath.Join(dir, sqlite.File) {
		t.Errorf("description: got %s", s.Describe())
	}
}

func TestOpenTightensTheFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, sqlite.File)
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := open(t)(sqlite.Open(t.Context(), dir, ledger.Options{})); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode: got %v, %v", info.Mode(), err)
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	for name, make := range map[string]func(t *testing.T, dir string) string{
		"a file": func(t *testing.T, dir string) string {
			t.Helper()
			return write(t, filepath.Join(dir, "file"), "")
		},
		"a directory that everybody can write": func(t *testing.T, dir string) string {
			t.Helper()
			if err := os.Chmod(dir, 0o777); err != nil {
				t.Fatal(err)
			}
			return dir
		},
		"a ledger that is a symlink": func(t *testing.T, dir string) string {
			t.Helper()
			if err := os.Symlink(filepath.Join(dir, "elsewhere"), filepath.Join(dir, sqlite.File)); err != nil {
				t.Fatal(err)
			}
			return dir
		},
		"a ledger that is a directory": func(t *testing.T, dir string) string {
			t.Helper()
			if err := os.Mkdir(filepath.Join(dir, sqlite.File), 0o700); err != nil {
				t.Fatal(err)
			}
			return dir
		},
		"below a file": func(t *testing.T, dir string) string {
			t.Helper()
			return filepath.Join(write(t, filepath.Join(dir, "file"), ""), "state")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := make(t, t.TempDir())
			_, err := open(t)(sqlite.Open(t.Context(), dir, ledger.Options{}))
			if refused, ok := errors.AsType[*backstay.RefusedError](err); !ok || refused.What != "state" || refused.Hint == "" {
				t.Errorf("got %v, want a *RefusedError with a hint", err)
			}
		})
	}
}

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestOpenOfSomethingElse(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, sqlite.File), strings.Repeat("this is no database. ", 500))
	_, err := open(t)(sqlite.Open(t.Context(), dir, ledger.Options{}))
	if err == nil || backstay.HintOf(err) == "" {
		t.Errorf("got %v, want an error with a hint", err)
	}
	if body, err := os.ReadFile(filepath.Join(dir, sqlite.File)); err != nil || !strings.HasPrefix(string(body), "this is no database.") {
		t.Error("the file was changed")
	}
}

// TestUnprivileged runs this binary as nobody where the tests run as root, for
// whom every directory is writable and its own.
func TestUnprivileged(t *testing.T) {
	t.Parallel()
	if dir := os.Getenv("BACKSTAY_TEST_UNPRIVILEGED"); dir != "" {
		unprivileged(t, dir)
		return
	}
	dir, err := os.MkdirTemp("", "backstay-sqlite-") //nolint:usetesting // others must be able to enter it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	for _, name := range []string{"fixed", "foreign"} {
		s, err := sqlite.Open(t.Context(), filepath.Join(dir, name), ledger.Options{})
		if err != nil {
			t.Fatal(err)
		}
		ledgertest.Create(t, s, ledgertest.New(t, "shop"))
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(dir, name, sqlite.File), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	const nobody = 65534
	attr := &syscall.SysProcAttr{}
	if os.Geteuid() == 0 {
		attr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
		for _, path := range []string{"fixed", filepath.Join("fixed", sqlite.File)} {
			if err := os.Chown(filepath.Join(dir, path), nobody, nobody); err != nil {
				t.Fatal(err)
			}
		}
	}
	for path, mode := range map[string]fs.FileMode{"": 0o755, "fixed": 0o555, "foreign": 0o755} {
		if err := os.Chmod(filepath.Join(dir, path), mode); err != nil {
			t.Fatal(err)
		}
	}
	program := copyTo(t, filepath.Join(dir, "test"))
	cmd := exec.CommandContext(t.Context(), program, "-test.run=^TestUnprivileged$", "-test.v")
	cmd.Dir = dir
	cmd.Env = []string{"BACKSTAY_TEST_UNPRIVILEGED=" + dir}
	cmd.SysProcAttr = attr
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestUnprivileged") {
		t.Errorf("as nobody: %v\n%s", err, out)
	}
}

// copyTo copies this program. Another process writes it: one that other tests start
// meanwhile could hold a file open that this one writes, and such a file cannot be run.
func copyTo(t *testing.T, path string) string {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "install", "-m", "755", program, path).CombinedOutput(); err != nil {
		t.Fatalf("copy %s: %v %s", program, err, out)
	}
	return path
}

func unprivileged(t *testing.T, dir string) {
	t.Helper()
	fixed := filepath.Join(dir, "fixed")
	_, err := sqlite.Open(t.Context(), fixed, ledger.Options{})
	if refused, ok := errors.AsType[*backstay.RefusedError](err); !ok || !strings.Contains(err.Error(), fixed) || refused.Hint == "" {
		t.Errorf("open a read-only directory: got %v, want a *RefusedError", err)
	}
	s, err := open(t)(sqlite.OpenReadOnly(t.Context(), fixed, ledger.Options{}))
	if err != nil {
		t.Fatalf("read in a read-only directory: %v", err)
	}
	if _, err := ledgertest.CheckTree(t.Context(), s); err != nil {
		t.Error(err)
	}
	if _, err := s.Record(t.Context(), backstay.Entry{Kind: backstay.EntryNote}); !errors.Is(err, ledger.ErrReadOnly) || backstay.HintOf(err) == "" {
		t.Errorf("write: got %v, want ErrReadOnly with a hint", err)
	}
	if os.Geteuid() != 65534 {
		return // not started by root: there is no other user whose directory could be met
	}
	_, err = sqlite.Open(t.Context(), filepath.Join(dir, "foreign"), ledger.Options{})
	if _, ok := errors.AsType[*backstay.RefusedError](err); !ok {
		t.Errorf("open root's directory: got %v, want a *RefusedError", err)
	}
}

func TestOpenReadOnly(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	live, err := open(t)(sqlite.Open(t.Context(), dir, ledger.Options{}))
	if err != nil {
		t.Fatal(err)
	}
	lease := ledgertest.Create(t, live, ledgertest.New(t, "shop"))
	// Beside a living writer: what it wrote is seen, also what it writes later.
	s, err := open(t)(sqlite.OpenReadOnly(t.Context(), filepath.Join(dir, sqlite.File), ledger.Options{}))
	if err != nil {
		t.Fatal(err)
	}
	ledgertest.Append(t, live, &lease, ledger.Update{Entries: []backstay.Entry{ledgertest.Intent("a")}})
	if n, err := ledgertest.CheckTree(t.Context(), s); err != nil || n != 2 {
		t.Errorf("beside a writer: got %d entries, %v; want 2", n, err)
	}
	if d, err := s.Deployment(t.Context(), lease.Deployment); err != nil || d.Owner == nil || !d.Owner.Live {
		t.Errorf("owner: got %+v, %v", d.Owner, err)
	}
	if _, err := s.Claim(t.Context(), lease.Deployment); !errors.Is(err, ledger.ErrReadOnly) {
		t.Errorf("claim: got %v, want ErrReadOnly", err)
	}
	if err := live.Close(); err != nil {
		t.Fatal(err)
	}
	// A copy, alone: nothing appears beside it.
	body, err := os.ReadFile(filepath.Join(dir, sqlite.File))
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := t.TempDir()
	write(t, filepath.Join(elsewhere, "copy.db"), string(body))
	alone, err := open(t)(sqlite.OpenReadOnly(t.Context(), filepath.Join(elsewhere, "copy.db"), ledger.Options{}))
	if err != nil {
		t.Fatal(err)
	}
	if n, err := ledgertest.CheckTree(t.Context(), alone); err != nil || n != 2 {
		t.Errorf("copy: got %d entries, %v; want 2", n, err)
	}
	if found, err := os.ReadDir(elsewhere); err != nil || len(found) != 1 {
		t.Errorf("beside the copy: got %v, %v", found, err)
	}
	empty := write(t, filepath.Join(elsewhere, "empty.db"), "")
	if _, err := sqlite.OpenReadOnly(t.Context(), empty, ledger.Options{}); backstay.HintOf(err) == "" {
		t.Errorf("a copy without its log: got %v, want a hint", err)
	}
	if _, err := sqlite.OpenReadOnly(t.Context(), t.TempDir(), ledger.Options{}); !errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("nothing there: got %v, want ErrNotFound", err)
	}
}
