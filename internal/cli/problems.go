package cli

import (
	"strconv"
	"strings"

	"charm.land/lipgloss/v2"

	"github.com/backstay-dev/backstay"
)

// problems prints what is wrong with an input in the way compilers do: place,
// message, the source line, a caret, and what to do.
func (p *printer) problems(list []backstay.Problem) {
	for _, problem := range list {
		p.problem(problem)
	}
}

func (p *printer) problem(q backstay.Problem) {
	place := q.File
	if q.Line > 0 {
		place += ":" + strconv.Itoa(q.Line)
		if q.Column > 0 {
			place += ":" + strconv.Itoa(q.Column)
		}
	}
	var parts []string
	for _, s := range []string{strings.TrimPrefix(place, ":"), q.Path} {
		if s != "" {
			parts = append(parts, s+":")
		}
	}
	parts = append(parts, q.Message)
	p.line("%s", p.paint(boldTone, strings.Join(parts, " ")))
	if q.Source != "" {
		p.line("  %4d | %s", q.Line, tabless(q.Source))
		if q.Column > 0 {
			p.line("       | %s%s", caretIndent(q.Source, q.Column), p.paint(badTone, "^"))
		}
	}
	if q.Hint != "" {
		p.line("       hint: %s", q.Hint)
	}
}

// tabless shows tabs as one space, so that the caret stands under its column.
func tabless(s string) string { return strings.ReplaceAll(clean(s), "\t", " ") }

// caretIndent is the blank that stands before a column (counted in characters
// from 1) of a source line, as wide as the terminal shows what it covers.
func caretIndent(source string, column int) string {
	runes := []rune(tabless(source))
	n := min(column-1, len(runes))
	return strings.Repeat(" ", lipgloss.Width(string(runes[:n])))
}
