package metric

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver"
	"github.com/backstay-dev/backstay/internal/driver/metric/signal"
)

// Compare is the kind of check "compare": the new side against the running one,
// over the same time, by sequential tests. It says pass when the new side is shown
// to be no worse than tolerated; it never says fail itself: how the evidence of
// all comparisons of a deployment adds up is backstay.Weigh's, and the engine's to
// act on.
type Compare struct{ open *opener }

var _ driver.Check = (*Compare)(nil)

// Name is "compare".
func (*Compare) Name() string { return "compare" }

// CheckConfig returns the keys of a check.
func (*Compare) CheckConfig() any { return &compareConfig{} }

type compareConfig struct {
	Compare string `yaml:"compare" json:"compare" required:"true" enum:"error-rate,latency,throughput,rate" doc:"What to compare: failed requests, how long they take, requests that are not completed (and whether the new side gets its part), or a rate that the source's own expressions count." example:"error-rate"`
	Source  string `yaml:"source" json:"source,omitempty" ref:"sources" doc:"Which source to ask. Default: the only one, or without any the proxy that the routes are on." example:"proxy"`

	Margin    *Amount   `yaml:"margin" json:"margin,omitempty" doc:"What is not tolerated: this many percentage points more than the running side's rate; for latency this much slower. Default: for error-rate a budget of 0.05%; 1% for throughput; 10% for latency." example:"0.2%"`
	Budget    *Amount   `yaml:"budget" json:"budget,omitempty" doc:"Instead of a margin: by how much the rate over all traffic may rise unseen. The margin of a step is this, divided by the share that comes next." example:"0.05%"`
	Ratio     float64   `yaml:"ratio" json:"ratio,omitempty" doc:"What is not tolerated: this many times the running side's rate (and margin on top). Default: 1." example:"1.5"`
	Tolerance float64   `yaml:"tolerance" json:"tolerance,omitempty" doc:"The odds ratio up to which the new side counts as no worse, for the rollback. Default: 1." example:"1.1"`
	Quantiles []float64 `yaml:"quantiles" json:"quantiles,omitempty" doc:"latency: which quantiles must be shown to be no slower. Default: [50, 99]." example:"[50, 99]"`

	FalseRollback  *Amount            `yaml:"false-rollback" json:"false-rollback,omitempty" doc:"The bound on the chance that a release which is no worse is ever rolled back. Default: 0.1%." example:"0.01%"`
	FalsePromotion *Amount            `yaml:"false-promotion" json:"false-promotion,omitempty" doc:"The bound on the chance that one which is worse by the margin ever passes. Default: 5%." example:"1%"`
	Guard          *backstay.Duration `yaml:"guard" json:"guard,omitempty" doc:"The window in which evidence grows tenfold at most, so that one burst cannot convict: 1.5 times the longest local burst; 30s with one or two instances; 0s is off. Default: 10s." example:"30s"`
	WarmUp         backstay.Duration  `yaml:"warm-up" json:"warm-up,omitempty" doc:"How long after the new side's first request nothing is counted. Default: 0s." example:"1m"`
	Weight         float64            `yaml:"weight" json:"weight,omitempty" doc:"The check's part of the evidence, relative to other comparisons. Default: 5 for error-rate, 3 for latency, 1 for others." example:"2"`

	Total     string `yaml:"total" json:"total,omitempty" doc:"What counts all requests (or sessions, orders, …). prometheus: a selector of counters; datadog: a query of counts, such as sum:requests{side:{side}}.as_count(); newrelic: NRQL without SINCE and TIMESERIES. {side} and {route} are replaced." example:"http_requests_total{side=\"{side}\"}"`
	Bad       string `yaml:"bad" json:"bad,omitempty" doc:"The same of those that speak against a side." example:"http_requests_total{side=\"{side}\",code=~\"5..\"}"`
	Durations string `yaml:"durations" json:"durations,omitempty" doc:"prometheus: the selector of a histogram's buckets, for latency." example:"http_seconds_bucket{side=\"{side}\"}"`

	Route    string `yaml:"route" json:"route,omitempty" doc:"The route whose sides are compared. Default: the release's." example:"shop"`
	Canary   string `yaml:"canary" json:"canary,omitempty" doc:"The new side. Default: the release's." example:"green"`
	Baseline string `yaml:"baseline" json:"baseline,omitempty" doc:"The running side. Default: the other one." example:"blue"`
}

// compareBody is the frozen check: every default is in it.
type compareBody struct {
	V         int               `json:"v"`
	Source    source            `json:"source"`
	Metric    signal.Metric     `json:"metric"`
	Margin    float64           `json:"margin,omitempty"`
	Budget    float64           `json:"budget,omitempty"`
	Ratio     float64           `json:"ratio"`
	Tolerance float64           `json:"tolerance"`
	Quantiles []float64         `json:"quantiles,omitempty"`
	Alpha     float64           `json:"alpha"`
	Beta      float64           `json:"beta"`
	Guard     backstay.Duration `json:"guard,omitzero"`
	WarmUp    backstay.Duration `json:"warm_up,omitzero"`
	Weight    float64           `json:"weight"`
	Total     string            `json:"total,omitempty"`
	Bad       string            `json:"bad,omitempty"`
	Durations string            `json:"durations,omitempty"`
	Route     string            `json:"route,omitempty"`
	Canary    string            `json:"canary,omitempty"`
	Baseline  string            `json:"baseline,omitempty"`
}

const (
	defaultAlpha  = 0.001
	defaultBeta   = 0.05
	defaultGuard  = backstay.Duration(10 * time.Second)
	defaultBudget = 0.0005
	// gatePrefix begins the IDs of checks that gates ask.
	gatePrefix = "gates."
)

// PrepareCheck freezes a check.
func (k *Compare) PrepareCheck(_ context.Context, req backstay.Request) (backstay.Prepared, error) {
	var c compareConfig
	if err := json.Unmarshal(req.Config, &c); err != nil {
		return backstay.Prepared{}, fmt.Errorf("decode compare check: %w", err)
	}
	p := &preparer{req: req}
	if !strings.HasPrefix(req.ID, gatePrefix) {
		p.refuse("compare", "compares two sides while both serve, so it belongs to a gate", "put it into gates, and name it in a release or gate step")
	}
	b := compareBody{
		V: bodyFormat, Source: p.source(c.Source), Metric: signal.Metric(c.Compare), Ratio: 1, Tolerance: 1,
		Alpha: p.share("false-rollback", c.FalseRollback, defaultAlpha), Beta: p.share("false-promotion", c.FalsePromotion, defaultBeta),
		Guard: defaultGuard, WarmUp: c.WarmUp, Weight: c.Weight, Total: c.Total, Bad: c.Bad, Durations: c.Durations,
		Route: c.Route, Canary: c.Canary, Baseline: c.Baseline, Quantiles: c.Quantiles,
	}
	if c.Guard != nil {
		b.Guard = *c.Guard
	}
	if b.Guard < 0 || b.WarmUp < 0 {
		p.refuse("guard", "and warm-up are not below 0", "")
	}
	if c.Ratio != 0 {
		b.Ratio = c.Ratio
	}
	if c.Tolerance != 0 {
		b.Tolerance = c.Tolerance
	}
	p.margins(&b, c)
	p.expressions(&b)
	prepared, err := p.result(k.Name(), b, b.summary())
	prepared.Part = b.Weight
	return prepared, err
}

func (p *preparer) share(at string, given *Amount, standard float64) float64 {
	if given == nil {
		return standard
	}
	if v := float64(*given); !(v > 0 && v < 0.5) {
		p.refuse(at, "is not above 0 and below 50%", "such as "+percent(standard))
		return standard
	}
	return float64(*given)
}

// margins fills in what is not tolerated.
func (p *preparer) margins(b *compareBody, c compareConfig) {
	weights := map[signal.Metric]float64{signal.Errors: 5, signal.Latency: 3, signal.Throughput: 1, signal.Rate: 1}
	if b.Weight == 0 {
		b.Weight = weights[b.Metric]
	}
	switch {
	case b.Weight < 0 || b.Weight > 1e6:
		p.refuse("weight", "is not above 0", "")
	case b.Ratio < 1 || b.Ratio > 100:
		p.refuse("ratio", "is not from 1 to 100", "1.5 tolerates half as much again")
	case b.Tolerance < 1 || b.Tolerance > 100:
		p.refuse("tolerance", "is not from 1 to 100", "1.1 does not hold a tenth more against the new side")
	case c.Margin != nil && c.Budget != nil:
		p.refuse("budget", "is instead of a margin", "drop one of them")
	case b.Metric == signal.Latency:
		p.latency(b, c)
		return
	case len(c.Quantiles) > 0:
		p.refuse("quantiles", "belong to latency", "drop them")
	case c.Margin != nil:
		b.Margin = float64(*c.Margin)
	case c.Budget != nil:
		b.Budget = float64(*c.Budget)
	case b.Metric == signal.Errors:
		b.Budget = defaultBudget
	case b.Metric == signal.Throughput:
		b.Margin = 0.01
	case b.Ratio == 1:
		p.refuse("margin", "is missing: nothing says how much worse is not tolerated", "give margin, budget or ratio")
	}
	if b.Margin < 0 || b.Margin >= 1 || b.Budget < 0 || b.Budget >= 1 || (b.Margin == 0 && b.Budget == 0 && b.Ratio == 1 && len(p.problems) == 0) {
		p.refuse("margin", "is not above 0 and below 100%", `"not worse at all" cannot be shown by any traffic`)
	}
}

func (p *preparer) latency(b *compareBody, c compareConfig) {
	b.Margin = 0.1
	if c.Margin != nil {
		b.Margin = float64(*c.Margin)
	}
	if c.Budget != nil || c.Ratio != 0 || c.Tolerance != 0 {
		p.refuse("margin", "is what latency has: budget, ratio and tolerance are of rates", "drop them")
	}
	if !(b.Margin > 0 && b.Margin <= 10) {
		p.refuse("margin", "is not above 0 and up to 1000%", "10% is usual")
	}
	if len(b.Quantiles) == 0 {
		b.Quantiles = []float64{50, 99}
	}
	known := []float64{10, 25, 50, 75, 90, 95, 98, 99, 99.5, 99.9}
	for _, q := range b.Quantiles {
		if !slices.Contains(known, q) {
			p.refuse("quantiles", fmt.Sprintf("%v is not among those that are watched", q), "10, 25, 50, 75, 90, 95, 98, 99, 99.5, 99.9")
		}
	}
}

// expressions checks what the source needs to know.
func (p *preparer) expressions(b *compareBody) {
	given := b.Total != "" || b.Bad != "" || b.Durations != ""
	switch {
	case b.Source.Proxy != "" && given:
		p.refuse("total", "a proxy counts by itself: total, bad and durations are of other sources", "drop them")
	case b.Source.Proxy != "" && b.Metric == signal.Rate:
		p.refuse("compare", "a proxy does not know what else to count", "compare error-rate, latency or throughput, or ask another source")
	case b.Source.Proxy != "" || len(b.Source.Exec) > 0:
	case b.Source.Prometheus == "" && (b.Metric == signal.Latency || b.Durations != ""):
		p.refuse("compare", "datadog and newrelic keep no buckets of durations that could be compared", "compare the rate of requests that are slower than your limit (total, bad), or query a quantile")
	case b.Metric == signal.Latency && b.Durations == "":
		p.refuse("durations", "is missing", `such as http_seconds_bucket{side="{side}"}`)
	case b.Metric != signal.Latency && (b.Total == "" || b.Bad == ""):
		p.refuse("total", "and bad are missing: what to count, and what of it is bad", `such as http_requests_total{side="{side}"}`)
	}
	for _, e := range []string{b.Total, b.Bad, b.Durations} {
		if e != "" && !strings.Contains(e, "{side}") {
			p.refuse("total", fmt.Sprintf("%q does not hold {side}, so both sides would be the same", e), "")
		}
	}
}

func (b compareBody) summary() string {
	what := "no worse than the running side"
	switch {
	case b.Metric == signal.Latency:
		what = "less than " + percent(b.Margin) + " slower"
	case b.Budget > 0:
		what = "budget " + percent(b.Budget) + " of all traffic"
	case b.Margin > 0:
		what = "less than " + strings.TrimSuffix(percent(b.Margin), " %") + " points more"
	}
	return fmt.Sprintf("%s of both sides: %s (%s)", b.Metric, what, b.Source.Name)
}
