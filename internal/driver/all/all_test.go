package all

import (
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestNew(t *testing.T) {
	t.Parallel()
	r, err := New()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"approve", "backfill", "file", "flag", "gate", "http", "migrate", "promote", "run", "service", "snapshot", "traffic"}, r.Names()); diff != "" {
		t.Errorf("kinds (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"burn", "compare", "flag", "http", "initialise", "probe", "query", "run"}, r.CheckNames()); diff != "" {
		t.Errorf("checks (-want +got):\n%s", diff)
	}
}

// Users read the tags: every key of every kind is explained, and is called in
// YAML as it is in JSON.
func TestKeysAreDocumented(t *testing.T) {
	t.Parallel()
	r, err := New()
	if err != nil {
		t.Fatal(err)
	}
	configs := map[string]any{}
	for _, name := range r.Names() {
		configs[name], _ = r.Config(name)
	}
	for _, name := range r.CheckNames() {
		configs["verify "+name], _ = r.CheckConfig(name)
	}
	for name, entry := range r.Sections() {
		configs["section "+name] = entry
	}
	for name, config := range configs {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			checkKeys(t, reflect.TypeOf(config).Elem(), name)
		})
	}
}

func checkKeys(t *testing.T, typ reflect.Type, at string) {
	t.Helper()
	if f, ok := reflect.New(typ).Interface().(interface{ SpecFields() any }); ok {
		typ = reflect.TypeOf(f.SpecFields()).Elem()
	} else if _, ok := reflect.New(typ).Interface().(interface{ SpecShape() []string }); ok {
		return
	}
	for i := range typ.NumField() {
		f := typ.Field(i)
		key, json := f.Tag.Get("yaml"), f.Tag.Get("json")
		here := at + "." + f.Name
		if key == "" || f.Tag.Get("doc") == "" {
			t.Errorf("%s lacks its name or explanation: %q", here, f.Tag)
		}
		if want := key; json != want && json != want+",omitempty" && json != want+",omitzero" {
			t.Errorf("%s is called %q in YAML and %q in JSON", here, key, json)
		}
		inner := f.Type
		for inner.Kind() == reflect.Pointer || inner.Kind() == reflect.Slice {
			inner = inner.Elem()
		}
		if inner.Kind() == reflect.Struct {
			checkKeys(t, inner, here)
		}
	}
}
