package traffic

import (
	"fmt"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/traffic/router"
)

// Turn makes of a move of one side's weight the move that gives this side
// another share, in percent: what a planned way back in stages is made of. It
// waits until the side that gets more is ready for it.
func (k *Kind) Turn(step backstay.Step, percent int) (backstay.Prepared, error) {
	b, r, t, err := k.opened(step)
	if err != nil {
		return backstay.Prepared{}, err
	}
	if b.Move == nil || b.Other == "" {
		return backstay.Prepared{}, fmt.Errorf("turn step %s: it is no move of one side's weight", step.ID)
	}
	if percent < 0 || percent > 100 {
		return backstay.Prepared{}, fmt.Errorf("turn step %s: %d is not from 0 to 100", step.ID, percent)
	}
	b.Move = router.Nonzero(map[string]int{b.Side: percent, b.Other: 100 - percent})
	b.Within = defaultWithin // the side was started a moment ago
	p, err := b.prepared(k.Name(), r, t, backstay.Request{Timeout: step.Timeout, UndoTimeout: step.UndoTimeout})
	p.Retries = step.Retries
	return p, err
}
