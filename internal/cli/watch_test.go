package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"charm.land/lipgloss/v2"
	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/engine"
)

// start is when the deployments of these tests began.
func start() time.Time { return time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC) }

// life is a deployment that fails at its second step and goes back, as a
// sequence of views with the seconds at which they came.
func life() []struct {
	at   float64
	view engine.View
} {
	at := func(s float64) time.Time { return start().Add(time.Duration(s * float64(time.Second))) }
	view := func(state backstay.State, steps ...engine.StepView) engine.View {
		return engine.View{Deployment: "01-id", Name: "shop#4", Release: "shop", Version: "v2", State: state, Steps: steps, Started: start(), Budget: time.Minute, UndoCost: 30 * time.Second}
	}
	conf := engine.StepView{ID: "conf", Kind: "file", Summary: "write conf", Phase: engine.PhasePending}
	web := engine.StepView{ID: "web", Kind: "run", Summary: "restart web", Phase: engine.PhasePending}
	moved := func(s engine.StepView, p engine.Phase, opened, closed float64) engine.StepView {
		s.Phase, s.Opened = p, at(opened)
		if closed > 0 {
			s.Closed = at(closed)
		}
		return s
	}
	failed := moved(web, engine.PhaseFailed, 1, 3)
	failed.Error, failed.Hint, failed.Output = "exit status 7", "look at its log", "one\ntwo \x1b[31mred\n"
	failure := &engine.Failure{Step: "web", Cause: backstay.CauseStepFailed, Reason: "exit status 7"}
	first := view(backstay.Running, conf, web)
	first.Next = "write conf"
	hold := view(backstay.Holding, moved(conf, engine.PhaseApplied, 0.5, 1), web)
	hold.Next, hold.Until = "waits for approval", at(60)
	back := view(backstay.RollingBack, moved(conf, engine.PhaseApplied, 0.5, 1), failed)
	back.Failure, back.Next = failure, "undo what was done, newest first"
	webDone := moved(failed, engine.PhaseUndone, 1, 4)
	webDone.Undo = engine.CompensationUntouched
	confDone := moved(conf, engine.PhaseUndone, 0.5, 5)
	confDone.Undo = engine.CompensationRestored
	end := view(backstay.RolledBack, confDone, webDone)
	end.Failure, end.Doing, end.Ended = failure, []string{"read everything back"}, at(5)
	doing := view(backstay.Running, moved(conf, engine.PhaseOpen, 0.5, 0), web)
	doing.Doing = []string{"write conf"}
	return []struct {
		at   float64
		view engine.View
	}{
		{0, first},
		{0.5, doing},
		{1, hold},
		{2, view(backstay.Running, moved(conf, engine.PhaseApplied, 0.5, 1), moved(web, engine.PhaseOpen, 1, 0))},
		{3, back},
		{5, end},
	}
}

func TestPlainProgress(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	now := start()
	c := newCall(&App{Stderr: &b, Stdout: &b, Now: func() time.Time { return now }})
	w := &plainWatch{c: c}
	for _, l := range life() {
		now = start().Add(time.Duration(l.at * float64(time.Second)))
		w.show(l.view)
		w.show(l.view) // the same again says nothing
	}
	want := `    +0.0s  deployment shop#4 (01-id)
    +0.0s  running: write conf
    +0.5s  ▸ conf doing: write conf
    +1.0s  ✓ conf done in 500ms: write conf
    +1.0s  holding: waits for approval, until ` + start().Add(time.Minute).Local().Format("15:04:05") + `
           approve: backstay approve shop#4    take back: backstay rollback shop#4
    +2.0s  ▸ web doing: restart web
    +2.0s  running
    +3.0s  ✗ web failed in 2s: exit status 7
             | one
             | two [31mred
             hint: look at its log
    +3.0s  turning around (step_failed)
    +3.0s  rolling back: undo what was done, newest first
    +5.0s  ↺ conf undone: write conf
    +5.0s  ↺ web nothing to undo: restart web
    +5.0s  ▸ read everything back
    +5.0s  rolled back
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("progress (-want +got):\n%s", diff)
	}
}

func TestEventsAreOneDocumentPerLine(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	c := newCall(&App{Stdout: &b, Now: start})
	c.verb, c.json = "deploy", true
	w := c.watch()
	for _, l := range life() {
		w.show(l.view)
	}
	w.close()
	kinds := map[string]int{}
	for l := range strings.Lines(b.String()) {
		var e change
		if err := json.Unmarshal([]byte(l), &e); err != nil {
			t.Fatalf("line %q: %v", l, err)
		}
		if e.Format != "backstay.deploy.event/v1" || e.Name != "shop#4" {
			t.Errorf("event %+v", e)
		}
		kinds[e.Kind]++
	}
	want := map[string]int{changeState: 5, changeStep: 6, changeFailure: 1, changeAct: 1}
	if diff := cmp.Diff(want, kinds); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

func TestPicture(t *testing.T) {
	t.Parallel()
	views := life()
	for _, tt := range []struct {
		name string
		view engine.View
		at   float64
		want string
	}{
		{"holding", views[2].view, 10, `shop#4 v2  holding  10s
  ✓ conf done        500ms   write conf
  · web  pending             restart web
  undo ██████████░░░░░░░░░░ 30s of 1m0s
  next: waits for approval, 50s left
  from another terminal: backstay approve shop#4 · Ctrl-C rolls back`},
		{"rolling back", views[4].view, 4, `shop#4 v2  rolling back  4s
  ✓ conf done        500ms   write conf
  ✗ web  failed      2s      exit status 7
  step_failed: step web: exit status 7
  undo ██████████░░░░░░░░░░ 30s of 1m0s
  next: undo what was done, newest first
  Ctrl-C twice stops at once; backstay recover goes on`},
		{"settled", views[5].view, 99, `shop#4 v2  rolled back  5s
  ↺ conf undone      4.5s    write conf
  ↺ web  nothing to undo 3s      exit status 7
  step_failed: step web: exit status 7
  undo ██████████░░░░░░░░░░ 30s of 1m0s`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			now := start().Add(time.Duration(tt.at * float64(time.Second)))
			got := strings.Join(picture(newPrinter(nil, false), tt.view, now, 100, 0), "\n")
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("picture (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPictureFitsTheTerminal(t *testing.T) {
	t.Parallel()
	v := life()[3].view
	v.Steps = nil
	for i := range 200 {
		s := engine.StepView{ID: "step-" + strings.Repeat("x", i%50), Phase: engine.PhasePending, Summary: strings.Repeat("wide 日本 ", 40)}
		if i < 150 {
			s.Phase = engine.PhaseApplied
		}
		v.Steps = append(v.Steps, s)
	}
	lines := picture(newPrinter(nil, true), v, start(), 60, 0)
	if len(lines) > maxPicture+8 {
		t.Errorf("%d lines", len(lines))
	}
	joined := strings.Join(lines, "\n")
	if !strings.Contains(joined, "steps before") || !strings.Contains(joined, "steps after") {
		t.Errorf("hidden steps are not counted:\n%s", joined)
	}
	for _, l := range lines {
		if w := lipgloss.Width(l); w > 60 {
			t.Errorf("a line is %d columns wide: %q", w, l)
		}
	}
}

// silentWatch shows nothing.
type silentWatch struct{}

func (silentWatch) show(engine.View)      {}
func (silentWatch) say(string, ...any)    {}
func (silentWatch) output(string, string) {}
func (silentWatch) close()                {}

// stuckWatch is a screen that takes nothing until it is let go.
type stuckWatch struct {
	silentWatch
	free  chan struct{}
	shown chan engine.View
}

func (w *stuckWatch) show(v engine.View) {
	<-w.free
	w.shown <- v
}

func TestRelayNeverBlocksTheDeployment(t *testing.T) {
	t.Parallel()
	w := &stuckWatch{free: make(chan struct{}), shown: make(chan engine.View, 1000)}
	r := newRelay(w)
	for i := range 500 {
		r.show(engine.View{UndoCost: time.Duration(i)}) // returns, although nothing is taken
	}
	close(w.free)
	r.close()
	close(w.shown)
	var last engine.View
	n := 0
	for v := range w.shown {
		last, n = v, n+1
	}
	if last.UndoCost != 499 || n > relayed+1 {
		t.Errorf("%d views were shown, the last is %d; want at most %d with the newest last", n, last.UndoCost, relayed+1)
	}
}

func TestEndingShowsWhatIsLiveAndLeft(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	c := newCall(&App{Stdout: &b, Now: start})
	v := life()[5].view
	v.State = backstay.Held
	v.Residue = []backstay.Residue{{
		Key: "file:/etc/x", Part: "a\x1b[2J", Step: "conf", Before: json.RawMessage(`"old"`), Current: json.RawMessage(`"new"`),
		Cause: backstay.CauseUndoFailed, Detail: "no space", Next: "backstay rollback shop#4 --retry",
	}}
	c.printEnding(ending{Summary: engine.Summary{View: v}, Undone: []string{"web"}, Ledger: headDocument{42, "root="}})
	for _, want := range []string{
		"shop#4 is HELD: 1 thing could not be restored\n", "  cause       step_failed: step web: exit status 7\n", "  live        a mixture; see the residue\n",
		"  undone      web\n", "  residue     1 thing\n", "file:/etc/x", "undo_failed", "no space", "  deployment  shop#4  01-id\n", "  ledger      42 entries, head root=\n",
		"backstay rollback shop#4 --retry",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the ending does not hold %q:\n%s", want, b.String())
		}
	}
	if strings.Contains(b.String(), "\x1b") {
		t.Errorf("a control character reached the terminal: %q", b.String())
	}
}

func TestLastLines(t *testing.T) {
	t.Parallel()
	if got, want := lastLines("1\n2\n3\n", 2), "… 1 lines before; see `backstay report`\n2\n3"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := lastLines("1\n2\n", 2); got != "1\n2" {
		t.Errorf("got %q", got)
	}
}

func TestDriveErrorNamesTheDeployment(t *testing.T) {
	t.Parallel()
	cause := errors.New("x")
	if err := driveError(cause, engine.View{}); err != cause { //nolint:errorlint // the very same
		t.Errorf("got %v", err)
	}
	if got := refOf(driveError(cause, engine.View{Deployment: "id", Name: "shop#4"})); got != "shop#4" {
		t.Errorf("ref %q", got)
	}
}
