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
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"
)

var (
	runFlag  = flag.Bool("mutant.run", false, "build the mutants and hunt each; minutes")
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
// once and can be switched, each layer exists, and the twelve bugs that this project
// promised to seed are among them.
func TestTable(t *testing.T) {
	t.Parallel()
	known := map[string]bool{}
	for _, l := range layers() {
		known[l.name] = true
	}
	names := map[string]bool{}
	for place, m := range mutants() {
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
		} else if _, err := switched(text, []int{place}, mutants()); err != nil {
			t.Error(err)
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
		t.Skip("plays a layer of tests or more for every mutant; run with -mutant.run")
	}
	began := time.Now()
	var mu sync.Mutex
	var all []result
	h := newHunt(t)
	t.Cleanup(func() { show(t, all, time.Since(began)) })
	for n, m := range mutants() {
		if !strings.Contains(m.name, *onlyFlag) {
			continue
		}
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			got := h.mutant(t, n, m)
			if got.By != "" {
				if err := h.green[got.By](); err != nil {
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

// hunt holds the test binaries, each with every mutant in it.
type hunt struct {
	overlay string
	binary  map[string]func() (string, error) // by package
	green   map[string]func() error           // by layer
}

func newHunt(t *testing.T) *hunt {
	t.Helper()
	dir := t.TempDir()
	h := &hunt{overlay: overlay(t, dir), binary: map[string]func() (string, error){}, green: map[string]func() error{}}
	for _, l := range layers() {
		if h.binary[l.pkg] == nil {
			h.binary[l.pkg] = sync.OnceValues(func() (string, error) { return h.build(dir, l.pkg) })
		}
		h.green[l.name] = sync.OnceValue(func() error { return h.clean(t, l) })
	}
	return h
}

// mutant hunts one of them through its layers.
func (h *hunt) mutant(t *testing.T, n int, m mutant) result {
	t.Helper()
	got := result{Name: m.name}
	var missed []string
	for _, name := range m.by {
		l := layers()[slices.IndexFunc(layers(), func(l layer) bool { return l.name == name })]
		binary, err := h.binary[l.pkg]()
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		out, caught := run(t, binary, l, n)
		got.Took += time.Since(began).Seconds()
		if caught {
			got.By, got.Runs = name, runsIn(out)
			break
		}
		missed = append(missed, name)
	}
	got.Missed = strings.Join(missed, ", ")
	return got
}

// clean runs a layer without any mutant: one that fails by itself catches nothing.
func (h *hunt) clean(t *testing.T, l layer) error {
	t.Helper()
	binary, err := h.binary[l.pkg]()
	if err != nil {
		return err
	}
	if out, failed := run(t, binary, l, none); failed {
		return fmt.Errorf("layer %s fails without a mutant, so what it caught proves nothing:\n%s", l.name, out)
	}
	return nil
}

// overlay makes the files with their mutants, and the list that puts them in place.
func overlay(t *testing.T, dir string) string {
	t.Helper()
	in := map[string][]int{} // the mutants of each file
	table := mutants()
	for n, m := range table {
		in[m.file] = append(in[m.file], n)
	}
	replaced := map[string]string{}
	put := func(file string, text []byte) {
		at := filepath.Join(dir, strings.ReplaceAll(file, "/", "-"))
		if err := os.WriteFile(at, text, 0o600); err != nil {
			t.Fatal(err)
		}
		whole, err := filepath.Abs(filepath.Join(repository, file))
		if err != nil {
			t.Fatal(err)
		}
		replaced[whole] = at
	}
	for file, numbers := range in {
		text, err := os.ReadFile(filepath.Join(repository, file))
		if err != nil {
			t.Fatal(err)
		}
		with, err := switched(text, numbers, table)
		if err != nil {
			t.Fatal(err)
		}
		put(file, with)
		put(path.Join(path.Dir(file), "mutant_now.go"), register(path.Dir(file)))
	}
	list, err := json.Marshal(map[string]any{"Replace": replaced})
	if err != nil {
		t.Fatal(err)
	}
	at := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(at, list, 0o600); err != nil {
		t.Fatal(err)
	}
	return at
}

func (h *hunt) build(dir, pkg string) (string, error) {
	binary := filepath.Join(dir, strings.ReplaceAll(pkg, "/", "-")+".test")
	cmd := exec.Command("go", "test", "-c", "-vet=off", "-overlay="+h.overlay, "-o", binary, "./"+pkg)
	cmd.Dir = repository
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("the mutants of %s do not build, which proves nothing: %w\n%s", pkg, err, out)
	}
	return binary, nil
}

// mostTime bounds one layer's hunt for one mutant.
const mostTime = 3 * time.Minute

// none is the number of no mutant.
const none = -1

func run(t *testing.T, binary string, l layer, n int) (out string, caught bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), mostTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, append([]string{"-test.timeout=2m"}, l.args...)...)
	cmd.Dir, cmd.Env = filepath.Join(repository, l.pkg), append(os.Environ(), variable+"="+strconv.Itoa(n))
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
