package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"
	"time"

	"github.com/backstay-dev/backstay/internal/proxy/wire"
)

// h2c is a client that speaks HTTP/2 without TLS only.
func h2c(t *testing.T) *http.Client {
	t.Helper()
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: p}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// one is a route with one side.
func one(url string) wire.Route {
	r := twoSides(url, url, 100)
	r.Sides = r.Sides[1:]
	r.Settings.Health.Path = ""
	return r
}

func overH2C(url string) string { return strings.Replace(url, "http://", "h2c://", 1) }

// A gRPC call: a bidirectional stream in HTTP/2 with trailers, both ways open
// at the same time.
func TestGRPCStream(t *testing.T) {
	t.Parallel()
	echo := backend(t, "", func(w http.ResponseWriter, r *http.Request) bool {
		if r.ProtoMajor != 2 || r.Header.Get("Te") != "trailers" {
			http.Error(w, "want HTTP/2 with te: trailers, got "+r.Proto, http.StatusBadRequest)
			return true
		}
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status")
		w.WriteHeader(http.StatusOK)
		out := http.NewResponseController(w)
		_ = out.Flush()
		for in := bufio.NewReader(r.Body); ; {
			line, err := in.ReadString('\n')
			if err != nil {
				break
			}
			_, _ = io.WriteString(w, "echo "+line)
			_ = out.Flush()
		}
		w.Header().Set("Grpc-Status", "0")
		w.Header().Set(http.TrailerPrefix+"Grpc-Message", "late")
		return true
	})
	_, front := newProxy(t, Options{Routes: []wire.Route{one(overH2C(echo.URL))}})
	in, send := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, front.URL+"/shop.Cart/Watch", in)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "shop.test"
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("Te", "trailers")
	resp, err := h2c(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.ProtoMajor != 2 {
		t.Fatalf("got %s over %s", resp.Status, resp.Proto)
	}
	lines := bufio.NewReader(resp.Body)
	for i := range 3 {
		if _, err := fmt.Fprintf(send, "%d\n", i); err != nil {
			t.Fatal(err)
		}
		if got, err := lines.ReadString('\n'); err != nil || got != fmt.Sprintf("echo %d\n", i) {
			t.Fatalf("message %d: %q, %v", i, got, err)
		}
	}
	_ = send.Close()
	if rest, err := io.ReadAll(lines); err != nil || len(rest) > 0 {
		t.Fatalf("at the end: %q, %v", rest, err)
	}
	if resp.Trailer.Get("Grpc-Status") != "0" || resp.Trailer.Get("Grpc-Message") != "late" {
		t.Errorf("trailers %v", resp.Trailer)
	}
}

// HTTP/1.1 outside and HTTP/2 inside, and the other way round.
func TestMixedProtocols(t *testing.T) {
	t.Parallel()
	say := backend(t, "", func(w http.ResponseWriter, r *http.Request) bool { _, _ = io.WriteString(w, r.Proto); return true })
	for _, tt := range []struct {
		name, side string
		client     func(*testing.T) *http.Client
		want       string
	}{
		{"1 to 2", overH2C(say.URL), func(t *testing.T) *http.Client { t.Helper(); return client(t) }, "HTTP/2.0"},
		{"2 to 1", say.URL, h2c, "HTTP/1.1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, front := newProxy(t, Options{Routes: []wire.Route{one(tt.side)}})
			if _, body, _ := get(t, tt.client(t), request(t, front, "shop.test", "/")); body != tt.want {
				t.Errorf("got %q, want %q", body, tt.want)
			}
		})
	}
}

// upgrader is a side that takes an upgrade and echoes.
func upgrader(tb testing.TB) *httptest.Server {
	tb.Helper()
	return backend(tb, "plain", func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Upgrade") != "websocket" {
			return false
		}
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return true
		}
		defer conn.Close()
		_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		_ = rw.Flush()
		_, _ = io.Copy(conn, rw)
		return true
	})
}

// dialUpgraded opens an upgraded connection through the front.
func dialUpgraded(ctx context.Context, address, host string) (net.Conn, *bufio.Reader, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, nil, err
	}
	if _, err := fmt.Fprintf(conn, "GET /ws HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", host); err != nil {
		return conn, nil, err
	}
	r := bufio.NewReader(conn)
	line, err := r.ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "HTTP/1.1 101 ") {
		return conn, nil, fmt.Errorf("got %q, %w", line, err)
	}
	_, err = textproto.NewReader(r).ReadMIMEHeader()
	return conn, r, err
}

func TestWebSocketOutlivesMove(t *testing.T) {
	t.Parallel()
	blue, green := upgrader(t), upgrader(t)
	p, front := newProxy(t, Options{Routes: []wire.Route{twoSides(blue.URL, green.URL, 100)}})
	conn, r, err := dialUpgraded(t.Context(), front.Listener.Addr().String(), "shop.test")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	talk := func(text string) {
		t.Helper()
		_, _ = io.WriteString(conn, text+"\n")
		if got, err := r.ReadString('\n'); err != nil || got != text+"\n" {
			t.Fatalf("sent %q, got %q, %v", text, got, err)
		}
	}
	talk("before")
	s, err := move(t, p, writer("a", 1, 1), 100)
	if err != nil {
		t.Fatal(err)
	}
	talk("after the move")
	r2 := s.Route
	r2.Sides = r2.Sides[:1] // blue goes
	s, err = p.Change(t.Context(), "shop", wire.Change{Writer: writer("a", 1, 2), Expect: s.Digest, Route: &r2})
	if err != nil {
		t.Fatal(err)
	}
	talk("after the side is gone")
	if len(s.Draining) != 1 || s.Draining[0].Side != "blue" || s.Draining[0].Active != 1 {
		t.Errorf("draining %+v, want one on blue", s.Draining)
	}
	if n, ok := p.activeOn("shop", "blue"); !ok || n != 1 {
		t.Errorf("active on blue: %d, %v; want 1", n, ok)
	}
}

func TestStreamsAsItComes(t *testing.T) {
	t.Parallel()
	next := make(chan string)
	events := backend(t, "", func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Content-Type", "text/event-stream")
		for text := range next {
			_, _ = io.WriteString(w, text)
			_ = http.NewResponseController(w).Flush()
		}
		return true
	})
	r := one(events.URL)
	_, front := newProxy(t, Options{Routes: []wire.Route{r}})
	done := make(chan struct{})
	defer func() { <-done }()
	defer close(next)
	go func() { defer close(done); next <- "data: 1\n\n" }()
	resp, err := client(t).Do(request(t, front, "shop.test", "/events"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewReader(resp.Body)
	for _, want := range []string{"data: 1\n", "\n"} {
		if got, err := lines.ReadString('\n'); err != nil || got != want {
			t.Fatalf("got %q, %v; want %q before the stream ends", got, err, want)
		}
	}
}

// A side that refuses an upload by its header never sees the body, and the
// client never sends it.
func TestContinue(t *testing.T) {
	t.Parallel()
	side := backend(t, "", func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/no" {
			w.Header().Set("Connection", "close")
			http.Error(w, "too much", http.StatusRequestEntityTooLarge)
			return true
		}
		body, _ := io.ReadAll(r.Body)
		_, _ = fmt.Fprintf(w, "%s %d", r.Header.Get("Expect"), len(body))
		return true
	})
	_, front := newProxy(t, Options{Routes: []wire.Route{one(side.URL)}})
	tr := &http.Transport{ExpectContinueTimeout: 5 * time.Second}
	defer tr.CloseIdleConnections()
	for path, want := range map[string]string{"/yes": "100-continue 5", "/no": "too much\n"} {
		asked, sent := false, &counting{Reader: strings.NewReader("hello")}
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got100Continue: func() { asked = true }})
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, front.URL+path, sent)
		if err != nil {
			t.Fatal(err)
		}
		req.Host, req.ContentLength = "shop.test", 5
		req.Header.Set("Expect", "100-continue")
		_, body, _ := get(t, &http.Client{Transport: tr}, req)
		if body != want || asked != (path == "/yes") || (sent.n > 0) != asked {
			t.Errorf("%s: body %q, asked to go on: %v, %d bytes sent; want %q", path, body, asked, sent.n, want)
		}
	}
}

type counting struct {
	io.Reader
	n int
}

func (c *counting) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += n
	return n, err
}
