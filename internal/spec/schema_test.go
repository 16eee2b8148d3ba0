package spec_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v4"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/spec"
)

func schema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	text, err := spec.Schema(fakeKinds{})
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	if err := c.AddResource(spec.SchemaID, doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile(spec.SchemaID)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// asJSON reads YAML as an editor's language server does.
func asJSON(t *testing.T, text string) any {
	t.Helper()
	var v any
	if err := yaml.Load([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func TestSchemaAcceptsGoodFiles(t *testing.T) {
	t.Parallel()
	s := schema(t)
	for _, file := range files(t, "testdata/good/*.yaml") {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			if err := s.Validate(asJSON(t, read(t, file))); err != nil {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestSchemaRefuses changes one thing of a good file at a time; Parse and the
// schema must both refuse it.
func TestSchemaRefuses(t *testing.T) {
	t.Parallel()
	s := schema(t)
	good := read(t, "testdata/good/shop.yaml")
	tests := []struct{ name, old, new string }{
		{"unknown top-level key", "rollback:", "rollbck:"},
		{"unknown key of a common mapping", "{within: 60s}", "{within: 60s, by: me}"},
		{"unknown key of a kind", "from: config/shop.conf", "form: config/shop.conf"},
		{"unknown key beside a kind", "undo: [", "undoo: ["},
		{"unknown kind", "approve:", "aprove:"},
		{"two kinds", "    undo: [", "    file: {path: x}\n    undo: ["},
		{"unknown key of a section's entry", "instances: 2", "instance: 2"},
		{"missing required key", "path: /etc/shop/shop.conf, ", ""},
		{"missing required top-level key", "release: shop\n", ""},
		{"wrong version", "backstay: v1", "backstay: v2"},
		{"text for an integer", "instances: 2", "instances: two"},
		{"text for a boolean", "warm: true", "warm: certainly"},
		{"list for a text", "mode: \"0644\"", "mode: [0644]"},
		{"text for a list", "from: [sre]", "from: sre"},
		{"not of an enum", "strategy: canary", "strategy: canery"},
		{"duration without a unit", "drain: 10s", "drain: 10"},
		{"duration in words", "drain: 10s", "drain: soon"},
		{"bad name", "release: shop", "release: ../shop"},
		{"bad name of an entry", "  errors: {", "  er/rors: {"},
		{"bad input name", "  COLOUR:", "  colour:"},
		{"check of a kind that cannot", "- http: {url", "- file: {path"},
		{"unknown key of a shaped mapping", "status: 204", "code: 204"},
		{"no steps", "steps:", "steps: []\nverify2:"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if strings.Count(good, tt.old) == 0 {
				t.Fatalf("the good file has no %q", tt.old)
			}
			bad := strings.Replace(good, tt.old, tt.new, 1)
			if err := s.Validate(asJSON(t, bad)); err == nil {
				t.Error("the schema accepts it")
			}
			if _, err := parse(t, bad); err == nil {
				t.Error("Parse accepts it")
			}
		})
	}
}

// TestSchemaIsForEditors: every key has a description, and closed objects.
func TestSchemaIsForEditors(t *testing.T) {
	t.Parallel()
	text, err := spec.Schema(fakeKinds{})
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	unmarshal(t, text, &doc)
	if doc["$schema"] != "https://json-schema.org/draft/2020-12/schema" {
		t.Errorf("got $schema %v", doc["$schema"])
	}
	objects := 0
	var walk func(path string, v any)
	walk = func(path string, v any) {
		switch v := v.(type) {
		case []any:
			for i, item := range v {
				walk(fmt.Sprintf("%s/%d", path, i), item)
			}
		case map[string]any:
			if props, ok := v["properties"].(map[string]any); ok {
				objects++
				if v["additionalProperties"] != false {
					t.Errorf("%s is open", path)
				}
				for name, p := range props {
					if m, ok := p.(map[string]any); !ok || m["description"] == nil {
						t.Errorf("%s/%s has no description", path, name)
					}
				}
			}
			for key, item := range v {
				walk(path+"/"+key, item)
			}
		}
	}
	walk("", doc)
	if objects < 15 {
		t.Errorf("found %d objects with properties", objects)
	}
	golden(t, "testdata/schema.json", string(text))
	again, err := spec.Schema(fakeKinds{})
	if err != nil || !bytes.Equal(text, again) {
		t.Errorf("a second schema differs (%v)", err)
	}
}

func TestReference(t *testing.T) {
	t.Parallel()
	contents, err := spec.Reference(fakeKinds{}, "")
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	all.WriteString(contents)
	var sections []string
	for line := range strings.Lines(contents) {
		if name, _, ok := strings.Cut(strings.TrimPrefix(line, "- `"), "`:"); ok && strings.HasPrefix(line, "- `") {
			sections = append(sections, name)
			text, err := spec.Reference(fakeKinds{}, name)
			if err != nil {
				t.Fatal(err)
			}
			all.WriteString("\n" + text)
		}
	}
	for _, want := range []string{"spec", "inputs", "steps", "verify", "services", "gates", "run", "release", "environments", "secrets"} {
		if !slices.Contains(sections, want) {
			t.Errorf("the contents do not list %s", want)
		}
	}
	golden(t, "testdata/reference.md", all.String())
}

// TestReferenceIsYAML: what stands in a fence is YAML that could be pasted.
func TestReferenceIsYAML(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"spec", "steps", "services", "run", "file", "http", "approve", "inputs", "verify"} {
		text, err := spec.Reference(fakeKinds{}, name)
		if err != nil {
			t.Fatal(err)
		}
		for i, part := range strings.Split(text, "```") {
			if i%2 == 0 {
				continue
			}
			var v yaml.Node
			if err := yaml.Load([]byte(strings.TrimPrefix(part, "yaml")), &v); err != nil {
				t.Errorf("%s: %v\n%s", name, err, part)
			}
		}
	}
}

func TestReferenceOfNothing(t *testing.T) {
	t.Parallel()
	_, err := spec.Reference(fakeKinds{}, "servces")
	if backstay.ClassOf(err) != backstay.NotFound || backstay.HintOf(err) != `did you mean "services"?` {
		t.Errorf("got %v with hint %q", err, backstay.HintOf(err))
	}
}
