package proxystats_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/metric/proxystats"
	"github.com/backstay-dev/backstay/internal/driver/metric/signal"
	"github.com/backstay-dev/backstay/internal/driver/metric/sourcetest"
	"github.com/backstay-dev/backstay/internal/proxy"
	"github.com/backstay-dev/backstay/internal/proxy/wire"
)

// world is a real proxy in this process with two servers behind it.
type world struct {
	proxy  *proxy.Proxy
	front  *httptest.Server
	admin  *http.Server
	socket string
	status atomic.Int64 // what both sides answer
	began  time.Time
	seq    int64
}

func writer(seq int64) wire.Writer {
	return wire.Writer{Deployment: "d", Token: backstay.Token{Generation: 1, Epoch: 1, Seq: seq}}
}

func start(t *testing.T) sourcetest.World {
	t.Helper()
	w := &world{socket: filepath.Join(t.TempDir(), "s"), began: time.Now(), seq: 1}
	backend := func() string {
		s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/healthz" {
				rw.WriteHeader(int(w.status.Load()))
			}
		}))
		t.Cleanup(s.Close)
		return s.URL
	}
	var err error
	if w.proxy, err = proxy.New(t.Context(), proxy.Options{State: t.TempDir()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.proxy.Close() })
	route := wire.Route{
		Name: "shop", Match: wire.Match{Hosts: []string{"shop.test"}},
		Settings: wire.Settings{
			Health: wire.Health{Path: "/healthz"}, Settle: backstay.Duration(time.Second),
			Breaker: wire.Breaker{Failures: 1000, Of: 1000},
		},
		Sides: []wire.Side{
			{Name: "green", Weight: 10, Instances: []wire.Instance{{URL: backend()}}},
			{Name: "blue", Weight: 90, Instances: []wire.Instance{{URL: backend()}}},
		},
	}
	var none *wire.Route
	until(t, func() error {
		_, err := w.proxy.Change(t.Context(), "shop", wire.Change{Writer: writer(1), Expect: none.Digest(), Route: &route})
		return err //nolint:wrapcheck // for the log
	})
	w.front = httptest.NewServer(w.proxy)
	t.Cleanup(w.front.Close)
	listener, err := new(net.ListenConfig).Listen(t.Context(), "unix", w.socket)
	if err != nil {
		t.Fatal(err)
	}
	w.admin = &http.Server{Handler: w.proxy.AdminHandler(), ReadHeaderTimeout: time.Second}
	go func() { _ = w.admin.Serve(listener) }()
	t.Cleanup(func() { _ = w.admin.Close() })
	return w
}

// until waits for something to be so.
func until(t *testing.T, so func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for err := so(); err != nil; err = so() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal(err)
		}
	}
}

func (w *world) Source() signal.Source {
	return proxystats.New(w.socket, map[string]string{"front": "shop"})
}

func (w *world) Ask(m signal.Metric) signal.Ask {
	return signal.Ask{Metric: m, Route: "front", Canary: "green", From: w.began.Add(-time.Second)}
}

func (w *world) Serve(t *testing.T, side string, good, bad int) {
	t.Helper()
	weights := map[string]int{"green": 0, "blue": 0}
	weights[side] = 100
	w.seq++
	until(t, func() error {
		now, err := w.proxy.Route("shop")
		if err != nil {
			return err //nolint:wrapcheck // for the log
		}
		_, err = w.proxy.Change(t.Context(), "shop", wire.Change{Writer: writer(w.seq), Expect: now.Digest, Weights: weights})
		return err //nolint:wrapcheck // for the log
	})
	for i := range good + bad {
		w.status.Store(200)
		if i >= good {
			w.status.Store(500)
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.front.URL+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = "shop.test"
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
	}
}

// Settle waits until the stream says that everything until now is out.
func (w *world) Settle(t *testing.T) {
	t.Helper()
	now := time.Now()
	until(t, func() error {
		b, err := w.Source().Signals(t.Context(), w.Ask(signal.Errors))
		if err == nil && !b.Fresh.After(now.Add(time.Second)) {
			err = errors.New("it is not final yet")
		}
		return err //nolint:wrapcheck // for the log
	})
}

func (w *world) Restart(*testing.T) bool { return false }

func (w *world) Break(t *testing.T) {
	t.Helper()
	if err := w.admin.Close(); err != nil {
		t.Fatal(err)
	}
}

func (w *world) Questions() (known, unknown signal.Question) {
	return signal.Question{Query: "error-rate", Route: "front", Canary: "green", Window: time.Minute},
		signal.Question{Query: "p99", Route: "another", Window: time.Minute}
}

func TestConformance(t *testing.T) {
	t.Parallel()
	sourcetest.Run(t, start)
}

// What only a proxy can tell: the share, latencies, and what was not completed.
func TestMore(t *testing.T) {
	t.Parallel()
	w, ok := start(t).(*world)
	if !ok {
		t.Fatal("another world")
	}
	w.Serve(t, "green", 20, 0)
	w.Settle(t)
	for _, m := range []signal.Metric{signal.Latency, signal.Throughput} {
		b, err := w.Source().Signals(t.Context(), w.Ask(m))
		if err != nil || len(b.Signals) == 0 {
			t.Fatalf("%s: %+v, %v", m, b, err)
		}
		total, timed := uint64(0), uint64(0)
		for _, x := range b.Signals {
			if !x.Canary {
				continue
			}
			if x.Good > 0 && x.Share != 100 {
				t.Errorf("share %v, want 100", x.Share)
			}
			total += x.Good
			for _, d := range x.Durations {
				timed += d[1]
				if d[0] == 0 || d[0] > 1e6 {
					t.Errorf("a request took %d µs", d[0])
				}
			}
		}
		if total != 20 || (m == signal.Latency) != (timed == 20) {
			t.Errorf("%s: %d requests, %d durations", m, total, timed)
		}
	}
	r, err := w.Source().Read(t.Context(), signal.Question{Query: "requests", Route: "shop", Window: 10 * time.Second})
	if err != nil || r.Value != 2 {
		t.Errorf("requests a second: %+v, %v; want 2", r, err)
	}
	for query, known := range map[string]bool{"error-rate": true, "p99.9": true, "p0": false, "p100": false, "px": false, "errors": false} {
		if proxystats.Known(query) != known {
			t.Errorf("Known(%q) is %v", query, !known)
		}
	}
	_, err = proxystats.New(strings.Repeat("x", 20), nil).Read(t.Context(), signal.Question{Query: "requests"})
	var e *backstay.Error
	if !errors.As(err, &e) || e.Class != backstay.Transient {
		t.Errorf("no proxy: %v", err)
	}
}
