package sqlite_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/ledger/ledgertest"
	"github.com/backstay-dev/backstay/internal/ledger/sqlite"
)

// TestMain turns this binary into a child process that tests kill or starve.
func TestMain(m *testing.M) {
	dir := os.Getenv("BACKSTAY_TEST_LEDGER")
	if dir == "" {
		os.Exit(m.Run())
	}
	if err := child(context.Background(), dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
	os.Exit(0)
}

func child(ctx context.Context, dir string) error {
	s, err := sqlite.Open(ctx, dir, ledger.Options{})
	if err != nil {
		return err
	}
	if os.Getenv("BACKSTAY_TEST_STARVE") == "" {
		return ledgertest.Write(ctx, s, os.Stdout)
	}
	// No file may grow beyond this: the same as a full disk.
	signal.Ignore(syscall.SIGXFSZ)
	limit := unix.Rlimit{Cur: 1 << 20, Max: 1 << 20}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &limit); err != nil {
		return err
	}
	if err := s.Start(ctx); err != nil {
		return err
	}
	first := ledgertest.Write(ctx, s, os.Stdout)
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 1 << 20, Max: 1 << 20}); err != nil {
		return err
	}
	_, again := s.Record(ctx, backstay.Entry{Kind: backstay.EntryNote})
	_, _, gate := s.Gate(ctx)
	fmt.Println("first:", first, "hint:", backstay.HintOf(first) != "")
	fmt.Println("again:", again, "hint:", backstay.HintOf(again) != "")
	fmt.Println("gate:", gate)
	return nil
}

func TestKilledWriterLosesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ledgertest.KillWriter(t, 6, []string{"BACKSTAY_TEST_LEDGER=" + dir}, func() *ledger.Store {
		s, err := open(t)(sqlite.Open(t.Context(), dir, ledger.Options{}))
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}

// TestFullDiskStopsWriting fills the disk (a limit of file size does the same)
// and wants the store to stop for good, with everything acknowledged intact.
func TestFullDiskStopsWriting(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, "-test.run=^$")
	cmd.Env = append(os.Environ(), "BACKSTAY_TEST_LEDGER="+dir, "BACKSTAY_TEST_STARVE=1")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("child: %v", err)
	}
	acked, said := map[string]int64{}, map[string]string{}
	lines := bufio.NewScanner(strings.NewReader(string(out)))
	for lines.Scan() {
		var id string
		var n int64
		if what, text, ok := strings.Cut(lines.Text(), ": "); ok {
			said[what] = text
		} else if _, err := fmt.Sscan(lines.Text(), &id, &n); err == nil {
			acked[id] = n
		}
	}
	for _, what := range []string{"first", "again", "gate"} {
		if !strings.Contains(said[what], "write ledger") {
			t.Errorf("%s write on a full disk: got %q, want the I/O error", what, said[what])
		}
	}
	if !strings.HasSuffix(said["first"], "hint: true") || strings.TrimSuffix(said["again"], "hint: true") == said["again"] {
		t.Errorf("errors on a full disk have no hint: %q", said)
	}
	s, err := open(t)(sqlite.Open(t.Context(), dir, ledger.Options{}))
	if err != nil {
		t.Fatal(err)
	}
	if len(acked) == 0 {
		t.Error("nothing was acknowledged before the disk was full")
	}
	for id, n := range acked {
		if d, err := s.Deployment(t.Context(), id); err != nil || d.N < n {
			t.Errorf("%s: %d entries were acknowledged, %d are there: %v", id, n, d.N, err)
		}
	}
	if _, err := s.Record(t.Context(), backstay.Entry{Kind: backstay.EntryNote}); err != nil {
		t.Errorf("write after the disk has space again: %v", err)
	}
	if _, err := ledgertest.CheckTree(t.Context(), s); err != nil {
		t.Errorf("tree: %v", err)
	}
}
