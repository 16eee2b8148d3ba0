package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/backstay-dev/backstay/internal/proxy/wire"
)

// process is a proxy in a process of its own.
type process struct {
	cmd     *exec.Cmd
	address string
	client  *wire.Client
}

// startProcess starts the test binary as a proxy and waits until it serves.
func startProcess(t *testing.T, role, config, state string) *process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), self, config, state)
	cmd.Env = append(os.Environ(), "BACKSTAY_PROXY_HELPER="+role)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: cmd, client: wire.NewClient(filepath.Join(state, "admin.sock"))}
	t.Cleanup(func() {
		p.client.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the proxy did not serve: %v", err)
	}
	p.address = strings.TrimSpace(line)
	return p
}

func (p *process) get(t *testing.T, host string) (string, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+p.address+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = host
	status, body, _ := get(t, client(t), req)
	if status != http.StatusOK {
		return body, fmt.Errorf("status %d", status)
	}
	return body, nil
}

// configFile writes a configuration with one route and no fixed port.
func configFile(t *testing.T, blue, green string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "proxy.yaml")
	text := fmt.Sprintf(`backstay_proxy: v1
listen: [{address: "127.0.0.1:0"}]
drain: 5s
routes:
  - name: shop
    match: {hosts: [shop.test]}
    settings: {health: {path: /healthz}}
    sides:
      - {name: green, weight: 0, instances: [{url: %q}]}
      - {name: blue, weight: 100, instances: [{url: %q}]}
`, green, blue)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// kill -9 and start again: routes, weights and writers are as they were told.
func TestKilledAndStartedAgain(t *testing.T) {
	t.Parallel()
	blue, green := backend(t, "blue"), backend(t, "green")
	config, state := configFile(t, blue.URL, green.URL), filepath.Join(t.TempDir(), "state")
	for i := range int64(3) {
		p := startProcess(t, "proxy", config, state)
		s, err := p.client.Route(t.Context(), "shop")
		if err != nil {
			t.Fatal(err)
		}
		if i > 0 && (s.Writer != writer("a", 1, i) || s.Sides[0].Weight != 100*int(i%2)) {
			t.Fatalf("start %d: writer %+v, weight %d", i, s.Writer, s.Sides[0].Weight)
		}
		next := 100 * int((i+1)%2)
		_, err = p.client.Change(t.Context(), "shop", wire.Change{
			Writer: writer("a", 1, i+1), Expect: s.Digest, Weights: map[string]int{"green": next, "blue": 100 - next},
		})
		if err != nil {
			t.Fatal(err)
		}
		want := map[int]string{0: "blue", 100: "green"}[next]
		if body, err := p.get(t, "shop.test"); err != nil || body != want {
			t.Fatalf("start %d: served by %q, %v; want %s", i, body, err, want)
		}
		if st, err := os.Stat(filepath.Join(state, "admin.sock")); err != nil || st.Mode().Perm() != 0o600 {
			t.Fatalf("admin socket: %v, %v; want mode 0600", st, err)
		}
		if err := p.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = p.cmd.Wait()
	}
}

// Killed between durable and served: nobody was told, the restart serves the
// new state, and the writer's repeat succeeds.
func TestKilledBeforeSwap(t *testing.T) {
	t.Parallel()
	blue, green := backend(t, "blue"), backend(t, "green")
	config, state := configFile(t, blue.URL, green.URL), filepath.Join(t.TempDir(), "state")
	p := startProcess(t, "proxy-dies", config, state)
	s, err := p.client.Route(t.Context(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	ch := wire.Change{Writer: writer("a", 1, 1), Expect: s.Digest, Weights: map[string]int{"green": 100, "blue": 0}}
	if _, err := p.client.Change(t.Context(), "shop", ch); err == nil {
		t.Fatal("a proxy that died told of a success")
	} else if refused := new(wire.Error); errors.As(err, &refused) {
		t.Fatalf("a proxy that died told of a refusal: %v", err)
	}
	_ = p.cmd.Wait()
	p = startProcess(t, "proxy", config, state)
	if body, err := p.get(t, "shop.test"); err != nil || body != "green" {
		t.Fatalf("after the restart served by %q, %v; want green", body, err)
	}
	again, err := p.client.Change(t.Context(), "shop", ch)
	if err != nil || again.Revision != s.Revision+1 {
		t.Fatalf("the repeat: %+v, %v", again, err)
	}
}

// SIGTERM lets what is in flight finish, and takes nothing new.
func TestTermDrains(t *testing.T) {
	t.Parallel()
	arrived, release := make(chan struct{}), make(chan struct{})
	hold := func(_ http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/" {
			close(arrived)
			<-release
		}
		return false
	}
	blue := backend(t, "blue", hold)
	state := filepath.Join(t.TempDir(), "state")
	p := startProcess(t, "proxy", configFile(t, blue.URL, blue.URL), state)
	got := make(chan string)
	go func() {
		body, err := p.get(t, "shop.test")
		got <- fmt.Sprint(body, err)
	}()
	<-arrived
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for { // until it drains
		s, err := p.client.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if s.Draining {
			break
		}
	}
	close(release)
	if body := <-got; body != "blue<nil>" {
		t.Errorf("the request in flight got %s", body)
	}
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("the proxy ended with %v, want 0", err)
	}
}

func TestConfigIsStrict(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ text, want string }{
		"unknown key":        {"backstay_proxy: v1\nlisten: []\nroutez: []\n", "routez"},
		"twice":              {"backstay_proxy: v1\nbackstay_proxy: v1\n", "already"},
		"no version":         {"listen: []\n", "version"},
		"weights":            {"backstay_proxy: v1\nroutes: [{name: a, sides: [{name: x, weight: 90}]}]\n", "sum to 90"},
		"duration":           {"backstay_proxy: v1\ndrain: 30\n", "duration"},
		"nobody is trusted":  {"backstay_proxy: v1\nlisten: [{address: ':1', proxy_protocol: true}]\n", "trusted"},
		"unknown nested key": {"backstay_proxy: v1\nroutes: [{name: a, settings: {helth: {}}, sides: [{name: x, weight: 100}]}]\n", "helth"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "proxy.yaml")
			if err := os.WriteFile(path, []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := ReadConfig(path)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want one about %q", err, tt.want)
			}
		})
	}
}

// kill -9 under load, while weights move: after the restart the route is as the
// last answered move left it (or the one that was not answered yet), its writer is
// known, and no request fails while the process lives.
func TestKilledUnderLoad(t *testing.T) {
	t.Parallel()
	blue, green := backend(t, "blue"), backend(t, "green")
	config, state := configFile(t, blue.URL, green.URL), filepath.Join(t.TempDir(), "state")
	want, seq := 0, int64(0) // of green; of the last answered move
	for round := range 5 {
		p := startProcess(t, "proxy", config, state)
		s, err := p.client.Route(t.Context(), "shop")
		if err != nil {
			t.Fatal(err)
		}
		if w := s.Sides[0].Weight; round > 0 && w != want && w != int(seq+1)*7%101 {
			t.Fatalf("round %d: green has %d %%; answered was %d %%, asked for %d %%", round, w, want, int(seq+1)*7%101)
		}
		if round > 0 && s.Writer.Token.Seq < seq {
			t.Fatalf("round %d: the last writer is %+v; move %d was answered", round, s.Writer, seq)
		}
		ctx, stop := context.WithCancel(t.Context())
		var clients sync.WaitGroup
		var served atomic.Int64
		for range 4 {
			c := client(t)
			clients.Go(func() {
				for ctx.Err() == nil {
					req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.address+"/", nil)
					if err != nil {
						t.Error(err)
						return
					}
					req.Host = "shop.test"
					resp, err := c.Do(req)
					if err == nil {
						_, err = io.Copy(io.Discard, resp.Body)
						_ = resp.Body.Close()
					}
					if ctx.Err() == nil && (err != nil || resp.StatusCode != http.StatusOK) {
						t.Errorf("round %d: a request failed: %v", round, err)
						return
					}
					served.Add(1)
				}
			})
		}
		for move := 0; move < 10 || served.Load() < 200; move++ {
			next := int(seq+1) * 7 % 101
			if s, err = p.client.Change(t.Context(), "shop", wire.Change{
				Writer: writer("a", 1, seq+1), Expect: s.Digest, Weights: map[string]int{"green": next, "blue": 100 - next},
			}); err != nil {
				t.Fatalf("round %d, move %d: %v", round, move, err)
			}
			want, seq = next, seq+1
		}
		// One more is asked for while it is killed: it may be answered or not.
		var last sync.WaitGroup
		last.Go(func() {
			next := int(seq+1) * 7 % 101
			if now, err := p.client.Route(t.Context(), "shop"); err == nil {
				if _, err := p.client.Change(t.Context(), "shop", wire.Change{
					Writer: writer("a", 1, seq+1), Expect: now.Digest, Weights: map[string]int{"green": next, "blue": 100 - next},
				}); err == nil {
					want, seq = next, seq+1
				}
			}
		})
		stop() // what is in flight now may be cut
		if err := p.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		last.Wait()
		clients.Wait()
		_ = p.cmd.Wait()
	}
}
