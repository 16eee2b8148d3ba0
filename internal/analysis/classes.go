package analysis

import (
	"fmt"
	"math"
)

// Latency is a metric whose outcome is one of a few ordered classes, cut at
// quantiles of the baseline. It is plain data: made once, before the first
// block, by NewLatency, and frozen with the plan.
type Latency struct {
	Name   string  `json:"name"`
	Weight float64 `json:"weight"`
	// Shift is the tolerated slowdown in buckets: a canary's latencies are moved
	// down by it before they are classed.
	Shift int `json:"shift"`
	// Cuts are bucket numbers: class b holds the buckets after Cuts[b-1] up to
	// and with Cuts[b].
	Cuts []int `json:"cuts"`
	// Bets hold, for each bet, what the canary's outcome in each class multiplies
	// it by (before the fair price is taken off); they must not fall, so that a
	// faster canary never earns more.
	Bets [][]float64 `json:"bets"`
	// Certify are the cuts (their places in Cuts) at which the canary must be shown
	// to be no slower than tolerated before it passes; none asks for nothing.
	Certify []int `json:"certify,omitempty"`
}

// minLatencyHistory is the least baseline that cuts can be made from.
const minLatencyHistory = 1000

func cutQuantiles() []float64 {
	return []float64{0.10, 0.25, 0.50, 0.75, 0.90, 0.95, 0.98, 0.99, 0.995, 0.999}
}

// NewLatency cuts classes at the baseline's p10 p25 p50 p75 p90 p95 p98 p99
// p99.5 p99.9, as far as they differ, and builds monotone bets on a general
// slowdown, a slower tail and a heavier top class. tolerance is the slowdown
// that is not held against the canary (0.05 is 5 %), rounded to whole buckets:
// Tolerance says to what. The median and p99 are certified if it is above
// none. The baseline must hold 1000 requests from before the rollout, better
// 10,000; only the power of the test depends on it.
func NewLatency(name string, weight, tolerance float64, baseline *Histogram) (Latency, error) {
	total := float64(baseline.Total())
	if total < minLatencyHistory {
		return Latency{}, fmt.Errorf("latency %q: %v baseline requests: at least %d are needed to place the classes", name, total, minLatencyHistory)
	}
	if !(tolerance >= 0 && tolerance <= 100) {
		return Latency{}, fmt.Errorf("latency %q: tolerance %v: a slowdown from 0 to 100 (10,000 %%) is wanted", name, tolerance)
	}
	l := Latency{Name: name, Weight: weight}
	if tolerance > 0 {
		l.Shift = max(1, int(math.Round(math.Log1p(tolerance)/math.Log(Gamma))))
	}
	for _, q := range cutQuantiles() {
		cut, below := nearestCut(baseline, q*total)
		if n := len(l.Cuts); below > 0 && cut < Buckets-1 && (n == 0 || cut > l.Cuts[n-1]) {
			l.Cuts = append(l.Cuts, cut)
		}
		if n := len(l.Cuts); (q == 0.5 || q == 0.99) && l.Shift > 0 && n > 0 && (len(l.Certify) == 0 || l.Certify[0] != n-1) {
			l.Certify = append(l.Certify, n-1)
		}
	}
	if len(l.Cuts) == 0 {
		return Latency{}, fmt.Errorf("latency %q: nine of ten baseline requests failed: there is nothing to compare", name)
	}
	l.Bets = l.bets(baseline)
	return l, nil
}

// Tolerance is the slowdown that is tolerated, after rounding.
func (l Latency) Tolerance() float64 { return math.Pow(Gamma, float64(l.Shift)) - 1 }

// Classes counts a histogram of one arm into dst, which is grown as needed.
func (l Latency) Classes(h *Histogram, canary bool, dst []uint64) []uint64 {
	dst = append(dst[:0], make([]uint64, len(l.Cuts)+1)...)
	shift := 0
	if canary {
		shift = l.Shift
	}
	class := 0
	for i, n := range &h.Counts {
		for class < len(l.Cuts) && (i-shift > l.Cuts[class] || i == Buckets-1) {
			class++
		}
		dst[class] += n
	}
	return dst
}

// nearestCut is the bucket up to which the count is nearest to want, and that count.
func nearestCut(h *Histogram, want float64) (at int, below float64) {
	best, sum := math.Inf(1), 0.0
	for i, c := range &h.Counts {
		sum += float64(c)
		if miss := math.Abs(sum - want); miss < best {
			best, at, below = miss, i, sum
		}
	}
	return at, below
}

// slowdown is an alternative: requests from the quantile on take factor times as long.
type slowdown struct{ from, factor float64 }

func slowdowns() []slowdown {
	return []slowdown{
		{0, 1.06},
		{0, 1.12},
		{0, 1.25},
		{0, 1.6},
		{0, 3},
		{0.90, 1.6},
		{0.90, 4},
		{0.98, 1.6},
		{0.98, 4},
	}
}

func (l Latency) bets(baseline *Histogram) [][]float64 {
	before := l.probabilities(baseline, slowdown{0, 1})
	var bets [][]float64
	for _, s := range slowdowns() {
		after := l.probabilities(baseline, s)
		rho := make([]float64, len(before))
		for b, p := range before {
			rho[b] = math.Min(1e6, (0.95*after[b]+0.05*p)/p)
		}
		bets = append(bets, monotone(rho, before))
	}
	for _, odds := range []float64{4, 30} {
		step := make([]float64, len(before))
		for b := range step {
			step[b] = 1
		}
		step[len(step)-1] = odds
		bets = append(bets, step)
	}
	return bets
}

// probabilities are those of the classes when the baseline is slowed down, a
// bucket's requests being spread over the two buckets that it is moved to. No
// class has none.
func (l Latency) probabilities(h *Histogram, s slowdown) []float64 {
	p := make([]float64, len(l.Cuts)+1)
	total := float64(h.Total())
	whole, part := math.Modf(math.Log(s.factor) / math.Log(Gamma))
	sum := 0.0
	for i, c := range &h.Counts {
		n := float64(c)
		if n == 0 {
			continue
		}
		sum += n
		slow := math.Min(1, math.Max(0, (sum-s.from*total)/n)) * n
		p[l.class(i)] += n - slow
		p[l.class(i+int(whole))] += slow * (1 - part)
		p[l.class(i+int(whole)+1)] += slow * part
	}
	for b := range p {
		p[b] = (p[b] + 0.5) / (total + 0.5*float64(len(p)))
	}
	return p
}

// class is where a bucket of the baseline belongs.
func (l Latency) class(bucket int) int {
	for b, cut := range l.Cuts {
		if bucket <= cut {
			return b
		}
	}
	return len(l.Cuts)
}

// monotone pools neighbours that fall until none does, keeping the weighted
// mean (pool-adjacent-violators).
func monotone(rho, weight []float64) []float64 {
	type pool struct {
		value, weight float64
		size          int
	}
	var pools []pool
	for b := range rho {
		pools = append(pools, pool{rho[b], weight[b], 1})
		for n := len(pools); n > 1 && pools[n-2].value > pools[n-1].value; n-- {
			a, z := pools[n-2], pools[n-1]
			w := a.weight + z.weight
			pools = append(pools[:n-2], pool{(a.value*a.weight + z.value*z.weight) / w, w, a.size + z.size})
		}
	}
	out := make([]float64, 0, len(rho))
	for _, p := range pools {
		for range p.size {
			out = append(out, p.value)
		}
	}
	return out
}
