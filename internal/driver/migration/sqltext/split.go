package sqltext

import (
	"slices"
	"strings"
	"unicode"

	"github.com/backstay-dev/backstay/internal/driver/migration/files"
)

// Piece is one statement as the scanner cuts it out: its text from the first
// word to the last character before its delimiter.
type Piece struct {
	Text string
	Line int // from 1, in the text that was split
}

// Split cuts a script into its statements. A body of a trigger or routine
// (BEGIN … END) is not cut. It does not know the grammar: two statements with
// nothing between them are one, and the server will say so.
func Split(d Dialect, text string) ([]Piece, []Problem) {
	p := splitter{scanner: scanner{d: d, text: text}, delimiter: ";", line: 1}
	p.run()
	if p.unclosed != "" {
		p.problems = append(p.problems, Problem{
			Line: 1 + strings.Count(text[:p.openAt], "\n"), Message: p.unclosed + " begins here and does not end", Hint: "close it",
		})
	}
	return p.pieces, p.problems
}

type splitter struct {
	scanner
	delimiter string
	pieces    []Piece
	problems  []Problem

	begin   int // offset of the statement's first token; -1: none yet
	end     int // after its last
	head    []Token
	body    bool // a routine or trigger
	blocks  int  // open BEGIN, CASE, IF, LOOP … of a body
	prev    Token
	counted int // bytes whose lines are counted
	line    int
}

func (p *splitter) run() {
	p.begin = -1
	for {
		for p.at < len(p.text) && p.blank() {
			continue
		}
		if p.begin < 0 && p.d.Delimiter && p.setDelimiter() {
			continue
		}
		if p.delimiter != ";" && p.has(p.delimiter) {
			p.at += len(p.delimiter)
			p.cut()
			continue
		}
		if p.at < len(p.text) && p.comment() {
			continue
		}
		if p.at >= len(p.text) {
			break
		}
		t := p.token()
		if p.delimiter == ";" && t.Kind == Other && t.Text == ";" && !p.inBody() {
			p.cut()
			continue
		}
		p.take(t)
	}
	p.cut()
}

// setDelimiter reads a line DELIMITER x, which the mysql client takes for
// itself.
func (p *splitter) setDelimiter() bool {
	const word = "DELIMITER"
	rest := p.text[p.at:]
	if len(rest) <= len(word) || !strings.EqualFold(rest[:len(word)], word) || !unicode.IsSpace(rune(rest[len(word)])) {
		return false
	}
	line, _, _ := strings.Cut(rest, "\n")
	fields := strings.Fields(line)
	if len(fields) != 2 || len(fields[1]) > 16 || strings.ContainsAny(fields[1], `\'"`+"`") {
		return false
	}
	p.delimiter = fields[1]
	p.at += len(line)
	return true
}

func (p *splitter) take(t Token) {
	if p.begin < 0 {
		p.begin = t.At
	}
	p.end = p.at
	if len(p.head) < 16 {
		p.head = append(p.head, t)
		p.body = p.body || p.beginsBody()
	}
	if p.body && p.delimiter == ";" && t.Kind == Word {
		p.nest(t)
	}
	p.prev = t
}

// beginsBody reports whether the words so far create something that has a body
// of statements.
func (p *splitter) beginsBody() bool {
	if !p.head[0].Is("CREATE") {
		return false
	}
	last := p.head[len(p.head)-1]
	if last.Depth != 0 {
		return false
	}
	for _, word := range []string{"TRIGGER", "PROCEDURE", "FUNCTION", "EVENT", "PACKAGE"} {
		if last.Is(word) {
			return !slices.ContainsFunc(p.head, func(t Token) bool { return t.Is("TABLE") || t.Is("VIEW") || t.Is("INDEX") })
		}
	}
	return false
}

// nest follows the blocks of a body. CASE is a block as a statement and as an
// expression; both end with END. IF is one only where a statement begins.
func (p *splitter) nest(t Token) {
	begins := p.prev.Text == ";" || p.prev.Is("BEGIN") || p.prev.Is("THEN") || p.prev.Is("ELSE") || p.prev.Is("DO") || p.prev.Text == ":"
	switch {
	case p.prev.Is("END") && (t.Is("IF") || t.Is("CASE") || t.Is("LOOP") || t.Is("WHILE") || t.Is("REPEAT")):
		// its END was counted
	case t.Is("BEGIN"), t.Is("CASE"):
		p.blocks++
	case t.Is("END"):
		p.blocks--
	case p.d.Loops && (begins || p.blocks == 0) && (t.Is("LOOP") || t.Is("WHILE") || t.Is("REPEAT") && begins):
		p.blocks++
	case p.d.Loops && begins && t.Is("IF"):
		p.blocks++
	}
}

func (p *splitter) inBody() bool { return p.body && p.blocks > 0 }

// cut ends the statement.
func (p *splitter) cut() {
	if p.begin >= 0 {
		p.line += strings.Count(p.text[p.counted:p.begin], "\n")
		p.counted = p.begin
		p.pieces = append(p.pieces, Piece{Text: p.text[p.begin:p.end], Line: p.line})
	}
	p.begin, p.head, p.body, p.blocks, p.depth, p.prev = -1, nil, false, 0, 0, Token{}
}

// Pieces splits chunks, each with the lines of its file.
func Pieces(d Dialect, chunks []files.Chunk) ([]Piece, []Problem) {
	var pieces []Piece
	var problems []Problem
	for _, c := range chunks {
		if c.Whole {
			if tokens := Tokens(d, c.Text); len(tokens) > 0 {
				text := strings.TrimRightFunc(c.Text[tokens[0].At:], unicode.IsSpace)
				pieces = append(pieces, Piece{Text: text, Line: c.Line + strings.Count(c.Text[:tokens[0].At], "\n")})
			}
			continue
		}
		some, wrong := Split(d, c.Text)
		for _, p := range some {
			p.Line += c.Line - 1
			pieces = append(pieces, p)
		}
		for _, p := range wrong {
			p.Line += c.Line - 1
			problems = append(problems, p)
		}
	}
	return pieces, problems
}
