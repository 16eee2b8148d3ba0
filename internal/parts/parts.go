package parts

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// Real skips the test unless real servers are asked for.
func Real(t testing.TB) {
	t.Helper()
	if os.Getenv("BACKSTAY_REAL") != "1" {
		t.Skip("needs a real server: set BACKSTAY_REAL=1 to start one")
	}
}

// freePort is a loopback port that nobody listens on, below those that the system
// gives to connections: a load test makes thousands of these. Another process can
// take it before it is used: callers try again with the next.
func freePort() (int, error) {
	const lowest, highest, tries = 12000, 20000, 200
	var last error
	for range tries {
		port := lowest + rand.IntN(highest-lowest) //nolint:gosec // any will do
		l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port))
		if err == nil {
			return port, l.Close()
		}
		last = err
	}
	return 0, fmt.Errorf("find a free port: %w", last)
}

// account is a user that a server runs as; nil is the test's own. Servers
// that refuse root run as theirs.
type account struct{ uid, gid uint32 }

// accountFor is the named user where the tests run as root.
func accountFor(name string) (*account, error) {
	if os.Geteuid() != 0 {
		return nil, nil //nolint:nilnil // no other account is needed
	}
	u, err := user.Lookup(name)
	if err != nil {
		return nil, fmt.Errorf("look up user %s: %w", name, err)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("read uid of %s: %w", name, err)
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("read gid of %s: %w", name, err)
	}
	return &account{uid: uint32(uid), gid: uint32(gid)}, nil
}

// command makes a command that runs as the account in a process group of its
// own and dies with the test process.
func (a *account) command(ctx context.Context, dir, path string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8", "HOME=" + dir, "TZ=UTC"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if a != nil {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: a.uid, Gid: a.gid}
	}
	return cmd
}

// directory makes a directory that the account owns. It is not t.TempDir,
// whose parents only the test's own user may enter.
func (a *account) directory(t testing.TB, name string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "backstay-"+name+"-") //nolint:usetesting // see above
	if err != nil {
		t.Fatalf("make directory: %v", err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove %s: %v", dir, err)
		}
	})
	if a != nil {
		if err := os.Chown(dir, int(a.uid), int(a.gid)); err != nil {
			t.Fatalf("make directory: %v", err)
		}
	}
	return dir
}

// newest finds a program by glob patterns, the highest version of the first
// pattern that has one.
func newest(patterns ...string) (string, error) {
	for _, p := range patterns {
		found, err := filepath.Glob(p)
		if err != nil {
			return "", err
		}
		best, bestVersion := "", -1
		for _, f := range found {
			version, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(f))))
			if version > bestVersion {
				best, bestVersion = f, version
			}
		}
		if best != "" {
			return best, nil
		}
	}
	return "", fmt.Errorf("nothing at %v", patterns)
}

// until asks again every few milliseconds until ask has no error, and returns
// the last one when it takes too long.
func until(ctx context.Context, limit time.Duration, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("after %v: %w", limit, err)
		}
	}
}

// run runs a command to its end and puts its output into the error.
func run(cmd *exec.Cmd) error {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("run %s: %w\n%s", filepath.Base(cmd.Path), err, out.Bytes())
	}
	return nil
}
