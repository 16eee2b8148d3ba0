package report

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/plan"
)

// StatsFormat names the version of Stats' JSON.
const StatsFormat = "backstay.history-stats/v1"

// Stats are the rates and times of many deployments, from the ledger alone.
// Deployments that take others back are counted by themselves, in Reverts, and
// in no rate.
type Stats struct {
	Format      string                   `json:"format"`
	Release     string                   `json:"release,omitempty"` // only this one
	Since       time.Time                `json:"since,omitzero"`    // only those planned since
	Until       time.Time                `json:"until,omitzero"`    // the last entry that was read
	Entries     int64                    `json:"entries"`           // read
	Unreadable  int64                    `json:"unreadable,omitempty"`
	Deployments int64                    `json:"deployments"`
	Reverts     int64                    `json:"reverts"`
	Ends        map[backstay.State]int64 `json:"by_state"` // how they stand, reverts left out

	FailureRate       Rate `json:"failure_rate"`        // ended otherwise than proven, of those that ended or are held
	ChangeFailureRate Rate `json:"change_failure_rate"` // did not stay, of those that were committed
	RollbackSuccess   Rate `json:"rollback_success"`    // rolled back at the first try, of the rollbacks whose first try ended
	RollbackInTheEnd  Rate `json:"rollback_in_the_end"` // rolled back in the end, of the deployments that turned around and ended or are held

	LeadTime       Spread `json:"lead_time"`        // planned to committed
	TimeToDetect   Spread `json:"time_to_detect"`   // what failed began, to the record of its failure
	TimeToContain  Spread `json:"time_to_contain"`  // that record, to the turn, or until the last dial was moved back
	TimeToUndo     Spread `json:"time_to_undo"`     // spent rolling back, of rolled back ones
	TimeToRollback Spread `json:"time_to_rollback"` // record of the failure, to rolled back
	StepUndo       Spread `json:"step_undo"`        // one undo of one step

	Held      int64          `json:"held"` // ever
	HeldFor   Spread         `json:"held_for"`
	HeldNow   []HeldNow      `json:"held_now,omitempty"` // at most 100
	Failures  []FailureCount `json:"failures,omitempty"` // first failures, the most frequent first
	OtherFail int64          `json:"other_failures,omitempty"`
	Groups    []StatsGroup   `json:"groups,omitempty"` // by release and environment
}

// HeldNow is a deployment that waits for a person.
type HeldNow struct {
	Name  string    `json:"name"`
	Since time.Time `json:"since"`
}

// Rate is a share. Below 5 it is not given: it would say more than so few do.
type Rate struct {
	Count   int64    `json:"count"`
	Of      int64    `json:"of"`
	Percent *float64 `json:"percent,omitempty"`
}

const leastForRate = 5

func rate(count, of int64) Rate {
	r := Rate{Count: count, Of: of}
	if of >= leastForRate {
		p := 100 * float64(count) / float64(of)
		r.Percent = &p
	}
	return r
}

func (r Rate) words() string {
	if r.Percent == nil {
		return fmt.Sprintf("too few (%d of %d)", r.Count, r.Of)
	}
	return fmt.Sprintf("%.1f %% (%d of %d)", *r.Percent, r.Count, r.Of)
}

// FailureCount is how often the same thing failed first.
type FailureCount struct {
	Release string         `json:"release"`
	Stage   string         `json:"stage,omitempty"`
	Step    string         `json:"step,omitempty"`
	Kind    string         `json:"kind,omitempty"`
	Check   string         `json:"check,omitempty"` // verify or bake
	Cause   backstay.Cause `json:"cause,omitempty"`
	Word    string         `json:"word,omitempty"` // transient, persistent, systemic
	Count   int64          `json:"count"`
}

// StatsGroup are the figures of one release in one environment.
type StatsGroup struct {
	Release           string                   `json:"release"`
	Environment       string                   `json:"environment,omitempty"`
	Deployments       int64                    `json:"deployments"`
	Ends              map[backstay.State]int64 `json:"by_state"`
	FailureRate       Rate                     `json:"failure_rate"`
	ChangeFailureRate Rate                     `json:"change_failure_rate"`
	LeadTime          Spread                   `json:"lead_time"`
	TimeToUndo        Spread                   `json:"time_to_undo"`
}

// StatsFilter selects deployments.
type StatsFilter struct {
	Release string
	Since   time.Time
}

// StatsSource is what stats read of the ledger.
type StatsSource interface {
	Walker
	Deployment(ctx context.Context, id string) (ledger.Deployment, error)
	Plan(ctx context.Context, digest string) ([]byte, error)
}

// HistoryStats reads the ledger once, in its order. Memory grows with the
// deployments that are under way or held at one time, and with the number of
// releases, environments and ways to fail; not with the ledger.
func HistoryStats(ctx context.Context, src StatsSource, f StatsFilter) (*Stats, error) {
	t := &tally{
		src: src, filter: f, open: map[string]*counted{}, groups: map[[2]string]*group{}, failures: map[FailureCount]int64{}, stats: NoStats(f),
	}
	err := src.Walk(ctx, ledger.Query{AfterLeaf: -1, Since: f.Since}, func(l ledger.Leaf) error { return t.leaf(ctx, l) })
	if err == nil {
		err = t.finish(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("statistics of the ledger: %w", err)
	}
	return t.stats, nil
}

// NoStats are the statistics of a ledger that holds nothing.
func NoStats(f StatsFilter) *Stats {
	s := &Stats{Format: StatsFormat, Release: f.Release, Ends: make(map[backstay.State]int64)}
	if !f.Since.IsZero() {
		s.Since = f.Since.UTC()
	}
	return s
}

// counted is a deployment that may still move.
type counted struct {
	outline
	release string
}

// group adds up one release in one environment.
type group struct {
	deployments, ended, failed, committed, left int64
	ends                                        map[backstay.State]int64
	lead, undo                                  histogram
}

// tally adds up deployments, one entry after the other.
type tally struct {
	src    StatsSource
	filter StatsFilter
	stats  *Stats

	open     map[string]*counted
	groups   map[[2]string]*group
	failures map[FailureCount]int64

	firstTries, firstGood, turned, turnedGood                int64
	lead, detect, contain, undo, rollback, stepUndo, heldFor histogram
}

var _ spans = (*tally)(nil)

func (*tally) did(string, time.Duration)         {}
func (t *tally) undid(_ string, d time.Duration) { t.stepUndo.add(d) }
func (t *tally) held(d time.Duration)            { t.heldFor.add(d) }

func (t *tally) leaf(ctx context.Context, l ledger.Leaf) error {
	t.stats.Entries++
	e := l.Entry
	if e.Kind == "" {
		t.stats.Unreadable++
		return nil
	}
	if e.At.After(t.stats.Until) {
		t.stats.Until = e.At
	}
	if e.Deployment == "" {
		return nil
	}
	d := t.open[e.Deployment]
	if e.Kind == backstay.EntryPlanned {
		var b backstay.PlannedBody
		if err := e.Decode(&b); err != nil || (t.filter.Release != "" && b.Release != t.filter.Release) {
			return nil // a body that cannot be read is counted by audit, not here
		}
		d = &counted{release: b.Release}
		t.open[e.Deployment] = d
	}
	if d == nil {
		return nil // planned before the window, or of another release
	}
	if err := d.take(e, t); err != nil {
		t.stats.Unreadable++
		return nil
	}
	switch d.state {
	case backstay.Proven, backstay.RolledBack, backstay.Closed, backstay.Refused:
		if e.Kind != backstay.EntryTransition {
			return nil
		}
		delete(t.open, e.Deployment)
		return t.add(ctx, e.Deployment, d)
	case backstay.Planned, backstay.Approved, backstay.Running, backstay.Holding, backstay.Committed, backstay.RollingBack, backstay.Held:
	}
	return nil
}

// add counts a deployment as it stands.
func (t *tally) add(ctx context.Context, id string, d *counted) error {
	if d.reverts != "" {
		t.stats.Reverts++
	}
	dep, err := t.src.Deployment(ctx, id)
	if err != nil && !errors.Is(err, ledger.ErrNotFound) {
		return err
	}
	key := [2]string{d.release, dep.Environment}
	g := t.groups[key]
	if g == nil {
		g = &group{ends: make(map[backstay.State]int64)}
		t.groups[key] = g
	}
	if d.reverts != "" {
		if d.state == backstay.Proven || d.state == backstay.Committed {
			g.left++ // the one that it took back was committed and did not stay
		}
		return nil
	}
	g.deployments++
	g.ends[d.state]++
	if d.wasHeld {
		t.stats.Held++
	}
	if d.state == backstay.Held {
		t.heldNow(dep.Name, id, d)
	}
	t.rates(g, d)
	t.times(g, d)
	if d.failedAt.IsZero() {
		return nil
	}
	return t.failed(ctx, d)
}

func (t *tally) heldNow(name, id string, d *counted) {
	const most = 100
	if name == "" {
		name = id
	}
	if len(t.stats.HeldNow) < most {
		t.stats.HeldNow = append(t.stats.HeldNow, HeldNow{name, d.heldSince})
	}
}

func (t *tally) rates(g *group, d *counted) {
	stuck := d.state == backstay.Held || d.state == backstay.Closed
	switch {
	case d.state == backstay.Proven:
		g.ended++
	case d.state == backstay.RolledBack || stuck:
		g.ended++
		g.failed++
	}
	if !d.committed.IsZero() {
		g.committed++
		if d.state == backstay.RolledBack || stuck {
			g.left++
		}
	}
	if d.firstRollback != "" {
		t.firstTries++
		if d.firstRollback == backstay.RolledBack {
			t.firstGood++
		}
	}
	if d.rollbacks > 0 && (d.state == backstay.RolledBack || stuck) {
		t.turned++
		if d.state == backstay.RolledBack {
			t.turnedGood++
		}
	}
}

func (t *tally) times(g *group, d *counted) {
	put := func(h *histogram, from, to time.Time) {
		if took, ok := between(from, to); ok {
			h.add(took)
		}
	}
	put(&t.lead, d.started, d.committed)
	put(&g.lead, d.started, d.committed)
	put(&t.detect, d.failedFrom, d.failedAt)
	put(&t.contain, d.failedAt, d.contained)
	if d.state == backstay.RolledBack {
		t.undo.add(d.undoing)
		g.undo.add(d.undoing)
		put(&t.rollback, d.failedAt, d.lastSeen)
	}
}

// mostFailures bounds how many ways to fail are told apart.
const mostFailures = 1000

func (t *tally) failed(ctx context.Context, d *counted) error {
	f := FailureCount{Release: d.release, Step: d.failure.step, Check: d.failure.check, Cause: d.failure.cause}
	f.Word, _ = wordOf(f.Cause, d.failure.class)
	if f.Step != "" {
		data, err := t.src.Plan(ctx, d.plan)
		if err != nil && !errors.Is(err, ledger.ErrNotFound) {
			return err
		}
		if p, err := plan.Decode(data); err == nil {
			st, _ := p.Step(f.Step)
			f.Stage, f.Kind = st.Stage, st.Kind
		}
	}
	if _, known := t.failures[f]; !known && len(t.failures) == mostFailures {
		t.stats.OtherFail++
		return nil
	}
	t.failures[f]++
	return nil
}

// finish adds what is under way and turns counts into figures.
func (t *tally) finish(ctx context.Context) error {
	for _, id := range slices.Sorted(maps.Keys(t.open)) {
		if err := t.add(ctx, id, t.open[id]); err != nil {
			return err
		}
	}
	s := t.stats
	var sum group
	for _, key := range slices.SortedFunc(maps.Keys(t.groups), func(a, b [2]string) int { return slices.Compare(a[:], b[:]) }) {
		g := t.groups[key]
		sum.deployments, sum.ended, sum.failed = sum.deployments+g.deployments, sum.ended+g.ended, sum.failed+g.failed
		sum.committed, sum.left = sum.committed+g.committed, sum.left+g.left
		for state, n := range g.ends {
			s.Ends[state] += n
		}
		s.Groups = append(s.Groups, StatsGroup{
			Release: key[0], Environment: key[1], Deployments: g.deployments, Ends: g.ends, FailureRate: rate(g.failed, g.ended),
			ChangeFailureRate: rate(min(g.left, g.committed), g.committed), LeadTime: g.lead.spread(), TimeToUndo: g.undo.spread(),
		})
	}
	s.Deployments = sum.deployments
	s.FailureRate, s.ChangeFailureRate = rate(sum.failed, sum.ended), rate(min(sum.left, sum.committed), sum.committed)
	s.RollbackSuccess, s.RollbackInTheEnd = rate(t.firstGood, t.firstTries), rate(t.turnedGood, t.turned)
	s.LeadTime, s.TimeToDetect, s.TimeToContain = t.lead.spread(), t.detect.spread(), t.contain.spread()
	s.TimeToUndo, s.TimeToRollback, s.StepUndo, s.HeldFor = t.undo.spread(), t.rollback.spread(), t.stepUndo.spread(), t.heldFor.spread()
	for f, n := range t.failures {
		f.Count = n
		s.Failures = append(s.Failures, f)
	}
	slices.SortFunc(s.Failures, func(a, b FailureCount) int {
		if a.Count != b.Count {
			return int(b.Count - a.Count)
		}
		return strings.Compare(fmt.Sprint(a), fmt.Sprint(b))
	})
	return nil
}

// WriteJSON writes the statistics as a document of StatsFormat.
func (s *Stats) WriteJSON(w io.Writer) error { return writeJSON(s, w) }

// WriteText writes the statistics for a terminal.
func (s *Stats) WriteText(w io.Writer) error { return writeText(s.document(), w) }

// WriteMarkdown writes the statistics as GitHub-flavoured Markdown.
func (s *Stats) WriteMarkdown(w io.Writer) error { return writeMarkdown(s.document(), w) }

// WriteHTML writes the statistics as one page that needs nothing else.
func (s *Stats) WriteHTML(w io.Writer) error { return writeHTML(s.document(), w) }
