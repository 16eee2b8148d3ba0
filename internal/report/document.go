package report

import (
	"io"

	"github.com/backstay-dev/backstay"
)

// document is what the pages of this package are made of, before anything is
// said of their looks. Texts in it are as users wrote them: each writer makes
// them one line and escapes them.
type document struct {
	Title    string
	Headline string
	Tone     string // good, bad, undo, plain: for colours
	Lead     []string
	Sections []section
}

// section is a heading with what stands below it.
type section struct {
	Title  string
	Tone   string
	Sub    bool // below the section before it
	Blocks []block
}

// block is one of its fields.
type block struct {
	Para    *para
	Table   *table
	Output  string // of a program, in lines
	Shell   []backstay.Command
	Tree    []branch
	Residue []Residue
	Figures []figure
	Picture *picture // HTML only; says nothing that the text does not
	Plot    *plot    // HTML only, beside its table
}

// para is a line of text, after a bold beginning.
type para struct {
	Bold, Text, Tone string
}

// table has rows of as many cells as there are headings.
type table struct {
	Head  []string
	Rows  [][]string
	Tones []string // of the rows, where they have one
	Code  int      // so many columns from the right hold values
}

// branch is one line of a decision tree with what follows from it.
type branch struct {
	If, Then string
	Sub      []branch
}

// figure is a number that stands out.
type figure struct{ Name, Value, What string }

// add appends a section, unless it has nothing in it.
func (d *document) add(s section) {
	if len(s.Blocks) > 0 {
		d.Sections = append(d.Sections, s)
	}
}

func paragraph(text string) block { return block{Para: &para{Text: text}} }

func bold(begin, text, tone string) block {
	return block{Para: &para{Bold: begin, Text: text, Tone: tone}}
}

// rows is a table; nothing where it has no rows.
func rows(code int, head []string, all [][]string) []block {
	if len(all) == 0 {
		return nil
	}
	return []block{{Table: &table{Head: head, Rows: all, Code: code}}}
}

// facts is a table of names and values; those without a value are left out.
func facts(pairs ...[2]string) []block {
	var all [][]string
	for _, p := range pairs {
		if line(p[1]) != "" {
			all = append(all, []string{p[0], p[1]})
		}
	}
	return rows(0, []string{"", ""}, all)
}

// renderer writes a document in one format.
type renderer func(document, io.Writer) error
