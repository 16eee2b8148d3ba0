package spec

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/backstay-dev/backstay"
)

// source is one text that problems point into.
type source struct {
	name  string
	order int // base file, overlay, env-file, command line
	data  []byte
	lines []string // split on first use
}

// The orders in which problems of different sources are printed.
const (
	orderBase = iota
	orderOverlay
	orderEnvFile
	orderFlags
)

func newSource(name string, order int, data []byte) *source {
	return &source{name: name, order: order, data: data}
}

// line returns a line for display.
func (s *source) line(n int) string {
	if s.lines == nil {
		s.lines = strings.Split(string(s.data), "\n")
	}
	if n < 1 || n > len(s.lines) {
		return ""
	}
	return display(strings.TrimRight(s.lines[n-1], "\r"), 200)
}

// display bounds a text and takes out of it what could steer a terminal.
func display(s string, limit int) string {
	var b strings.Builder
	for i, r := range s {
		if i >= limit {
			b.WriteString("…")
			break
		}
		if r != '\t' && !unicode.IsPrint(r) {
			r = unicode.ReplacementChar
		}
		b.WriteRune(r)
	}
	return b.String()
}

// problems collects what is wrong. It keeps a bounded number, counts the rest.
type problems struct {
	list     []found
	more     int
	compared int // words compared for suggestions
}

type found struct {
	backstay.Problem
	order int
}

// at adds a problem at a place of a source.
func (ps *problems) at(src *source, line, column int, path, message, hint string) {
	if len(ps.list) >= maxProblems {
		ps.more++
		return
	}
	p := backstay.Problem{Line: line, Column: column, Path: path, Message: display(message, 600), Hint: display(hint, 600)}
	order := orderFlags
	if src != nil {
		p.File, p.Source, order = src.name, src.line(line), src.order
	}
	ps.list = append(ps.list, found{p, order})
}

// add adds a problem at a node.
func (ps *problems) add(n *node, path, message, hint string) {
	ps.at(n.src, n.line, n.column, path, message, hint)
}

func (ps *problems) none() bool { return len(ps.list) == 0 }

// err returns nil, or the refusal with all problems in the order of the text.
func (ps *problems) err() error {
	if ps.none() {
		return nil
	}
	slices.SortStableFunc(ps.list, func(a, b found) int {
		return cmp.Or(
			cmp.Compare(a.order, b.order),
			cmp.Compare(a.Line, b.Line),
			cmp.Compare(a.Column, b.Column),
			cmp.Compare(a.Path, b.Path),
			cmp.Compare(a.Message, b.Message),
		)
	})
	refused := &backstay.RefusedError{What: "spec"}
	for _, f := range ps.list {
		refused.Problems = append(refused.Problems, f.Problem)
	}
	if ps.more > 0 {
		refused.Problems = append(refused.Problems, backstay.Problem{
			Message: fmt.Sprintf("and %d more problems", ps.more),
		})
	}
	return refused
}

// quote shows text of the user's in a message: bounded and escaped.
func quote(s string) string {
	const limit = 80
	if len(s) > limit {
		cut := limit
		for cut > 0 && s[cut]&0xC0 == 0x80 {
			cut--
		}
		s = s[:cut] + "…"
	}
	return fmt.Sprintf("%q", s)
}

// list joins words for a hint, bounded.
func list(words []string) string {
	const limit = 20
	if len(words) > limit {
		return strings.Join(words[:limit], ", ") + fmt.Sprintf(" and %d more", len(words)-limit)
	}
	return strings.Join(words, ", ")
}
