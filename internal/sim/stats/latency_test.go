package stats

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/backstay-dev/backstay/internal/analysis"
)

// shape is a distribution of latencies, in milliseconds, drawn by rank so that
// an effect may depend on it.
type shape struct {
	name  string
	sigma float64 // of a lognormal
}

func (s shape) draw(r *rand.Rand) (u, x float64) {
	z := r.NormFloat64()
	return math.Erfc(-z/math.Sqrt2) / 2, 50 * math.Exp(s.sigma*z)
}

// metric is the latency metric made from 10,000 requests of the baseline.
func (s shape) metric(t *testing.T) analysis.Latency {
	t.Helper()
	r := seeded(7, 7)
	var h analysis.Histogram
	for range 10_000 {
		_, x := s.draw(r)
		h.Observe(time.Duration(x * float64(time.Millisecond)))
	}
	l, err := analysis.NewLatency("latency", 1, 0, &h)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// block draws one block of a latency.
func (s shape) block(r *rand.Rand, l analysis.Latency, i int, size uint64, share float64, canary func(u, x float64) float64, baseline func(x float64) float64) analysis.Block {
	var arms [2]analysis.Histogram
	nc := binomial(r, size, share)
	for k := range size {
		u, x := s.draw(r)
		arm := 1
		if k < nc {
			arm, x = 0, canary(u, x)
		} else {
			x = baseline(x)
		}
		arms[arm].Observe(time.Duration(x * float64(time.Millisecond)))
	}
	end := time.Duration(i+1) * time.Second
	return analysis.Block{
		Metric: "latency", Stratum: "a", Start: end - time.Second, End: end,
		Canary:   analysis.Counts{Classes: l.Classes(&arms[0], true, nil)},
		Baseline: analysis.Counts{Classes: l.Classes(&arms[1], false, nil)},
	}
}

// slower is a regression of latency with its published medians for blocks of
// 100 and of 20, in canary requests (lognormal, sigma 0.5).
type slower struct {
	name    string
	share   float64
	slow    func(u, x float64) float64
	hundred float64
	twenty  float64
}

func slowers() []slower {
	all := func(f float64) func(u, x float64) float64 { return func(_, x float64) float64 { return f * x } }
	tail := func(f float64) func(u, x float64) float64 {
		return func(u, x float64) float64 {
			if u > .98 {
				return f * x
			}
			return x
		}
	}
	return []slower{
		{"all x1.10", .01, all(1.1), 490, 525},
		{"all x1.10", .1, all(1.1), 553, 555},
		{"all x1.10", .5, all(1.1), 1074, 929},
		{"all x1.25", .01, all(1.25), 94, 93},
		{"all x1.25", .1, all(1.25), 111, 107},
		{"all x1.25", .5, all(1.25), 230, 194},
		{"all x2", .01, all(2), 11, 11},
		{"all x2", .1, all(2), 17, 14},
		{"all x2", .5, all(2), 50, 30},
		{"slowest 2 % x2", .1, tail(2), 265, 296},
		{"slowest 2 % x2", .5, tail(2), 743, 786},
	}
}

// TestLatencyDetection: medians near the published ones. The bets depend on
// which 10,000 requests the baseline's history happened to be, which nobody
// wrote down, so "near" is 20 %.
func TestLatencyDetection(t *testing.T) {
	t.Parallel()
	runs, off := 1000, 0.20
	if !*full {
		runs, off = 60, 0.4
	}
	s := shape{name: "lognormal", sigma: 0.5}
	l := s.metric(t)
	tab := newTable(t, "canary | share | blocks of 100: median / p90 | published | blocks of 20: median / p90 | published")
	for i, row := range slowers() {
		if !*full && (row.share < .1 || row.twenty > 200) {
			continue
		}
		t.Run(fmt.Sprintf("%s at %v", row.name, row.share), func(t *testing.T) {
			t.Parallel()
			sample := func(salt int, size uint64) []float64 {
				return each(runs, func(run uint64) float64 { return s.detect(t, seeded(uint64(700+10*i+salt), run), l, row, size) })
			}
			hundred, twenty := sample(0, 100), sample(1, 20)
			med, med2 := quantile(hundred, .5), quantile(twenty, .5)
			tab.set(i, "%s | %.0f %% | %.0f / %.0f | %.0f | %.0f / %.0f | %.0f", row.name, 100*row.share,
				med, quantile(hundred, .9), row.hundred, med2, quantile(twenty, .9), row.twenty)
			for _, m := range []struct{ got, want float64 }{{med, row.hundred}, {med2, row.twenty}} {
				if math.Abs(m.got-m.want) > max(2, off*m.want) {
					t.Errorf("median %v canary requests, published %v", m.got, m.want)
				}
			}
		})
	}
}

// detect returns the canary requests until the rollback.
func (s shape) detect(t *testing.T, r *rand.Rand, l analysis.Latency, row slower, size uint64) float64 {
	test := watch(t, func(c *analysis.Config) { c.Guard, c.Reserve, c.Rates, c.Latencies = 0, 0, nil, []analysis.Latency{l} })
	used := 0.0
	for at := 0; !failed(test); at++ {
		b := s.block(r, l, at, size, row.share, row.slow, func(x float64) float64 { return x })
		for _, n := range b.Canary.Classes {
			used += float64(n)
		}
		if err := test.Add(b.End, b); err != nil {
			t.Error(err)
			return 0
		}
	}
	return used
}
