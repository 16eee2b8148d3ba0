package spec_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/backstay-dev/backstay/internal/spec"
)

// bomb nests n anchors, each holding the one before it ten times.
func bomb(n int) string {
	var b strings.Builder
	b.WriteString("a0: &a0 [" + strings.Repeat("x,", 10) + "]\n")
	for i := 1; i <= n; i++ {
		fmt.Fprintf(&b, "a%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i-1), 10), ", "))
	}
	return b.String()
}

// ladder nests n anchors, each one level deeper than the one before it.
func ladder(n int) string {
	var b strings.Builder
	b.WriteString("a0: &a0 x\n")
	for i := 1; i <= n; i++ {
		fmt.Fprintf(&b, "a%d: &a%d [*a%d]\n", i, i, i-1)
	}
	return b.String()
}

const head = "backstay: v1\nrelease: a\n"

// TestHostileText: each is refused with the problem it has, quickly, and the
// problems do not repeat the text.
func TestHostileText(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	tests := []struct{ name, text, want string }{
		{"50 MB in one line", "a: " + strings.Repeat("x", 50*mib), "the file is larger than 1024 KiB"},
		{"10k flow levels", strings.Repeat("[", 10_000), "this is not YAML: while increasing flow level: nested deeper than 64 levels"},
		{"10k block levels", strings.Repeat("- ", 10_000), "this is not YAML: while increasing indent level: nested deeper than 64 levels"},
		{"10k mapping levels", nested(10_000), "this is not YAML: while increasing flow level: nested deeper than 64 levels"},
		{"billion laughs", bomb(9), "the file expands to more than 200000 values"},
		{"deep by aliases", ladder(100), "nested deeper than 64 levels"},
		{"text by aliases", "a: &a " + strings.Repeat("x", 500_000) + "\nb: [" + strings.TrimSuffix(strings.Repeat("*a, ", 900), ", ") + "]", "the file expands to more than 8 MiB of text"},
		{"many aliases", "a: &a x\nb: [" + strings.TrimSuffix(strings.Repeat("*a, ", 1001), ", ") + "]", "more than 1000 aliases"},
		{"many values", head + "steps: [{run: x}]\nvars:\n" + strings.Repeat("- a\n", 205_000), "the file expands to more than 200000 values"},
		{"many flow values", "[" + strings.Repeat("a,", mib/2-2) + "]", "the file holds more than 100000 of the characters , [ { ?"},
		{"many steps", head + "steps:\n" + strings.Repeat("- run: x\n", 10_001), "more than 10000 steps"},
		{"many steps in stages", head + "steps:\n- stage: a\n  steps:\n" + strings.Repeat("  - run: x\n", 5_001) + "- stage: b\n  steps:\n" + strings.Repeat("  - run: x\n", 5_001), "more than 10000 steps"},
		{"many edges", head + "steps:\n" + strings.Repeat("- parallel:\n"+strings.Repeat("  - run: x\n", 500), 2), "the steps need one another in more than 200000 ways"},
		{"many edges over a stage", head + "steps:\n" + strings.Repeat("- parallel:\n"+strings.Repeat("  - run: x\n", 500)+"- stage: s\n  steps:\n  - parallel:\n"+strings.Repeat("    - run: x\n", 500), 1), "the steps need one another in more than 200000 ways"},
		{"many entries", head + "artifacts:\n" + manyKeys("  a", 60_000) + "steps: [{run: x}]\n", "want a mapping, not the number 1"},
		{"many bad references", head + "steps:\n- release: {service: none, gates: [" + strings.Repeat("b,", 30_000) + "]}\ngates:\n" + strings.ReplaceAll(manyKeys("  a", 20_000), "1\n", "{compare: latency}\n"), `no entry "none" in services`},
		{"many bad needs", head + "steps:\n- run: x\n  needs: [" + strings.Repeat("none,", 90_000) + "]\n" + strings.Repeat("- run: x\n", 9_000), `no step is named "none"`},
		{"many cycles", head + "steps:\n- run: x\n" + strings.Repeat("- run: x\n  needs: [run-9000]\n", 9_000), "the step \"run-9000\" comes later, on line 18001"},
		{"long key", head + strings.Repeat("k", 500_000) + ": {a: b, c: d}\nsteps: [{run: x}]\n", `unknown key "` + strings.Repeat("k", 80) + `…"`},
		{"long cycle", head + "steps:\n- run: x\n  needs: [run-9999]\n" + strings.Repeat("- run: x\n", 9_998), "the needs form a cycle: run-1 → run-9999 → run-9998 → run-9997 → run-9996 → run-9995 → … → run-6 → run-5 → run-4 → run-3 → run-2 → run-1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			start := time.Now()
			_, err := parse(t, tt.text)
			took := time.Since(start)
			ps := problems(t, err)
			if len(ps) == 0 || ps[0].Message != tt.want {
				t.Fatalf("got %.2000s\nwant %s", show(ps[:min(len(ps), 3)]), tt.want)
			}
			if text := show(ps); len(text) > 2000*len(ps) {
				t.Errorf("the problems are %d bytes of text", len(text))
			}
			if took > 20*time.Second { // seconds on a busy machine under the race detector; unbounded work takes hours
				t.Errorf("took %s", took)
			}
		})
	}
}

func nested(n int) string { return strings.Repeat("{a: ", n) + "b" + strings.Repeat("}", n) }

func TestManyProblemsAreBounded(t *testing.T) {
	t.Parallel()
	_, err := parse(t, head+"steps: [{run: x}]\n"+manyKeys("k", 50_000))
	ps := problems(t, err)
	if len(ps) != 1001 || ps[1000].Message != "and 49000 more problems" {
		t.Errorf("got %d problems, the last: %s", len(ps), ps[len(ps)-1].Message)
	}
}

func manyKeys(prefix string, n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "%s%d: 1\n", prefix, i)
	}
	return b.String()
}

// tenThousand is a file with as many steps as there may be.
func tenThousand() []byte {
	var b strings.Builder
	b.WriteString(head + "steps:\n")
	for i := range 10_000 {
		fmt.Fprintf(&b, "- file: {path: /srv/%d, content: \"${N}\", mode: '0644'}\n  name: step-%d\n", i, i)
	}
	return []byte(b.String())
}

func TestLargestFile(t *testing.T) {
	t.Parallel()
	s, err := spec.Parse(spec.Text{Name: "b", Data: tenThousand()}, nil, spec.Source{Set: map[string]string{"N": "v"}}, fakeKinds{})
	if err != nil {
		t.Fatal(show(problems(t, err)))
	}
	if len(s.Steps) != 10_000 || len(s.Steps[9_999].Needs) != 1 || s.Steps[9_999].Needs[0] != "step-9998" {
		t.Errorf("got %d steps, the last needs %v", len(s.Steps), s.Steps[len(s.Steps)-1].Needs)
	}
}

func BenchmarkParse10kSteps(b *testing.B) {
	text := spec.Text{Name: "b", Data: tenThousand()}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := spec.Parse(text, nil, spec.Source{Set: map[string]string{"N": "v"}}, fakeKinds{}); err != nil {
			b.Fatal(err)
		}
	}
}

func TestLargeFileIsNotRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "backstay.yaml")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(1 << 40); err != nil { // a sparse terabyte
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = spec.Load(spec.Source{File: file}, fakeKinds{})
	ps := problems(t, err)
	if len(ps) != 1 || ps[0].Message != "the file is larger than 1024 KiB" {
		t.Errorf("got %s", show(ps))
	}
}
