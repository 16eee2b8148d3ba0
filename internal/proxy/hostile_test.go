package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/backstay-dev/backstay/internal/proxy/wire"
)

// running is a whole proxy, as Run serves it, on a free port.
func running(t *testing.T, c Config, o RunOptions) (address string) {
	t.Helper()
	if len(c.Listen) == 0 {
		c.Listen = []Listen{{Address: "127.0.0.1:0"}}
	}
	if o.State == "" {
		o.State = filepath.Join(t.TempDir(), "s")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	up := make(chan []string, 1)
	o.Serving = func(a []string) { up <- a }
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, c.withDefaults(), o) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("the proxy ended with %v", err)
		}
	})
	select {
	case a := <-up:
		return a[0]
	case err := <-done:
		done <- nil
		t.Fatalf("start: %v", err)
		return ""
	}
}

// raw sends bytes as they are and returns the statuses of the answers until
// the connection ends or want of them came.
func raw(t *testing.T, address, bytes string, want int) (statuses []int, closed bool) {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, bytes) // an early refusal may close it
	r := bufio.NewReader(conn)
	for len(statuses) < want {
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			return statuses, true
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		statuses = append(statuses, resp.StatusCode)
	}
	return statuses, false
}

// What a front and a side could read differently is refused, or reaches the
// side in one unambiguous form: no request is smuggled past the routes.
func TestSmuggling(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	got := map[string][]string{} // by case: a cut request may arrive after its answer
	side := backend(t, "ok", func(_ http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/healthz" {
			return false
		}
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		at := r.Header.Get("X-Case")
		got[at] = append(got[at], fmt.Sprintf("%s %s te=%v cl=%d body=%q", r.Method, r.URL.Path, r.TransferEncoding, r.ContentLength, body))
		return false
	})
	r := twoSides(side.URL, side.URL, 100)
	r.Match.Path = "/open" // the side has more than this, and it must stay out of reach
	address := running(t, Config{Routes: []wire.Route{r}}, RunOptions{})
	head := "POST /open HTTP/1.1\r\nHost: shop.test\r\n"
	hidden := "GET /admin HTTP/1.1\r\nHost: shop.test\r\n\r\n"
	for _, tt := range []struct { //nolint:paralleltest // they share what the side saw
		name, bytes string
		want        []int
		reached     string // what the side saw, at most
	}{
		{"length and chunks", head + "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden, []int{200, 404}, `POST /open te=[chunked] cl=-1 body=""`},
		{"chunks with a body and length", head + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n" + hidden, []int{200, 404}, `POST /open te=[chunked] cl=-1 body="hi"`},
		{"two lengths", head + "Content-Length: 0\r\nContent-Length: 40\r\n\r\n" + hidden, []int{400}, ""},
		{"length with a sign", head + "Content-Length: +0\r\n\r\n" + hidden, []int{400}, ""},
		{"length as a list", head + "Content-Length: 0, 40\r\n\r\n" + hidden, []int{400}, ""},
		{"unknown coding", head + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", []int{501}, ""},
		{"coding twice", head + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", []int{501}, ""},
		{"blank before the colon", head + "Transfer-Encoding : chunked\r\nContent-Length: 0\r\n\r\n", []int{400}, ""},
		{"folded line", head + "X-A: b\r\n c: d\r\nContent-Length: 0\r\n\r\n", []int{200}, `POST /open te=[] cl=0 body=""`},
		{"two hosts", "GET /open HTTP/1.1\r\nHost: shop.test\r\nHost: other.test\r\n\r\n", []int{400}, ""},
		{"no host", "GET /open HTTP/1.1\r\n\r\n", []int{400}, ""},
		{"NUL in a header", head + "X-A: a\x00b\r\nContent-Length: 0\r\n\r\n", []int{400}, ""},
		{"bad chunk size", head + "Transfer-Encoding: chunked\r\n\r\n0x2\r\nhi\r\n0\r\n\r\n" + hidden, []int{502, 400}, ""},
		{"absolute form wins over Host", "GET http://other.test/open HTTP/1.1\r\nHost: shop.test\r\n\r\n", []int{421}, ""},
		{"a tunnel", "CONNECT shop.test:80 HTTP/1.1\r\nHost: shop.test\r\n\r\n", []int{405}, ""},
		{"dots", "GET /open/../admin HTTP/1.1\r\nHost: shop.test\r\n\r\n", []int{404}, ""},
		{"dots in code", "GET /open/%2e%2e/admin HTTP/1.1\r\nHost: shop.test\r\n\r\n", []int{404}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tagged := strings.ReplaceAll(tt.bytes, "Host: shop.test\r\n", "Host: shop.test\r\nX-Case: "+tt.name+"\r\n")
			statuses, _ := raw(t, address, tagged, len(tt.want))
			allowed := fmt.Sprint(statuses) == fmt.Sprint(tt.want) || tt.name == "bad chunk size" && len(statuses) > 0 && statuses[0] >= 400
			if !allowed {
				t.Errorf("answered %v, want %v", statuses, tt.want)
			}
			mu.Lock()
			defer mu.Unlock()
			for _, g := range got[tt.name] {
				if tt.name != "bad chunk size" && g != tt.reached || strings.Contains(g, "/admin") {
					t.Errorf("the side saw %s, want %s", g, tt.reached)
				}
			}
		})
	}
}

// Hop-by-hop headers and those that Connection names do not pass.
func TestHopByHop(t *testing.T) {
	t.Parallel()
	side := backend(t, "", func(w http.ResponseWriter, r *http.Request) bool {
		_, _ = fmt.Fprint(w, r.Header["X-Secret-Hop"], r.Header["Proxy-Authorization"], r.Header["Te"], r.Header["X-Kept"])
		return true
	})
	_, front := newProxy(t, Options{Routes: []wire.Route{one(side.URL)}})
	req := request(t, front, "shop.test", "/")
	req.Header = http.Header{"Connection": {"X-Secret-Hop"}, "X-Secret-Hop": {"1"}, "Proxy-Authorization": {"x"}, "Te": {"gzip"}, "X-Kept": {"1"}}
	if _, body, _ := get(t, client(t), req); body != "[] [] [] [1]" {
		t.Errorf("the side saw %s", body)
	}
}

func TestHeaderBomb(t *testing.T) {
	t.Parallel()
	side := backend(t, "ok")
	address := running(t, Config{Routes: []wire.Route{one(side.URL)}, Limits: Limits{HeaderBytes: 8 << 10}}, RunOptions{})
	for name, bomb := range map[string]string{
		"one huge header": "X-A: " + strings.Repeat("a", 64<<10) + "\r\n",
		"many headers":    strings.Repeat("X-A: b\r\n", 10_000),
		"huge path":       "",
	} {
		path := "/"
		if bomb == "" {
			path += strings.Repeat("a", 64<<10)
		}
		statuses, _ := raw(t, address, "GET "+path+" HTTP/1.1\r\nHost: shop.test\r\n"+bomb+"\r\n", 1)
		if len(statuses) == 1 && statuses[0] != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("%s: answered %v, want 431 or a closed connection", name, statuses)
		}
	}
	if statuses, _ := raw(t, address, "GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n", 1); fmt.Sprint(statuses) != "[200]" {
		t.Errorf("after the bombs: %v", statuses)
	}
}

// Half a header and then silence: the connection ends, others are served.
func TestSlowloris(t *testing.T) {
	t.Parallel()
	side := backend(t, "ok")
	address := running(t, Config{Routes: []wire.Route{one(side.URL)}, Limits: Limits{HeaderWait: 200 * ms}}, RunOptions{})
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			if statuses, closed := raw(t, address, "GET / HTTP/1.1\r\nHost: shop.test\r\nX-", 2); !closed || len(statuses) > 1 {
				t.Errorf("answered %v, closed: %v; want it closed", statuses, closed)
			}
		})
	}
	if statuses, _ := raw(t, address, "GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n", 1); fmt.Sprint(statuses) != "[200]" {
		t.Errorf("another client meanwhile: %v", statuses)
	}
	all.Wait()
}

func TestOversizedBody(t *testing.T) {
	t.Parallel()
	side := backend(t, "ok")
	r := one(side.URL)
	r.Settings.MaxBody = 1000
	_, front := newProxy(t, Options{Routes: []wire.Route{r}})
	for name, tt := range map[string]struct {
		size   int
		length int64
		want   int
	}{
		"at the limit": {1000, 1000, 200}, "announced": {1001, 1001, 413}, "in chunks": {100_000, -1, 413},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, front.URL+"/", io.MultiReader(strings.NewReader(strings.Repeat("x", tt.size))))
		if err != nil {
			t.Fatal(err)
		}
		req.Host, req.ContentLength = "shop.test", tt.length
		if status, body, _ := get(t, client(t), req); status != tt.want {
			t.Errorf("%s: %d %q, want %d", name, status, body, tt.want)
		}
	}
}

// A name that resolves to a forbidden address is refused before a connection
// is opened: the dialer asks refuseForbidden for each resolved address.
func TestForbiddenAddress(t *testing.T) {
	t.Parallel()
	for _, a := range []string{"169.254.169.254", "::ffff:169.254.169.254", "fe80::1", "fe80::1%lo", "0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255"} {
		addr := netip.MustParseAddr(a)
		if !wire.Forbidden(addr) {
			t.Errorf("%s is allowed", a)
		}
		if err := refuseForbidden("tcp", netip.AddrPortFrom(addr, 80).String(), nil); err == nil {
			t.Errorf("a connection to %s is not refused", a)
		}
	}
	for _, a := range []string{"127.0.0.1", "::1", "10.0.0.1", "192.0.2.1", "2001:db8::1"} {
		if wire.Forbidden(netip.MustParseAddr(a)) {
			t.Errorf("%s is refused", a)
		}
	}
}

func TestForwarded(t *testing.T) {
	t.Parallel()
	side := backend(t, "", func(w http.ResponseWriter, r *http.Request) bool {
		h := r.Header
		_, _ = fmt.Fprintf(w, "%s|%s|%s|%s|%s|%s", h.Get("X-Forwarded-For"), h.Get("X-Forwarded-Proto"), h.Get("X-Forwarded-Host"), h.Get("Forwarded"), h.Get("X-Real-Ip"), r.Host)
		return true
	})
	given := http.Header{
		"X-Forwarded-For": {"192.0.2.1, 10.1.1.1"}, "X-Forwarded-Proto": {"https"}, "X-Forwarded-Host": {"outer.test"},
		"Forwarded": {"for=192.0.2.1"}, "X-Real-Ip": {"6.6.6.6"},
	}
	for _, tt := range []struct {
		name    string
		trusted []netip.Prefix
		want    string
	}{
		{"from anybody", nil, "127.0.0.1|http|shop.test|||shop.test"},
		{"from a trusted proxy", []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, "192.0.2.1, 10.1.1.1, 127.0.0.1|https|outer.test|for=192.0.2.1, for=127.0.0.1;proto=http||shop.test"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, front := newProxy(t, Options{Routes: []wire.Route{one(side.URL)}, Trusted: tt.trusted})
			req := request(t, front, "shop.test", "/")
			req.Header = given.Clone()
			if _, body, _ := get(t, client(t), req); body != tt.want {
				t.Errorf("the side saw %s\nwant         %s", body, tt.want)
			}
		})
	}
}

func TestClientOf(t *testing.T) {
	t.Parallel()
	p := &Proxy{opts: Options{Trusted: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}}
	peer := netip.MustParseAddr("10.0.0.1")
	for chain, want := range map[string]string{
		"":                           "10.0.0.1",
		"192.0.2.1":                  "192.0.2.1",
		"6.6.6.6, 192.0.2.1":         "192.0.2.1", // the first is what the client made up
		"192.0.2.1, 10.0.0.9":        "192.0.2.1",
		"192.0.2.1, junk, 10.0.0.9":  "10.0.0.9",
		"[2001:db8::1]":              "2001:db8::1",
		"::ffff:192.0.2.1, 10.0.0.2": "192.0.2.1",
	} {
		req := &http.Request{Header: http.Header{"X-Forwarded-For": {chain}}}
		if got := p.clientOf(req, peer); got.String() != want {
			t.Errorf("%q: client %s, want %s", chain, got, want)
		}
	}
}

// The PROXY header names the client; a connection without one, or from a peer
// that is not trusted, ends.
func TestProxyProtocolListener(t *testing.T) {
	t.Parallel()
	side := backend(t, "", func(w http.ResponseWriter, r *http.Request) bool {
		_, _ = io.WriteString(w, r.Header.Get("X-Forwarded-For"))
		return true
	})
	routes := []wire.Route{one(side.URL)}
	ask := func(address, before string) string {
		conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, before+"GET / HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			return "closed"
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		return string(body)
	}
	listen := []Listen{{Address: "127.0.0.1:0", ProxyProtocol: true}}
	trusting := running(t, Config{Listen: listen, Trusted: []string{"127.0.0.1/32"}, Routes: routes}, RunOptions{})
	for before, want := range map[string]string{
		"PROXY TCP4 192.0.2.7 127.0.0.1 8080 80\r\n":                       "192.0.2.7",
		v2(1, 0x11, []byte{192, 0, 2, 8, 127, 0, 0, 1, 0x1F, 0x90, 0, 80}): "192.0.2.8",
		v2(0, 0, nil): "127.0.0.1",
	} {
		if got := ask(trusting, before); got != want {
			t.Errorf("%q: client %q, want %q", before, got, want)
		}
	}
	if got := ask(trusting, ""); got != "closed" && !strings.HasPrefix(got, "400") {
		t.Errorf("without a header: %q", got)
	}
	doubting := running(t, Config{Listen: listen, Trusted: []string{"10.0.0.0/8"}, Routes: routes}, RunOptions{})
	if got := ask(doubting, "PROXY TCP4 192.0.2.7 127.0.0.1 8080 80\r\n"); got == "192.0.2.7" {
		t.Errorf("from a peer that is not trusted: %q", got)
	}
}

// Neither logs nor metrics show queries, cookies or headers.
func TestNoSecretsInLogs(t *testing.T) {
	t.Parallel()
	side := backend(t, "ok")
	var out strings.Builder
	var mu sync.Mutex
	w := writerFunc(func(b []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return out.Write(b)
	})
	r := one(side.URL)
	r.Settings.Affinity = &wire.Affinity{}
	p, front := newProxy(t, Options{Routes: []wire.Route{r}, Access: slog.New(slog.NewJSONHandler(w, nil)), Log: slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	req := request(t, front, "shop.test", "/a%0Ab?token=hunter2")
	req.Header.Set("Authorization", "Bearer hunter2")
	req.Header.Set("Cookie", "session=hunter2")
	get(t, client(t), req)
	front.Close() // the line is written when the request is done
	mu.Lock()
	defer mu.Unlock()
	text := out.String()
	if !strings.Contains(text, `"path":"/a\nb"`) || !strings.Contains(text, `"outcome":"ok"`) {
		t.Errorf("no line of the request: %s", text)
	}
	if strings.Contains(text+p.metrics(), "hunter2") {
		t.Errorf("a secret is in: %s", text)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }
