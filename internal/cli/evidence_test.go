package cli

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/engine"
)

// gated is a deployment that waits at a gate, seconds after its start.
func gated(seconds int, verdict backstay.Verdict, odds float64) engine.View {
	at, most := start().Add(time.Duration(seconds)*time.Second), 500.0
	value := 412.0
	e := &backstay.Evidence{
		Metric: "error-rate", Odds: odds, FailAt: 1000, Part: 5, Safe: 8.1, PassAt: 20, Margin: "0.2 percentage points", Low: 0.4, High: 2.1,
		Canary: 1200, CanaryBad: 3, Baseline: 10800, BaselineBad: 31, More: 800, Left: backstay.Duration(80 * time.Second), Weight: 10,
	}
	return engine.View{
		Deployment: "01-id", Name: "shop#4", Release: "shop", Version: "v2", State: backstay.Running, Started: start(), Next: "route shop: 50 %",
		Steps: []engine.StepView{{ID: "look", Kind: "gate", Summary: "go on when errors, backlog passed", Phase: engine.PhaseOpen, Opened: start()}},
		Gates: []engine.GateState{{
			Step: "look", Route: "shop", Weight: 10, Opened: start(), Hold: start().Add(30 * time.Second), Until: start().Add(10 * time.Minute),
			Undecided: backstay.RollBackUndecided, Next: "route shop: 50 %",
		}},
		Checks: []engine.CheckState{
			{Check: "backlog", Step: "look", Armed: true, Verdict: backstay.Pass, Reason: "it is 412", At: at, Evidence: &backstay.Evidence{Metric: "q", Value: &value, Max: &most}},
			{Check: "errors", Step: "look", Armed: true, Verdict: verdict, Reason: e.Text(), At: at, Evidence: e, Samples: 12000},
			{Check: "forged\x1b[31m\nline", Step: "look", Armed: true, Reason: "it was\r not asked yet"},
			{Check: "test", Step: "before", Verdict: backstay.Pass, Reason: "over"},
		},
	}
}

func TestEvidencePicture(t *testing.T) {
	t.Parallel()
	p := newPrinter(&bytes.Buffer{}, false)
	var got []string
	for _, l := range evidenceLines(p, gated(12, backstay.Undecided, 14), start().Add(12*time.Second), maxChecks) {
		got = append(got, strings.TrimRight(string(l), " "))
	}
	want := []string{
		"gate look at 10 % · holds for 18s · undecided in 9m48s: rollback",
		"backlog          pass       it is 412",
		"errors           undecided  1200 requests (3 bad) against 10800 (31 bad) · about 1m20s more if both are equal",
		"                 worse  ██████░░░░░░░░░░ 14 : 1 of 1000",
		"                 safe   ███████████░░░░░ 8.1 : 1 of 20 (margin 0.2 percentage points)",
		"                 odds ratio 0.4 to 2.1",
		"forged[31m line  undecided  it was not asked yet",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("picture (-want +got):\n%s", diff)
	}
	if cut := evidenceLines(p, gated(12, backstay.Undecided, 14), start(), 1); len(cut) != 3 || cut[2] != "… 2 more checks" {
		t.Errorf("at most one check: %q", cut)
	}
	settled := gated(12, backstay.Fail, 1200)
	settled.State, settled.Gates = backstay.RolledBack, nil
	if all := evidenceLines(p, settled, start(), 9); !strings.Contains(string(all[2]), "████████████████ 1200 : 1 of 1000") || !strings.HasPrefix(string(all[len(all)-1]), "test") {
		t.Errorf("at the end: %q", all)
	}
}

// A small terminal shows all of a picture: fewer steps, a line for each check.
func TestPictureFitsASmallTerminal(t *testing.T) {
	t.Parallel()
	v := gated(12, backstay.Undecided, 14)
	for i := range 30 {
		v.Steps = append(v.Steps, engine.StepView{ID: "later", Summary: strings.Repeat("x", i), Phase: engine.PhasePending})
	}
	v.Budget = time.Minute
	for _, tt := range []struct {
		height int
		want   string
	}{
		{24, "odds ratio 0.4 to 2.1"},
		{18, "errors           undecided  worse 14 : 1 of 1000, safe 8.1 : 1 of 20, about 1m20s more if both are equal"},
		{0, "odds ratio 0.4 to 2.1"},
	} {
		lines := picture(newPrinter(nil, false), v, start(), 120, tt.height)
		if tt.height > 0 && len(lines) >= tt.height {
			t.Errorf("%d lines for a height of %d:\n%s", len(lines), tt.height, strings.Join(lines, "\n"))
		}
		if !strings.Contains(strings.Join(lines, "\n"), tt.want) || !strings.Contains(strings.Join(lines, "\n"), "steps after") {
			t.Errorf("height %d does not show %q:\n%s", tt.height, tt.want, strings.Join(lines, "\n"))
		}
	}
}

// Plain lines tell when a check says something else, and otherwise now and then;
// events tell of every answer that the ledger has.
func TestEvidenceProgress(t *testing.T) {
	t.Parallel()
	views := []struct {
		seconds int
		verdict backstay.Verdict
		odds    float64
	}{{0, backstay.Undecided, 1}, {10, backstay.Undecided, 14}, {20, backstay.Undecided, 20}, {40, backstay.Undecided, 30}, {41, backstay.Pass, 0.2}}
	var plain, events bytes.Buffer
	now := start()
	clock := func() time.Time { return now }
	w := &plainWatch{c: newCall(&App{Stderr: &plain, Stdout: &plain, Now: clock})}
	c := newCall(&App{Stdout: &events, Now: clock})
	c.verb, c.json = "status", true
	j := c.watch()
	for _, v := range views {
		now = start().Add(time.Duration(v.seconds) * time.Second)
		w.show(gated(v.seconds, v.verdict, v.odds))
		j.show(gated(v.seconds, v.verdict, v.odds))
	}
	var lines []string
	for l := range strings.Lines(plain.String()) {
		if strings.Contains(l, "≈ errors") {
			lines = append(lines, strings.TrimSpace(l))
		}
	}
	tail := "odds ratio 0.4 to 2.1, after 1200 and 10800 requests, about 1m20s more if both are equal; next: route shop: 50 %"
	safe := "8.1 : 1 that it is not by 0.2 percentage points (of 20), "
	want := []string{
		"+0.0s  ≈ errors undecided at 10 %: 1 : 1 that the new side is worse (of 1000), " + safe + tail,
		"+40.0s  ≈ errors undecided at 10 %: 30 : 1 that the new side is worse (of 1000), " + safe + tail,
		"+41.0s  ≈ errors pass at 10 %: 0.2 : 1 that the new side is worse (of 1000), " + safe + tail,
	}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Errorf("plain lines (-want +got):\n%s", diff)
	}
	told := 0
	for l := range strings.Lines(events.String()) {
		var e change
		if err := json.Unmarshal([]byte(l), &e); err != nil {
			t.Fatal(err)
		}
		if e.Kind == changeEvidence && e.Check == "errors" {
			if told++; e.Evidence.FailAt != 1000 || e.Verdict == nil || e.Next != "route shop: 50 %" {
				t.Errorf("event %+v", e)
			}
		}
	}
	if told != len(views) {
		t.Errorf("%d events of %d answers", told, len(views))
	}
}

func TestOnward(t *testing.T) {
	t.Parallel()
	v := gated(0, backstay.Undecided, 1)
	if label, command := onward(v); label != "approve" || command != "backstay approve shop#4" {
		t.Errorf("got %s: %s", label, command)
	}
	v.Gates[0].Stalled = "undecided after 10m"
	if label, command := onward(v); label != "go on" || command != "backstay promote shop#4" {
		t.Errorf("a stalled gate: %s: %s", label, command)
	}
}
