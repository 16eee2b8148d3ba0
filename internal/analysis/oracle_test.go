package analysis

import (
	"math"
	"math/big"
	"math/bits"
	"math/rand/v2"
	"testing"
	"time"
)

// This file computes the same things in a second way that shares nothing with
// the product code: whole rollouts in exact rational numbers, prices by
// multiplying polynomials out, and fairness by dealing every hand.

func rat(v float64) *big.Rat { return new(big.Rat).SetFloat64(v) }

func choose(n, k uint64) *big.Rat {
	return new(big.Rat).SetInt(new(big.Int).Binomial(int64(n), int64(k)))
}

func power(x *big.Rat, n uint64) *big.Rat {
	p := big.NewRat(1, 1)
	for range n {
		p.Mul(p, x)
	}
	return p
}

// exactFactor is psi^xc / M(psi), term by term.
func exactFactor(nc, nb, xc, xb uint64, psi *big.Rat) *big.Rat {
	m := xc + xb
	sum := new(big.Rat)
	for j := uint64(0); j <= min(m, nc); j++ {
		if m-j > nb {
			continue
		}
		term := new(big.Rat).Mul(choose(nc, j), choose(nb, m-j))
		sum.Add(sum, term.Mul(term, power(psi, j)))
	}
	sum.Quo(sum, choose(nc+nb, m))
	return sum.Quo(power(psi, xc), sum)
}

// exactMean is E of the ordinal bet: the polynomials multiplied out.
func exactMean(nc uint64, totals []uint64, rho []float64) *big.Rat {
	coefficients := []*big.Rat{big.NewRat(1, 1)}
	n := uint64(0)
	for b, t := range totals {
		n += t
		for range t {
			next := append([]*big.Rat{}, coefficients...)
			next = append(next, new(big.Rat))
			for i, c := range coefficients {
				next[i+1] = new(big.Rat).Add(next[i+1], new(big.Rat).Mul(c, rat(rho[b])))
			}
			coefficients = next
		}
	}
	return new(big.Rat).Quo(coefficients[nc], choose(n, nc))
}

func lnRat(r *big.Rat) float64 {
	num, den := new(big.Float).SetInt(r.Num()), new(big.Float).SetInt(r.Denom())
	ln := func(x *big.Float) float64 {
		mant := new(big.Float)
		exp := x.MantExp(mant)
		m, _ := mant.Float64()
		return math.Log(m) + float64(exp)*math.Ln2
	}
	return ln(num) - ln(den)
}

// exactRollout is the wealth of one rate in exact rationals, with reserve and
// guard, within the planned length.
type exactRollout struct {
	bets    []*big.Rat
	weights []*big.Rat
	reserve *big.Rat
	start   *big.Rat
	window  int
	paid    int
}

func newExactRollout(reserve *big.Rat) *exactRollout {
	e := &exactRollout{reserve: reserve}
	for _, w := range []int64{2, 3, 4, 4, 4, 4, 3, 3, 3} {
		part := big.NewRat(w, 30)
		e.weights = append(e.weights, part)
		e.bets = append(e.bets, new(big.Rat).Mul(part, new(big.Rat).Sub(big.NewRat(1, 1), reserve)))
	}
	e.start = e.wealth()
	return e
}

func (e *exactRollout) wealth() *big.Rat {
	sum := new(big.Rat).Set(e.reserve)
	for _, b := range e.bets {
		sum.Add(sum, b)
	}
	return sum
}

func (e *exactRollout) step(second, planned, guard int, whole *big.Rat, b Block) {
	for ; e.paid < second/60; e.paid++ {
		amount := new(big.Rat).Mul(whole, big.NewRat(9, int64(10*planned)))
		e.reserve = new(big.Rat).Sub(e.reserve, amount)
		for k := range e.bets {
			e.bets[k].Add(e.bets[k], new(big.Rat).Mul(amount, e.weights[k]))
		}
	}
	if window := (second + guard - 1) / guard; window != e.window {
		e.window, e.start = window, e.wealth()
	}
	grid := []*big.Rat{big.NewRat(5, 4), big.NewRat(3, 2), big.NewRat(2, 1), big.NewRat(3, 1), big.NewRat(5, 1), big.NewRat(10, 1), big.NewRat(30, 1), big.NewRat(100, 1), big.NewRat(1000, 1)}
	for k, psi := range grid {
		e.bets[k].Mul(e.bets[k], exactFactor(b.Canary.Requests, b.Baseline.Requests, b.Canary.Bad, b.Baseline.Bad, psi))
	}
	limit := new(big.Rat).Mul(e.start, big.NewRat(1001, 100))
	if wealth := e.wealth(); wealth.Cmp(limit) > 0 {
		down := new(big.Rat).Quo(new(big.Rat).Sub(limit, e.reserve), new(big.Rat).Sub(wealth, e.reserve))
		for k := range e.bets {
			e.bets[k].Mul(e.bets[k], down)
		}
	}
}

// seeded is a generator whose seed is part of the test.
func seeded(a, b uint64) *rand.Rand {
	return rand.New(rand.NewPCG(a, b))
}

func TestWholeRolloutAgainstExactRationals(t *testing.T) {
	t.Parallel()
	r := seeded(5, 1)
	test := oneRate(t, func(c *Config) { c.Reserve, c.Guard, c.Planned = 0.5, 10*time.Second, 3*time.Minute })
	exact := newExactRollout(big.NewRat(1, 2))
	capped := false
	for i := range 14 {
		second := 1 + 9*i
		nc, nb := 3+r.Uint64N(6), 5+r.Uint64N(12)
		xc, xb := r.Uint64N(nc+1), r.Uint64N(3)
		b := rateBlock("a", second, nc, nb, xc, xb)
		add(t, test, b)
		exact.step(second, 3, 10, big.NewRat(1, 2), b)
		got, want := test.state.Wealth.ln(), lnRat(exact.wealth())
		if math.Abs(got-want) > 1e-11 {
			t.Errorf("after %d s: ln wealth %.15g, exactly %.15g", second, got, want)
		}
		top := new(big.Rat).Mul(exact.start, big.NewRat(1001, 100))
		capped = capped || exact.wealth().Cmp(top) == 0
	}
	if !capped || exact.paid == 0 {
		t.Errorf("the guard acted %v, %d payments: both must happen in this test", capped, exact.paid)
	}
}

func TestFactorsAgainstExactRationals(t *testing.T) {
	t.Parallel()
	r := seeded(5, 2)
	for range 80 {
		nc, nb := 1+r.Uint64N(60), 1+r.Uint64N(200)
		xc, xb := r.Uint64N(nc+1), r.Uint64N(nb+1)
		u := newUrn(nc, nb, xc, xb)
		if u.silent() {
			continue
		}
		for _, psi := range []float64{0.1, 0.93, 1.25, 3, 1000} {
			want := lnRat(exactFactor(nc, nb, xc, xb, rat(psi)))
			for how, got := range map[string]float64{
				"tabled":   u.lnFactor(float64(xc), psi, math.Log(psi)),
				"summed":   u.permutation.lnFactor(float64(xc), psi, math.Log(psi)),
				"inverted": float64(xc)*math.Log(psi) - lnMeanBet(u.nc, u.n, []float64{u.n - u.m, u.m}, []float64{1, psi}),
			} {
				if math.Abs(got-want) > 2e-12*(1+math.Abs(want)) {
					t.Errorf("block (%d %d %d %d), psi %v, %s: %.15g, exactly %.15g", nc, nb, xc, xb, psi, how, got, want)
				}
			}
		}
	}
}

func TestMeanBetAgainstExactPolynomials(t *testing.T) {
	t.Parallel()
	r := seeded(5, 3)
	for range 25 {
		totals, rho := make([]uint64, 5), make([]float64, 5)
		n, last := uint64(0), 0.05
		for b := range totals {
			totals[b] = r.Uint64N(14)
			n += totals[b]
			last *= 1 + 4*r.Float64()*r.Float64()
			rho[b] = last
		}
		if n < 2 {
			continue
		}
		nc := 1 + r.Uint64N(n-1)
		f := make([]float64, 5)
		for b := range f {
			f[b] = float64(totals[b])
		}
		got, want := lnMeanBet(float64(nc), float64(n), f, rho), lnRat(exactMean(nc, totals, rho))
		if math.Abs(got-want) > 1e-12*(1+math.Abs(want)) {
			t.Errorf("nc %d, classes %v, rho %v: %.15g, exactly %.15g", nc, totals, rho, got, want)
		}
	}
}

// deals calls f with every way to deal nc canary labels to n requests.
func deals(n, nc int, f func(canary func(i int) bool)) (count int) {
	for mask := range uint64(1) << n {
		if bits.OnesCount64(mask) == nc {
			f(func(i int) bool { return mask>>i&1 == 1 })
			count++
		}
	}
	return count
}

// Under exchangeability every deal is equally likely, and the mean over all of
// them of what one look makes of the wealth must be 1: for a rate, and for a
// latency, through the whole of Add.
func TestFairOverEveryDeal(t *testing.T) {
	t.Parallel()
	outcomes := []int{0, 0, 2, 1, 0, 3, 0, 2, 3, 0, 1} // classes; 2 and 3 are bad
	for nc := 1; nc < len(outcomes); nc++ {
		rate, latency := 0.0, 0.0
		count := deals(len(outcomes), nc, func(canary func(int) bool) {
			rate += math.Exp(dealtOnce(t, outcomes, canary, false))
			latency += math.Exp(dealtOnce(t, outcomes, canary, true))
		})
		for name, sum := range map[string]float64{"rate": rate, "latency": latency} {
			if mean := sum / float64(count); math.Abs(mean-1) > 1e-12 {
				t.Errorf("%s, %d of %d to the canary: mean wealth %.15g over %d deals, want 1", name, nc, len(outcomes), mean, count)
			}
		}
	}
}

// dealtOnce is ln of the wealth after one block with these outcomes.
func dealtOnce(t *testing.T, outcomes []int, canary func(int) bool, latency bool) float64 {
	t.Helper()
	arms := [2]Counts{{Classes: make([]uint64, 4)}, {Classes: make([]uint64, 4)}}
	for i, o := range outcomes {
		arm := &arms[1]
		if canary(i) {
			arm = &arms[0]
		}
		arm.Classes[o]++
	}
	test := oneRate(t, func(c *Config) {
		if latency {
			c.Rates = nil
			c.Latencies = []Latency{{Name: "errors", Weight: 1, Cuts: []int{1, 2, 3}, Bets: [][]float64{{.8, .9, 1.2, 4}, {1, 1, 1, 30}}}}
		}
	})
	b := Block{Metric: "errors", Stratum: "a", End: time.Second, Canary: arms[0], Baseline: arms[1]}
	if !latency {
		for _, c := range []*Counts{&b.Canary, &b.Baseline} {
			*c = Counts{Requests: c.total(), Bad: c.Classes[2] + c.Classes[3]}
		}
	}
	add(t, test, b)
	return test.state.Wealth.ln()
}

// With a tolerance the bet is fair where the odds ratio is exactly the
// tolerance, and only then; without one, a better canary loses on average.
func TestToleranceIsTheNull(t *testing.T) {
	t.Parallel()
	const nc, nb, m, rho = 7, 12, 6, 1.5
	mean := func(truth, tolerance float64) float64 {
		u := newUrn(nc, nb, 0, m)
		sum, weight := 0.0, 0.0
		for x := range uint64(m + 1) {
			test := oneRate(t, func(c *Config) { c.Rates[0].Tolerance = tolerance })
			add(t, test, rateBlock("a", 1, nc, nb, x, m-x))
			chance := math.Exp(u.lnChance(float64(x))) * math.Pow(truth, float64(x))
			sum += chance * math.Exp(test.state.Wealth.ln())
			weight += chance
		}
		return sum / weight
	}
	if got := mean(rho, rho); math.Abs(got-1) > 1e-12 {
		t.Errorf("at the tolerance: mean wealth %.15g, want 1", got)
	}
	if at, below, above := mean(1, 0), mean(.8, 0), mean(1.2, 0); math.Abs(at-1) > 1e-12 || below >= 1 || above <= 1 {
		t.Errorf("mean wealth %.15g at odds ratio 1, %.15g below, %.15g above", at, below, above)
	}
}

// binomial is the chance of x of n, by multiplication.
func binomial(x, n uint64, p float64) float64 {
	c, _ := choose(n, x).Float64()
	return c * math.Pow(p, float64(x)) * math.Pow(1-p, float64(n-x))
}

// At every point of the null "canary rate >= ratio * baseline rate + delta" the
// mean of a promotion block's factor, summed over all counts, is at most 1.
func TestPromotionIsNeverBetterThanFair(t *testing.T) {
	t.Parallel()
	const nc, nb = 5, 9
	for _, m := range []Margin{{1, .05}, {1.5, 0}, {1.2, .02}} {
		for _, base := range []float64{0.001, .01, .1, .3, .55} {
			for _, over := range []float64{0, .05, .2} {
				truth := math.Min(1, m.bar(base)+over)
				mean := 0.0
				for x := range uint64(nc + 1) {
					for y := range uint64(nb + 1) {
						s := newSafe()
						s.add(m, 0.02, Counts{Requests: nc, Bad: x}, Counts{Requests: nb, Bad: y})
						mean += binomial(x, nc, truth) * binomial(y, nb, base) * math.Exp(lnSum(s))
					}
				}
				if mean > 1+1e-12 {
					t.Errorf("margin %v, rates %v and %v: mean factor %.15g, want at most 1", m, truth, base, mean)
				}
			}
		}
	}
}

// The projection must be the nearest point of the null's edge: found here by
// looking at all of them.
func TestProjectionIsNearest(t *testing.T) {
	t.Parallel()
	for _, m := range []Margin{{1, .0005}, {1.5, 0}, {1.1, .01}} {
		for _, c := range []float64{.01, .3, .9} {
			alt := bernoulli{.008, .01}
			far := func(p float64) float64 {
				return c*divergence(alt.canary, m.bar(p)) + (1-c)*divergence(alt.baseline, p)
			}
			got, best := m.project(alt, c), math.Inf(1)
			for p := 1e-6; p < .05; p += 1e-6 {
				best = math.Min(best, far(p))
			}
			if d := far(got.baseline); d > best || d < best-1e-9 {
				t.Errorf("margin %v, share %v: distance %.12g at %v, the least found is %.12g", m, c, d, got, best)
			}
		}
	}
}
