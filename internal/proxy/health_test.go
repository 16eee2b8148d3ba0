package proxy

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/proxy/wire"
)

const ms = backstay.Duration(time.Millisecond)

// eventually asks until it is so; the test's own deadline is the only bound.
func eventually(t *testing.T, what string, so func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !so() {
		select {
		case <-tick.C:
		case <-t.Context().Done():
			t.Fatalf("never: %s", what)
		}
	}
}

// A side whose check fails loses its traffic to the other one that has a
// weight, and gets it back; an idle side gets none of it.
func TestActiveCheck(t *testing.T) {
	t.Parallel()
	var sick atomic.Bool
	check := func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/healthz" && sick.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		}
		return false
	}
	blue, green, idle := backend(t, "blue", check), backend(t, "green"), backend(t, "idle")
	r := twoSides(blue.URL, green.URL, 90)
	r.Sides = append(r.Sides, wire.Side{Name: "idle", Instances: []wire.Instance{{URL: idle.URL}}})
	r.Settings.Health.Interval = 10 * ms
	p, front := newProxy(t, Options{Routes: []wire.Route{r}})
	shares := func() string {
		s, err := p.Route("shop")
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(s.Sides[0].Share, s.Sides[1].Share, s.Sides[2].Share, s.Unplaced)
	}
	sick.Store(true)
	eventually(t, "green takes over", func() bool { return shares() == "100 0 0 0" })
	if _, body, _ := get(t, client(t), request(t, front, "shop.test", "/")); body != "green" {
		t.Errorf("served by %q, want green", body)
	}
	if _, err := move(t, p, writer("a", 1, 1), 5); codeOf(err) != wire.NotReady {
		t.Errorf("more to the sick side: %v, want not_ready", err)
	}
	sick.Store(false)
	eventually(t, "blue is back", func() bool { return shares() == "10 90 0 0" })
}

// Refused connections open the breaker: safe requests are served by the other
// instance from the first on, and soon nothing goes to the dead one.
func TestBreakerAndRetry(t *testing.T) {
	t.Parallel()
	live, dying := backend(t, "live"), backend(t, "dying")
	r := one(live.URL)
	r.Sides[0].Instances = append(r.Sides[0].Instances, wire.Instance{URL: dying.URL})
	r.Settings.Health.Interval = backstay.Duration(time.Hour) // the active check does not help
	p, front := newProxy(t, Options{Routes: []wire.Route{r}})
	dying.Close()
	c := client(t)
	for range 60 {
		if status, body, _ := get(t, c, request(t, front, "shop.test", "/")); status != http.StatusOK || body != "live" {
			t.Fatalf("got %d %q, want 200 live", status, body)
		}
	}
	s, err := p.Route("shop")
	if err != nil {
		t.Fatal(err)
	}
	if in := s.Sides[0].Instances[1]; in.Ready || !strings.Contains(in.Why, "failed") {
		t.Errorf("the dead instance: %+v", in)
	}
	if n := p.retried.Load(); n != 5 {
		t.Errorf("%d retries, want 5: the breaker opens at the fifth failure", n)
	}
}

// What is not safe, or has a body, is never sent twice.
func TestPostIsNotRetried(t *testing.T) {
	t.Parallel()
	dying := backend(t, "dying")
	r := one(dying.URL)
	r.Settings.Health.Interval = backstay.Duration(time.Hour)
	r.Settings.Breaker = wire.Breaker{Failures: 1000, Of: 1000}
	p, front := newProxy(t, Options{Routes: []wire.Route{r}})
	dying.Close()
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete} {
		req := request(t, front, "shop.test", "/")
		req.Method = method
		if status, _, _ := get(t, client(t), req); status != http.StatusBadGateway {
			t.Errorf("%s: status %d, want 502", method, status)
		}
	}
	if n := p.retried.Load(); n != 0 {
		t.Errorf("%d retries, want none", n)
	}
}

// A queue of one: the second request waits, the third is answered 503 at once.
func TestQueue(t *testing.T) {
	t.Parallel()
	arrived, release := make(chan struct{}, 3), make(chan struct{})
	slow := backend(t, "slow", func(_ http.ResponseWriter, r *http.Request) bool {
		arrived <- struct{}{}
		<-release
		return false
	})
	r := one(slow.URL)
	r.Settings.Queue = wire.Queue{Active: 1, Waiting: 1, Wait: backstay.Duration(time.Minute)}
	r.Settings.Fallback = &wire.Fallback{Body: "<p>one moment</p>"}
	p, front := newProxy(t, Options{Routes: []wire.Route{r}})
	results := make(chan string, 2)
	send := func() {
		status, body, _ := get(t, client(t), request(t, front, "shop.test", "/"))
		results <- fmt.Sprint(status, body)
	}
	go send()
	<-arrived
	go send()
	eventually(t, "one waits", func() bool {
		s, err := p.Route("shop")
		return err == nil && s.Sides[0].Waiting == 1
	})
	status, body, header := get(t, client(t), request(t, front, "shop.test", "/"))
	if status != http.StatusServiceUnavailable || body != "<p>one moment</p>" || header.Get("Retry-After") == "" {
		t.Errorf("the third: %d %q %v", status, body, header)
	}
	close(release)
	for range 2 {
		if got := <-results; got != "200slow" {
			t.Errorf("got %s", got)
		}
	}
}

func TestFallbackSide(t *testing.T) {
	t.Parallel()
	blue, spare := backend(t, "blue"), backend(t, "spare")
	r := twoSides(blue.URL, spare.URL, 100)
	r.Settings.Fallback = &wire.Fallback{Side: "green"}
	r.Settings.Health.Interval = 10 * ms
	p, front := newProxy(t, Options{Routes: []wire.Route{r}})
	blue.Close()
	eventually(t, "blue is out", func() bool {
		s, err := p.Route("shop")
		return err == nil && s.Sides[0].Share == 100
	})
	if _, body, _ := get(t, client(t), request(t, front, "shop.test", "/")); body != "spare" {
		t.Errorf("served by %q, want the spare side", body)
	}
}

// Timeouts: no header in time is 504; a body that falls silent is cut; one byte
// at a time is allowed, and bounded by the total.
func TestTimeouts(t *testing.T) {
	t.Parallel()
	stop := make(chan struct{})
	side := backend(t, "ok", func(w http.ResponseWriter, r *http.Request) bool {
		out := http.NewResponseController(w)
		switch r.URL.Path {
		case "/silent":
		case "/half":
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, "half")
			_ = out.Flush()
		case "/drip":
			tick := time.NewTicker(5 * time.Millisecond)
			defer tick.Stop()
			for {
				if _, err := io.WriteString(w, "."); err != nil || out.Flush() != nil {
					return true
				}
				select {
				case <-tick.C:
				case <-r.Context().Done():
					return true
				}
			}
		default:
			return false
		}
		select {
		case <-r.Context().Done():
		case <-stop:
		}
		return true
	})
	t.Cleanup(func() { close(stop) })
	r := one(side.URL)
	r.Settings.Timeouts = wire.Timeouts{FirstByte: 100 * ms, Idle: 100 * ms, Total: 300 * ms}
	_, front := newProxy(t, Options{Routes: []wire.Route{r}})
	if status, _, _ := get(t, client(t), request(t, front, "shop.test", "/silent")); status != http.StatusGatewayTimeout {
		t.Errorf("no header: status %d, want 504", status)
	}
	for _, path := range []string{"/half", "/drip"} {
		resp, err := client(t).Do(request(t, front, "shop.test", path))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err == nil || len(body) == 0 {
			t.Errorf("%s: %d bytes and %v; want some, then an end that is no good end", path, len(body), err)
		}
	}
	if status, body, _ := get(t, client(t), request(t, front, "shop.test", "/")); status != http.StatusOK || body != "ok" {
		t.Errorf("another request meanwhile: %d %q", status, body)
	}
}
