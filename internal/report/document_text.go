package report

import (
	"io"
	"strings"
	"unicode/utf8"

	"github.com/backstay-dev/backstay"
)

var _ renderer = writeText

// writeText writes a document for a terminal: plain lines, no colour.
func writeText(d document, w io.Writer) error {
	p := &page{}
	p.line("%s", d.Title+" "+d.Headline)
	for _, l := range d.Lead {
		p.line("  %s", l)
	}
	for _, s := range d.Sections {
		indent := "  "
		if s.Sub {
			p.line("")
			p.line("  %s", s.Title)
			indent = "    "
		} else {
			p.section(line(s.Title))
		}
		for _, b := range s.Blocks {
			p.put(indent, b)
		}
	}
	_, err := io.WriteString(w, p.b.String())
	return err
}

func (p *page) put(indent string, b block) {
	switch {
	case b.Para != nil:
		text := b.Para.Text
		if b.Para.Bold != "" {
			text = b.Para.Bold + because(text)
		}
		p.line("%s%s", indent, text)
	case b.Table != nil:
		p.table(indent, *b.Table)
	case b.Output != "":
		p.block(indent, b.Output)
	case b.Shell != nil:
		p.shell(indent, b.Shell)
	case b.Tree != nil:
		p.tree(indent, b.Tree)
	case b.Residue != nil:
		p.parts(b.Residue)
	case b.Figures != nil:
		for _, f := range b.Figures {
			p.line("%s%-16s %-10s %s", indent, line(f.Name), line(f.Value), line(f.What))
		}
	}
}

// widest is how wide a table may get before its rows are stacked.
const widest = 132

// table writes rows in columns; where they would be too wide, each row as a
// line with the other cells named below it.
func (p *page) table(indent string, t table) {
	cells := make([][]string, 0, len(t.Rows)+1)
	named := strings.Join(t.Head, "") != ""
	if named {
		cells = append(cells, t.Head)
	}
	for _, row := range t.Rows {
		clean := make([]string, len(row))
		for i, c := range row {
			clean[i] = line(c)
		}
		cells = append(cells, clean)
	}
	width := make([]int, len(t.Head))
	for _, row := range cells {
		for i, c := range row {
			width[i] = max(width[i], utf8.RuneCountInString(c))
		}
	}
	total := len(indent)
	for i, n := range width {
		if i < len(width)-1 {
			total += n + 2
		} else {
			total += n
		}
	}
	last := len(width) - 1
	if total > widest && (len(t.Head) > 2 || total-width[last] > widest/2) {
		if named {
			cells = cells[1:]
		}
		p.stacked(indent, t.Head, cells)
		return
	}
	for _, row := range cells {
		var b strings.Builder
		for i, c := range row {
			b.WriteString(c)
			if i < len(row)-1 {
				b.WriteString(strings.Repeat(" ", width[i]-utf8.RuneCountInString(c)+2))
			}
		}
		p.line("%s%s", indent, b.String())
	}
}

func (p *page) stacked(indent string, head []string, cells [][]string) {
	width := 0
	for _, h := range head[1:] {
		width = max(width, utf8.RuneCountInString(h))
	}
	for _, row := range cells {
		p.line("%s%s", indent, row[0])
		for i, c := range row[1:] {
			if c != "" {
				p.line("%s  %-*s  %s", indent, width, strings.ToLower(head[i+1]), c)
			}
		}
	}
}

func (p *page) shell(indent string, all []backstay.Command) {
	for _, c := range all {
		script, note := typed(c)
		if note != "" {
			p.line("%s# %s", indent, note)
		}
		for i, l := range script {
			prompt := "$ "
			if i > 0 {
				prompt = "> "
			}
			p.b.WriteString(strings.TrimRight(indent+prompt+l, " ") + "\n")
		}
	}
}

// typed gives a command's lines as they can be shown. Where that is not all of
// it, the note says so.
func typed(c backstay.Command) (script []string, note string) {
	note = line(c.Note)
	script = lines(c.Line)
	if strings.Join(script, "\n") != strings.TrimRight(c.Line, " \n") {
		note = strings.TrimPrefix(note+"; ", "; ") + "characters that cannot be shown are left out here: do not copy it"
	}
	return script, note
}

func (p *page) tree(indent string, all []branch) {
	for _, b := range all {
		p.line("%s- %s", indent, b.words())
		p.tree(indent+"  ", b.Sub)
	}
}

func (b branch) words() string {
	if b.If == "" {
		return b.Then
	}
	return b.If + " → " + b.Then
}
