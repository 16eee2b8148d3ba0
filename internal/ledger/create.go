package ledger

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/backstay-dev/backstay"
)

// Create records a new deployment, its locks and its first entries in one
// transaction, owned by this node at epoch 1. It returns a *LockedError, and
// records nothing, when a key overlaps one that another deployment holds.
func (s *Store) Create(ctx context.Context, d NewDeployment) (Lease, error) {
	if err := s.checkNew(d); err != nil {
		return Lease{}, fmt.Errorf("create deployment: %w", err)
	}
	if !d.Detached {
		if err := s.current(ctx); err != nil {
			return Lease{}, err
		}
	}
	entries, err := number(d.Entries, d.ID, 0, 1, s.opt.Clock.Wall())
	if err != nil {
		return Lease{}, fmt.Errorf("create deployment: %w", err)
	}
	var lease Lease
	err = s.write(ctx, func(b *batch) error {
		lease, err = s.create(b, d, entries)
		return err
	})
	if err != nil {
		if _, ok := errors.AsType[*LockedError](err); ok {
			return Lease{}, err
		}
		return Lease{}, fmt.Errorf("create deployment: %w", err)
	}
	if d.Detached {
		return Lease{}, nil
	}
	s.known.took(lease, entries[len(entries)-1].salt, nil)
	return lease, nil
}

func (s *Store) checkNew(d NewDeployment) error {
	id, err := uuid.Parse(d.ID)
	switch {
	case err != nil || id.String() != d.ID:
		return fmt.Errorf("its ID %q is not a UUID in lower case", d.ID)
	case d.Release == "":
		return errors.New("it has no release")
	case d.PlanDigest == "":
		return errors.New("it has no plan")
	case d.State == "":
		return errors.New("it has no state")
	case len(d.Entries) == 0:
		return errors.New("it has no first entry")
	}
	return nil
}

func (s *Store) create(b *batch, d NewDeployment, entries []sealed) (Lease, error) {
	lease := Lease{Deployment: d.ID, Generation: b.generation, Epoch: 1, N: int64(len(entries))}
	if err := s.refuseKnown(b, d); err != nil {
		return lease, err
	}
	if d.State.Locks() {
		if err := s.refuseLocked(b, d.Locks); err != nil {
			return lease, err
		}
	}
	var number int64
	const last = "SELECT COALESCE(MAX(number), 0) + 1 FROM deployment WHERE release = $1"
	if err := b.QueryRowContext(b.ctx, last, d.Release).Scan(&number); err != nil {
		return lease, err
	}
	now := b.wall().UnixMicro()
	var owner any
	if !d.Detached {
		owner = s.node
	}
	const insert = `INSERT INTO deployment (id, born, release, number, version, environment, plan, reverts, reverted_by,
		author, state, owner, owned_since, epoch, n, waiting, wake_at, wake_boot, created_at, updated_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, '', $9, $10, $11, $12, $13, $14, 0, 0, '', $15, $15)`
	_, err := b.ExecContext(b.ctx, insert, d.ID, b.edge.size, d.Release, number, d.Version, d.Environment, d.PlanDigest, d.Reverts,
		string(backstay.Canonical(d.Author)), string(d.State), owner, now, lease.Epoch, lease.N, now)
	if err != nil {
		return lease, err
	}
	if err := s.lock(b, d, now); err != nil {
		return lease, err
	}
	if err := b.append(entries...); err != nil {
		return lease, err
	}
	return lease, s.moved(b, d.ID, d.Reverts, d.State)
}

// refuseKnown refuses an ID or a plan that does not fit the ledger before
// anything is written.
func (s *Store) refuseKnown(b *batch, d NewDeployment) error {
	var known, planned int64
	const query = "SELECT (SELECT COUNT(*) FROM deployment WHERE id = $1), (SELECT COUNT(*) FROM plan WHERE digest = $2)"
	if err := b.QueryRowContext(b.ctx, query, d.ID, d.PlanDigest).Scan(&known, &planned); err != nil {
		return err
	}
	switch {
	case known > 0:
		return refusal{fmt.Errorf("deployment %s is in the ledger already", d.ID)}
	case planned == 0:
		return refusal{fmt.Errorf("its plan %s: %w", d.PlanDigest, ErrNotFound)}
	}
	return nil
}

// moves reports whether moved has something to do for some deployment.
func moves(to backstay.State) bool {
	switch to {
	case "", backstay.Planned, backstay.Approved, backstay.Running, backstay.Holding:
		return false
	case backstay.Committed, backstay.Proven, backstay.RollingBack, backstay.RolledBack, backstay.Held, backstay.Closed, backstay.Refused:
	}
	return true
}

// moved does what goes with a deployment's new state.
func (s *Store) moved(b *batch, id, reverts string, to backstay.State) error {
	if to == "" {
		return nil
	}
	b.settled = b.settled || to.Settled()
	if !to.Locks() {
		if _, err := b.ExecContext(b.ctx, "DELETE FROM lock WHERE deployment_id = $1", id); err != nil {
			return err
		}
	}
	if to == backstay.Proven {
		b.later("UPDATE resource SET proven = 1 WHERE deployment_id = $1", id)
	}
	if reverts == "" {
		return nil
	}
	var err error
	switch to {
	case backstay.Committed, backstay.Proven:
		_, err = b.ExecContext(b.ctx, "UPDATE deployment SET reverted_by = $1 WHERE id = $2", id, reverts)
	case backstay.RollingBack, backstay.RolledBack:
		_, err = b.ExecContext(b.ctx, "UPDATE deployment SET reverted_by = '' WHERE id = $2 AND reverted_by = $1", id, reverts)
	case backstay.Planned, backstay.Approved, backstay.Running, backstay.Holding, backstay.Held, backstay.Closed, backstay.Refused:
	}
	return err
}
