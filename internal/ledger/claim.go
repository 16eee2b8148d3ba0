package ledger

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/backstay-dev/backstay"
)

// openStates is the SQL list of the states that need an engine.
const openStates = "('planned', 'approved', 'running', 'holding', 'committed', 'rolling_back')"

// current makes sure that this node is registered and its lease is good.
func (s *Store) current(ctx context.Context) error {
	if err := s.Start(ctx); err != nil {
		return err
	}
	if s.held.left(s.opt.Clock.Boot()) > 0 {
		return nil
	}
	if err := s.renew(ctx, false); err != nil {
		if errors.Is(err, ErrLapsed) {
			s.held.lapse()
		}
		return fmt.Errorf("renew lease: %w", err)
	}
	if s.held.left(s.opt.Clock.Boot()) == 0 {
		return s.lapsedError()
	}
	return nil
}

// Claim takes a deployment that nobody drives, whose owner's lease ran out, or
// that is this node's own, under the next epoch: what an older one still
// writes is refused. A takeover from another node is recorded with it, and
// that node is declared dead: it must not act again under its old name. It
// returns an *OwnedError when another live node drives the deployment.
func (s *Store) Claim(ctx context.Context, id string) (Lease, error) {
	if err := s.current(ctx); err != nil {
		return Lease{}, fmt.Errorf("claim %s: %w", id, err)
	}
	var got claimed
	err := s.write(ctx, func(b *batch) (err error) {
		got, err = s.claim(b, id)
		return err
	})
	if err != nil {
		if _, ok := errors.AsType[*OwnedError](err); ok {
			return Lease{}, err
		}
		return Lease{}, fmt.Errorf("claim %s: %w", id, err)
	}
	if s.backend.Embedded {
		s.endStopped(ctx, true)
	}
	return s.keep(got), nil
}

// claimed is a claim as it was written.
type claimed struct {
	lease    Lease
	takeover []sealed // the entry that records it, if there is one
	salt     []byte   // of the entry before it
}

// keep remembers a claim that is durable.
func (s *Store) keep(c claimed) Lease {
	s.known.took(c.lease, c.salt, c.takeover)
	return c.lease
}

func (s *Store) claim(b *batch, id string) (claimed, error) {
	d, err := s.row(b, id)
	if err != nil {
		return claimed{}, err
	}
	if err := s.refuseUnfit(b); err != nil {
		return claimed{}, err
	}
	taken := d.Owner != nil && d.Owner.Node != s.node
	if taken && d.Owner.Live {
		return claimed{}, refusal{&OwnedError{Deployment: id, Owner: *d.Owner}}
	}
	lease := Lease{Deployment: id, Generation: b.generation, Epoch: d.Epoch + 1, N: d.N}
	salt, err := b.saltOf(id, d.N)
	if err != nil {
		return claimed{}, err
	}
	var entries []sealed
	if taken {
		body := backstay.TakeoverBody{Node: s.node, PID: os.Getpid(), Previous: d.Owner.Node, Reason: "the lease of the previous owner ran out"}
		entry := backstay.Entry{Kind: backstay.EntryTakeover, Body: backstay.Canonical(body)}
		if entries, err = number([]backstay.Entry{entry}, id, d.N, lease.Epoch, b.wall()); err != nil {
			return claimed{}, err
		}
		if _, err := b.ExecContext(b.ctx, "UPDATE node SET dead = 1 WHERE id = $1", d.Owner.Node); err != nil {
			return claimed{}, err
		}
	}
	const take = `UPDATE deployment SET owner = $1, owned_since = $2, epoch = $3, n = n + $4 WHERE id = $5 AND epoch = $6`
	n, err := exec(b.ctx, b, take, s.node, b.wall().UnixMicro(), lease.Epoch, len(entries), id, d.Epoch)
	if err != nil {
		return claimed{}, err
	}
	if n != 1 {
		return claimed{}, fmt.Errorf("%w: deployment %s changed under its lock", ErrDamaged, id)
	}
	lease.N += int64(len(entries))
	return claimed{lease: lease, takeover: entries, salt: salt}, b.append(entries...)
}

// row reads a deployment for a change, with its owner: both rows are locked,
// so that the owner cannot renew its lease between the look and the takeover.
func (s *Store) row(b *batch, id string) (Deployment, error) {
	if lock := s.backend.ForUpdate; lock != "" {
		for _, query := range []string{
			"SELECT id FROM deployment WHERE id = $1" + lock,
			"SELECT id FROM node WHERE id = (SELECT owner FROM deployment WHERE id = $1)" + lock,
		} {
			var locked string
			if err := b.QueryRowContext(b.ctx, query, id).Scan(&locked); err != nil && !isNoRows(err) {
				return Deployment{}, err
			}
		}
	}
	now, err := b.now()
	if err != nil {
		return Deployment{}, err
	}
	found, err := s.deployments(b.ctx, b, now, "WHERE d.id = $1", id)
	if err != nil {
		return Deployment{}, err
	}
	if len(found) == 0 {
		return Deployment{}, refusal{fmt.Errorf("deployment %s: %w", id, ErrNotFound)}
	}
	return found[0], nil
}

// refuseUnfit refuses to hand a deployment to a node whose own lease is gone.
func (s *Store) refuseUnfit(b *batch) error {
	now, err := b.now()
	if err != nil {
		return err
	}
	var fit int64
	const query = "SELECT COUNT(*) FROM node WHERE id = $1 AND dead = 0 AND boot = $2 AND lease_until > $3"
	if err := b.QueryRowContext(b.ctx, query, s.node, s.boot(), now).Scan(&fit); err != nil {
		return err
	}
	if fit == 0 {
		return refusal{s.lapsedError()}
	}
	return nil
}

// ClaimNext claims up to limit deployments that need an engine and have none:
// not settled, their wake time has come, and nobody or a dead node owns them.
// Those that were left alone longest come first.
func (s *Store) ClaimNext(ctx context.Context, limit int) ([]Lease, error) {
	if err := s.current(ctx); err != nil {
		return nil, fmt.Errorf("claim next: %w", err)
	}
	now, err := s.now(ctx, s.backend.Read)
	if err != nil {
		return nil, s.reading("claim next in", s.backend.Where, err)
	}
	// Most polls find nothing: they cost a read.
	ids, err := s.unowned(ctx, s.backend.Read, now, 1, "")
	if err != nil || len(ids) == 0 {
		return nil, s.reading("claim next in", s.backend.Where, err)
	}
	var got []claimed
	err = s.write(ctx, func(b *batch) error {
		got = nil
		now, err := b.now()
		if err != nil {
			return err
		}
		if err := s.refuseUnfit(b); err != nil {
			return err
		}
		ids, err := s.unowned(b.ctx, b, now, limit, s.backend.SkipLocked)
		if err != nil {
			return err
		}
		for _, id := range ids {
			one, err := s.claim(b, id)
			if _, refused := errors.AsType[refusal](err); refused {
				continue // its owner came back between the two looks
			}
			if err != nil {
				return err
			}
			got = append(got, one)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("claim next: %w", err)
	}
	if s.backend.Embedded && len(got) > 0 {
		s.endStopped(ctx, true)
	}
	leases := make([]Lease, len(got))
	for i, one := range got {
		leases[i] = s.keep(one)
	}
	return leases, nil
}

// unowned lists deployments that an agent should take.
func (s *Store) unowned(ctx context.Context, q querier, now int64, limit int, lock string) ([]string, error) {
	const query = `SELECT id FROM deployment WHERE state IN ` + openStates + ` AND (wake_boot <> $1 OR wake_at <= $2)
		AND (owner IS NULL OR NOT EXISTS (SELECT 1 FROM node
			WHERE node.id = deployment.owner AND node.dead = 0 AND node.boot = $1 AND node.lease_until > $2))
		ORDER BY wake_at, born LIMIT $3`
	rows, err := q.QueryContext(ctx, query+lock, s.boot(), now, limit)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var ids []string
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, rows.Err()
}
