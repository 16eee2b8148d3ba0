package model

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/backstay-dev/backstay"
)

// Kind is what a definition defines.
type Kind string

// The kinds of definition.
const (
	FlagKind    Kind = "flag"
	SegmentKind Kind = "segment"
)

// MaxSize is the largest text of one definition.
const MaxSize = 1 << 20

// Definition is one flag or segment in LaunchDarkly's JSON, checked and
// canonical: keys sorted, without its version, which is the store's.
type Definition struct {
	Kind Kind
	Key  string
	JSON json.RawMessage
}

// StoreKey is its key in the ledger.
func (d Definition) StoreKey() backstay.Key { return StoreKey(d.Kind, d.Key) }

// StoreKey is the key of a flag or segment in the ledger.
func StoreKey(kind Kind, key string) backstay.Key { return backstay.Key(string(kind) + ":" + key) }

var keyFormat = regexp.MustCompile(`^[A-Za-z0-9._-]{1,256}$`)

// CheckKey says why a text is no key; "": it is one.
func CheckKey(key string) string {
	if !keyFormat.MatchString(key) || strings.Trim(key, ".") == "" {
		return fmt.Sprintf("%q is not a key: letters, digits, '.', '_' and '-', at most 256", key)
	}
	return ""
}

// Source is a text with definitions and how it is to be read.
type Source struct {
	File string // for messages
	Data []byte
	// Imported keeps what it does not know, and says so in a warning, as other
	// systems add keys of their own. Otherwise an unknown key is refused.
	Imported bool
	// Known looks up definitions that are there already, for references to
	// them; nil: only those of the same text are known.
	Known func(kind Kind, key string) (json.RawMessage, bool)
}

// Warning is what is odd about a definition and no reason to refuse it.
type Warning = backstay.Problem

// Parse reads one definition. key, where it is not empty, must be the key in it, and
// stands for it where it has none. Malformed ones are a *backstay.RefusedError
// with all problems, each with its place.
func Parse(kind Kind, key string, src Source) (Definition, []Warning, error) {
	root, err := src.root()
	if err != nil {
		return Definition{}, nil, err
	}
	c := newChecker(src)
	d := c.definition(kind, key, root, "")
	c.references([]checked{{d, root, ""}})
	return d, c.warnings, c.err()
}

// ParseAll reads a file of definitions: {"flags": {…}, "segments": {…}} as
// LaunchDarkly's SDKs receive and export it, the same below "data", also with
// "flagValues".
func ParseAll(src Source) ([]Definition, []Warning, error) {
	root, err := src.root()
	if err != nil {
		return nil, nil, err
	}
	c := newChecker(src)
	if data := root.get("data"); data != nil && root.get("flags") == nil {
		root = data
	}
	var all []checked
	each := func(section string, read func(p pair, path string)) {
		n := root.get(section)
		if n == nil || !c.is(n, object, section) {
			return
		}
		for _, p := range n.pairs {
			read(p, section+"."+p.name)
		}
	}
	each("flags", func(p pair, path string) {
		all = append(all, checked{c.definition(FlagKind, p.name, p.node, path), p.node, path})
	})
	each("segments", func(p pair, path string) {
		all = append(all, checked{c.definition(SegmentKind, p.name, p.node, path), p.node, path})
	})
	each("flagValues", func(p pair, path string) { all = append(all, checked{c.simple(p, path), nil, path}) })
	if len(all) == 0 && len(c.problems) == 0 {
		c.refuse(root, "", "holds neither flags nor segments", `the file looks like {"flags": {"KEY": {…}}, "segments": {…}}`)
	}
	c.references(all)
	out := make([]Definition, len(all))
	for i, a := range all {
		out[i] = a.Definition
	}
	return out, c.warnings, c.err()
}

func (src Source) root() (*node, error) {
	data := src.Data
	refused := func(at int, what string) error {
		line, column := place(data, at)
		return &backstay.RefusedError{What: "flag", Problems: []backstay.Problem{{File: src.File, Line: line, Column: column, Message: what}}}
	}
	if bytes.HasPrefix(data, []byte("\ufeff")) {
		return nil, refused(0, "begins with a byte order mark: save it without")
	}
	root, err := read(data)
	var bad *placeError
	switch {
	case errors.As(err, &bad):
		return nil, refused(bad.at, bad.what)
	case root.shape != object:
		return nil, refused(root.at, "is "+string(root.shape)+", want an object")
	}
	return root, nil
}

// simple is the definition of a flag that has one value for everybody.
func (c *checker) simple(p pair, path string) Definition {
	if why := CheckKey(p.name); why != "" {
		c.refuseAt(p.at, path, why, "")
	}
	return Definition{Kind: FlagKind, Key: p.name, JSON: backstay.Canonical(map[string]any{
		"key": p.name, "on": true, "variations": []any{p.node.plain()}, "fallthrough": map[string]any{"variation": 0}, "offVariation": 0, "salt": "",
	})}
}

// checked is a definition with the node it was read from.
type checked struct {
	Definition
	node *node
	path string
}

// definition checks one definition and makes it canonical.
func (c *checker) definition(kind Kind, key string, n *node, path string) Definition {
	d := Definition{Kind: kind, Key: key}
	if !c.is(n, object, path) {
		return d
	}
	own := n.get("key")
	switch {
	case own != nil && !c.is(own, text, join(path, "key")):
	case own != nil && key != "" && own.value != key:
		c.refuse(own, join(path, "key"), fmt.Sprintf("is %q, and the definition stands under %q", own.value, key), "use one of them")
	case own != nil:
		d.Key, _ = own.value.(string)
	case key == "":
		c.refuse(n, path, "has no key", `add "key": "…"`)
	}
	if why := CheckKey(d.Key); why != "" && (own != nil || key != "") {
		if own == nil {
			own = n
		}
		c.refuse(own, join(path, "key"), why, "")
	}
	switch kind {
	case SegmentKind:
		c.segment(n, path)
	case FlagKind:
		c.flag(n, path)
	}
	plain, ok := n.plain().(map[string]any)
	if !ok {
		return d
	}
	delete(plain, "version")
	plain["key"] = d.Key
	d.JSON = backstay.Canonical(plain)
	if len(d.JSON) > MaxSize {
		c.refuse(n, path, fmt.Sprintf("is %d bytes long, more than %d", len(d.JSON), MaxSize), "put lists of users into a segment")
	}
	return d
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// references checks what definitions say of one another.
func (c *checker) references(all []checked) {
	here := map[string]json.RawMessage{}
	for _, d := range all {
		here[string(d.StoreKey())] = d.JSON
	}
	find := func(kind Kind, key string) (json.RawMessage, bool) {
		if raw, ok := here[string(StoreKey(kind, key))]; ok {
			return raw, true
		}
		if c.src.Known == nil {
			return nil, false
		}
		return c.src.Known(kind, key)
	}
	g := graph{find: find, state: map[string]int{}}
	for _, d := range all {
		if d.node == nil {
			continue
		}
		c.segmentsOf(d, find)
		if d.Kind != FlagKind {
			continue
		}
		for i, p := range items(d.node.get("prerequisites")) {
			c.prerequisite(p, fmt.Sprintf("%s[%d]", join(d.path, "prerequisites"), i), find)
		}
		if loop := g.loop(d.Key); loop != nil {
			c.refuse(d.node, join(d.path, "prerequisites"), "is a prerequisite of itself: "+strings.Join(loop, " → "), "take one of them out")
		}
	}
}

func items(n *node) []*node {
	if n == nil {
		return nil
	}
	return n.items
}

func (c *checker) prerequisite(p *node, path string, find func(Kind, string) (json.RawMessage, bool)) {
	key := p.get("key")
	if key == nil || key.shape != text {
		return // was said
	}
	name, _ := key.value.(string)
	raw, ok := find(FlagKind, name)
	if !ok {
		c.refuse(key, path+".key", fmt.Sprintf("there is no flag %q", name), "import it with this one, or before it")
		return
	}
	var other struct {
		Variations []json.RawMessage `json:"variations"`
	}
	if json.Unmarshal(raw, &other) == nil {
		c.index(p.get("variation"), path+".variation", len(other.Variations))
	}
}

// segmentsOf checks that the segments which clauses name are there.
func (c *checker) segmentsOf(d checked, find func(Kind, string) (json.RawMessage, bool)) {
	for i, rule := range items(d.node.get("rules")) {
		for j, clause := range items(rule.get("clauses")) {
			if op := clause.get("op"); op == nil || op.value != "segmentMatch" {
				continue
			}
			for _, v := range items(clause.get("values")) {
				name, _ := v.value.(string)
				if _, ok := find(SegmentKind, name); !ok && v.shape == text {
					c.refuse(v, fmt.Sprintf("%s[%d].clauses[%d].values", join(d.path, "rules"), i, j), fmt.Sprintf("there is no segment %q", name), "import it with this one, or before it")
				}
			}
		}
	}
}

// graph finds flags that are prerequisites of themselves.
type graph struct {
	find  func(Kind, string) (json.RawMessage, bool)
	state map[string]int // 1: on the way, 2: done
	way   []string
}

func (g *graph) loop(key string) []string {
	switch g.state[key] {
	case 1:
		return append(slices.Clone(g.way[slices.Index(g.way, key):]), key)
	case 2:
		return nil
	}
	g.state[key] = 1
	g.way = append(g.way, key)
	defer func() { g.way, g.state[key] = g.way[:len(g.way)-1], 2 }()
	raw, ok := g.find(FlagKind, key)
	if !ok {
		return nil
	}
	var d struct {
		Prerequisites []struct {
			Key string `json:"key"`
		} `json:"prerequisites"`
	}
	if json.Unmarshal(raw, &d) != nil {
		return nil
	}
	for _, p := range d.Prerequisites {
		if loop := g.loop(p.Key); loop != nil {
			return loop
		}
	}
	return nil
}

// Names reports whether the definition refers to a flag or segment.
func (d Definition) Names(kind Kind, key string) bool {
	var doc struct {
		Prerequisites []struct {
			Key string `json:"key"`
		} `json:"prerequisites"`
		Rules []struct {
			Clauses []struct {
				Op     string `json:"op"`
				Values []any  `json:"values"`
			} `json:"clauses"`
		} `json:"rules"`
	}
	if json.Unmarshal(d.JSON, &doc) != nil {
		return false
	}
	for _, p := range doc.Prerequisites {
		if kind == FlagKind && p.Key == key {
			return true
		}
	}
	for _, r := range doc.Rules {
		for _, c := range r.Clauses {
			if kind == SegmentKind && c.Op == "segmentMatch" && slices.Contains(c.Values, any(key)) {
				return true
			}
		}
	}
	return false
}
