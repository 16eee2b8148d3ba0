package spec

import (
	"strings"
	"unicode"
)

// suggest returns `did you mean "x"?` for the candidate nearest to word, or ""
// where none is near. A file with very many mistakes stops getting suggestions.
func (ps *problems) suggest(word string, candidates []string) string {
	const longest = 64
	if word == "" || len(word) > longest || len(ps.list) >= maxProblems {
		return ""
	}
	folded := fold(word)
	best, nearest := "", min(max(1, len(word)/3)+1, len(folded))
	for _, c := range candidates {
		if len(c) > longest || c == word {
			continue
		}
		if ps.compared++; ps.compared > maxCompared {
			return ""
		}
		if d := distance(folded, fold(c)); d < nearest {
			best, nearest = c, d
		}
	}
	if best == "" {
		return ""
	}
	return "did you mean " + quote(best) + "?"
}

// fold makes case and separators count for nothing.
func fold(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '-' || r == '_' || r == ' ' {
			return -1
		}
		return unicode.ToLower(r)
	}, s)
}

// distance is the optimal string alignment distance: insertions, deletions,
// substitutions and swaps of neighbours.
func distance(a, b string) int {
	before, above := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range above {
		above[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row := make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(above[j]+1, row[j-1]+1, above[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, above = above, row
	}
	return above[len(b)]
}

// orHint returns the first hint that says something.
func orHint(hints ...string) string {
	for _, h := range hints {
		if h != "" {
			return h
		}
	}
	return ""
}
