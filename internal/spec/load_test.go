package spec_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/spec"
)

const overlaid = `backstay: v1
release: shop
rollback: {within: 60s}
bake: 30m
steps:
  - run: ./one.sh
    name: one
    env: {A: "1", B: "2"}
    touches: [/a, /b]
  - stage: data
    steps:
      - parallel:
          - run: ./two.sh
            name: two
      - run: ./three.sh
verify: [{run: ./smoke.sh}]
`

func parseOver(t *testing.T, base, over string) (*spec.Spec, error) {
	t.Helper()
	return spec.Parse(
		spec.Text{Name: "backstay.yaml", Data: []byte(base)},
		&spec.Text{Name: "environments/production.yaml", Data: []byte(over)},
		spec.Source{Environment: "production"}, fakeKinds{},
	)
}

func TestOverlay(t *testing.T) {
	t.Parallel()
	got, err := parseOver(t, overlaid, `
rollback: {within: 5s}
owner: sre
steps:
  - name: two
    run: ./two-production.sh
  - name: one
    timeout: 3m
    env: {B: "20", C: "30"}
    touches: [/c]
verify: [{http: x}]
`)
	if err != nil {
		t.Fatal(err)
	}
	type step struct{ ID, Stage, Timeout, Config string }
	var steps []step
	for _, s := range got.Steps {
		steps = append(steps, step{s.ID, s.Stage, s.Timeout.String(), string(s.Config)})
	}
	want := []step{
		{"one", "", "3m0s", `{"run":"./one.sh","env":{"A":"1","B":"20","C":"30"},"touches":["/c"]}`},
		{"two", "data", "0s", `{"run":"./two-production.sh"}`},
		{"run-3", "data", "0s", `{"run":"./three.sh"}`},
	}
	if diff := cmp.Diff(want, steps); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
	if got.Rollback.Within.String() != "5s" || got.Bake.For.String() != "30m0s" || got.Owner != "sre" || got.Environment != "production" {
		t.Errorf("got rollback %v, bake %v, owner %q, environment %q", got.Rollback, got.Bake, got.Owner, got.Environment)
	}
	if len(got.Verify) != 1 || got.Verify[0].ID != "http-1" {
		t.Errorf("got verify %v, want the overlay's list", got.Verify)
	}
}

func TestOverlayProblems(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, over, want string }{
		{"unknown step", "steps:\n  - name: ona\n    timeout: 1s\n", `environments/production.yaml:2:11: steps[0].name: no step is named "ona"
    |   - name: ona
    = did you mean "one"?
`},
		{"no name", "steps: [{run: x}, 7]\n", `environments/production.yaml:1:9: steps[0]: the key "name" is missing
    | steps: [{run: x}, 7]
    = an overlay's steps are changes to steps of backstay.yaml, each with its name
environments/production.yaml:1:19: steps[1]: want a mapping, not the number 7
    | steps: [{run: x}, 7]
    = an overlay's steps are changes to steps of backstay.yaml, each with its name
`},
		{"changed twice", "steps:\n  - {name: one, run: x}\n  - {name: one, run: y}\n", `environments/production.yaml:3:12: steps[1].name: the step "one" is already changed above
    |   - {name: one, run: y}
    = merge both entries
`},
		{"place is the overlay's", "rollback: {within: soon}\nsteps: [{name: one, undoo: x}]\n", `environments/production.yaml:1:20: rollback.within: "soon" is not a duration such as 30s, 5m, 2h or 14d
    | rollback: {within: soon}
environments/production.yaml:2:21: steps[0].undoo: unknown key "undoo"
    | steps: [{name: one, undoo: x}]
    = did you mean "undo"?
`},
		{"chooses the environment", "environment: dev\n", `environments/production.yaml:1:1: environment: an overlay cannot choose the environment
    | environment: dev
    = its file name does; remove the key
`},
		{"a list", "- a\n", `environments/production.yaml:1:1: want a mapping, not a list
    | - a
    = an overlay holds the keys of backstay.yaml that differ
`},
		{"steps are no list", "steps: {one: {}}\n", `environments/production.yaml:1:8: steps: want a list, not a mapping
    | steps: {one: {}}
    = an overlay's steps are changes to steps of backstay.yaml, each with its name
`},
		{"null", "bake:\n", `environments/production.yaml:1:6: bake: the value is missing
    | bake:
    = remove the key or give a value
`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := parseOver(t, overlaid, tt.over)
			if diff := cmp.Diff(tt.want, show(problems(t, err))); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
		})
	}
}

// tree writes files below a new directory and returns it.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestLoad(t *testing.T) {
	t.Parallel()
	dir := tree(t, map[string]string{
		"backstay.yaml":                "backstay: v1\nrelease: a\nversion: ${VERSION}\nsteps: [{run: '${WHO} ${WHERE}', name: one}]\n",
		"environments/production.yaml": "owner: production\n",
		"environments/dev.yaml":        "owner: ${WHERE}\n",
		"inputs.env":                   "# comment\n\nWHO=file\nWHERE = \"over-there\"\nUNUSED=x\nAPI_TOKEN=not used, so not looked at\n",
	})
	file := filepath.Join(dir, "backstay.yaml")
	environ := func(name string) (string, bool) { return "environ", name == "VERSION" || name == "WHO" }
	got, err := spec.Load(spec.Source{
		File: file, Environment: "production", Set: map[string]string{"WHO": "set"},
		EnvFile: filepath.Join(dir, "inputs.env"), Environ: environ,
	}, fakeKinds{})
	if err != nil {
		t.Fatal(err)
	}
	wantInputs := []spec.Input{
		{Name: "VERSION", Value: "environ", Source: spec.FromEnvironment},
		{Name: "WHERE", Value: "over-there", Source: spec.FromEnvFile},
		{Name: "WHO", Value: "set", Source: spec.FromSet},
	}
	if diff := cmp.Diff(wantInputs, got.Inputs); diff != "" {
		t.Errorf("inputs (-want +got):\n%s", diff)
	}
	if got.File != file || got.Dir != dir || got.Environment != "production" || got.Owner != "production" {
		t.Errorf("got file %q, dir %q, environment %q, owner %q", got.File, got.Dir, got.Environment, got.Owner)
	}
	if want := `{"run":"set over-there"}`; string(got.Steps[0].Config) != want {
		t.Errorf("got config %s, want %s", got.Steps[0].Config, want)
	}
}

func TestLoadEnvironment(t *testing.T) {
	t.Parallel()
	const base = "backstay: v1\nrelease: a\nsteps: [{run: x}]\n"
	with := map[string]string{
		"backstay.yaml": base, "named.yaml": base + "environment: staging\n",
		"environments/staging.yaml": "owner: staging\n", "environments/production.yaml": "owner: production\n", "environments/notes.txt": "",
	}
	tests := []struct {
		name        string
		files       map[string]string
		file, env   string
		owner, want string // want: the one problem
		hint        string
	}{
		{"none", with, "backstay.yaml", "", "", "", ""},
		{"by flag", with, "backstay.yaml", "staging", "staging", "", ""},
		{"by the file", with, "named.yaml", "", "staging", "", ""},
		{"flag over file", with, "named.yaml", "production", "production", "", ""},
		{"dev needs no overlay", with, "backstay.yaml", "dev", "", "", ""},
		{"near miss", with, "backstay.yaml", "prodution", "", `-e: no environment is called "prodution"`, `did you mean "production"?`},
		{"unknown", with, "backstay.yaml", "x", "", `-e: no environment is called "x"`, "the environments are: production, staging"},
		{"no overlays", map[string]string{"backstay.yaml": base}, "backstay.yaml", "x", "", `-e: no environment is called "x"`, "there is no environments/x.yaml beside the file"},
		{"traversal", with, "backstay.yaml", "../environments/staging", "", `-e: "../environments/staging" is not a name`, "a name begins with a letter or digit and holds letters, digits, '.', '_' and '-', 63 at most"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := tree(t, tt.files)
			got, err := spec.Load(spec.Source{File: filepath.Join(dir, tt.file), Environment: tt.env}, fakeKinds{})
			if tt.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				if got.Owner != tt.owner {
					t.Errorf("got owner %q, want %q", got.Owner, tt.owner)
				}
				return
			}
			ps := problems(t, err)
			if len(ps) != 1 || strings.TrimSpace(ps[0].String()) != tt.want || ps[0].Hint != tt.hint {
				t.Errorf("got %s\nwant %s\n    = %s", show(ps), tt.want, tt.hint)
			}
		})
	}
}

func TestLoadUnreadable(t *testing.T) {
	t.Parallel()
	dir := tree(t, map[string]string{"backstay.yaml": "backstay: v1\nrelease: a\nsteps: [{run: x}]\n"})
	tests := []struct {
		name     string
		src      spec.Source
		notExist bool
		class    backstay.ErrorClass
	}{
		{"no file", spec.Source{File: filepath.Join(dir, "none.yaml")}, true, backstay.NotFound},
		{"a directory", spec.Source{File: dir}, false, backstay.Permanent},
		{"a device", spec.Source{File: os.DevNull}, false, backstay.Permanent},
		{"no env-file", spec.Source{File: filepath.Join(dir, "backstay.yaml"), EnvFile: filepath.Join(dir, "none.env")}, true, backstay.NotFound},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := spec.Load(tt.src, fakeKinds{})
			if err == nil || errors.Is(err, fs.ErrNotExist) != tt.notExist || backstay.ClassOf(err) != tt.class {
				t.Errorf("got error %v of class %s, want class %s", err, backstay.ClassOf(err), tt.class)
			}
			if tt.notExist && backstay.HintOf(err) == "" {
				t.Error("got no hint")
			}
		})
	}
}
