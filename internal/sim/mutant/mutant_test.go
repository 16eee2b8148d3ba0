package mutant

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"
)

var (
	runFlag  = flag.Bool("mutant.run", false, "build each mutant and hunt it; minutes")
	onlyFlag = flag.String("mutant.only", "", "hunt only the mutants whose name contains this")
	outFlag  = flag.String("mutant.report", "", "file to write the table to")
)

// mutant is one seeded bug: in a file, a text that occurs once is replaced.
type mutant struct {
	name, file, old, new, why string
	// by are the names of layers that may catch it, in the order to try.
	by []string
}

const repository = "../../.."

// TestTable keeps the table from rotting: each text to replace occurs exactly
// once, each layer exists, and the twelve bugs that this project promised to
// seed are among them.
func TestTable(t *testing.T) {
	t.Parallel()
	known := map[string]bool{}
	for _, l := range layers() {
		known[l.name] = true
	}
	names := map[string]bool{}
	for _, m := range mutants() {
		if names[m.name] {
			t.Errorf("%s is there twice", m.name)
		}
		names[m.name] = true
		text, err := os.ReadFile(filepath.Join(repository, m.file))
		if err != nil {
			t.Errorf("%s: %v", m.name, err)
			continue
		}
		if n := bytes.Count(text, []byte(m.old)); n != 1 {
			t.Errorf("%s: its text occurs %d times in %s, want 1: %q", m.name, n, m.file, m.old)
		}
		if m.old == m.new || m.why == "" || len(m.by) == 0 {
			t.Errorf("%s changes nothing, has no reason, or no layer", m.name)
		}
		for _, by := range m.by {
			if !known[by] {
				t.Errorf("%s: no layer %q", m.name, by)
			}
		}
	}
	for _, name := range []string{
		"no sync before apply", "before-image after apply", "no compensation record", "no fence at the target", "no fence at the ledger",
		"blind restore", "retry of an ambiguous step", "ignored fsync error", "failing step not undone", "ack before sync", "no checksum", "relative undo",
	} {
		if !names[name] {
			t.Errorf("%q is not seeded", name)
		}
	}
	if len(names) < 40 {
		t.Errorf("%d mutants, want at least 40", len(names))
	}
}

// result is what became of one mutant.
type result struct {
	Name   string  `json:"name"`
	By     string  `json:"caught_by"` // "" survived
	Runs   string  `json:"runs,omitempty"`
	Took   float64 `json:"seconds"`
	Missed string  `json:"missed_by,omitempty"`
}

// TestMutants hunts every mutant through its layers. One that no layer catches
// fails.
func TestMutants(t *testing.T) {
	t.Parallel()
	if !*runFlag {
		t.Skip("builds a test binary for every mutant; run with -mutant.run")
	}
	began := time.Now()
	var mu sync.Mutex
	var all []result
	clean := map[string]func() error{}
	for _, l := range layers() {
		clean[l.name] = sync.OnceValue(func() error { return green(t, l) })
	}
	t.Cleanup(func() { show(t, all, time.Since(began)) })
	for _, m := range mutants() {
		if !strings.Contains(m.name, *onlyFlag) {
			continue
		}
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			got := hunt(t, m)
			if got.By != "" {
				if err := clean[got.By](); err != nil {
					t.Error(err)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, got)
			if got.By == "" {
				t.Errorf("survived %s: %s", strings.Join(m.by, ", "), m.why)
			}
		})
	}
}

func hunt(t *testing.T, m mutant) result {
	t.Helper()
	began, dir := time.Now(), t.TempDir()
	overlay := write(t, dir, m)
	got := result{Name: m.name}
	built := map[string]string{}
	var missed []string
	for _, name := range m.by {
		i := slices.IndexFunc(layers(), func(l layer) bool { return l.name == name })
		l := layers()[i]
		if built[l.pkg] == "" {
			built[l.pkg] = build(t, dir, overlay, l.pkg)
		}
		if out, caught := run(t, built[l.pkg], l); caught {
			got.By, got.Runs = name, runsIn(out)
			break
		}
		missed = append(missed, name)
	}
	got.Missed, got.Took = strings.Join(missed, ", "), time.Since(began).Round(100*time.Millisecond).Seconds()
	return got
}

// green runs a layer without any mutant: one that fails by itself catches nothing.
func green(t *testing.T, l layer) error {
	t.Helper()
	binary := build(t, t.TempDir(), "", l.pkg)
	if out, failed := run(t, binary, l); failed {
		return fmt.Errorf("layer %s fails without a mutant, so what it caught proves nothing:\n%s", l.name, out)
	}
	return nil
}

// write makes the mutated file and the overlay that puts it in its place.
func write(t *testing.T, dir string, m mutant) string {
	t.Helper()
	file, err := filepath.Abs(filepath.Join(repository, m.file))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	changed := filepath.Join(dir, "mutated.go")
	if err := os.WriteFile(changed, bytes.Replace(text, []byte(m.old), []byte(m.new), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	list, err := json.Marshal(map[string]map[string]string{"Replace": {file: changed}})
	if err != nil {
		t.Fatal(err)
	}
	overlay := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(overlay, list, 0o600); err != nil {
		t.Fatal(err)
	}
	return overlay
}

func build(t *testing.T, dir, overlay, pkg string) string {
	t.Helper()
	binary := filepath.Join(dir, strings.ReplaceAll(pkg, "/", "-")+".test")
	cmd := exec.CommandContext(t.Context(), "go", "test", "-c", "-vet=off", "-ldflags=-s -w", "-overlay="+overlay, "-o", binary, "./"+pkg)
	cmd.Dir = repository
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("it does not build, which proves nothing: %v\n%s", err, out)
	}
	return binary
}

// mostTime bounds one layer's hunt for one mutant.
const mostTime = 3 * time.Minute

func run(t *testing.T, binary string, l layer) (out string, caught bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), mostTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, append([]string{"-test.timeout=2m"}, l.args...)...)
	cmd.Dir = filepath.Join(repository, l.pkg)
	text, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("run %s: %v", l.name, err)
	}
	return string(text), err != nil
}

var runs = regexp.MustCompile(`"runs":(\d+)`)

// runsIn is how many runs the simulator needed, where it was the one.
func runsIn(out string) string {
	if found := runs.FindStringSubmatch(out); found != nil {
		return found[1]
	}
	return ""
}

func show(t *testing.T, all []result, took time.Duration) {
	t.Helper()
	slices.SortFunc(all, func(a, b result) int { return strings.Compare(a.Name, b.Name) })
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	by := map[string]int{}
	fmt.Fprintln(w, "mutant\tcaught by\truns\tseconds\tmissed by")
	for _, r := range all {
		who := r.By
		if who == "" {
			who = "SURVIVED"
		}
		by[who]++
		fmt.Fprintf(w, "%s\t%s\t%s\t%.1f\t%s\n", r.Name, who, r.Runs, r.Took, r.Missed)
	}
	if err := w.Flush(); err != nil {
		t.Error(err)
	}
	fmt.Fprintf(&text, "%d mutants in %v: %v\n", len(all), took.Round(time.Second), by)
	t.Log("\n" + text.String())
	if *outFlag != "" {
		if err := os.WriteFile(*outFlag, []byte(text.String()), 0o600); err != nil {
			t.Errorf("write the table: %v", err)
		}
	}
}
