package analysis

import "math"

// bernoulli is an alternative or a null point: the rates of canary and baseline.
type bernoulli struct{ canary, baseline float64 }

// alternatives are the points that the promotion test of a rate bets on, given
// the baseline rate known so far: the canary half as bad, just as bad, and a
// third of the way to what is not tolerated.
func (m Margin) alternatives(rate float64) [3]bernoulli {
	return [3]bernoulli{
		{rate / 2, rate},
		{rate, rate},
		{rate + 0.35*(m.bar(rate)-rate), rate},
	}
}

// alternativeWeights are the shares of capital of alternatives.
func alternativeWeights() [3]float64 { return [3]float64{0.25, 0.5, 0.25} }

// bar is the canary rate that is just not tolerated at this baseline rate.
func (m Margin) bar(rate float64) float64 { return m.Ratio*rate + m.Delta }

// project returns the point of "canary rate >= ratio * baseline rate + delta"
// that is nearest to the alternative in relative entropy when a share c of the
// requests is the canary's: the reverse information projection, which makes
// the likelihood ratio a growth-optimal e-value against all of the null
// (Grünwald, de Heide, Koolen 2024). 0 < c < 1; the alternative is not in the null.
func (m Margin) project(alt bernoulli, c float64) bernoulli {
	lo, hi := 0.0, (1-m.Delta)/m.Ratio
	p := math.Min(alt.baseline, hi/2)
	for range 200 { // Newton, kept inside the bracket
		q := m.bar(p)
		dq, dp := alt.canary/q, alt.baseline/p
		gq, gp := (1-alt.canary)/(1-q), (1-alt.baseline)/(1-p)
		slope := c*m.Ratio*(gq-dq) + (1-c)*(gp-dp)
		if slope < 0 {
			lo = p
		} else {
			hi = p
		}
		next := p - slope/(c*m.Ratio*m.Ratio*(gq/(1-q)+dq/q)+(1-c)*(gp/(1-p)+dp/p))
		if !(next > lo && next < hi) {
			next = lo + (hi-lo)/2
		}
		if math.Abs(next-p) <= 1e-15*p || next == lo || next == hi {
			p = next
			break
		}
		p = next
	}
	return bernoulli{m.bar(p), p}
}

// lnRatio is the log likelihood ratio of two points on the counts of a block.
func lnRatio(alt, null bernoulli, canary, baseline Counts) float64 {
	return binaryRatio(alt.canary, null.canary, canary) + binaryRatio(alt.baseline, null.baseline, baseline)
}

func binaryRatio(alt, null float64, c Counts) float64 {
	bad, good := float64(c.Bad), float64(c.Requests-c.Bad)
	return bad*math.Log(alt/null) + good*(math.Log1p(-alt)-math.Log1p(-null))
}

// minHistory is how many baseline requests must be known before the promotion
// test of a rate begins to bet.
const minHistory = 100

// knownRate is the baseline rate as the past tells it, never 0 or 1.
func knownRate(bad, requests float64) float64 { return (bad + 0.05) / (requests + 0.1) }

// lnSafe is one promotion e-process: ln capital of its bets against "the
// degradation is at least the margin".
type lnSafe []float64

func newSafe() lnSafe {
	weights := alternativeWeights()
	s := make(lnSafe, len(weights))
	for k, w := range weights {
		s[k] = math.Log(w)
	}
	return s
}

// add bets on one block with both arms; rate is the baseline rate known
// before it. Using the block's own share is valid whatever the share is, as a
// weighted geometric mean is at most the arithmetic one.
func (s lnSafe) add(m Margin, rate float64, canary, baseline Counts) {
	if m.bar(rate) >= 1 {
		return
	}
	nc, nb := float64(canary.Requests), float64(baseline.Requests)
	for k, alt := range m.alternatives(rate) {
		s[k] += lnRatio(alt, m.project(alt, nc/(nc+nb)), canary, baseline)
	}
}

// certifyGrid are the odds ratios below 1 that the promotion test of a latency
// class bets on, in equal parts.
func certifyGrid() [certifyBets]float64 { return [certifyBets]float64{0.3, 0.5, 0.7, 0.85, 0.93} }

const certifyBets = 5

func newCertify() lnSafe {
	s := make(lnSafe, certifyBets)
	for k := range s {
		s[k] = -math.Log(float64(len(s)))
	}
	return s
}

func (s lnSafe) addUrn(u *urn, xc float64, l ladder) {
	for k, psi := range l.psi {
		s[k] += u.lnFactor(xc, psi, l.ln[k])
	}
}
