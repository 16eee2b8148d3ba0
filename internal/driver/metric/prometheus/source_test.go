package prometheus_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/metric/prometheus"
	"github.com/backstay-dev/backstay/internal/driver/metric/signal"
	"github.com/backstay-dev/backstay/internal/driver/metric/sourcetest"
	"github.com/backstay-dev/backstay/internal/parts"
)

const scrape, slice = 200 * time.Millisecond, time.Second

// app exposes the counters of one side.
type app struct {
	side   string
	server *httptest.Server

	mu        sync.Mutex
	good, bad int
	scrapes   int
	silent    bool
}

func newApp(t *testing.T, side string) *app {
	t.Helper()
	a := &app{side: side}
	a.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.silent {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		a.scrapes++
		fmt.Fprintf(w, "requests_total{side=%q,code=\"200\"} %d\n", a.side, a.good)
		if a.bad > 0 { // a counter that appears with its first event
			fmt.Fprintf(w, "requests_total{side=%q,code=\"500\"} %d\n", a.side, a.bad)
		}
		for i, le := range []string{"0.1", "0.5", "+Inf"} {
			fmt.Fprintf(w, "seconds_bucket{side=%q,le=%q} %d\n", a.side, le, (i+1)*a.good)
		}
	}))
	t.Cleanup(a.server.Close)
	return a
}

func (a *app) target() string { return strings.TrimPrefix(a.server.URL, "http://") }

func (a *app) set(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f()
}

func (a *app) scraped() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.scrapes
}

// world is a real Prometheus that scrapes both sides.
type world struct {
	prom  *parts.Prometheus
	apps  map[string]*app
	began time.Time
}

func start(t *testing.T) sourcetest.World {
	t.Helper()
	return newWorld(t)
}

func newWorld(t *testing.T) *world {
	t.Helper()
	parts.Real(t)
	w := &world{apps: map[string]*app{"blue": newApp(t, "blue"), "green": newApp(t, "green")}}
	w.prom = parts.StartPrometheus(t, scrape, w.apps["blue"].target(), w.apps["green"].target())
	for _, a := range w.apps {
		wait(t, func() error {
			if a.scraped() < 2 {
				return errors.New("it was not scraped yet")
			}
			return nil
		})
	}
	w.began = time.Now().Add(time.Second)
	wait(t, func() error {
		if time.Now().Before(w.began.Add(time.Second)) {
			return errors.New("a slice has to begin")
		}
		return nil
	})
	return w
}

func wait(t *testing.T, so func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
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

func (w *world) source(t *testing.T, url string) *prometheus.Source {
	t.Helper()
	s, err := prometheus.New(prometheus.Options{URL: url, Scrape: scrape, Slice: slice, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (w *world) Source() signal.Source {
	s, err := prometheus.New(prometheus.Options{URL: w.prom.URL(), Scrape: scrape, Slice: slice, Now: time.Now})
	if err != nil {
		panic(err)
	}
	return s
}

func (w *world) Ask(m signal.Metric) signal.Ask {
	return signal.Ask{
		Metric: m, Route: "shop", Canary: "green", Baseline: "blue", From: w.began,
		Total: `requests_total{side="{side}"}`, Bad: `requests_total{side="{side}",code="500"}`,
	}
}

func (w *world) Serve(_ *testing.T, side string, good, bad int) {
	w.apps[side].set(func() {
		w.apps[side].good += good
		w.apps[side].bad += bad
	})
}

// Settle waits for the next scrapes, and for the slice that they are in to be
// complete.
func (w *world) Settle(t *testing.T) {
	t.Helper()
	for _, a := range w.apps {
		n := a.scraped()
		wait(t, func() error {
			if a.scraped() < n+2 {
				return errors.New("it is not scraped")
			}
			return nil
		})
	}
	now := time.Now()
	wait(t, func() error {
		b, err := w.Source().Signals(t.Context(), w.Ask(signal.Errors))
		if err == nil && b.Fresh.Before(now) {
			err = errors.New("it is not final yet")
		}
		return err
	})
}

func (w *world) Restart(t *testing.T) bool {
	t.Helper()
	for _, a := range w.apps {
		a.set(func() { a.good, a.bad = 0, 0 })
	}
	return true
}

func (w *world) Break(t *testing.T) {
	t.Helper()
	w.prom.Kill(t)
}

func (w *world) Questions() (known, unknown signal.Question) {
	return signal.Question{Query: `sum(requests_total{side="{side}",code="500"}) / sum(requests_total{side="{side}"})`, Canary: "green"},
		signal.Question{Query: `sum(nobody_counts_this)`}
}

func TestConformance(t *testing.T) {
	t.Parallel()
	sourcetest.Run(t, start)
}

// What is no number is no data; what is wrong with the query stays wrong.
func TestAnswers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for query, want := range map[string]string{
		"vector(2)": "2", "scalar(vector(3))": "3", "0/0": "no data", "vector(1)/0": "no data", "requests_total": "no data",
		"sum(": "permanent", "requests_total[1m]": "permanent",
	} {
		r, err := w.Source().Read(t.Context(), signal.Question{Query: query})
		var none *signal.NoData
		got := fmt.Sprint(r.Value)
		switch {
		case errors.As(err, &none):
			got = "no data"
		case err != nil:
			got = string(backstay.ClassOf(err))
		}
		if got != want {
			t.Errorf("%s: %s (%v), want %s", query, got, err, want)
		}
	}
	w.Settle(t) // before a slice is complete, nothing is asked
	ask := w.Ask(signal.Errors)
	ask.Total = `sum(rate(requests_total{side="{side}"}[1m]))`
	if b, err := w.Source().Signals(t.Context(), ask); err == nil {
		t.Errorf("an expression that is no selector: %+v", b)
	}
}

// A histogram's buckets count all below them.
func TestDurations(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Serve(t, "green", 10, 0)
	w.Settle(t)
	b, err := w.Source().Signals(t.Context(), signal.Ask{
		Metric: signal.Latency, Canary: "green", Baseline: "blue", From: w.began, Durations: `seconds_bucket{side="{side}"}`,
	})
	if err != nil {
		t.Fatal(err)
	}
	got := map[uint64]uint64{}
	for _, x := range b.Signals {
		for _, d := range x.Durations {
			if !x.Canary {
				t.Errorf("blue served something: %+v", x)
			}
			got[d[0]] += d[1]
		}
	}
	if got[100_000] != 10 || got[500_000] != 10 || got[signal.Never] != 10 || len(got) != 3 {
		t.Errorf("durations %v", got)
	}
}

// A side that stops reporting takes its slices away from both.
func TestSilence(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Serve(t, "blue", 5, 0)
	w.Serve(t, "green", 5, 0)
	w.Settle(t)
	w.apps["green"].set(func() { w.apps["green"].silent = true })
	w.Serve(t, "blue", 100, 0)
	quiet := time.Now()
	wait(t, func() error {
		if time.Since(quiet) < 3*time.Second {
			return errors.New("it has to be quiet for some slices")
		}
		return nil
	})
	b, err := w.Source().Signals(t.Context(), w.Ask(signal.Errors))
	if err != nil {
		t.Fatal(err)
	}
	if b.Fresh.After(quiet.Add(slice)) || b.Lost == "" {
		t.Errorf("told until %s, quiet since %s (lost: %q)", b.Fresh, quiet, b.Lost)
	}
	for _, x := range b.Signals {
		if x.End.After(quiet.Add(slice)) {
			t.Errorf("a slice of the silence: %+v", x)
		}
	}
}

// A server that does not answer, answers 500 or with a warning says nothing.
func TestOutage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.prom.Pause(t)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if r, err := w.Source().Read(ctx, signal.Question{Query: "vector(1)"}); err == nil {
		t.Errorf("a paused Prometheus answers %+v", r)
	}
	w.prom.Resume(t)
	for name, answer := range map[string]func(rw http.ResponseWriter){
		"500": func(rw http.ResponseWriter) { http.Error(rw, "no", http.StatusInternalServerError) },
		"a warning": func(rw http.ResponseWriter) {
			fmt.Fprint(rw, `{"status":"success","warnings":["a store did not answer"],"data":{"resultType":"vector","result":[{"metric":{},"value":[1,"1"]}]}}`)
		},
		"nonsense": func(rw http.ResponseWriter) { fmt.Fprint(rw, "<html>") },
	} {
		s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { answer(rw) }))
		t.Cleanup(s.Close)
		if r, err := w.source(t, s.URL).Read(t.Context(), signal.Question{Query: "vector(1)"}); err == nil {
			t.Errorf("%s: %+v", name, r)
		}
		if b, err := w.source(t, s.URL).Signals(t.Context(), w.Ask(signal.Errors)); err == nil {
			t.Errorf("%s: %+v", name, b)
		}
	}
	if r, err := w.Source().Read(t.Context(), signal.Question{Query: "vector(1)"}); err != nil || r.Value != 1 {
		t.Errorf("after the outage: %+v, %v", r, err)
	}
}
