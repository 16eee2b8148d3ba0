package analysis

import (
	"fmt"
	"math"
)

// curvePoints is the number of odds ratios, log-spaced from 0.1 to 1000, at
// which the likelihood of the data is kept for display.
const curvePoints = 40

func curvePsi(g int) float64 {
	return math.Pow(10, -1+4*float64(g)/(curvePoints-1))
}

// ladder is a list of odds ratios with their logarithms.
type ladder struct{ psi, ln []float64 }

func newLadder(psi ...float64) ladder {
	l := ladder{psi: psi}
	for _, p := range psi {
		l.ln = append(l.ln, math.Log(p))
	}
	return l
}

func curveLadder() ladder {
	var psi []float64
	for g := range curvePoints {
		psi = append(psi, curvePsi(g))
	}
	return newLadder(psi...)
}

// curve is the log likelihood of the counts, given the margins of every block,
// at each odds ratio of the grid. Curves add over blocks and strata.
type curve []float64

func (s curve) add(u *urn, xc float64, l ladder) {
	for g := range s {
		s[g] += u.lnFactor(xc, l.psi[g], l.ln[g])
	}
}

// Interval holds the odds ratios (canary to baseline) that the data do not
// refute; 2 means that the odds of a bad request are twice as high. It covers
// the true one with the stated confidence at every look at once. Lo 0 and Hi 0
// mean that the data give no bound on that side, within 0.1 to 1000.
type Interval struct {
	Lo         float64 `json:"lo"`
	Hi         float64 `json:"hi"`
	Confidence float64 `json:"confidence"`
}

func (i Interval) String() string {
	switch {
	case i.Lo == 0 && i.Hi == 0:
		return "unknown"
	case i.Lo == 0:
		return fmt.Sprintf("at most %.3g times", i.Hi)
	case i.Hi == 0:
		return fmt.Sprintf("at least %.3g times", i.Lo)
	}
	return fmt.Sprintf("%.3g to %.3g times", i.Lo, i.Hi)
}

// interval inverts the likelihood ratio mixtures: rho stays in while neither
// the points above it nor those below it have, on average, 2/eps times its
// likelihood. Ends are moved out to the next refuted grid point.
func (s curve) interval(eps float64) Interval {
	top := lnSum(s)
	var below [curvePoints + 1]float64 // likelihood of the points before g, over that of all
	for g, ln := range s {
		below[g+1] = below[g] + math.Exp(ln-top)
	}
	first, last := -1, -1
	for g, ln := range s {
		mine := 2 / eps * math.Exp(ln-top)
		above := below[len(s)] - below[g+1]
		if (g == 0 || below[g] < mine*float64(g)) && (g == len(s)-1 || above < mine*float64(len(s)-g-1)) {
			if first < 0 {
				first = g
			}
			last = g
		}
	}
	i := Interval{Confidence: 1 - eps}
	if first > 0 {
		i.Lo = curvePsi(first - 1)
	}
	if last >= 0 && last < len(s)-1 {
		i.Hi = curvePsi(last + 1)
	}
	return i
}
