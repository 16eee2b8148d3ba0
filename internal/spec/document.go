package spec

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// compose turns the bytes of one YAML document into a node tree, reporting
// everything about the text itself: encoding, limits, duplicate keys, nulls,
// tags, merge keys. It returns nil where there is no tree to go on with.
func compose(src *source, ps *problems) *node {
	data, ok := readable(src, ps)
	if !ok {
		return nil
	}
	root := load(src, data, ps)
	if root == nil {
		return nil
	}
	c := &composer{src: src, ps: ps, done: map[*yaml.Node]*node{}}
	n := c.node(root, "", 1)
	if c.stopped {
		return nil
	}
	return n
}

// readable checks the raw bytes and returns them without a byte order mark.
func readable(src *source, ps *problems) ([]byte, bool) {
	data := src.data
	if len(data) > maxFile {
		src.data = nil // nothing of it is worth showing
		ps.at(src, 0, 0, "", fmt.Sprintf("the file is larger than %d KiB", maxFile>>10), "put large content into files of its own")
		return nil, false
	}
	data = bytes.TrimPrefix(data, []byte("\xEF\xBB\xBF"))
	src.data = data
	marks, line, column, bad := 0, 1, 1, false
	for i := 0; i < len(data); {
		r, size := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && size <= 1 {
			ps.at(src, line, column, "", "the file is not UTF-8", "save it in the encoding UTF-8")
			return nil, false
		}
		if r == '\n' || r < 0x7f && r >= ' ' || r == '\t' {
			if r == ',' || r == '[' || r == '{' || r == '?' {
				marks++
			}
		} else if r != '\r' || i+1 == len(data) || data[i+1] != '\n' {
			if _, is := badRune(string(r)); is || r == '\r' {
				ps.at(src, line, column, "", badRuneMessage(r), badRuneHint)
				bad = true
			}
		}
		i += size
		column++
		if r == '\n' {
			line, column = line+1, 1
		}
	}
	if marks > maxMarks {
		ps.at(src, 0, 0, "", fmt.Sprintf("the file holds more than %d of the characters , [ { ?", maxMarks), "put large content into files of its own")
		return nil, false
	}
	return data, !bad
}

// load parses the text. The parser is a library: a panic of it is reported
// like any other text that cannot be read.
func load(src *source, data []byte, ps *problems) (root *yaml.Node) {
	defer func() {
		if r := recover(); r != nil {
			ps.at(src, 1, 1, "", fmt.Sprintf("this is not YAML: %v", r), "")
			root = nil
		}
	}()
	loader, err := yaml.NewLoader(bytes.NewReader(data), yaml.WithPlugin(depthLimit{}))
	if err != nil {
		ps.at(src, 1, 1, "", "this is not YAML: "+err.Error(), "")
		return nil
	}
	var doc, second yaml.Node
	if err := loader.Load(&doc); err != nil {
		syntax(src, ps, err)
		return nil
	}
	switch err := loader.Load(&second); {
	case err == nil:
		ps.at(src, second.Line, max(second.Column, 1), "", "a second YAML document begins here", "keep one document per file; remove the line ---")
		return nil
	case !errors.Is(err, io.EOF):
		syntax(src, ps, err)
		return nil
	}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 {
		ps.at(src, 1, 1, "", "the file is empty", "run `backstay init` for a first one")
		return nil
	}
	return doc.Content[0]
}

// depthLimit stops the parser itself; aliases are composer's to bound.
type depthLimit struct{}

func (depthLimit) CheckDepth(depth int, _ *yaml.DepthContext) error {
	if depth > maxDepth {
		return fmt.Errorf("nested deeper than %d levels", maxDepth)
	}
	return nil
}

func (depthLimit) CheckAlias(int, int) error { return nil }

var _ yaml.LoaderLimitsPlugin = depthLimit{}

func syntax(src *source, ps *problems, err error) {
	if errors.Is(err, io.EOF) {
		ps.at(src, 1, 1, "", "the file is empty", "run `backstay init` for a first one")
		return
	}
	line, column, message := 1, 1, err.Error()
	var le *yaml.LoadError
	if errors.As(err, &le) {
		message = le.Message
		if le.ContextMsg != "" {
			message = le.ContextMsg + ": " + message
			if le.ContextMark.Line > 0 && le.ContextMark.Line < le.Mark.Line {
				message += fmt.Sprintf(" (it begins on line %d)", le.ContextMark.Line)
			}
		}
		for _, mark := range []yaml.Mark{le.ContextMark, le.Mark} {
			if mark.Line > 0 {
				line, column = mark.Line, max(mark.Column, 1)
			}
		}
	}
	hint := ""
	switch {
	case strings.Contains(message, "mapping values are not allowed"):
		hint = "quote the text if it holds ': '"
	case strings.Contains(message, "cannot start any token"), strings.Contains(message, "tab character"):
		hint = "indent with spaces, not tabs; quote text that begins with @, ` or %"
	case strings.Contains(message, "nested deeper"):
		hint = "flatten it"
	}
	ps.at(src, line, column, "", "this is not YAML: "+message, hint)
}

// composer converts the library's nodes, expanding aliases by sharing.
type composer struct {
	src     *source
	ps      *problems
	done    map[*yaml.Node]*node // nil while a node is being converted
	aliases int
	stopped bool
}

// stop reports a limit; nothing more is read.
func (c *composer) stop(y *yaml.Node, path, message, hint string) {
	if !c.stopped {
		c.ps.at(c.src, y.Line, y.Column, path, message, hint)
		c.stopped = true
	}
}

func (c *composer) node(y *yaml.Node, path string, depth int) *node {
	if y.Kind == yaml.AliasNode {
		return c.alias(y, path, depth)
	}
	n := &node{src: c.src, line: y.Line, column: y.Column, size: 1, height: 1, bytes: len(y.Value)}
	if c.stopped {
		return n
	}
	if depth > maxDepth {
		c.stop(y, path, fmt.Sprintf("nested deeper than %d levels", maxDepth), "flatten it")
		return n
	}
	if y.Style&yaml.TaggedStyle != 0 || y.Tag == "!" {
		c.ps.at(c.src, y.Line, y.Column, path, "the tag "+quoteless(y.Tag)+" is not allowed", "remove the tag; the key decides the type")
	}
	c.done[y] = nil
	switch y.Kind {
	case yaml.MappingNode:
		n.shape = mapping
		c.mapping(n, y, path, depth)
	case yaml.SequenceNode:
		n.shape = sequence
		n.items = make([]*node, 0, len(y.Content))
		for i, item := range y.Content {
			child := c.node(item, at(path, i), depth+1)
			n.items = append(n.items, child)
			c.grow(n, child, item, path)
		}
	default:
		c.scalar(n, y, path)
	}
	c.done[y] = n
	return n
}

// grow adds a child's expanded size to its parent's and checks the limits.
func (c *composer) grow(n, child *node, y *yaml.Node, path string) {
	n.size += child.size
	n.bytes += child.bytes
	n.height = max(n.height, child.height+1)
	if n.size > maxNodes {
		c.stop(y, path, fmt.Sprintf("the file expands to more than %d values", maxNodes), "use fewer or smaller aliases")
	}
	if n.bytes > maxText {
		c.stop(y, path, fmt.Sprintf("the file expands to more than %d MiB of text", maxText>>20), "use fewer or smaller aliases")
	}
}

func (c *composer) alias(y *yaml.Node, path string, depth int) *node {
	c.aliases++
	target, known := c.done[y.Alias]
	empty := &node{shape: void, src: c.src, line: y.Line, column: y.Column, size: 1, height: 1}
	switch {
	case c.stopped, !known: // of a pair that was refused
	case c.aliases > maxAliases:
		c.stop(y, path, fmt.Sprintf("more than %d aliases", maxAliases), "use fewer aliases")
	case target == nil:
		c.ps.at(c.src, y.Line, y.Column, path, "the alias *"+quoteless(y.Value)+" contains itself", "remove it")
	case depth+target.height-1 > maxDepth:
		c.stop(y, path, fmt.Sprintf("nested deeper than %d levels", maxDepth), "flatten it")
	default:
		return target
	}
	return empty
}

func (c *composer) mapping(n *node, y *yaml.Node, path string, depth int) {
	seen := make(map[string]int, len(y.Content)/2)
	for i := 0; i+1 < len(y.Content); i += 2 {
		k, v := y.Content[i], y.Content[i+1]
		key := k
		if k.Kind == yaml.AliasNode && k.Alias != nil {
			key = k.Alias
		}
		if !c.key(k, key, path) {
			continue
		}
		name := join(path, key.Value)
		if line, twice := seen[key.Value]; twice {
			c.ps.at(c.src, k.Line, k.Column, name, "the key "+quote(key.Value)+fmt.Sprintf(" is already on line %d", line), "remove one of them")
			continue
		}
		seen[key.Value] = k.Line
		kn := &node{src: c.src, line: k.Line, column: k.Column, tag: "!!str", text: key.Value, size: 1, height: 1, bytes: len(key.Value)}
		c.done[k] = kn
		vn := c.node(v, name, depth+1)
		n.pairs = append(n.pairs, pair{kn, vn})
		c.grow(n, kn, k, name)
		c.grow(n, vn, v, name)
		if c.stopped {
			return
		}
	}
}

// key checks a mapping's key and reports whether its pair is to be read.
func (c *composer) key(place, key *yaml.Node, path string) bool {
	message, hint := "", ""
	switch {
	case key.Kind != yaml.ScalarNode:
		message, hint = "a key must be plain text", "write the key as a word"
	case key.Tag == "!!merge":
		message, hint = "the merge key << is not allowed", "write the keys out, or put shared ones into an environment's overlay"
	case key.Style&yaml.TaggedStyle != 0 || key.Tag == "!":
		message, hint = "the tag "+quoteless(key.Tag)+" is not allowed", "remove the tag"
	case key.Tag == "!!null":
		message, hint = "a key must not be null", "write the key as a word"
	default:
		r, bad := badRune(key.Value)
		if i := strings.IndexAny(key.Value, "\n\r\t"); i >= 0 {
			r, bad = rune(key.Value[i]), true
		}
		if !bad {
			return true
		}
		message, hint = badRuneMessage(r), "write the key as a word"
	}
	c.ps.at(c.src, place.Line, place.Column, path, message, hint)
	return false
}

func (c *composer) scalar(n *node, y *yaml.Node, path string) {
	n.tag, n.text = y.Tag, y.Value
	n.plain = y.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) == 0
	if y.Tag == "!!null" && y.Style&yaml.TaggedStyle == 0 {
		n.shape = void
		message := "null is not a value"
		if y.Value == "" {
			message = "the value is missing"
		}
		c.ps.at(c.src, y.Line, y.Column, path, message, "remove the key or give a value")
		return
	}
	if r, bad := badRune(n.text); bad {
		c.ps.at(c.src, y.Line, y.Column, path, badRuneMessage(r), badRuneHint)
	}
}
