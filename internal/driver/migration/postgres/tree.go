package postgres

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/wasilibs/go-pgquery/parser"

	"github.com/backstay-dev/backstay/internal/driver/migration/sqltext"
)

// node is a part of the parse tree that PostgreSQL's own grammar gives: one
// name with its fields, where it is a node of a list, else the fields.
type node map[string]any

// parsed is one statement of a text.
type parsed struct {
	name   string // CreateStmt, …
	fields node
	text   string
	line   int // from 1, in the text that was parsed
}

// parse reads a text with PostgreSQL's grammar (17). Loading it takes a process
// seconds, once.
func parse(text string) ([]parsed, *sqltext.Problem) {
	out, err := parser.ParseToJSON(text)
	if err != nil {
		p := sqltext.Problem{Line: 1, Message: err.Error(), Hint: "PostgreSQL's own grammar refuses it; commands of psql (\\…) and data of COPY … FROM STDIN are no SQL"}
		var e *parser.Error
		if errors.As(err, &e) {
			p.Message = e.Message
			if e.Cursorpos > 0 {
				p.Line += strings.Count(prefix(text, e.Cursorpos-1), "\n")
			}
		}
		return nil, &p
	}
	var tree struct {
		Stmts []struct {
			Stmt     map[string]node `json:"stmt"`
			Location int             `json:"stmt_location"`
			Len      int             `json:"stmt_len"`
		} `json:"stmts"`
	}
	if err := json.Unmarshal([]byte(out), &tree); err != nil {
		return nil, &sqltext.Problem{Line: 1, Message: fmt.Sprintf("its parse tree cannot be read: %v", err)}
	}
	all := make([]parsed, 0, len(tree.Stmts))
	line, counted := 1, 0
	for _, s := range tree.Stmts {
		end := s.Location + s.Len
		if s.Len == 0 {
			end = len(text)
		}
		if s.Location < counted || s.Location > end || end > len(text) {
			return nil, &sqltext.Problem{Line: line, Message: "its parse tree names places that are not there"}
		}
		p := parsed{text: text[s.Location:end]}
		at := s.Location + begins(p.text)
		line += strings.Count(text[counted:at], "\n")
		counted, p.line = at, line
		p.text = strings.TrimSpace(text[at:end])
		for name, fields := range s.Stmt {
			p.name, p.fields = name, fields
		}
		all = append(all, p)
	}
	return all, nil
}

// prefix is the text's first n characters.
func prefix(text string, n int) string {
	for i := range text {
		if n == 0 {
			return text[:i]
		}
		n--
	}
	return text
}

// begins is where the first word of a statement stands, after blanks and comments.
func begins(text string) int {
	at := 0
	for {
		rest := text[at:]
		blanks := len(rest) - len(strings.TrimLeft(rest, " \t\r\n\f\v"))
		at += blanks
		rest = rest[blanks:]
		switch {
		case strings.HasPrefix(rest, "--"):
			end := strings.IndexByte(rest, '\n')
			if end < 0 {
				return at
			}
			at += end
		case strings.HasPrefix(rest, "/*"):
			at += comment(rest)
		default:
			return at
		}
	}
}

// comment is the length of the nested comment that begins a text.
func comment(text string) int {
	depth := 0
	for i := 0; i+1 < len(text); i++ {
		switch text[i : i+2] {
		case "/*":
			depth++
			i++
		case "*/":
			depth--
			i++
		}
		if depth == 0 {
			return i + 1
		}
	}
	return len(text)
}

func (n node) text(field string) string { s, _ := n[field].(string); return s }
func (n node) yes(field string) bool    { b, _ := n[field].(bool); return b }
func (n node) sub(field string) node    { m, _ := n[field].(map[string]any); return m }

// list gives the nodes of a list, each with its name.
func (n node) list(field string) []item {
	items, _ := n[field].([]any)
	var all []item
	for _, element := range items {
		m, _ := element.(map[string]any)
		for name, fields := range m {
			f, _ := fields.(map[string]any)
			all = append(all, item{name, f})
		}
	}
	return all
}

type item struct {
	name string
	node
}

// relation writes a relation's name, quoted, without the schema where it has none.
func relation(n node) string {
	name := quote(n.text("relname"))
	if schema := n.text("schemaname"); schema != "" {
		name = quote(schema) + "." + name
	}
	return name
}

// relations are the names of all relations below.
func (n node) relations() (all []string) {
	if n.text("relname") != "" {
		all = append(all, relation(n))
	}
	for _, value := range n {
		switch v := value.(type) {
		case map[string]any:
			all = append(all, node(v).relations()...)
		case []any:
			for _, element := range v {
				if m, is := element.(map[string]any); is {
					all = append(all, node(m).relations()...)
				}
			}
		}
	}
	return all
}

// names joins a list of strings to a quoted name.
func names(all []item) string {
	var parts []string
	for _, s := range all {
		parts = append(parts, quote(s.text("sval")))
	}
	return strings.Join(parts, ".")
}

func quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// any reports whether a node of this name, with fields for which ok, is anywhere below.
func (n node) any(name string, ok func(node) bool) bool {
	for key, value := range n {
		switch v := value.(type) {
		case map[string]any:
			if key == name && ok(v) || node(v).any(name, ok) {
				return true
			}
		case []any:
			for _, element := range v {
				if m, is := element.(map[string]any); is && node(m).any(name, ok) {
					return true
				}
			}
		}
	}
	return false
}
