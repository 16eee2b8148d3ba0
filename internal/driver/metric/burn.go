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
)

// Burn is the kind of check "burn": how many times faster than allowed an error
// budget is spent. It fails when that is too fast over a short and over a long
// window (Site Reliability Workbook, chapter 5): the long one shows that it
// matters, the short one that it still goes on.
type Burn struct{ open *opener }

var _ driver.Check = (*Burn)(nil)

// Name is "burn".
func (*Burn) Name() string { return "burn" }

// CheckConfig returns the keys of a check.
func (*Burn) CheckConfig() any { return &burnConfig{} }

type burnConfig struct {
	Burn    string              `yaml:"burn" json:"burn" required:"true" doc:"What to ask the source for: the share of bad events within {window}, from 0 to 1. proxy: error-rate." example:"sum(rate(errors_total[{window}])) / sum(rate(requests_total[{window}]))"`
	Source  string              `yaml:"source" json:"source,omitempty" ref:"sources" doc:"Which source to ask. Default: the only one, or without any the proxy that the routes are on." example:"prometheus"`
	SLO     Amount              `yaml:"slo" json:"slo" required:"true" doc:"The objective: the share of good events." example:"99.9%"`
	Windows []backstay.Duration `yaml:"windows" json:"windows,omitempty" doc:"The short and the long window. Default: [5m, 1h]." example:"[1m, 15m]"`
	Max     Amount              `yaml:"max" json:"max,omitempty" doc:"How many times faster than allowed is too fast, in both windows. Default: 14.4, which spends a month's budget in two days." example:"6"`
	Route   string              `yaml:"route" json:"route,omitempty" doc:"The route that is asked for. Default: the release's." example:"shop"`
	Side    string              `yaml:"side" json:"side,omitempty" doc:"The side that is asked for. Default: the whole route." example:"green"`
}

// fastBurn is the burn rate that spends 2 % of a 30-day budget in an hour.
const fastBurn = 14.4

// PrepareCheck freezes a check.
func (k *Burn) PrepareCheck(_ context.Context, req backstay.Request) (backstay.Prepared, error) {
	var c burnConfig
	if err := json.Unmarshal(req.Config, &c); err != nil {
		return backstay.Prepared{}, fmt.Errorf("decode burn check: %w", err)
	}
	p := &preparer{req: req}
	b := queryBody{V: bodyFormat, Source: p.source(c.Source)}
	if c.Max == 0 {
		c.Max = fastBurn
	}
	if len(c.Windows) == 0 {
		c.Windows = []backstay.Duration{backstay.Duration(5 * time.Minute), backstay.Duration(time.Hour)}
	}
	if c.Side == "" {
		c.Side = "all"
	}
	b.Config = question{Query: strings.TrimSpace(c.Burn), Max: &c.Max, Burn: 1 - float64(c.SLO), Spans: c.Windows, Route: c.Route, Side: c.Side}
	if !(c.SLO > 0 && c.SLO < 1) {
		p.refuse("slo", "is not between 0 and 100%", "such as 99.9%")
	}
	if c.Max <= 0 {
		p.refuse("max", "is not above 0", "")
	}
	if len(c.Windows) != 2 || !slices.IsSorted(c.Windows) || c.Windows[0] <= 0 || c.Windows[0] == c.Windows[1] {
		p.refuse("windows", "are not a short and a long one", "such as [5m, 1h]")
	}
	if b.Source.Proxy == "" && !strings.Contains(c.Burn, "{window}") {
		p.refuse("burn", "does not hold {window}, so both windows would be the same", "such as rate(errors_total[{window}])")
	}
	p.words("burn", b.Source, b.Config.Query)
	return p.result(k.Name(), b, fmt.Sprintf("spends the budget of %s less than %s times as fast as allowed, over %s and %s (%s)",
		percent(float64(c.SLO)), number(float64(c.Max)), c.Windows[0], c.Windows[len(c.Windows)-1], b.Source.Name))
}

// Check asks over both windows.
func (k *Burn) Check(ctx context.Context, call backstay.Call) (backstay.CheckResult, error) {
	var b queryBody
	if err := read(call.Step, &b.V, &b); err != nil {
		return backstay.CheckResult{}, err
	}
	src, err := k.open.open(b.Source, call.Secrets)
	if err != nil {
		return backstay.CheckResult{}, err
	}
	limit := float64(*b.Config.Max)
	var said []string
	least := 0.0
	fresh := k.open.now()
	for i, span := range b.Config.Spans {
		r, res := k.open.ask(ctx, src, b.Config, call, span.Std())
		if res != nil {
			return *res, nil
		}
		if r.Value < 0 || r.Value > 1 {
			return undecided("the share of bad events over %s is %s, not from 0 to 1", span, number(r.Value)), nil
		}
		rate := r.Value / b.Config.Burn
		if i == 0 || rate < least {
			least = rate
		}
		if r.At.Before(fresh) {
			fresh = r.At
		}
		said = append(said, fmt.Sprintf("%s times over %s", number(rate), span))
	}
	out := backstay.CheckResult{
		Verdict: backstay.Pass, Samples: len(said), Reason: "the budget is spent " + strings.Join(said, ", "),
		Evidence: &backstay.Evidence{Metric: "burn rate", Value: &least, Max: &limit, Fresh: fresh},
	}
	if least >= limit {
		out.Verdict, out.Reason = backstay.Fail, out.Reason+": as fast as "+number(limit)+" or faster in both"
	}
	return out, nil
}
