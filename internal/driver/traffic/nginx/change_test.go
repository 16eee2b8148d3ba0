package nginx

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/backstay-dev/backstay"
)

// What nginx refuses is put back, but not by a process that has no lease any more:
// what is written by then may be another's.
func TestInstallPutsBackUnderItsLease(t *testing.T) {
	t.Parallel()
	lapsed := errors.New("lapsed")
	for want, left := range map[string]error{"old": nil, "new": lapsed} {
		path := filepath.Join(t.TempDir(), "shop.conf")
		if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		r := &Router{c: Config{File: path, Upstream: "shop", Call: time.Second, Test: []string{"/bin/sh", "-c", "exit 1"}, Reload: []string{"/bin/true"}}}
		ctx, cancel := context.WithCancel(backstay.WithLease(t.Context(), func() (time.Duration, error) { return time.Second, left }))
		defer cancel()
		if err := r.install(ctx, &detail{text: "old", info: info}, "new"); err == nil || left != nil && !errors.Is(err, left) {
			t.Errorf("with the lease %v: got %v", left, err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("with the lease %v the file holds %q (%v), want %q", left, got, err, want)
		}
	}
}
