package spec_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/spec"
)

// FuzzParse: any bytes give a Spec or problems, quickly; a Spec renders to
// text that gives the same steps.
func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"testdata/good/*.yaml", "testdata/bad/*.yaml"} {
		names, err := filepath.Glob(pattern)
		if err != nil || len(names) == 0 {
			f.Fatalf("no files match %s: %v", pattern, err)
		}
		for _, name := range names {
			data, err := os.ReadFile(name)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data, []byte("owner: x\nsteps: [{name: a, timeout: 1s}]\n"), "value")
		}
	}
	f.Add([]byte(bomb(5)), []byte(ladder(70)), "${X}")
	f.Fuzz(func(t *testing.T, base, over []byte, value string) {
		start := time.Now()
		src := spec.Source{Environ: func(name string) (string, bool) { return value, name != "NONE" }}
		overlay := &spec.Text{Name: "overlay", Data: over}
		if len(over) == 0 {
			overlay = nil
		}
		s, err := spec.Parse(spec.Text{Name: "base", Data: base}, overlay, src, fakeKinds{})
		if took := time.Since(start); took > 30*time.Second {
			t.Fatalf("took %s", took)
		}
		if err != nil {
			var refused *backstay.RefusedError
			if !errors.As(err, &refused) || len(refused.Problems) == 0 {
				t.Fatalf("got %v (%T), want problems", err, err)
			}
			return
		}
		again, err := spec.Parse(spec.Text{Name: "rendered", Data: spec.Render(s)}, nil, spec.Source{Environment: s.Environment}, fakeKinds{})
		if err != nil {
			t.Fatalf("rendered spec does not parse: %s\n%s", show(problems(t, err)), spec.Render(s))
		}
		if got, want := backstay.DigestJSON(again.Steps), backstay.DigestJSON(s.Steps); got != want {
			t.Fatalf("rendered spec has other steps:\n%s", spec.Render(s))
		}
	})
}

// FuzzInputValue: no value changes anything but the one text it is put into.
func FuzzInputValue(f *testing.F) {
	for _, v := range []string{"a", "\n- b", `"`, "${X}", "$${X}", "]", "secret:env/A", "\x00", "é\u202e"} {
		f.Add(v)
	}
	f.Fuzz(func(t *testing.T, value string) {
		const text = "backstay: v1\nrelease: a\nsteps: [{run: [a, \"<${X}>\", b]}]\n"
		s, err := spec.Parse(spec.Text{Name: "b", Data: []byte(text)}, nil, spec.Source{Set: map[string]string{"X": value}}, fakeKinds{})
		if err != nil {
			problems(t, err)
			return
		}
		var got runConfig
		unmarshal(t, s.Steps[0].Config, &got)
		if len(s.Steps) != 1 || len(got.Run.Argv) != 3 || got.Run.Argv[1] != "<"+value+">" {
			t.Fatalf("got %d steps, the first %q", len(s.Steps), got.Run.Argv)
		}
	})
}
