package spec

import (
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/backstay-dev/backstay"
)

// decoder puts nodes into Go values by the tags of their types. It reports
// every problem and goes on; err is set by a mistake in a kind's types.
type decoder struct {
	ps    *problems
	types map[reflect.Type]*fields
	refs  []reference
	err   error
}

// reference is a text that must name an entry of a section.
type reference struct {
	section string
	node    *node
	path    string
}

func newDecoder(ps *problems) *decoder {
	return &decoder{ps: ps, types: map[reflect.Type]*fields{}}
}

func (d *decoder) fields(t reflect.Type) *fields {
	if f, ok := d.types[t]; ok {
		return f
	}
	f, err := fieldsOf(t)
	if err != nil {
		d.broken(err)
		f = &fields{byName: map[string]int{}}
	}
	d.types[t] = f
	return f
}

func (d *decoder) broken(err error) {
	if d.err == nil {
		d.err = err
	}
}

// mismatch reports that a node has not the shape a field wants.
func (d *decoder) mismatch(n *node, path, want, hint string) {
	d.ps.add(n, path, "want "+want+", not "+n.String(), hint)
}

// value decodes n into v, which must be settable. f holds the tags of the
// field that v belongs to; it may be nil.
func (d *decoder) value(n *node, v reflect.Value, path string, f *field) {
	if n.shape == void {
		return
	}
	t := v.Type()
	switch customOf(t) {
	case byNode:
		v.Set(reflect.ValueOf(raw{n}))
		return
	case byJSON:
		d.viaJSON(n, v, path)
		return
	case byText:
		d.viaText(n, v, path, f)
		return
	case byReflection:
	}
	switch t.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(t.Elem()))
		d.value(n, v.Elem(), path, f)
	case reflect.Interface:
		if g, ok := d.generic(n, path, false); ok && g != nil {
			v.Set(reflect.ValueOf(g))
		}
	case reflect.Struct:
		d.structure(n, v, path, others{})
	case reflect.Map:
		d.mapping(n, v, path, f)
	case reflect.Slice:
		d.sequence(n, v, path, f)
	default:
		d.scalar(n, v, path, f)
	}
}

// others are the keys of a mapping that somebody else decodes.
type others struct {
	names []string
	any   bool // and all unknown ones
}

// structure decodes a mapping into a struct.
func (d *decoder) structure(n *node, v reflect.Value, path string, rest others) {
	if n.shape != mapping {
		d.mismatch(n, path, "a mapping", "its keys are: "+list(d.fields(v.Type()).names))
		return
	}
	fs := d.fields(v.Type())
	for _, p := range n.pairs {
		key := p.key.text
		f, ok := fs.get(key)
		switch {
		case ok:
			d.value(p.value, v.FieldByIndex(f.index), join(path, key), f)
		case rest.any || slices.Contains(rest.names, key):
		default:
			names := append(slices.Clone(fs.names), rest.names...)
			d.ps.add(p.key, join(path, key), "unknown key "+quote(key), orHint(d.ps.suggest(key, names), "the keys here are: "+list(names)))
		}
	}
	d.required(n, fs, path)
}

// required reports the required keys that are missing or empty.
func (d *decoder) required(n *node, fs *fields, path string) {
	for _, f := range fs.list {
		if !f.required {
			continue
		}
		hint := f.doc
		if f.example != "" {
			hint = strings.TrimSpace(hint + " For example: " + f.name + ": " + f.example)
		}
		switch value := n.get(f.name); {
		case value == nil:
			d.ps.add(n, path, "the key "+quote(f.name)+" is missing", hint)
		case value.shape == scalar && value.text == "",
			value.shape == sequence && len(value.items) == 0,
			value.shape == mapping && len(value.pairs) == 0 && f.typ.Kind() == reflect.Map:
			d.ps.add(value, join(path, f.name), "must not be empty", hint)
		}
	}
}

func (d *decoder) mapping(n *node, v reflect.Value, path string, f *field) {
	t := v.Type()
	if t.Key().Kind() != reflect.String {
		d.broken(fmt.Errorf("type %s: the keys of a map must be strings", t))
		return
	}
	if n.shape != mapping {
		d.mismatch(n, path, "a mapping", "write it as NAME: value, one per line")
		return
	}
	v.Set(reflect.MakeMapWithSize(t, len(n.pairs)))
	for _, p := range n.pairs {
		key := join(path, p.key.text)
		d.keyFormat(p.key, key, f)
		elem := reflect.New(t.Elem()).Elem()
		d.value(p.value, elem, key, element(f))
		v.SetMapIndex(reflect.ValueOf(p.key.text).Convert(t.Key()), elem)
	}
}

func (d *decoder) keyFormat(key *node, path string, f *field) {
	if f == nil {
		return
	}
	switch f.format {
	case "name":
		if message := badName(key.text); message != "" {
			d.ps.add(key, path, message, nameHint)
		}
	case "input":
		if !isInputName(key.text) {
			d.ps.add(key, path, quote(key.text)+" is not an input's name", inputNameHint)
		}
	}
}

// element is what of a list's or map's tags holds for its elements.
func element(f *field) *field {
	if f == nil || len(f.enum) == 0 && f.ref == "" {
		return nil
	}
	return &field{enum: f.enum, ref: f.ref}
}

func (d *decoder) sequence(n *node, v reflect.Value, path string, f *field) {
	if n.shape != sequence {
		hint := ""
		if n.shape == scalar {
			hint = "write it as a list: [" + quoteless(n.text) + "]"
		}
		d.mismatch(n, path, "a list", hint)
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(n.items), len(n.items)))
	ef := element(f)
	if f != nil && f.format == "name" {
		ef = &field{enum: f.enum, ref: f.ref, format: f.format}
	}
	for i, item := range n.items {
		d.value(item, v.Index(i), at(path, i), ef)
	}
}

// viaText decodes a scalar through encoding.TextUnmarshaler.
func (d *decoder) viaText(n *node, v reflect.Value, path string, f *field) {
	shapes := shapesOf(v.Type())
	text, ok := d.text(n, path, orHint(wants(shapes), "text"))
	if !ok || !d.tagged(n, path, f) {
		return
	}
	u, is := v.Addr().Interface().(encoding.TextUnmarshaler)
	if !is {
		return
	}
	if err := u.UnmarshalText([]byte(text)); err != nil {
		hint := ""
		if slices.Equal(shapes, []string{"duration"}) && allDigits(n.text) && len(n.text) < 10 {
			hint = "give it a unit: " + n.text + "s"
		}
		d.ps.add(n, path, err.Error(), hint)
	}
}

// viaJSON decodes a node through json.Unmarshaler.
func (d *decoder) viaJSON(n *node, v reflect.Value, path string) {
	shapes := shapesOf(v.Type())
	if _, script := v.Addr().Interface().(Sheller); script && n.shape == scalar && n.unsafe != "" {
		d.ps.add(n, path, "the value of ${"+n.unsafe+"} has characters that mean something to a shell",
			"pass it as a variable: `env: {"+n.unsafe+": \"${"+n.unsafe+"}\"}` and \"$"+n.unsafe+"\" in the script; or give a list of arguments, which no shell sees")
		return
	}
	if fields := mappingOf(v.Type()); fields != nil && n.shape == mapping {
		before := len(d.ps.list) + d.ps.more
		d.structure(n, reflect.New(fields).Elem(), path, others{})
		if len(d.ps.list)+d.ps.more > before {
			return
		}
	}
	g, ok := d.generic(n, path, onlyText(shapes))
	if !ok {
		return
	}
	u, is := v.Addr().Interface().(json.Unmarshaler)
	if !is {
		return
	}
	err := u.UnmarshalJSON(backstay.Canonical(g))
	if err == nil {
		return
	}
	hint := ""
	if len(shapes) > 0 {
		hint = "give " + wants(shapes)
	}
	var refused *backstay.RefusedError
	if errors.As(err, &refused) && len(refused.Problems) > 0 {
		for _, p := range refused.Problems {
			full := path
			if p.Path != "" && !strings.HasPrefix(p.Path, "[") {
				full += "."
			}
			d.ps.add(locate(n, p.Path), full+p.Path, p.Message, orHint(p.Hint, hint))
		}
		return
	}
	hint = orHint(backstay.HintOf(err), hint)
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) && len(shapes) > 0 {
		d.mismatch(n, path, wants(shapes), "")
		return
	}
	d.ps.add(n, path, strings.TrimPrefix(err.Error(), "json: "), hint)
}
