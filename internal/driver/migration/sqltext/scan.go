package sqltext

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Dialect says which quotes and comments a database has.
type Dialect struct {
	Backslash  bool // \ escapes inside quotes (MySQL, MariaDB)
	Hash       bool // # begins a comment
	Brackets   bool // [a name] (SQLite)
	DashBlank  bool // -- begins a comment only before a blank (MySQL)
	Delimiter  bool // the client's DELIMITER lines
	Executable bool // /*! … */ and /*M! … */ are code
	Loops      bool // bodies have IF, LOOP, WHILE and REPEAT blocks
}

// MySQL is the dialect of MySQL and MariaDB in their default SQL mode.
func MySQL() Dialect {
	return Dialect{Backslash: true, Hash: true, DashBlank: true, Delimiter: true, Executable: true, Loops: true}
}

// SQLite is SQLite's dialect.
func SQLite() Dialect { return Dialect{Brackets: true} }

// Token is a word, a number, a quoted text or name, or one other character.
type Token struct {
	Text  string
	Kind  Kind
	At    int // offset in the text
	Depth int // of parentheses around it
}

// Kind is what a token is.
type Kind byte

// The kinds of token.
const (
	Word   Kind = 'w' // a name or keyword without quotes
	Name   Kind = 'n' // a quoted name
	Text   Kind = 't' // a quoted text
	Number Kind = 'd'
	Other  Kind = 'o'
)

// Is reports whether the token is this keyword, in any case.
func (t Token) Is(word string) bool { return t.Kind == Word && strings.EqualFold(t.Text, word) }

// Bare is a name without its quotes.
func (t Token) Bare() string {
	if t.Kind != Name && t.Kind != Text || len(t.Text) < 2 {
		return t.Text
	}
	q := t.Text[:1]
	inner := t.Text[1 : len(t.Text)-1]
	if q == "[" {
		return inner
	}
	return strings.ReplaceAll(inner, q+q, q)
}

// scanner goes through a text token by token.
type scanner struct {
	d        Dialect
	text     string
	at       int
	depth    int
	unclosed string // what was begun and not ended
	openAt   int
}

// next gives the next token that is no comment; false at the end.
func (s *scanner) next() (Token, bool) {
	for s.at < len(s.text) {
		if s.blank() || s.comment() {
			continue
		}
		return s.token(), true
	}
	return Token{}, false
}

func (s *scanner) blank() bool {
	r, n := utf8.DecodeRuneInString(s.text[s.at:])
	if !unicode.IsSpace(r) && r != '\ufeff' {
		return false
	}
	s.at += n
	return true
}

func (s *scanner) has(prefix string) bool { return strings.HasPrefix(s.text[s.at:], prefix) }

// comment goes over a comment, if one begins here.
func (s *scanner) comment() bool {
	switch {
	case s.has("--") && (!s.d.DashBlank || s.at+2 < len(s.text) && s.text[s.at+2] <= ' '), s.d.Hash && s.has("#"):
		s.skip(strings.IndexByte(s.text[s.at:], '\n'), 1)
		return true
	case s.d.Executable && (s.has("/*!") || s.has("/*M!")):
		return false
	case s.has("/*"):
		at := s.at
		end := strings.Index(s.text[s.at+2:], "*/")
		if end >= 0 {
			end += 2
		} else if s.unclosed == "" {
			s.unclosed, s.openAt = "a comment", at
		}
		s.skip(end, 2)
		return true
	}
	return false
}

// skip goes n bytes on and over what ends there; to the end for n < 0.
func (s *scanner) skip(n, over int) {
	if n < 0 {
		s.at = len(s.text)
		return
	}
	s.at += n + over
}

func (s *scanner) token() Token {
	at := s.at
	c := s.text[at]
	t := Token{At: at, Kind: Other, Depth: s.depth}
	switch {
	case c == '\'':
		t.Kind = Text
		s.quoted('\'', s.d.Backslash)
	case c == '"':
		t.Kind = Name
		if s.d.Backslash {
			t.Kind = Text // in the default SQL mode
		}
		s.quoted('"', s.d.Backslash)
	case c == '`':
		t.Kind = Name
		s.quoted('`', false)
	case c == '[' && s.d.Brackets:
		t.Kind = Name
		s.quoted(']', false)
	case wordRune(s.text[at:]):
		t.Kind = Word
		if c >= '0' && c <= '9' {
			t.Kind = Number
		}
		for s.at < len(s.text) && wordRune(s.text[s.at:]) {
			_, n := utf8.DecodeRuneInString(s.text[s.at:])
			s.at += n
		}
	default:
		_, n := utf8.DecodeRuneInString(s.text[at:])
		s.at += n
		switch c {
		case '(':
			s.depth++
		case ')':
			s.depth = max(s.depth-1, 0)
			t.Depth = s.depth
		}
	}
	t.Text = s.text[at:s.at]
	return t
}

func wordRune(text string) bool {
	r, _ := utf8.DecodeRuneInString(text)
	return r == '_' || r == '$' || r == '@' || unicode.IsLetter(r) || unicode.IsDigit(r) || (r > 0x7f && r != '\ufeff' && !unicode.IsSpace(r))
}

// quoted goes over a quoted run that begins here. A doubled quote is one of it.
func (s *scanner) quoted(quote byte, backslash bool) {
	begin := s.at
	for i := s.at + 1; i < len(s.text); i++ {
		switch c := s.text[i]; {
		case c == '\\' && backslash:
			i++
		case c == quote && i+1 < len(s.text) && s.text[i+1] == quote && quote != ']':
			i++
		case c == quote:
			s.at = i + 1
			return
		}
	}
	s.at = len(s.text)
	if s.unclosed == "" {
		s.unclosed, s.openAt = "a quote", begin
	}
}

// Tokens lists the tokens of a statement.
func Tokens(d Dialect, text string) []Token {
	s := scanner{d: d, text: text}
	var all []Token
	for {
		t, ok := s.next()
		if !ok {
			return all
		}
		all = append(all, t)
	}
}
