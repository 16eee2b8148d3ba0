package report

import (
	"fmt"
	"io"
	"strings"

	"github.com/backstay-dev/backstay"
)

// page collects lines; each is cleaned as a whole, but for its indent.
type page struct{ b strings.Builder }

func (p *page) line(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	indent := len(text) - len(strings.TrimLeft(text, " "))
	body := strings.TrimRight(strings.Map(shown, strings.ToValidUTF8(text[indent:], "?")), " ")
	p.b.WriteString(text[:indent] + body + "\n")
}

func (p *page) section(title string) { p.b.WriteString("\n" + title + "\n") }

func (p *page) block(indent, text string) {
	for _, l := range lines(text) {
		p.b.WriteString(strings.TrimRight(indent+"| "+l, " ") + "\n")
	}
}

// parts writes parts with what they were and are. What to type next stands
// once below the parts that share it.
func (p *page) parts(all []Residue) {
	for i, r := range all {
		p.line("  %s", place(r.Key, r.Part))
		p.line("    before   %s", r.Was)
		if r.Want != "" && r.Want != r.Was {
			p.line("    wanted   %s", r.Want)
		}
		p.line("    now      %s", r.Reads)
		p.line("    why      %s%s", r.Cause, because(r.Detail))
		if r.Next != "" && (i == len(all)-1 || all[i+1].Next != r.Next) {
			p.line("    next     %s", r.Next)
		}
	}
}

// Residues writes parts that are not as before for a terminal: each with what
// it was, what it is, why, and what to type next.
func Residues(w io.Writer, list []backstay.Residue) error {
	p := &page{}
	p.parts(residues(list))
	_, err := io.WriteString(w, p.b.String())
	return err
}
