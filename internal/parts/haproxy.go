package parts

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Daemon is a running server of a test, in a directory of its own. Methods are
// for one goroutine at a time.
type Daemon struct {
	Dir string // its directory; the account it runs as can write there

	as   *account
	path string
	args []string
	cmd  *exec.Cmd
	done chan struct{}
}

// startDaemon starts a program in a directory and waits until ready has no error.
// Both end with the test.
func startDaemon(t testing.TB, d *Daemon, ready func(context.Context) error) {
	t.Helper()
	t.Cleanup(func() { d.Kill(t) })
	d.run(t, ready)
}

func (d *Daemon) run(t testing.TB, ready func(context.Context) error) {
	t.Helper()
	log, err := os.OpenFile(filepath.Join(d.Dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatalf("start %s: %v", d.path, err)
	}
	defer log.Close()
	cmd := d.as.command(context.WithoutCancel(t.Context()), d.Dir, d.path, d.args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", d.path, err)
	}
	done := make(chan struct{})
	d.cmd, d.done = cmd, done
	go func() {
		_ = cmd.Wait() // its end is the news; the log says why
		close(done)
	}()
	err = until(t.Context(), 20*time.Second, func(ctx context.Context) error {
		select {
		case <-done:
			return errors.New("it ended")
		default:
			return ready(ctx)
		}
	})
	if err != nil {
		text, _ := os.ReadFile(filepath.Join(d.Dir, "log"))
		t.Fatalf("start %s: %v\n%s", d.path, err, text)
	}
}

// Signal sends it a signal.
func (d *Daemon) Signal(t testing.TB, sig syscall.Signal) {
	t.Helper()
	if err := d.cmd.Process.Signal(sig); err != nil {
		t.Fatalf("send %v to %s: %v", sig, d.path, err)
	}
}

// Kill ends it, and whatever it started, with SIGKILL.
func (d *Daemon) Kill(t testing.TB) {
	t.Helper()
	if d.cmd == nil {
		return
	}
	_ = syscall.Kill(-d.cmd.Process.Pid, syscall.SIGKILL)
	<-d.done
	d.cmd = nil
}

// HAProxy is a running HAProxy with a backend "shop": one server for blue (b1)
// and one for green (g1), and a spare slot for each (b2, g2). B1 has the weight 1
// and g1 none, as a person configures them.
type HAProxy struct {
	Daemon
	Socket string // of its runtime API
	Front  string // http://host:port
}

// StartHAProxy starts one in front of two addresses (host:port), of which
// /healthz is checked every 100 ms. It skips the test unless BACKSTAY_REAL=1.
// KeepState makes it load its servers' state from the file "state" in its
// directory at its start and at a reload.
func StartHAProxy(t testing.TB, blue, green string, keepState bool) *HAProxy {
	t.Helper()
	Real(t)
	path, err := exec.LookPath("/usr/sbin/haproxy")
	if err != nil {
		t.Fatalf("find HAProxy (apt install haproxy): %v", err)
	}
	h := &HAProxy{}
	h.path = path
	h.Dir = h.as.directory(t, "haproxy")
	h.Socket = filepath.Join(h.Dir, "admin.sock")
	port, err := freePort()
	if err != nil {
		t.Fatalf("start HAProxy: %v", err)
	}
	h.Front = fmt.Sprintf("http://127.0.0.1:%d", port)
	load := ""
	if keepState {
		load = "load-server-state-from-file global"
	}
	config := fmt.Sprintf(`global
    stats socket %s mode 600 level admin expose-fd listeners
    stats timeout 30s
    nbthread 2
    maxconn 2000
    server-state-file %s/state
defaults
    mode http
    timeout connect 2s
    timeout client 30s
    timeout server 30s
    option redispatch
    retries 3
    %s
frontend front
    bind 127.0.0.1:%d
    default_backend shop
backend shop
    balance roundrobin
    option httpchk GET /healthz
    timeout check 2s
    default-server check inter 100ms fall 2 rise 1
    server b1 %s weight 1
    server b2 127.0.0.1:1 weight 1 disabled
    server g1 %s weight 0
    server g2 127.0.0.1:1 weight 0 disabled
`, h.Socket, h.Dir, load, port, blue, green)
	file := filepath.Join(h.Dir, "haproxy.cfg")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatalf("start HAProxy: %v", err)
	}
	h.args = []string{"-W", "-f", file}
	startDaemon(t, &h.Daemon, h.answers)
	return h
}

func (h *HAProxy) answers(ctx context.Context) error {
	text, err := h.ask(ctx, "show servers state shop")
	if err == nil && !strings.Contains(text, "g1") {
		err = fmt.Errorf("it answers %q", text)
	}
	return err
}

// Ask sends a command to the runtime API, as socat would.
func (h *HAProxy) Ask(t testing.TB, command string) string {
	t.Helper()
	text, err := h.ask(context.WithoutCancel(t.Context()), command)
	if err != nil {
		t.Fatalf("ask HAProxy %q: %v", command, err)
	}
	return text
}

func (h *HAProxy) ask(ctx context.Context, command string) (string, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", h.Socket)
	if err != nil {
		return "", fmt.Errorf("connect: %w", err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, command+"\n"); err != nil {
		return "", fmt.Errorf("ask: %w", err)
	}
	text, err := io.ReadAll(conn)
	if err != nil {
		return "", fmt.Errorf("read answer: %w", err)
	}
	return string(text), nil
}

// Restart ends it as a crash does and starts it again.
func (h *HAProxy) Restart(t testing.TB) {
	t.Helper()
	h.Kill(t)
	h.run(t, h.answers)
}
