package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/proxy/wire"
)

// backend is a side's server that says who it is.
func backend(tb testing.TB, who string, extra ...func(w http.ResponseWriter, r *http.Request) bool) *httptest.Server {
	tb.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, f := range extra {
			if f(w, r) {
				return
			}
		}
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, who)
	}))
	p := new(http.Protocols)
	p.SetHTTP1(true)
	p.SetUnencryptedHTTP2(true)
	s.Config.Protocols = p
	s.Start()
	tb.Cleanup(s.Close)
	return s
}

// twoSides is a route with sides blue and green.
func twoSides(blue, green string, blueWeight int) wire.Route {
	return wire.Route{
		Name: "shop", Match: wire.Match{Hosts: []string{"shop.test"}},
		Settings: wire.Settings{Health: wire.Health{Path: "/healthz"}, Settle: backstay.Duration(1e9)},
		Sides: []wire.Side{
			{Name: "green", Weight: 100 - blueWeight, Instances: []wire.Instance{{URL: green}}},
			{Name: "blue", Weight: blueWeight, Instances: []wire.Instance{{URL: blue}}},
		},
	}
}

// newProxy starts a proxy and a server in front of it.
func newProxy(tb testing.TB, opts Options) (*Proxy, *httptest.Server) {
	tb.Helper()
	if opts.State == "" {
		opts.State = tb.TempDir()
	}
	p, err := New(tb.Context(), opts)
	if err != nil {
		tb.Fatalf("start the proxy: %v", err)
	}
	front := httptest.NewUnstartedServer(p)
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	front.Config.Protocols = protocols
	front.Start()
	tb.Cleanup(func() {
		front.Close()
		if err := p.Close(); err != nil {
			tb.Errorf("close the proxy: %v", err)
		}
	})
	return p, front
}

// client is a client of its own connections.
func client(tb testing.TB) *http.Client {
	tb.Helper()
	tr := &http.Transport{MaxIdleConnsPerHost: 64}
	tb.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// request makes a request to a host behind the front.
func request(tb testing.TB, front *httptest.Server, host, path string) *http.Request {
	tb.Helper()
	req, err := http.NewRequestWithContext(tb.Context(), http.MethodGet, front.URL+path, nil)
	if err != nil {
		tb.Fatalf("make request: %v", err)
	}
	req.Host = host
	return req
}

// get returns status and body.
func get(tb testing.TB, c *http.Client, req *http.Request) (int, string, http.Header) {
	tb.Helper()
	resp, err := c.Do(req)
	if err != nil {
		tb.Fatalf("%s %s: %v", req.Method, req.URL, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		tb.Fatalf("read body: %v", err)
	}
	return resp.StatusCode, string(body), resp.Header
}

// writer is a deployment with a token.
func writer(deployment string, epoch, seq int64) wire.Writer {
	return wire.Writer{Deployment: deployment, Token: backstay.Token{Generation: 1, Epoch: epoch, Seq: seq}}
}

// move sets the weight of green, blue gets the rest.
func move(tb testing.TB, p *Proxy, w wire.Writer, green int) (*wire.RouteStatus, error) {
	tb.Helper()
	now, err := p.Route("shop")
	if err != nil {
		tb.Fatalf("read the route: %v", err)
	}
	return p.Change(context.WithoutCancel(tb.Context()), "shop", wire.Change{Writer: w, Expect: now.Digest, Weights: map[string]int{"green": green, "blue": 100 - green}})
}

func codeOf(err error) wire.Code {
	var e *wire.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return wire.Code(fmt.Sprint(err))
}

func TestMain(m *testing.M) {
	switch role := helperRole(); {
	case strings.HasPrefix(role, "proxy"):
		helperProxy()
		return
	case role != "":
		play := map[string]func() error{"bare": barePeer, "idle": idlePeer}[role]
		if err := play(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// deadURL is an address that nobody listens at.
func deadURL(tb testing.TB) string {
	tb.Helper()
	s := httptest.NewServer(http.NotFoundHandler())
	s.Close()
	return s.URL
}

// tlsBackend is a server with a certificate; it returns its URL.
func tlsBackend(tb testing.TB, cert tls.Certificate) string {
	tb.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.StartTLS()
	tb.Cleanup(s.Close)
	return s.URL
}
