package report

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"strings"

	"github.com/backstay-dev/backstay"
)

//go:embed document.html.tmpl
var pageTemplate string

var _ renderer = writeHTML

// writeHTML writes a document as one page that needs nothing else: no script,
// no font, no image from elsewhere. It prints, and follows the reader's choice
// of light and dark.
func writeHTML(d document, w io.Writer) error {
	t, err := template.New("page").Funcs(template.FuncMap{
		"line":    line,
		"output":  func(s string) string { return strings.Join(lines(s), "\n") },
		"because": func(s string) string { return because(line(s)) },
		"cells":   cellsOf,
		"residue": func(all []Residue) htmlTable { t := residueTable(all); return cellsOf(&t) },
		"shell":   shellOf,
	}).Parse(pageTemplate)
	if err != nil {
		return fmt.Errorf("read page template: %w", err)
	}
	if err := t.Execute(w, d); err != nil {
		return fmt.Errorf("write page: %w", err)
	}
	return nil
}

// htmlTable is a table as the template gets it.
type htmlTable struct {
	Named bool
	Head  []string
	Cells [][]htmlCell
}

type htmlCell struct{ Text, Class string }

func cellsOf(t *table) htmlTable {
	out := htmlTable{Head: t.Head, Named: strings.Join(t.Head, "") != ""}
	for i, row := range t.Rows {
		cells := make([]htmlCell, len(row))
		for j, c := range row {
			cells[j].Text = line(c)
			if j >= len(row)-t.Code {
				cells[j].Class = "v"
			}
		}
		if i < len(t.Tones) {
			cells[len(cells)-1].Class = t.Tones[i]
		}
		out.Cells = append(out.Cells, cells)
	}
	return out
}

// htmlShell is a command as the template gets it.
type htmlShell struct{ Note, Script string }

func shellOf(all []backstay.Command) []htmlShell {
	out := make([]htmlShell, 0, len(all))
	for _, c := range all {
		script, note := typed(c)
		out = append(out, htmlShell{note, strings.Join(script, "\n")})
	}
	return out
}
