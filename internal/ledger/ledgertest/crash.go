package ledgertest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/ledger"
)

// Write writes to several deployments at once until an error or the end of
// ctx, and prints "ID N" after each acknowledgement. Child processes that are
// killed call it.
func Write(ctx context.Context, s *ledger.Store, out io.Writer) error {
	if err := s.SavePlan(ctx, PlanDigest, []byte("{}"), nil); err != nil {
		return err
	}
	const writers = 4
	failed := make(chan error, writers)
	var mu sync.Mutex
	for range writers {
		go func() { failed <- writeOne(ctx, s, &mu, out) }()
	}
	return <-failed
}

func writeOne(ctx context.Context, s *ledger.Store, mu *sync.Mutex, out io.Writer) error {
	id, err := uuid.NewV7()
	if err != nil {
		return err
	}
	lease, err := s.Create(ctx, ledger.NewDeployment{
		ID: id.String(), Release: "shop", PlanDigest: PlanDigest, State: backstay.Running,
		Entries: []backstay.Entry{{Kind: backstay.EntryPlanned}},
	})
	for err == nil {
		mu.Lock()
		_, err = fmt.Fprintln(out, lease.Deployment, lease.N)
		mu.Unlock()
		if err == nil {
			_, err = s.Append(ctx, &lease, ledger.Update{Entries: []backstay.Entry{Outcome("a"), Intent("b")}})
		}
	}
	return err
}

// KillWriter runs this test binary with env, which makes it call Write, kills
// it with SIGKILL after some acknowledgements, and checks that each of them is
// in the ledger, kills times.
func KillWriter(t *testing.T, kills int, env []string, open func() *ledger.Store) {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	acked := map[string]int64{}
	for kill := range kills {
		cmd := exec.CommandContext(t.Context(), program, "-test.run=^$")
		cmd.Env = append(os.Environ(), env...)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			var id string
			var at int64
			if _, err := fmt.Sscan(lines.Text(), &id, &at); err != nil {
				t.Fatalf("child says %q: %v", lines.Text(), err)
			}
			acked[id] = at
			if n == 20+7*kill { // what it printed before it died is read on
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() > 0 {
			t.Fatalf("child ended by itself: %v", err)
		}
	}
	if len(acked) < 2*kills {
		t.Fatalf("acknowledged deployments: got %d of %d children", len(acked), kills)
	}
	s := open()
	for id, n := range acked {
		d, err := s.Deployment(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		entries, err := s.Entries(t.Context(), id, 0)
		if err != nil || d.N < n || int64(len(entries)) != d.N {
			t.Errorf("%s: %d entries were acknowledged, the row has %d, the log %d: %v", id, n, d.N, len(entries), err)
		}
	}
	if _, err := CheckTree(t.Context(), s); err != nil {
		t.Errorf("tree after kills: %v", err)
	}
}

// Disturb writes to several deployments while trouble happens, and checks that
// every write succeeded and is there once. trouble returns when it is over.
func Disturb(t *testing.T, s *ledger.Store, trouble func()) {
	t.Helper()
	SavePlan(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	const writers = 4
	leases := make([]ledger.Lease, writers)
	var wg sync.WaitGroup
	for i := range leases {
		leases[i] = Create(t, s, New(t, "shop"))
		wg.Go(func() {
			for ctx.Err() == nil {
				if _, err := s.Append(t.Context(), &leases[i], ledger.Update{Entries: []backstay.Entry{Outcome("a"), Intent("b")}}); err != nil {
					t.Errorf("append during trouble: %v", err)
					return
				}
			}
		})
	}
	before := await(t, s, 20)
	trouble()
	await(t, s, before+40) // it goes on
	cancel()
	wg.Wait()
	var want int64
	for _, l := range leases {
		want += l.N
	}
	checkTree(t, s, want)
}

// await waits until the ledger has this many entries.
func await(t testing.TB, s *ledger.Store, size int64) int64 {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(30 * time.Second)
	for {
		head, err := s.Head(t.Context())
		if err == nil && head.Size >= size {
			return head.Size
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("the ledger has %d entries, not %d: %v", head.Size, size, err)
		}
	}
}
