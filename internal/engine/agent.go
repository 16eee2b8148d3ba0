package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/backstay-dev/backstay/internal/ledger"
)

// AgentOptions of a long-running driver of unowned deployments.
type AgentOptions struct {
	// Parallel bounds how many deployments are driven at once; zero: 50.
	Parallel int
	// Every is the pause between looks for work; zero: one second. Jitter of
	// up to a quarter keeps a herd of agents apart.
	Every time.Duration
	// Ended is told how each deployment ended; nil discards. err is nil for a
	// settled one.
	Ended func(s Summary, err error)
}

// Agent claims unowned unsettled deployments and drives them, until ctx ends.
// Deployments under way then are left as they are, for the next owner. It
// returns ledger.ErrLapsed when another node took over from this one (it slept
// past its lease): the store must be opened anew, as a new node.
func (e *Engine) Agent(ctx context.Context, o AgentOptions) error {
	if o.Parallel <= 0 {
		o.Parallel = 50
	}
	if o.Every <= 0 {
		o.Every = time.Second
	}
	if o.Ended == nil {
		o.Ended = func(Summary, error) {}
	}
	if err := e.store.Start(ctx); err != nil {
		return err
	}
	var work sync.WaitGroup
	defer work.Wait()
	slots := make(chan struct{}, o.Parallel)
	for {
		free := cap(slots) - len(slots)
		if free > 0 {
			leases, err := e.store.ClaimNext(ctx, free)
			if errors.Is(err, ledger.ErrLapsed) {
				return fmt.Errorf("look for work: %w", err)
			}
			if err != nil && ctx.Err() == nil {
				e.opts.Log.Warn("looking for work failed", "error", err)
			}
			for _, lease := range leases {
				slots <- struct{}{}
				work.Go(func() {
					defer func() { <-slots }()
					e.driveUnowned(ctx, lease, o)
				})
			}
		}
		pause := time.NewTimer(o.Every + rand.N(o.Every/4+1)) //nolint:gosec // jitter is not a secret
		select {
		case <-ctx.Done():
			pause.Stop()
			return nil
		case <-pause.C:
		}
	}
}

func (e *Engine) driveUnowned(ctx context.Context, lease ledger.Lease, o AgentOptions) {
	s, err := e.drive(ctx, lease, nil, nil)
	if err != nil && !errors.Is(err, ErrStopped) {
		e.opts.Log.Warn("driving stopped", "deployment", lease.Deployment, "error", err)
	}
	o.Ended(s, err)
}
