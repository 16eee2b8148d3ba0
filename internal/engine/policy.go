package engine

import (
	"context"
	"fmt"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/plan"
)

// required refuses a plan whose policy demands evidence that the ledger does
// not have. The plan is saved by then, so that the evidence can be made of it.
func (e *Engine) required(ctx context.Context, p *plan.Plan) error {
	if p.Require == nil || p.Require.Drill == nil {
		return nil
	}
	digest := p.Digest()
	newest, at, err := e.newestDrill(ctx, digest)
	if err != nil {
		return err
	}
	why := lacking(newest, at, *p.Require.Drill, e.now())
	if why == "" {
		return nil
	}
	return &backstay.RefusedError{
		What: "policy", Err: fmt.Errorf("policy.require.drill: %s", why),
		Hint: fmt.Sprintf("run `backstay drill --plan %[1]s`, look at what it shows, then `backstay deploy --plan %[1]s`", digest[:16]),
	}
}

// newestDrill is the last drill of exactly this plan, and when it was recorded.
func (e *Engine) newestDrill(ctx context.Context, digest string) (*backstay.DrillBody, time.Time, error) {
	var newest *backstay.DrillBody
	var at time.Time
	err := e.store.Walk(ctx, ledger.Query{Kind: backstay.EntryDrill, AfterLeaf: -1}, func(l ledger.Leaf) error {
		var b backstay.DrillBody
		if l.Entry.Kind == backstay.EntryDrill && l.Entry.Decode(&b) == nil && b.Plan == digest {
			newest, at = &b, l.Entry.At
		}
		return nil
	})
	if err != nil {
		return nil, at, fmt.Errorf("look for drills: %w", err)
	}
	return newest, at, nil
}

// lacking says why a drill is not what a policy demands; "" where it is.
func lacking(d *backstay.DrillBody, at time.Time, want plan.RequireDrill, now time.Time) string {
	if d == nil {
		return "this plan was not drilled"
	}
	cells, bad := 0, 0
	for _, t := range d.Tallies {
		cells += t.Cells - t.NotRun
		bad += t.Failed + t.Hung
	}
	age := now.Sub(at)
	switch {
	case cells == 0:
		return fmt.Sprintf("drill %s ran nothing", d.ID)
	case bad > want.Failed:
		return fmt.Sprintf("in drill %s %d cells failed or hung; %d may", d.ID, bad, want.Failed)
	case age > want.MaxAge.Std():
		return fmt.Sprintf("drill %s is %s old; %s are allowed", d.ID, age.Round(time.Second), want.MaxAge)
	case !now.Before(d.Expires):
		return fmt.Sprintf("drill %s expired %s", d.ID, d.Expires.UTC().Format(time.RFC3339))
	}
	return ""
}
