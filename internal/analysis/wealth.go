package analysis

import (
	"math"
	"time"
)

// wealth is the capital of all bets of all metrics against the claim "the
// canary is no worse", with what is held back for later. It starts at 1. Bets
// are logarithms: a lost one is -1e6, not 0. The fields are state; share is
// derived from the configuration.
type wealth struct {
	Bets    []float64 `json:"bets"`    // ln capital of each bet
	Reserve float64   `json:"reserve"` // cash
	Paid    int       `json:"paid"`    // payments made from the reserve so far
	Window  int64     `json:"window"`  // of the burst guard
	Start   float64   `json:"start"`   // ln wealth when it began

	share []float64 // of each bet in what is paid in; sum 1
}

func newWealth(share []float64, reserve float64) wealth {
	w := wealth{Bets: make([]float64, len(share)), Reserve: reserve, share: share}
	for k, s := range share {
		w.Bets[k] = math.Log(s * (1 - reserve))
	}
	return w
}

// ln is the logarithm of bets and reserve together.
func (w *wealth) ln() float64 {
	bets := lnSum(w.Bets)
	if w.Reserve == 0 {
		return bets
	}
	return lnAdd(bets, math.Log(w.Reserve))
}

// maxPayments bounds the work after a long silence (10 weeks of minutes).
const maxPayments = 100_000

// pay moves what is due by now from the reserve into the bets: nine tenths of
// it in equal parts, one a minute, over the planned length; the rest in parts
// that shrink as 1/i² and never end. Moving cash leaves the wealth as it is.
func (w *wealth) pay(now, planned time.Duration, reserve float64) {
	if reserve == 0 {
		return
	}
	minutes := int(max(1, (planned+time.Minute-1)/time.Minute))
	due := int(min(now/time.Minute, maxPayments))
	for ; w.Paid < due; w.Paid++ {
		amount := reserve * 0.9 / float64(minutes)
		if i := float64(w.Paid + 1 - minutes); i > 0 {
			amount = reserve * 0.1 * 6 / (math.Pi * math.Pi * i * i)
		}
		amount = math.Min(amount, w.Reserve)
		if amount <= 0 {
			continue
		}
		w.Reserve -= amount
		for k := range w.Bets {
			w.Bets[k] = lnAdd(w.Bets[k], math.Log(amount*w.share[k]))
		}
	}
}

// guardGrowth is how much the wealth may grow in one window of the burst
// guard: three windows must agree on 1000 : 1, and no rounding asks for a fourth.
const guardGrowth = 10.01

// open notes the wealth at the first look of a window. A look at exactly the
// end of a window belongs to it.
func (w *wealth) open(now, guard time.Duration) {
	if guard == 0 {
		return
	}
	if window := int64((now + guard - 1) / guard); window != w.Window {
		w.Window, w.Start = window, w.ln()
	}
}

// cap takes from the bets what is above the window's limit. The reserve is
// left alone: a real regression that comes later needs it. Throwing money away
// keeps the guarantee.
func (w *wealth) cap(guard time.Duration) {
	if guard == 0 {
		return
	}
	limit := w.Start + math.Log(guardGrowth)
	if w.ln() <= limit {
		return
	}
	down := limit + math.Log1p(-w.Reserve*math.Exp(-limit)) - lnSum(w.Bets)
	for k := range w.Bets {
		w.Bets[k] += down
	}
}

// lnSum is ln of the sum of exp(x); the largest must be finite.
func lnSum(x []float64) float64 {
	top := x[0]
	for _, v := range x[1:] {
		top = math.Max(top, v)
	}
	sum := 0.0
	for _, v := range x {
		sum += math.Exp(v - top)
	}
	return top + math.Log(sum)
}

// lnAdd is ln(exp a + exp b).
func lnAdd(a, b float64) float64 {
	if a < b {
		a, b = b, a
	}
	return a + math.Log1p(math.Exp(b-a))
}
