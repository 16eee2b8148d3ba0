package proxy

import (
	"context"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/backstay-dev/backstay/internal/proxy/wire"
)

// gate bounds the requests of one side: so many at once, so many more that wait.
type gate struct {
	limits  wire.Queue
	slots   *semaphore.Weighted
	waiting atomic.Int64
}

func newGate(limits wire.Queue) *gate {
	return &gate{limits: limits, slots: semaphore.NewWeighted(int64(limits.Active))}
}

// enter takes a slot, waiting its turn where there is none. False: the queue is
// full, or its wait or ctx is over.
func (g *gate) enter(ctx context.Context) bool {
	if g.slots.TryAcquire(1) {
		return true
	}
	defer g.waiting.Add(-1)
	if g.waiting.Add(1) > int64(g.limits.Waiting) {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(g.limits.Wait))
	defer cancel()
	return g.slots.Acquire(ctx, 1) == nil
}

func (g *gate) leave() { g.slots.Release(1) }
