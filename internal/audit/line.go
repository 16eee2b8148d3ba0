package audit

import (
	"strings"
	"unicode"
)

// line makes a text one line that can be shown: what could forge another line,
// drive a terminal or turn the order of letters around is gone. Runs of white
// space become one space.
func line(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r):
			return -1 // controls, format characters (bidi among them), private use
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	return strings.Join(strings.Fields(s), " ")
}

// cut shortens a line to at most n runes.
func cut(s string, n int) string {
	runes := []rune(s)
	if len(runes) <= n {
		return s
	}
	return string(runes[:n-1]) + "…"
}
