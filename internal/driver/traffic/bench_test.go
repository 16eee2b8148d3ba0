package traffic_test

import (
	"os"
	"slices"
	"testing"
	"time"

	"github.com/backstay-dev/backstay/internal/driver/drivertest"
)

// BenchmarkSwitch is what users notice of a switch of all the traffic on each
// router, at some 1,000 requests a second on kept connections: the 99th percentile
// of their requests while nothing moves and while it moves twice a second, and the
// time from asking for a move until the new side gets its first request and until
// the step has read it back. Run it once (-benchtime 1x): it takes its own time.
func BenchmarkSwitch(b *testing.B) {
	beds := []struct {
		name string
		new  func(testing.TB) *drivertest.RouterBed
	}{{"proxy", proxyBed}, {"haproxy", haproxyBed}, {"nginx", nginxBed}}
	for _, bed := range beds {
		b.Run(bed.name, func(b *testing.B) {
			if bed.name != "proxy" && os.Getenv("BACKSTAY_REAL") != "1" {
				b.Skip("needs a real server: set BACKSTAY_REAL=1 to start one")
			}
			r := bed.new(b)
			for b.Loop() {
				switches(b, r)
			}
		})
	}
}

// switches plays 5 s without moves and then 20 moves.
func switches(b *testing.B, r *drivertest.RouterBed) {
	b.Helper()
	load := drivertest.StartLoad(b, r.Front, "shop.test", drivertest.Clients{Every: 16 * time.Millisecond, Kept: 16})
	load.More(b, 500) // warm
	quiet := time.Now()
	wait(b, 5*time.Second)
	moving := time.Now()
	var first, done []time.Duration
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for i := range 20 {
		<-tick.C
		green, side := 100, r.Green
		if i%2 == 1 {
			green, side = 0, r.Blue
		}
		tr := r.Move(b, green)
		side.Await()
		began := time.Now()
		must(b, tr.Do(b.Context()))
		done = append(done, time.Since(began))
		drivertest.Eventually(b, "the new side is asked", func() bool { _, ok := side.First(); return ok })
		at, _ := side.First()
		first = append(first, at.Sub(began))
	}
	end := time.Now()
	requests, err := load.Stop()
	must(b, err) // any failed request
	var still, moved []time.Duration
	for _, s := range load.Samples() {
		switch {
		case s.Began.After(quiet) && s.Began.Before(moving):
			still = append(still, s.Took)
		case s.Began.After(moving) && s.Began.Before(end):
			moved = append(moved, s.Took)
		}
	}
	ms := func(list []time.Duration, q float64) float64 {
		slices.Sort(list)
		return float64(list[int(q*float64(len(list)-1))].Microseconds()) / 1000
	}
	b.ReportMetric(ms(still, 0.99), "quiet-p99-ms")
	b.ReportMetric(ms(moved, 0.99), "moving-p99-ms")
	b.ReportMetric(ms(first, 0.5), "first-request-ms")
	b.ReportMetric(ms(done, 0.5), "step-ms")
	b.ReportMetric(float64(requests), "requests")
}

func wait(b *testing.B, d time.Duration) {
	b.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	<-timer.C
}
