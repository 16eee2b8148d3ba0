package report_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/report"
)

func TestContainExposedWaited(t *testing.T) {
	t.Parallel()
	before := backstay.ImageRef{Digest: "x"}
	s := newStory(step("a", "file", "write a", conf), step("b", "file", "write b", conf))
	s.add(time.Second, backstay.EntryIntent, "a", backstay.IntentBody{Before: before}) // exposed from here
	s.add(time.Second, backstay.EntryOutcome, "a", backstay.OutcomeBody{OK: true, After: &before})
	s.move(0, "hold", backstay.Running, backstay.Holding)
	s.move(time.Minute, "resume", backstay.Holding, backstay.Running)
	s.add(0, backstay.EntryIntent, "b", backstay.IntentBody{Before: before})
	s.add(2*time.Second, backstay.EntryOutcome, "b", backstay.OutcomeBody{Cause: backstay.CauseStepFailed})
	s.move(700*time.Millisecond, "fail", backstay.Running, backstay.RollingBack) // contained here
	s.move(3*time.Second, "stick", backstay.RollingBack, backstay.Held)
	s.move(time.Hour, "retry", backstay.Held, backstay.RollingBack)
	s.move(4*time.Second, "undone", backstay.RollingBack, backstay.RolledBack)
	r := timeline(t, s)
	got := []time.Duration{std(r.Times.Contain), std(r.Times.Exposed), std(r.Times.Waited), std(r.Times.Undo)}
	want := []time.Duration{700 * time.Millisecond, time.Hour + time.Minute + 10*time.Second + 700*time.Millisecond, time.Minute, 7 * time.Second}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("contain, exposed, waited, undo (-got +want):\n%s", diff)
	}
	still := newStory(step("a", "file", "write a", conf))
	still.add(time.Second, backstay.EntryIntent, "a", backstay.IntentBody{Before: before})
	if r := timeline(t, still); r.Times.Exposed != nil || r.Times.Contain != nil || r.Times.Waited != nil {
		t.Errorf("under way: got %+v", r.Times)
	}
}

func TestGaps(t *testing.T) {
	t.Parallel()
	before := backstay.ImageRef{Digest: "x"}
	intent := func(s *story, after time.Duration) {
		s.add(after, backstay.EntryIntent, "a", backstay.IntentBody{Before: before})
	}
	outcome := func(s *story, after time.Duration) {
		s.add(after, backstay.EntryOutcome, "a", backstay.OutcomeBody{OK: true, After: &before})
	}
	takeover := func(s *story, after time.Duration) {
		s.add(after, backstay.EntryTakeover, "", backstay.TakeoverBody{Node: "n2"})
	}
	tests := []struct {
		name  string
		write func(s *story)
		want  []time.Duration
	}{
		{"a step is work", func(s *story) { intent(s, 0); outcome(s, time.Hour) }, nil},
		{"before a step", func(s *story) { intent(s, 5*time.Second); outcome(s, time.Hour) }, []time.Duration{5*time.Second + 10*time.Millisecond}},
		{"too short to tell", func(s *story) { intent(s, 900*time.Millisecond); outcome(s, time.Hour) }, nil},
		{"under way", func(s *story) { intent(s, 0) }, nil},
		{"steps beside each other", func(s *story) {
			intent(s, 0)
			s.add(time.Second, backstay.EntryIntent, "b", backstay.IntentBody{Before: before})
			outcome(s, 10*time.Second)
			s.add(10*time.Second, backstay.EntryOutcome, "b", backstay.OutcomeBody{OK: true, After: &before})
		}, nil},
		{"verification is work", func(s *story) {
			intent(s, 0)
			outcome(s, time.Second)
			s.add(time.Minute, backstay.EntryVerdict, "", backstay.VerdictBody{Check: "verify", Phase: "verify"})
		}, nil},
		{"holding is said", func(s *story) {
			s.move(0, "hold", backstay.Running, backstay.Holding)
			s.move(time.Hour, "resume", backstay.Holding, backstay.Running)
		}, nil},
		{"the bake is said", func(s *story) {
			s.move(0, "commit", backstay.Running, backstay.Committed)
			s.move(time.Hour, "prove", backstay.Committed, backstay.Proven)
		}, nil},
		{"a node died in a step", func(s *story) { intent(s, 0); takeover(s, 20*time.Second); outcome(s, 5*time.Second) }, []time.Duration{20 * time.Second}},
		{"taken over while it bakes", func(s *story) {
			s.move(0, "commit", backstay.Running, backstay.Committed)
			takeover(s, time.Hour)
			s.move(time.Hour, "prove", backstay.Committed, backstay.Proven)
		}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newStory(step("a", "file", "write a", conf))
			tt.write(s)
			var got []time.Duration
			for _, g := range timeline(t, s).Gaps {
				got = append(got, g.Took.Std())
			}
			if diff := cmp.Diff(got, tt.want); diff != "" {
				t.Errorf("(-got +want):\n%s", diff)
			}
		})
	}
}

func TestInEffect(t *testing.T) {
	t.Parallel()
	dep := func(n int64, id, reverts string) *story {
		return &story{dep: ledger.Deployment{ID: id, Name: id, Number: n, Release: "shop", Environment: "production", State: backstay.Proven, Reverts: reverts}}
	}
	elsewhere := dep(11, "elsewhere", "")
	elsewhere.dep.Environment = "staging"
	tests := []struct {
		name          string
		state         backstay.State
		reverts       string
		others        []*story
		before, after string
		mixed         bool
	}{
		{"the first", backstay.Proven, "", nil, "", "shop#12", false},
		{"replaces the newest", backstay.Proven, "", []*story{dep(9, "old", ""), dep(10, "new", "")}, "new", "shop#12", false},
		{"rolled back", backstay.RolledBack, "", []*story{dep(10, "new", "")}, "new", "new", false},
		{"held", backstay.Held, "", []*story{dep(10, "new", "")}, "new", "", true},
		{"the newest was taken back", backstay.Proven, "", []*story{dep(9, "old", ""), dep(10, "new", ""), dep(11, "back", "new")}, "old", "shop#12", false},
		{"takes back", backstay.Proven, "new", []*story{dep(9, "old", ""), dep(10, "new", "")}, "new", "old", false},
		{"later ones do not count", backstay.Proven, "", []*story{dep(10, "new", ""), dep(13, "later", ""), dep(14, "back", "new")}, "new", "shop#12", false},
		{"another environment does not count", backstay.Proven, "", []*story{dep(10, "new", ""), elsewhere}, "new", "shop#12", false},
		{"under way", backstay.Running, "", []*story{dep(10, "new", "")}, "new", "", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newStory(step("a", "file", "write a", conf))
			if tt.state != backstay.Running {
				s.move(0, "x", backstay.Running, tt.state)
			}
			s.dep.State, s.dep.Reverts, s.others = tt.state, tt.reverts, tt.others
			name := func(l *report.LiveRelease) string {
				if l == nil {
					return ""
				}
				return l.Name
			}
			l := timeline(t, s).Live
			if name(l.Before) != tt.before || name(l.After) != tt.after || l.Mixed != tt.mixed {
				t.Errorf("got %q, %q, %t, want %q, %q, %t", name(l.Before), name(l.After), l.Mixed, tt.before, tt.after, tt.mixed)
			}
		})
	}
}

// TestQuestions: each is raised by its fact and by nothing else.
func TestQuestions(t *testing.T) {
	t.Parallel()
	ids := func(all []report.Question) []string {
		var out []string
		for _, q := range all {
			out = append(out, q.ID)
		}
		return out
	}
	good := timeline(t, proven())
	if len(good.Questions) != 0 || len(good.Earlier) != 0 {
		t.Errorf("of a deployment with an owner, checks, a drill and a bake: got %+v, %+v", good.Questions, good.Earlier)
	}
	bad := timeline(t, failed())
	if diff := cmp.Diff(ids(bad.Questions), []string{"unverified_undo", "no_probe", "unaccounted", "unaccounted", "late_signal", "evidence_expired", "over_budget"}); diff != "" {
		t.Errorf("of the failed one (-got +want):\n%s", diff)
	}
	if diff := cmp.Diff(ids(bad.Earlier), []string{"seen_before"}); diff != "" {
		t.Errorf("of the failed one (-got +want):\n%s", diff)
	}
	stuck := timeline(t, held())
	for _, want := range []string{"no_owner", "unknown_part", "outsiders", "late_signal", "never_drilled", "no_verify", "not_classified"} {
		if !slices.Contains(ids(stuck.Questions), want) {
			t.Errorf("of the held one: no %s in %v", want, ids(stuck.Questions))
		}
	}
	tests := []struct {
		name   string
		change func(*story)
		want   string
	}{
		{"no retries", func(s *story) { s.fail(backstay.CauseStepFailed, backstay.Transient) }, "no_retries"},
		{"stale plan", func(s *story) { s.fail(backstay.CauseDrift, backstay.Conflict) }, "stale_plan"},
		{"taken back without a bake", func(s *story) { s.dep.RevertedBy = "later" }, "no_bake"},
		{"taken back without checks", func(s *story) { s.dep.RevertedBy = "later" }, "no_verify"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newStory(step("a", "file", "write a", conf))
			if got := ids(timeline(t, s).Earlier); len(got) != 0 {
				t.Errorf("before: got %v", got)
			}
			tt.change(s)
			if got := ids(timeline(t, s).Earlier); !slices.Contains(got, tt.want) {
				t.Errorf("got %v, want %s in it", got, tt.want)
			}
		})
	}
}

// fail lets step a fail.
func (s *story) fail(cause backstay.Cause, class backstay.ErrorClass) {
	s.add(time.Second, backstay.EntryIntent, "a", backstay.IntentBody{Before: backstay.ImageRef{Digest: "x"}})
	s.add(time.Second, backstay.EntryOutcome, "a", backstay.OutcomeBody{Cause: cause, Class: class})
}

// TestDialGoesBackInOne: one undo that covers several steps is told as one.
func TestDialGoesBackInOne(t *testing.T) {
	t.Parallel()
	before := backstay.ImageRef{Digest: "x"}
	s := newStory(step("one", "traffic", "1 %", "route:web"), step("ten", "traffic", "10 %", "route:web"))
	s.acts("one", time.Second, before, before)
	s.acts("ten", time.Second, before, before)
	s.move(0, "fail", backstay.Running, backstay.RollingBack)
	s.add(0, backstay.EntryUndoIntent, "ten", backstay.UndoIntentBody{Covers: []string{"one"}})
	s.add(time.Second, backstay.EntryCompensation, "ten", backstay.CompensationBody{Result: "restored", Duration: backstay.Duration(time.Second)})
	s.add(0, backstay.EntryCompensation, "one", backstay.CompensationBody{Result: "restored", With: "ten"})
	r := timeline(t, s)
	if u := r.Steps[0].Undo; u == nil || u.With != "ten" || u.Began != r.Steps[1].Undo.Began || u.Result != "restored" {
		t.Errorf("got %+v", r.Steps[0].Undo)
	}
	if got := render(t, r, renderings()[0]); !strings.Contains(got, "undo of ten begins (one move, also of one)") || !strings.Contains(got, "undo: restored with ten") {
		t.Errorf("it is not told:\n%s", got)
	}
}

func TestMagnitude(t *testing.T) {
	t.Parallel()
	m := timeline(t, rolledBack()).Magnitude.Changed
	// shop.conf 1234 → 1300 B; old.css 20,480 B gone; app.js 3,400,000 B; a link.
	if want := (report.Magnitude{Keys: 2, Parts: 4, Bytes: 1300 + 20_480 + 3_400_000}); m != want {
		t.Errorf("changed: got %+v, want %+v", m, want)
	}
	h := timeline(t, held()).Magnitude
	if want := (report.Magnitude{Keys: 3, Parts: 2, Unknown: 1, Bytes: 1300}); h.Residue != want {
		t.Errorf("residue: got %+v, want %+v", h.Residue, want)
	}
	if want := (report.Magnitude{Keys: 1, Parts: 1, Bytes: 5}); h.Kept != want {
		t.Errorf("kept: got %+v, want %+v", h.Kept, want)
	}
}

func TestPeople(t *testing.T) {
	t.Parallel()
	var got []string
	for _, p := range timeline(t, held()).People {
		for _, did := range p.Did {
			got = append(got, p.Actor.Name+" "+did)
		}
	}
	want := []string{"ann started it", "ann approved (step ask), refused: who started the deployment may not approve it", "bob approved (step ask)"}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("(-got +want):\n%s", diff)
	}
}

// TestContainedWhenUsersAreBack: containing ends when the dial is back, undoing
// goes on; and nothing is contained while it is not.
func TestContainedWhenUsersAreBack(t *testing.T) {
	t.Parallel()
	before := backstay.ImageRef{Digest: "x"}
	tell := func(result string, slots map[string]string) *report.Report {
		dial := step("ten", "traffic", "10 %", "route:web")
		dial.Dial = "route:web"
		s := newStory(step("start", "service", "start web", "service:web"), dial, step("last", "run", "last", "run:last"))
		s.acts("start", time.Second, before, before)
		s.acts("ten", time.Second, before, before)
		s.add(0, backstay.EntryIntent, "last", backstay.IntentBody{Before: before})
		s.add(time.Second, backstay.EntryOutcome, "last", backstay.OutcomeBody{Cause: backstay.CauseStepFailed})
		s.move(100*time.Millisecond, "fail", backstay.Running, backstay.RollingBack)
		s.add(100*time.Millisecond, backstay.EntryUndoIntent, "ten", backstay.UndoIntentBody{})
		if at := slots["moved"]; at != "" {
			took, err := time.ParseDuration(at)
			if err != nil {
				t.Fatal(err)
			}
			slots["moved"] = s.at.Add(took).Format(time.RFC3339Nano)
		}
		s.add(3*time.Second, backstay.EntryCompensation, "ten", backstay.CompensationBody{Result: result, Slots: slots})
		s.add(0, backstay.EntryUndoIntent, "start", backstay.UndoIntentBody{})
		s.add(5*time.Second, backstay.EntryCompensation, "start", backstay.CompensationBody{Result: "restored"})
		s.move(0, "undone", backstay.RollingBack, backstay.RolledBack)
		return timeline(t, s)
	}
	r := tell("restored", nil)
	if contain, undo := std(r.Times.Contain), std(r.Times.Undo); contain != 3200*time.Millisecond || undo != 8100*time.Millisecond {
		t.Errorf("contained after %s, undone after %s", contain, undo)
	}
	// The act says when the router had taken the way back; then it waited.
	r = tell("restored", map[string]string{"moved": "40ms"})
	if contain := std(r.Times.Contain); contain != 240*time.Millisecond {
		t.Errorf("contained after %s", contain)
	}
	if r = tell("failed", nil); r.Times.Contain != nil {
		t.Errorf("the dial is not back, yet contained after %s", std(r.Times.Contain))
	}
}
