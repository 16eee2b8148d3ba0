// Package datadog is the source that asks Datadog's metrics (API v1, "query
// timeseries points"). It promises what signal.Source does, of counts: Datadog
// keeps no buckets of durations that could be compared.
//
// Counts come as sums over fixed slices (as_count, rolled up by the sum), and only
// after a settle time: what agents send late is not counted twice or missed.
package datadog

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/backstay-dev/backstay/internal/driver/metric/remote"
	"github.com/backstay-dev/backstay/internal/driver/metric/signal"
)

// Options say which site is asked, and how its points come.
type Options struct {
	// URL is the site's API, such as https://api.datadoghq.com.
	URL string
	// Key and Application are the two keys that every question carries.
	Key, Application string
	// Slice is the length of a slice.
	Slice time.Duration
	// Settle is how old a slice's end is before it is read.
	Settle time.Duration
	// Now is the clock.
	Now func() time.Time
}

// Source asks one site. It holds no state.
type Source struct {
	o   Options
	api *remote.Service
}

var _ signal.Source = (*Source)(nil)

// New returns the source. It does not connect.
func New(o Options) (*Source, error) {
	if o.Slice < time.Second || o.Slice%time.Second != 0 || o.Settle < 0 || o.Now == nil {
		return nil, fmt.Errorf("make a client of Datadog: slice %s, settle %s: a slice is of whole seconds", o.Slice, o.Settle)
	}
	return &Source{o: o, api: remote.New("Datadog", "token, application-token and the site's URL")}, nil
}

// answer is the part of Datadog's answer that is used.
type answer struct {
	Status string   `json:"status"`
	Error  string   `json:"error"`
	Series []series `json:"series"`
}

type series struct {
	Points []point `json:"pointlist"`
}

// point is a time in milliseconds and a value, or null.
type point [2]*float64

// query asks for the points of a query in [from, until), in seconds.
func (s *Source) query(ctx context.Context, expr string, from, until int64) ([]series, error) {
	q := url.Values{"query": {expr}, "from": {strconv.FormatInt(from, 10)}, "to": {strconv.FormatInt(until, 10)}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(s.o.URL, "/")+"/api/v1/query?"+q.Encode(), nil)
	if err != nil {
		return nil, fmt.Errorf("ask Datadog: %w", err)
	}
	req.Header.Set("DD-API-KEY", s.o.Key)
	req.Header.Set("DD-APPLICATION-KEY", s.o.Application)
	var a answer
	if err := s.api.Ask(req, &a); err != nil {
		return nil, err //nolint:wrapcheck // says whom it asked
	}
	if a.Status == "error" {
		return nil, s.api.Permanent(fmt.Errorf("%.300s", a.Error), "try the query in Datadog's metrics explorer")
	}
	return a.Series, nil
}

func expand(expr, route, side string, window time.Duration) string {
	w := strconv.FormatInt(max(int64(window/time.Second), 1), 10)
	return strings.NewReplacer("{side}", side, "{route}", route, "{window}", w).Replace(expr)
}

// Read answers with the newest point of the query within the window.
func (s *Source) Read(ctx context.Context, q signal.Question) (signal.Reading, error) {
	now := s.o.Now()
	window := max(q.Window, time.Minute)
	all, err := s.query(ctx, expand(q.Query, q.Route, q.Canary, q.Window), now.Add(-window).Unix(), now.Unix()+1)
	if err != nil {
		return signal.Reading{}, err
	}
	if len(all) != 1 {
		why := "the query found nothing"
		if len(all) > 1 {
			why = fmt.Sprintf("the query found %d series; sum or select one", len(all))
		}
		return signal.Reading{}, &signal.NoData{Why: why}
	}
	for _, p := range slices.Backward(all[0].Points) {
		if p[0] != nil && p[1] != nil {
			return signal.Reading{Value: *p[1], At: time.UnixMilli(int64(*p[0]))}, nil
		}
	}
	return signal.Reading{}, &signal.NoData{Why: fmt.Sprintf("the query has no value in the last %s", window)}
}

// Signals returns the slices that are settled.
func (s *Source) Signals(ctx context.Context, ask signal.Ask) (signal.Batch, error) {
	span, err := signal.Pending(ask, s.o.Now(), s.o.Slice, s.o.Settle)
	if err != nil || span.Empty() {
		return span.Batch(), err //nolint:wrapcheck // names the cursor
	}
	var arms [2]signal.Counts
	for i, side := range []string{ask.Canary, ask.Baseline} {
		for _, part := range []struct {
			expr string
			into *map[int64]float64
		}{{ask.Total, &arms[i].Total}, {ask.Bad, &arms[i].Bad}} {
			if *part.into, err = s.counts(ctx, expand(part.expr, ask.Route, side, 0), span); err != nil {
				return signal.Batch{}, err
			}
		}
	}
	return span.Tell(ask, arms[0], arms[1]), nil
}

// counts are the sums of a query by slice. Several series are added up.
func (s *Source) counts(ctx context.Context, expr string, span signal.Span) (map[int64]float64, error) {
	// One sum a slice, and zero only where it was counted.
	expr = fmt.Sprintf("%s.rollup(sum, %d)", expr, int64(s.o.Slice/time.Second))
	all, err := s.query(ctx, expr, span.Start/1000, span.End/1000)
	if err != nil {
		return nil, err
	}
	out := map[int64]float64{}
	for _, one := range all {
		for _, p := range one.Points {
			if p[0] == nil || p[1] == nil {
				continue
			}
			at := int64(*p[0])
			if at%span.Slice != 0 {
				return nil, s.api.Permanent(fmt.Errorf("points of %q come at other times than every %s", expr, s.o.Slice),
					"choose a slice that Datadog keeps: it rolls up to multiples of 10s or more after some hours")
			}
			out[at] += *p[1]
		}
	}
	return out, nil
}
