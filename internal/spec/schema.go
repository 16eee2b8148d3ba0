package spec

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/backstay-dev/backstay"
)

// SchemaID is the address under which the schema is known.
const SchemaID = "https://backstay.dev/schema/v1/backstay.json"

type object = map[string]any

// Schema returns the JSON Schema (2020-12) of backstay.yaml with these kinds,
// made from the structs that the file is decoded into. An editor completes and
// documents keys by it. It is weaker than Parse: it knows no references, names
// used twice, or numbers that are ambiguous.
func Schema(kinds Kinds) ([]byte, error) {
	kinds = withRelease(kinds)
	s := &schemaMaker{defs: object{}, d: newDecoder(&problems{}), names: map[reflect.Type]string{}}
	s.base()
	root := s.structure(reflect.TypeFor[rootKeys]())
	root["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	root["$id"] = SchemaID
	root["title"] = "backstay.yaml"
	props, _ := root["properties"].(object)

	steps := s.kinds("step", "step", kinds.Names(), kinds.Config, reflect.TypeFor[stepKeys]())
	s.defs["step"] = object{"oneOf": steps}
	group := s.structure(reflect.TypeFor[groupKeys]())
	s.property(group, "parallel", object{"type": "array", "minItems": 1, "items": ref("step")})
	s.defs["group"] = group
	stage := s.structure(reflect.TypeFor[stageKeys]())
	s.property(stage, "steps", object{"type": "array", "minItems": 1, "items": object{"oneOf": append(slices.Clone(steps), ref("group"))}})
	s.defs["stage"] = stage
	s.property(root, "steps", object{"type": "array", "minItems": 1, "items": object{"oneOf": append(slices.Clone(steps), ref("group"), ref("stage"))}})
	s.property(root, "verify", object{"type": "array", "items": object{
		"oneOf": s.kinds("check", "check", kinds.CheckNames(), kinds.CheckConfig, reflect.TypeFor[checkKeys]()),
	}})
	s.property(root, "gates", object{
		"type": "object", "propertyNames": object{"pattern": `^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`},
		"additionalProperties": object{"oneOf": s.kinds("gate", "check", kinds.CheckNames(), kinds.CheckConfig, reflect.TypeFor[gateKeys]())},
	})
	mitigation := s.structure(reflect.TypeFor[mitigationKeys]())
	for list, items := range map[string][]any{"cell": {ref("group")}, "steps": {ref("group"), ref("stage")}} {
		s.property(mitigation, list, object{"type": "array", "minItems": 1, "items": object{"oneOf": append(slices.Clone(steps), items...)}})
	}
	s.property(mitigation, "verify", object{"type": "array", "items": object{
		"oneOf": s.kinds("check", "check", kinds.CheckNames(), kinds.CheckConfig, reflect.TypeFor[checkKeys]()),
	}})
	s.defs["mitigation"] = mitigation
	s.property(root, "mitigations", object{
		"type": "object", "propertyNames": object{"pattern": `^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`}, "additionalProperties": ref("mitigation"),
	})
	sections := kinds.Sections()
	for _, name := range slices.Sorted(maps.Keys(sections)) {
		t := reflect.TypeOf(sections[name])
		if t == nil || t.Kind() != reflect.Pointer || t.Elem().Kind() != reflect.Struct {
			return nil, fmt.Errorf("section %s: an entry must be a pointer to a struct", name)
		}
		props[name] = s.describe(s.mapOf(t.Elem(), &field{format: "name"}), &field{doc: "The " + name + ", by name."})
	}
	root["$defs"] = s.defs
	if s.d.err != nil {
		return nil, fmt.Errorf("make the schema: %w", s.d.err)
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(root); err != nil {
		return nil, fmt.Errorf("make the schema: %w", err)
	}
	return b.Bytes(), nil
}

type schemaMaker struct {
	defs  object
	d     *decoder
	names map[reflect.Type]string // definitions of structs
}

func ref(name string) object { return object{"$ref": "#/$defs/" + name} }

// base defines the scalars. Each may be an input, which is text in YAML.
func (s *schemaMaker) base() {
	s.defs["input"] = object{"type": "string", "pattern": `\$\{[A-Z][A-Z0-9_]*\}`}
	s.defs["text"] = object{"type": []any{"string", "number", "boolean"}}
	s.defs["integer"] = object{"anyOf": []any{object{"type": "integer"}, ref("input")}}
	s.defs["number"] = object{"anyOf": []any{object{"type": "number"}, ref("input")}}
	s.defs["boolean"] = object{"anyOf": []any{object{"type": "boolean"}, ref("input")}}
	s.defs["duration"] = object{
		"type":     "string",
		"pattern":  `^(\+?[0-9]+d)?(\+?([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))*$|^\+?0$|\$\{`,
		"examples": []any{"30s", "5m", "2h", "14d"},
	}
	s.defs["name"] = object{"anyOf": []any{
		object{"type": "string", "pattern": `^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`},
		object{"type": "number"},
		object{"type": "boolean"},
		ref("input"),
	}}
	s.defs["needs"] = object{"type": "array", "items": ref("text"), "uniqueItems": true}
}

// property replaces a property's schema and keeps its description.
func (s *schemaMaker) property(in object, name string, schema object) {
	props, _ := in["properties"].(object)
	if old, ok := props[name].(object); ok && old["description"] != nil {
		schema["description"] = old["description"]
	}
	props[name] = schema
}

// kinds defines one object per kind and returns references to them.
func (s *schemaMaker) kinds(prefix, what string, names []string, config func(string) (any, bool), common reflect.Type) []any {
	var refs []any
	for _, name := range names {
		c, _ := config(name)
		t := reflect.TypeOf(c)
		if t == nil || t.Kind() != reflect.Pointer || t.Elem().Kind() != reflect.Struct {
			s.d.broken(fmt.Errorf("kind %s: a config must be a pointer to a struct, not %T", name, c))
			continue
		}
		var own object
		if s.d.isFlat(t.Elem(), name) {
			own = s.structure(t.Elem())
		} else {
			below := s.typ(t.Elem(), nil)
			below["description"] = "The keys of " + article(name) + " " + what + "."
			own = object{"type": "object", "properties": object{name: below}, "additionalProperties": false}
		}
		props, _ := own["properties"].(object)
		shared, _ := s.structure(common)["properties"].(object)
		for key, schema := range shared {
			if _, mine := props[key]; !mine {
				props[key] = schema
			}
		}
		required, _ := own["required"].([]string)
		if !slices.Contains(required, name) {
			own["required"] = append([]string{name}, required...)
		}
		own["title"] = article(name) + " " + what
		s.defs[prefix+"."+name] = own
		refs = append(refs, ref(prefix+"."+name))
	}
	return refs
}

// structure is the closed object of a struct's keys.
func (s *schemaMaker) structure(t reflect.Type) object {
	props := object{}
	required := []string{}
	for _, f := range s.d.fields(t).list {
		props[f.name] = s.describe(s.typ(f.typ, &f), &f)
		if f.required {
			required = append(required, f.name)
		}
	}
	o := object{"type": "object", "properties": props, "additionalProperties": false}
	if len(required) > 0 {
		o["required"] = required
	}
	return o
}

// describe adds a field's doc and example to its schema.
func (s *schemaMaker) describe(schema object, f *field) object {
	if f.doc != "" {
		schema["description"] = f.doc
	}
	if f.example != "" {
		schema["examples"] = []any{exampleValue(f.example)}
	}
	return schema
}

// exampleValue reads an example as YAML would, so that editors insert a list
// as a list.
func exampleValue(text string) any {
	ps := &problems{}
	n := compose(newSource("example", orderBase, []byte(text)), ps)
	if n == nil {
		return text
	}
	v, ok := newDecoder(ps).generic(n, "", false)
	if !ok || !ps.none() {
		return text
	}
	return v
}

func (s *schemaMaker) typ(t reflect.Type, f *field) object {
	switch customOf(t) {
	case byNode:
		if f != nil && f.name == "needs" {
			return ref("needs")
		}
		return object{}
	case byJSON, byText:
		return s.shapes(t, f)
	case byReflection:
	}
	switch t.Kind() {
	case reflect.Pointer:
		return s.typ(t.Elem(), f)
	case reflect.Struct:
		return s.named(t)
	case reflect.Map:
		return s.mapOf(t.Elem(), f)
	case reflect.Slice:
		return s.required(object{"type": "array", "items": s.typ(t.Elem(), element(f))}, f, "minItems")
	case reflect.String:
		return s.text(f)
	case reflect.Bool:
		return ref("boolean")
	case reflect.Float32, reflect.Float64:
		return ref("number")
	case reflect.Interface:
		return object{}
	default:
		return ref("integer")
	}
}

// required forbids the empty value of a required field.
func (s *schemaMaker) required(schema object, f *field, keyword string) object {
	if f != nil && f.required {
		schema[keyword] = 1
	}
	return schema
}

func (s *schemaMaker) text(f *field) object {
	switch {
	case f == nil:
		return ref("text")
	case len(f.enum) > 0:
		return object{"anyOf": []any{object{"enum": f.enum}, ref("input")}}
	case f.format == "name":
		return ref("name")
	}
	return s.required(ref("text"), f, "minLength")
}

// named defines a struct once and refers to it, so that types may recur.
func (s *schemaMaker) named(t reflect.Type) object {
	if t.Name() == "" {
		return s.structure(t)
	}
	name, ok := s.names[t]
	if !ok {
		pkg := t.PkgPath()
		name = pkg[strings.LastIndexByte(pkg, '/')+1:] + "." + t.Name()
		for s.defs[name] != nil {
			name += "_"
		}
		s.names[t] = name
		s.defs[name] = object{} // taken, for types that recur
		s.defs[name] = s.structure(t)
	}
	return ref(name)
}

func (s *schemaMaker) mapOf(elem reflect.Type, f *field) object {
	o := object{"type": "object", "additionalProperties": s.typ(elem, element(f))}
	switch {
	case f == nil:
	case f.format == "name":
		o["propertyNames"] = object{"pattern": `^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`}
	case f.format == "input":
		o["propertyNames"] = object{"pattern": `^[A-Z][A-Z0-9_]{0,62}$`}
	}
	return s.required(o, f, "minProperties")
}

// shapes is the schema of a type that decodes itself.
func (s *schemaMaker) shapes(t reflect.Type, f *field) object {
	if t == reflect.TypeFor[backstay.Duration]() {
		return ref("duration")
	}
	words := shapesOf(t)
	if len(words) == 0 && customOf(t) == byText {
		return s.text(f)
	}
	alternatives := make([]any, 0, len(words))
	for _, w := range words {
		alternatives = append(alternatives, s.shape(w, t, f))
	}
	switch len(alternatives) {
	case 0:
		return object{}
	case 1:
		one, _ := alternatives[0].(object)
		return one
	}
	return object{"anyOf": alternatives}
}

func (s *schemaMaker) shape(word string, t reflect.Type, f *field) object {
	switch word {
	case "string":
		return s.text(f)
	case "strings":
		return object{"type": "array", "items": ref("text")}
	case "integer", "number", "boolean", "duration":
		return ref(word)
	case "map of strings":
		return object{"type": "object", "additionalProperties": ref("text")}
	case "mapping":
		if fields := mappingOf(t); fields != nil {
			return s.named(fields)
		}
		return object{"type": "object"}
	}
	return object{"description": word}
}
