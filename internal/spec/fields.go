package spec

import (
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/backstay-dev/backstay"
)

// Shaper is what a type with its own UnmarshalJSON may implement to say which
// shapes it takes. Known words: string, strings, integer, number, boolean,
// duration, mapping, "map of strings". They stand in messages and the schema.
// A type that names only string shapes gets every plain scalar as its text, so
// that a list of arguments may hold 8080 without quotes.
type Shaper interface {
	SpecShape() []string
}

// Sheller is such a type whose text shape is a script for a shell. An input put
// into a script must be one plain word: anything else could become code.
type Sheller interface {
	SpecShell()
}

// Validator is what a step's config may implement to say, once it is decoded,
// what its keys mean together that they must not. Paths are relative to the step.
type Validator interface {
	SpecProblems() []backstay.Problem
}

// Fielder is what such a type may implement to describe its mapping shape: a
// pointer to a struct with the usual tags, checked before UnmarshalJSON runs.
type Fielder interface {
	SpecFields() any
}

// field is one key of a struct, from its tags.
type field struct {
	name     string
	index    []int
	typ      reflect.Type
	doc      string
	example  string
	enum     []string
	ref      string // must name an entry of this top-level section
	format   string // "name", "input": what the text (or a map's keys) must look like
	required bool
}

// fields are the keys of a struct in the order of its declaration.
type fields struct {
	list   []field
	byName map[string]int
	names  []string
}

func (f *fields) get(name string) (*field, bool) {
	i, ok := f.byName[name]
	if !ok {
		return nil, false
	}
	return &f.list[i], true
}

// fieldsOf reads a struct's tags. An error is a mistake in the type.
func fieldsOf(t reflect.Type) (*fields, error) {
	all := &fields{byName: map[string]int{}}
	if err := all.collect(t, nil); err != nil {
		return nil, err
	}
	for i, f := range all.list {
		if _, twice := all.byName[f.name]; twice {
			return nil, fmt.Errorf("type %s: key %q is declared twice", t, f.name)
		}
		all.byName[f.name] = i
		all.names = append(all.names, f.name)
	}
	return all, nil
}

func (f *fields) collect(t reflect.Type, prefix []int) error {
	for i := range t.NumField() {
		sf := t.Field(i)
		name, options, _ := strings.Cut(sf.Tag.Get("yaml"), ",")
		index := append(slices.Clone(prefix), i)
		inline := slices.Contains(strings.Split(options, ","), "inline") || sf.Anonymous && name == ""
		switch {
		case inline && sf.Type.Kind() == reflect.Struct:
			if err := f.collect(sf.Type, index); err != nil {
				return err
			}
			continue
		case inline:
			return fmt.Errorf("type %s: inline field %s is not a struct", t, sf.Name)
		case !sf.IsExported() || name == "-":
			continue
		case name == "":
			return fmt.Errorf("type %s: field %s has no yaml tag", t, sf.Name)
		}
		fd := field{
			name: name, index: index, typ: sf.Type,
			doc: sf.Tag.Get("doc"), example: sf.Tag.Get("example"),
			ref: sf.Tag.Get("ref"), format: sf.Tag.Get("format"),
			required: sf.Tag.Get("required") == "true",
		}
		if enum := sf.Tag.Get("enum"); enum != "" {
			fd.enum = strings.Split(enum, ",")
		}
		f.list = append(f.list, fd)
	}
	return nil
}

// custom says how a type decodes itself, if it does.
type custom int

const (
	byReflection custom = iota
	byNode              // *raw: keeps the node
	byJSON              // json.Unmarshaler
	byText              // encoding.TextUnmarshaler
)

func customOf(t reflect.Type) custom {
	p := reflect.PointerTo(t)
	switch {
	case t == reflect.TypeFor[raw]():
		return byNode
	case p.Implements(reflect.TypeFor[json.Unmarshaler]()):
		return byJSON
	case p.Implements(reflect.TypeFor[encoding.TextUnmarshaler]()):
		return byText
	}
	return byReflection
}

// raw is a field that keeps its node for code that knows better what it means.
// The schema and the reference text describe such fields by name.
type raw struct{ node *node }

// shapesOf returns the shapes that a type says it takes.
func shapesOf(t reflect.Type) []string {
	if t == reflect.TypeFor[backstay.Duration]() {
		return []string{"duration"}
	}
	if s, ok := reflect.New(t).Interface().(Shaper); ok {
		return s.SpecShape()
	}
	return nil
}

// mappingOf returns the struct that describes a type's mapping shape, or nil.
func mappingOf(t reflect.Type) reflect.Type {
	f, ok := reflect.New(t).Interface().(Fielder)
	if !ok {
		return nil
	}
	p := reflect.TypeOf(f.SpecFields())
	if p == nil || p.Kind() != reflect.Pointer || p.Elem().Kind() != reflect.Struct {
		return nil
	}
	return p.Elem()
}

// onlyText reports whether shapes name nothing but text.
func onlyText(shapes []string) bool {
	for _, s := range shapes {
		switch s {
		case "string", "strings", "duration", "map of strings":
		default:
			return false
		}
	}
	return len(shapes) > 0
}

// wants is how messages say what a field takes.
func wants(shapes []string) string {
	words := make([]string, 0, len(shapes))
	for _, s := range shapes {
		switch s {
		case "string":
			s = "text"
		case "strings":
			s = "a list of texts"
		case "integer":
			s = "an integer"
		case "duration":
			s = "a duration such as 30s, 5m or 2h"
		default:
			s = "a " + s
		}
		words = append(words, s)
	}
	return strings.Join(words, " or ")
}
