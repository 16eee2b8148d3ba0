package spec_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay/internal/spec"
)

// TestInputsNeverChangeStructure puts hostile values into a text: they come
// out as they went in, in one place.
func TestInputsNeverChangeStructure(t *testing.T) {
	t.Parallel()
	values := []string{
		"a\nsteps: []", `", undo: "x`, "{run: y}", "[a, b]", "*alias", "&anchor", "!!binary aGk=", "null", "~", "",
		"${OTHER}", "$${OTHER}", "$(rm -rf /)", "`id`", "{{ call }}", "'; DROP TABLE x; --", "--upload-pack=x", "@/etc/passwd", "# c", "0644", "yes", ": ", "\ttab",
	}
	for _, value := range values {
		t.Run(value, func(t *testing.T) {
			t.Parallel()
			const text = "backstay: v1\nrelease: a\nsteps:\n  - run: [\"<${X}>\", '${X}']\n    env: {A: \"${X}\"}\n"
			s, err := spec.Parse(spec.Text{Name: "b", Data: []byte(text)}, nil, spec.Source{Set: map[string]string{"X": value}}, fakeKinds{})
			if err != nil {
				t.Fatal(show(problems(t, err)))
			}
			var got runConfig
			unmarshal(t, s.Steps[0].Config, &got)
			want := runConfig{Run: command{Argv: []string{"<" + value + ">", value}}, Env: map[string]string{"A": value}}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("config (-want +got):\n%s", diff)
			}
			again, err := parse(t, string(spec.Render(s)))
			if err != nil {
				t.Fatalf("%s\n%s", show(problems(t, err)), spec.Render(s))
			}
			if diff := cmp.Diff(string(s.Steps[0].Config), string(again.Steps[0].Config)); diff != "" {
				t.Errorf("config after Render (-want +got):\n%s", diff)
			}
		})
	}
}

// TestInputsAreTyped: what is put into a typed field is read as that type.
func TestInputsAreTyped(t *testing.T) {
	t.Parallel()
	text := func(key string) string {
		return "backstay: v1\nrelease: a\nenvironment: dev\nartifacts: {w: {file: f}}\nservices: {web: {artifact: w, command: c}}\nsteps:\n  - release: {service: web, " + key + "}\n"
	}
	tests := []struct{ name, key, value, want string }{
		{"integer", `weight: "${X}"`, "7", ""},
		{"integer in words", `weight: "${X}"`, "seven", `want an integer, not the text "seven"`},
		{"octal", `weight: "${X}"`, "010", `want an integer, not the text "010"`},
		{"part of an integer", `weight: "1${X}"`, "2", ""},
		{"boolean", `warm: "${X}"`, "true", ""},
		{"boolean in words", `warm: "${X}"`, "yes", `want true or false, not the text "yes"`},
		{"number", `ratio: "${X}"`, "0.25", ""},
		{"not finite", `ratio: "${X}"`, "NaN", `want a number, not the text "NaN"`},
		{"enum", `strategy: "${X}"`, "canary", ""},
		{"not of the enum", `strategy: "${X}"`, "cannary", `"cannary" is not one of canary, blue-green, rolling`},
		{"reference", `gates: ["${X}"]`, "none", `no entry "none" in gates`},
		{"a list stays text", `through: "${X}"`, "[1%]", `want a list, not the text "[1%]"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := spec.Parse(spec.Text{Name: "b", Data: []byte(text(tt.key))}, nil, spec.Source{Set: map[string]string{"X": tt.value}}, fakeKinds{})
			ps := problems(t, err)
			if tt.want == "" {
				if len(ps) > 0 {
					t.Error(show(ps))
				}
				return
			}
			if len(ps) == 0 || ps[0].Message != tt.want || ps[0].Line != 7 {
				t.Errorf("got %s, want line 7: %s", show(ps), tt.want)
			}
		})
	}
}

func TestInputSources(t *testing.T) {
	t.Parallel()
	const base = "backstay: v1\nrelease: a\nsteps: [{run: '${USED}'}]\n"
	tests := []struct {
		name, text string
		set        map[string]string
		envFile    string
		want       string
	}{
		{"nothing uses it", base, map[string]string{"USED": "1", "USEDD": "2", "OTHER": "3"}, "", "--set OTHER: nothing in the file uses ${OTHER}\n    = the inputs are: USED\n--set USEDD: nothing in the file uses ${USEDD}\n    = did you mean \"USED\"?\n"},
		{"no inputs at all", "backstay: v1\nrelease: a\nsteps: [{run: x}]\n", map[string]string{"A": "1"}, "", "--set A: nothing in the file uses ${A}\n    = the file has no inputs\n"},
		{"declared is enough", "inputs: {A: {doc: x}}\nbackstay: v1\nrelease: a\nsteps: [{run: x}]\n", map[string]string{"A": "1"}, "", ""},
		{"looks like a secret", "backstay: v1\nrelease: a\nsteps: [{run: '${API_TOKEN} ${MY_KEY}'}]\n", map[string]string{"API_TOKEN": "x", "MY_KEY": "secret:env/MY_KEY"}, "", "--set API_TOKEN: the input API_TOKEN looks like a secret, and inputs are recorded in the ledger\n    = refer to it where it is used: secret:env/API_TOKEN or secret:file/PATH\n"},
		{"control characters", base, map[string]string{"USED": "a\x1b[31m"}, "", "--set USED: the value of USED: the control character U+001B is not allowed\n"},
		{"not UTF-8", base, map[string]string{"USED": "a\xff"}, "", "--set USED: the value of USED is not UTF-8\n"},
		{"too large", base, map[string]string{"USED": strings.Repeat("a", 64<<10+1)}, "", "--set USED: the value of USED is larger than 64 KiB\n    = put large content into a file of its own\n"},
		{"only from the environment", "inputs: {USED: {from: environment}}\n" + base, map[string]string{"USED": "x"}, "", "b:4:15: steps[0].run: the input USED has no value\n    | steps: [{run: '${USED}'}]\n    = give it in the environment: USED=VALUE backstay …\n--set USED: the input USED may only come from: environment\n"},
		{"env-file lines", base, nil, "# c\nUSED='a-b'\nUSED=2\nnothing\nA=\n", "inputs.env:3:1: \"USED\" is already on line 2\n    | USED=2\n    = remove one of them\ninputs.env:4:1: want NAME=VALUE\n    | nothing\n    = comments begin with #\n"},
		{"env-file value", "inputs: {USED: {pattern: '[0-9]+', doc: a number}}\n" + base, nil, "USED=12a\n", "inputs.env:1:1: USED: the input USED is \"12a\", which does not match \"[0-9]+\"\n    | USED=12a\n    = a number\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := tree(t, map[string]string{"b": tt.text, "inputs.env": tt.envFile})
			src := spec.Source{File: filepath.Join(dir, "b"), Set: tt.set}
			if tt.envFile != "" {
				src.EnvFile = filepath.Join(dir, "inputs.env")
			}
			_, err := spec.Load(src, fakeKinds{})
			got := strings.ReplaceAll(show(problems(t, err)), dir+"/", "")
			got = strings.ReplaceAll(got, " --set", "--set")
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
		})
	}
}

// TestEnvironmentIsAskedSparingly: only names that the file uses, or declares
// as coming from there, are looked up.
func TestEnvironmentIsAskedSparingly(t *testing.T) {
	t.Parallel()
	var asked []string
	environ := func(name string) (string, bool) {
		asked = append(asked, name)
		return "v", true
	}
	text := "backstay: v1\nrelease: a\ninputs: {A: {from: environment}, B: {from: set, required: false}, C: {required: false}, D: {doc: x}}\nsteps: [{run: '${D} ${E} ${E} ${F}'}]\n"
	s, err := spec.Parse(spec.Text{Name: "b", Data: []byte(text)}, nil, spec.Source{Set: map[string]string{"F": "x"}, Environ: environ}, fakeKinds{})
	if err != nil {
		t.Fatal(show(problems(t, err)))
	}
	if diff := cmp.Diff([]string{"D", "E", "A"}, asked); diff != "" {
		t.Errorf("asked for (-want +got):\n%s", diff)
	}
	if len(s.Inputs) != 4 {
		t.Errorf("got inputs %v, want A, D, E, F", s.Inputs)
	}
}
