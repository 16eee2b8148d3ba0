package report_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/report"
)

var update = flag.Bool("update", false, "write the golden files")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(got), string(want)); diff != "" {
		t.Errorf("%s (-got +want; -update writes it):\n%s", path, diff)
	}
}

type rendering struct {
	ext   string
	write func(*report.Report, io.Writer) error
}

func renderings() []rendering {
	return []rendering{
		{"txt", (*report.Report).WriteText},
		{"json", (*report.Report).WriteJSON},
		{"md", (*report.Report).WriteMarkdown},
		{"html", (*report.Report).WriteHTML},
	}
}

func render(tb testing.TB, r *report.Report, how rendering) string {
	tb.Helper()
	var out bytes.Buffer
	if err := how.write(r, &out); err != nil {
		tb.Fatal(err)
	}
	return out.String()
}

func TestGoldens(t *testing.T) {
	t.Parallel()
	for name, s := range map[string]*story{"rolled-back": rolledBack(), "held": held(), "failed": failed(), "proven": proven()} {
		for _, how := range renderings() {
			t.Run(name+"."+how.ext, func(t *testing.T) {
				t.Parallel()
				golden(t, name+"."+how.ext, []byte(render(t, timeline(t, s), how)))
			})
		}
	}
}

func std(d *backstay.Duration) time.Duration {
	if d == nil {
		return -1
	}
	return d.Std()
}

func TestTimes(t *testing.T) {
	t.Parallel()
	undo := func(s *story) {
		s.move(time.Second, "fail", backstay.Running, backstay.RollingBack)
		s.move(3*time.Second, "undone", backstay.RollingBack, backstay.RolledBack)
	}
	before := backstay.ImageRef{Digest: "x"}
	tests := []struct {
		name                string
		write               func(s *story)
		total, detect, undo time.Duration // -1: cannot be told
		cause               backstay.Cause
	}{
		{"under way", func(*story) {}, -1, -1, -1, ""},
		{"step fails", func(s *story) {
			s.add(time.Second, backstay.EntryIntent, "a", backstay.IntentBody{Before: before})
			s.add(2*time.Second, backstay.EntryOutcome, "a", backstay.OutcomeBody{Cause: backstay.CauseStepFailed})
			undo(s)
		}, 7*time.Second + 10*time.Millisecond, 2 * time.Second, 3 * time.Second, backstay.CauseStepFailed},
		{"step fails at its second attempt", func(s *story) {
			s.add(time.Second, backstay.EntryIntent, "a", backstay.IntentBody{Before: before})
			s.add(time.Second, backstay.EntryObserved, "a", backstay.ObservedBody{Finding: backstay.NotApplied})
			s.add(time.Second, backstay.EntryIntent, "a", backstay.IntentBody{Before: before})
			s.add(4*time.Second, backstay.EntryOutcome, "a", backstay.OutcomeBody{Cause: backstay.CauseStepFailed})
			undo(s)
		}, 11*time.Second + 10*time.Millisecond, 4 * time.Second, 3 * time.Second, backstay.CauseStepFailed},
		{"process dies in a step", func(s *story) {
			s.add(time.Second, backstay.EntryIntent, "a", backstay.IntentBody{Before: before})
			s.add(30*time.Second, backstay.EntryObserved, "a", backstay.ObservedBody{Finding: backstay.Partial, Reason: "died"})
			undo(s)
		}, 35*time.Second + 10*time.Millisecond, 30 * time.Second, 3 * time.Second, backstay.CauseCrashed},
		{"verification fails", func(s *story) {
			s.acts("a", time.Second, before, before)
			s.add(5*time.Second, backstay.EntryVerdict, "", backstay.VerdictBody{Check: "verify", Phase: "verify", CheckResult: backstay.CheckResult{Verdict: backstay.Fail}})
			undo(s)
		}, 10*time.Second + 30*time.Millisecond, 5 * time.Second, 3 * time.Second, backstay.CauseVerifyFailed},
		{"a single probe's failure is no failure", func(s *story) {
			s.add(5*time.Second, backstay.EntryVerdict, "", backstay.VerdictBody{Check: "healthz", Phase: "verify", CheckResult: backstay.CheckResult{Verdict: backstay.Fail}})
		}, -1, -1, -1, ""},
		{"aborted", func(s *story) {
			s.add(time.Second, backstay.EntrySignal, "", backstay.SignalBody{Signal: "abort", Accepted: true, Reason: "wrong one"})
			undo(s)
		}, 5*time.Second + 10*time.Millisecond, -1, 3 * time.Second, backstay.CauseAborted},
		{"abort refused", func(s *story) {
			s.add(time.Second, backstay.EntrySignal, "", backstay.SignalBody{Signal: "abort", Why: "too late"})
		}, -1, -1, -1, ""},
		{"undone at the second try", func(s *story) {
			s.move(time.Second, "fail", backstay.Running, backstay.RollingBack)
			s.move(3*time.Second, "stick", backstay.RollingBack, backstay.Held)
			s.move(time.Hour, "retry", backstay.Held, backstay.RollingBack)
			s.move(2*time.Second, "undone", backstay.RollingBack, backstay.RolledBack)
		}, time.Hour + 6*time.Second + 10*time.Millisecond, -1, 5 * time.Second, ""},
		{"still rolling back", func(s *story) { s.move(time.Second, "fail", backstay.Running, backstay.RollingBack) }, -1, -1, -1, ""},
		{"clock set back", func(s *story) {
			s.add(time.Second, backstay.EntryIntent, "a", backstay.IntentBody{Before: before})
			s.add(-time.Hour, backstay.EntryOutcome, "a", backstay.OutcomeBody{Cause: backstay.CauseStepFailed})
			s.move(time.Second, "fail", backstay.Running, backstay.RollingBack)
			s.move(-time.Hour, "undone", backstay.RollingBack, backstay.RolledBack)
		}, -1, -1, -1, backstay.CauseStepFailed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newStory(step("a", "file", "write a", conf))
			tt.write(s)
			r := timeline(t, s)
			got := []time.Duration{std(r.Times.Total), std(r.Times.Detect), std(r.Times.Undo)}
			if diff := cmp.Diff(got, []time.Duration{tt.total, tt.detect, tt.undo}); diff != "" {
				t.Errorf("total, detect, undo (-got +want):\n%s", diff)
			}
			var cause backstay.Cause
			if r.Failure != nil {
				cause = r.Failure.Cause
			}
			if cause != tt.cause && tt.cause != "" {
				t.Errorf("cause: got %q, want %q", cause, tt.cause)
			}
			for _, how := range renderings() {
				render(t, r, how)
			}
		})
	}
}

// TestFirstFailureCounts: what follows from a failure is not the failure.
func TestFirstFailureCounts(t *testing.T) {
	t.Parallel()
	s := newStory(step("a", "file", "write a", conf), step("b", "file", "write b", conf))
	for _, id := range []string{"a", "b"} {
		s.add(time.Second, backstay.EntryIntent, id, backstay.IntentBody{Before: backstay.ImageRef{Digest: "x"}})
	}
	s.add(time.Second, backstay.EntryOutcome, "b", backstay.OutcomeBody{Cause: backstay.CauseDeadline, Class: backstay.Conflict, Error: "b timed out", Hint: "be quicker", Output: "b said"})
	s.add(time.Second, backstay.EntryOutcome, "a", backstay.OutcomeBody{Cause: backstay.CauseStepFailed, Error: "cancelled"})
	f := timeline(t, s).Failure
	if f == nil || f.Step != "b" || f.Cause != backstay.CauseDeadline || f.Word != "systemic" || f.Hint != "be quicker" || f.Output != "b said" {
		t.Errorf("got %+v", f)
	}
}

func TestTimelineErrors(t *testing.T) {
	t.Parallel()
	s := rolledBack()
	if _, err := report.Timeline(t.Context(), s, "none"); !errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("unknown deployment: got %v", err)
	}
	s.blobs = map[string][]byte{}
	if _, err := report.Timeline(t.Context(), s, s.dep.ID); !errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("stored image gone: got %v", err)
	}
	s = rolledBack()
	s.entries[3].Body = json.RawMessage(`"text"`)
	if _, err := report.Timeline(t.Context(), s, s.dep.ID); err == nil {
		t.Error("an unreadable body was passed over")
	}
}

func TestUnknownKindsAndStepsAreKept(t *testing.T) {
	t.Parallel()
	s := newStory(step("a", "file", "write a", conf))
	s.add(time.Second, "rehearsal", "", map[string]int{"x": 1})
	s.add(time.Second, backstay.EntryIntent, "later", backstay.IntentBody{Before: backstay.ImageRef{Digest: "x"}})
	r := timeline(t, s)
	if len(r.Steps) != 2 || r.Steps[1].ID != "later" {
		t.Errorf("steps: got %+v", r.Steps)
	}
	if got := render(t, r, renderings()[0]); !strings.Contains(got, "rehearsal") {
		t.Errorf("the unknown kind is not shown:\n%s", got)
	}
}

// hostile would forge a line, drive a terminal, turn text around, or be markup.
const hostile = "ok\n## forged\n  residue (0)\r\x1b[2J\x1b]8;;http://x\x07\u202e\u2066evil\u200f\u0085\u2028\x00\x7f\U000e0041" +
	"<script>alert(1)</script><img src=x onerror=alert(1)> [click](javascript:alert(1)) ```\n| a | b |\n![x](http://x) @everyone https://evil.example \"' onload=x &lt;"

func hostileStory() *story {
	s := newStory(step(hostile, hostile, hostile, hostile))
	s.dep.Name, s.dep.Release, s.dep.Version, s.dep.Environment, s.dep.Reverts, s.dep.RevertedBy = hostile, hostile, hostile, hostile, hostile, hostile
	s.dep.Author = backstay.Actor{Name: hostile, Host: hostile}
	s.add(0, backstay.EntryPlanned, "", backstay.PlannedBody{Reason: hostile, Tool: hostile})
	im := func(v string) backstay.ImageRef {
		return s.ref(backstay.Image{hostile: backstay.ResourceState{Parts: map[string]json.RawMessage{
			hostile: backstay.Canonical(hostile + v), "o": backstay.Canonical(map[string]any{"type": hostile, "mode": hostile + v, hostile: hostile}),
			"l": backstay.Canonical(map[string]any{"type": "symlink", "target": hostile + v}),
		}}})
	}
	s.add(time.Second, backstay.EntryIntent, hostile, backstay.IntentBody{Before: im("a")})
	s.add(time.Second, backstay.EntryOutcome, hostile, backstay.OutcomeBody{
		Error: hostile, Hint: hostile, Note: hostile, Output: hostile + "\n" + hostile, Cause: hostile, Class: hostile, After: ptr(im("b")),
	})
	s.add(0, backstay.EntryObserved, hostile, backstay.ObservedBody{Finding: hostile, Reason: hostile})
	s.add(0, backstay.EntryCompensation, hostile, backstay.CompensationBody{Result: hostile, Error: hostile, Output: hostile, Note: hostile, Cause: hostile})
	for _, kind := range []backstay.EntryKind{backstay.EntryNote, backstay.EntryLockBroken} {
		s.add(0, kind, hostile, backstay.NoteBody{Text: hostile, Key: hostile})
	}
	s.add(0, backstay.EntryTakeover, "", backstay.TakeoverBody{Node: hostile, Previous: hostile, Reason: hostile})
	s.add(0, backstay.EntrySettled, hostile, backstay.SettledBody{Error: hostile})
	s.add(0, backstay.EntryRefused, "", backstay.RefusedBody{What: hostile, Error: hostile})
	s.add(0, backstay.EntryVerdict, "", backstay.VerdictBody{Check: hostile, Phase: hostile, CheckResult: backstay.CheckResult{Reason: hostile}})
	s.add(0, hostile, hostile, hostile)
	for _, signal := range []string{"approve", hostile} {
		s.add(0, backstay.EntrySignal, hostile, backstay.SignalBody{
			ID: hostile, Signal: signal, Reason: hostile, Why: hostile, Step: hostile, Alarm: &backstay.Alarm{Source: hostile, Key: hostile, More: 3, Alerts: []backstay.Alert{
				{Name: hostile, Labels: map[string]string{hostile: hostile}, Summary: hostile, Link: "javascript:alert(1)", Digest: hostile},
			}},
		})
	}
	for i := range 3 {
		s.add(time.Second, backstay.EntryVerdict, hostile, backstay.VerdictBody{Check: hostile, Phase: "gate", CheckResult: backstay.CheckResult{Reason: hostile, Evidence: &backstay.Evidence{
			Metric: hostile, Odds: 10, FailAt: 1000, Safe: backstay.MaxOdds, PassAt: 20, Margin: hostile, Canary: uint64(i), Baseline: 1, Weight: -5,
		}}})
	}
	res := backstay.Residue{
		Key: hostile, Part: hostile, Step: hostile, Before: backstay.Canonical(hostile), Wanted: json.RawMessage(`"` + "\u202e" + `"`), Current: json.RawMessage("not JSON <b>"),
		Cause: hostile, Detail: hostile, Next: hostile,
	}
	unknown := res
	unknown.Unknown = hostile
	// Current that is no JSON cannot stand in an entry; Residues gets it elsewhere.
	res.Current = nil
	unknown.Current = nil
	s.add(0, backstay.EntryTransition, "", backstay.TransitionBody{From: hostile, Event: hostile, To: backstay.Held, Cause: hostile, Reason: hostile, Step: hostile, Residue: []backstay.Residue{res, unknown}, Kept: []backstay.Residue{res}})
	return s
}

// TestNothingIsForged is B20 and B21 of the hostile inputs.
func TestNothingIsForged(t *testing.T) {
	t.Parallel()
	hostileReport, clean := timeline(t, hostileStory()), timeline(t, held())
	for _, how := range renderings() {
		t.Run(how.ext, func(t *testing.T) {
			t.Parallel()
			got := render(t, hostileReport, how)
			for _, r := range got {
				if r != '\n' && !unicode.IsPrint(r) {
					t.Fatalf("shows %U", r)
				}
			}
			switch how.ext {
			case "txt":
				for l := range strings.Lines(got) {
					if strings.HasPrefix(l, "## ") || strings.HasPrefix(l, "  residue (0)") {
						t.Errorf("forged line %q", l)
					}
				}
			case "json":
				var back report.Report
				if err := json.Unmarshal([]byte(got), &back); err != nil {
					t.Errorf("not JSON: %v", err)
				} else if back.Failure == nil || back.Failure.Reason != hostile {
					t.Error("JSON lost what the entry said")
				}
			case "html":
				checkHTML(t, got, render(t, clean, how))
			case "md":
				checkMarkdown(t, got)
			}
		})
	}
}

func checkHTML(t *testing.T, got, clean string) {
	t.Helper()
	for _, bad := range []string{"<script", "<img", "onerror=alert(1)>", "<a ", "href", "javascript:alert(1)\""} {
		if strings.Contains(got, bad) {
			t.Errorf("the page has %q", bad)
		}
	}
	for _, page := range []string{got, clean} {
		for _, outside := range []string{"src=", "url(", "@import", "<link", "<iframe", "<object"} {
			if strings.Contains(strings.ReplaceAll(page, "img src=x", ""), outside) {
				t.Errorf("the page asks for something from outside: %q", outside)
			}
		}
		for _, tag := range []string{"table", "section", "tr", "td", "pre", "svg", "h2", "p"} {
			if open, end := strings.Count(page, "<"+tag+">")+strings.Count(page, "<"+tag+" "), strings.Count(page, "</"+tag+">"); open != end {
				t.Errorf("<%s>: %d opened, %d closed", tag, open, end)
			}
		}
	}
}

func checkMarkdown(t *testing.T, got string) {
	t.Helper()
	fence, bars := "", 0
	for l := range strings.Lines(got) {
		l = strings.TrimSuffix(l, "\n")
		switch {
		case fence != "":
			if l == fence {
				fence = ""
			}
			continue
		case strings.HasPrefix(l, "```"):
			fence = strings.TrimRight(l, "texsh")
			continue
		}
		l = strings.ReplaceAll(l, `\]`, "")
		if strings.HasPrefix(l, "## forged") || strings.ContainsAny(l, "<>") || strings.Contains(l, "](") || strings.Contains(l, "https:") || strings.Contains(l, "@") {
			t.Errorf("markup in %q", l)
		}
		if !strings.HasPrefix(l, "|") {
			bars = 0
			continue
		}
		cells := strings.Count(strings.ReplaceAll(l, `\|`, ""), "|")
		if bars > 0 && cells != bars {
			t.Errorf("a row of %d bars in a table of %d: %q", cells, bars, l)
		}
		bars = cells
	}
	if fence != "" {
		t.Error("a fence is not closed")
	}
}

func TestResidues(t *testing.T) {
	t.Parallel()
	var list []backstay.Residue
	for _, r := range timeline(t, held()).Residue {
		list = append(list, r.Residue)
	}
	var out bytes.Buffer
	if err := report.Residues(&out, list); err != nil {
		t.Fatal(err)
	}
	golden(t, "residues.txt", out.Bytes())

	out.Reset()
	if err := report.Residues(&out, []backstay.Residue{{Key: hostile, Part: hostile, Current: json.RawMessage("not JSON \x1b[1m"), Cause: hostile, Next: hostile}}); err != nil {
		t.Fatal(err)
	}
	if got := out.String(); strings.Count(got, "\n") != 5 || strings.ContainsRune(got, '\x1b') {
		t.Errorf("forged:\n%q", got)
	}
}

func TestWritersReportErrors(t *testing.T) {
	t.Parallel()
	r := timeline(t, held())
	for _, how := range renderings() {
		if err := how.write(r, broken{}); !errors.Is(err, errBroken) {
			t.Errorf("%s: got %v", how.ext, err)
		}
	}
	if err := report.Residues(broken{}, nil); !errors.Is(err, errBroken) {
		t.Errorf("residues: got %v", err)
	}
}

var errBroken = errors.New("pipe is broken")

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errBroken }
