// Package prometheus is the source that asks a Prometheus (or what speaks its
// API: Thanos, Mimir, VictoriaMetrics). It promises what signal.Source does.
//
// Counters are read as raw samples and as increases over fixed slices: nothing
// is extrapolated, a restart counts from zero, a series that stopped reporting
// takes its slice away from both sides. What Prometheus itself is not sure of (a
// warning, a partial answer), NaN and infinities are no data.
package prometheus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/api"
	v1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/metric/signal"
)

// Options say which server is asked, and how its samples come.
type Options struct {
	URL string
	// Token is sent as a bearer token; "" for none.
	Token string
	// Scrape is how often targets are scraped. A series that is silent for three
	// of them is gone.
	Scrape time.Duration
	// Slice is the length of a slice, a multiple of Scrape: within it a shorter
	// common disturbance cannot fall to one side only.
	Slice time.Duration
	// Stratum is the label whose values are kept apart; "" for none.
	Stratum string
	// Now is the clock.
	Now func() time.Time
	// HTTP sends the requests; nil: a client of its own.
	HTTP *http.Client
}

// Source asks one server. It holds no state.
type Source struct {
	o   Options
	api v1.API
}

var _ signal.Source = (*Source)(nil)

type bearer struct {
	token string
	next  http.RoundTripper
}

func (b *bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+b.token)
	return b.next.RoundTrip(r) //nolint:wrapcheck // a decorator
}

// New returns the source. It does not connect.
func New(o Options) (*Source, error) {
	client := o.HTTP
	if client == nil {
		transport := &http.Transport{MaxIdleConns: 4, IdleConnTimeout: 30 * time.Second, Proxy: nil}
		client = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	if o.Token != "" {
		next := client.Transport
		if next == nil {
			next = http.DefaultTransport
		}
		with := *client
		with.Transport = &bearer{o.Token, next}
		client = &with
	}
	c, err := api.NewClient(api.Config{Address: o.URL, Client: client})
	if err != nil {
		return nil, fmt.Errorf("make a client of Prometheus: %w", err)
	}
	if o.Scrape <= 0 || o.Slice < o.Scrape || o.Now == nil {
		return nil, fmt.Errorf("make a client of Prometheus: scrape %s, slice %s: a slice holds a scrape at least", o.Scrape, o.Slice)
	}
	return &Source{o: o, api: v1.NewAPI(c)}, nil
}

func (s *Source) stale() time.Duration { return 3 * s.o.Scrape }

// query asks for a value at a time. Doubt of the server's own is an error.
func (s *Source) query(ctx context.Context, expr string, at time.Time) (model.Value, error) {
	value, warnings, _, err := s.api.Query(ctx, expr, at, v1.WithLookbackDelta(s.stale()))
	if err != nil {
		return nil, classify(err)
	}
	if len(warnings) > 0 {
		return nil, &signal.NoData{Why: "Prometheus answered with a warning: " + warnings[0]}
	}
	return value, nil
}

// classify says what kind of failure it is: a wrong query stays wrong.
func classify(err error) error {
	var e *v1.Error
	class, hint := backstay.Transient, "is Prometheus running, and is its URL right?"
	if errors.As(err, &e) && (e.Type == v1.ErrBadData || e.Type == v1.ErrExec) {
		class, hint = backstay.Permanent, "try the query in Prometheus itself"
	}
	return &backstay.Error{Class: class, Op: "ask Prometheus", Err: err, Hint: hint}
}

// expand fills in what stands in braces.
func expand(expr, route, side string, window time.Duration) string {
	w := strconv.FormatInt(max(window.Milliseconds(), 1), 10) + "ms"
	return strings.NewReplacer("{side}", side, "{route}", route, "{window}", w).Replace(expr)
}

// Read asks for one number now.
func (s *Source) Read(ctx context.Context, q signal.Question) (signal.Reading, error) {
	value, err := s.query(ctx, expand(q.Query, q.Route, q.Canary, q.Window), s.o.Now())
	if err != nil {
		return signal.Reading{}, err
	}
	var r signal.Reading
	switch v := value.(type) {
	case *model.Scalar:
		r = signal.Reading{Value: float64(v.Value), At: v.Timestamp.Time()}
	case model.Vector:
		if len(v) != 1 {
			why := "the query found nothing"
			if len(v) > 1 {
				why = fmt.Sprintf("the query found %d series; sum or select one", len(v))
			}
			return r, &signal.NoData{Why: why}
		}
		r = signal.Reading{Value: float64(v[0].Value), At: v[0].Timestamp.Time()}
	default:
		return r, &backstay.Error{Class: backstay.Permanent, Op: "ask Prometheus", Err: fmt.Errorf("the answer is a %s, not a number", value.Type())}
	}
	if math.IsNaN(r.Value) || math.IsInf(r.Value, 0) {
		return r, &signal.NoData{Why: fmt.Sprintf("the answer is %v", r.Value)}
	}
	return r, nil
}

// Signals returns the slices that are complete. A slice is, when every series
// that reported before it has reported up to its end.
func (s *Source) Signals(ctx context.Context, ask signal.Ask) (signal.Batch, error) {
	// A scrape more, so that what is scraped at a slice's end is stored.
	span, err := signal.Pending(ask, s.o.Now(), s.o.Slice, s.o.Scrape)
	if err != nil {
		return signal.Batch{}, err //nolint:wrapcheck // names the cursor
	}
	batch := span.Batch()
	if span.Empty() {
		return batch, nil
	}
	from := span.Start - s.stale().Milliseconds()
	canary, err := s.arm(ctx, ask, ask.Canary, from, span.End)
	if err != nil {
		return signal.Batch{}, err
	}
	baseline, err := s.arm(ctx, ask, ask.Baseline, from, span.End)
	if err != nil {
		return signal.Batch{}, err
	}
	if len(baseline) == 0 {
		return signal.Batch{}, &signal.NoData{Why: "there is no series of the running version"}
	}
	for start := span.Start; start < span.End; start += span.Slice {
		got, why := s.slice(ask, canary, baseline, start, start+span.Slice)
		batch.Signals = append(batch.Signals, got...)
		if why != "" {
			batch.Lost = why
		}
		if len(got) > 0 {
			batch.Fresh = time.UnixMilli(start + span.Slice)
		}
	}
	return batch, nil
}

// strand is the counters of one arm in one stratum.
type strand struct {
	total, bad []signal.Series
	durations  map[float64][]signal.Series // by upper bound, in seconds
}

// arm reads the counters of one side in (from, to], by stratum.
func (s *Source) arm(ctx context.Context, ask signal.Ask, side string, from, to int64) (map[string]*strand, error) {
	out := map[string]*strand{}
	at := func(labels model.Metric) *strand {
		name := string(labels[model.LabelName(s.o.Stratum)])
		if s.o.Stratum == "" {
			name = ""
		}
		if out[name] == nil {
			out[name] = &strand{durations: map[float64][]signal.Series{}}
		}
		return out[name]
	}
	var read [3][]labelled
	for i, expr := range []string{ask.Total, ask.Bad, ask.Durations} {
		if expr == "" {
			continue
		}
		var err error
		if read[i], err = s.raw(ctx, expand(expr, ask.Route, side, 0), from, to); err != nil {
			return nil, err
		}
	}
	s.bear(from, read[:]...)
	for _, one := range read[0] {
		st := at(one.labels)
		st.total = append(st.total, one.series)
	}
	for _, one := range read[1] {
		st := at(one.labels)
		st.bad = append(st.bad, one.series)
	}
	for _, one := range read[2] {
		bound, err := strconv.ParseFloat(string(one.labels["le"]), 64)
		if err != nil {
			return nil, &backstay.Error{Class: backstay.Permanent, Op: "ask Prometheus", Err: fmt.Errorf("a series of durations has no le: they come from a histogram's _bucket series")}
		}
		st := at(one.labels)
		st.durations[bound] = append(st.durations[bound], one.series)
	}
	return out, nil
}

// bear marks the series that began after from: where others of the same side
// reported from the start, one that did not had counted nothing yet.
func (s *Source) bear(from int64, read ...[]labelled) {
	early, before := from+2*s.o.Scrape.Milliseconds(), false
	for _, all := range read {
		for _, one := range all {
			before = before || (len(one.series.Samples) > 0 && one.series.Samples[0].At <= early)
		}
	}
	for _, all := range read {
		for i, one := range all {
			all[i].series.Born = before && len(one.series.Samples) > 0 && one.series.Samples[0].At > early
		}
	}
}

type labelled struct {
	labels model.Metric
	series signal.Series
}

// raw reads the samples of a selector as they were scraped.
func (s *Source) raw(ctx context.Context, selector string, from, to int64) ([]labelled, error) {
	value, err := s.query(ctx, fmt.Sprintf("%s[%dms]", selector, to-from), time.UnixMilli(to))
	if err != nil {
		return nil, err
	}
	matrix, ok := value.(model.Matrix)
	if !ok {
		return nil, &backstay.Error{
			Class: backstay.Permanent, Op: "ask Prometheus", Err: fmt.Errorf("%q is no selector of counters", selector),
			Hint: `write it without functions, such as http_requests_total{side="{side}"}`,
		}
	}
	out := make([]labelled, 0, len(matrix))
	for _, stream := range matrix {
		one := labelled{labels: stream.Metric}
		for _, v := range stream.Values {
			if f := float64(v.Value); !math.IsNaN(f) {
				one.series.Samples = append(one.series.Samples, signal.Sample{At: int64(v.Timestamp), Value: f})
			}
		}
		out = append(out, one)
	}
	return out, nil
}

// slice makes the signals of both sides in (start, end], or says why not.
func (s *Source) slice(ask signal.Ask, canary, baseline map[string]*strand, start, end int64) (out []signal.Signal, why string) {
	names := map[string]bool{}
	for n := range baseline {
		names[n] = true
	}
	for _, name := range sorted(names) {
		pair := make([]signal.Signal, 0, 2)
		for _, arm := range []struct {
			strand *strand
			canary bool
		}{{canary[name], true}, {baseline[name], false}} {
			x := signal.Signal{
				Name: ask.Metric, Unit: "request", Stratum: cmp.Or(name, ask.Route, "all"), Canary: arm.canary,
				Start: time.UnixMilli(start), End: time.UnixMilli(end),
			}
			if arm.strand == nil || !arm.strand.count(&x, start, end, s.stale().Milliseconds()) {
				why = "a side did not report for a whole slice; it is left out for both"
				pair = nil
				break
			}
			pair = append(pair, x)
		}
		out = append(out, pair...)
	}
	return out, why
}

// count fills the signal in; false where a series fell silent, or none reported.
func (st *strand) count(x *signal.Signal, start, end, stale int64) bool {
	alive := false
	sum := func(all []signal.Series) (uint64, bool) {
		total := 0.0
		for _, series := range all {
			n, known := series.Increase(start, end, stale)
			if !known {
				return 0, false
			}
			total += n
			alive = alive || slices.ContainsFunc(series.Samples, func(v signal.Sample) bool { return v.At > start && v.At <= end })
		}
		return uint64(math.Round(max(total, 0))), true
	}
	if len(st.durations) > 0 {
		return st.countDurations(x, sum) && alive
	}
	total, ok := sum(st.total)
	bad, okBad := sum(st.bad)
	x.Bad = min(bad, total)
	x.Good = total - x.Bad
	return ok && okBad && alive
}

// countDurations takes apart a histogram whose buckets count all below them.
func (st *strand) countDurations(x *signal.Signal, sum func([]signal.Series) (uint64, bool)) bool {
	bounds := make([]float64, 0, len(st.durations))
	for b := range st.durations {
		bounds = append(bounds, b)
	}
	slices.Sort(bounds)
	below := uint64(0)
	for _, b := range bounds {
		n, ok := sum(st.durations[b])
		if !ok {
			return false
		}
		took := signal.Never
		if !math.IsInf(b, 1) {
			took = uint64(max(b, 0) * 1e6)
		}
		if n > below {
			x.Durations = append(x.Durations, [2]uint64{took, n - below})
			x.Good += n - below
			below = n
		}
	}
	return true
}

func sorted(set map[string]bool) []string {
	names := make([]string, 0, len(set))
	for n := range set {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}
