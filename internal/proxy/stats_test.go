package proxy

import (
	"context"
	"errors"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/proxy/wire"
)

func recorderFor(settings wire.Settings) *recorder {
	r := newRecorder("shop", "green", time.Unix(1_800_000_000, 0))
	r.cut(0, 1, 10, settings.WithDefaults())
	return r
}

// A request belongs to the second in which it started; a block is final settle
// after its end, and counts what is open then as late and slowest.
func TestBlocks(t *testing.T) {
	t.Parallel()
	const second = time.Second
	r := recorderFor(wire.Settings{Settle: backstay.Duration(5 * second)})
	quick := r.begin(second / 2)
	slow := r.begin(9 * second / 10)
	hanging := r.begin(9 * second / 10)
	stream := r.begin(9 * second / 10)
	next := r.begin(3 * second / 2)
	if quick != slow || slow != hanging || next == quick {
		t.Fatal("requests are not in the second of their start")
	}
	quick.finish(isOK, 2*time.Millisecond)
	stream.header(isServerError, 10*time.Millisecond)
	slow.finish(isTimedOut, 3*second)
	next.finish(isOK, time.Millisecond)
	if got := r.final(6*second - 1); len(got) != 0 {
		t.Fatalf("final before its time: %+v", got)
	}
	blocks := r.final(6 * second)
	if len(blocks) != 1 {
		t.Fatalf("%d blocks at 6 s, want 1", len(blocks))
	}
	b := blocks[0]
	want := map[wire.Outcome]uint64{ //nolint:exhaustive // the others did not happen
		wire.OK: 1, wire.TimedOut: 1, wire.ServerError: 1, wire.Late: 1,
	}
	if diff := cmp.Diff(want, b.Outcomes); diff != "" || b.Requests != 4 || b.Share != 10 {
		t.Errorf("block %+v (-want +got):\n%s", b, diff)
	}
	if b.Latency.Total() != 4 || b.Latency[len(b.Latency)-1][0] != uint64(wire.BucketOf(5*second)) {
		t.Errorf("latency %v: want four, the open one at the settle time", b.Latency)
	}
	// What ends later changes nothing.
	hanging.finish(isOK, 9*second)
	stream.finishFlow(isServerError, isOK)
	if got := r.final(20 * second); len(got) != 1 || got[0].Requests != 1 {
		t.Errorf("then %+v, want only the next second", got)
	}
}

// A change of weights cuts a second in two.
func TestBlocksAreCut(t *testing.T) {
	t.Parallel()
	r := recorderFor(wire.Settings{})
	a := r.begin(100 * time.Millisecond)
	a.finish(isOK, 0)
	r.cut(300*time.Millisecond, 2, 50, wire.Settings{}.WithDefaults())
	b := r.begin(400 * time.Millisecond)
	b.finish(isOK, 0)
	c := r.begin(1100 * time.Millisecond)
	c.finish(isOK, 0)
	var got []string
	for _, b := range r.final(time.Hour) {
		got = append(got, b.End.Sub(b.Start).String()+" at "+strings.Repeat("*", b.Share/10))
	}
	if diff := cmp.Diff([]string{"300ms at *", "700ms at *****", "1s at *****"}, got); diff != "" {
		t.Error(diff)
	}
}

// On a sticky route one user's bad outcomes count once in five minutes.
func TestBadUsers(t *testing.T) {
	t.Parallel()
	r := recorderFor(wire.Settings{Affinity: &wire.Affinity{}})
	s := r.begin(0)
	for _, at := range []time.Duration{0, time.Second, 4 * time.Minute, 5 * time.Minute} {
		r.bad(s, 7, at)
	}
	r.bad(s, 8, 0)
	if got := s.badUsers.Load(); got != 3 {
		t.Errorf("%d bad users, want 3: one again after five minutes, and another", got)
	}
}

// Histograms of the wire: buckets are contiguous, narrow, and add up.
func TestHistogram(t *testing.T) {
	t.Parallel()
	last := time.Duration(0)
	for i := range wire.Buckets {
		from, to := wire.BucketBounds(i)
		if from != last || wire.BucketOf(from) != i || wire.BucketOf(to-1) != i {
			t.Fatalf("bucket %d is from %v to %v, after %v", i, from, to, last)
		}
		if i >= 128 && float64(to-from)/float64(from) > 1.0/64 {
			t.Fatalf("bucket %d is wider than 1/64", i)
		}
		last = to
	}
	a, b := wire.Histogram{{1, 2}, {5, 1}}, wire.Histogram{{0, 1}, {5, 4}, {9, 1}}
	if diff := cmp.Diff(wire.Histogram{{0, 1}, {1, 2}, {5, 5}, {9, 1}}, a.Merge(b)); diff != "" {
		t.Error(diff)
	}
	if wire.BucketOf(-time.Second) != 0 || wire.BucketOf(1<<62) != wire.Buckets-1 {
		t.Error("values beyond the buckets are not in the first and the last")
	}
}

// The stream over the admin API, with the client of the driver.
func TestStatsStream(t *testing.T) {
	t.Parallel()
	blue, green := backend(t, "blue"), backend(t, "green")
	r := twoSides(blue.URL, green.URL, 100)
	p, front := newProxy(t, Options{Routes: []wire.Route{r}})
	admin := httptest.NewServer(p.AdminHandler())
	t.Cleanup(admin.Close)
	c := client(t)
	for range 25 {
		get(t, c, request(t, front, "shop.test", "/"))
	}
	eventually(t, "all are final", func() bool {
		p.settle()
		lines, _, _ := p.feed.after(0)
		total := uint64(0)
		for _, l := range lines {
			if l.Block != nil {
				total += l.Block.Requests
			}
		}
		return total == 25
	})
	if status, body, _ := get(t, c, request(t, admin, "", "/v1/stats")); status != 200 || !strings.Contains(body, `"side":"blue"`) {
		t.Errorf("the stream: %d %s", status, body)
	}
	lines, last, _ := p.feed.after(0)
	if mark := lines[len(lines)-1]; mark.Final.IsZero() || mark.Boot != p.boot {
		t.Errorf("the mark at the end: %+v", mark)
	}
	if again, _, _ := p.feed.after(last); len(again) != 1 {
		t.Errorf("after the last block come %d lines, want the mark only", len(again))
	}
	text := p.metrics()
	for _, want := range []string{
		`backstay_proxy_requests_total{route="shop",side="blue",outcome="ok"} 25`,
		`backstay_proxy_latency_seconds_count{route="shop",side="blue"} 25`,
		`backstay_proxy_share{route="shop",side="green"} 0`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("/metrics has no line %s", want)
		}
	}
}

func TestFeedLoses(t *testing.T) {
	t.Parallel()
	f := newFeed("b")
	f.add(make([]wire.Block, maxBlocks+5), time.Unix(1, 0))
	lines, last, _ := f.after(2)
	if mark := lines[len(lines)-1]; mark.Lost != 3 || len(lines) != maxBlocks+1 || last != maxBlocks+5 {
		t.Errorf("lost %d of %d lines, last %d", mark.Lost, len(lines), last)
	}
}

// The driver's client over the real socket: read back, change, refusals, drain
// and the stream.
func TestClient(t *testing.T) {
	t.Parallel()
	blue, green := backend(t, "blue"), backend(t, "green")
	state := t.TempDir()
	running(t, Config{Routes: []wire.Route{twoSides(blue.URL, green.URL, 100)}}, RunOptions{State: state})
	c := wire.NewClient(state + "/admin.sock")
	t.Cleanup(c.Close)
	s, err := c.Route(t.Context(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	back, err := wire.FromState("shop", s.Route.State())
	if err != nil || back.Digest() != s.Digest {
		t.Fatalf("the image: %v, %v", back, err)
	}
	ch := wire.Change{Writer: writer("a", 2, 1), Expect: s.Digest, Weights: map[string]int{"green": 40, "blue": 60}}
	if s, err = c.Change(t.Context(), "shop", ch); err != nil || s.Sides[0].Share != 40 {
		t.Fatalf("change: %+v, %v", s, err)
	}
	ch.Writer = writer("a", 1, 1)
	if _, err := c.Change(t.Context(), "shop", ch); !errors.Is(err, &wire.Error{Code: wire.Stale}) || !strings.Contains(err.Error(), "token 1.2.1") {
		t.Errorf("a stale change: %v", err)
	}
	if _, err := c.Route(t.Context(), "none"); !errors.Is(err, &wire.Error{Code: wire.NotFound}) {
		t.Errorf("no such route: %v", err)
	}
	if n, err := c.Drained(t.Context(), "shop", "green", time.Second); err != nil || n != 0 {
		t.Errorf("drained: %d, %v", n, err)
	}
	enough := errors.New("enough")
	if err := c.Stats(t.Context(), 0, true, func(f wire.Feed) error {
		if f.Boot != "" {
			return enough
		}
		return nil
	}); !errors.Is(err, enough) {
		t.Errorf("stream: %v", err)
	}
	gone := wire.NewClient(state + "/nothing.sock")
	if _, err := gone.Status(context.WithoutCancel(t.Context())); err == nil || backstay.HintOf(err) == "" {
		t.Errorf("no socket: %v, want a hint", err)
	}
}

func BenchmarkStatistics(b *testing.B) {
	base := time.Now()
	r := newRecorder("shop", "green", base)
	r.cut(0, 1, 10, wire.Settings{}.WithDefaults())
	b.Run("one core", func(b *testing.B) {
		for b.Loop() {
			start := time.Since(base)
			s := r.begin(start)
			s.finish(isOK, time.Since(base)-start)
		}
	})
	b.Run("without the clock", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			s := r.begin(time.Duration(i))
			s.finish(isOK, time.Duration(i)&0xFFFFFF)
		}
	})
	b.Run("all cores", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				start := time.Since(base)
				s := r.begin(start)
				s.finish(isOK, time.Since(base)-start)
			}
		})
	})
}
