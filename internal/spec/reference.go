package spec

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/backstay-dev/backstay"
)

// Reference returns the annotated reference of one section as Markdown with
// YAML in it, made from the same structs as the schema; "" lists the sections.
// A section is a top-level key, a step kind, or a topic.
func Reference(kinds Kinds, section string) (string, error) {
	w := &refWriter{b: &strings.Builder{}, d: newDecoder(&problems{}), kinds: withRelease(kinds)}
	pages := w.pages()
	if section == "" {
		w.contents(pages)
	} else {
		i := slices.IndexFunc(pages, func(p page) bool { return p.name == section })
		if i < 0 {
			names := make([]string, 0, len(pages))
			for _, p := range pages {
				names = append(names, p.name)
			}
			return "", &backstay.Error{
				Class: backstay.NotFound, Op: "find reference section", Subject: section,
				Err:  errors.New("there is no such section"),
				Hint: orHint(w.d.ps.suggest(section, names), "the sections are: "+strings.Join(names, ", ")),
			}
		}
		fmt.Fprintf(w.b, "# %s\n\n%s\n", pages[i].name, pages[i].doc)
		pages[i].write()
	}
	if w.d.err != nil {
		return "", fmt.Errorf("write the reference: %w", w.d.err)
	}
	return w.b.String(), nil
}

// page is one section of the reference.
type page struct {
	name, doc string
	write     func()
}

type refWriter struct {
	b     *strings.Builder
	d     *decoder
	kinds Kinds
}

func (w *refWriter) pages() []page {
	root := w.d.fields(reflect.TypeFor[rootKeys]())
	pages := []page{{"spec", "All top-level keys of backstay.yaml.", func() { w.yaml(reflect.TypeFor[rootKeys]()) }}}
	for _, name := range []string{"inputs", "artifacts", "bake", "rollback", "policy"} {
		f, _ := root.get(name)
		pages = append(pages, page{name, f.doc, func() { w.fence(func() { w.field(f, 0) }) }})
	}
	pages = append(pages,
		page{"steps", "What to do, in order. A step has exactly one key that names its kind, the kind's other keys, and these:", w.steps},
		page{"verify", "Checks after the last step; one that fails rolls everything back. A check has exactly one key that names its kind, the kind's other keys, and these:", w.verify},
	)
	pages = append(pages, page{"gates", "Checks that a gate asks again and again, by name (see release and gate). A check has exactly one key that names its kind, the kind's other keys, and these:", func() {
		w.yaml(reflect.TypeFor[gateKeys]())
		fmt.Fprintf(w.b, "\nThe kinds are: %s.\n", strings.Join(w.kinds.CheckNames(), ", "))
	}})
	pages = append(pages, page{"mitigations", "Small plans for an emergency, by name, written and approved ahead (backstay mitigate).", func() {
		w.fence(func() {
			w.line(0, "mitigations:")
			w.line(1, "NAME:")
			w.block(reflect.TypeFor[mitigationKeys](), 2)
		})
	}})
	sections := w.kinds.Sections()
	for _, name := range slices.Sorted(maps.Keys(sections)) {
		pages = append(pages, page{name, "The " + name + ", by name.", func() {
			w.fence(func() {
				w.line(0, name+":")
				w.line(1, "NAME:")
				w.block(entryType(sections[name]), 2)
			})
		}})
	}
	for _, name := range w.kinds.Names() {
		if slices.ContainsFunc(pages, func(p page) bool { return p.name == name }) {
			continue
		}
		c, _ := w.kinds.Config(name)
		pages = append(pages, page{name, "The keys of " + article(name) + " step, beside the common ones (see steps).", func() {
			w.kind(name, entryType(c))
			if check, ok := w.kinds.CheckConfig(name); ok {
				fmt.Fprintf(w.b, "\nAs an entry of `verify:`, beside the common keys (see verify):\n")
				w.kind(name, entryType(check))
			}
		}})
	}
	for _, name := range w.kinds.CheckNames() {
		if slices.ContainsFunc(pages, func(p page) bool { return p.name == name }) {
			continue
		}
		c, _ := w.kinds.CheckConfig(name)
		pages = append(pages, page{name, "The keys of " + article(name) + " check, beside the common ones (see gates and verify).", func() {
			w.kind(name, entryType(c))
		}})
	}
	return append(pages,
		page{"environments", environmentsDoc, func() {}},
		page{"secrets", secretsDoc, func() {}},
	)
}

// article puts "a" or "an" before a word.
func article(word string) string {
	if strings.ContainsRune("aeiou", rune(word[0])) || strings.HasPrefix(word, "http") {
		return "an " + word
	}
	return "a " + word
}

func entryType(v any) reflect.Type {
	t := reflect.TypeOf(v)
	if t == nil || t.Kind() != reflect.Pointer || t.Elem().Kind() != reflect.Struct {
		return reflect.TypeFor[struct{}]()
	}
	return t.Elem()
}

func (w *refWriter) contents(pages []page) {
	w.b.WriteString("# backstay.yaml\n\nSections, for `backstay docs SECTION`:\n\n")
	for _, p := range pages {
		doc, _, _ := strings.Cut(p.doc, ". ")
		doc, _, _ = strings.Cut(doc, "\n")
		fmt.Fprintf(w.b, "- `%s`: %s\n", p.name, strings.TrimSuffix(doc, ":"))
	}
}

func (w *refWriter) steps() {
	w.yaml(reflect.TypeFor[stepKeys]())
	fmt.Fprintf(w.b, "\nThe kinds are: %s.\n\nAn item of the list may also be a parallel group:\n", strings.Join(w.kinds.Names(), ", "))
	w.yaml(reflect.TypeFor[groupKeys]())
	w.b.WriteString("\nor, at the top of the list, a stage:\n")
	w.yaml(reflect.TypeFor[stageKeys]())
}

func (w *refWriter) verify() {
	w.yaml(reflect.TypeFor[checkKeys]())
	fmt.Fprintf(w.b, "\nThe kinds are: %s.\n", strings.Join(w.kinds.CheckNames(), ", "))
}

func (w *refWriter) fence(body func()) {
	w.b.WriteString("\n```yaml\n")
	body()
	w.b.WriteString("```\n")
}

func (w *refWriter) yaml(t reflect.Type) {
	w.fence(func() {
		for _, f := range w.d.fields(t).list {
			w.field(&f, 0)
		}
	})
}

// kind writes a kind's keys in the form that its config has.
func (w *refWriter) kind(name string, t reflect.Type) {
	if w.d.isFlat(t, name) {
		w.yaml(t)
		return
	}
	w.fence(func() { w.field(&field{name: name, typ: t}, 0) })
}

func (w *refWriter) line(depth int, text string) {
	w.b.WriteString(strings.Repeat("  ", depth) + text + "\n")
}

func (w *refWriter) block(t reflect.Type, depth int) {
	const deepest = 5
	if depth > deepest {
		w.line(depth, "# …")
		return
	}
	for _, f := range w.d.fields(t).list {
		w.field(&f, depth)
	}
}

// field writes one key: its comment, then the key with its example or the
// keys below it.
func (w *refWriter) field(f *field, depth int) {
	for _, line := range wrap(strings.TrimSpace(f.doc+" "+remarks(f)), 92-2*depth) {
		w.line(depth, "# "+line)
	}
	below, form := inside(f.typ)
	if below == nil || f.example != "" && form == "" && customOf(f.typ) == byJSON {
		w.line(depth, f.name+": "+orHint(f.example, placeholder(f)))
		if below != nil {
			w.line(depth, "# or:")
			w.commented(depth, func() {
				w.line(depth, f.name+":")
				w.block(below, depth+1)
			})
		}
		return
	}
	w.line(depth, f.name+":")
	switch form {
	case "map":
		name := "NAME"
		w.line(depth+1, name+":")
		w.block(below, depth+2)
	case "list":
		w.line(depth+1, "-")
		w.block(below, depth+2)
	default:
		w.block(below, depth+1)
	}
}

// commented writes what body writes as comments.
func (w *refWriter) commented(depth int, body func()) {
	outer := w.b
	w.b = &strings.Builder{}
	body()
	text := w.b.String()
	w.b = outer
	indent := strings.Repeat("  ", depth)
	for line := range strings.Lines(text) {
		w.b.WriteString(indent + "# " + strings.TrimPrefix(line, indent))
	}
}

// inside is the struct whose keys stand below a key, and whether they do so
// directly, by name or in a list.
func inside(t reflect.Type) (reflect.Type, string) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch customOf(t) {
	case byJSON:
		return mappingOf(t), ""
	case byNode, byText:
		return nil, ""
	case byReflection:
	}
	switch t.Kind() {
	case reflect.Struct:
		return t, ""
	case reflect.Map:
		below, form := inside(t.Elem())
		if below != nil && form == "" {
			return below, "map"
		}
	case reflect.Slice:
		below, form := inside(t.Elem())
		if below != nil && form == "" {
			return below, "list"
		}
	default:
	}
	return nil, ""
}

func remarks(f *field) string {
	var r []string
	if f.required {
		r = append(r, "Required.")
	}
	if len(f.enum) > 0 {
		r = append(r, "One of: "+strings.Join(f.enum, ", ")+".")
	}
	if f.ref != "" {
		r = append(r, "Names an entry of "+f.ref+".")
	}
	t := f.typ
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if shapes := shapesOf(t); len(shapes) > 1 {
		r = append(r, "Give "+wants(shapes)+".")
	}
	return strings.Join(r, " ")
}

// placeholder stands for a value where a field has no example.
func placeholder(f *field) string {
	if len(f.enum) > 0 {
		return f.enum[0]
	}
	t := f.typ
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == reflect.TypeFor[backstay.Duration]() {
		return "30s"
	}
	if customOf(t) != byReflection {
		return "…"
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true"
	case reflect.Slice:
		return "[…]"
	case reflect.Map:
		return "{NAME: …}"
	case reflect.String, reflect.Interface:
		return "…"
	default:
		return "1"
	}
}

// wrap breaks a text into lines of at most width bytes, at spaces.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && len(line)+1+len(word) > width {
			lines = append(lines, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	if line != "" {
		lines = append(lines, line)
	}
	return lines
}

const environmentsDoc = `environments/NAME.yaml beside backstay.yaml is laid on top of it by -e NAME.

- Mappings merge by key; texts, numbers and lists replace.
- ` + "`steps`" + ` is a list of changes: each entry has the name of a step of backstay.yaml and the keys that differ.
- Every key of backstay.yaml may stand there except environment; none must.

` + "```yaml" + `
rollback:
  within: 30s
steps:
  - name: warm-cache
    timeout: 5m
` + "```" + `

Where -e is not given, the key environment names it. In the environment dev, artifacts need no digest
and environments/dev.yaml need not exist.`

const secretsDoc = `A secret is never written in the file and never an input (inputs are recorded). A text that begins
with secret: is a reference, resolved at the moment of use and redacted everywhere:

- ` + "`secret:env/NAME`" + `: the environment variable NAME of the process that runs the step.
- ` + "`secret:file/PATH`" + `: the content of a file, relative to backstay.yaml; ` + "`secret:file//run/secrets/db`" + ` is absolute.`
