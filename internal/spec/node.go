package spec

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
)

// shape is what a node is.
type shape int

// The shapes. A void is a null, which was reported when it was read: whoever
// meets one says nothing more about it.
const (
	scalar shape = iota
	mapping
	sequence
	void
)

// node is one YAML node with its place. Nodes behind aliases are shared, so a
// tree may be walked but nodes are changed only by substitution, which treats
// each node once.
type node struct {
	shape  shape
	src    *source
	line   int
	column int

	tag   string // of a scalar: !!str, !!int, !!float, !!bool, !!timestamp
	text  string
	plain bool // written without quotes
	// filled says that an input was put in: then quotes do not make it text
	// only, because flow style needs them around ${NAME}.
	filled bool
	// unsafe names an input that was put in and that a shell would not take as
	// one plain word.
	unsafe string

	pairs []pair
	items []*node

	size, bytes, height int // of the tree below, aliases expanded
}

type pair struct{ key, value *node }

// get returns the value of a key, or nil.
func (n *node) get(key string) *node {
	if n == nil || n.shape != mapping {
		return nil
	}
	for _, p := range n.pairs {
		if p.key.text == key {
			return p.value
		}
	}
	return nil
}

// keys returns the mapping's keys in the order of the text.
// below follows a path of keys as far as there are some.
func (n *node) below(path string) *node {
	for key := range strings.SplitSeq(path, ".") {
		next := n.get(key)
		if next == nil {
			break
		}
		n = next
	}
	return n
}

func (n *node) keys() []string {
	keys := make([]string, 0, len(n.pairs))
	for _, p := range n.pairs {
		keys = append(keys, p.key.text)
	}
	return keys
}

// set returns the mapping's keys for many look-ups.
func (n *node) set() map[string]bool {
	keys := make(map[string]bool, len(n.pairs))
	for _, p := range n.pairs {
		keys[p.key.text] = true
	}
	return keys
}

// isText reports whether a scalar cannot be meant as a number or boolean.
func (n *node) isText() bool {
	return !n.filled && (!n.plain || n.tag == "!!str" || n.tag == "!!timestamp")
}

// String says what the node is, for messages.
func (n *node) String() string {
	switch n.shape {
	case mapping:
		return "a mapping"
	case sequence:
		return "a list"
	case void:
		return "null"
	case scalar:
	}
	switch {
	case !n.plain || n.filled:
		return "the text " + quote(n.text)
	case n.tag == "!!int" || n.tag == "!!float":
		return "the number " + quoteless(n.text)
	case n.tag == "!!bool":
		return "the boolean " + quoteless(n.text)
	}
	return "the text " + quote(n.text)
}

func quoteless(s string) string { return strings.Trim(quote(s), `"`) }

// join extends a path by a key, at extends it by an index.
func join(path, key string) string {
	const limit = 64
	if len(key) > limit {
		key = key[:limit] + "…"
	}
	for _, r := range key {
		if !isWord(r) && r != '-' {
			return path + "[" + quote(key) + "]"
		}
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

func at(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }

func isWord(r rune) bool {
	return r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
}

// locate finds the node that a path such as "file.hosts[2]" leads to from n,
// or the nearest node on the way.
func locate(n *node, path string) *node {
	for path != "" && n != nil {
		var next *node
		if rest, ok := strings.CutPrefix(path, "["); ok {
			index, tail, _ := strings.Cut(rest, "]")
			if i, err := strconv.Atoi(index); err == nil && n.shape == sequence && i >= 0 && i < len(n.items) {
				next = n.items[i]
			} else if key, err := strconv.Unquote(index); err == nil {
				next = n.get(key)
			}
			path = strings.TrimPrefix(tail, ".")
		} else {
			end := strings.IndexAny(path, ".[")
			if end < 0 {
				end = len(path)
			}
			next = n.get(path[:end])
			path = strings.TrimPrefix(path[end:], ".")
		}
		if next == nil {
			return n
		}
		n = next
	}
	return n
}

// badRune returns the first character that no specification may hold: control
// characters except tab and line ends, and the bidirectional controls that
// make a terminal show text in another order than it runs.
func badRune(s string) (rune, bool) {
	for _, r := range s {
		if r >= ' ' && r < 0x7f {
			continue
		}
		if r == '\n' || r == '\t' || r == '\r' {
			continue
		}
		if unicode.IsControl(r) || isBidi(r) {
			return r, true
		}
	}
	return 0, false
}

func isBidi(r rune) bool {
	return r >= 0x202A && r <= 0x202E || r >= 0x2066 && r <= 0x2069 || r == 0x200E || r == 0x200F || r == 0x061C
}

func badRuneMessage(r rune) string {
	if isBidi(r) {
		return fmt.Sprintf("the bidirectional control character U+%04X is not allowed: it makes text look like other text", r)
	}
	return fmt.Sprintf("the control character U+%04X is not allowed", r)
}

const badRuneHint = "remove it; content that needs it goes into a file of its own"

// badName says what is wrong with a name, or "".
func badName(s string) string {
	for i := range len(s) {
		c := rune(s[i])
		first := isWord(c) && c != '_'
		if !first && (i == 0 || c != '.' && c != '_' && c != '-') {
			return quote(s) + " is not a name"
		}
	}
	switch {
	case s == "":
		return "a name must not be empty"
	case len(s) > maxName:
		return fmt.Sprintf("%s is longer than %d characters", quote(s), maxName)
	}
	return ""
}

const nameHint = "a name begins with a letter or digit and holds letters, digits, '.', '_' and '-', 63 at most"

// badLabel says what is wrong with one line of free text (owner, version).
func badLabel(s string) string {
	if len(s) > maxLabel {
		return fmt.Sprintf("is longer than %d bytes", maxLabel)
	}
	for _, r := range s {
		if r == '\n' || r == '\r' || r == '\t' || !unicode.IsPrint(r) {
			return "must be one line of printable characters"
		}
	}
	return ""
}
