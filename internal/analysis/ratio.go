package analysis

import "math"

// ratioBar is the evidence at which the split of traffic is called wrong.
const ratioBar = 1e4

// ratioPrior is the weight of the configured share in the prior, in requests.
const ratioPrior = 100

// ratio tests whether the arms get the requests that the configuration gives
// them, within one stratum: the multinomial test of Lindon & Malek (2022),
// valid at every look. It needs independent draws; a weighted round robin
// varies less than that and never alarms by chance. A new share closes the
// account of the old one.
type ratio struct {
	Share    float64 `json:"share,omitempty"`
	Canary   uint64  `json:"canary,omitempty"`
	Baseline uint64  `json:"baseline,omitempty"`
	Closed   float64 `json:"closed,omitempty"` // ln evidence under earlier shares
}

func (r *ratio) add(share float64, canary, baseline uint64) {
	if share != r.Share {
		r.Closed = r.ln()
		r.Share, r.Canary, r.Baseline = share, 0, 0
	}
	r.Canary += canary
	r.Baseline += baseline
}

func (r *ratio) ln() float64 {
	if r.Share == 0 {
		return r.Closed
	}
	counts := [...]float64{float64(r.Canary), float64(r.Baseline)}
	theta := [...]float64{r.Share, 1 - r.Share}
	return r.Closed + lnMultinomial(counts[:], theta[:], ratioPrior)
}

// lnMultinomial is ln of the evidence against the class probabilities theta:
// a Dirichlet mixture, with prior k theta, over what they are.
func lnMultinomial(counts, theta []float64, k float64) float64 {
	n, ln := 0.0, lnGamma(k)
	for i, x := range counts {
		n += x
		ln += lnGamma(k*theta[i]+x) - lnGamma(k*theta[i]) - x*math.Log(theta[i])
	}
	return ln - lnGamma(k+n)
}

// lnGamma is ln Γ(x) for x > 0, where the sign is known.
func lnGamma(x float64) float64 {
	v, _ := math.Lgamma(x)
	return v
}
