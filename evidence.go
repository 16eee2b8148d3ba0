package backstay

import (
	"fmt"
	"math"
	"strconv"
	"time"
)

// Evidence is what a check can show in numbers. Numbers are finite; odds above
// MaxOdds are told as that.
type Evidence struct {
	Metric string `json:"metric"`
	// Of a comparison: Odds against "the new side is no worse", which fail it from
	// FailAt on. Part is the check's part of the deployment's capital, relative to
	// other comparisons: the odds that decide are the weighted mean of all of them.
	Odds   float64 `json:"odds,omitempty"`
	FailAt float64 `json:"fail_at,omitempty"`
	Part   float64 `json:"part,omitempty"`
	// Safe are the odds against "worse by at least the margin", which pass it from PassAt on.
	Safe   float64 `json:"safe,omitempty"`
	PassAt float64 `json:"pass_at,omitempty"`
	Margin string  `json:"margin,omitempty"`
	// Low and High hold the odds ratios (new to running) that the data do not
	// refute, at every look at once; 0: no bound on that side.
	Low  float64 `json:"low,omitempty"`
	High float64 `json:"high,omitempty"`
	// Requests of both sides, and how many of them were bad.
	Canary      uint64 `json:"canary,omitempty"`
	CanaryBad   uint64 `json:"canary_bad,omitempty"`
	Baseline    uint64 `json:"baseline,omitempty"`
	BaselineBad uint64 `json:"baseline_bad,omitempty"`
	// More is about how many more requests of the new side a pass takes if both are
	// equal, Left how long that is at the traffic so far; 0: unknown.
	More uint64   `json:"more,omitempty"`
	Left Duration `json:"left,omitzero"`
	// Weight is the share of the new side that the gate stood at, in percent.
	Weight int `json:"weight,omitempty"`
	// Of a number: its value and its bounds.
	Value *float64 `json:"value,omitempty"`
	Max   *float64 `json:"max,omitempty"`
	Min   *float64 `json:"min,omitempty"`
	// Fresh is until when the source had told everything.
	Fresh time.Time `json:"fresh,omitzero"`
}

// largeOdds are far beyond any threshold.
const largeOdds = 1e6

// MaxOdds is the highest number that evidence tells.
const MaxOdds = 1e300

// Finite is f as evidence may hold it.
func Finite(f float64) float64 {
	switch {
	case math.IsNaN(f):
		return 0
	case f > MaxOdds:
		return MaxOdds
	case f < -MaxOdds:
		return -MaxOdds
	}
	return f
}

// Weigh is the evidence of several comparisons together: the mean of their odds,
// each in units of its own threshold, weighted by their parts of whole (the parts of
// all comparisons, also of those that have not begun, which count as nothing).
// From 1 on it fails them, and the chance that it ever does so without a difference
// is at most the largest of their alphas, however they depend on each other: it is
// never above the capital of a gambler who spread his stake over all of them, and
// that is a supermartingale.
func Weigh(all []Evidence, whole float64) float64 {
	parts, sum := 0.0, 0.0
	for _, e := range all {
		if e.Part > 0 && e.FailAt > 0 {
			parts += e.Part
			sum += e.Part * (e.Odds / e.FailAt)
		}
	}
	if whole = max(whole, parts); whole == 0 {
		return 0
	}
	return sum / whole
}

// Text says in one line what a comparison shows so far.
func (e Evidence) Text() string {
	if e.FailAt == 0 {
		return ""
	}
	if e.Canary == 0 || e.Baseline == 0 {
		return "one of the sides has had no request yet"
	}
	text := fmt.Sprintf("%s : 1 that the new side is worse (of %s)", Odds(e.Odds), Short(e.FailAt))
	if e.Margin != "" {
		text += fmt.Sprintf(", %s : 1 that it is not by %s (of %s)", Odds(e.Safe), e.Margin, Short(e.PassAt))
	}
	if i := e.Interval(); i != "" {
		text += ", odds ratio " + i
	}
	return text + fmt.Sprintf(", after %d and %d requests", e.Canary, e.Baseline)
}

// Interval is the range of the odds ratio in words; "" where nothing is known.
func (e Evidence) Interval() string {
	switch {
	case e.Low > 0 && e.High > 0:
		return Short(e.Low) + " to " + Short(e.High)
	case e.High > 0:
		return "at most " + Short(e.High)
	case e.Low > 0:
		return "at least " + Short(e.Low)
	}
	return ""
}

// Odds are odds to one in words: what is far beyond any threshold is told as that.
func Odds(f float64) string {
	if f >= largeOdds {
		return "over a million"
	}
	return Short(f)
}

// Short writes a number to three digits, and those up to a million as they are.
func Short(f float64) string {
	const plain = 1e3
	if a := math.Abs(f); a >= plain && a < largeOdds {
		return strconv.FormatFloat(f, 'f', 0, 64)
	}
	return strconv.FormatFloat(f, 'g', 3, 64)
}
