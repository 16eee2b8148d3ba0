package report

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/ledger"
)

// Past is what happened in the newest deployments of a release in one environment.
type Past struct {
	Looked   int                    `json:"looked"` // deployments, at most 50
	Ends     map[backstay.State]int `json:"by_state"`
	Lead     Spread                 `json:"lead_time"` // planned to committed
	Undo     Spread                 `json:"time_to_undo"`
	Failures []PastFailure          `json:"failures,omitempty"` // first failures, the most frequent first
	Steps    map[string]Spread      `json:"steps,omitempty"`    // how long their do took, by step ID
}

// PastFailure is how often the same thing failed first, for the same cause.
type PastFailure struct {
	Step   string         `json:"step,omitempty"`
	Check  string         `json:"check,omitempty"`
	Cause  backstay.Cause `json:"cause,omitempty"`
	Count  int            `json:"count"`
	Last   string         `json:"last"` // deployment
	At     time.Time      `json:"at"`
	Reason string         `json:"reason,omitempty"` // of the last one
}

// Lister reads deployments and their entries.
type Lister interface {
	List(ctx context.Context, f ledger.Filter) ([]ledger.Deployment, error)
	Entries(ctx context.Context, id string, afterN int64) ([]backstay.Entry, error)
}

// recent is how many deployments Past looks at.
const recent = 50

// pastOf reads the newest deployments of a release that are older than number
// before (0: all). Deployments that take others back are left out.
func pastOf(ctx context.Context, src Lister, release, environment string, before int64) (Past, error) {
	p := Past{Ends: make(map[backstay.State]int), Steps: map[string]Spread{}}
	all, err := src.List(ctx, ledger.Filter{Release: release, Limit: manyDeployments})
	if err != nil {
		return p, fmt.Errorf("list deployments of %s: %w", release, err)
	}
	tell := &pastSpans{acts: map[string]*histogram{}}
	var lead, undo histogram
	for _, d := range all {
		if p.Looked == recent {
			break
		}
		if d.Environment != environment || d.Reverts != "" || (before > 0 && d.Number >= before) {
			continue
		}
		entries, err := src.Entries(ctx, d.ID, 0)
		if err != nil {
			return p, fmt.Errorf("read deployment %s: %w", d.Name, err)
		}
		var o outline
		for _, e := range entries {
			if err := o.take(e, tell); err != nil {
				return p, fmt.Errorf("read deployment %s: entry %d: %w", d.Name, e.N, err)
			}
		}
		p.Looked++
		p.Ends[o.state]++
		if took, ok := between(o.started, o.committed); ok {
			lead.add(took)
		}
		if o.state == backstay.RolledBack {
			undo.add(o.undoing)
		}
		if !o.failedAt.IsZero() {
			p.failed(d.Name, o)
		}
	}
	p.Lead, p.Undo = lead.spread(), undo.spread()
	for step, h := range tell.acts {
		p.Steps[step] = h.spread()
	}
	slices.SortStableFunc(p.Failures, func(a, b PastFailure) int { return b.Count - a.Count })
	return p, nil
}

func (p *Past) failed(name string, o outline) {
	f := o.failure
	for i := range p.Failures {
		if x := &p.Failures[i]; x.Step == f.step && x.Check == f.check && x.Cause == f.cause {
			x.Count++
			return
		}
	}
	// Newest first: this one is the last.
	p.Failures = append(p.Failures, PastFailure{Step: f.step, Check: f.check, Cause: f.cause, Count: 1, Last: name, At: o.failedAt, Reason: f.reason})
}

func (f PastFailure) what() string {
	return (&Failure{Step: f.Step, Check: f.Check, Cause: f.Cause}).what()
}

// pastSpans keeps how long steps took.
type pastSpans struct{ acts map[string]*histogram }

var _ spans = (*pastSpans)(nil)

func (p *pastSpans) did(step string, took time.Duration) {
	if p.acts[step] == nil {
		p.acts[step] = &histogram{}
	}
	p.acts[step].add(took)
}

func (*pastSpans) undid(string, time.Duration) {}
func (*pastSpans) held(time.Duration)          {}
