package stats

import (
	"flag"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/analysis"
)

var full = flag.Bool("stats.full", false, "run as many simulations as the published tables need")

// seeded is a generator whose seed is part of the test.
func seeded(test, run uint64) *rand.Rand {
	return rand.New(rand.NewPCG(test, run))
}

// binomial draws the number of successes: exactly where it is small, from the
// normal distribution where neither outcome is rare.
func binomial(r *rand.Rand, n uint64, p float64) uint64 {
	if p > 0.5 {
		return n - binomial(r, n, 1-p)
	}
	mean := float64(n) * p
	if p <= 0 || n == 0 {
		return 0
	}
	if mean > 500 {
		x := math.Round(mean + math.Sqrt(mean*(1-p))*r.NormFloat64())
		return uint64(min(float64(n), max(0, x)))
	}
	// Gaps between successes are geometric.
	x, at, scale := uint64(0), 0.0, math.Log1p(-p)
	for {
		at += math.Floor(math.Log(1-r.Float64())/scale) + 1
		if at > float64(n) {
			return x
		}
		x++
	}
}

// dealt draws how many of m bad requests fall to the canary if chance deals
// them: nc of n are the canary's.
func dealt(r *rand.Rand, n, nc, m uint64) uint64 {
	x := uint64(0)
	for i := range m {
		if r.Uint64N(n-i) < nc-x {
			x++
		}
	}
	return x
}

// upper is the one-sided 95 % Clopper-Pearson bound on a probability that
// showed itself hits times in runs.
func upper(hits, runs int) float64 {
	lo, hi := 0.0, 1.0
	for range 60 {
		mid := (lo + hi) / 2
		if below(hits, runs, mid) > 0.05 {
			lo = mid
		} else {
			hi = mid
		}
	}
	return hi
}

// lower is the bound on the other side.
func lower(hits, runs int) float64 {
	return 1 - upper(runs-hits, runs)
}

// below is the probability of at most hits in runs at rate p.
func below(hits, runs int, p float64) float64 {
	if p <= 0 {
		return 1
	}
	if p >= 1 {
		return 0
	}
	sum := 0.0
	lnN, _ := math.Lgamma(float64(runs) + 1)
	for k := range hits + 1 {
		lnK, _ := math.Lgamma(float64(k) + 1)
		lnR, _ := math.Lgamma(float64(runs-k) + 1)
		sum += math.Exp(lnN - lnK - lnR + float64(k)*math.Log(p) + float64(runs-k)*math.Log1p(-p))
	}
	return sum
}

// quantile sorts x and returns the value at q; +Inf stands for never.
func quantile(x []float64, q float64) float64 {
	slices.Sort(x)
	return x[min(len(x)-1, int(q*float64(len(x))))]
}

// each runs f for every run on two cores and returns the results in order.
func each[T any](runs int, f func(run uint64) T) []T {
	out := make([]T, runs)
	var wait sync.WaitGroup
	const workers = 2
	for w := range workers {
		wait.Go(func() {
			for i := w; i < runs; i += workers {
				out[i] = f(uint64(i))
			}
		})
	}
	wait.Wait()
	return out
}

func count(hits []bool) int {
	n := 0
	for _, h := range hits {
		if h {
			n++
		}
	}
	return n
}

// watch is a test of one rate, at the tool's defaults but for what change sets.
func watch(tb testing.TB, change func(*analysis.Config)) *analysis.Test {
	c := analysis.Default()
	c.Rates = []analysis.Rate{{Name: "errors", Weight: 1}}
	if change != nil {
		change(&c)
	}
	test, err := analysis.New(c)
	if err != nil {
		tb.Error(err)
	}
	return test
}

func failed(test *analysis.Test) bool { return test.Decide(0) == backstay.Fail }

// rates is a block of counts that ends at end.
func rates(stratum string, end time.Duration, length time.Duration, nc, nb, xc, xb uint64) analysis.Block {
	return analysis.Block{
		Metric: "errors", Stratum: stratum, Start: end - length, End: end,
		Canary: analysis.Counts{Requests: nc, Bad: xc}, Baseline: analysis.Counts{Requests: nb, Bad: xb},
	}
}

func TestDraws(t *testing.T) {
	t.Parallel()
	r := seeded(1, 1)
	for _, row := range []struct {
		n uint64
		p float64
	}{{20, .1}, {200, .001}, {200, .9}, {100_000, .02}} {
		sum, square := 0.0, 0.0
		const draws = 20_000
		for range draws {
			x := float64(binomial(r, row.n, row.p))
			sum += x
			square += x * x
		}
		mean, want := sum/draws, float64(row.n)*row.p
		variance := want * (1 - row.p)
		if math.Abs(mean-want) > 4*math.Sqrt(variance/draws) || math.Abs(square/draws-mean*mean-variance) > 0.06*variance+4*math.Sqrt(variance/draws) {
			t.Errorf("binomial(%d, %v): mean %v, want %v; variance %v, want %v", row.n, row.p, mean, want, square/draws-mean*mean, variance)
		}
	}
	// The bound of 12 in 20,000, from a table of the chi-squared distribution:
	// 38.885 (26 degrees of freedom, 95 %) / 2 / 20,000.
	if got := upper(12, 20_000); math.Abs(got-0.000972) > 1e-6 {
		t.Errorf("upper(12, 20000) = %v, want 0.000972", got)
	}
}
