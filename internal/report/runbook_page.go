package report

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/backstay-dev/backstay"
)

// WriteText writes the runbook for a terminal: plain lines, no colour.
func (r *Runbook) WriteText(w io.Writer) error { return writeText(r.document(), w) }

// WriteMarkdown writes the runbook as GitHub-flavoured Markdown. Text of the
// specification and the ledger is escaped, commands stand in fences.
func (r *Runbook) WriteMarkdown(w io.Writer) error { return writeMarkdown(r.document(), w) }

// WriteHTML writes the runbook as one page that needs nothing else.
func (r *Runbook) WriteHTML(w io.Writer) error { return writeHTML(r.document(), w) }

func (r *Runbook) document() document {
	d := document{Title: "Runbook: " + r.what(), Tone: "plain", Headline: "(promise: " + string(r.Promise.Class) + ")"}
	d.Lead = []string{
		"owner: " + orNone(r.Owner, "NONE: nobody is named to ask; add owner: to the specification"),
		"plan sha256:" + r.Plan,
		"made from the plan and the ledger as of " + stamp(r.AsOf) + "; make it again when either changes",
	}
	if r.Deployment == "" {
		d.Lead = append(d.Lead, "DEPLOYMENT stands for the deployment: its name (such as "+r.Release+"#1) or its ID")
	}
	if r.Reverts != "" {
		d.Lead = append(d.Lead, "takes back deployment "+r.Reverts)
	}
	d.add(section{Title: "Evidence", Blocks: r.evidence()})
	d.add(section{Title: "What is released", Blocks: r.released()})
	d.add(section{Title: "Before: approvals and locks", Blocks: r.before()})
	d.add(section{Title: "Steps", Blocks: r.overview()})
	for _, s := range r.Steps {
		d.add(section{Title: fmt.Sprintf("%d. %s", s.Seq, s.ID), Sub: true, Blocks: s.blocks(r.ref())})
	}
	r.checks(&d)
	d.add(section{Title: "When it is held: what a person does", Tone: "bad", Blocks: r.held()})
	d.add(section{Title: "How to take it back after the commit", Blocks: []block{{Shell: r.Back}}})
	d.add(section{Title: "Rollback budget", Blocks: r.Budget.blocks(r)})
	d.add(section{Title: "What happened before", Blocks: r.past()})
	var kinds [][]string
	for _, k := range backstay.FailureKinds() {
		kinds = append(kinds, []string{string(k.Word), k.Meaning, leadWords(k.Do), leadWords(k.Undo), leadWords(k.Ask), k.Next})
	}
	d.add(section{Title: "Kinds of failure, and what they lead to", Blocks: rows(0, []string{"Kind", "Meaning", "In a step", "In an undo", "In a check or a source", "Next"}, kinds)})
	var moves [][]string
	for _, m := range r.Moves {
		moves = append(moves, []string{stateWords(m.From), m.Event, stateWords(m.To), m.Why})
	}
	d.add(section{Title: "The states, and what moves between them", Blocks: rows(0, []string{"From", "Event", "To", "When"}, moves)})
	return d
}

func (r *Runbook) what() string {
	out := r.Release
	if r.Version != "" {
		out += " " + r.Version
	}
	if r.Environment != "" {
		out += " → " + r.Environment
	}
	if r.Deployment != "" {
		out = r.Deployment + ", " + out
	}
	return out
}

func (r *Runbook) evidence() []block {
	out := []block{bold("Promise", string(r.Promise.Class)+", "+r.Promise.Text, ""), bold("Drill", r.Drill.words(), drillTone(r.Drill))}
	if r.Drill.Status == drillValid || r.Drill.Status == drillExpired {
		out = append(out, r.Drill.tallyTable()...)
		out = append(out, paragraph(capital(r.Drill.coverage())+"."))
	}
	return out
}

func drillTone(d Drill) string {
	if d.Status != drillValid || slices.ContainsFunc(d.Tallies, func(t backstay.DrillTally) bool { return t.Failed+t.Hung > 0 }) {
		return "bad"
	}
	return ""
}

func (r *Runbook) released() []block {
	var all [][]string
	for _, a := range r.Artifacts {
		all = append(all, []string{"artifact " + a.Name, Size(a.Size) + " sha256:" + a.SHA256, a.File})
	}
	for _, in := range r.Inputs {
		all = append(all, []string{"input " + in.Name, in.Value, "from " + in.Source})
	}
	out := []block{paragraph(r.what() + ": " + number(len(r.Steps), "step", "steps") + ", " + number(len(r.Locks), "resource", "resources") + ".")}
	out = append(out, rows(0, []string{"What", "Value", "Where from"}, all)...)
	if r.Command != "" {
		out = append(out, block{Shell: []backstay.Command{{Note: "runs exactly this plan", Line: r.Command}}})
	}
	return append(out, block{Shell: []backstay.Command{
		{Note: "watch it", Line: "backstay status -w " + r.ref()},
		{Note: "when the process that drives it died", Line: "backstay recover " + r.ref()},
	}})
}

func (r *Runbook) before() []block {
	out := []block{}
	if len(r.Approvals) == 0 {
		out = append(out, paragraph("No approval is asked for."))
	}
	var all [][]string
	for _, a := range r.Approvals {
		from := "anybody who can reach the ledger"
		if len(a.From) > 0 {
			from = strings.Join(a.From, " or ")
		}
		if a.NotAuthor {
			from += ", but not who started it"
		}
		within := "no limit"
		if a.Within > 0 {
			within = Duration(a.Within.Std()) + ", then it is rolled back"
		}
		all = append(all, []string{a.Step, fmt.Sprint(a.Count), from, within, strings.Join(a.Before, ", ")})
	}
	out = append(out, rows(0, []string{"Approval", "People", "From", "Within", "Before what cannot be undone"}, all)...)
	keys := make([]string, len(r.Locks))
	for i, k := range r.Locks {
		keys[i] = string(k)
	}
	out = append(out, bold("Locked until it is settled", orNone(strings.Join(keys, ", "), "nothing"), ""))
	return append(out, block{Shell: []backstay.Command{{Note: "who holds a lock now", Line: "backstay lock list"}}})
}

func (r *Runbook) overview() []block {
	var all [][]string
	for _, s := range r.Steps {
		undo := orNone(s.UndoSummary, "put back what was there")
		switch {
		case s.hold != nil:
			undo = "nothing to undo"
		case s.Irreversible != "":
			undo = "none: " + s.Irreversible
		}
		name := s.ID
		if s.Pivot {
			name += " (point of no return)"
		}
		all = append(all, []string{fmt.Sprintf("%d. %s", s.Seq, name), s.Summary, undo, string(s.Class)})
	}
	return rows(0, []string{"Step", "Does", "Is undone by", "Put back"}, all)
}

func (s RunbookStep) blocks(ref string) []block {
	out := []block{paragraph(capital(s.Summary) + ".")}
	out = append(out, facts(s.promises()...)...)
	commands := func(name string, all []backstay.Command) {
		if len(all) > 0 {
			out = append(out, bold(name, "", ""), block{Shell: named(all, ref)})
		}
	}
	commands("Do", s.Commands.Do)
	commands("Undo", s.Commands.Undo)
	commands("Was it done?", s.Commands.Probe)
	commands("Read", s.Commands.Read)
	if len(s.Expect) > 0 {
		var all [][]string
		for _, e := range s.Expect {
			all = append(all, []string{place(e.Key, e.Part), e.Want})
		}
		out = append(out, bold("Expected when it is done", "", ""))
		out = append(out, rows(1, []string{"Part", "Reads"}, all)...)
		if s.MoreExpected > 0 {
			out = append(out, paragraph("And "+number(s.MoreExpected, "more part", "more parts")+"."))
		}
	}
	if s.Took != nil {
		out = append(out, bold("Took in past deployments", s.Took.words(), ""))
	}
	for _, f := range s.Failed {
		out = append(out, bold("Failed before", pastLine(f), "bad"))
	}
	for _, w := range s.Warnings {
		out = append(out, bold("Warning", w, ""))
	}
	return append(out, bold("What can go wrong, and what Backstay does", "", ""), block{Tree: branches(s.Modes)})
}

// named puts the deployment's name into commands.
func named(all []backstay.Command, ref string) []backstay.Command {
	out := slices.Clone(all)
	for i := range out {
		out[i].Line = strings.ReplaceAll(out[i].Line, `"$DEPLOYMENT"`, ref)
	}
	return out
}

func branches(all []Mode) []branch {
	var out []branch
	for _, m := range all {
		b := branch{If: m.If, Then: m.Then, Sub: branches(m.Sub)}
		if m.If == "always" {
			b.If = ""
		}
		out = append(out, b)
	}
	return out
}

func (s RunbookStep) promises() [][2]string {
	if s.hold != nil {
		return nil
	}
	class := string(s.Class)
	if len(s.Modulo) > 0 {
		class += ", but for " + strings.Join(s.Modulo, ", ")
	}
	fence := "the target refuses a stale actor"
	if s.Fence == backstay.Leased {
		fence = "leased: a stale actor could still act for " + s.Window.String()
	}
	undo := "never undone here: not measured"
	if s.UndoTook != nil {
		undo = took(s.UndoTook) + " measured"
	}
	if s.UndoTimeout > 0 {
		undo += ", ended after " + s.UndoTimeout.String()
	}
	keys := make([]string, len(s.Keys))
	for i, k := range s.Keys {
		keys[i] = string(k)
	}
	twice := map[backstay.Effect]string{
		backstay.Idempotent: "doing it twice is doing it once", backstay.Probed: "a probe or read tells whether it was done",
		backstay.IdempotencyKey: "the target discards a repeated key", backstay.AtMostOnce: "in doubt it is never repeated",
	}[s.Effect]
	return [][2]string{
		{"Changes", strings.Join(keys, ", ")},
		{"After", strings.Join(s.Needs, ", ")},
		{"Is put back", class},
		{"Twice", twice},
		{"Fence", fence},
		{"Time", "ended after " + s.Timeout.String()},
		{"Undo", map[bool]string{true: undo, false: "none: " + s.Irreversible}[s.Irreversible == ""]},
		{"Dial", dialWords(s.Dial)},
		{"Secrets", strings.Join(s.Secrets, ", ")},
	}
}

func dialWords(dial backstay.Key) string {
	if dial == "" {
		return ""
	}
	return "moves " + string(dial) + "; consecutive moves of it are taken back in one, to what was there before the first"
}

func (r *Runbook) checks(d *document) {
	out := []block{}
	if len(r.Verify) == 0 {
		out = append(out, paragraph("There are no checks: only what the steps changed is read back. A release that starts and does not work is not noticed."))
	}
	for _, c := range r.Verify {
		how := "asked once"
		if c.Within > 0 {
			how = fmt.Sprintf("asked every %s until it passes, at most %s", c.Every, c.Within)
		}
		out = append(out, bold(c.ID, how, ""), block{Shell: c.Commands})
	}
	fail := "fail"
	if slices.ContainsFunc(r.Steps, func(s RunbookStep) bool { return s.Pivot }) {
		fail = "stick" // the point of no return is passed
	}
	tree := []branch{
		{If: "all pass, and every resource reads as its step left it", Then: moveWords(r.Moves, backstay.Running, "commit")},
		{If: "one does not pass in its time, or cannot be asked (no data is not healthy)", Then: moveWords(r.Moves, backstay.Running, fail)},
	}
	if r.Bake.For > 0 {
		tree = append(tree,
			branch{If: fmt.Sprintf("the bake: for %s all are asked every %s", r.Bake.For, r.Bake.Every), Then: "watched after the commit", Sub: []branch{
				{If: number(max(r.Bake.Failures, 1), "round fails", "rounds in a row fail"), Then: moveWords(r.Moves, backstay.Committed, fail)},
				{If: "it ends", Then: moveWords(r.Moves, backstay.Committed, "prove")},
			}})
	} else {
		tree = append(tree, branch{If: "no bake is asked for", Then: moveWords(r.Moves, backstay.Committed, "prove")})
	}
	d.add(section{Title: "Then: verify and bake", Blocks: append(out, block{Tree: tree})})
}

func moveWords(moves []Move, from backstay.State, event string) string {
	return (&life{moves: moves}).goes(from, event)
}

func (r *Runbook) held() []block {
	var all [][]string
	for _, c := range r.Held {
		steps := orNone(strings.Join(c.Steps, ", "), "no step of this plan")
		all = append(all, []string{string(c.Cause), c.Meaning, c.Next, steps})
	}
	ref := r.ref()
	return append(rows(0, []string{"Cause", "What it means", "What to do", "Can come from"}, all), block{Shell: []backstay.Command{
		{Note: "what is not as it was, part by part, with cause and next command", Line: "backstay status " + ref},
		{Note: "the whole story, with output", Line: "backstay report " + ref},
		{Note: "once it is repaired: undo what is left, and read everything back", Line: "backstay rollback " + ref + " --retry"},
		{Note: "or sign for what stays different: locks are let go", Line: "backstay rollback " + ref + ` --close --reason "why"`},
	}})
}

func (b Budget) blocks(r *Runbook) []block {
	text := "no rollback.within is set: nothing vetoes a step whose undo takes long"
	if b.Within > 0 {
		text = "rollback.within is " + b.Within.String()
	}
	head := bold(took(&b.Measured)+" measured", text, "")
	if !b.Fits {
		head.Para.Tone, head.Para.Text = "bad", text+"; that is MORE: going forward will be vetoed"
	}
	out := []block{head}
	for _, s := range b.Stages {
		if s.Within > 0 {
			out = append(out, bold("stage "+s.Name, "rollback.within is "+s.Within.String(), ""))
		}
	}
	var all [][]string
	for _, s := range r.Steps {
		switch {
		case s.UndoTook != nil:
			all = append(all, []string{s.ID, took(s.UndoTook)})
		case slices.Contains(b.Unmeasured, s.ID):
			all = append(all, []string{s.ID, "never undone here: not measured"})
		}
	}
	return append(out, rows(0, []string{"Step", "Undo took"}, all)...)
}

func (r *Runbook) past() []block {
	if r.Past == nil {
		return []block{paragraph("No ledger was read: nothing is known of earlier deployments.")}
	}
	p := r.Past
	if p.Looked == 0 {
		return []block{paragraph("This release was never deployed here.")}
	}
	var ends []string
	for _, s := range statesInOrder() {
		if n := p.Ends[s]; n > 0 {
			ends = append(ends, fmt.Sprintf("%d %s", n, stateWords(s)))
		}
	}
	out := []block{
		bold("Newest "+number(p.Looked, "deployment", "deployments"), strings.Join(ends, ", "), ""),
		bold("Plan to commit", p.Lead.words(), ""), bold("Rolling back", p.Undo.words(), ""),
	}
	var all [][]string
	for _, f := range p.Failures {
		all = append(all, []string{f.what(), fmt.Sprint(f.Count), f.Last + ", " + f.At.UTC().Format(time.DateOnly), f.Reason})
	}
	return append(out, rows(0, []string{"What failed first", "Times", "Most recently", "Why then"}, all)...)
}

func pastLine(f PastFailure) string {
	return fmt.Sprintf("%s (%s), most recently in %s on %s: %s", number(f.Count, "time", "times"), f.Cause, f.Last, f.At.UTC().Format(time.DateOnly), f.Reason)
}

// statesInOrder are the states in the order of a life.
func statesInOrder() []backstay.State {
	return []backstay.State{
		backstay.Proven, backstay.Committed, backstay.RolledBack, backstay.Held, backstay.Closed, backstay.Refused,
		backstay.Planned, backstay.Approved, backstay.Running, backstay.Holding, backstay.RollingBack,
	}
}
