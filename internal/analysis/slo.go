package analysis

import "math"

// sloPlan is the number of requests for which the absolute guard is tuned; it
// moves its power, never its validity.
const sloPlan = 1000

// lnOver is ln of the evidence that the canary's bad rate is above limit, from
// its own counts alone: the one-sided beta-binomial mixture of Howard, Ramdas,
// McAuliffe, Sekhon (2021), valid at every look if each request is bad with a
// chance of at most limit given the past. It blames the canary for an outage
// that hits both arms, so it is a reason to pause, not to roll back.
func lnOver(limit, alpha float64, c Counts) float64 {
	n, x := float64(c.Requests), float64(c.Bad)
	v := limit * (1 - limit)
	b := newBetaBinomial(v*sloPlan, alpha, limit, 1-limit, true)
	return b.ln(x-n*limit, v*n)
}

// betaBinomial is a mixture supermartingale for sums of centred outcomes that
// lie in [-g, h].
type betaBinomial struct {
	g, h, r, x, norm float64
}

// newBetaBinomial is tuned to be tightest at the intrinsic time vOpt and level alphaOpt.
func newBetaBinomial(vOpt, alphaOpt, g, h float64, oneSided bool) betaBinomial {
	b := betaBinomial{g: g, h: h, x: 1}
	level := alphaOpt
	if oneSided {
		b.x, level = h/(g+h), 2*alphaOpt
	}
	b.r = math.Max(mixtureScale(vOpt, level)-g*h, 1e-3*g*h)
	b.norm = lnBetaBelow(b.r/(g*(g+h)), b.r/(h*(g+h)), b.x)
	return b
}

// mixtureScale is the parameter rho of a normal mixture that is tightest at v and alpha.
func mixtureScale(v, alpha float64) float64 {
	a := 2 * math.Log(1/alpha)
	return v / (a + math.Log1p(a))
}

// ln is the log of the supermartingale at the sum s and intrinsic time v.
func (b betaBinomial) ln(s, v float64) float64 {
	g, h := b.g, b.h
	down, up := (v-g*s)/(g*(g+h)), (v+h*s)/(h*(g+h))
	return v/(g*h)*math.Log(g+h) - up*math.Log(g) - down*math.Log(h) +
		lnBetaBelow(b.r/(g*(g+h))+down, b.r/(h*(g+h))+up, b.x) - b.norm
}

// lnBetaBelow is ln of the incomplete beta function B_x(a, b), not regularised.
func lnBetaBelow(a, b, x float64) float64 {
	whole := lnGamma(a) + lnGamma(b) - lnGamma(a+b)
	if x >= 1 {
		return whole
	}
	front := a*math.Log(x) + b*math.Log1p(-x)
	if x < (a+1)/(a+b+2) {
		return front - math.Log(a) + math.Log(betaFraction(a, b, x))
	}
	rest := math.Exp(front-math.Log(b)-whole) * betaFraction(b, a, 1-x)
	return whole + math.Log1p(-math.Min(rest, 1-1e-16))
}

// betaFraction is the continued fraction of the incomplete beta function, by
// Lentz's method. It converges in about the square root of max(a, b) steps.
func betaFraction(a, b, x float64) float64 {
	const tiny = 1e-300
	away := func(v float64) float64 {
		if math.Abs(v) < tiny {
			return tiny
		}
		return v
	}
	c, d := 1.0, 1/away(1-(a+b)*x/(a+1))
	f := d
	for m := 1.0; m < 5e6; m++ {
		even := m * (b - m) * x / ((a + 2*m - 1) * (a + 2*m))
		d, c = 1/away(1+even*d), away(1+even/c)
		f *= d * c
		odd := -(a + m) * (a + b + m) * x / ((a + 2*m) * (a + 2*m + 1))
		d, c = 1/away(1+odd*d), away(1+odd/c)
		f *= d * c
		if math.Abs(d*c-1) < 1e-15 {
			break
		}
	}
	return f
}
