package release_test

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/backstay-dev/backstay/internal/parts"
	"github.com/backstay-dev/backstay/internal/proxy/wire"
)

// plane is a router with the route of the shop.
type plane struct {
	url    string                          // where users come
	route  string                          // the entry of routes, as YAML
	weighs func(*testing.T) map[string]int // the router's own account of the weights
}

// freeAddress is one that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// onProxy is backstay proxy. It is started by shop.proxy.
func onProxy(t *testing.T, dir string) plane {
	t.Helper()
	address := freeAddress(t)
	config := `backstay_proxy: v1
listen: [{address: "` + address + `"}]
routes:
  - name: shop
    settings: {health: {path: /healthz, interval: 50ms}, affinity: {}, settle: 1s}
    sides: [{name: blue, weight: 0}, {name: green, weight: 100}]
`
	if err := os.WriteFile(filepath.Join(dir, proxyFile), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return plane{
		url: "http://" + address, route: "{proxy: {socket: proxy/admin.sock}}",
		weighs: func(t *testing.T) map[string]int {
			t.Helper()
			client := wire.NewClient(filepath.Join(dir, "proxy", "admin.sock"))
			defer client.Close()
			status, err := client.Route(t.Context(), "shop")
			if err != nil {
				t.Fatal(err)
			}
			out := map[string]int{}
			for _, side := range status.Sides {
				out[side.Name] = side.Weight
			}
			return out
		},
	}
}

// onHAProxy starts Debian's HAProxy, all of whose servers are disabled.
func onHAProxy(t *testing.T) plane {
	t.Helper()
	parts.Real(t)
	dir, err := os.MkdirTemp("", "haproxy") //nolint:usetesting // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	address, socket, file := freeAddress(t), filepath.Join(dir, "admin.sock"), filepath.Join(dir, "haproxy.cfg")
	config := fmt.Sprintf(`global
    stats socket %s mode 600 level admin
    maxconn 2000
defaults
    mode http
    timeout connect 2s
    timeout client 30s
    timeout server 30s
    option redispatch
    retries 3
frontend users
    bind %s
    default_backend shop
backend shop
    option httpchk GET /healthz
    timeout check 2s
    default-server check inter 100ms fall 3 rise 1
    server b1 127.0.0.1:1 weight 0 disabled
    server b2 127.0.0.1:1 weight 0 disabled
    server g1 127.0.0.1:1 weight 0 disabled
    server g2 127.0.0.1:1 weight 0 disabled
`, socket, address)
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "/usr/sbin/haproxy", "-db", "-f", file)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatalf("start HAProxy: %v", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) { //nolint:forbidigo // until it listens
		if _, err := askHAProxy(socket); err == nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("HAProxy does not answer: %v", err)
		}
	}
	return plane{
		url:   "http://" + address,
		route: fmt.Sprintf("{haproxy: {socket: %q, sides: {blue: [b1, b2], green: [g1, g2]}, health: /healthz}}", socket),
		weighs: func(t *testing.T) map[string]int {
			t.Helper()
			weights, err := askHAProxy(socket)
			if err != nil {
				t.Fatal(err)
			}
			return weights
		},
	}
}

// askHAProxy reads the shares of the sides from the table of servers: what is in
// maintenance has none.
func askHAProxy(socket string) (map[string]int, error) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "show servers state shop\n"); err != nil {
		return nil, err
	}
	text, err := io.ReadAll(conn)
	if err != nil {
		return nil, err
	}
	sums, total := map[string]int{}, 0
	for _, row := range strings.Split(strings.TrimSpace(string(text)), "\n")[2:] {
		f := strings.Fields(row)
		if len(f) < 9 {
			return nil, fmt.Errorf("it answers %q", text)
		}
		weight, err := strconv.Atoi(f[7]) // srv_uweight
		if err != nil {
			return nil, err
		}
		if f[6] == "0" || f[6] == "4" { // srv_admin_state: ready, or was disabled by the configuration only
			sums[map[byte]string{'b': "blue", 'g': "green"}[f[3][0]]] += weight
			total += weight
		}
	}
	out := map[string]int{"blue": 0, "green": 0}
	for side, sum := range sums {
		out[side] = sum * 100 / max(total, 1)
	}
	return out, nil
}

// onNginx starts Debian's nginx, with an upstream whose idle side is blue.
func onNginx(t *testing.T) plane {
	t.Helper()
	n := parts.StartNginx(t, "127.0.0.1:1", "127.0.0.1:1")
	text, err := os.ReadFile(n.File)
	if err != nil {
		t.Fatal(err)
	}
	swapped := strings.NewReplacer("# side blue", "# side green", "# side green", "# side blue").Replace(string(text))
	if err := os.WriteFile(n.File, []byte(swapped), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), n.Reload[0], n.Reload[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("reload nginx: %v, %s", err, out)
	}
	words := func(list []string) string { return `["` + strings.Join(list, `", "`) + `"]` }
	return plane{
		url:   n.Front,
		route: fmt.Sprintf("{nginx: {file: %q, status: %q, test: %s, reload: %s, health: /healthz}}", n.File, n.Status, words(n.Test), words(n.Reload)),
		weighs: func(t *testing.T) map[string]int {
			t.Helper()
			text, err := os.ReadFile(n.File)
			if err != nil {
				t.Fatal(err)
			}
			return sharesInNginx(t, string(text))
		},
	}
}

// sharesInNginx reads the shares of the sides from nginx's file.
func sharesInNginx(t *testing.T, text string) map[string]int {
	t.Helper()
	sums, total := map[string]int{}, 0
	for line := range strings.Lines(text) {
		line, side, ok := strings.Cut(strings.TrimSpace(line), "# side ")
		if !ok || strings.Contains(line, " down") {
			continue
		}
		weight := 1
		if _, after, ok := strings.Cut(line, "weight="); ok {
			digits, _, _ := strings.Cut(strings.ReplaceAll(after, ";", " "), " ")
			var err error
			if weight, err = strconv.Atoi(digits); err != nil {
				t.Fatal(err)
			}
		}
		sums[side] += weight
		total += weight
	}
	out := map[string]int{"blue": 0, "green": 0}
	for side, sum := range sums {
		out[side] = sum * 100 / max(total, 1)
	}
	return out
}
