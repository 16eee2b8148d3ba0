package model

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxDepth bounds how deep a document may nest.
const maxDepth = 64

// node is one JSON value with its place in the text.
type node struct {
	at    int // offset
	value any // string, json.Number, bool, nil; object and list below
	pairs []pair
	items []*node
	shape shape
}

type pair struct {
	name string
	at   int
	node *node
}

type shape string

const (
	object  shape = "an object"
	list    shape = "a list"
	text    shape = "a text"
	number  shape = "a number"
	boolean shape = "true or false"
	null    shape = "null"
)

// get returns the value of a key; nil where there is none, or it is null.
func (n *node) get(name string) *node {
	if n == nil {
		return nil
	}
	for _, p := range n.pairs {
		if p.name == name && p.node.shape != null {
			return p.node
		}
	}
	return nil
}

// plain is the value without places, for encoding/json.
func (n *node) plain() any {
	switch n.shape {
	case object:
		m := make(map[string]any, len(n.pairs))
		for _, p := range n.pairs {
			m[p.name] = p.node.plain()
		}
		return m
	case list:
		l := make([]any, len(n.items))
		for i, item := range n.items {
			l[i] = item.plain()
		}
		return l
	case text, number, boolean, null:
	}
	return n.value
}

// placeError is an error at an offset.
type placeError struct {
	at   int
	what string
}

func (e *placeError) Error() string { return e.what }

// reader builds nodes from a document.
type reader struct {
	data []byte
	dec  *json.Decoder
	end  int // of the token before
}

// read reads one document: exactly one value, UTF-8, no key twice.
func read(data []byte) (*node, error) {
	if !utf8.Valid(data) {
		at := 0
		for r, size := utf8.DecodeRune(data); r != utf8.RuneError || size > 1; r, size = utf8.DecodeRune(data[at:]) {
			at += size
		}
		return nil, &placeError{at, "is not UTF-8 here"}
	}
	r := &reader{data: data, dec: json.NewDecoder(bytes.NewReader(data))}
	r.dec.UseNumber()
	n, err := r.next(0)
	if err != nil {
		return nil, r.explain(err)
	}
	if _, err := r.dec.Token(); !errors.Is(err, io.EOF) {
		return nil, &placeError{r.start(), "something follows the document"}
	}
	return n, nil
}

func (r *reader) explain(err error) error {
	var place *placeError
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &place):
		return err
	case errors.As(err, &syntax):
		// Tokens and values count differently: the whole says where it is.
		var whole json.RawMessage
		if errors.As(json.Unmarshal(r.data, &whole), &syntax) && syntax.Offset < int64(len(r.data)) {
			return &placeError{max(int(syntax.Offset)-1, 0), syntax.Error()}
		}
		return &placeError{len(r.data), "ends too early"}
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return &placeError{len(r.data), "ends too early"}
	}
	return &placeError{r.end, err.Error()}
}

// start is where the token after the last one begins.
func (r *reader) start() int {
	at := r.end
	for at < len(r.data) && strings.IndexByte(" \t\r\n,:", r.data[at]) >= 0 {
		at++
	}
	return at
}

func (r *reader) token() (json.Token, int, error) {
	at := r.start()
	t, err := r.dec.Token()
	r.end = int(r.dec.InputOffset())
	return t, at, err
}

func (r *reader) next(depth int) (*node, error) {
	t, at, err := r.token()
	if err != nil {
		return nil, err
	}
	if depth > maxDepth {
		return nil, &placeError{at, fmt.Sprintf("nests deeper than %d", maxDepth)}
	}
	n := &node{at: at, value: t}
	switch t := t.(type) {
	case json.Delim:
		n.value = nil
		if t == '{' {
			n.shape = object
			return n, r.object(n, depth)
		}
		n.shape = list
		for r.dec.More() {
			item, err := r.next(depth + 1)
			if err != nil {
				return nil, err
			}
			n.items = append(n.items, item)
		}
		_, _, err = r.token()
		return n, err
	case string:
		n.shape = text
	case json.Number:
		n.shape = number
		if _, err := strconv.ParseFloat(string(t), 64); err != nil {
			return nil, &placeError{at, fmt.Sprintf("%.40s is too large a number", t)}
		}
	case bool:
		n.shape = boolean
	case nil:
		n.shape = null
	}
	return n, nil
}

func (r *reader) object(n *node, depth int) error {
	seen := map[string]bool{}
	for r.dec.More() {
		t, at, err := r.token()
		if err != nil {
			return err
		}
		name, ok := t.(string)
		if !ok {
			return &placeError{at, "a key must be a text"}
		}
		if seen[name] {
			return &placeError{at, fmt.Sprintf("the key %q stands there twice", name)}
		}
		seen[name] = true
		value, err := r.next(depth + 1)
		if err != nil {
			return err
		}
		n.pairs = append(n.pairs, pair{name, at, value})
	}
	_, _, err := r.token()
	return err
}

// place is the line and column of an offset, from 1; the column counts bytes.
func place(data []byte, at int) (line, column int) {
	at = min(at, len(data))
	before := data[:at]
	return bytes.Count(before, []byte("\n")) + 1, at - bytes.LastIndexByte(before, '\n')
}
