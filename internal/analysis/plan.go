package analysis

import (
	"math"
	"time"
)

// Requests returns about how many canary requests it takes, at this baseline
// rate and canary share, to certify a canary that equals the baseline against
// the margin, with error beta. It is on the safe side: in simulations half of the
// rollouts took 55 to 85 % of it, and nine of ten at most about twice as many. It is
// infinite where no traffic suffices (the bar is not below 1). rate in (0, 1),
// share in (0, 1), beta in (0, 1).
func (m Margin) Requests(rate, share, beta float64) float64 {
	alt := bernoulli{rate, rate}
	if m.bar(rate) >= 1 || m.bar(rate) <= rate {
		return math.Inf(1)
	}
	null := m.project(alt, share)
	gain := share*divergence(rate, null.canary) + (1-share)*divergence(rate, null.baseline)
	return 1.2 * math.Log(1/beta) * share / gain
}

// Time returns how long Requests takes at this many requests per second over
// both arms; zero where it would be longer than a year.
func (m Margin) Time(rate, share, beta, perSecond float64) time.Duration {
	seconds := m.Requests(rate, share, beta) / (share * perSecond)
	if !(seconds < 365*24*3600) {
		return 0
	}
	return time.Duration(seconds * float64(time.Second))
}

// divergence is the relative entropy of two coins, in nats; 0 < q < 1.
func divergence(p, q float64) float64 {
	d := (1 - p) * (math.Log1p(-p) - math.Log1p(-q))
	if p > 0 {
		d += p * math.Log(p/q)
	}
	return d
}

// ImpactMargins turns an impact budget, the greatest rise of the bad rate over
// all traffic that may go unseen, into the margin of each traffic step: before
// a share s of the traffic goes to the canary, its own rate must be shown to
// have risen by less than budget/s. A margin is never above one half.
func ImpactMargins(budget float64, shares []float64) []Margin {
	margins := make([]Margin, len(shares))
	for i, s := range shares {
		margins[i] = Margin{Ratio: 1, Delta: math.Min(0.5, budget/s)}
	}
	return margins
}
