package files

import (
	"slices"
	"strings"
)

const gooseMark = "-- +goose"

// goose reads files named NUMBER_name.sql that hold both directions, told apart
// by marks.
func (r *reader) goose(all []file) {
	for _, f := range all {
		digits, name, ok := strings.Cut(stem(f.name), "_")
		o, isNumber := number(digits)
		if !ok || name == "" || !isNumber || o[0] == 0 {
			r.refuse(f.name, 0, "such as 00001_create_users.sql", "it is not named as goose wants it: a number above 0, _, a name")
			continue
		}
		m := Migration{Version: o.text(), Name: name, order: o}
		up, down, ok := r.gooseScripts(f)
		if !ok {
			continue
		}
		m.Up, m.Down = up, down
		r.add(m)
	}
}

// gooseParse is the reading of one file.
type gooseParse struct {
	r     *reader
	f     file
	up    Script
	down  *Script
	into  *Script // the direction that is read
	whole bool    // inside StatementBegin
	lines []string
	first int // line of lines[0]
	ok    bool
}

func (r *reader) gooseScripts(f file) (up Script, down *Script, ok bool) {
	p := gooseParse{r: r, f: f, ok: true}
	base := Script{File: f.name, SHA256: f.sum(), CRC32: crc(f.text)}
	p.up = base
	none := false
	seenUp := false
	n := 0
	for line := range strings.Lines(f.text) {
		n++
		mark, isMark := strings.CutPrefix(strings.TrimSpace(line), gooseMark)
		if !isMark {
			p.line(n, line)
			continue
		}
		word := strings.ToLower(strings.Join(strings.Fields(strings.TrimSuffix(strings.TrimSpace(mark), "--")), " "))
		switch word {
		case "up":
			if p.into != nil {
				p.refuse(n, "one Up, then one Down", "a second `+goose Up`, or one after Down")
			}
			seenUp, p.into = true, &p.up
		case "down":
			p.turn(n)
			if p.into == nil || p.down != nil {
				p.refuse(n, "one Up, then one Down", "`+goose Down` without Up before it, or a second one")
			}
			d := base
			p.down, p.into = &d, &d
		case "statementbegin":
			p.begin(n)
		case "statementend":
			p.end(n)
		case "no transaction":
			none = true
		case "envsub off":
		case "envsub on":
			p.refuse(n, "write the value, or make the file before the deployment", "`+goose ENVSUB` takes text from the environment, so what would run is not pinned by the file")
		default:
			p.refuse(n, "Up, Down, StatementBegin, StatementEnd, NO TRANSACTION", "`+goose %s` is not a mark of goose", strings.TrimSpace(mark))
		}
	}
	p.turn(n)
	if !seenUp && p.ok {
		p.refuse(0, "add `-- +goose Up`", "it has no `-- +goose Up`")
	}
	p.up.NoTransaction = none
	if p.down != nil {
		p.down.NoTransaction = none
	}
	return p.up, p.down, p.ok
}

func (p *gooseParse) refuse(line int, hint, format string, args ...any) {
	p.ok = false
	p.r.refuse(p.f.name, line, hint, format, args...)
}

func (p *gooseParse) line(n int, line string) {
	if p.into == nil {
		if t := strings.TrimSpace(line); t != "" && !strings.HasPrefix(t, "--") && t != "\ufeff" {
			p.refuse(n, "move it below `-- +goose Up`", "text before the first mark, which nothing would run")
		}
		return
	}
	if len(p.lines) == 0 {
		p.first = n
	}
	p.lines = append(p.lines, line)
}

// flush closes the chunk that is read.
func (p *gooseParse) flush() {
	text := strings.Join(p.lines, "")
	p.lines = nil
	if p.into != nil && strings.TrimSpace(text) != "" {
		p.into.Chunks = append(p.into.Chunks, Chunk{Text: text, Line: p.first, Whole: p.whole})
	}
}

func (p *gooseParse) begin(n int) {
	if p.into == nil || p.whole {
		p.refuse(n, "close the one before with `+goose StatementEnd`", "`+goose StatementBegin` outside of a direction, or inside another")
		return
	}
	p.flush()
	p.whole = true
}

func (p *gooseParse) end(n int) {
	if !p.whole {
		p.refuse(n, "", "`+goose StatementEnd` without StatementBegin")
		return
	}
	p.flush()
	p.whole = false
}

// turn ends a direction.
func (p *gooseParse) turn(n int) {
	if p.whole {
		p.refuse(n, "add `-- +goose StatementEnd`", "`+goose StatementBegin` is not closed")
	}
	p.flush()
	p.whole = false
}

// Empty reports whether nothing but blanks is in a script.
func (s Script) Empty() bool {
	return !slices.ContainsFunc(s.Chunks, func(c Chunk) bool { return strings.TrimSpace(c.Text) != "" })
}
