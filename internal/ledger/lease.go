package ledger

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/backstay-dev/backstay"
)

// tenure is this node's lease as this process knows it.
type tenure struct {
	mu      sync.Mutex
	started bool
	// until is the boot time at which gates close: that of the moment before
	// the last successful renewal was sent, plus TTL, less the margin.
	until time.Duration
	// dead is closed when others may act for this node for good: it was taken
	// over from, or the store failed. No gate opens again.
	dead   chan struct{}
	lapsed bool
}

func (t *tenure) renewed(until time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.until = max(t.until, until)
}

func (t *tenure) lapse() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.lapsed {
		t.lapsed = true
		close(t.dead)
	}
}

// left is how long gates stay open at a boot time; 0 when they are closed.
func (t *tenure) left(boot time.Duration) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.lapsed || !t.started {
		return 0
	}
	return max(0, t.until-boot)
}

// Start registers this process as a node and renews its lease until Close. It
// is idempotent. Create and Claim call it; signals and reads do without.
func (s *Store) Start(ctx context.Context) error {
	s.held.mu.Lock()
	started := s.held.started
	s.held.mu.Unlock()
	if started {
		return nil
	}
	if err := s.renew(ctx, true); err != nil {
		return fmt.Errorf("register node: %w", err)
	}
	s.held.mu.Lock()
	defer s.held.mu.Unlock()
	if !s.held.started && s.ctx.Err() == nil {
		s.held.started = true
		s.wait.Go(s.heartbeat)
	}
	return nil
}

// heartbeat renews the lease every third of it, sooner while that fails.
func (s *Store) heartbeat() {
	pause := s.opt.TTL / 3
	for {
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-s.ctx.Done():
			t.Stop()
			return
		case <-s.held.dead:
			t.Stop()
			return
		}
		pause = s.opt.TTL / 3
		err := s.renew(s.ctx, false)
		switch {
		case errors.Is(err, ErrLapsed):
			s.held.lapse()
			return
		case err != nil:
			pause = min(pause, longestWait)
		}
	}
}

// renew makes the lease last TTL from now. A node that was declared dead by
// one that took over from it is refused for good: a gate that opened again
// would let it act on what is another's now.
func (s *Store) renew(ctx context.Context, register bool) error {
	sent := s.opt.Clock.Boot()
	err := s.writeBesides(ctx, func(b *batch) error {
		now, err := b.now()
		if err != nil {
			return err
		}
		until := now + s.opt.TTL.Microseconds()
		if register {
			return s.register(b, now, until)
		}
		n, err := exec(b.ctx, b, "UPDATE node SET lease_until = $1 WHERE id = $2 AND dead = 0", until, s.node)
		if err == nil && n == 0 {
			return refusal{ErrLapsed}
		}
		return err
	})
	if err == nil {
		s.held.renewed(sent + s.opt.TTL - s.opt.Margin)
	}
	return err
}

// register adds the node's row, and drops those of nodes that are long gone
// and drive nothing.
func (s *Store) register(b *batch, now, until int64) error {
	const gone = `DELETE FROM node WHERE (boot <> $1 OR lease_until < $2)
		AND NOT EXISTS (SELECT 1 FROM deployment WHERE deployment.owner = node.id)`
	if _, err := b.ExecContext(b.ctx, gone, s.boot(), now-(24*time.Hour).Microseconds()); err != nil {
		return err
	}
	const insert = `INSERT INTO node (id, host, pid, start, version, boot, lease_until, dead, since)
		VALUES ($1, $2, $3, $4, $5, $6, $7, 0, $8) ON CONFLICT (id) DO NOTHING`
	_, err := b.ExecContext(b.ctx, insert, s.node, s.opt.Host, os.Getpid(), processStart(), s.opt.Version, s.boot(), until, b.wall().UnixMicro())
	return err
}

// leave ends this node's lease at once.
func (s *Store) leave() error {
	s.held.mu.Lock()
	started := s.held.started
	s.held.started = false
	s.held.mu.Unlock()
	if !started || s.writable() != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(s.ctx, time.Second)
	defer cancel()
	err := s.writeBesides(ctx, func(b *batch) error {
		_, err := b.ExecContext(b.ctx, "UPDATE node SET lease_until = 0, dead = 1 WHERE id = $1", s.node)
		return err
	})
	if err != nil {
		return fmt.Errorf("give up lease: %w", err)
	}
	return nil
}

// Gate must be passed before every effect. It returns ErrLapsed when this
// node's lease may have run out; else a context that ends, with ErrLapsed as
// its cause, when that moment comes and no renewal moved it. Right before an
// effect backstay.LeaseLeft asks that context once more. Both ask only the boot
// clock, so they do not wait for the database.
func (s *Store) Gate(ctx context.Context) (context.Context, context.CancelFunc, error) {
	left, err := s.leaseLeft()
	if err != nil {
		return nil, nil, err
	}
	gated, cancel := context.WithCancelCause(ctx)
	stop := make(chan struct{})
	var once sync.Once
	s.wait.Go(func() { s.guard(gated, cancel, stop, left) })
	return backstay.WithLease(gated, s.leaseLeft), func() {
		once.Do(func() { close(stop) })
		cancel(context.Canceled)
	}, nil
}

// leaseLeft is how long gates stay open, or why they are closed.
func (s *Store) leaseLeft() (time.Duration, error) {
	if left := s.held.left(s.opt.Clock.Boot()); left > 0 {
		return left, nil
	}
	if failed := s.failed.Load(); failed != nil {
		return 0, failed
	}
	return 0, s.lapsedError()
}

// guard ends a gated context when the lease may have run out. Timers stop in
// suspend and the boot clock does not, so it looks often.
func (s *Store) guard(ctx context.Context, cancel context.CancelCauseFunc, stop <-chan struct{}, left time.Duration) {
	most := min(max(s.opt.TTL/60, 5*time.Millisecond), 250*time.Millisecond)
	for {
		t := time.NewTimer(min(left, most))
		select {
		case <-t.C:
		case <-s.held.dead:
		case <-s.ctx.Done():
		case <-ctx.Done():
			t.Stop()
			return
		case <-stop:
			t.Stop()
			return
		}
		t.Stop()
		if left = s.held.left(s.opt.Clock.Boot()); left <= 0 || s.ctx.Err() != nil {
			cause := ErrLapsed
			if failed := s.failed.Load(); failed != nil {
				cause = fmt.Errorf("%w: %w", ErrLapsed, failed) // that is what a person can mend
			}
			cancel(cause)
			return
		}
	}
}

func (s *Store) lapsedError() error {
	return &backstay.Error{
		Class: backstay.Permanent, Op: "act on", Subject: s.backend.Where, Err: ErrLapsed,
		Hint: "run `backstay recover`: whoever holds the lease goes on from the ledger",
	}
}
