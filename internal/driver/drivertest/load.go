package drivertest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Load is clients that ask a front without pause and count what fails: a status
// other than 200, an answer that no side gave, a connection that broke. They are
// HTTP clients as they are: a GET that met a kept connection that was just being
// closed is sent again on another one, and that is no failure.
type Load struct {
	served, failed atomic.Int64
	stop           context.CancelFunc
	workers        sync.WaitGroup

	mu    sync.Mutex
	errs  []error
	times []Sample
}

// Sample is one request: when it began and how long it took.
type Sample struct {
	Began time.Time
	Took  time.Duration
}

// maxErrs is how many failures are kept; all are counted.
const maxErrs = 5

// Clients say who asks; the zero value is six that ask without pause, one of
// them on new connections, and one with bodies.
type Clients struct {
	// FreshBodies sends bodies on new connections: see RouterSuite.Cuts.
	FreshBodies bool
	// Every, where set, is how often, on average, each of Kept clients on kept connections asks;
	// there are no others then.
	Every time.Duration
	Kept  int
}

// StartLoad starts clients against the front, for the host. They stop with the
// test at the latest.
func StartLoad(t testing.TB, front, host string, who Clients) *Load {
	t.Helper()
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	l := &Load{stop: stop}
	t.Cleanup(func() { _, _ = l.Stop() })
	work := func(fresh bool, body string) {
		tr := &http.Transport{MaxIdleConnsPerHost: 8, DisableCompression: true}
		c := &http.Client{Transport: tr, Timeout: 30 * time.Second}
		l.workers.Go(func() {
			defer tr.CloseIdleConnections()
			for ctx.Err() == nil && l.failed.Load() < 100 {
				l.once(context.WithoutCancel(ctx), c, front, host, fresh, body)
				if who.Every > 0 {
					pause(ctx, who.Every/2+rand.N(who.Every)) //nolint:gosec // so that they do not ask in step
				}
			}
		})
	}
	if who.Every > 0 {
		for range who.Kept {
			work(false, "")
		}
		return l
	}
	for range 4 {
		work(false, "")
	}
	work(true, "")
	work(who.FreshBodies, strings.Repeat("x", 100_000))
	return l
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

func (l *Load) once(ctx context.Context, c *http.Client, front, host string, fresh bool, body string) {
	method, payload := http.MethodGet, io.Reader(nil)
	if body != "" {
		method, payload = http.MethodPost, strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, front+"/", payload)
	if err == nil {
		req.Host, req.Close = host, fresh
		began := time.Now()
		var resp *http.Response
		if resp, err = c.Do(req); err == nil {
			err = wellAnswered(resp)
		}
		if err == nil {
			l.sample(Sample{began, time.Since(began)})
		}
	}
	l.served.Add(1)
	if err == nil {
		return
	}
	l.failed.Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.errs) < maxErrs {
		l.errs = append(l.errs, fmt.Errorf("%s (new connection: %v): %w", method, fresh, err))
	}
}

func (l *Load) sample(s Sample) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.times = append(l.times, s)
}

// More waits until so many more requests were answered, or one failed.
func (l *Load) More(t testing.TB, n int64) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.Now().Add(time.Minute)
	for goal := l.served.Load() + n; l.served.Load() < goal && l.failed.Load() == 0; {
		<-tick.C
		if time.Now().After(deadline) {
			t.Fatalf("%d requests took longer than a minute", n)
		}
	}
}

// Stop ends the clients after their requests in flight, and returns how many
// requests there were, with an error if any failed.
func (l *Load) Stop() (int64, error) {
	l.stop()
	l.workers.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := l.failed.Load(); n > 0 {
		return l.served.Load(), fmt.Errorf("%d of %d requests failed: %w", n, l.served.Load(), errors.Join(l.errs...))
	}
	return l.served.Load(), nil
}

// Samples are the requests that succeeded, in the order they began.
func (l *Load) Samples() []Sample {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := slices.Clone(l.times)
	slices.SortFunc(out, func(a, b Sample) int { return a.Began.Compare(b.Began) })
	return out
}
