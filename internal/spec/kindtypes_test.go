package spec_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/spec"
)

// oneKind is fakeKinds with a kind "odd" of a given config.
type oneKind struct {
	fakeKinds
	config any
}

func (k oneKind) Names() []string { return append(k.fakeKinds.Names(), "odd") }

func (k oneKind) Config(kind string) (any, bool) {
	if kind == "odd" {
		return k.config, true
	}
	return k.fakeKinds.Config(kind)
}

// TestKindsMistakes: a mistake in a kind's types is told to its author, not
// blamed on the file.
func TestKindsMistakes(t *testing.T) {
	t.Parallel()
	type untagged struct{ Odd string }
	type twice struct {
		A string `yaml:"odd"`
		B string `yaml:"odd"`
	}
	type unreadable struct {
		Odd chan int `yaml:"odd"`
	}
	type intKeys struct {
		Odd map[int]string `yaml:"odd"`
	}
	type inlineMap struct {
		Odd map[string]string `yaml:",inline"`
	}
	tests := []struct {
		name   string
		config any
		value  string
		want   string
	}{
		{"not a pointer", runConfig{}, "x", "must be a pointer to a struct"},
		{"no tag", &untagged{}, "x", "field Odd has no yaml tag"},
		{"a key twice", &twice{}, "x", `key "odd" is declared twice`},
		{"a type that cannot be read", &unreadable{}, "x", "type chan int cannot be read from a spec"},
		{"keys that are not texts", &intKeys{}, "{1: a}", "the keys of a map must be strings"},
		{"inline that is no struct", &inlineMap{}, "x", "inline field Odd is not a struct"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			text := "backstay: v1\nrelease: a\nsteps: [{odd: " + tt.value + "}]\n"
			_, err := spec.Parse(spec.Text{Name: "b", Data: []byte(text)}, nil, spec.Source{}, oneKind{config: tt.config})
			var refused *backstay.RefusedError
			if err == nil || errors.As(err, &refused) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v (%T), want an error with %q", err, err, tt.want)
			}
		})
	}
}

// TestKindWithAnothersName: a kind may have a key that is also a kind's name.
func TestKindWithAnothersName(t *testing.T) {
	t.Parallel()
	type odd struct {
		Odd string `yaml:"odd" json:"odd" required:"true"`
		Run string `yaml:"run" json:"run,omitempty"`
	}
	text := "backstay: v1\nrelease: a\nsteps: [{run: x, odd: y}, {run: z}]\n"
	s, err := spec.Parse(spec.Text{Name: "b", Data: []byte(text)}, nil, spec.Source{}, oneKind{config: &odd{}})
	if err != nil {
		t.Fatal(err)
	}
	if s.Steps[0].ID != "odd-1" || string(s.Steps[0].Config) != `{"odd":"y","run":"x"}` || s.Steps[1].ID != "run-1" {
		t.Errorf("got %s %s, then %s", s.Steps[0].ID, s.Steps[0].Config, s.Steps[1].ID)
	}
}
