package engine

import (
	"context"
	"fmt"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/plan"
)

// everything is a limit that is none.
const everything = 1 << 30

// compatible refuses a plan that would leave a version on a schema that it cannot
// use, by what the ledger says now.
func (e *Engine) compatible(ctx context.Context, p *plan.Plan) error {
	steps := make([]backstay.Prepared, 0, len(p.Steps))
	for _, st := range p.Steps {
		steps = append(steps, st.Prepared)
	}
	s, err := e.standing(ctx, p.Environment, p.Reverts, steps)
	if err != nil {
		return err
	}
	if problems := p.Incompatible(s); len(problems) > 0 {
		return &backstay.RefusedError{What: "compatibility", Problems: problems}
	}
	return nil
}

// standing reads which ranges of versions are in force for the schemas of an
// environment, and which versions are live of the releases that these or the steps
// name. without is a deployment that counts as taken back.
func (e *Engine) standing(ctx context.Context, environment, without string, steps []backstay.Prepared) (plan.Standing, error) {
	r := standings{e: e, environment: environment, without: without, plans: map[string]*plan.Plan{}}
	s := plan.Standing{Live: map[string][]plan.Live{}}
	keys, err := e.store.Keys(ctx, backstay.SchemaKind)
	if err != nil {
		return s, fmt.Errorf("read which schemas there are: %w", err)
	}
	named := map[string]bool{}
	for _, key := range keys {
		err := r.walk(ctx, ledger.Filter{Key: key}, func(d ledger.Deployment, p *plan.Plan) bool {
			said, ok := sayingOf(p, key)
			if !ok {
				return false
			}
			s.Ranges = append(s.Ranges, plan.Range{Key: key, For: said.Schema.For, Deployment: d.Name, Step: said.ID})
			return true
		})
		if err != nil {
			return s, err
		}
	}
	for _, said := range s.Ranges {
		for release := range said.For {
			named[release] = true
		}
	}
	for _, st := range steps {
		if st.Schema != nil {
			for release := range st.Schema.For {
				named[release] = true
			}
		}
	}
	for release := range named {
		err := r.walk(ctx, ledger.Filter{Release: release}, func(d ledger.Deployment, p *plan.Plan) bool {
			if !p.Brings() {
				return false
			}
			s.Live[release] = append(s.Live[release], plan.Live{Version: d.Version, Deployment: d.Name})
			return true
		})
		if err != nil {
			return s, err
		}
	}
	return s, nil
}

// sayingOf is the last step of a plan that decides the schema of a key.
func sayingOf(p *plan.Plan, key backstay.Key) (said backstay.Step, ok bool) {
	for _, st := range p.Steps {
		for _, k := range st.Keys {
			if k == key && st.Schema != nil {
				said, ok = st, true
			}
		}
	}
	return said, ok
}

// standings walks through the deployments that are in effect.
type standings struct {
	e           *Engine
	environment string
	without     string
	plans       map[string]*plan.Plan // by digest
}

// walk gives tell the deployments that may be in effect, newest first, until it
// took one that certainly is. One that is not settled, or is held, may go either
// way: what was before it is given too, and it is given behind any other.
func (r standings) walk(ctx context.Context, f ledger.Filter, tell func(ledger.Deployment, *plan.Plan) bool) error {
	f.Limit = everything
	f.States = []backstay.State{
		backstay.Planned, backstay.Approved, backstay.Running, backstay.Holding, backstay.Committed, backstay.Proven,
		backstay.RollingBack, backstay.Held, backstay.Closed,
	}
	all, err := r.e.store.List(ctx, f)
	if err != nil {
		return fmt.Errorf("list deployments: %w", err)
	}
	back, doubtful, certain := map[string]bool{}, map[string]bool{}, false
	for _, d := range all {
		switch {
		case d.ID == r.without || d.Environment != r.environment || back[d.ID]:
			continue
		case d.Reverts != "" && d.State == backstay.Proven && !doubtful[d.ID]:
			back[d.Reverts] = true
			continue
		case d.Reverts != "":
			doubtful[d.Reverts] = true
			continue
		case certain && (d.State == backstay.Proven || d.State == backstay.Closed):
			continue
		}
		p, err := r.plan(ctx, d)
		if err != nil {
			return err
		}
		if tell(d, p) && d.State == backstay.Proven && !doubtful[d.ID] {
			certain = true
		}
	}
	return nil
}

func (r standings) plan(ctx context.Context, d ledger.Deployment) (*plan.Plan, error) {
	if p, known := r.plans[d.PlanDigest]; known {
		return p, nil
	}
	data, err := r.e.store.Plan(ctx, d.PlanDigest)
	if err != nil {
		return nil, fmt.Errorf("read the plan of %s: %w", d.Name, err)
	}
	p, err := plan.Decode(data)
	if err != nil {
		return nil, fmt.Errorf("read the plan of %s: %w", d.Name, err)
	}
	r.plans[d.PlanDigest] = p
	return p, nil
}
