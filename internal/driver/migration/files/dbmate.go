package files

import (
	"strings"
)

const dbmateMark = "-- migrate:"

// dbmate reads files named NUMBER_name.sql with the two marks of dbmate.
func (r *reader) dbmate(all []file) {
	for _, f := range all {
		digits, name, ok := strings.Cut(stem(f.name), "_")
		o, isNumber := number(digits)
		if !ok || !isNumber {
			r.refuse(f.name, 0, "such as 20240102030405_create_users.sql", "it is not named as dbmate wants it: a number, _, a name")
			continue
		}
		// dbmate keeps versions as text, zeros in front included.
		m := Migration{Version: digits, Name: name, order: o}
		if r.dbmateScripts(f, &m) {
			r.add(m)
		}
	}
}

func (r *reader) dbmateScripts(f file, m *Migration) (ok bool) {
	ok = true
	refuse := func(line int, hint, format string, args ...any) {
		ok = false
		r.refuse(f.name, line, hint, format, args...)
	}
	var into *Script
	seenUp := false
	n := 0
	for line := range strings.Lines(f.text) {
		n++
		mark, isMark := strings.CutPrefix(strings.TrimSpace(line), dbmateMark)
		if !isMark {
			if into == nil {
				if t := strings.TrimSpace(line); t != "" && !strings.HasPrefix(t, "--") {
					refuse(n, "move it below `-- migrate:up`", "text before the first mark, which nothing would run")
				}
				continue
			}
			appendLine(into, line, n)
			continue
		}
		words := strings.Fields(mark)
		direction := ""
		if len(words) > 0 {
			direction = words[0]
		}
		s := Script{File: f.name, SHA256: f.sum(), CRC32: crc(f.text)}
		switch {
		case direction == "up" && !seenUp && m.Down == nil:
			seenUp, m.Up = true, s
			into = &m.Up
		case direction == "down" && seenUp && m.Down == nil:
			m.Down = &s
			into = m.Down
		default:
			refuse(n, "one `-- migrate:up`, then one `-- migrate:down`", "`-- migrate:%s` is not expected here", strings.TrimSpace(mark))
			continue
		}
		for _, option := range words[1:] {
			switch option {
			case "transaction:false":
				into.NoTransaction = true
			case "transaction:true":
			default:
				refuse(n, "transaction:false", "%q is not an option that Backstay knows", option)
			}
		}
	}
	if !seenUp && ok {
		refuse(0, "add `-- migrate:up`", "it has no `-- migrate:up`")
	}
	return ok
}

func appendLine(s *Script, line string, n int) {
	if len(s.Chunks) == 0 {
		s.Chunks = []Chunk{{Line: n}}
	}
	s.Chunks[0].Text += line
}
