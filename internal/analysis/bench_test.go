package analysis

import (
	"fmt"
	"testing"
	"time"
)

// BenchmarkAddRate is the whole cost of one look at one block of a rate:
// checks, nine bets, 40 points of the interval, the given number of margins.
func BenchmarkAddRate(b *testing.B) {
	for _, row := range []struct {
		nc, nb, xc, xb uint64
		margins        int
	}{{100, 900, 0, 1, 0}, {100, 900, 1, 2, 0}, {100, 900, 1, 2, 4}, {100, 900, 10, 90, 0}, {10_000, 90_000, 5000, 45_000, 0}, {1e11, 9e11, 1e10, 9e10, 0}} {
		b.Run(fmt.Sprintf("n=%d/m=%d/margins=%d", row.nc+row.nb, row.xc+row.xb, row.margins), func(b *testing.B) {
			test := oneRate(b, func(c *Config) {
				c.Reserve, c.Guard = 0.5, 10*time.Second
				c.Rates[0].History = Counts{Requests: 10_000, Bad: 10}
				c.Rates[0].Margins = ImpactMargins(0.0005, []float64{.05, .25, .5, 1})[:row.margins]
			})
			blocks := []Block{rateBlock("a", 1, row.nc, row.nb, row.xc, row.xb)}
			b.ReportAllocs()
			for b.Loop() {
				if err := test.Add(blocks[0].End, blocks...); err != nil {
					b.Fatal(err)
				}
				blocks[0].Start = blocks[0].End
				blocks[0].End += time.Second
				// Start again before the counts run over.
				if test.state.Metrics[0].Baseline.Requests > maxCount/8 {
					test.state.Metrics[0].Canary, test.state.Metrics[0].Baseline = Counts{}, Counts{}
				}
			}
		})
	}
}

// BenchmarkAddLatency is the same for eleven bets on eleven classes.
func BenchmarkAddLatency(b *testing.B) {
	for _, n := range []uint64{20, 1000, 20_000} {
		b.Run(fmt.Sprintf("n=%d", n), func(b *testing.B) {
			latency := lognormalLatency(b, 0.05)
			c := Default()
			c.Latencies = []Latency{latency}
			test, err := New(c)
			if err != nil {
				b.Fatal(err)
			}
			r := seeded(6, n)
			var canary, baseline Histogram
			for range n / 10 {
				canary.Observe(lognormal(r, 0.5))
			}
			for range n - n/10 {
				baseline.Observe(lognormal(r, 0.5))
			}
			blocks := []Block{{
				Metric: "latency", Stratum: "a", End: time.Second,
				Canary:   Counts{Classes: latency.Classes(&canary, true, nil)},
				Baseline: Counts{Classes: latency.Classes(&baseline, false, nil)},
			}}
			b.ReportAllocs()
			for b.Loop() {
				if err := test.Add(blocks[0].End, blocks...); err != nil {
					b.Fatal(err)
				}
				blocks[0].Start = blocks[0].End
				blocks[0].End += time.Second
			}
		})
	}
}

// BenchmarkObserve is the cost of one request at whoever counts it.
func BenchmarkObserve(b *testing.B) {
	var h Histogram
	d := 37 * time.Millisecond
	for b.Loop() {
		h.Observe(d)
	}
}

// BenchmarkVerdict is one question with its text.
func BenchmarkVerdict(b *testing.B) {
	test := oneRate(b, func(c *Config) { c.Rates[0].Margins = ImpactMargins(0.0005, []float64{1}) })
	add(b, test, rateBlock("a", 1, 100, 900, 1, 2))
	for b.Loop() {
		test.Verdict(0)
	}
}
