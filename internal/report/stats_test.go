package report_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/report"
)

// book of several deployments whose entries lie between each other, as they do
// when they run at the same time.
type ledgerBook struct {
	stories []*story
	extra   []ledger.Leaf
}

func (b *ledgerBook) Walk(_ context.Context, q ledger.Query, f func(ledger.Leaf) error) error {
	var all []backstay.Entry
	for _, s := range b.stories {
		all = append(all, s.entries...)
	}
	slices.SortStableFunc(all, func(a, b backstay.Entry) int { return a.At.Compare(b.At) })
	leaves := slices.Clone(b.extra)
	for _, e := range all {
		if !e.At.Before(q.Since) {
			leaves = append(leaves, ledger.Leaf{Entry: e})
		}
	}
	for _, l := range leaves {
		if err := f(l); err != nil {
			return err
		}
	}
	return nil
}

func (b *ledgerBook) Deployment(_ context.Context, id string) (ledger.Deployment, error) {
	for _, s := range b.stories {
		if s.dep.ID == id {
			return s.dep, nil
		}
	}
	return ledger.Deployment{}, ledger.ErrNotFound
}

func (b *ledgerBook) Plan(_ context.Context, digest string) ([]byte, error) {
	for _, s := range b.stories {
		if s.dep.PlanDigest == digest {
			return s.plan.Encode(), nil
		}
	}
	return nil, ledger.ErrNotFound
}

var _ report.StatsSource = (*ledgerBook)(nil)

// next is the n-th deployment of the book, an hour after the one before.
func (b *ledgerBook) next(release string) *story {
	n := len(b.stories) + 1
	s := newStory(backstay.Step{ID: "web", Stage: "rest", Prepared: backstay.Prepared{Kind: "service"}})
	s.entries, s.at = nil, time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(n)*time.Hour)
	s.dep.ID, s.dep.Name, s.dep.Number, s.dep.Release = fmt.Sprintf("d%d", n), fmt.Sprintf("%s#%d", release, n), int64(n), release
	s.dep.PlanDigest = s.plan.Digest()
	s.add(0, backstay.EntryPlanned, "", backstay.PlannedBody{PlanDigest: s.dep.PlanDigest, Release: release})
	s.move(0, "approve", backstay.Planned, backstay.Approved)
	s.move(0, "start", backstay.Approved, backstay.Running)
	b.stories = append(b.stories, s)
	return s
}

func image(v string) backstay.ImageRef {
	return backstay.ImageRef{Digest: v, Inline: backstay.Image{"service:web": backstay.PartValue(v)}}
}

// proves takes so long to its commit, and as long again to its proof.
func (b *ledgerBook) proves(release string, took time.Duration) {
	s := b.next(release)
	s.acts("web", took-20*time.Millisecond, image("a"), image("b"))
	s.move(0, "commit", backstay.Running, backstay.Committed)
	s.move(took, "prove", backstay.Committed, backstay.Proven)
}

// fails at its step after detect, and is undone in undo.
func (b *ledgerBook) fails(detect, undo time.Duration) {
	s := b.next("shop")
	s.add(0, backstay.EntryIntent, "web", backstay.IntentBody{Before: image("a")})
	s.add(detect, backstay.EntryOutcome, "web", backstay.OutcomeBody{Cause: backstay.CauseStepFailed, Class: backstay.Permanent, Error: "no"})
	s.add(10*time.Millisecond, backstay.EntryTransition, "", backstay.TransitionBody{From: backstay.Running, Event: "fail", To: backstay.RollingBack, Cause: backstay.CauseStepFailed, Step: "web"})
	s.add(undo, backstay.EntryCompensation, "web", backstay.CompensationBody{Result: "restored", Duration: backstay.Duration(undo)})
	s.move(0, "undone", backstay.RollingBack, backstay.RolledBack)
}

// sticks is held, and perhaps closed or rolled back after so long.
func (b *ledgerBook) sticks(after time.Duration, to backstay.State) {
	s := b.next("shop")
	s.acts("web", time.Second, image("a"), image("b"))
	s.move(0, "commit", backstay.Running, backstay.Committed)
	s.add(time.Minute, backstay.EntryVerdict, "", backstay.VerdictBody{Check: "bake", Phase: "bake", CheckResult: backstay.CheckResult{Verdict: backstay.Fail, Reason: "bad"}})
	s.move(0, "fail", backstay.Committed, backstay.RollingBack)
	s.move(time.Second, "stick", backstay.RollingBack, backstay.Held)
	switch to {
	case backstay.Closed:
		s.move(after, "accept", backstay.Held, backstay.Closed)
	case backstay.RolledBack:
		s.move(after, "retry", backstay.Held, backstay.RollingBack)
		s.move(2*time.Second, "undone", backstay.RollingBack, backstay.RolledBack)
	case backstay.Held, backstay.Planned, backstay.Approved, backstay.Running, backstay.Holding, backstay.Committed, backstay.Proven, backstay.RollingBack, backstay.Refused:
	}
}

func fullBook() *ledgerBook {
	b := &ledgerBook{}
	for i := range 20 {
		b.proves("shop", time.Duration(i+1)*time.Second)
	}
	for i := range 6 {
		b.fails(time.Duration(i+1)*100*time.Millisecond, time.Duration(i+1)*time.Second)
	}
	b.sticks(time.Hour, backstay.Closed)
	b.sticks(2*time.Hour, backstay.RolledBack)
	b.sticks(0, backstay.Held)
	b.proves("blog", time.Second)
	b.next("blog") // under way
	back := b.next("shop")
	back.entries[0].Body = backstay.Canonical(backstay.PlannedBody{Release: "shop", Reverts: "d20"})
	back.move(0, "commit", backstay.Running, backstay.Committed)
	back.move(0, "prove", backstay.Committed, backstay.Proven)
	b.extra = []ledger.Leaf{{Record: []byte("damaged")}, {Entry: backstay.Entry{Kind: backstay.EntryRefused, At: now()}}}
	return b
}

func statsOf(tb testing.TB, b *ledgerBook, f report.StatsFilter) *report.Stats {
	tb.Helper()
	s, err := report.HistoryStats(tb.Context(), b, f)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func TestStats(t *testing.T) {
	t.Parallel()
	s := statsOf(t, fullBook(), report.StatsFilter{Release: "shop"})
	got := []int64{
		s.Deployments, s.Reverts, s.Ends[backstay.Proven], s.Ends[backstay.RolledBack], s.Ends[backstay.Closed], s.Ends[backstay.Held], s.Unreadable, s.Held,
		s.FailureRate.Count, s.FailureRate.Of, s.ChangeFailureRate.Count, s.ChangeFailureRate.Of,
		s.RollbackSuccess.Count, s.RollbackSuccess.Of, s.RollbackInTheEnd.Count, s.RollbackInTheEnd.Of,
		s.LeadTime.Count, s.TimeToDetect.Count, s.TimeToContain.Count, s.TimeToUndo.Count, s.TimeToRollback.Count, s.StepUndo.Count, s.HeldFor.Count,
	}
	want := []int64{
		29, 1, 20, 7, 1, 1, 1, 3,
		9, 29, 4, 23,
		6, 9, 7, 9,
		23, 9, 9, 7, 7, 6, 2,
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("(-got +want):\n%s", diff)
	}
	// By hand: undo times are 1, 2, 3, 4, 5, 6 s and, at the second try, 1 s + 2 s; the fourth of seven is 3 s.
	if p50 := std(s.TimeToUndo.P50); p50 < 2970*time.Millisecond || p50 > 3030*time.Millisecond {
		t.Errorf("time to undo, p50: got %v, want 3 s within 1 %%", p50)
	}
	if s.TimeToUndo.P90 != nil || s.LeadTime.P90 == nil || s.LeadTime.P99 != nil {
		t.Errorf("percentiles of too few values: p90 of 7 %v, p90 of 23 %v, p99 of 23 %v", s.TimeToUndo.P90, s.LeadTime.P90, s.LeadTime.P99)
	}
	if len(s.HeldNow) != 1 || s.HeldNow[0].Name != "shop#29" {
		t.Errorf("held now: got %+v", s.HeldNow)
	}
	want1 := report.FailureCount{Release: "shop", Stage: "rest", Step: "web", Kind: "service", Cause: backstay.CauseStepFailed, Word: "persistent", Count: 6}
	if len(s.Failures) != 2 || s.Failures[0] != want1 || s.Failures[1].Check != "bake" || s.Failures[1].Count != 3 {
		t.Errorf("failures: got %+v", s.Failures)
	}
}

func TestStatsWindow(t *testing.T) {
	t.Parallel()
	b := fullBook()
	s := statsOf(t, b, report.StatsFilter{Release: "shop", Since: b.stories[25].entries[0].At})
	if s.Deployments != 4 { // the last that fails and three that stick
		t.Errorf("planned since: got %d deployments, want 4", s.Deployments)
	}
	if s.FailureRate.Percent != nil {
		t.Errorf("a rate of %d is given", s.FailureRate.Of)
	}
	all := statsOf(t, b, report.StatsFilter{})
	if len(all.Groups) != 2 || all.Groups[0].Release != "blog" || all.Groups[0].Ends[backstay.Running] != 1 || all.Deployments != 31 {
		t.Errorf("all: got %d deployments, groups %+v", all.Deployments, all.Groups)
	}
	none := statsOf(t, &ledgerBook{}, report.StatsFilter{})
	for name, write := range statsRenderings(none) {
		var out bytes.Buffer
		if err := write(&out); err != nil || out.Len() == 0 {
			t.Errorf("of an empty ledger, %s: %d bytes, %v", name, out.Len(), err)
		}
	}
}

func statsRenderings(s *report.Stats) map[string]func(io.Writer) error {
	return map[string]func(io.Writer) error{"txt": s.WriteText, "json": s.WriteJSON, "md": s.WriteMarkdown, "html": s.WriteHTML}
}

func TestStatsGoldens(t *testing.T) {
	t.Parallel()
	s := statsOf(t, fullBook(), report.StatsFilter{})
	for ext, write := range statsRenderings(s) {
		var out bytes.Buffer
		if err := write(&out); err != nil {
			t.Fatal(err)
		}
		golden(t, "stats."+ext, out.Bytes())
		if err := write(broken{}); !errors.Is(err, errBroken) {
			t.Errorf("%s: an error of the writer was lost: %v", ext, err)
		}
	}
}

// TestPercentiles holds the buckets against sorting the values.
func TestPercentiles(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	b := &ledgerBook{}
	var want []time.Duration
	for range 400 {
		took := 20*time.Millisecond + time.Duration(math.Exp(random.NormFloat64()*3)*float64(time.Second))
		took = took.Truncate(time.Microsecond)
		b.proves("shop", took)
		want = append(want, took)
	}
	slices.Sort(want)
	s := statsOf(t, b, report.StatsFilter{})
	for _, p := range []struct {
		name string
		part float64
		got  *backstay.Duration
	}{{"p50", 0.5, s.LeadTime.P50}, {"p90", 0.9, s.LeadTime.P90}, {"p99", 0.99, s.LeadTime.P99}} {
		exact := want[int(math.Ceil(p.part*400))-1]
		if off := math.Abs(float64(std(p.got)-exact)) / float64(exact); off > 0.01 {
			t.Errorf("%s: got %v, sorted %v: %.2f %% off", p.name, std(p.got), exact, 100*off)
		}
	}
	if std(s.LeadTime.Max) != want[399] || std(s.LeadTime.Min) != want[0] {
		t.Errorf("min, max: got %v, %v", std(s.LeadTime.Min), std(s.LeadTime.Max))
	}
}

func TestStatsErrors(t *testing.T) {
	t.Parallel()
	if _, err := report.HistoryStats(t.Context(), &brokenBook{fullBook()}, report.StatsFilter{}); !errors.Is(err, errBroken) {
		t.Errorf("got %v", err)
	}
}

type brokenBook struct{ *ledgerBook }

func (brokenBook) Deployment(context.Context, string) (ledger.Deployment, error) {
	return ledger.Deployment{}, errBroken
}
