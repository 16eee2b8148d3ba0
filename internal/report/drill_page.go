package report

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/backstay-dev/backstay"
)

// DrillPage is the page of one drill: the blind list first, then the matrix.
// Its JSON is the drill's report itself (backstay.drill/v1).
type DrillPage struct {
	Report *backstay.DrillReport
	// Command runs exactly the plan that was drilled; "" where there is none.
	Command string
	// Recorded says that the ledger keeps the drill as evidence.
	Recorded bool
}

// WriteJSON writes the drill's report as indented JSON.
func (p DrillPage) WriteJSON(w io.Writer) error { return writeJSON(p.Report, w) }

// WriteText writes the page for a terminal: plain lines, no colour.
func (p DrillPage) WriteText(w io.Writer) error { return writeText(p.document(), w) }

// WriteMarkdown writes the page as GitHub-flavoured Markdown.
func (p DrillPage) WriteMarkdown(w io.Writer) error { return writeMarkdown(p.document(), w) }

// WriteHTML writes the page as one that needs nothing else.
func (p DrillPage) WriteHTML(w io.Writer) error { return writeHTML(p.document(), w) }

func (p DrillPage) document() document {
	r := p.Report
	bad := 0
	for _, t := range r.Tallies {
		bad += t.Failed + t.Hung
	}
	d := document{Title: "Drill of " + r.Release, Headline: "nothing failed, nothing hung", Tone: "good"}
	if r.Version != "" {
		d.Title += " " + r.Version
	}
	d.Title += ":"
	if bad > 0 {
		d.Headline, d.Tone = number(bad, "cell", "cells")+" failed or hung", "bad"
	}
	d.Lead = []string{
		"plan " + r.Plan,
		fmt.Sprintf("drill %s of %s, took %s", r.ID, r.At.UTC().Format(time.RFC3339), Duration(r.Took.Std())),
	}
	switch {
	case !r.Whole:
		d.Lead = append(d.Lead, "only some cells were asked for: not recorded, and no evidence about the plan")
	case p.Recorded:
		d.Lead = append(d.Lead, "recorded as evidence about exactly this plan until "+r.Expires.UTC().Format(time.RFC3339))
	}
	if p.Command != "" {
		d.Lead = append(d.Lead, "deploy it: "+p.Command)
	}
	d.add(section{Title: "What this drill does not see", Blocks: gaps(r.Blind)})
	evidence := Drill{Tallies: r.Tallies}
	d.add(section{Title: "Results, each level for itself", Blocks: evidence.tallyTable()})
	d.add(section{Title: "Live writers", Blocks: writers(r.Cells)})
	d.add(section{Title: "Failed and hung", Tone: "bad", Blocks: badCells(r)})
	for _, t := range r.Tallies {
		d.add(section{Title: "Matrix, " + t.Level, Blocks: matrix(r, t.Level)})
	}
	d.add(section{Title: "Restored but for", Blocks: grouped(r.Cells, "What", func(c backstay.DrillCell) []string { return c.Modulo })})
	d.add(section{Title: "Not run", Blocks: grouped(r.Cells, "Why", func(c backstay.DrillCell) []string {
		if c.Result != backstay.DrillNotRun {
			return nil
		}
		return []string{c.Reason}
	})})
	d.add(section{Title: "Measured time to undo", Blocks: undoTimes(r)})
	return d
}

// writers are what live writers did to databases while cells played.
func writers(cells []backstay.DrillCell) []block {
	type sum struct{ cells, written, unknown, found int64 }
	sums := map[string]sum{}
	for _, c := range cells {
		for _, w := range c.Wrote {
			s := sums[orNone(w.Table, "none: "+w.Why)]
			sums[orNone(w.Table, "none: "+w.Why)] = sum{s.cells + 1, s.written + w.Written, s.unknown + w.Unknown, s.found + w.Found}
		}
	}
	var all [][]string
	for _, table := range slices.Sorted(maps.Keys(sums)) {
		s := sums[table]
		all = append(all, []string{table, fmt.Sprint(s.cells), fmt.Sprint(s.written), fmt.Sprint(s.unknown), fmt.Sprint(s.found)})
	}
	return rows(1, []string{"Table", "Cells", "Rows written", "Cut off", "Found afterwards"}, all)
}

// gaps are the blind list.
func gaps(all []backstay.DrillGap) []block {
	out := make([]block, 0, len(all))
	for _, g := range all {
		about := capital(strings.ReplaceAll(g.About, "_", " "))
		if g.Step != "" {
			about += ", step " + g.Step
		}
		out = append(out, bold(about, g.Text, ""))
	}
	return out
}

// badCells are those that failed or hung, with what was found and how to see it
// again.
func badCells(r *backstay.DrillReport) []block {
	var out []block
	for _, c := range r.Cells {
		if c.Result != backstay.DrillFailed && c.Result != backstay.DrillHung {
			continue
		}
		again := "backstay drill --plan " + r.Plan[:min(16, len(r.Plan))] + " --fault " + c.Fault
		where := "the plan"
		if c.Step != "" {
			where = "step " + c.Step
			again += " --step " + shellWord(c.Step)
		}
		if c.Level != "D1" {
			again += " --level " + c.Level
		}
		out = append(out, bold(fmt.Sprintf("%s at %s", c.Fault, where), fmt.Sprintf("%s (%s), ended %s", c.Result, c.Level, orNone(string(c.End), "nowhere")), "bad"))
		var found [][]string
		for _, f := range c.Findings {
			found = append(found, []string{orNone(f.Step, "-"), orNone(place(f.Key, f.Part), "-"), f.Text})
		}
		out = append(out, rows(0, []string{"Step", "Key", "What"}, found)...)
		out = append(out, paragraph("see it again: "+again))
	}
	return out
}

// shellWord quotes a step's ID for a command to type.
func shellWord(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_' && r != '.'
	}) {
		return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
	}
	return s
}

// signs are how results look in the matrix.
func signs() map[backstay.DrillResult]string {
	return map[backstay.DrillResult]string{
		backstay.DrillRestored: "ok", backstay.DrillModulo: "~", backstay.DrillHeld: "held",
		backstay.DrillFailed: "FAIL", backstay.DrillHung: "HUNG", backstay.DrillNotRun: "-",
	}
}

// matrixWidth is how many steps stand beside each other.
const matrixWidth = 14

// matrix has a row for each fault and a column for each step, of one level.
func matrix(r *backstay.DrillReport, level string) []block {
	type square struct{ fault, step string }
	at := map[square]string{}
	for _, c := range r.Cells {
		if c.Level == level {
			at[square{c.Fault, c.Step}] = signs()[c.Result]
		}
	}
	out := []block{paragraph("ok: restored · ~: restored but for a stated list · held: held, and its residue is exactly what differs · FAIL, HUNG · -: not run · empty: cannot happen there")}
	var plans [][]string
	for _, f := range r.Faults {
		if sign, ok := at[square{f.Name, ""}]; ok {
			plans = append(plans, []string{f.Name, sign, f.What})
		}
	}
	out = append(out, rows(0, []string{"Fault of the plan", "", "What happens"}, plans)...)
	var steps []string
	for _, s := range r.Steps {
		if s.ID != "" {
			steps = append(steps, s.ID)
		}
	}
	n := 0
	for some := range slices.Chunk(steps, matrixWidth) {
		head := []string{"Fault of a step"}
		var legend []string
		for _, id := range some {
			n++
			head = append(head, fmt.Sprint(n))
			legend = append(legend, fmt.Sprintf("%d %s", n, id))
		}
		var all [][]string
		for _, f := range r.Faults {
			row, any := []string{f.Name}, false
			for _, id := range some {
				sign, ok := at[square{f.Name, id}]
				row, any = append(row, sign), any || ok
			}
			if any {
				all = append(all, row)
			}
		}
		if len(all) > 0 {
			out = append(out, paragraph("Steps: "+strings.Join(legend, " · ")))
			out = append(out, rows(0, head, all)...)
		}
	}
	return out
}

// grouped counts texts of cells, the most frequent first.
func grouped(cells []backstay.DrillCell, name string, of func(backstay.DrillCell) []string) []block {
	count := map[string]int{}
	for _, c := range cells {
		for _, text := range of(c) {
			count[text]++
		}
	}
	texts := slices.SortedFunc(maps.Keys(count), func(a, b string) int {
		if count[a] != count[b] {
			return count[b] - count[a]
		}
		return strings.Compare(a, b)
	})
	var all [][]string
	for _, text := range texts {
		all = append(all, []string{fmt.Sprint(count[text]), text})
	}
	return rows(0, []string{"Cells", name}, all)
}

func undoTimes(r *backstay.DrillReport) []block {
	var all [][]string
	for _, s := range r.Steps {
		if took, ok := r.Undo[s.ID]; ok {
			all = append(all, []string{s.ID, Duration(took.Std())})
		}
	}
	if len(all) == 0 {
		return []block{paragraph("None: no undo of a real step was run. How long a model takes means nothing.")}
	}
	return rows(0, []string{"Step", "Time"}, all)
}
