package drill

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"sync"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/fault"
	"github.com/backstay-dev/backstay/internal/plan"
)

// settle finds out which steps run in a sandbox at all: the plan is tried without
// a fault, and a step that fails there (it needs the network, or a process that
// runs outside) is modelled instead. So is one whose undo fails there, but that
// is told as a failure too: nobody can know that it is not broken outside. It
// returns why nothing can be tried, or "".
func (r *Real) settle(ctx context.Context, p *plan.Plan) (string, error) {
	r.Job.Plan = json.RawMessage(p.Encode())
	for len(r.Steps) > 0 {
		r.Job.Real = r.Steps
		got, err := try(ctx, cell{level: LevelReal, name: fault.Commits}, r.Job, r.Try)
		if err != nil {
			return "", err
		}
		if got.Cell.Result == backstay.DrillRestored {
			broken, err := r.undoes(ctx)
			if err != nil || !broken {
				return "", err
			}
			continue
		}
		why := got.Cell.Reason
		for _, f := range got.Cell.Findings {
			why = f.Text
			break
		}
		if !slices.Contains(r.Steps, got.Stuck) {
			return "the plan does not run in a sandbox, even without a fault: " + why, nil
		}
		r.leave(got.Stuck, "in a sandbox it does not run, even without a fault: "+why)
	}
	return "no step of the plan runs in a sandbox", nil
}

// leave has a step modelled after all.
func (r *Real) leave(step, why string) {
	r.Not[step] = why
	r.Steps = slices.DeleteFunc(slices.Clone(r.Steps), func(id string) bool { return id == step })
}

// undoes has everything undone, and leaves the steps whose undo fails although
// nothing is made to.
func (r *Real) undoes(ctx context.Context) (broken bool, err error) {
	got, err := try(ctx, cell{level: LevelReal, name: fault.VerifyFails}, r.Job, r.Try)
	if err != nil {
		return false, err
	}
	for _, f := range got.Broken {
		r.broken = append(r.broken, f)
		r.leave(f.Step, "in a sandbox its undo fails, although nothing is wrong: it is broken, or it needs what is not there")
	}
	return len(got.Broken) > 0, nil
}

// playReal has the cells of level D2 tried, each in a sandbox of its own, as
// many at once as there are processors. undo is given the times of undos of the
// cell in which verify fails.
func playReal(ctx context.Context, cells []cell, real *Real, undo map[string]backstay.Duration, told func()) ([]backstay.DrillCell, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	out := make([]backstay.DrillCell, len(cells))
	slots := make(chan struct{}, runtime.NumCPU())
	var mu sync.Mutex
	var trying sync.WaitGroup
	for i, c := range cells {
		slots <- struct{}{}
		trying.Go(func() {
			defer func() { <-slots }()
			if ctx.Err() != nil {
				return
			}
			got, err := try(ctx, c, real.Job, real.Try)
			if err != nil {
				cancel(err)
				return
			}
			told()
			mu.Lock()
			defer mu.Unlock()
			out[i] = got.Cell
			if c.name != fault.VerifyFails {
				return
			}
			maps.Copy(undo, got.Undo)
			if len(real.broken) > 0 {
				out[i].Result, out[i].End = backstay.DrillFailed, backstay.Held
				out[i].Findings = slices.Concat(real.broken, out[i].Findings)
			}
		})
	}
	trying.Wait()
	return out, context.Cause(ctx)
}

// try has one cell tried.
func try(ctx context.Context, c cell, job Job, in func(context.Context, Job) (Tried, error)) (Tried, error) {
	if c.skip != "" {
		return Tried{Cell: backstay.DrillCell{Level: c.level, Step: c.step, Fault: c.name, Result: backstay.DrillNotRun, Reason: c.skip}}, nil
	}
	job.Fault, job.Step, job.Again = c.name, c.step, c.again
	got, err := in(ctx, job)
	if err != nil {
		return got, fmt.Errorf("try %s at %q in a sandbox: %w", c.name, c.step, err)
	}
	return got, nil
}
