package metric

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver"
	"github.com/backstay-dev/backstay/internal/driver/metric/proxystats"
	"github.com/backstay-dev/backstay/internal/driver/metric/signal"
)

// Query is the kind of check "query": a number against its bounds.
type Query struct{ open *opener }

var (
	_ driver.Check     = (*Query)(nil)
	_ driver.Sectioner = (*Query)(nil)
)

// Name is "query".
func (*Query) Name() string { return "query" }

// Sections are the sources.
func (*Query) Sections() map[string]any { return map[string]any{"sources": &sourceConfig{}} }

// CheckConfig returns the keys of a check.
func (*Query) CheckConfig() any { return &queryConfig{} }

type queryConfig struct {
	Query  string            `yaml:"query" json:"query" required:"true" doc:"What to ask the source for: one number. Prometheus: an expression. proxy: error-rate, requests (a second) or a quantile such as p99 (in seconds). {side}, {route} and {window} are replaced." example:"sum(rate(errors_total{side=\"{side}\"}[{window}]))"`
	Source string            `yaml:"source" json:"source,omitempty" ref:"sources" doc:"Which source to ask. Default: the only one, or without any the proxy that the routes are on." example:"prometheus"`
	Max    *Amount           `yaml:"max" json:"max,omitempty" doc:"It fails above this. A number, a percentage or a duration." example:"1%"`
	Min    *Amount           `yaml:"min" json:"min,omitempty" doc:"It fails below this." example:"20"`
	Window backstay.Duration `yaml:"window" json:"window,omitempty" doc:"What {window} stands for, and how far back a proxy is asked. Default: 1m." example:"5m"`
	Route  string            `yaml:"route" json:"route,omitempty" doc:"The route that is asked for. Default: the release's." example:"shop"`
	Side   string            `yaml:"side" json:"side,omitempty" doc:"The side that is asked for. Default: the new one; \"all\" is the whole route." example:"all"`
}

// queryBody is the frozen check.
type queryBody struct {
	V      int      `json:"v"`
	Source source   `json:"source"`
	Config question `json:"config"`
}

// question is what is asked, of a query or of an error budget.
type question struct {
	Query  string              `json:"query"`
	Max    *Amount             `json:"max,omitempty"`
	Min    *Amount             `json:"min,omitempty"`
	Window backstay.Duration   `json:"window,omitzero"`
	Burn   float64             `json:"budget,omitempty"`
	Spans  []backstay.Duration `json:"spans,omitempty"`
	Route  string              `json:"route,omitempty"`
	Side   string              `json:"side,omitempty"`
}

const defaultWindow = backstay.Duration(time.Minute)

// PrepareCheck freezes a check.
func (k *Query) PrepareCheck(_ context.Context, req backstay.Request) (backstay.Prepared, error) {
	var c queryConfig
	if err := json.Unmarshal(req.Config, &c); err != nil {
		return backstay.Prepared{}, fmt.Errorf("decode query check: %w", err)
	}
	p := &preparer{req: req}
	b := queryBody{V: bodyFormat, Source: p.source(c.Source)}
	b.Config = question{Query: strings.TrimSpace(c.Query), Max: c.Max, Min: c.Min, Window: c.Window, Route: c.Route, Side: c.Side}
	if b.Config.Window == 0 {
		b.Config.Window = defaultWindow
	}
	if c.Max == nil && c.Min == nil {
		p.refuse("query", "has no bound, so nothing could fail it", "add max, min, or both")
	}
	if c.Max != nil && c.Min != nil && *c.Max < *c.Min {
		p.refuse("max", "is below min", "")
	}
	p.words("query", b.Source, b.Config.Query)
	return p.result(k.Name(), b, summarize(b.Config, b.Source.Name))
}

// words checks what a proxy is asked for.
func (p *preparer) words(at string, s source, query string) {
	if s.Proxy != "" && !proxystats.Known(query) {
		p.refuse(at, fmt.Sprintf("a proxy does not know %q", query), "it knows error-rate, requests, and quantiles such as p99")
	}
}

func summarize(q question, source string) string {
	text := strings.Join(strings.Fields(q.Query), " ")
	if r := []rune(text); len(r) > 60 {
		text = string(r[:59]) + "…"
	}
	if q.Min != nil {
		text = number(float64(*q.Min)) + " ≤ " + text
	}
	if q.Max != nil {
		text += " ≤ " + number(float64(*q.Max))
	}
	return text + " (" + source + ")"
}

func number(f float64) string { return strconv.FormatFloat(f, 'g', 4, 64) }

// subject is what a check asks about: the gate's route and new side, unless it
// names others.
func subject(call backstay.Call, route, side string) (string, string) {
	if call.Gate != nil && route == "" {
		route = call.Gate.Route
	}
	switch side {
	case "":
		side = call.Slots["side"]
	case "all":
		side = ""
	}
	return route, side
}

// Check asks once.
func (k *Query) Check(ctx context.Context, call backstay.Call) (backstay.CheckResult, error) {
	var b queryBody
	if err := read(call.Step, &b.V, &b); err != nil {
		return backstay.CheckResult{}, err
	}
	src, err := k.open.open(b.Source, call.Secrets)
	if err != nil {
		return backstay.CheckResult{}, err
	}
	r, res := k.open.ask(ctx, src, b.Config, call, b.Config.Window.Std())
	if res != nil {
		return *res, nil
	}
	e := &backstay.Evidence{Metric: b.Config.Query, Value: &r.Value, Max: (*float64)(b.Config.Max), Min: (*float64)(b.Config.Min), Fresh: r.At}
	out := backstay.CheckResult{Verdict: backstay.Pass, Samples: 1, Evidence: e, Reason: fmt.Sprintf("it is %s", number(r.Value))}
	switch {
	case e.Max != nil && r.Value > *e.Max:
		out.Verdict, out.Reason = backstay.Fail, fmt.Sprintf("it is %s, above %s", number(r.Value), number(*e.Max))
	case e.Min != nil && r.Value < *e.Min:
		out.Verdict, out.Reason = backstay.Fail, fmt.Sprintf("it is %s, below %s", number(r.Value), number(*e.Min))
	}
	return out, nil
}

// tooOld is the age from which a reading says nothing about now.
const tooOld = time.Minute

// ask puts one question. What it cannot answer is undecided, with the reason.
func (o *opener) ask(ctx context.Context, src signal.Source, q question, call backstay.Call, window time.Duration) (signal.Reading, *backstay.CheckResult) {
	route, side := subject(call, q.Route, q.Side)
	r, err := src.Read(ctx, signal.Question{Query: q.Query, Route: route, Canary: side, Window: window})
	if err != nil {
		res := undecided("%v", err)
		return r, &res
	}
	if age := o.now().Sub(r.At); age > tooOld {
		res := undecided("the newest answer is %s old", age.Round(time.Second))
		return r, &res
	}
	return r, nil
}
