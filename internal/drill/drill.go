package drill

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/fault"
	"github.com/backstay-dev/backstay/internal/plan"
)

// Lasts is how long what a drill showed is evidence.
const Lasts = 14 * 24 * time.Hour

// Options of a drill. All but Only and Progress are required.
type Options struct {
	ID   string
	Tool string // version of the program
	Only Only
	// Ledger opens an empty ledger that cells run on, one for each that runs at
	// the same time.
	Ledger func(ctx context.Context) (Ledger, error)
	// Settles reports whether a kind keeps something that must be settled.
	Settles func(kind string) bool
	// Now is the wall clock.
	Now func() time.Time
	// Real adds level D2; nil: D1 only.
	Real *Real
	// Progress is told, in one goroutine at a time, how many cells are done.
	Progress func(done, all int)
}

// Real is what level D2 needs.
type Real struct {
	Steps []string          // IDs of the steps whose own executors may be tried
	Not   map[string]string // why the others may not, by ID
	// Scratch says, by ID, on what steps are tried whose targets are no files.
	Scratch map[string]string
	// Try has one cell tried in a sandbox of its own.
	Try func(ctx context.Context, job Job) (Tried, error)
	// Job is what all cells have in common.
	Job Job

	broken []backstay.DrillFinding // undos that failed although nothing was wrong
}

// Run drills a frozen plan. It returns an error where the drill
// itself could not be done; what it shows, bad or good, is in the report. The
// end of ctx ends it with an error.
func Run(ctx context.Context, p *plan.Plan, o Options) (*backstay.DrillReport, error) {
	if len(p.Steps) == 0 {
		return nil, &backstay.RefusedError{What: "drill", Err: errors.New("the plan has no steps"), Hint: "add at least one step to the spec"}
	}
	if p.Reverts != "" {
		return nil, &backstay.RefusedError{
			What: "drill", Err: errors.New("the plan takes a deployment back; it can be undone only as far as that deployment can"),
			Hint: "drill the plan of the deployment itself",
		}
	}
	return run(ctx, p, newModel(p), o)
}

func run(ctx context.Context, p *plan.Plan, m *model, o Options) (*backstay.DrillReport, error) {
	if err := o.Only.check(m); err != nil {
		return nil, err
	}
	began := o.Now()
	r := &backstay.DrillReport{
		Format: backstay.DrillFormat, ID: o.ID, Release: p.Release, Version: p.Version, Environment: p.Environment,
		Plan: p.Digest(), Tool: o.Tool, At: began.UTC().Truncate(time.Second), Depth: 1, Whole: o.Only == Only{},
		Steps: []backstay.DrillStep{{}},
	}
	r.Expires = r.At.Add(Lasts)
	for _, st := range p.Steps {
		r.Steps = append(r.Steps, backstay.DrillStep{ID: st.ID, Kind: st.Kind, Class: st.Class})
	}
	cells := m.cells(o.Only)
	for _, f := range fault.Catalogue() {
		if slices.ContainsFunc(cells, func(c cell) bool { return c.name == f.Name }) {
			r.Faults = append(r.Faults, backstay.DrillFault{Name: f.Name, What: f.What, Points: f.Points})
		}
	}
	var real []cell
	if o.Real != nil {
		why, err := o.Real.settle(ctx, p)
		if err != nil {
			return nil, err
		}
		real = m.realCells(o.Only, o.Real.Steps, why)
	}
	r.Blind = m.blind(o.Real)
	told := o.teller(len(cells) + len(real))
	done, err := playAll(ctx, m, cells, o, told)
	if err == nil && o.Real != nil {
		r.Undo = map[string]backstay.Duration{}
		var more []backstay.DrillCell
		more, err = playReal(ctx, real, o.Real, r.Undo, told)
		done = append(done, more...)
	}
	if err != nil {
		return nil, err
	}
	r.Cells, r.Tallies = done, tallies(done)
	r.Took = backstay.Duration(o.Now().Sub(began).Round(time.Millisecond))
	return r, nil
}

// tallies count the cells of each level.
func tallies(cells []backstay.DrillCell) []backstay.DrillTally {
	var all []backstay.DrillTally
	for _, c := range cells {
		if len(all) == 0 || all[len(all)-1].Level != c.Level {
			all = append(all, backstay.DrillTally{Level: c.Level})
		}
		all[len(all)-1].Count(c.Result)
	}
	return all
}

// teller tells progress, one call at a time.
func (o Options) teller(all int) func() {
	var mu sync.Mutex
	done := 0
	return func() {
		mu.Lock()
		defer mu.Unlock()
		done++
		if o.Progress != nil {
			o.Progress(done, all)
		}
	}
}

// playAll plays the cells, as many at once as there are processors, each worker
// on a ledger of its own.
func playAll(ctx context.Context, m *model, cells []cell, o Options, told func()) ([]backstay.DrillCell, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	out := make([]backstay.DrillCell, len(cells))
	next := make(chan int)
	var workers sync.WaitGroup
	for range min(runtime.NumCPU(), len(cells)) {
		workers.Go(func() {
			store, err := o.Ledger(ctx)
			if err != nil {
				cancel(err)
				return
			}
			for i := range next {
				locked := false
				if out[i], locked = play(ctx, m, cells[i], store, i, o.Settles); locked {
					if store, err = reopened(ctx, store, o); err != nil {
						cancel(err)
						return
					}
				}
				told()
			}
			if err := store.Close(); err != nil {
				cancel(err)
			}
		})
	}
	for i := range cells {
		select {
		case next <- i:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
	}
	close(next)
	workers.Wait()
	return out, context.Cause(ctx)
}

// reopened is a fresh ledger in place of one whose locks a cell left behind.
func reopened(ctx context.Context, old Ledger, o Options) (Ledger, error) {
	if err := old.Close(); err != nil {
		return nil, err
	}
	return o.Ledger(ctx)
}

// play plays one cell, and says whether it left locks that the next must not see.
func play(ctx context.Context, m *model, c cell, store Ledger, n int, settles func(string) bool) (result backstay.DrillCell, locked bool) {
	if c.skip != "" {
		return backstay.DrillCell{Level: c.level, Step: c.step, Fault: c.name, Result: backstay.DrillNotRun, Reason: c.skip}, false
	}
	t := newTrial(c, m, store, n, settles)
	result = t.run(ctx).verdict()
	return result, t.locks(ctx)
}

// Body is what the ledger keeps of a drill; report is the address of the whole.
func Body(r *backstay.DrillReport, report string) backstay.DrillBody {
	return backstay.DrillBody{
		ID: r.ID, Release: r.Release, Plan: r.Plan, Tool: r.Tool, Depth: r.Depth, Tallies: r.Tallies, Blind: len(r.Blind),
		Undo: r.Undo, Took: r.Took, Expires: r.Expires, Report: report,
	}
}
