package report

import (
	"strings"
	"unicode"
)

// line makes a text one line that can be shown: what could forge another line,
// drive a terminal or turn the order of letters around is gone. Runs of white
// space become one space.
func line(s string) string {
	return strings.Join(strings.Fields(strings.Map(shown, strings.ToValidUTF8(s, "?"))), " ")
}

// lines makes a text of several lines that can be shown, without empty lines
// at its ends.
func lines(s string) []string {
	var out []string
	for l := range strings.SplitSeq(strings.ToValidUTF8(s, "?"), "\n") {
		l = strings.TrimRight(strings.Map(shown, strings.ReplaceAll(l, "\t", "    ")), " ")
		if l == "" && len(out) == 0 {
			continue
		}
		out = append(out, l)
	}
	for len(out) > 0 && out[len(out)-1] == "" {
		out = out[:len(out)-1]
	}
	return out
}

// shown maps white space to a space and drops what is not printable: controls,
// format characters (bidi among them), private use.
func shown(r rune) rune {
	switch {
	case unicode.IsSpace(r):
		return ' '
	case !unicode.IsPrint(r):
		return -1
	}
	return r
}

// cut shortens a line to at most n runes.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	runes := []rune(s)
	if len(runes) <= n {
		return s
	}
	return string(runes[:n-1]) + "…"
}
