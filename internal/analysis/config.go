package analysis

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"
)

// Config says what a test watches and how sure it must be. Default has the
// values that suit most services; zero values are taken as they stand.
type Config struct {
	// Alpha bounds the chance that a canary which is no worse is ever rolled
	// back, over the whole rollout, all metrics and all looks. In (0, 0.5).
	Alpha float64 `json:"alpha"`
	// Beta bounds, for each margin, the chance that a canary which is worse by
	// at least that margin is ever promoted past it. In (0, 0.5).
	Beta float64 `json:"beta"`
	// Reserve is the part of the capital held back for regressions that begin
	// late. In [0, 1); 0 is none.
	Reserve float64 `json:"reserve"`
	// Planned is how long the rollout is expected to take; it sets the pace at
	// which the reserve is paid in.
	Planned time.Duration `json:"planned_ns"`
	// Guard is the window in which the evidence may grow tenfold at most, so that
	// one burst cannot convict; at least 1.5 times the longest local burst. 30 s
	// if the canary is one or two instances. 0 is off.
	Guard time.Duration `json:"guard_ns"`

	Rates     []Rate    `json:"rates,omitempty"`
	Latencies []Latency `json:"latencies,omitempty"`
}

// Default is alpha 0.1 %, beta 5 %, half the capital in reserve over a planned
// half hour, and a burst guard of 10 s. It watches nothing yet.
func Default() Config {
	return Config{Alpha: 0.001, Beta: 0.05, Reserve: 0.5, Planned: 30 * time.Minute, Guard: 10 * time.Second}
}

// Rate is a metric whose outcome is good or bad: errors, timeouts, sessions
// without an order. The unit must be independent of the others: one request
// after its retries or, where routing is sticky, one user.
type Rate struct {
	Name string `json:"name"`
	// Weight is the metric's part of the capital, relative to the others'.
	Weight float64 `json:"weight"`
	// Tolerance is the odds ratio up to which a canary counts as no worse; at
	// least 1, and 0 means 1.
	Tolerance float64 `json:"tolerance,omitempty"`
	// Margins are what must be shown before each traffic step; the last one also
	// holds for the steps after it. None: this metric can fail, but nothing asks
	// it to pass.
	Margins []Margin `json:"margins,omitempty"`
	// History is what is known of the baseline before the rollout, about 10^4
	// requests. It moves the time to promotion, not the guarantee.
	History Counts `json:"history"`
	// Limit, if not 0, is an absolute limit on the canary's rate (an SLO). Over
	// it an alarm is raised, at Alpha of its own.
	Limit float64 `json:"limit,omitempty"`
}

// Margin is a degradation that is not tolerated: a canary rate of at least
// Ratio times the baseline's plus Delta (0.002 is 0.2 percentage points).
type Margin struct {
	Ratio float64 `json:"ratio"`
	Delta float64 `json:"delta"`
}

func (m Margin) String() string {
	switch {
	case m.Ratio == 1:
		return fmt.Sprintf("%.3g percentage points", 100*m.Delta)
	case m.Delta == 0:
		return fmt.Sprintf("%.3g times", m.Ratio)
	}
	return fmt.Sprintf("%.3g times and %.3g percentage points", m.Ratio, 100*m.Delta)
}

// maxMetrics and maxSeries bound the state.
const (
	maxMetrics = 64
	maxSeries  = 4096
)

func (c Config) validate() error {
	var all []error
	bad := func(format string, args ...any) { all = append(all, fmt.Errorf(format, args...)) }
	in := func(what string, v, lo, hi float64) {
		if !(v > lo && v < hi) {
			bad("%s is %v: it must be between %v and %v; Default has a good value", what, v, lo, hi)
		}
	}
	in("alpha", c.Alpha, 1e-300, 0.5)
	in("beta", c.Beta, 1e-300, 0.5)
	if !(c.Reserve >= 0 && c.Reserve < 1) {
		bad("reserve is %v: it must be at least 0 and below 1", c.Reserve)
	}
	if c.Planned < 0 || c.Guard < 0 {
		bad("planned length and burst guard must not be negative")
	}
	if n := len(c.Rates) + len(c.Latencies); n == 0 || n > maxMetrics {
		bad("%d metrics: there must be 1 to %d", n, maxMetrics)
	}
	names := map[string]bool{}
	name := func(n string, weight float64) {
		if n == "" || names[n] {
			bad("metric name %q is empty or used twice", n)
		}
		names[n] = true
		in("weight of "+n, weight, 0, 1e9)
	}
	for _, r := range c.Rates {
		name(r.Name, r.Weight)
		all = append(all, r.validate()...)
	}
	for _, l := range c.Latencies {
		name(l.Name, l.Weight)
		all = append(all, l.validate()...)
	}
	return errors.Join(all...)
}

func (r Rate) validate() (all []error) {
	bad := func(format string, args ...any) {
		all = append(all, fmt.Errorf("metric %q: "+format, append([]any{r.Name}, args...)...))
	}
	if r.Tolerance != 0 && !(r.Tolerance >= 1 && r.Tolerance <= 1000) {
		bad("tolerance %v: an odds ratio from 1 to 1000 is wanted", r.Tolerance)
	}
	if r.Limit != 0 && !(r.Limit > 0 && r.Limit < 1) {
		bad("limit %v: a rate between 0 and 1 is wanted", r.Limit)
	}
	if len(r.Margins) > maxMetrics {
		bad("%d margins: %d at most", len(r.Margins), maxMetrics)
	}
	for _, m := range r.Margins {
		if !(m.Ratio >= 1 && m.Ratio <= 1000 && m.Delta >= 0 && m.Delta < 1) || m.Ratio == 1 && m.Delta == 0 {
			bad("margin of ratio %v and delta %v: ratio must be at least 1, delta in [0, 1), and one of them above nothing", m.Ratio, m.Delta)
		}
	}
	if err := r.History.validate(0); err != nil {
		bad("history: %w", err)
	}
	return all
}

// tolerance is the odds ratio of the null hypothesis.
func (r Rate) tolerance() float64 { return math.Max(1, r.Tolerance) }

func (l Latency) validate() (all []error) {
	bad := func(format string, args ...any) {
		all = append(all, fmt.Errorf("metric %q: "+format, append([]any{l.Name}, args...)...))
	}
	if len(l.Cuts) == 0 || len(l.Cuts) > maxMetrics || !slices.IsSorted(l.Cuts) || len(slices.Compact(slices.Clone(l.Cuts))) != len(l.Cuts) {
		bad("1 to %d ascending cuts are wanted; NewLatency makes them", maxMetrics)
		return all
	}
	if l.Cuts[0] < 0 || l.Cuts[len(l.Cuts)-1] >= Buckets-1 || l.Shift < 0 || l.Shift > Buckets {
		bad("cuts or shift outside the histogram")
	}
	if len(l.Bets) == 0 || len(l.Bets) > maxMetrics {
		bad("%d bets: there must be 1 to %d", len(l.Bets), maxMetrics)
	}
	for k, bet := range l.Bets {
		if len(bet) != len(l.Cuts)+1 || !slices.IsSorted(bet) || !(bet[0] >= 1e-9 && bet[len(bet)-1] <= 1e9) {
			bad("bet %d: %d ascending values between 1e-9 and 1e9 are wanted", k, len(l.Cuts)+1)
		}
	}
	for _, i := range l.Certify {
		if i < 0 || i >= len(l.Cuts) {
			bad("certified cut %d does not exist", i)
		}
	}
	return all
}
