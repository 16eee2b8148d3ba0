package release_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/backstay-dev/backstay/internal/parts"
)

// TestSourceOutage: a real Prometheus goes away in the middle of a canary, in each
// of the ways it can. Nothing that it does not say counts as good: the gate waits,
// and then does what the release declares. It never goes on by itself.
func TestSourceOutage(t *testing.T) {
	parts.Real(t)
	t.Parallel()
	for _, tt := range []struct {
		name  string
		spoil func(t *testing.T, m *monitoring)
	}{
		{"killed", func(t *testing.T, m *monitoring) { t.Helper(); m.prom.Kill(t) }},
		{"paused", func(t *testing.T, m *monitoring) { t.Helper(); m.prom.Pause(t) }},
		{"answers 500", func(_ *testing.T, m *monitoring) { m.failing.Store(true) }},
		{"answers NaN", func(_ *testing.T, m *monitoring) { m.value.Store("NaN") }},
		{"scrapes nothing", func(_ *testing.T, m *monitoring) { m.value.Store("") }},
	} {
		for _, policy := range []string{"rollback", "hold"} {
			t.Run(tt.name+", "+policy, func(t *testing.T) {
				t.Parallel()
				if policy == "hold" && !*fullFlag {
					t.Skip("it waits for seconds; run with -release.full")
				}
				m := monitor(t)
				s := open(t)
				s.more = m.gate()
				u, end := begin(t, s.url)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				spoiled := make(chan struct{})
				go func() {
					defer close(spoiled)
					if u.meets(ctx, "second") {
						tt.spoil(t, m)
					}
				}()
				canary := "strategy: canary, through: [50%, 100%], gates: [backlog], within: 3s, undecided: " + policy
				if policy == "rollback" {
					got := s.deploy("second", canary, good, "")
					<-spoiled
					if !strings.HasPrefix(got, "rolled_back") || !strings.Contains(got, "undecided") {
						t.Fatalf("the release ended %s", got)
					}
					s.serves(u, "first")
				} else {
					cmd, text := s.launch("deploy", s.spec("second", canary, good))
					<-spoiled
					time.Sleep(6 * time.Second) //nolint:forbidigo // twice as long as the gate may take
					if w := s.weights(); w["blue"] != 50 || w["green"] != 50 {
						t.Errorf("the release went on without its source: weights %v", w)
					}
					_ = cmd.Process.Kill()
					if _ = cmd.Wait(); cmd.ProcessState.Exited() {
						t.Errorf("the release did not wait: %s", text)
					}
				}
				s.judge(u, end, 100)
			})
		}
	}
}

// monitoring is a Prometheus that watches one gauge, with a relay before it.
type monitoring struct {
	prom    *parts.Prometheus
	relay   *httptest.Server
	failing atomic.Bool
	value   atomic.Value // what the gauge reads: a string; "": it is gone
}

func monitor(t *testing.T) *monitoring {
	t.Helper()
	m := &monitoring{}
	m.value.Store("1")
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if v, _ := m.value.Load().(string); v != "" {
			fmt.Fprintln(w, "backlog", v)
		}
	}))
	t.Cleanup(target.Close)
	m.prom = parts.StartPrometheus(t, 200*time.Millisecond, strings.TrimPrefix(target.URL, "http://"))
	behind, err := url.Parse(m.prom.URL())
	if err != nil {
		t.Fatal(err)
	}
	relay := httputil.NewSingleHostReverseProxy(behind)
	relay.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }
	m.relay = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if m.failing.Load() {
			http.Error(w, "out of order", http.StatusInternalServerError)
			return
		}
		relay.ServeHTTP(w, r)
	}))
	t.Cleanup(m.relay.Close)
	return m
}

// gate is a gate that asks it, and its source. It needs longer to pass than it takes
// to spoil it.
func (m *monitoring) gate() string {
	return `  backlog: {query: backlog, source: prometheus, max: 10, for: 1s, every: 100ms, timeout: 1s}
sources:
  prometheus: {prometheus: "` + m.relay.URL + `", scrape: 200ms}
`
}

// meets waits until a version answered somebody.
func (u *users) meets(ctx context.Context, version string) bool {
	for !slices.Contains(u.seen(), version) {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(5 * time.Millisecond):
		}
	}
	return true
}
