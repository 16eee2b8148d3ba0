package report

import (
	"fmt"
	"io"
	"strings"
)

// WriteMarkdown writes the report as GitHub-flavoured Markdown, for a ticket
// or a post-incident document. Text of the ledger is escaped: it is never
// markup, a link or HTML.
func (r *Report) WriteMarkdown(w io.Writer) error {
	m := &markdown{}
	m.put("# %s %s\n\n", r.title(), r.headline())
	m.table("", "", [][]string{
		{"Deployment", r.Deployment},
		{"Plan", r.Plan},
		{"By", r.Author.String()},
		{"Time", r.clock()},
		{"Reason", r.Reason},
		{"Takes back", r.Reverts},
		{"Taken back by", r.RevertedBy},
		{"Environment", r.Environment},
	})
	if f := r.Failure; f != nil {
		m.put("## What failed\n\n%s: %s\n\n", f.what(), f.Reason)
		if t := r.times(); t != "" {
			m.put("%s.\n\n", strings.ToUpper(t[:1])+t[1:])
		}
		if f.Hint != "" {
			m.put("Hint: %s\n\n", f.Hint)
		}
		m.block(f.Output)
	}
	m.residue("Not restored", r.Residue)
	m.residue("Kept: later values of others", r.Kept)
	m.steps(r)
	section(m, "Approvals", r.Approvals, func(s Signal) []string { return []string{stamp(s.At), s.words()} })
	section(m, "Signals", r.Signals, func(s Signal) []string { return []string{stamp(s.At), s.words()} })
	section(m, "Checks", r.Verdicts, func(v Verdict) []string { return []string{stamp(v.At), v.words()} })
	section(m, "Taken over", r.Takeovers, func(t Takeover) []string { return []string{stamp(t.At), t.words()} })
	section(m, "Timeline", r.Events, func(e Event) []string { return []string{offset(e.After), e.Text} })
	m.put("## Evidence\n\nLedger: %s.\n", r.Ledger.words())
	_, err := io.WriteString(w, m.b.String())
	return err
}

type markdown struct{ b strings.Builder }

// put writes the format with its arguments escaped. The format is ours.
func (m *markdown) put(format string, args ...any) {
	for i, a := range args {
		if s, ok := a.(string); ok {
			args[i] = escape(s)
		}
	}
	fmt.Fprintf(&m.b, format, args...)
}

// escape makes a text one line of plain text in Markdown, also in a table. It
// never stands at the beginning of a line, so what only means something there
// (a list, a number, a rule) stays readable.
func escape(s string) string {
	var b strings.Builder
	for _, c := range line(s) {
		switch {
		case c == '<':
			b.WriteString("&lt;")
		case c == '>':
			b.WriteString("&gt;")
		case c == '&':
			b.WriteString("&amp;")
		case c == '@':
			b.WriteString("&#64;") // no mention of a person
		case strings.ContainsRune("\\`*_[]#|~", c):
			b.WriteRune('\\')
			b.WriteRune(c)
		default:
			b.WriteRune(c)
		}
	}
	// Bare addresses become links.
	return strings.NewReplacer("://", "&#58;//", "www.", "www&#46;", "WWW.", "WWW&#46;").Replace(b.String())
}

// table writes rows of two cells; rows whose second cell is empty are left out.
func (m *markdown) table(left, right string, rows [][]string) {
	m.put("| %s | %s |\n|---|---|\n", left, right)
	for _, row := range rows {
		if line(row[1]) != "" {
			m.put("| %s | %s |\n", row[0], row[1])
		}
	}
	m.b.WriteString("\n")
}

func section[T any](m *markdown, title string, items []T, row func(T) []string) {
	if len(items) == 0 {
		return
	}
	rows := make([][]string, 0, len(items))
	for _, item := range items {
		rows = append(rows, row(item))
	}
	m.put("## %s\n\n", title)
	m.table("When", "What", rows)
}

// block is output as it was, in a fence that nothing in it can close.
func (m *markdown) block(text string) {
	all := lines(text)
	if len(all) == 0 {
		return
	}
	fence := "```"
	for strings.Contains(strings.Join(all, "\n"), fence) {
		fence += "`"
	}
	m.b.WriteString(fence + "text\n" + strings.Join(all, "\n") + "\n" + fence + "\n\n")
}

func (m *markdown) residue(title string, all []Residue) {
	if len(all) == 0 {
		return
	}
	m.put("## %s\n\n| Part | Before | Wanted | Now | Why |\n|---|---|---|---|---|\n", title)
	for _, r := range all {
		m.put("| %s | %s | %s | %s | %s |\n", place(r.Key, r.Part), r.Was, r.Want, r.Reads, string(r.Cause)+because(r.Detail))
	}
	m.b.WriteString("\n")
	for i, r := range all {
		if r.Next != "" && (i == len(all)-1 || all[i+1].Next != r.Next) {
			m.put("Next: %s\n\n", r.Next)
		}
	}
}

func (m *markdown) steps(r *Report) {
	m.put("## Steps\n\n| Step | What | How it ended |\n|---|---|---|\n")
	for _, s := range r.Steps {
		m.put("| %s | %s | %s |\n", s.ID, s.Summary, s.ended())
	}
	m.b.WriteString("\n")
	for _, s := range r.Steps {
		if len(s.Changes) == 0 && s.Error == "" && (s.Undo == nil || s.Undo.Error == "") {
			continue
		}
		m.put("### %s\n\n", s.ID)
		if s.Error != "" {
			m.put("Error: %s\n\n", s.Error)
		}
		if s.Undo != nil && s.Undo.Error != "" {
			m.put("Undo error: %s\n\n", s.Undo.Error)
			m.block(s.Undo.Output)
		}
		if len(s.Changes) == 0 {
			continue
		}
		m.put("| Changed | Before | After |\n|---|---|---|\n")
		for _, c := range s.Changes {
			m.put("| %s | %s | %s |\n", c.place(), c.Before, c.After)
		}
		m.b.WriteString("\n")
		if s.More > 0 {
			m.put("And %s.\n\n", number(s.More, "more change", "more changes"))
		}
	}
}
