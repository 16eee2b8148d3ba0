package report

import (
	"fmt"
	"io"
	"strings"

	"github.com/backstay-dev/backstay"
)

var _ renderer = writeMarkdown

// writeMarkdown writes a document as GitHub-flavoured Markdown, for a ticket or
// a post-incident document. Text is escaped: it is never markup, a link or HTML.
func writeMarkdown(d document, w io.Writer) error {
	m := &markdown{}
	m.put("# %s %s\n\n", d.Title, d.Headline)
	for _, l := range d.Lead {
		m.put("%s\n\n", l)
	}
	for _, s := range d.Sections {
		level := "##"
		if s.Sub {
			level = "###"
		}
		m.b.WriteString(level)
		m.put(" %s\n\n", s.Title)
		for _, b := range s.Blocks {
			m.block(b)
		}
	}
	_, err := io.WriteString(w, strings.TrimRight(m.b.String(), "\n")+"\n")
	return err
}

func (m *markdown) block(b block) {
	switch {
	case b.Para != nil && b.Para.Bold != "":
		m.put("**%s**%s\n\n", b.Para.Bold, because(b.Para.Text))
	case b.Para != nil:
		m.put("%s\n\n", b.Para.Text)
	case b.Table != nil:
		m.table(*b.Table)
	case b.Output != "":
		m.fence("text", lines(b.Output))
	case b.Shell != nil:
		m.shell(b.Shell)
	case b.Tree != nil:
		m.tree("", b.Tree)
		m.b.WriteString("\n")
	case b.Residue != nil:
		m.residue(b.Residue)
	case b.Figures != nil:
		t := table{Head: []string{"Time", "Took", "What it is"}}
		for _, f := range b.Figures {
			t.Rows = append(t.Rows, []string{f.Name, f.Value, f.What})
		}
		m.table(t)
	}
}

func (m *markdown) table(t table) {
	row := func(cells []string) {
		for _, c := range cells {
			m.put("| %s ", c)
		}
		m.b.WriteString("|\n")
	}
	row(t.Head)
	m.b.WriteString(strings.Repeat("|---", len(t.Head)) + "|\n")
	for _, cells := range t.Rows {
		row(cells)
	}
	m.b.WriteString("\n")
}

func (m *markdown) residue(all []Residue) {
	m.table(residueTable(all))
	for i, r := range all {
		if r.Next != "" && (i == len(all)-1 || all[i+1].Next != r.Next) {
			m.put("Next: %s\n\n", r.Next)
		}
	}
}

// shell is one fence with the notes as comments.
func (m *markdown) shell(all []backstay.Command) {
	var text []string
	for _, c := range all {
		script, note := typed(c)
		if note != "" {
			text = append(text, "# "+note)
		}
		text = append(text, script...)
	}
	m.fence("sh", text)
}

func (m *markdown) tree(indent string, all []branch) {
	for _, b := range all {
		m.b.WriteString(indent + "- ")
		if b.If == "" {
			m.put("%s\n", b.Then)
		} else {
			m.put("**%s** → %s\n", b.If, b.Then)
		}
		m.tree(indent+"  ", b.Sub)
	}
}

// fence is text as it is, in a fence that nothing in it can close.
func (m *markdown) fence(language string, all []string) {
	if len(all) == 0 {
		return
	}
	fence := "```"
	for strings.Contains(strings.Join(all, "\n"), fence) {
		fence += "`"
	}
	m.b.WriteString(fence + language + "\n" + strings.Join(all, "\n") + "\n" + fence + "\n\n")
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
