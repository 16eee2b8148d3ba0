// Package newrelic is the source that asks New Relic with NRQL, over NerdGraph. It
// promises what signal.Source does, of counts.
//
// A slice in which a side counted nothing is not told: NRQL answers zero for what
// happened never and for what was not reported.
package newrelic

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/metric/remote"
	"github.com/backstay-dev/backstay/internal/driver/metric/signal"
)

// Options say whom to ask, and how events come.
type Options struct {
	// URL is NerdGraph, such as https://api.newrelic.com/graphql.
	URL string
	// Account is the number of the account that is asked.
	Account int
	// Key is a user key.
	Key string
	// Slice is the length of a slice.
	Slice time.Duration
	// Settle is how old a slice's end is before it is read.
	Settle time.Duration
	// Now is the clock.
	Now func() time.Time
}

// Source asks one account. It holds no state.
type Source struct {
	o   Options
	api *remote.Service
}

var _ signal.Source = (*Source)(nil)

// New returns the source. It does not connect.
func New(o Options) (*Source, error) {
	if o.Slice < time.Second || o.Slice%time.Second != 0 || o.Settle < 0 || o.Now == nil {
		return nil, fmt.Errorf("make a client of New Relic: slice %s, settle %s: a slice is of whole seconds", o.Slice, o.Settle)
	}
	return &Source{o: o, api: remote.New("New Relic", "token and account")}, nil
}

// graph is the one query of NerdGraph's that is used.
const graph = "query($account: Int!, $nrql: Nrql!) { actor { account(id: $account) { nrql(query: $nrql) { results } } } }"

// answer is what NerdGraph answers to it.
type answer struct {
	Data struct {
		Actor struct {
			Account struct {
				NRQL struct {
					Results []row `json:"results"`
				} `json:"nrql"`
			} `json:"account"`
		} `json:"actor"`
	} `json:"data"`
	Errors []struct {
		Message    string `json:"message"`
		Extensions struct {
			Class string `json:"errorClass"`
			Code  string `json:"error_code"`
		} `json:"extensions"`
	} `json:"errors"`
}

// row is one row of a result: names and values.
type row map[string]any

// query asks for the rows of a query.
func (s *Source) query(ctx context.Context, nrql string) ([]row, error) {
	body := backstay.Canonical(map[string]any{"query": graph, "variables": map[string]any{"account": s.o.Account, "nrql": nrql}})
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.o.URL, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("ask New Relic: %w", err)
	}
	req.Header.Set("Api-Key", s.o.Key)
	req.Header.Set("Content-Type", "application/json")
	var a answer
	if err := s.api.Ask(req, &a); err != nil {
		return nil, err //nolint:wrapcheck // says whom it asked
	}
	if len(a.Errors) == 0 {
		return a.Data.Actor.Account.NRQL.Results, nil
	}
	// NerdGraph tells errors in answers that are fine.
	first := a.Errors[0]
	err = fmt.Errorf("%.300s", first.Message)
	switch first.Extensions.Class {
	case "TIMEOUT", "INTERNAL_SERVER_ERROR", "SERVER_ERROR", "TOO_MANY_REQUESTS":
		return nil, s.api.Transient(err, "")
	}
	return nil, s.api.Permanent(err, "try the query in New Relic's query builder; check token and account")
}

func expand(expr, route, side string, window time.Duration) string {
	w := strconv.FormatInt(max(int64(window/time.Second), 1), 10) + " seconds"
	return strings.NewReplacer("{side}", side, "{route}", route, "{window}", w).Replace(expr)
}

// Read answers with the one number of the query's one row.
func (s *Source) Read(ctx context.Context, q signal.Question) (signal.Reading, error) {
	rows, err := s.query(ctx, expand(q.Query, q.Route, q.Canary, q.Window))
	if err != nil {
		return signal.Reading{}, err
	}
	if len(rows) != 1 {
		return signal.Reading{}, &signal.NoData{Why: fmt.Sprintf("the query answers with %d rows, not with one", len(rows))}
	}
	v, err := number(rows[0])
	return signal.Reading{Value: v, At: s.o.Now()}, err
}

// number is the only number in a row that is not a time of it.
func number(of row) (value float64, err error) {
	found := 0
	for name, v := range of {
		if f, ok := v.(float64); ok && name != begin && name != "endTimeSeconds" {
			value = f
			found++
		}
	}
	if found != 1 {
		return 0, &signal.NoData{Why: fmt.Sprintf("a row of the answer has %d numbers, not one", found)}
	}
	return value, nil
}

const begin = "beginTimeSeconds"

// Signals returns the slices that are settled.
func (s *Source) Signals(ctx context.Context, ask signal.Ask) (signal.Batch, error) {
	span, err := signal.Pending(ask, s.o.Now(), s.o.Slice, s.o.Settle)
	if err != nil || span.Empty() {
		return span.Batch(), err //nolint:wrapcheck // names the cursor
	}
	var arms [2]signal.Counts
	for i, side := range []string{ask.Canary, ask.Baseline} {
		total, err := s.counts(ctx, expand(ask.Total, ask.Route, side, 0), span)
		if err != nil {
			return signal.Batch{}, err
		}
		bad, err := s.counts(ctx, expand(ask.Bad, ask.Route, side, 0), span)
		if err != nil {
			return signal.Batch{}, err
		}
		for at, n := range total {
			if n == 0 {
				delete(total, at)
			}
		}
		arms[i] = signal.Counts{Total: total, Bad: bad}
	}
	return span.Tell(ask, arms[0], arms[1]), nil
}

// counts are the numbers of a query by slice. NRQL gives 366 of them at most.
func (s *Source) counts(ctx context.Context, nrql string, span signal.Span) (map[int64]float64, error) {
	out := map[int64]float64{}
	const most = 366
	for start := span.Start; start < span.End; start += most * span.Slice {
		end := min(span.End, start+most*span.Slice)
		rows, err := s.query(ctx, fmt.Sprintf("%s SINCE %d UNTIL %d TIMESERIES %d seconds", nrql, start, end, span.Slice/1000))
		if err != nil {
			return nil, err
		}
		for _, row := range rows {
			at, ok := row[begin].(float64)
			if !ok {
				return nil, s.api.Permanent(fmt.Errorf("a row of the answer to %q has no time", nrql),
					"write it without SINCE, UNTIL and TIMESERIES: Backstay adds them")
			}
			if out[int64(at)*1000], err = number(row); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}
