package analysis

import (
	"math"
	"slices"
	"sort"
	"testing"
)

// The published values of Howard & Ramdas' confidence sequences (their own
// test suite). Only the beta-binomial mixture is product code (the absolute
// guard); the other bounds are written here from the papers (Howard, Ramdas,
// McAuliffe, Sekhon 2020, 2021; Howard & Ramdas 2022), and pin down the pieces
// that they share with it: tuning, log gamma, incomplete beta.

type mixture interface{ ln(s, v float64) float64 }

type normalMixture struct {
	rho      float64
	oneSided bool
}

func (m normalMixture) ln(s, v float64) float64 {
	ln := math.Log(m.rho/(v+m.rho))/2 + s*s/(2*(v+m.rho))
	if m.oneSided {
		ln += math.Log(2) + math.Log(math.Erfc(-s/math.Sqrt(2*(v+m.rho)))/2)
	}
	return ln
}

// gammaMixture is the gamma-exponential mixture, or the gamma-Poisson one.
type gammaMixture struct {
	rho, c  float64
	poisson bool
}

func (m gammaMixture) ln(s, v float64) float64 {
	cc := m.c * m.c
	r := m.rho / cc
	tail := func(a, x float64) float64 { // ln of the regularised part that the mixture integrates over
		p := gammaP(a, x)
		if m.poisson {
			return math.Log1p(-p)
		}
		return math.Log(p)
	}
	lead := r*math.Log(r) - lnGamma(r) - tail(r, r)
	vr := (v + m.rho) / cc
	if m.poisson {
		k := s/m.c + vr
		return lead + lnGamma(k) + tail(k, vr) - k*math.Log(vr) + v/cc
	}
	x := (m.c*s + v) / cc
	return lead + lnGamma(vr) + tail(vr, x+r) - vr*math.Log(x+r) + x
}

// gammaP is the regularised lower incomplete gamma function, by its series.
func gammaP(a, x float64) float64 {
	term := 1 / a
	sum := term
	for k := 1.0; k < 10000 && term > sum*1e-17; k++ {
		term *= x / (a + k)
		sum += term
	}
	return math.Exp(-x+a*math.Log(x)-lnGamma(a)) * sum
}

// mixtureBound is the sum at which the mixture reaches 1/alpha.
func mixtureBound(m mixture, v, alpha, top float64) float64 { //nolint:unparam // a bound is at a time, also where all rows have the same
	return bisect(0, top, func(s float64) bool { return m.ln(s, v) >= math.Log(1/alpha) })
}

// bisect is where above turns true.
func bisect(lo, hi float64, above func(float64) bool) float64 {
	for range 200 {
		mid := (lo + hi) / 2
		if above(mid) {
			hi = mid
		} else {
			lo = mid
		}
	}
	return (lo + hi) / 2
}

// zeta is the Riemann zeta function for s > 1, by Euler-Maclaurin.
func zeta(s float64) float64 {
	const n = 50.0
	sum := 0.0
	for k := 1.0; k < n; k++ {
		sum += math.Pow(k, -s)
	}
	return sum + math.Pow(n, 1-s)/(s-1) + math.Pow(n, -s)/2 + s*math.Pow(n, -s-1)/12 - s*(s+1)*(s+2)*math.Pow(n, -s-3)/720
}

func stitchConstants(eta float64) (k1, k2 float64) {
	return (math.Pow(eta, .25) + math.Pow(eta, -.25)) / math.Sqrt2, (math.Sqrt(eta) + 1) / 2
}

func polyStitching(v, alpha, vMin, c float64) float64 {
	const s, eta = 1.4, 2.0
	k1, k2 := stitchConstants(eta)
	v = math.Max(v, vMin)
	ell := s*math.Log(math.Log(eta*v/vMin)) + math.Log(zeta(s)/math.Pow(math.Log(eta), s)) + math.Log(1/alpha)
	return math.Sqrt(k1*k1*v*ell+k2*k2*c*c*ell*ell) + k2*c*ell
}

func doubleStitching(p, t, alpha, tOpt float64) float64 {
	const delta, s, eta = 0.5, 1.4, 2.0
	k1, k2 := stitchConstants(eta)
	t = math.Max(t, tOpt)
	logit := math.Log(p / (1 - p))
	r := p
	if p < 0.5 {
		r = math.Min(0.5, 1/(1+math.Exp(-(logit+2*delta*math.Sqrt(tOpt*eta/t)))))
	}
	variance := r * (1 - r)
	j := math.Sqrt(t/tOpt)*math.Abs(logit)/(2*delta) + 1
	z := zeta(s)
	ell := s*math.Log(math.Log(eta*t/tOpt)) + s*math.Log(j) + math.Log(2*z*(2*z+1)/(alpha*math.Pow(math.Log(eta), s)))
	extra := k2 * (1 - 2*p) / 3 * ell
	return delta*math.Sqrt(eta*t*variance/tOpt) + math.Sqrt(k1*k1*variance*t*ell+extra*extra) + extra
}

// processLIL bounds the empirical distribution function; its constant is the
// smallest for which the best peeling eta has error alpha.
func processLIL(t, alpha, tMin, a float64) float64 {
	err := func(c float64) float64 {
		best := math.Inf(1)
		for eta := 1.00005; eta < 2*a*a; eta += 0.00005 {
			gap := a - math.Sqrt(2*(eta-1)/c)
			if g := 2 / eta * gap * gap; gap > 0 && g > 1 {
				best = math.Min(best, 4*math.Exp(-g*c)*(1+1/((g-1)*math.Log(eta))))
			}
		}
		return best
	}
	c := 5.0
	for step := 5.0; step > 1e-5; step /= 2 {
		for err(c+step) > alpha {
			c += step
		}
	}
	return a * math.Sqrt((math.Log1p(math.Log(t/tMin))+c)/t)
}

func bernoulliInterval(x, n, alpha, tOpt float64) (lo, hi float64) {
	refuted := func(p float64) bool {
		m := newBetaBinomial(p*(1-p)*tOpt, 0.05, p, 1-p, false)
		return m.ln(x-n*p, p*(1-p)*n) >= math.Log(1/alpha)
	}
	rate := x / n
	if refuted(1e-12) {
		lo = bisect(1e-12, rate, func(p float64) bool { return !refuted(p) })
	}
	return lo, bisect(rate, 1-1e-12, refuted)
}

// quantileP is the p-value of "the arms' quantile is the same": the least, over
// where it may lie, of the product of both arms' evidence against that place.
func quantileP(one, two []float64, p float64) float64 {
	const tOpt = 100
	m := newBetaBinomial(tOpt*p*(1-p), 0.05, p, 1-p, false)
	evidence := func(arm []float64, x float64) float64 {
		n := float64(len(arm))
		below := func(k int) float64 { return m.ln(float64(k)-n*p, p*(1-p)*n) }
		from := sort.Search(len(arm), func(i int) bool { return arm[i] >= x }) // less than x
		to := sort.Search(len(arm), func(i int) bool { return arm[i] > x })    // at most x
		best := math.Inf(1)
		for k := from; k <= to; k++ {
			best = math.Min(best, below(k))
		}
		return best
	}
	least := math.Inf(1)
	for _, x := range slices.Concat(one, two) {
		least = math.Min(least, evidence(one, x)+evidence(two, x))
	}
	return math.Min(1, math.Exp(-least))
}

func TestConfidenceSequences(t *testing.T) {
	t.Parallel()
	const s, v, alpha = 10, 100, .05
	two := normalMixture{rho: mixtureScale(v, alpha)}
	one := normalMixture{rho: mixtureScale(v, 2*alpha), oneSided: true}
	exponential := gammaMixture{rho: one.rho, c: 2}
	poisson := gammaMixture{rho: one.rho, c: 2, poisson: true}
	betaTwo, betaOne := newBetaBinomial(v, alpha, .2, .8, false), newBetaBinomial(v, alpha, .2, .8, true)
	lo700, hi700 := bernoulliInterval(700, 1000, alpha, 100)
	lo1, hi1 := bernoulliInterval(1, 50, alpha, 50)
	for _, row := range []value{
		{"two-sided normal", "best rho", two.rho, 12.60056, 1e-5},
		{"two-sided normal", "ln", two.ln(s, v), -0.6510052, 1e-7},
		{"two-sided normal", "bound", mixtureBound(two, v, alpha, 1000), 30.35209, 1e-5},
		{"one-sided normal", "ln", one.ln(s, v), -0.06502391, 1e-8},
		{"one-sided normal", "bound", mixtureBound(one, v, alpha, 1000), 27.66071, 1e-5},
		{"gamma-exponential", "ln", exponential.ln(s, v), -0.2490165, 1e-7},
		{"gamma-exponential", "bound", mixtureBound(exponential, v, alpha, 1000), 33.02017, 1e-5},
		{"gamma-Poisson", "ln", poisson.ln(s, v), -0.06991219, 1e-8},
		{"gamma-Poisson", "bound", mixtureBound(poisson, v, alpha, 100), 30.1949, 1e-4},
		{"beta-binomial two-sided", "ln", betaTwo.ln(s, v), -0.6941012, 1e-7},
		{"beta-binomial two-sided", "bound", mixtureBound(betaTwo, v, alpha, v/.2), 31.4308, 1e-4},
		{"beta-binomial one-sided", "ln", betaOne.ln(s, v), -0.07134019, 1e-8},
		{"beta-binomial one-sided", "bound", mixtureBound(betaOne, v, alpha, v/.2), 28.41238, 1e-5},
		{"polynomial stitching", "c = 3", polyStitching(v, alpha, 10, 3), 64.48755, 1e-5},
		{"empirical process LIL", "t = 1000", processLIL(1000, alpha, 100, .85), 0.08204769, 1e-6},
		{"double stitching", "p = .5", doubleStitching(.5, 1000, alpha, 100), 68.62803, 1e-5},
		{"double stitching", "p = .9", doubleStitching(.9, 1000, alpha, 100), 43.72119, 1e-5},
		{"double stitching", "p = .1", doubleStitching(.1, 1000, alpha, 100), 59.96521, 1e-5},
		{"Bernoulli interval", "700/1000 from", lo700, 0.651629, 1e-6},
		{"Bernoulli interval", "700/1000 to", hi700, 0.745949, 1e-6},
		{"Bernoulli interval", "1/50 from", lo1, 0, 0},
		{"Bernoulli interval", "1/50 to", hi1, 0.13489, 1e-5},
	} {
		row.section = "§5 confseq: " + row.section
		row.check(t)
	}
	numbers := func(shift int) []float64 {
		x := make([]float64, 1000)
		for i := range x {
			x[i] = float64(i + 1 + shift)
		}
		return x
	}
	for _, row := range []struct {
		shift  int
		p      float64
		want   float64
		digits float64
	}{{70, .5, 0.814704, 1e-6}, {85, .5, 0.0838055, 1e-7}, {100, .5, 0.0054947, 1e-7}, {55, .9, 0.0340463, 1e-7}} {
		got := quantileP(numbers(0), numbers(row.shift), row.p)
		value{"§5 confseq: quantile A/B", "p-value", got, row.want, row.digits}.check(t)
	}
}
