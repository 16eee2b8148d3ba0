package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/backstay-dev/backstay"
)

// ErrRewound is wrapped when the ledger holds less of a deployment than it
// acknowledged: a failover or a restored backup lost entries.
var ErrRewound = errors.New("the ledger lost entries that it had acknowledged")

// Append records the entries and what goes with them in one durable
// transaction, and advances lease.N. It returns ErrFenced, and changes nothing,
// when the lease is not the newest any more. When the database's answer is
// lost it finds out whether the write happened. A caller that got an error and
// appends the same update again under the same lease gets one entry, not two.
func (s *Store) Append(ctx context.Context, lease *Lease, u Update) (Ack, error) {
	if lease == nil || lease.Deployment == "" {
		return Ack{}, errors.New("append: there is no lease")
	}
	entries, err := number(u.Entries, lease.Deployment, lease.N, lease.Epoch, s.opt.Clock.Wall())
	if err != nil {
		return Ack{}, fmt.Errorf("append to %s: %w", lease.Deployment, err)
	}
	if err := u.Blobs.spill(ctx, flushAt); err != nil {
		return Ack{}, fmt.Errorf("append to %s: %w", lease.Deployment, err)
	}
	blobs := u.Blobs.waiting()
	var ack Ack
	err = s.write(ctx, func(b *batch) error {
		ack, err = s.append(b, *lease, u, entries, blobs)
		return err
	})
	if errors.Is(err, ErrFenced) {
		return Ack{}, err
	}
	if err != nil {
		return Ack{}, fmt.Errorf("append to %s: %w", lease.Deployment, err)
	}
	lease.N += int64(len(entries))
	u.Blobs.written(blobs)
	return ack, nil
}

func (s *Store) append(b *batch, lease Lease, u Update, entries []sealed, blobs []content) (Ack, error) {
	wake, err := s.wakeAt(b, u.Wake)
	if err != nil {
		return Ack{}, err
	}
	disown := 0
	if u.Disown {
		disown = 1
	}
	// The fence: the first write, and none follows if it finds nothing.
	const fenced = `UPDATE deployment SET n = n + $1, state = CASE WHEN $2 = '' THEN state ELSE $2 END,
		wake_at = $3, wake_boot = $4, updated_at = $5, owner = CASE WHEN $6 = 1 THEN NULL ELSE owner END
		WHERE id = $7 AND epoch = $8 AND owner = $9 AND n = $10 RETURNING waiting, reverts`
	var waiting int64
	var reverts string
	err = b.QueryRowContext(b.ctx, fenced, len(entries), string(u.State), wake, s.boot(), b.wall().UnixMicro(), disown,
		lease.Deployment, lease.Epoch, s.node, lease.N).Scan(&waiting, &reverts)
	if isNoRows(err) {
		return s.unmatched(b, lease, entries)
	}
	if err != nil {
		return Ack{}, err
	}
	for _, c := range blobs {
		if err := c.insert(b); err != nil {
			return Ack{}, err
		}
	}
	if err := b.append(entries...); err != nil {
		return Ack{}, err
	}
	consumed, err := s.consume(b, lease.Deployment, u.Consumed, lease.N+int64(len(entries)))
	if err != nil {
		return Ack{}, err
	}
	if err := s.project(b, lease.Deployment, u); err != nil {
		return Ack{}, err
	}
	if err := s.moved(b, lease.Deployment, reverts, u.State); err != nil {
		return Ack{}, err
	}
	head, err := b.head()
	return Ack{Head: head, Signals: waiting > consumed}, err
}

// wakeAt is when the deployment may be claimed by anybody, on the clock that
// leases live by; 0 is at once.
func (s *Store) wakeAt(b *batch, wake time.Duration) (int64, error) {
	if wake <= 0 {
		return 0, nil
	}
	now, err := b.now()
	return now + wake.Microseconds(), err
}

// unmatched says why the fenced update found nothing: another owner, or this
// very update is in the ledger already.
func (s *Store) unmatched(b *batch, lease Lease, entries []sealed) (Ack, error) {
	var owner *string
	var epoch, n, waiting int64
	const query = "SELECT owner, epoch, n, waiting FROM deployment WHERE id = $1"
	err := b.QueryRowContext(b.ctx, query, lease.Deployment).Scan(&owner, &epoch, &n, &waiting)
	switch {
	case isNoRows(err):
		return Ack{}, refusal{fmt.Errorf("deployment %s: %w", lease.Deployment, ErrNotFound)}
	case err != nil:
		return Ack{}, err
	case epoch == lease.Epoch && n < lease.N:
		return Ack{}, refusal{&backstay.Error{
			Class: backstay.Permanent, Op: "append to", Subject: lease.Deployment,
			Err:  fmt.Errorf("%w: %d entries are there, %d were acknowledged", ErrRewound, n, lease.N),
			Hint: "stop all nodes and compare the database with its standby or backup before you go on",
		}}
	case epoch != lease.Epoch || n <= lease.N:
		return Ack{}, refusal{ErrFenced}
	}
	same, err := s.same(b, lease, entries, n)
	if err != nil {
		return Ack{}, err
	}
	if !same {
		if owner == nil || *owner != s.node {
			return Ack{}, refusal{ErrFenced}
		}
		return Ack{}, refusal{fmt.Errorf("the lease stands at entry %d, the ledger at %d: a lease has one writer", lease.N, n)}
	}
	head, err := b.head()
	return Ack{Head: head, Signals: waiting > 0}, err
}

// same reports whether the entries after the lease are these, written by an
// earlier call whose answer its caller did not get. Times may differ.
func (s *Store) same(b *batch, lease Lease, entries []sealed, n int64) (bool, error) {
	if n != lease.N+int64(len(entries)) {
		return false, nil
	}
	for i, e := range entries {
		var record []byte
		const query = "SELECT record FROM entry WHERE deployment_id = $1 AND n = $2"
		if err := b.QueryRowContext(b.ctx, query, lease.Deployment, lease.N+int64(i)+1).Scan(&record); err != nil {
			return false, err
		}
		there, err := DecodeRecord(record)
		if err != nil {
			return false, errors.Join(ErrDamaged, err)
		}
		there.At = e.entry.At
		if !bytes.Equal(backstay.Canonical(there), e.record) {
			return false, nil
		}
	}
	return true, nil
}

// project updates the rows that drift and plan read.
func (s *Store) project(b *batch, deployment string, u Update) error {
	for _, r := range u.Resources {
		at, proven := r.At, 0
		if at.IsZero() {
			at = b.wall()
		}
		if r.Proven {
			proven = 1
		}
		if r.Deployment == "" {
			r.Deployment = deployment
		}
		const upsert = `INSERT INTO resource (key, deployment_id, step, state, proven, at) VALUES ($1, $2, $3, $4, $5, $6)
			ON CONFLICT (key) DO UPDATE SET deployment_id = excluded.deployment_id, step = excluded.step,
			state = excluded.state, proven = excluded.proven, at = excluded.at`
		_, err := b.ExecContext(b.ctx, upsert, string(r.Key), r.Deployment, r.Step, string(backstay.Canonical(r.State)), proven, at.UnixMicro())
		if err != nil {
			return err
		}
	}
	for _, t := range u.Timings {
		undo := 0
		if t.Undo {
			undo = 1
		}
		const upsert = `INSERT INTO timing (release, step, undo, leaf, took) VALUES ($1, $2, $3, $4, $5)
			ON CONFLICT (release, undo, step, leaf) DO UPDATE SET took = excluded.took`
		if _, err := b.ExecContext(b.ctx, upsert, t.Release, t.Step, undo, b.edge.size, t.Took.Microseconds()); err != nil {
			return err
		}
	}
	return nil
}

// Record adds an entry that belongs to no deployment: a refusal, a note.
func (s *Store) Record(ctx context.Context, e backstay.Entry) (Head, error) {
	e.V, e.Deployment, e.N, e.Epoch = backstay.EntryFormat, "", 0, 0
	if e.At.IsZero() {
		e.At = s.opt.Clock.Wall()
	}
	e.At = e.At.UTC().Round(0)
	sealed, err := seal(e)
	if err != nil {
		return Head{}, fmt.Errorf("record %s: %w", e.Kind, err)
	}
	var head Head
	err = s.write(ctx, func(b *batch) error {
		if err := b.append(sealed); err != nil {
			return err
		}
		head, err = b.head()
		return err
	})
	if err != nil {
		return Head{}, fmt.Errorf("record %s: %w", e.Kind, err)
	}
	return head, nil
}
