package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"unicode/utf8"

	"charm.land/lipgloss/v2"
)

// printer writes lines for people. Every argument that is text is cleaned. It
// keeps the first write error and writes nothing after it. It is safe for
// concurrent use.
type printer struct {
	color bool

	mu   sync.Mutex
	w    io.Writer
	fail error
}

func newPrinter(w io.Writer, color bool) *printer { return &printer{w: w, color: color} }

// err returns the first write error.
func (p *printer) err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fail
}

// raw writes text that is known to be clean.
func (p *printer) raw(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fail == nil {
		_, p.fail = io.WriteString(p.w, text)
	}
}

// Write lets encoders write to the printer.
func (p *printer) Write(b []byte) (int, error) {
	p.raw(string(b))
	if err := p.err(); err != nil {
		return 0, err
	}
	return len(b), nil
}

// line writes one line. Arguments that are text lose control characters and
// line breaks; painted ones keep their colors.
func (p *printer) line(format string, args ...any) {
	p.raw(strings.TrimRight(fmt.Sprintf(format, cleanArgs(args)...), " ") + "\n")
}

// block writes text of several lines, cleaned, each with a prefix.
func (p *printer) block(prefix, text string) {
	var b strings.Builder
	for l := range strings.Lines(clean(text)) {
		b.WriteString(strings.TrimRight(prefix+strings.TrimRight(l, "\n"), " ") + "\n")
	}
	p.raw(b.String())
}

// table writes rows in columns. Cells are cleaned.
func (p *printer) table(head []string, rows [][]string) {
	var b strings.Builder
	tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, row := range append([][]string{head}, rows...) {
		if len(row) == 0 {
			continue
		}
		cells := make([]string, len(row))
		for i, cell := range row {
			cells[i] = cleanLine(cell)
		}
		_, _ = io.WriteString(tw, strings.Join(cells, "\t")+"\n") // into memory
	}
	_ = tw.Flush() // into memory
	for l := range strings.Lines(b.String()) {
		p.raw(strings.TrimRight(l, " \n") + "\n")
	}
}

// document writes v as one indented JSON document.
func (p *printer) document(v any) error {
	enc := json.NewEncoder(p)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// record writes v as one line of JSON.
func (p *printer) record(v any) error {
	enc := json.NewEncoder(p)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// painted is text that was cleaned and colored already.
type painted string

// tone is what a color says.
type tone int

const (
	plainTone tone = iota
	goodTone
	badTone
	warnTone
	dimTone
	boldTone
)

// paint colors a text where the printer has colors.
func (p *printer) paint(t tone, text string) painted {
	text = cleanLine(text)
	if !p.color || text == "" {
		return painted(text)
	}
	s := lipgloss.NewStyle()
	switch t {
	case plainTone:
		return painted(text)
	case goodTone:
		s = s.Foreground(lipgloss.Green)
	case badTone:
		s = s.Foreground(lipgloss.Red).Bold(true)
	case warnTone:
		s = s.Foreground(lipgloss.Yellow)
	case dimTone:
		s = s.Faint(true)
	case boldTone:
		s = s.Bold(true)
	}
	return painted(s.Render(text))
}

func cleanArgs(args []any) []any {
	out := make([]any, len(args))
	for i, a := range args {
		switch a := a.(type) {
		case painted:
			out[i] = string(a)
		case error:
			out[i] = cleanLine(a.Error())
		case fmt.Stringer:
			out[i] = cleanLine(a.String())
		default:
			out[i] = a
			if v := reflect.ValueOf(a); v.IsValid() && v.Kind() == reflect.String {
				out[i] = cleanLine(v.String())
			}
		}
	}
	return out
}

// clean takes out of a text what could drive a terminal or forge a line:
// control characters but newline and tab, bidirectional controls, invalid UTF-8.
func clean(s string) string {
	harmless := func(r rune) bool { return r == '\n' || r == '\t' || (r >= 0x20 && r < 0x7f) }
	if strings.IndexFunc(s, func(r rune) bool { return !harmless(r) }) < 0 {
		return s
	}
	s = strings.ReplaceAll(s, "\r\n", "\n")
	return strings.Map(func(r rune) rune {
		switch {
		case harmless(r):
			return r
		case r < 0x20, r >= 0x7f && r < 0xa0, r == utf8.RuneError,
			r == 0x061c, r == 0x200e, r == 0x200f, r >= 0x2028 && r <= 0x202e, r >= 0x2066 && r <= 0x2069, r == 0xfeff:
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}

// cleanLine is clean on one line: line breaks and tabs become spaces.
func cleanLine(s string) string {
	s = clean(s)
	if strings.ContainsAny(s, "\n\t") {
		s = strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\t' }), " ")
	}
	return s
}

// isClosedPipe reports whether the reader of a pipe went away.
func isClosedPipe(err error) bool {
	return errors.Is(err, syscall.EPIPE) || errors.Is(err, io.ErrClosedPipe)
}
