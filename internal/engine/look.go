package engine

import (
	"context"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/plan"
)

// Look reads the keys of every step of a plan as they are now, outside any
// deployment: what drift is found by. It changes and stores nothing. Keys that
// cannot be read have Unreadable set.
func (e *Engine) Look(ctx context.Context, p *plan.Plan) map[string]backstay.Image {
	scrub := newScrubber(e.opts.Secrets)
	images := make(map[string]backstay.Image, len(p.Steps))
	for _, st := range p.Steps {
		if !st.Waits() && ctx.Err() == nil {
			images[st.ID] = e.glance(ctx, st, scrub)
		}
	}
	return images
}
