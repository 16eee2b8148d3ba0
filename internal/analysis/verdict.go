package analysis

import (
	"fmt"
	"math"
	"time"

	"github.com/backstay-dev/backstay"
)

// Result is what can be said now. Odds and their thresholds are evidence, not
// probabilities: odds of 212 are "212 : 1 against the claim that the canary is
// no worse".
type Result struct {
	Verdict backstay.Verdict `json:"verdict"`
	Reason  string           `json:"reason"`
	// Odds against "the canary is no worse"; the verdict is fail from FailAt on,
	// and stays so.
	Odds   float64 `json:"odds"`
	FailAt float64 `json:"fail_at"`
	// Safe is the least, over the metrics, of the odds against "worse by at least
	// the margin"; the verdict is pass from PassAt on. 0: nothing asks to pass.
	Safe   float64 `json:"safe"`
	PassAt float64 `json:"pass_at"`
	// Looks made; requests of each arm in the largest metric.
	Looks    int64  `json:"looks"`
	Canary   uint64 `json:"canary_requests"`
	Baseline uint64 `json:"baseline_requests"`
	// More is about how many more canary requests a pass will take if the canary
	// equals the baseline, and Next how long that is at the traffic so far; 0 is unknown.
	More uint64        `json:"more,omitempty"`
	Next time.Duration `json:"next_ns,omitempty"`
	// Fresh is the end of the newest block of the metric that lags most. Whoever
	// asks must compare it with the time: old evidence is no evidence.
	Fresh   time.Duration `json:"fresh_ns"`
	Metrics []Metric      `json:"metrics"`
	Alarms  []Alarm       `json:"alarms,omitempty"`
}

// Metric is one metric's part of a result.
type Metric struct {
	Name     string  `json:"name"`
	Odds     float64 `json:"odds"` // capital of its bets over what was put in
	Safe     float64 `json:"safe"` // 0: not asked to pass
	Canary   Counts  `json:"canary"`
	Baseline Counts  `json:"baseline"`
	// Intervals of the odds ratio: one for a rate, one for each certified cut of a latency.
	Intervals []Interval `json:"intervals,omitempty"`
}

// AlarmKind names what an alarm is about.
type AlarmKind string

// The kinds of alarm. Both ask for a pause, not a rollback.
const (
	AlarmRatio AlarmKind = "sample_ratio" // the split of traffic is not what was configured
	AlarmLimit AlarmKind = "limit"        // the canary is above an absolute limit
)

// Alarm is a finding outside the comparison: pause and look, do not roll back
// for it.
type Alarm struct {
	Kind    AlarmKind `json:"kind"`
	Metric  string    `json:"metric"`
	Stratum string    `json:"stratum,omitempty"`
	Odds    float64   `json:"odds"`
	Reason  string    `json:"reason"`
}

// intervalEps is one minus the confidence of intervals for display.
const intervalEps = 0.05

// Decide says what the evidence allows at this traffic step (from 0): Fail from
// when the canary is proven worse, Pass when every metric that has margins is
// proven safe for the step, else Undecided, which is what no data is too.
func (t *Test) Decide(step int) backstay.Verdict {
	if t.state.Failed {
		return backstay.Fail
	}
	asked := false
	for m := range t.tracks {
		ln, asks := t.safe(m, step)
		if asks && ln < -math.Log(t.config.Beta) {
			return backstay.Undecided
		}
		asked = asked || asks
	}
	if asked {
		return backstay.Pass
	}
	return backstay.Undecided
}

// Verdict is Decide with all that can be said about it.
func (t *Test) Verdict(step int) Result {
	s := &t.state
	ln := s.Wealth.ln()
	if s.Failed {
		ln = s.FailedLn
	}
	r := Result{
		Odds: odds(ln), FailAt: 1 / t.config.Alpha, PassAt: 1 / t.config.Beta,
		Looks: s.Looks, Fresh: math.MaxInt64,
	}
	safe, asked := math.Inf(1), false
	for m := range t.tracks {
		rec := &s.Metrics[m]
		mine, asks := t.safe(m, step)
		r.Metrics = append(r.Metrics, t.metric(m, mine, asks))
		if asks {
			asked, safe = true, math.Min(safe, mine)
		}
		r.Canary = max(r.Canary, rec.Canary.Requests)
		r.Baseline = max(r.Baseline, rec.Baseline.Requests)
		newest := time.Duration(0)
		for _, series := range rec.Series {
			newest = max(newest, series.End)
		}
		r.Fresh = min(r.Fresh, newest)
		r.Alarms = append(r.Alarms, t.alarms(m)...)
	}
	if asked {
		r.Safe = odds(safe)
	}
	if r.Verdict = t.Decide(step); r.Verdict == backstay.Undecided {
		r.More, r.Next = t.more(step)
	}
	r.Reason = t.reason(&r, step, asked)
	return r
}

// safe is the ln evidence that a metric is safe for the step, and whether it
// has anything to show.
func (t *Test) safe(m, step int) (ln float64, asks bool) {
	rec := &t.state.Metrics[m]
	if len(rec.Safe) == 0 {
		return 0, false
	}
	if t.tracks[m].rate != nil {
		return lnSum(rec.Safe[marginAt(step, len(rec.Safe))]), true
	}
	ln = math.Inf(1)
	for _, s := range rec.Safe {
		ln = math.Min(ln, lnSum(s))
	}
	return ln, true
}

func marginAt(step, margins int) int { return min(max(step, 0), margins-1) }

func (t *Test) metric(m int, safe float64, asks bool) Metric {
	tr, rec, w := &t.tracks[m], &t.state.Metrics[m], &t.state.Wealth
	end := len(w.Bets)
	if m+1 < len(t.tracks) {
		end = t.tracks[m+1].first
	}
	paid := 0.0
	for _, s := range w.share[tr.first:end] {
		paid += s * (1 - w.Reserve)
	}
	out := Metric{
		Name: tr.name, Odds: odds(lnSum(w.Bets[tr.first:end]) - math.Log(paid)),
		Canary: rec.Canary, Baseline: rec.Baseline,
	}
	if asks {
		out.Safe = odds(safe)
	}
	for _, c := range rec.Curves {
		out.Intervals = append(out.Intervals, c.interval(intervalEps))
	}
	return out
}

func (t *Test) alarms(m int) []Alarm {
	tr, rec := &t.tracks[m], &t.state.Metrics[m]
	var all []Alarm
	for _, s := range rec.Series {
		if ln := s.Ratio.ln(); ln >= math.Log(ratioBar) {
			got := float64(s.Ratio.Canary) / math.Max(1, float64(s.Ratio.Canary+s.Ratio.Baseline))
			all = append(all, Alarm{
				Kind: AlarmRatio, Metric: tr.name, Stratum: s.Stratum, Odds: odds(ln),
				Reason: fmt.Sprintf("routing is not what was configured: the canary got %.3g %% of the requests of %q, not %.3g %%", 100*got, s.Stratum, 100*s.Ratio.Share),
			})
		}
	}
	if tr.rate != nil && tr.rate.Limit > 0 {
		if ln := lnOver(tr.rate.Limit, t.config.Alpha, rec.Canary); ln >= -math.Log(t.config.Alpha) {
			all = append(all, Alarm{
				Kind: AlarmLimit, Metric: tr.name, Odds: odds(ln),
				Reason: fmt.Sprintf("%s: the canary's rate is above the limit of %.3g %%; the baseline's is not looked at", tr.name, 100*tr.rate.Limit),
			})
		}
	}
	return all
}

// more estimates what is missing to a pass: of the rates' margins only, from
// the baseline rate and the share so far.
func (t *Test) more(step int) (uint64, time.Duration) {
	worst := 0.0
	for m := range t.tracks {
		tr, rec := &t.tracks[m], &t.state.Metrics[m]
		if tr.rate == nil || len(rec.Safe) == 0 || rec.Canary.Requests == 0 || rec.Baseline.Requests == 0 {
			continue
		}
		i := marginAt(step, len(rec.Safe))
		known := tr.rate.History.plus(rec.Baseline)
		rate := knownRate(float64(known.Bad), float64(known.Requests))
		share := float64(rec.Canary.Requests) / float64(rec.Canary.Requests+rec.Baseline.Requests)
		missing := (-math.Log(t.config.Beta) - lnSum(rec.Safe[i])) / -math.Log(t.config.Beta)
		worst = math.Max(worst, missing*tr.rate.Margins[i].Requests(rate, share, t.config.Beta))
	}
	if !(worst > 0 && worst < maxCount) {
		return 0, 0
	}
	most := uint64(0)
	for m := range t.state.Metrics {
		most = max(most, t.state.Metrics[m].Canary.Requests)
	}
	next := worst / float64(most) * float64(t.state.Now)
	if !(next < math.MaxInt64/2) {
		return uint64(math.Ceil(worst)), 0
	}
	return uint64(math.Ceil(worst)), time.Duration(next)
}

// odds is exp, kept finite so that it can be written as JSON.
func odds(ln float64) float64 { return math.Exp(math.Min(ln, 700)) }

func (t *Test) reason(r *Result, step int, asked bool) string {
	used := fmt.Sprintf("after %d canary and %d baseline requests", r.Canary, r.Baseline)
	switch r.Verdict {
	case backstay.Fail:
		return fmt.Sprintf("the new version is worse than the running one: evidence %.4g : 1 at %v, threshold %.4g : 1, %s", r.Odds, t.state.FailedAt, r.FailAt, used)
	case backstay.Pass:
		return fmt.Sprintf("the new version is not worse by %s: evidence %.4g : 1, threshold %.4g : 1, %s", t.margins(step), r.Safe, r.PassAt, used)
	case backstay.Undecided:
	}
	if r.Canary == 0 || r.Baseline == 0 {
		return "nothing can be said: one of the versions has no requests yet"
	}
	text := fmt.Sprintf("neither is shown yet: evidence %.4g : 1 that the new version is worse (needs %.4g : 1)", r.Odds, r.FailAt)
	if asked {
		text += fmt.Sprintf(", %.4g : 1 that it is not worse by %s (needs %.4g : 1)", r.Safe, t.margins(step), r.PassAt)
	} else {
		text += "; no metric has a margin, so nothing can pass"
	}
	for _, m := range r.Metrics {
		for _, i := range m.Intervals {
			text += fmt.Sprintf("; odds of a bad request in %s are %s the running version's", m.Name, i)
		}
	}
	return text + "; " + used
}

// margins names what a step asks for.
func (t *Test) margins(step int) string {
	text := ""
	for m := range t.tracks {
		if rate := t.tracks[m].rate; rate != nil && len(rate.Margins) > 0 {
			text = join(text, fmt.Sprintf("%s in %s", rate.Margins[marginAt(step, len(rate.Margins))], rate.Name))
		} else if l := t.tracks[m].latency; l != nil && len(l.Certify) > 0 {
			text = join(text, fmt.Sprintf("%.3g %% in %s", 100*l.Tolerance(), l.Name))
		}
	}
	return text
}

func join(a, b string) string {
	if a == "" {
		return b
	}
	return a + " or " + b
}
