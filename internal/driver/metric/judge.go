package metric

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/analysis"
	"github.com/backstay-dev/backstay/internal/driver/metric/signal"
)

// memory is what a comparison remembers between its answers: the analysis, and
// how far the source was read. It is the state of the check, so that a crash loses
// nothing that the source still has.
type memory struct {
	V int `json:"v"`
	// Start is the zero of the analysis' times; what came before is history.
	Start  time.Time           `json:"start"`
	Cursor json.RawMessage     `json:"cursor,omitempty"`
	Fresh  time.Time           `json:"fresh"`
	Warm   time.Time           `json:"warm,omitzero"` // first request of the new side
	Test   json.RawMessage     `json:"test,omitempty"`
	Known  analysis.Counts     `json:"known"`            // history of a rate
	Before [][2]uint64         `json:"before,omitempty"` // history of a latency, until there is a test
	Open   map[string]openPart `json:"open,omitempty"`   // by stratum: too few requests for a block yet
	Late   int                 `json:"late,omitempty"`   // slices that came too late to count
	Lost   string              `json:"lost,omitempty"`   // why slices were left out, the last time
	Shares []int               `json:"shares,omitempty"` // of the release, by which the margins go
	Looked time.Duration       `json:"looked,omitempty"` // the analysis' newest look
}

// openPart is a block that is not closed yet.
type openPart struct {
	Start time.Time `json:"start"`
	End   time.Time `json:"end"`
	Share float64   `json:"share,omitempty"`
	Epoch uint64    `json:"epoch,omitempty"`
	Sides [2]tally  `json:"sides"` // baseline, canary
}

// tally is one side's part of a block.
type tally struct {
	Requests uint64      `json:"requests,omitempty"`
	Bad      uint64      `json:"bad,omitempty"`
	Buckets  [][2]uint64 `json:"buckets,omitempty"` // of a latency
}

const (
	// A block is closed when it holds so many requests, or is so long.
	blockRequests = 20
	blockLength   = time.Minute
	// maxHistory is how many requests of the running side history keeps.
	maxHistory = 10_000
	// historyLength is how far back history is asked for.
	historyLength = 30 * time.Minute
	// silent is how old the newest news of a source may be.
	silent = 2 * time.Minute
)

// session is one answer of a comparison.
type session struct {
	body compareBody
	mem  memory
	test *analysis.Test
}

// Check reads what is new, and says what all of it shows.
func (k *Compare) Check(ctx context.Context, call backstay.Call) (backstay.CheckResult, error) {
	s, err := resume(call, k.open.now())
	if err != nil {
		return backstay.CheckResult{}, err
	}
	if call.Slots[backstay.SlotFirst] != "" {
		res := backstay.CheckResult{Verdict: backstay.Pass, Reason: "the first release of this route: there is no running side to compare with"}
		return s.answer(call, res), nil
	}
	src, err := k.open.open(s.body.Source, call.Secrets)
	if err != nil {
		return backstay.CheckResult{}, err
	}
	ask := signal.Ask{
		Metric: s.body.Metric, Total: s.body.Total, Bad: s.body.Bad, Durations: s.body.Durations,
		From: s.mem.Start.Add(-historyLength), Cursor: s.mem.Cursor,
	}
	ask.Route, ask.Canary, ask.Baseline = s.sides(call)
	if ask.Canary == "" {
		return s.answer(call, undecided("nobody told which side is the new one yet")), nil
	}
	batch, err := src.Signals(ctx, ask)
	if err != nil {
		return s.answer(call, undecided("%v", err)), nil
	}
	if err := s.take(batch); err != nil {
		return backstay.CheckResult{}, err
	}
	return s.answer(call, s.judge(call, k.open.now())), nil
}

// resume decodes the check and takes up its memory.
func resume(call backstay.Call, now time.Time) (*session, error) {
	s := &session{}
	if err := read(call.Step, &s.body.V, &s.body); err != nil {
		return nil, err
	}
	if call.Gate == nil {
		return nil, fmt.Errorf("compare %s: it can only be asked at a gate", call.Step.ID)
	}
	if len(call.Gate.State) == 0 {
		start := call.Gate.Since
		if start.IsZero() || start.After(now) {
			start = now
		}
		s.mem = memory{V: bodyFormat, Start: start.Truncate(time.Second).UTC(), Shares: call.Gate.Shares}
		return s, nil
	}
	if err := json.Unmarshal(call.Gate.State, &s.mem); err != nil {
		return nil, fmt.Errorf("take up the analysis of %s: %w", call.Step.ID, err)
	}
	if s.mem.V != bodyFormat {
		return nil, fmt.Errorf("take up the analysis of %s: it is of format %d", call.Step.ID, s.mem.V)
	}
	if len(s.mem.Test) > 0 {
		var err error
		if s.test, err = analysis.Restore(s.mem.Test); err != nil {
			return nil, fmt.Errorf("take up the analysis of %s: %w", call.Step.ID, err)
		}
	}
	return s, nil
}

// sides are the route and the names of the sides.
func (s *session) sides(call backstay.Call) (route, canary, baseline string) {
	route, canary = subject(call, s.body.Route, s.body.Canary)
	return route, canary, s.body.Baseline
}

// answer puts the memory into a result.
func (s *session) answer(_ backstay.Call, res backstay.CheckResult) backstay.CheckResult {
	res.State = backstay.Canonical(s.mem)
	return res
}

// take counts a batch: what came before the start is history, the rest becomes
// blocks, whose ends depend on counts and times only.
func (s *session) take(batch signal.Batch) error {
	type key struct {
		stratum    string
		start, end int64
	}
	pairs := map[key][2]*signal.Signal{}
	var order []key
	for i := range batch.Signals {
		x := &batch.Signals[i]
		k := key{x.Stratum, x.Start.UnixNano(), x.End.UnixNano()}
		p, ok := pairs[k]
		if !ok {
			order = append(order, k)
		}
		p[side(x.Canary)] = x
		pairs[k] = p
	}
	slices.SortStableFunc(order, func(a, b key) int { return cmp.Or(cmp.Compare(a.end, b.end), cmp.Compare(a.stratum, b.stratum)) })
	for _, k := range order {
		p := pairs[k]
		if p[0] == nil || p[1] == nil {
			s.mem.Lost = "a report of one side is missing"
			continue
		}
		if p[0].Start.Before(s.mem.Start) {
			s.history(p[0])
			continue
		}
		if err := s.slice(k.stratum, p); err != nil {
			return err
		}
	}
	s.mem.Cursor, s.mem.Fresh = batch.Cursor, batch.Fresh
	if batch.Lost != "" {
		s.mem.Lost = batch.Lost
	}
	return s.save()
}

func side(canary bool) int {
	if canary {
		return 1
	}
	return 0
}

// history counts the running side before the test.
func (s *session) history(x *signal.Signal) {
	if s.test != nil {
		return
	}
	if s.body.Metric == signal.Latency {
		s.mem.Before = merge(s.mem.Before, buckets(x.Durations))
		return
	}
	s.mem.Known.Requests += x.Total()
	s.mem.Known.Bad += x.Bad
}

// slice adds one slice of both sides to the open block of its stratum, and closes
// that where it is large or long enough, or the share changed.
func (s *session) slice(stratum string, p [2]*signal.Signal) error {
	canary := p[1]
	if s.mem.Warm.IsZero() && canary.Total() > 0 {
		s.mem.Warm = canary.Start
	}
	if s.mem.Warm.IsZero() || canary.Start.Before(s.mem.Warm.Add(s.body.WarmUp.Std())) {
		s.history(p[0]) // nothing to compare yet; it still says how the running side is
		return nil
	}
	if s.test == nil {
		ready, err := s.begin()
		if err != nil {
			return err
		}
		if !ready {
			s.history(p[0])
			return nil
		}
	}
	if s.mem.Open == nil {
		s.mem.Open = map[string]openPart{}
	}
	o, ok := s.mem.Open[stratum]
	if ok && (o.Share != canary.Share || o.Epoch != canary.Epoch) {
		if err := s.close(stratum, o); err != nil {
			return err
		}
		ok = false
	}
	if !ok {
		o = openPart{Start: canary.Start, Share: canary.Share, Epoch: canary.Epoch}
	}
	o.End = canary.End
	for i, x := range p {
		t := &o.Sides[i]
		t.Requests += x.Total()
		t.Bad += x.Bad
		if s.body.Metric == signal.Latency {
			t.Buckets = merge(t.Buckets, buckets(x.Durations))
		}
	}
	s.mem.Open[stratum] = o
	if o.Sides[0].Requests+o.Sides[1].Requests < blockRequests && o.End.Sub(o.Start) < blockLength {
		return nil
	}
	return s.close(stratum, o)
}

// close looks at one block.
func (s *session) close(stratum string, o openPart) error {
	delete(s.mem.Open, stratum)
	if o.Sides[0].Requests+o.Sides[1].Requests == 0 {
		return nil
	}
	b := analysis.Block{
		Metric: string(s.body.Metric), Stratum: stratum, Start: o.Start.Sub(s.mem.Start), End: o.End.Sub(s.mem.Start),
		Share: o.Share / 100,
	}
	if b.Share <= 0 || b.Share >= 1 {
		b.Share = 0
	}
	counts := []*analysis.Counts{&b.Baseline, &b.Canary}
	for i, t := range o.Sides {
		if s.body.Metric != signal.Latency {
			*counts[i] = analysis.Counts{Requests: t.Requests, Bad: t.Bad}
			continue
		}
		l, _ := s.test.Latency(string(s.body.Metric))
		var h analysis.Histogram
		if err := h.AddSparse(t.Buckets); err != nil {
			return fmt.Errorf("count latencies: %w", err)
		}
		counts[i].Classes = l.Classes(&h, i == 1, nil)
	}
	now := max(b.End, s.mem.Looked)
	if err := s.test.Add(now, b); err != nil {
		s.mem.Late++ // of a stratum that had gone on: it is left out whole
		s.mem.Lost = err.Error()
		return nil //nolint:nilerr // said in Lost
	}
	s.mem.Looked = now
	return nil
}

// begin makes the test, once enough is known of the running side.
func (s *session) begin() (ready bool, err error) {
	c := analysis.Default()
	// The verdict is over all comparisons together: this test never ends itself.
	c.Alpha, c.Beta, c.Guard = 1e-290, s.body.Beta, s.body.Guard.Std()
	name := string(s.body.Metric)
	if s.body.Metric == signal.Latency {
		var h analysis.Histogram
		if err := h.AddSparse(s.mem.Before); err != nil {
			return false, fmt.Errorf("count latencies: %w", err)
		}
		l, err := analysis.NewLatency(name, 1, s.body.Margin, &h)
		if err != nil {
			return false, nil //nolint:nilerr // too few requests yet; judge says so
		}
		l.Certify = certified(l, &h, s.body.Quantiles)
		c.Latencies = []analysis.Latency{l}
	} else {
		known := s.mem.Known
		if known.Requests > maxHistory {
			known.Bad = uint64(math.Round(float64(known.Bad) * maxHistory / float64(known.Requests)))
			known.Requests = maxHistory
		}
		c.Rates = []analysis.Rate{{Name: name, Weight: 1, Tolerance: s.body.Tolerance, Margins: s.margins(), History: known}}
	}
	if s.test, err = analysis.New(c); err != nil {
		return false, fmt.Errorf("begin the analysis: %w", err)
	}
	s.mem.Before = nil
	return true, nil
}

// certified are the cuts nearest to the quantiles.
func certified(l analysis.Latency, h *analysis.Histogram, quantiles []float64) []int {
	var at []int
	for _, q := range quantiles {
		want, best := analysis.Bucket(h.Quantile(q/100)), 0
		for i, cut := range l.Cuts {
			if abs(cut-want) < abs(l.Cuts[best]-want) {
				best = i
			}
		}
		if !slices.Contains(at, best) {
			at = append(at, best)
		}
	}
	slices.Sort(at)
	return at
}

func abs(n int) int { return max(n, -n) }

// next are the shares that a pass may lead to, of 1.
func (s *session) next() []float64 {
	var out []float64
	for _, share := range s.mem.Shares {
		out = append(out, float64(share)/100)
	}
	if len(out) > 1 {
		return out[1:]
	}
	return []float64{1}
}

// margins are what must be shown before each of them.
func (s *session) margins() []analysis.Margin {
	if s.body.Budget > 0 {
		margins := analysis.ImpactMargins(s.body.Budget, s.next())
		for i := range margins {
			margins[i].Ratio = s.body.Ratio
		}
		return margins
	}
	return []analysis.Margin{{Ratio: s.body.Ratio, Delta: s.body.Margin}}
}

// step is the place of a share among those of the release.
func (s *session) step(weight int) int {
	step := 0
	for i, share := range s.mem.Shares {
		if share <= weight {
			step = i
		}
	}
	return min(step, len(s.next())-1)
}

// save keeps the test in the memory.
func (s *session) save() error {
	if s.test == nil {
		return nil
	}
	data, err := s.test.MarshalJSON()
	if err != nil {
		return fmt.Errorf("keep the analysis: %w", err)
	}
	s.mem.Test = data
	return nil
}

// judge says what all that was counted shows.
func (s *session) judge(call backstay.Call, now time.Time) backstay.CheckResult {
	if age := now.Sub(s.mem.Fresh); age > silent {
		return undecided("the newest statistics are %s old", age.Round(time.Second))
	}
	if s.test == nil {
		if s.mem.Warm.IsZero() {
			return undecided("the new side has had no request yet")
		}
		if s.body.Metric == signal.Latency {
			return undecided("too few requests of the running side are known to compare with: 1000 are needed")
		}
		return undecided("the new side is still warming up")
	}
	r := s.test.Verdict(s.step(call.Gate.Weight))
	m := r.Metrics[0]
	e := &backstay.Evidence{
		Metric: string(s.body.Metric), Odds: backstay.Finite(r.Odds), FailAt: 1 / s.body.Alpha, Part: s.body.Weight,
		Safe: backstay.Finite(r.Safe), PassAt: 1 / s.body.Beta, Margin: s.margin(call.Gate.Weight),
		Canary: r.Canary, CanaryBad: m.Canary.Bad, Baseline: r.Baseline, BaselineBad: m.Baseline.Bad,
		More: r.More, Left: backstay.Duration(r.Next), Weight: call.Gate.Weight, Fresh: s.mem.Fresh,
	}
	for _, i := range m.Intervals { // the worst of a latency's
		e.Low, e.High = max(e.Low, i.Lo), max(e.High, i.Hi)
		if i.Hi == 0 {
			e.High = 0
		}
	}
	res := backstay.CheckResult{Verdict: backstay.Undecided, Samples: int(min(r.Canary+r.Baseline, math.MaxInt32)), Evidence: e}
	res.Reason = e.Text()
	for _, a := range r.Alarms {
		res.Reason = a.Reason
		return res
	}
	if r.Verdict == backstay.Pass {
		res.Verdict = backstay.Pass
	}
	if s.mem.Lost != "" {
		res.Reason += "; left out: " + s.mem.Lost
	}
	return res
}

// margin names what a step asks for.
func (s *session) margin(weight int) string {
	if s.body.Metric == signal.Latency {
		return percent(s.body.Margin) + " slower"
	}
	all := s.margins()
	return all[min(s.step(weight), len(all)-1)].String()
}

// buckets counts durations in the analysis' buckets.
func buckets(durations [][2]uint64) [][2]uint64 {
	sum := map[uint64]uint64{}
	for _, d := range durations {
		at := analysis.Buckets - 1
		if d[0] < signal.Never {
			at = analysis.Bucket(time.Duration(min(d[0], uint64(math.MaxInt64/2000))) * time.Microsecond)
		}
		sum[uint64(at)] += d[1]
	}
	return sparse(sum)
}

func merge(a, b [][2]uint64) [][2]uint64 {
	sum := map[uint64]uint64{}
	for _, list := range [][][2]uint64{a, b} {
		for _, c := range list {
			sum[c[0]] += c[1]
		}
	}
	return sparse(sum)
}

func sparse(sum map[uint64]uint64) [][2]uint64 {
	out := make([][2]uint64, 0, len(sum))
	for _, k := range slices.Sorted(maps.Keys(sum)) {
		out = append(out, [2]uint64{k, sum[k]})
	}
	return out
}
