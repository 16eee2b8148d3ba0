// Package proxystats is the source that reads the statistics stream of
// Backstay's own proxy. It promises what signal.Source does, exactly: the proxy
// counts each request once, by when it started, and a block never changes.
package proxystats

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/backstay-dev/backstay/internal/driver/metric/signal"
	"github.com/backstay-dev/backstay/internal/proxy/wire"
)

// Source reads one proxy. It holds no state.
type Source struct {
	socket string
	routes map[string]string
}

var _ signal.Source = (*Source)(nil)

// New returns the source of the proxy whose admin socket is at path. Routes are the
// proxy's own names of routes, where they differ from those that are asked for.
func New(socket string, routes map[string]string) *Source {
	return &Source{socket: socket, routes: routes}
}

// own is the proxy's name of a route.
func (s *Source) own(route string) string {
	if name, ok := s.routes[route]; ok {
		return name
	}
	return route
}

// cursor is up to where was read. Numbers count within one boot of the proxy.
type cursor struct {
	Boot string `json:"boot"`
	Seq  uint64 `json:"seq"`
}

// read returns the blocks after the cursor, and until when all are out.
func (s *Source) read(ctx context.Context, at cursor) (blocks []wire.Block, next cursor, final time.Time, lost uint64, err error) {
	client := wire.NewClient(s.socket)
	defer client.Close()
	next = at
	err = client.Stats(ctx, at.Seq, false, func(f wire.Feed) error {
		if f.Block != nil {
			blocks = append(blocks, *f.Block)
			next.Seq = f.Block.Seq
		}
		if f.Boot != "" {
			next.Boot, final, lost = f.Boot, f.Final, f.Lost
		}
		return nil
	})
	if err != nil {
		return nil, at, time.Time{}, 0, fmt.Errorf("read the proxy's statistics: %w", err)
	}
	if next.Boot == "" {
		return nil, at, time.Time{}, 0, fmt.Errorf("read the proxy's statistics: the stream ended without a mark")
	}
	return blocks, next, final, lost, nil
}

// Signals returns the slices of both sides that became final since the cursor.
func (s *Source) Signals(ctx context.Context, ask signal.Ask) (signal.Batch, error) {
	ask.Route = s.own(ask.Route)
	var at cursor
	if len(ask.Cursor) > 0 {
		if err := json.Unmarshal(ask.Cursor, &at); err != nil {
			return signal.Batch{}, fmt.Errorf("read cursor: %w", err)
		}
	}
	blocks, next, final, lost, err := s.read(ctx, at)
	if err == nil && at.Boot != "" && next.Boot != at.Boot { // it started again: its numbers did, too
		blocks, next, final, _, err = s.read(ctx, cursor{})
		lost = 1
	}
	if err != nil {
		return signal.Batch{}, err
	}
	sticky, err := s.sticky(ctx, ask.Route)
	if err != nil {
		return signal.Batch{}, err
	}
	batch := signal.Batch{Cursor: mustJSON(next), Fresh: final}
	sides := pair(blocks, ask)
	if lost > 0 {
		batch.Lost = "the proxy does not keep all statistics that were not read yet"
		if at.Boot != next.Boot && at.Boot != "" {
			batch.Lost = "the proxy started again; what it had not told before is lost"
		} else if len(sides) > 0 {
			sides = sides[1:] // the other side's half of it may be among the lost
		}
	}
	for _, p := range sides {
		if p.end.After(ask.From) {
			batch.Signals = append(batch.Signals, p.signals(ask, sticky)...)
		}
	}
	return batch, nil
}

// sticky reports whether users of the route stay on a side.
func (s *Source) sticky(ctx context.Context, route string) (bool, error) {
	client := wire.NewClient(s.socket)
	defer client.Close()
	status, err := client.Route(ctx, route)
	if err != nil {
		return false, fmt.Errorf("read the proxy's route: %w", err)
	}
	return status.Route.Settings.Affinity != nil || status.Route.Settings.Bucket != nil, nil
}

// slice is what both sides did in one piece of time under one set of weights.
type slice struct {
	start, end       time.Time
	share            int
	revision         uint64
	canary, baseline []wire.Block
}

// pair puts the blocks of both sides together: those of one second and of one
// revision of the route.
func pair(blocks []wire.Block, ask signal.Ask) []slice {
	type key struct {
		second   int64
		revision uint64
	}
	at := map[key]int{}
	var out []slice
	for _, b := range blocks {
		canary := b.Side == ask.Canary
		baseline := !canary && b.Side != "" && (ask.Baseline == "" || b.Side == ask.Baseline)
		if b.Route != ask.Route || (!canary && !baseline) {
			continue
		}
		k := key{b.Start.Unix(), b.Revision}
		i, ok := at[k]
		if !ok {
			i = len(out)
			at[k] = i
			out = append(out, slice{start: b.Start, end: b.End, revision: b.Revision})
		}
		p := &out[i]
		if b.Start.Before(p.start) {
			p.start = b.Start
		}
		if b.End.After(p.end) {
			p.end = b.End
		}
		if canary {
			p.canary, p.share = append(p.canary, b), b.Share
		} else {
			p.baseline = append(p.baseline, b)
		}
	}
	slices.SortStableFunc(out, func(a, b slice) int { return a.start.Compare(b.start) })
	return out
}

// signals are the slice as both sides' signals.
func (p slice) signals(ask signal.Ask, sticky bool) []signal.Signal {
	unit, share := "request", float64(p.share)
	if sticky { // weights govern new users only: nothing follows from the requests' split
		unit, share = "user", 0
	}
	make1 := func(canary bool, blocks []wire.Block) signal.Signal {
		s := signal.Signal{
			Name: ask.Metric, Unit: unit, Stratum: ask.Route, Start: p.start, End: p.end, Canary: canary, Share: share, Epoch: p.revision,
		}
		for _, b := range blocks {
			bad := min(badOf(ask.Metric, b), b.Requests)
			s.Bad += bad
			s.Good += b.Requests - bad
			if ask.Metric == signal.Latency {
				s.Durations = append(s.Durations, durations(b)...)
			}
		}
		return s
	}
	return []signal.Signal{make1(true, p.canary), make1(false, p.baseline)}
}

// badOf counts what speaks against a side. Failures of one user count once in
// five minutes where users stay on a side.
func badOf(m signal.Metric, b wire.Block) uint64 {
	switch m {
	case signal.Throughput:
		return b.Outcomes[wire.TimedOut] + b.Outcomes[wire.Broken] + b.Outcomes[wire.Late] + b.Outcomes[wire.Canceled]
	case signal.Errors:
		return b.BadUsers
	case signal.Latency, signal.Rate:
	}
	return 0
}

// durations are a block's latencies, each bucket by its middle.
func durations(b wire.Block) [][2]uint64 {
	out := make([][2]uint64, 0, len(b.Latency))
	for _, c := range b.Latency {
		from, to := wire.BucketBounds(int(min(c[0], wire.Buckets-1)))
		middle := uint64(max((from+to)/2, 0)) / uint64(time.Microsecond)
		out = append(out, [2]uint64{middle, c[1]})
	}
	if late := b.Outcomes[wire.Late]; late > 0 && len(out) > 0 {
		// They stand in the slowest bucket of what was waited for.
		last := &out[len(out)-1]
		n := min(late, last[1])
		last[1] -= n
		out = append(out, [2]uint64{signal.Never, n})
	}
	return out
}

// Words that Read knows, beside quantiles such as p99 and p99.9 (in seconds).
const (
	wordErrors   = "error-rate" // of the requests, 0 to 1
	wordRequests = "requests"   // per second
)

// Known reports whether the source can answer the query.
func Known(query string) bool {
	_, quantile := quantileOf(query)
	return quantile || query == wordErrors || query == wordRequests
}

func quantileOf(query string) (q float64, ok bool) {
	digits, is := strings.CutPrefix(query, "p")
	v, err := strconv.ParseFloat(digits, 64)
	return v / 100, is && err == nil && v > 0 && v < 100
}

// Read answers one of its words over the window before now: of one side, or of
// the whole route.
func (s *Source) Read(ctx context.Context, q signal.Question) (signal.Reading, error) {
	q.Route = s.own(q.Route)
	blocks, _, final, _, err := s.read(ctx, cursor{})
	if err != nil {
		return signal.Reading{}, err
	}
	from := final.Add(-q.Window)
	var requests, bad uint64
	var latency wire.Histogram
	for _, b := range blocks {
		if b.Route != q.Route || (q.Canary != "" && b.Side != q.Canary) || !b.Start.After(from) {
			continue
		}
		requests += b.Requests
		bad += b.BadUsers
		latency = latency.Merge(b.Latency)
	}
	r := signal.Reading{At: final}
	if q.Query == wordRequests {
		r.Value = float64(requests) / q.Window.Seconds()
		return r, nil
	}
	if requests == 0 {
		return signal.Reading{}, &signal.NoData{Why: fmt.Sprintf("no request on route %s in the last %s", q.Route, q.Window)}
	}
	if quantile, ok := quantileOf(q.Query); ok {
		r.Value = latency.Quantile(quantile).Seconds()
		return r, nil
	}
	r.Value = float64(bad) / float64(requests)
	return r, nil
}

func mustJSON(v any) json.RawMessage {
	data, err := json.Marshal(v)
	if err != nil {
		panic("proxystats: " + err.Error()) // a struct of a text and a number
	}
	return data
}
