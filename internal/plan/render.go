package plan

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/spec"
)

// PreviewFormat names the version of the preview's JSON document.
const PreviewFormat = "backstay.plan/v1"

// Preview is a plan for people, with what was found around it when it was made.
type Preview struct {
	Plan  *Plan
	Drift []Drift
	Held  []HeldLock
	// Undo holds the measured undo durations by step ID; a step without one
	// was never undone here.
	Undo map[string]time.Duration
	// Command runs exactly this plan.
	Command string
	// Clean takes out of a text what could steer a terminal. Nil: keep it.
	Clean func(string) string
}

// Drift is one resource that is not as the ledger says.
type Drift struct {
	Key        backstay.Key `json:"key"`
	Deployment string       `json:"deployment"` // that left it, as people call it
	Parts      []string     `json:"parts,omitempty"`
	Unreadable string       `json:"unreadable,omitempty"`
}

// HeldLock is a lock that the plan needs and that somebody else holds.
type HeldLock struct {
	Key        backstay.Key   `json:"key"`
	Deployment string         `json:"deployment"`
	Name       string         `json:"name"`
	State      backstay.State `json:"state"`
	Owner      string         `json:"owner,omitempty"` // who drives it, in words
	Age        time.Duration  `json:"age_ns"`
}

// UndoTime is how long taking everything back would take, as far as it was
// measured.
type UndoTime struct {
	Measured   time.Duration     `json:"measured_ns"`
	Unmeasured []string          `json:"unmeasured,omitempty"` // steps never undone here
	Within     backstay.Duration `json:"within,omitzero"`      // rollback.within; zero: no bound
	Fits       bool              `json:"fits"`                 // the measured part does
}

// UndoTime adds up the measured undo times.
func (v Preview) UndoTime() UndoTime {
	t := UndoTime{Within: v.Plan.Within}
	dials := map[backstay.Key]time.Duration{} // all moves of a dial are taken back in one
	for _, s := range v.Plan.Steps {
		if took, ok := v.Undo[s.ID]; ok && s.Dial != "" {
			dials[s.Dial] = max(dials[s.Dial], took)
		}
	}
	for _, took := range dials {
		t.Measured += took
	}
	for _, s := range v.Plan.Steps {
		_, covered := dials[s.Dial]
		if s.Waits() || !s.HasUndo || covered {
			continue
		}
		if took, ok := v.Undo[s.ID]; ok {
			t.Measured += took
		} else {
			t.Unmeasured = append(t.Unmeasured, s.ID)
		}
	}
	t.Fits = t.Within == 0 || t.Measured <= t.Within.Std()
	return t
}

// NoUndo lists the steps that cannot be taken back.
func (v Preview) NoUndo() []backstay.Step {
	var out []backstay.Step
	for _, s := range v.Plan.Steps {
		if !s.Waits() && !s.HasUndo {
			out = append(out, s)
		}
	}
	return out
}

// Warnings lists what the step kinds warn of.
func (v Preview) Warnings() []backstay.Problem {
	var out []backstay.Problem
	for _, s := range v.Plan.Steps {
		for _, w := range s.Warnings {
			out = append(out, backstay.Problem{Path: s.ID, Message: w})
		}
	}
	for _, c := range v.Plan.Verify {
		for _, w := range c.Warnings {
			out = append(out, backstay.Problem{Path: c.ID, Message: w})
		}
	}
	return out
}

// MarshalJSON writes the preview as a document of PreviewFormat.
func (v Preview) MarshalJSON() ([]byte, error) {
	return backstay.Canonical(struct {
		Format   string             `json:"format"`
		Digest   string             `json:"digest"`
		Command  string             `json:"command"`
		Plan     *Plan              `json:"plan"`
		Drift    []Drift            `json:"drift"`
		Held     []HeldLock         `json:"held_locks"`
		UndoTime UndoTime           `json:"undo_time"`
		Warnings []backstay.Problem `json:"warnings"`
	}{
		PreviewFormat, v.Plan.Digest(), v.Command, v.Plan,
		orEmpty(v.Drift), orEmpty(v.Held), v.UndoTime(), orEmpty(v.Warnings()),
	}), nil
}

// orEmpty makes an absent list an empty one, so that JSON shows [].
func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// WriteText writes the preview for a terminal or a review.
func (v Preview) WriteText(w io.Writer) error {
	t := &text{clean: v.Clean}
	if t.clean == nil {
		t.clean = func(s string) string { return s }
	}
	v.writeHead(t)
	v.writeSteps(t)
	v.writeChecks(t)
	v.writeBack(t)
	v.writeFound(t)
	t.line("")
	t.line("Plan    sha256:%s", v.Plan.Digest())
	if v.Command != "" {
		t.line("Run it  %s", v.Command)
	}
	_, err := io.WriteString(w, t.b.String())
	return err
}

// text collects lines; everything that users control is cleaned.
type text struct {
	b     strings.Builder
	clean func(string) string
}

func (t *text) line(format string, args ...any) {
	for i, a := range args {
		switch a := a.(type) {
		case string:
			args[i] = t.clean(a)
		case backstay.Key:
			args[i] = t.clean(string(a))
		}
	}
	t.b.WriteString(strings.TrimRight(fmt.Sprintf(format, args...), " ") + "\n")
}

// table writes rows of cells in columns, indented.
func (t *text) table(rows [][]string) {
	var b strings.Builder
	tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		for i, cell := range row {
			if i > 0 {
				_, _ = io.WriteString(tw, "\t")
			}
			_, _ = io.WriteString(tw, strings.NewReplacer("\t", " ", "\n", " ").Replace(t.clean(cell)))
		}
		_, _ = io.WriteString(tw, "\n")
	}
	_ = tw.Flush() // into memory
	for l := range strings.Lines(b.String()) {
		t.b.WriteString("  " + strings.TrimRight(l, " \n") + "\n")
	}
}

func (v Preview) writeHead(t *text) {
	p := v.Plan
	title := p.Release
	if p.Version != "" {
		title += " " + p.Version
	}
	if p.Environment != "" {
		title += " → " + p.Environment
	}
	t.line("%s: %s, %s", title, count(len(p.Steps), "step"), count(len(p.Locks), "resource"))
	if m := p.Mitigation; m != nil {
		t.line("mitigation %s: %s", m.Name, m.For)
		if m.Glass != nil {
			t.line("BROKEN GLASS until %s: not tried on a part first, not approved: %s", m.Glass.Until.UTC().Format(time.RFC3339), m.Glass.Reason)
		} else if m.AtOnce != "" {
			t.line("  at once: %s", m.AtOnce)
		}
	}
	if p.Reverts != "" {
		t.line("takes back deployment %s", p.Reverts)
	}
	for _, in := range p.Inputs {
		t.line("  input %s=%s (from %s)", in.Name, in.Value, in.Source)
	}
	for _, a := range p.Artifacts {
		t.line("  artifact %s sha256:%s (%d bytes)", a.Name, short(a.SHA256), a.Size)
	}
}

func (v Preview) writeSteps(t *text) {
	t.line("")
	t.line("Steps, and how each is taken back")
	stage, of := "", ""
	var rows [][]string
	flush := func() {
		t.table(rows)
		rows = nil
	}
	for _, s := range v.Plan.Steps {
		if s.Stage != stage {
			flush()
			stage = s.Stage
			t.line("  stage %s", orWord(stage, "(none)"))
		}
		if s.Of != of {
			if of = s.Of; of != "" {
				rows = append(rows, []string{"", of, v.release(of), ""})
			}
		}
		id := s.ID
		if s.Pivot {
			id += " (point of no return)"
		}
		rows = append(rows,
			[]string{fmt.Sprintf("%d", s.Seq), id, s.Summary, ""},
			[]string{"", "", "undo: " + undoOf(s), v.cost(s)})
		if s.Waits() {
			rows = rows[:len(rows)-1]
		}
	}
	flush()
}

// release says in one line what a release step does and how it is taken back.
func (v Preview) release(step string) string {
	i := slices.IndexFunc(v.Plan.Releases, func(r Release) bool { return r.Step == step })
	if i < 0 {
		return ""
	}
	r := v.Plan.Releases[i]
	shares := make([]string, len(r.Through))
	for i, share := range r.Through {
		shares[i] = fmt.Sprintf("%d%%", share)
	}
	back := "the way back is one move from any share"
	if r.Strategy == spec.Rolling {
		back = "the way back goes batch by batch, the newest first"
	}
	return fmt.Sprintf("%s of %s on route %s: %s; %s", r.Strategy, r.Service, r.Route, strings.Join(shares, " → "), back)
}

// undoOf says how a step is taken back and how well.
func undoOf(s backstay.Step) string {
	switch {
	case !s.HasUndo && s.Irreversible != "":
		return "none: " + s.Irreversible
	case !s.HasUndo:
		return "none"
	}
	out := orWord(s.UndoSummary, "put back what was there") + " [" + string(s.Class)
	if len(s.Modulo) > 0 {
		out += ", but for " + strings.Join(s.Modulo, ", ")
	}
	return out + "]"
}

func (v Preview) cost(s backstay.Step) string {
	if !s.HasUndo {
		return ""
	}
	if took, ok := v.Undo[s.ID]; ok {
		return "≈ " + rounded(took)
	}
	return "not measured yet"
}

func (v Preview) writeChecks(t *text) {
	p := v.Plan
	if len(p.Verify) > 0 {
		t.line("")
		t.line("Then verify")
		rows := make([][]string, 0, len(p.Verify))
		for _, c := range p.Verify {
			how := "once"
			if c.Within > 0 {
				how = fmt.Sprintf("every %s until it passes, at most %s", c.Every, c.Within)
			}
			rows = append(rows, []string{c.ID, c.Summary, how})
		}
		t.table(rows)
	}
	if p.Bake.For > 0 {
		t.line("")
		t.line("Then bake for %s: every %s, %s in a row roll it back", p.Bake.For.String(), p.Bake.Every.String(), count(max(p.Bake.Failures, 1), "failing round"))
	}
}

// writeBack says what a rollback can promise.
func (v Preview) writeBack(t *text) {
	u := v.UndoTime()
	t.line("")
	t.line("Promise  %s: %s", string(v.Plan.Promise.Class), v.Plan.Promise.Text)
	took := rounded(u.Measured) + " measured"
	if len(u.Unmeasured) > 0 {
		took += fmt.Sprintf(", %s not measured yet", count(len(u.Unmeasured), "step"))
	}
	switch {
	case u.Within == 0:
		took += "; no rollback.within is set"
	case u.Fits:
		took += fmt.Sprintf("; rollback.within is %s", u.Within)
	default:
		took += fmt.Sprintf("; MORE than rollback.within %s: going forward will be vetoed", u.Within)
	}
	t.line("Undo     %s", took)
	for _, s := range v.NoUndo() {
		t.line("No undo  step %s: %s", s.ID, orWord(s.Irreversible, "nothing can take it back"))
	}
	for _, s := range v.Plan.Steps {
		if s.Fence == backstay.Leased && s.Window > 0 {
			t.line("Leased   step %s: a process that lost its lease could still act for %s", s.ID, s.Window.String())
		}
	}
}

// writeFound shows drift, locks and warnings.
func (v Preview) writeFound(t *text) {
	t.line("")
	if len(v.Drift) == 0 {
		t.line("Drift    none found")
	}
	for _, d := range v.Drift {
		what := "differs from what deployment " + d.Deployment + " left"
		if len(d.Parts) > 0 {
			what += " (" + listed(d.Parts) + ")"
		}
		if d.Unreadable != "" {
			what = "cannot be read: " + d.Unreadable
		}
		t.line("Drift    %s %s", d.Key, what)
	}
	t.line("Locks    %s needed, %s", count(len(v.Plan.Locks), "resource"), heldWord(len(v.Held)))
	for _, h := range v.Held {
		t.line("  %s is held by %s (%s) for %s%s", h.Key, h.Name, string(h.State), rounded(h.Age), prefixed(", ", h.Owner))
		t.line("    look: backstay status %s    wait: add --wait 10m    end it: backstay rollback %s", h.Name, h.Name)
	}
	for _, w := range v.Warnings() {
		t.line("Warning  %s: %s", w.Path, w.Message)
	}
}

func heldWord(n int) string {
	if n == 0 {
		return "all free"
	}
	return fmt.Sprintf("%d held by somebody else", n)
}

func listed(parts []string) string {
	const most = 5
	names := make([]string, 0, most+1)
	for i, p := range parts {
		if i == most {
			names = append(names, fmt.Sprintf("and %d more", len(parts)-most))
			break
		}
		names = append(names, orWord(p, "itself"))
	}
	return strings.Join(names, ", ")
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func orWord(s, word string) string {
	if s == "" {
		return word
	}
	return s
}

func prefixed(prefix, s string) string {
	if s == "" {
		return ""
	}
	return prefix + s
}

func short(digest string) string { return digest[:min(12, len(digest))] }

// rounded shows a duration with as many digits as matter.
func rounded(d time.Duration) string {
	switch {
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Minute:
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}
