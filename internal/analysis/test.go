package analysis

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"
)

// Test is one rollout's analysis: the evidence so far, for all metrics, all
// strata and all traffic steps. It is not safe for concurrent use. Its state
// does not grow with the data: a few numbers per bet, metric and stratum.
type Test struct {
	config Config
	tracks []track // rates, then latencies
	byName map[string]int
	state  state
	order  []int // scratch
}

// state is all that a test has learnt.
type state struct {
	Now      time.Duration `json:"now_ns"`
	Looks    int64         `json:"looks"`
	Repeated int64         `json:"repeated,omitempty"` // blocks that had been counted before
	Wealth   wealth        `json:"wealth"`
	Failed   bool          `json:"failed,omitempty"`
	FailedAt time.Duration `json:"failed_at_ns,omitempty"`
	FailedLn float64       `json:"failed_ln,omitempty"`
	Metrics  []record      `json:"metrics"`
}

// record is the state of one metric.
type record struct {
	Canary   Counts   `json:"canary"`   // requests and bad ones in all blocks
	Baseline Counts   `json:"baseline"` // of it
	Curves   []curve  `json:"curves,omitempty"`
	Safe     []lnSafe `json:"safe,omitempty"` // one for each margin, or each certified cut
	Series   []series `json:"series,omitempty"`
}

// series is where one stratum of one metric stands.
type series struct {
	Stratum string        `json:"stratum"`
	End     time.Duration `json:"end_ns"` // of the newest block
	Ratio   ratio         `json:"ratio"`
}

// track is how one metric is computed: the parts that configuration gives.
type track struct {
	name    string
	rate    *Rate
	latency *Latency
	first   int            // its first bet
	strata  map[string]int // places in record.Series
	bets    ladder         // of a rate: what its bets are on
	certify ladder         // of a latency: what its promotion bets are on
	points  ladder         // at which its likelihood is kept
	totals  []float64      // scratch: requests of both arms in each class
}

// grid and gridWeights are the odds ratios that a rate's bets are on, and
// their parts of its capital.
func grid() [9]float64 { return [9]float64{1.25, 1.5, 2, 3, 5, 10, 30, 100, 1000} }

func gridWeights() [9]float64 {
	w := [9]float64{1, 1.5, 2, 2, 2, 2, 1.5, 1.5, 1.5}
	for k := range w {
		w[k] /= 15
	}
	return w
}

// New returns a test that has seen nothing. It reports everything that is
// wrong with the configuration at once.
func New(config Config) (*Test, error) {
	if err := config.validate(); err != nil {
		return nil, fmt.Errorf("configure analysis: %w", err)
	}
	t := &Test{config: config, byName: map[string]int{}}
	points, certify := curveLadder(), certifyGrid()
	var share []float64
	whole := 0.0
	add := func(tr track, weight float64, parts []float64, rec record) {
		tr.first, tr.strata, tr.points = len(share), map[string]int{}, points
		for _, p := range parts {
			share = append(share, weight*p)
		}
		whole += weight
		t.byName[tr.name] = len(t.tracks)
		t.tracks = append(t.tracks, tr)
		t.state.Metrics = append(t.state.Metrics, rec)
	}
	for i := range config.Rates {
		r := &config.Rates[i]
		rec := record{Curves: []curve{make(curve, curvePoints)}}
		for range r.Margins {
			rec.Safe = append(rec.Safe, newSafe())
		}
		psi, w := grid(), gridWeights()
		for k := range psi {
			psi[k] *= r.tolerance()
		}
		add(track{name: r.Name, rate: r, bets: newLadder(psi[:]...)}, r.Weight, w[:], rec)
	}
	for i := range config.Latencies {
		l := &config.Latencies[i]
		var rec record
		for range l.Certify {
			rec.Curves = append(rec.Curves, make(curve, curvePoints))
			rec.Safe = append(rec.Safe, newCertify())
		}
		parts := make([]float64, len(l.Bets))
		for k := range parts {
			parts[k] = 1 / float64(len(parts))
		}
		add(track{name: l.Name, latency: l, certify: newLadder(certify[:]...), totals: make([]float64, len(l.Cuts)+1)}, l.Weight, parts, rec)
	}
	for k := range share {
		share[k] /= whole
	}
	t.state.Wealth = newWealth(share, config.Reserve)
	return t, nil
}

// Latency is the latency metric of that name as it was configured.
func (t *Test) Latency(name string) (Latency, bool) {
	i, ok := t.byName[name]
	if !ok || t.tracks[i].latency == nil {
		return Latency{}, false
	}
	return *t.tracks[i].latency, true
}

// Add is one look: it takes the blocks that became final by now (measured from
// the start of the test), all of them before it looks. Several blocks of one
// look may come in any order, and give the same bits. A block that was counted
// before is passed over, so that a report may be sent twice. On an error
// nothing has been counted.
func (t *Test) Add(now time.Duration, blocks ...Block) error {
	if now < t.state.Now || now > math.MaxInt64/2 {
		return fmt.Errorf("add blocks at %v: the look before was at %v", now, t.state.Now)
	}
	t.order = t.order[:0]
	for i := range blocks {
		if err := t.check(now, &blocks[i]); err != nil {
			return fmt.Errorf("add block %s/%s %v-%v: %w", blocks[i].Metric, blocks[i].Stratum, blocks[i].Start, blocks[i].End, err)
		}
		t.order = append(t.order, i)
	}
	slices.SortStableFunc(t.order, func(i, j int) int {
		a, b := &blocks[i], &blocks[j]
		return cmp.Or(cmp.Compare(t.byName[a.Metric], t.byName[b.Metric]), cmp.Compare(a.Stratum, b.Stratum), cmp.Compare(a.Start, b.Start))
	})
	if err := t.apart(blocks); err != nil {
		return err
	}

	w := &t.state.Wealth
	w.pay(now, t.config.Planned, t.config.Reserve)
	w.open(now, t.config.Guard)
	news := false
	for _, i := range t.order {
		news = t.count(&blocks[i]) || news
	}
	if news { // capping twice could move a last bit
		w.cap(t.config.Guard)
	}
	t.state.Now = now
	t.state.Looks++
	if ln := w.ln(); !t.state.Failed && ln >= -math.Log(t.config.Alpha) {
		t.state.Failed, t.state.FailedAt, t.state.FailedLn = true, now, ln
	}
	return nil
}

// check refuses a block that cannot be right by itself.
func (t *Test) check(now time.Duration, b *Block) error {
	m, known := t.byName[b.Metric]
	if !known {
		return errors.New("no such metric is configured")
	}
	if b.Start < 0 || b.Start >= b.End || b.End > now {
		return fmt.Errorf("a block must have a length, begin after the start of the test and end by now (%v)", now)
	}
	if b.Share != 0 && !(b.Share > 0 && b.Share < 1) {
		return fmt.Errorf("share %v: a share between 0 and 1 is wanted, 0 if unknown", b.Share)
	}
	tr, rec := &t.tracks[m], &t.state.Metrics[m]
	classes := len(tr.totals)
	if err := b.Canary.validate(classes); err != nil {
		return fmt.Errorf("canary: %w", err)
	}
	if err := b.Baseline.validate(classes); err != nil {
		return fmt.Errorf("baseline: %w", err)
	}
	if n := b.Canary.total() + b.Baseline.total() + rec.Canary.Requests + rec.Baseline.Requests; n > maxCount {
		return errors.New("more than 2^50 requests in one metric")
	}
	s, known := tr.strata[b.Stratum]
	if !known && len(rec.Series) >= maxSeries {
		return fmt.Errorf("more than %d strata in one metric", maxSeries)
	}
	if known && b.Start < rec.Series[s].End && b.End > rec.Series[s].End {
		return fmt.Errorf("this stratum was counted up to %v, in the middle of this block", rec.Series[s].End)
	}
	return nil
}

// apart refuses blocks of one look that overlap in one stratum.
func (t *Test) apart(blocks []Block) error {
	for k := 1; k < len(t.order); k++ {
		a, b := &blocks[t.order[k-1]], &blocks[t.order[k]]
		if a.Metric == b.Metric && a.Stratum == b.Stratum && b.Start < a.End {
			return fmt.Errorf("add blocks of %s/%s: %v-%v and %v-%v overlap; blocks of one slice are merged before", a.Metric, a.Stratum, a.Start, a.End, b.Start, b.End)
		}
	}
	return nil
}

// count takes one checked block into the evidence, unless it is there already.
func (t *Test) count(b *Block) (news bool) {
	m := t.byName[b.Metric]
	tr, rec := &t.tracks[m], &t.state.Metrics[m]
	s, known := tr.strata[b.Stratum]
	if !known {
		s = len(rec.Series)
		tr.strata[b.Stratum] = s
		rec.Series = append(rec.Series, series{Stratum: b.Stratum})
	}
	if b.End <= rec.Series[s].End {
		t.state.Repeated++
		return false
	}
	rec.Series[s].End = b.End
	nc, nb := b.Canary.total(), b.Baseline.total()
	if b.Share > 0 {
		rec.Series[s].Ratio.add(b.Share, nc, nb)
	}
	if nc > 0 && nb > 0 {
		bets := t.state.Wealth.Bets[tr.first:]
		if tr.rate != nil {
			tr.countRate(b, rec, bets)
		} else {
			tr.countLatency(b, rec, bets)
		}
	}
	rec.Canary.Requests += nc
	rec.Canary.Bad += b.Canary.Bad
	rec.Baseline.Requests += nb
	rec.Baseline.Bad += b.Baseline.Bad
	return true
}

func (tr *track) countRate(b *Block, rec *record, bets []float64) {
	r := tr.rate
	// The baseline rate that promotion bets on comes from before this block.
	known := float64(r.History.Requests + rec.Baseline.Requests)
	if known >= minHistory {
		rate := knownRate(float64(r.History.Bad+rec.Baseline.Bad), known)
		for i, m := range r.Margins {
			rec.Safe[i].add(m, rate, b.Canary, b.Baseline)
		}
	}
	u := newUrn(b.Canary.Requests, b.Baseline.Requests, b.Canary.Bad, b.Baseline.Bad)
	if u.silent() {
		return
	}
	xc, rho := float64(b.Canary.Bad), r.tolerance()
	tolerated := 0.0
	if rho > 1 {
		tolerated = u.lnFactor(xc, rho, math.Log(rho))
	}
	for k, psi := range tr.bets.psi {
		bets[k] += u.lnFactor(xc, psi, tr.bets.ln[k]) - tolerated
	}
	rec.Curves[0].add(&u, xc, tr.points)
}

func (tr *track) countLatency(b *Block, rec *record, bets []float64) {
	l := tr.latency
	nc, n, used := float64(b.Canary.total()), 0.0, 0
	for i := range tr.totals {
		tr.totals[i] = float64(b.Canary.Classes[i] + b.Baseline.Classes[i])
		n += tr.totals[i]
		if tr.totals[i] > 0 {
			used++
		}
	}
	if used < 2 {
		return
	}
	for k, rho := range l.Bets {
		earned := 0.0
		for i, y := range b.Canary.Classes {
			earned += float64(y) * math.Log(rho[i])
		}
		bets[k] += earned - lnMeanBet(nc, n, tr.totals, rho)
	}
	for i, cut := range l.Certify {
		xc := b.Canary.above(cut)
		u := newUrn(b.Canary.total(), b.Baseline.total(), xc, b.Baseline.above(cut))
		if u.silent() {
			continue
		}
		rec.Safe[i].addUrn(&u, float64(xc), tr.certify)
		rec.Curves[i].add(&u, float64(xc), tr.points)
	}
}
