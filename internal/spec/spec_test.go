package spec_test

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/spec"
)

var update = flag.Bool("update", false, "write the golden files")

// environ is the environment of all tests.
func environ(name string) (string, bool) {
	v, ok := map[string]string{"VERSION": "1.10", "NAME": "you", "NOTHING_ELSE": "really: {nothing}"}[name]
	return v, ok
}

func parse(t *testing.T, text string) (*spec.Spec, error) {
	t.Helper()
	return spec.Parse(spec.Text{Name: "backstay.yaml", Data: []byte(text)}, nil, spec.Source{Environ: environ}, fakeKinds{})
}

// problems returns the refusal's problems; any other error fails the test.
func problems(t *testing.T, err error) []backstay.Problem {
	t.Helper()
	if err == nil {
		return nil
	}
	var refused *backstay.RefusedError
	if !errors.As(err, &refused) {
		t.Fatalf("got %v (%T), want a RefusedError", err, err)
	}
	if refused.What != "spec" || len(refused.Problems) == 0 {
		t.Fatalf("got a refusal of %q with %d problems", refused.What, len(refused.Problems))
	}
	return refused.Problems
}

// golden compares got with a file, or writes it with -update.
func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", file, diff)
	}
}

func files(t *testing.T, pattern string) []string {
	t.Helper()
	names, err := filepath.Glob(pattern)
	if err != nil || len(names) == 0 {
		t.Fatalf("no files match %s: %v", pattern, err)
	}
	return names
}

func read(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestGoodFiles(t *testing.T) {
	t.Parallel()
	for _, file := range files(t, "testdata/good/*.yaml") {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			s, err := parse(t, read(t, file))
			if err != nil {
				t.Fatal(show(problems(t, err)))
			}
			got, err := json.MarshalIndent(s, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			golden(t, strings.TrimSuffix(file, ".yaml")+".json", string(got)+"\n")
		})
	}
}

func TestBadFiles(t *testing.T) {
	t.Parallel()
	for _, file := range files(t, "testdata/bad/*.yaml") {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			_, err := parse(t, read(t, file))
			if err == nil {
				t.Fatal("got no problem")
			}
			golden(t, strings.TrimSuffix(file, ".yaml")+".problems", show(problems(t, err)))
		})
	}
}

// show is how goldens of problems look: place, path, message, hint, source.
func show(ps []backstay.Problem) string {
	var b strings.Builder
	for _, p := range ps {
		fmt.Fprintf(&b, "%s\n", p)
		if p.Source != "" {
			fmt.Fprintf(&b, "    | %s\n", p.Source)
		}
		if p.Hint != "" {
			fmt.Fprintf(&b, "    = %s\n", p.Hint)
		}
	}
	return b.String()
}

// TestRenderReadsBack: what config prints means the same as what was read.
func TestRenderReadsBack(t *testing.T) {
	t.Parallel()
	for _, file := range files(t, "testdata/good/*.yaml") {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			first, err := parse(t, read(t, file))
			if err != nil {
				t.Fatal(err)
			}
			text := string(spec.Render(first))
			second, err := parse(t, text)
			if err != nil {
				t.Fatalf("%s\n%s", show(problems(t, err)), text)
			}
			for _, s := range []*spec.Spec{first, second} {
				s.Inputs, s.Digest, s.Merged = nil, "", nil
				for i := range s.Steps {
					s.Steps[i].Line, s.Steps[i].Column = 0, 0
				}
				for i := range s.Gates {
					s.Gates[i].Line, s.Gates[i].Column = 0, 0
				}
				for i := range s.Verify {
					s.Verify[i].Line, s.Verify[i].Column = 0, 0
				}
			}
			if diff := cmp.Diff(first, second); diff != "" {
				t.Errorf("rendered spec differs (-file +rendered):\n%s\n%s", diff, text)
			}
		})
	}
}

func TestDigestIsOfMeaning(t *testing.T) {
	t.Parallel()
	const base = "backstay: v1\nrelease: a\nsteps: [{run: x, env: {A: b, C: d}}]\n"
	tests := []struct {
		name, text string
		same       bool
	}{
		{"comments and order", "# hello\nrelease: a\n\nbackstay: 'v1'\nsteps:\n  - env:\n      C: d\n      A: b\n    run: \"x\"\n", true},
		{"a default written out", base + "bake: {for: 0s, every: 5s}\n", true},
		{"another command", "backstay: v1\nrelease: a\nsteps: [{run: y, env: {A: b, C: d}}]\n", false},
		{"another release", "backstay: v1\nrelease: b\nsteps: [{run: x, env: {A: b, C: d}}]\n", false},
		{"a deadline", base + "rollback: {within: 1s}\n", false},
	}
	want, err := parse(t, base)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := parse(t, tt.text)
			if err != nil {
				t.Fatal(err)
			}
			if (got.Digest == want.Digest) != tt.same {
				t.Errorf("digests %s and %s: same is %v, want %v", got.Digest, want.Digest, !tt.same, tt.same)
			}
		})
	}
}

func TestSecrets(t *testing.T) {
	t.Parallel()
	s, err := parse(t, `
backstay: v1
release: a
environment: dev
artifacts: {w: {file: f}}
services: {w: {artifact: w, command: [x, "secret:env/IN_SECTION"]}}
steps:
  - run: x
    env: {A: "secret:file/a/b", B: "secret:env/TWICE", C: "no secret:env/NOT"}
  - file: {path: p, vars: {deep: [{x: "secret:env/TWICE"}]}}
verify: [{run: [y, "secret:env/CHECK"]}]
`)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"secret:env/CHECK", "secret:env/IN_SECTION", "secret:env/TWICE", "secret:file/a/b"}
	if diff := cmp.Diff(want, spec.Secrets(s)); diff != "" {
		t.Errorf("secrets (-want +got):\n%s", diff)
	}
}

func unmarshal(t *testing.T, data []byte, v any) {
	t.Helper()
	if err := json.Unmarshal(data, v); err != nil {
		t.Fatal(err)
	}
}
