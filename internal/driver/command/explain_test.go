package command

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
)

// TestExplain: what it says to type does what the step does, in a real shell.
func TestExplain(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "it's here")
	b := body{
		V: bodyFormat, Dir: dir, Touches: []string{dir + "/out"}, Env: map[string]string{"WORD": "two words", "TOKEN": "secret:env/T", "API_KEY": "hush-hush"},
		Run:   line{Line: Line{Shell: "printf '%s|' \"$WORD\" \"$TOKEN\"\npwd"}},
		Undo:  &line{Line: Line{Argv: []string{"rm", "-f", "a b"}}, Pin: &pin{Word: "./x", Path: "/x", Digest: strings.Repeat("ab", 32)}},
		Probe: &line{Line: Line{Argv: []string{"true"}}}, Read: &line{Line: Line{Argv: []string{"cat", "state"}}},
	}
	e, err := (&Driver{}).Explain(backstay.Step{ID: "s", Prepared: backstay.Prepared{Kind: "run", Body: backstay.Canonical(b)}})
	if err != nil {
		t.Fatal(err)
	}
	got := []int{len(e.Do), len(e.Undo), len(e.Probe), len(e.Read)}
	if diff := cmp.Diff(got, []int{1, 2, 1, 2}); diff != "" {
		t.Errorf("commands of do, undo, probe, read (-got +want):\n%s", diff)
	}
	if strings.Contains(e.Do[0].Line, "hush-hush") {
		t.Errorf("repeats what may be a secret: %s", e.Do[0].Line)
	}
	if !strings.Contains(e.Undo[0].Note, "sha256:abababababab") || !strings.HasSuffix(e.Undo[0].Line, "rm -f 'a b'") {
		t.Errorf("undo: got %+v", e.Undo[0])
	}
	mkdir := exec.CommandContext(t.Context(), "mkdir", dir)
	if err := mkdir.Run(); err != nil {
		t.Fatal(err)
	}
	typed := exec.CommandContext(t.Context(), "sh", "-c", e.Do[0].Line)
	typed.Env = []string{"T=s3cret", "PATH=/usr/bin:/bin"}
	out, err := typed.Output()
	if want := "two words|s3cret|" + dir + "\n"; err != nil || string(out) != want {
		t.Errorf("%s\ngot %q, %v, want %q", e.Do[0].Line, out, err, want)
	}
	if _, err := (&Driver{}).Explain(backstay.Step{Prepared: backstay.Prepared{Body: []byte(`{"v":99}`)}}); err == nil {
		t.Error("a body of another version was read")
	}
}
