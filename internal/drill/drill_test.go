package drill

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/ledger/sqlite"
	"github.com/backstay-dev/backstay/internal/plan"
)

var update = flag.Bool("update", false, "write the golden files")

func memory(ctx context.Context) (Ledger, error) {
	return sqlite.OpenMemory(ctx, ledger.Options{Host: "here", TTL: time.Hour})
}

func options() Options {
	return Options{
		ID: "drill-1", Tool: "test", Ledger: memory, Now: time.Now,
		Settles: func(kind string) bool { return kind == "service" },
	}
}

// frozen makes a plan of steps; each needs the one before it, unless it says so.
func frozen(steps ...backstay.Step) *plan.Plan {
	p := &plan.Plan{Format: plan.Format, Release: "shop", Version: "v3", Steps: steps}
	seen := map[backstay.Key]bool{}
	for i := range p.Steps {
		st := &p.Steps[i]
		st.Seq = i + 1
		if i > 0 && st.Needs == nil {
			st.Needs = []string{p.Steps[i-1].ID}
		}
		for _, k := range st.Keys {
			if !seen[k] {
				p.Locks = append(p.Locks, k)
			}
			seen[k] = true
		}
		if st.Pivot {
			p.Pivot = st.ID
		}
	}
	return p
}

// stepOf declares a step; keys whose name ends in "?" cannot be read.
func stepOf(id, kind string, class backstay.Class, keys ...string) backstay.Step {
	st := backstay.Step{ID: id, Before: map[backstay.Key]string{}, Prepared: backstay.Prepared{
		Kind: kind, Class: class, Effect: backstay.Idempotent, Fence: backstay.Leased, HasUndo: class != backstay.Irreversible,
		Restorable: class == backstay.Exact, Retries: 3,
		Timeout: backstay.Duration(time.Minute), UndoTimeout: backstay.Duration(time.Minute), Summary: "do " + id, UndoSummary: "undo " + id,
	}}
	for _, k := range keys {
		name, opaque := strings.CutSuffix(k, "?")
		st.Keys = append(st.Keys, backstay.Key(name))
		if !opaque {
			st.Before[backstay.Key(name)] = "as it was"
		}
	}
	return st
}

func with(st backstay.Step, change func(*backstay.Step)) backstay.Step {
	change(&st)
	return st
}

// twenty is a plan of 20 steps of all sorts.
func twenty() *plan.Plan {
	steps := []backstay.Step{}
	for i := range 20 {
		id := fmt.Sprintf("step-%02d", i+1)
		switch i % 5 {
		case 0:
			steps = append(steps, stepOf(id, "file", backstay.Exact, "file:/srv/shop/"+id))
		case 1:
			steps = append(steps, with(stepOf(id, "run", backstay.Equivalent, "run:shop/"+id), func(s *backstay.Step) {
				s.Effect, s.Modulo = backstay.Probed, []string{"what the read command does not show"}
			}))
		case 2:
			steps = append(steps, with(stepOf(id, "service", backstay.Exact, "service:"+id), func(s *backstay.Step) {
				s.Want = backstay.Image{s.Keys[0]: backstay.PartValue(map[string]string{"release": "v3"})}
			}))
		case 3:
			steps = append(steps, with(stepOf(id, "run", backstay.Compensated, "run:shop/"+id+"?"), func(s *backstay.Step) { s.Effect = backstay.AtMostOnce }))
		case 4:
			steps = append(steps, with(stepOf(id, "http", backstay.Equivalent, "http:shop/"+id), func(s *backstay.Step) { s.Effect = backstay.IdempotencyKey }))
		}
	}
	return frozen(steps...)
}

// BenchmarkTwentySteps is the goal: 20 steps, each single fault, in 10 s on two
// processors.
func BenchmarkTwentySteps(b *testing.B) {
	p := twenty()
	for b.Loop() {
		r, err := Run(b.Context(), p, options())
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(len(r.Cells)), "cells")
		b.ReportMetric(float64(r.Tallies[0].Failed+r.Tallies[0].Hung), "bad")
	}
}

// complain reports every cell that is not good.
func complain(t *testing.T, r *backstay.DrillReport) {
	t.Helper()
	n := 0
	for _, c := range r.Cells {
		if c.Result == backstay.DrillFailed || c.Result == backstay.DrillHung {
			if n++; n < 15 {
				t.Errorf("%s at %q: %s, ended %s: %+v", c.Fault, c.Step, c.Result, c.End, c.Findings)
			}
		}
	}
}

// shapes are small sound plans, each with something that the others do not have.
func shapes() map[string]*plan.Plan {
	alone := func(s *backstay.Step) { s.Needs = []string{} }
	file := func(id string, keys ...string) backstay.Step { return stepOf(id, "file", backstay.Exact, keys...) }
	wait := backstay.Step{ID: "ok", Prepared: backstay.Prepared{
		Kind: "approve", Class: backstay.Exact, Effect: backstay.Idempotent, Summary: "wait",
		Hold: &backstay.Hold{From: []string{"sre"}, Count: 2, Within: backstay.Duration(time.Hour), NotAuthor: true},
	}}
	move := func(id string, weight int) backstay.Step {
		return with(stepOf(id, "traffic", backstay.Exact, "route:shop"), func(s *backstay.Step) {
			s.Dial = s.Keys[0]
			s.Want = backstay.Image{s.Dial: backstay.PartValue(map[string]int{"canary": weight})}
		})
	}
	mixed := with(stepOf("script", "run", backstay.Compensated, "file:/srv/app", "run:shop/script?"), func(s *backstay.Step) { s.Restorable = true })
	final := with(stepOf("drop", "run", backstay.Irreversible, "run:shop/drop?"), func(s *backstay.Step) {
		s.Pivot, s.Effect, s.Irreversible = true, backstay.AtMostOnce, "data goes"
	})
	return map[string]*plan.Plan{
		"one":      frozen(file("a", "file:/srv/a")),
		"parallel": frozen(with(file("a", "file:/srv/a"), alone), with(file("b", "file:/srv/b"), alone), with(mixed, alone)),
		"shared":   frozen(file("tree", "file:/srv/app"), file("below", "file:/srv/app/etc"), file("again", "file:/srv/app")),
		"dial":     frozen(file("a", "file:/srv/a"), move("ten", 10), move("fifty", 50), move("all", 100)),
		"wait":     frozen(file("a", "file:/srv/a"), wait, file("b", "file:/srv/b")),
		"pivot":    frozen(file("a", "file:/srv/a"), wait, final, file("b", "file:/srv/b")),
		"command": frozen(with(stepOf("seed", "run", backstay.Equivalent, "run:shop/seed"), func(s *backstay.Step) {
			s.Effect, s.Modulo = backstay.Probed, []string{"what the read command does not show"}
		}), with(stepOf("mail", "run", backstay.Compensated, "run:shop/mail?"), func(s *backstay.Step) { s.Effect = backstay.AtMostOnce })),
		"strict": func() *plan.Plan {
			p := frozen(file("a", "file:/srv/a"))
			p.Require = &plan.Require{Drill: &plan.RequireDrill{MaxAge: backstay.Duration(time.Hour)}}
			return p
		}(),
		"empty": frozen(file("a", "file:/srv/a"), stepOf("nothing", "run", backstay.Exact)),
	}
}

// TestShapes: rollback restores sound plans, whatever their shape, so no cell
// fails.
func TestShapes(t *testing.T) {
	t.Parallel()
	for name, p := range shapes() {
		if raceDetector && name != "parallel" && name != "dial" {
			continue // a drill costs many times as much then; CI runs all without it too
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			before := p.Digest()
			r, err := Run(t.Context(), p, options())
			if err != nil {
				t.Fatal(err)
			}
			complain(t, r)
			if tally := r.Tallies[0]; tally.NotRun > tally.Cells/2 {
				t.Errorf("most cells were not run: %+v", tally)
			}
			if p.Digest() != before {
				t.Error("the drill changed the plan that it was given")
			}
			if r.Plan != before {
				t.Errorf("the report speaks of plan %s, want %s", r.Plan, before)
			}
		})
	}
}

// TestSameAgain: drilling twice shows the same.
func TestSameAgain(t *testing.T) {
	t.Parallel()
	if raceDetector {
		t.Skip("without the race detector only: it costs minutes")
	}
	p := shapes()["wait"]
	var cells [2][]backstay.DrillCell
	for i := range cells {
		r, err := Run(t.Context(), p, options())
		if err != nil {
			t.Fatal(err)
		}
		cells[i] = r.Cells
	}
	if diff := cmp.Diff(cells[0], cells[1]); diff != "" {
		t.Errorf("drilled twice (-first +second):\n%s", diff)
	}
}

// TestReport holds the format: a drill of one step, but for how long it took.
func TestReport(t *testing.T) {
	t.Parallel()
	o := options()
	o.Now = func() time.Time { return time.Date(2026, 11, 25, 10, 0, 0, 0, time.UTC) }
	r, err := Run(t.Context(), shapes()["command"], o)
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("testdata", "command.json")
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(got), string(want)); diff != "" {
		t.Errorf("%s (-got +want; -update writes it):\n%s", path, diff)
	}
}

// TestOnly: a part of the matrix is no evidence, and names that fit nothing are
// refused.
func TestOnly(t *testing.T) {
	t.Parallel()
	p := shapes()["wait"]
	o := options()
	o.Only = Only{Step: "ok", Fault: "abort"}
	r, err := Run(t.Context(), p, o)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Cells) != 1 || r.Whole || r.Cells[0].Result != backstay.DrillRestored {
		t.Errorf("one cell: got %+v, whole %v", r.Cells, r.Whole)
	}
	for _, only := range []Only{{Step: "nobody"}, {Fault: "typhoon"}, {Step: "ok", Fault: "do-lies"}} {
		o.Only = only
		if _, err := Run(t.Context(), p, o); backstay.HintOf(err) == "" && !isRefused(err) {
			t.Errorf("%+v: got %v, want a refusal", only, err)
		}
	}
	o.Only = Only{}
	if _, err := Run(t.Context(), &plan.Plan{Reverts: "x", Steps: p.Steps}, o); !isRefused(err) {
		t.Errorf("a revert plan: got %v, want a refusal", err)
	}
	if _, err := Run(t.Context(), &plan.Plan{}, o); !isRefused(err) {
		t.Errorf("no steps: got %v, want a refusal", err)
	}
}

func isRefused(err error) bool {
	var refused *backstay.RefusedError
	return errors.As(err, &refused)
}

// TestCancelled: the end of the context ends a drill, with nothing left running.
func TestCancelled(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	o := options()
	o.Progress = func(int, int) { cancel() }
	if _, err := Run(ctx, shapes()["one"], o); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
}
