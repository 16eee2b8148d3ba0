package report

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/backstay-dev/backstay"
)

// WriteText writes the report for a terminal: plain lines, no colour.
func (r *Report) WriteText(w io.Writer) error { return writeText(r.document(false), w) }

// WriteMarkdown writes the report as GitHub-flavoured Markdown, for a ticket
// or a post-incident document. Text of the ledger is escaped: it is never
// markup, a link or HTML.
func (r *Report) WriteMarkdown(w io.Writer) error { return writeMarkdown(r.document(false), w) }

// WriteHTML writes the report as one page that needs nothing else: no script,
// no font, no image from elsewhere. It prints, and follows the reader's choice
// of light and dark.
func (r *Report) WriteHTML(w io.Writer) error { return writeHTML(r.document(true), w) }

func (r *Report) title() string {
	if r.Version == "" {
		return r.Name
	}
	return r.Name + " (" + r.Version + ")"
}

// document lays the report out: first what a reader in a hurry needs.
func (r *Report) document(picture bool) document {
	d := document{Title: r.title(), Headline: r.headline(), Tone: r.tone(), Lead: r.lead()}
	if f := r.Failure; f != nil {
		blocks := []block{bold(f.what(), f.Reason, "bad")}
		if t := r.times(); t != "" {
			blocks = append(blocks, paragraph(capital(t)+"."))
		}
		if len(f.Leads) > 0 {
			blocks = append(blocks, bold("A "+f.Word+" failure", leadWords(f.Leads), ""))
		}
		if f.Hint != "" {
			blocks = append(blocks, bold("Hint", f.Hint, ""))
		}
		if f.Output != "" {
			blocks = append(blocks, block{Output: f.Output})
		}
		d.add(section{Title: "What failed", Blocks: blocks})
	}
	if len(r.Residue) > 0 {
		d.add(section{Title: fmt.Sprintf("Not restored (%d)", len(r.Residue)), Tone: "bad", Blocks: []block{{Residue: r.Residue}}})
	}
	if len(r.Kept) > 0 {
		d.add(section{Title: fmt.Sprintf("Kept: later values of others (%d)", len(r.Kept)), Blocks: []block{{Residue: r.Kept}}})
	}
	d.add(section{Title: "Times", Blocks: r.figures()})
	if picture {
		if p := draw(r); p != nil {
			d.add(section{Title: "What happened when", Blocks: []block{{Picture: p}}})
		}
	}
	r.effects(&d)
	r.steps(&d)
	r.evidence(&d)
	r.compared(&d, picture)
	r.asks(&d)
	r.timeline(&d)
	return d
}

func (r *Report) lead() []string {
	out := []string{fmt.Sprintf("deployment %s, plan %.12s, by %s", r.Deployment, r.Plan, r.Author), r.clock()}
	if r.Environment != "" {
		out[0] += ", environment " + r.Environment
	}
	if r.Owner != "" {
		out = append(out, "owner: "+r.Owner)
	}
	if r.Reason != "" {
		out = append(out, "reason: "+r.Reason)
	}
	if r.Reverts != "" {
		out = append(out, "takes back deployment "+r.Reverts)
	}
	if r.RevertedBy != "" {
		out = append(out, "taken back by deployment "+r.RevertedBy)
	}
	return out
}

// figures are the times that are known, each with what it is.
func (r *Report) figures() []block {
	var all []figure
	add := func(name string, d *backstay.Duration, what string) {
		if d != nil {
			all = append(all, figure{name, took(d), what})
		}
	}
	t := r.Times
	add("time to detect", t.Detect, "from the start of what failed to the record of its failure")
	add("time to contain", t.Contain, "from that record until users were back on the good side; where no dial was moved, until it turned around")
	add("time to undo", t.Undo, "spent rolling back")
	add("exposed", t.Exposed, "from the first change until everything was taken back")
	add("waited", t.Waited, "for people or evidence")
	add("unaccounted", t.Unaccounted, "no entry says what was done")
	add("total", t.Total, "from the plan to the end")
	if len(all) == 0 {
		return nil
	}
	return []block{{Figures: all}}
}

// effects say what changed, what was live, who acted.
func (r *Report) effects(d *document) {
	after := ""
	switch {
	case r.Live.Mixed:
		after = "a mixture: see what was not restored"
	case r.Live.After != nil || r.State.Settled() || r.State == backstay.Committed:
		after = r.Live.After.words()
	}
	pairs := [][2]string{{"In effect before", r.Live.Before.words()}, {"In effect after", after}, {"Changed by its steps", r.Magnitude.Changed.words()}}
	if r.State == backstay.Held || r.State == backstay.Closed {
		pairs = append(pairs, [2]string{"Not restored", r.Magnitude.Residue.words()})
	}
	if len(r.Kept) > 0 {
		pairs = append(pairs, [2]string{"Others' changes kept", r.Magnitude.Kept.words()})
	}
	d.add(section{Title: "What was and is in effect", Blocks: facts(pairs...)})
	var acted [][]string
	for _, p := range r.People {
		who := p.Actor.String()
		if p.Actor.Host != "" {
			who += " on " + p.Actor.Host
		}
		acted = append(acted, []string{who, strings.Join(p.Did, "; ")})
	}
	d.add(section{Title: "Who acted", Blocks: rows(0, []string{"Who", "Did"}, acted)})
}

func (r *Report) steps(d *document) {
	var all [][]string
	for _, s := range r.Steps {
		all = append(all, []string{s.ID, s.Summary, s.ended()})
	}
	d.add(section{Title: "Steps", Blocks: rows(0, []string{"Step", "What", "How it ended"}, all)})
	for _, s := range r.Steps {
		var blocks []block
		if s.Note != "" {
			blocks = append(blocks, bold("Note", s.Note, ""))
		}
		if s.Error != "" && (r.Failure == nil || r.Failure.Step != s.ID) {
			blocks = append(blocks, bold("Error", s.Error, "bad"))
		}
		if s.Undo != nil && s.Undo.Note != "" {
			blocks = append(blocks, bold("Undo", s.Undo.Note, ""))
		}
		if s.Undo != nil && s.Undo.Error != "" {
			blocks = append(blocks, bold("Undo error", s.Undo.Error, "bad"))
			if s.Undo.Output != "" {
				blocks = append(blocks, block{Output: s.Undo.Output})
			}
		}
		var changes [][]string
		for _, c := range s.Changes {
			changes = append(changes, []string{c.Change + " " + c.place(), c.Before, c.After})
		}
		blocks = append(blocks, rows(2, []string{"Changed", "Before", "After"}, changes)...)
		if s.More > 0 {
			blocks = append(blocks, paragraph("And "+number(s.More, "more change", "more changes")+"."))
		}
		d.add(section{Title: s.ID, Sub: true, Blocks: blocks})
	}
	var failed [][]string
	for _, f := range r.Failed {
		class := orNone(string(f.Class), "not told")
		failed = append(failed, []string{f.Step, f.Act, strings.ReplaceAll(f.Word, "_", " "), class, string(f.Cause), f.Error})
	}
	if len(failed) > 0 {
		var words []string
		for _, w := range slices.Sorted(maps.Keys(r.Words)) {
			words = append(words, fmt.Sprintf("%d %s", r.Words[w], strings.ReplaceAll(w, "_", " ")))
		}
		d.add(section{Title: "Failed acts: " + strings.Join(words, ", "), Blocks: rows(0, []string{"Step", "Act", "Kind of failure", "Class", "Cause", "Error"}, failed)})
	}
}

func orNone(s, word string) string {
	if s == "" {
		return word
	}
	return s
}

// evidence is what was checked and proven.
func (r *Report) evidence(d *document) {
	var checks [][]string
	for _, v := range r.Verdicts {
		name := v.Phase
		if v.Check != v.Phase {
			name += " " + v.Check
		}
		checks = append(checks, []string{stamp(v.At), name, v.Verdict.String(), fmt.Sprint(v.Samples), v.Reason})
	}
	d.add(section{Title: "Checks", Blocks: rows(0, []string{"When", "Check", "Verdict", "Samples", "Why"}, checks)})
	drill := []block{paragraph(capital(r.Drill.words()) + ".")}
	if r.Drill.Status == drillValid || r.Drill.Status == drillExpired {
		drill = append(drill, r.Drill.tallyTable()...)
		drill = append(drill, paragraph(capital(r.Drill.coverage())+"."))
	}
	d.add(section{Title: "Drill evidence when it started", Blocks: drill})
}

// asks are the open questions and what would have helped.
func (r *Report) asks(d *document) {
	list := func(all []Question) []block {
		var cells [][]string
		for _, q := range all {
			cells = append(cells, []string{q.Text, q.Next})
		}
		return rows(0, []string{"Fact", "Next"}, cells)
	}
	d.add(section{Title: "Open questions", Blocks: list(r.Questions)})
	d.add(section{Title: "What would have prevented it or found it earlier", Blocks: list(r.Earlier)})
}

func (r *Report) timeline(d *document) {
	when := func(title string, n int, at func(i int) []string) {
		all := make([][]string, 0, n)
		for i := range n {
			all = append(all, at(i))
		}
		d.add(section{Title: title, Blocks: rows(0, []string{"When", "What"}, all)})
	}
	when("Approvals", len(r.Approvals), func(i int) []string { return []string{stamp(r.Approvals[i].At), r.Approvals[i].words()} })
	when("Signals", len(r.Signals), func(i int) []string { return []string{stamp(r.Signals[i].At), r.Signals[i].words()} })
	var alerts [][]string
	for _, s := range r.Signals {
		alerts = append(alerts, s.alerts()...)
	}
	d.add(section{Title: "Alerts that were reported", Blocks: rows(0, []string{"Reported", "By", "Alert", "Since", "Labels", "What it says", "Where to look"}, alerts)})
	var flags [][]string
	for _, m := range r.Flags {
		back := "-"
		if !m.Back.IsZero() {
			back = stamp(m.Back)
		}
		flags = append(flags, []string{stamp(m.At), m.What, back})
	}
	d.add(section{Title: "Feature flags", Blocks: rows(0, []string{"Moved", "What", "Taken back"}, flags)})
	when("Taken over", len(r.Takeovers), func(i int) []string { return []string{stamp(r.Takeovers[i].At), r.Takeovers[i].words()} })
	var events [][]string
	var tones []string
	for _, e := range r.Events {
		events, tones = append(events, []string{offset(e.After), e.Text}), append(tones, e.Weight)
	}
	blocks := rows(0, []string{"After", "What"}, events)
	if len(blocks) > 0 {
		blocks[0].Table.Tones = tones
	}
	d.add(section{Title: "Timeline", Blocks: blocks})
	d.add(section{Title: "Evidence", Blocks: []block{paragraph("Ledger: " + r.Ledger.words() + ".")}})
}

// residueTable is a list of parts as a table.
func residueTable(all []Residue) table {
	t := table{Head: []string{"Part", "Before", "Wanted", "Now", "Why", "Next"}}
	for _, r := range all {
		t.Rows = append(t.Rows, []string{place(r.Key, r.Part), r.Was, r.Want, r.Reads, string(r.Cause) + because(r.Detail), r.Next})
	}
	return t
}
