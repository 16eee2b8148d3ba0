package analysis

import "math"

// narrow is the support up to which the chances of an urn are tabled once for
// all bets; 1000^narrow must not overflow.
const narrow = 64

// urn is a permutation with the table of its chances, where they are few.
type urn struct {
	permutation
	lo, width int
	chance    [narrow]float64 // of lo, lo+1, …, relative to the greatest
	total     float64
}

func newUrn(nc, nb, xc, xb uint64) urn {
	u := urn{permutation: permutation{nc: float64(nc), nb: float64(nb), m: float64(xc + xb), n: float64(nc + nb)}}
	lo, hi := math.Max(0, u.m-u.nb), math.Min(u.m, u.nc)
	if u.silent() || hi-lo >= narrow {
		return u
	}
	u.lo, u.width = int(lo), int(hi-lo)+1
	top := int(u.mode(1)) - u.lo
	u.chance[top], u.total = 1, 1
	for k := top; k+1 < u.width; k++ {
		i := lo + float64(k)
		u.chance[k+1] = u.chance[k] * (u.nc - i) * (u.m - i) / ((i + 1) * (u.nb - u.m + i + 1))
		u.total += u.chance[k+1]
	}
	for k := top; k > 0; k-- {
		i := lo + float64(k)
		u.chance[k-1] = u.chance[k] * i * (u.nb - u.m + i) / ((u.nc - i + 1) * (u.m - i + 1))
		u.total += u.chance[k-1]
	}
	return u
}

// lnFactor is that of the permutation; lnPsi is ln psi.
func (u *urn) lnFactor(xc, psi, lnPsi float64) float64 {
	if u.width == 0 || psi < 0.01 || psi > 1000 {
		return u.permutation.lnFactor(xc, psi, lnPsi)
	}
	sum := 0.0
	for k := u.width - 1; k >= 0; k-- {
		sum = sum*psi + u.chance[k]
	}
	return (xc-float64(u.lo))*lnPsi - math.Log(sum/u.total)
}

// permutation is one block seen as an urn: of n = nc + nb requests m are bad,
// and chance decides which of them fell to the canary.
type permutation struct{ nc, nb, m, n float64 }

// silent reports whether the margins leave nothing to chance; such a block
// says nothing, and its factor is exactly 1.
func (u permutation) silent() bool {
	return u.nc == 0 || u.nb == 0 || u.m == 0 || u.m == u.n
}

// wideUrn is the standard deviation from which the sum over the urn is left
// for the inversion, whose cost does not grow.
const wideUrn = 256

// lnFactor returns what a bet on the odds ratio psi earned on the block, when
// xc of the m bad requests are the canary's: ln(psi^xc / M(psi)), M being the
// expectation of psi^X for the hypergeometric X that the margins allow (Fisher's
// exact test as an e-value). lnPsi is ln psi; the block must not be silent, psi > 0.
//
// The sum runs over ratios from the mode of the tilted distribution outwards:
// from the untilted mode it would overflow for a broken canary.
func (u permutation) lnFactor(xc, psi, lnPsi float64) float64 {
	if u.m == 1 {
		return xc*lnPsi - math.Log1p(u.nc/u.n*(psi-1))
	}
	j := u.mode(psi)
	spread := 1 / (1/(j+1) + 1/(u.nc-j+1) + 1/(u.m-j+1) + 1/(u.nb-u.m+j+1))
	if spread > wideUrn*wideUrn {
		return xc*lnPsi - lnMeanBet(u.nc, u.n, []float64{u.n - u.m, u.m}, []float64{1, psi})
	}
	lo, hi := math.Max(0, u.m-u.nb), math.Min(u.m, u.nc)
	sum := 1.0
	for t, i := 1.0, j; i < hi && t > 1e-18*sum; i++ {
		t *= psi * (u.nc - i) * (u.m - i) / ((i + 1) * (u.nb - u.m + i + 1))
		sum += t
	}
	for t, i := 1.0, j; i > lo && t > 1e-18*sum; i-- {
		t *= i * (u.nb - u.m + i) / (psi * (u.nc - i + 1) * (u.m - i + 1))
		sum += t
	}
	return (xc-j)*lnPsi - u.lnChance(j) - math.Log(sum)
}

// mode is where psi^j times the chance of j is greatest, give or take one.
func (u permutation) mode(psi float64) float64 {
	lo, hi := math.Max(0, u.m-u.nb), math.Min(u.m, u.nc)
	// Neighbours are equal where (psi-1) j² - b j + psi nc m = 0.
	b := (u.nc+u.m)*psi + u.nb - u.m
	root := math.Sqrt(math.Max(0, b*b-4*(psi-1)*psi*u.nc*u.m))
	return math.Min(hi, math.Max(lo, math.Floor(2*psi*u.nc*u.m/(b+root))))
}

// lnChance is the log of the hypergeometric probability of j, by the saddle
// point expansion of Loader ("Fast and accurate computation of binomial
// probabilities", 2000): no factorial of a large number is ever subtracted
// from another.
func (u permutation) lnChance(j float64) float64 {
	p, q := u.m/u.n, (u.n-u.m)/u.n
	return lnBinomial(j, u.nc, p, q) + lnBinomial(u.m-j, u.nb, p, q) - lnBinomial(u.m, u.n, p, q)
}

// lnBinomial is the log of the probability of x successes in n trials; p + q = 1, both > 0.
func lnBinomial(x, n, p, q float64) float64 {
	switch x {
	case 0:
		return n * lnOf(q, p)
	case n:
		return n * lnOf(p, q)
	}
	return stirlingError(n) - stirlingError(x) - stirlingError(n-x) -
		deviance(x, n*p) - deviance(n-x, n*q) -
		(math.Log(2*math.Pi)+math.Log(x)+math.Log1p(-x/n))/2
}

// lnOf is ln p, p = 1 - q, from whichever of the two is known better.
func lnOf(p, q float64) float64 {
	if q < 0.5 {
		return math.Log1p(-q)
	}
	return math.Log(p)
}

// deviance is x ln(x/np) + np - x without cancellation near x = np.
func deviance(x, np float64) float64 {
	d := x - np
	if math.Abs(d) >= 0.1*(x+np) {
		return x*math.Log(x/np) + np - x
	}
	v := d / (x + np)
	sum, term := d*v, 2*x*v
	for i := 1.0; i < 1000; i++ {
		term *= v * v
		next := sum + term/(2*i+1)
		if next == sum {
			break
		}
		sum = next
	}
	return sum
}

// stirlingError is ln n! minus Stirling's formula for it, n a whole number >= 0.
func stirlingError(n float64) float64 {
	if n < 16 {
		small := [...]float64{
			0, 0.08106146679532725821, 0.04134069595540929409, 0.02767792568499833914,
			0.02079067210376509311, 0.01664469118982119216, 0.01387612882307074799, 0.01189670994589177009,
			0.01041126526197209649, 0.00925546218271273291, 0.00833056343336287125, 0.00757367548795184079,
			0.00694284010720952986, 0.00640899418800420706, 0.00595137011275884773, 0.00555473355196280137,
		}
		return small[int(n)]
	}
	nn := n * n
	return (1.0/12 - (1.0/360-(1.0/1260-(1.0/1680-1.0/1188/nn)/nn)/nn)/nn) / n
}

// lnMeanBet returns ln E, where E is the expectation over all ways to choose
// the nc canary requests among n of the product of rho over the chosen ones:
// the coefficient of z^nc in the product of (1 + z rho_b)^t_b, over C(n, nc).
// totals are the t_b (their sum is n), every rho_b > 0, 0 < nc < n.
//
// E = (1 + z rho_b)^t_b ... z^-nc P(S = nc) / C(n, nc) for any z, S a sum of
// binomials with q_b = z rho_b / (1 + z rho_b). z is chosen so that nc is the
// mean of S, and P(S = nc) is then read off the characteristic function of S on
// a lattice of N points: what N cannot tell apart is 10 standard deviations
// away, and the points that matter number about 30, whatever n is.
func lnMeanBet(nc, n float64, totals, rho []float64) float64 {
	c, nb := nc/n, n-nc
	odds := nc / nb
	z := tilt(nc, odds, totals, rho)
	lnE, variance := -nc*math.Log(z/odds), 0.0
	for b, t := range totals {
		q := z * rho[b] / (1 + z*rho[b])
		variance += t * q * (1 - q)
		lnE += t * math.Log1p(c*(z*rho[b]/odds-1))
	}
	points := math.Min(n+1, math.Ceil(20*math.Sqrt(variance))+60)
	sum := 1.0
	for k := 1.0; k <= points/2; k++ {
		half := math.Pi * k / points
		sin, cos := math.Sincos(half)
		lnSize, angle := 0.0, -2*half*nc
		for b, t := range totals {
			if t == 0 {
				continue
			}
			q := z * rho[b] / (1 + z*rho[b])
			lnSize += t / 2 * math.Log1p(-4*q*(1-q)*sin*sin)
			angle += t * math.Atan2(2*q*sin*cos, 1-2*q*sin*sin)
		}
		if lnSize < -42 {
			break
		}
		twice := 2.0
		if 2*k == points {
			twice = 1
		}
		sum += twice * math.Exp(lnSize) * math.Cos(angle)
	}
	return lnE + math.Log(sum/points) - lnBinomial(nc, n, c, nb/n)
}

// tilt finds z with sum t_b q_b = nc closely enough: the identity above holds
// for any z, so only the size of P depends on it.
func tilt(nc, odds float64, totals, rho []float64) float64 {
	lo, hi := math.Inf(1), 0.0
	for b, t := range totals {
		if t > 0 {
			lo, hi = math.Min(lo, odds/rho[b]), math.Max(hi, odds/rho[b])
		}
	}
	lnLo, lnHi := math.Log(lo), math.Log(hi)
	u := (lnLo + lnHi) / 2
	for range 200 {
		z := math.Exp(u)
		miss, slope := -nc, 0.0
		for b, t := range totals {
			q := z * rho[b] / (1 + z*rho[b])
			miss += t * q
			slope += t * q * (1 - q)
		}
		if miss > 0 {
			lnHi = u
		} else {
			lnLo = u
		}
		if math.Abs(miss) <= 1e-6*math.Sqrt(slope) || lnHi-lnLo < 1e-13 {
			break
		}
		if u -= miss / slope; !(u > lnLo && u < lnHi) {
			u = (lnLo + lnHi) / 2
		}
	}
	return math.Exp(u)
}
