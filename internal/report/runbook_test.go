package report_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/plan"
	"github.com/backstay-dev/backstay/internal/report"
)

func (s *story) Timings(context.Context, string) (map[string]time.Duration, error) {
	return map[string]time.Duration{"conf": 48 * time.Millisecond}, nil
}

var _ report.RunbookSource = (*story)(nil)

// rules are a small table and explainer, independent of the engine's.
func rules() report.Rules {
	return report.Rules{
		Moves: []report.Move{
			{From: backstay.Running, Event: "fail", To: backstay.RollingBack, Why: "it turned around"},
			{From: backstay.Running, Event: "stick", To: backstay.Held, Why: "past the point of no return"},
			{From: backstay.Running, Event: "commit", To: backstay.Committed, Why: "all is well"},
			{From: backstay.Holding, Event: "resume", To: backstay.Running, Why: "it came"},
			{From: backstay.Holding, Event: "fail", To: backstay.RollingBack, Why: "not agreed"},
			{From: backstay.Committed, Event: "prove", To: backstay.Proven, Why: "the bake passed"},
			{From: backstay.Committed, Event: "fail", To: backstay.RollingBack, Why: "the bake failed"},
			{From: backstay.Committed, Event: "stick", To: backstay.Held, Why: "the bake failed late"},
			{From: backstay.RollingBack, Event: "stick", To: backstay.Held, Why: "not restored"},
		},
		Causes: []report.RunbookCause{
			{Cause: backstay.CauseNoUndo, Meaning: "no undo", Next: "by hand"},
			{Cause: backstay.CauseDrift, Meaning: "somebody else", Next: "decide"},
		},
		Explain: func(st backstay.Step) (backstay.Explanation, error) {
			e := backstay.Explanation{Do: []backstay.Command{{Line: "do " + st.ID + " \"$DEPLOYMENT\""}}}
			if st.HasUndo {
				e.Undo = []backstay.Command{{Note: "safe twice", Line: "undo " + st.ID + " \\\n  --all"}}
			}
			if st.Effect == backstay.Probed {
				e.Probe = []backstay.Command{{Line: "probe " + st.ID}}
			}
			return e, nil
		},
	}
}

// shopPlan has a restorable step, one with a probe, a wait, the point of no
// return, and one after it.
func shopPlan() *plan.Plan {
	st := func(seq int, id string, class backstay.Class, effect backstay.Effect, needs ...string) backstay.Step {
		return backstay.Step{ID: id, Seq: seq, Needs: needs, Prepared: backstay.Prepared{
			Kind: "run", Class: class, Effect: effect, Fence: backstay.Leased, Window: backstay.Duration(time.Minute), HasUndo: class != backstay.Irreversible,
			Timeout: backstay.Duration(time.Minute), UndoTimeout: backstay.Duration(2 * time.Minute), Retries: 2, Summary: "do " + id, UndoSummary: "undo " + id,
			Keys: []backstay.Key{backstay.Key("run:shop/" + id)},
		}}
	}
	written := st(1, "conf", backstay.Exact, backstay.Idempotent)
	written.Kind, written.Keys, written.Restorable, written.ReadSummary = "file", []backstay.Key{conf}, true, "read it"
	written.Want, written.Before = backstay.Image{conf: parts("", file("0640", 1300, newSum))}, map[backstay.Key]string{conf: oldSum}
	probed := st(2, "schema", backstay.Equivalent, backstay.Probed, "conf")
	probed.ReadSummary, probed.Modulo, probed.Secrets = "run read", []string{"timestamps"}, []string{"secret:env/DB"}
	ask := st(3, "ask", backstay.Exact, backstay.Idempotent, "schema")
	ask.Hold, ask.HasUndo, ask.Keys = &backstay.Hold{From: []string{"sre"}, Count: 2, Within: backstay.Duration(time.Hour), NotAuthor: true}, false, nil
	mail := st(4, "mail", backstay.Irreversible, backstay.AtMostOnce, "ask")
	mail.Irreversible, mail.Pivot = "mails are sent", true
	after := st(5, "web", backstay.Compensated, backstay.Idempotent, "mail")
	return &plan.Plan{
		Format: plan.Format, Release: "shop", Version: "2.4.0", Environment: "production", Owner: "team-shop", Pivot: "mail",
		Steps: []backstay.Step{written, probed, ask, mail, after}, Locks: []backstay.Key{conf}, Within: backstay.Duration(time.Minute),
		Verify: []plan.Check{{ID: "healthz", Within: backstay.Duration(time.Minute), Every: backstay.Duration(time.Second)}},
		Bake:   plan.Bake{For: backstay.Duration(time.Hour), Every: backstay.Duration(time.Minute), Failures: 3}, Promise: plan.Promise{Class: backstay.Irreversible, Text: "step mail cannot be undone"},
		Artifacts: []backstay.Artifact{{Name: "app", File: "/srv/app.tar", SHA256: newSum, Size: 1_234_567}}, Inputs: []plan.Input{{Name: "VERSION", Value: "2.4.0", Source: "--set"}},
	}
}

func ledgerOf(p *plan.Plan, drilled string, ago, good time.Duration) *story {
	s := proven()
	s.others = append(s.others, earlier(10, "2.3.8", backstay.RolledBack), earlier(9, "2.3.7", backstay.RolledBack))
	for _, o := range append(s.others, s) {
		o.dep.Environment = p.Environment
	}
	s.drills = nil
	s.drilled(drilled, ago, good)
	return s
}

func now() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

func book(tb testing.TB, p *plan.Plan, src report.RunbookSource, r report.Rules, on report.Occasion) *report.Runbook {
	tb.Helper()
	on.AsOf = now()
	b, err := report.NewRunbook(tb.Context(), p, src, r, on)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

type bookRendering struct {
	ext   string
	write func(*report.Runbook, io.Writer) error
}

func bookRenderings() []bookRendering {
	return []bookRendering{
		{"txt", (*report.Runbook).WriteText},
		{"json", (*report.Runbook).WriteJSON},
		{"md", (*report.Runbook).WriteMarkdown},
		{"html", (*report.Runbook).WriteHTML},
	}
}

func renderBook(tb testing.TB, b *report.Runbook, how bookRendering) string {
	tb.Helper()
	var out bytes.Buffer
	if err := how.write(b, &out); err != nil {
		tb.Fatal(err)
	}
	return out.String()
}

func TestRunbookGoldens(t *testing.T) {
	t.Parallel()
	p := shopPlan()
	b := book(t, p, ledgerOf(p, p.Digest(), 48*time.Hour, 14*24*time.Hour), rules(), report.Occasion{Deployment: "shop#12"})
	for _, how := range bookRenderings() {
		t.Run(how.ext, func(t *testing.T) {
			t.Parallel()
			golden(t, "runbook."+how.ext, []byte(renderBook(t, b, how)))
		})
	}
}

// TestRunbookFollowsPlanAndRules: it changes when the plan or the table does.
func TestRunbookFollowsPlanAndRules(t *testing.T) {
	t.Parallel()
	text := func(change func(*plan.Plan, *report.Rules)) string {
		p, r := shopPlan(), rules()
		change(p, &r)
		return renderBook(t, book(t, p, nil, r, report.Occasion{}), bookRenderings()[0])
	}
	plain := text(func(*plan.Plan, *report.Rules) {})
	tests := []struct {
		name        string
		change      func(*plan.Plan, *report.Rules)
		gone, comes string
	}{
		{
			"a transition leads elsewhere", func(_ *plan.Plan, r *report.Rules) { r.Moves[0].To, r.Moves[0].Why = backstay.Closed, "elsewhere" },
			"running → rolling back (it turned around)", "running → closed with residue (elsewhere)",
		},
		{
			"a transition is gone", func(_ *plan.Plan, r *report.Rules) { r.Moves = r.Moves[1:] },
			"running → rolling back", "the table has no fail from running",
		},
		{
			"a probe is gone", func(p *plan.Plan, _ *report.Rules) { p.Steps[1].Effect = backstay.AtMostOnce },
			"its probe answers", "",
		},
		{"no owner", func(p *plan.Plan, _ *report.Rules) { p.Owner = "" }, "team-shop", "owner: NONE"},
		{"no checks", func(p *plan.Plan, _ *report.Rules) { p.Verify = nil }, "healthz", "There are no checks"},
		{"no point of no return", func(p *plan.Plan, _ *report.Rules) {
			p.Pivot, p.Steps[3].Pivot, p.Steps[3].Class, p.Steps[3].HasUndo, p.Steps[3].Irreversible = "", false, backstay.Compensated, true, ""
		}, "it is refused: step mail", "makes a new, linked deployment"},
		{"fenced", func(p *plan.Plan, _ *report.Rules) {
			for i := range p.Steps {
				p.Steps[i].Fence = backstay.Fenced
			}
		}, "leased: a stale actor", "the target refuses the stale actor"},
		{
			"not restorable", func(p *plan.Plan, _ *report.Rules) { p.Steps[0].Restorable = false },
			"the later value is kept, reported", "conf, schema",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := text(tt.change)
			if !strings.Contains(plain, tt.gone) || strings.Contains(got, tt.gone) {
				t.Errorf("%q: in the plain one %t, in the changed one %t", tt.gone, strings.Contains(plain, tt.gone), strings.Contains(got, tt.gone))
			}
			if tt.comes == "" {
				return
			}
			if !strings.Contains(got, tt.comes) || strings.Contains(plain, tt.comes) {
				t.Errorf("%q: in the plain one %t, in the changed one %t", tt.comes, strings.Contains(plain, tt.comes), strings.Contains(got, tt.comes))
			}
		})
	}
}

func TestRunbookDrillEvidence(t *testing.T) {
	t.Parallel()
	p := shopPlan()
	day := 24 * time.Hour
	tests := []struct {
		name string
		src  report.RunbookSource
		want string
		says string
	}{
		{"no ledger", nil, "none", "NONE: this plan was never drilled"},
		{"valid", ledgerOf(p, p.Digest(), 2*day, 14*day), "valid", "Drill: drill d-7 of 2026-02-27"},
		{"expired", ledgerOf(p, p.Digest(), 20*day, 14*day), "expired", "EXPIRED: drill d-7"},
		{"expires this moment", ledgerOf(p, p.Digest(), 2*day, 2*day), "expired", "EXPIRED"},
		{"of another plan", ledgerOf(p, oldSum, 2*day, 14*day), "other_plan", "NONE of this plan: the newest drill"},
		{"of the future", ledgerOf(p, p.Digest(), -2*day, 14*day), "none", "NONE"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := book(t, p, tt.src, rules(), report.Occasion{})
			if b.Drill.Status != tt.want {
				t.Errorf("status: got %q, want %q", b.Drill.Status, tt.want)
			}
			if got := renderBook(t, b, bookRenderings()[0]); !strings.Contains(got, tt.says) {
				t.Errorf("does not say %q", tt.says)
			}
		})
	}
	// A newer drill of another plan does not hide the one of this plan.
	s := ledgerOf(p, p.Digest(), 2*day, 14*day)
	s.drilled(oldSum, day, 14*day)
	if got := book(t, p, s, rules(), report.Occasion{}).Drill.Status; got != "valid" {
		t.Errorf("with a newer drill of another plan: got %q", got)
	}
}

func TestRunbookPast(t *testing.T) {
	t.Parallel()
	p := shopPlan()
	b := book(t, p, ledgerOf(p, "", 0, 0), rules(), report.Occasion{})
	if got := []int{len(b.Past.Ends), b.Past.Ends[backstay.Proven], b.Past.Ends[backstay.RolledBack]}; !cmp.Equal(got, []int{2, 2, 2}) {
		t.Errorf("ends: got %v", b.Past.Ends)
	}
	if len(b.Past.Failures) != 1 || b.Past.Failures[0].Count != 2 || b.Past.Failures[0].Last != "shop#10" || b.Past.Failures[0].Check != "verify" {
		t.Errorf("failures: got %+v", b.Past.Failures)
	}
	if b.Past.Lead.Count != 2 || b.Past.Lead.P50 != nil {
		t.Errorf("lead: got %+v, want 2 values and no percentile of them", b.Past.Lead)
	}
}

func TestRunbookForgesNothing(t *testing.T) {
	t.Parallel()
	p := shopPlan()
	p.Release, p.Version, p.Owner, p.Environment, p.Promise.Text = hostile, hostile, hostile, hostile, hostile
	p.Inputs[0] = plan.Input{Name: hostile, Value: hostile, Source: hostile}
	p.Artifacts[0].Name, p.Artifacts[0].File = hostile, hostile
	p.Locks, p.Verify[0].ID, p.Reverts = []backstay.Key{hostile}, hostile, hostile
	for i := range p.Steps {
		st := &p.Steps[i]
		st.ID, st.Summary, st.UndoSummary, st.Stage, st.Kind = hostile, hostile, hostile, hostile, hostile
		st.Needs, st.Modulo, st.Warnings, st.Secrets, st.Keys = []string{hostile}, []string{hostile}, []string{hostile}, []string{hostile}, []backstay.Key{hostile}
		st.Want = backstay.Image{hostile: parts(hostile, backstay.Canonical(hostile))}
	}
	r := rules()
	r.Explain = func(backstay.Step) (backstay.Explanation, error) {
		c := []backstay.Command{{Note: hostile, Line: hostile}}
		return backstay.Explanation{Do: c, Undo: c, Probe: c, Read: c}, nil
	}
	b := book(t, p, nil, r, report.Occasion{Deployment: hostile, Command: hostile})
	clean := book(t, shopPlan(), nil, rules(), report.Occasion{})
	for _, how := range bookRenderings() {
		t.Run(how.ext, func(t *testing.T) {
			t.Parallel()
			got := renderBook(t, b, how)
			for _, c := range got {
				if c != '\n' && !unicode.IsPrint(c) {
					t.Fatalf("shows %U", c)
				}
			}
			switch how.ext {
			case "json":
				var back report.Runbook
				if err := json.Unmarshal([]byte(got), &back); err != nil || back.Owner != hostile {
					t.Errorf("JSON lost what the plan said: %v", err)
				}
			case "html":
				checkHTML(t, got, renderBook(t, clean, how))
			case "md":
				checkMarkdown(t, got)
				if !strings.Contains(got, "do not copy it") {
					t.Error("nothing says that a command is not shown whole")
				}
			}
		})
	}
}

func TestRunbookReportsErrors(t *testing.T) {
	t.Parallel()
	r := rules()
	r.Explain = func(backstay.Step) (backstay.Explanation, error) { return backstay.Explanation{}, errBroken }
	// What a kind cannot explain is a gap that is named, not the end of the page.
	gap := renderBook(t, book(t, shopPlan(), nil, r, report.Occasion{}), bookRenderings()[0])
	if !strings.Contains(gap, "# do conf (its commands are not known: "+errBroken.Error()) || !strings.Contains(gap, "# undo conf") {
		t.Errorf("the gap is not named:\n%s", gap)
	}
	b := book(t, shopPlan(), nil, rules(), report.Occasion{})
	for _, how := range bookRenderings() {
		if err := how.write(b, broken{}); err == nil {
			t.Errorf("%s: an error of the writer was lost", how.ext)
		}
	}
}
