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

// longestPause bounds the pause before a deployment is taken up again.
const longestPause = time.Minute

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

// driveUnowned drives a deployment until it is settled, ctx ends, or somebody
// else drives it. After another error it takes the deployment again: a live
// owner that does not drive would keep everybody else from it.
func (e *Engine) driveUnowned(ctx context.Context, lease ledger.Lease, o AgentOptions) {
	s, err := e.drive(ctx, lease, nil, nil)
	for pause := o.Every; err != nil && ctx.Err() == nil && !elsewhere(err); pause = min(2*pause, longestPause) {
		e.opts.Log.Warn("driving stopped; it is taken up again", "deployment", lease.Deployment, "error", err)
		rest(ctx, pause+rand.N(pause/4+1)) //nolint:gosec // jitter is not a secret
		var again ledger.Lease
		if again, err = e.store.Claim(ctx, lease.Deployment); errors.Is(err, ledger.ErrLapsed) {
			break // this node is done; Agent says so
		}
		if err == nil {
			lease = again
			s, err = e.drive(ctx, lease, nil, nil)
		}
	}
	o.Ended(s, err)
}

// elsewhere reports whether another node drives the deployment now.
func elsewhere(err error) bool {
	var owned *ledger.OwnedError
	return errors.Is(err, ledger.ErrFenced) || errors.As(err, &owned)
}
