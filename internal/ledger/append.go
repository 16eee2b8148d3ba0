package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/backstay-dev/backstay"
)

// Append records the entries and what goes with them in one durable
// transaction, and advances lease.N. It returns ErrFenced, and changes nothing,
// when the lease is not the newest any more. When the database's answer is
// lost it finds out whether the write happened. When the database lost what it
// had acknowledged, that is written again first, from memory (docs/decisions/0010);
// where it cannot be the error wraps ErrRewound. A caller that got an error and
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
	a := &appending{s: s, lease: *lease, update: u, entries: entries, blobs: u.Blobs.waiting()}
	w := &write{ctx: ctx, run: a.run, done: make(chan error, 1)}
	if a.plain() {
		w.guess = a.guess
	}
	err = s.submit(w)
	if errors.Is(err, ErrFenced) {
		s.known.forget(lease.Deployment)
		return Ack{}, err
	}
	if err != nil {
		return Ack{}, fmt.Errorf("append to %s: %w", lease.Deployment, err)
	}
	s.known.wrote(*lease, u, entries, a.blobs)
	lease.N += int64(len(entries))
	lease.Generation = max(lease.Generation, a.generation)
	u.Blobs.written(a.blobs)
	return Ack{Head: a.head, Signals: a.waiting > a.consumed}, nil
}

// appending is one call of Append: what it writes, and what that found.
type appending struct {
	s       *Store
	lease   Lease
	update  Update
	entries []sealed
	blobs   []content

	waiting, consumed int64 // signals: before it, and answered by it
	reverts           string
	generation        int64
	head              Head
}

// plain reports whether nothing of it depends on what the database holds but
// its fence.
func (a *appending) plain() bool {
	u := a.update
	pins := slices.ContainsFunc(a.entries, func(e sealed) bool { return len(e.entry.Blobs) > 0 })
	return len(a.blobs) == 0 && !pins && len(u.Consumed) == 0 && u.Wake <= 0 && !moves(u.State)
}

// guess is run where it is plain.
func (a *appending) guess(d *draft) error {
	a.generation, a.consumed = d.generation, 0
	d.must = append(d.must, a.fence(0))
	err := d.append(a.entries...)
	if err != nil {
		return err
	}
	a.s.project(d, a.lease.Deployment, a.update)
	a.head, err = d.head()
	return err
}

func (a *appending) run(b *batch) error {
	a.generation, a.consumed = b.generation, 0
	err := a.advance(b)
	if isNoRows(err) {
		if err := a.s.rejoin(b, a.lease); err != nil {
			return err
		}
		err = a.advance(b)
	}
	if isNoRows(err) {
		return a.unmatched(b)
	}
	if err != nil {
		return err
	}
	if a.consumed, err = a.s.add(b, a.lease.Deployment, a.reverts, a.update, a.entries, a.blobs, a.lease.N); err != nil {
		return err
	}
	a.head, err = b.head()
	return err
}

// fence is the first statement of an append that writes, and none follows if it
// finds nothing.
func (a *appending) fence(wake int64) Statement {
	const fenced = `UPDATE deployment SET n = n + $1, state = CASE WHEN $2 = '' THEN state ELSE $2 END,
		wake_at = $3, wake_boot = $4, updated_at = $5, owner = CASE WHEN $6 = 1 THEN NULL ELSE owner END
		WHERE id = $7 AND epoch = $8 AND owner = $9 AND n = $10 RETURNING waiting, reverts`
	disown := 0
	if a.update.Disown {
		disown = 1
	}
	return Statement{
		Query: fenced,
		Args: []any{
			len(a.entries), string(a.update.State), wake, a.s.boot(), a.s.opt.Clock.Wall().UnixMicro(), disown,
			a.lease.Deployment, a.lease.Epoch, a.s.node, a.lease.N,
		},
		Row: []any{&a.waiting, &a.reverts},
	}
}

// advance runs the fence; sql.ErrNoRows says that it found nothing.
func (a *appending) advance(b *batch) error {
	wake, err := a.s.wakeAt(b, a.update.Wake)
	if err != nil {
		return err
	}
	f := a.fence(wake)
	return b.QueryRowContext(b.ctx, f.Query, f.Args...).Scan(f.Row...)
}

// add writes what goes with a fenced update that stood at entry n before, and
// returns how many signals that waited are answered by it.
func (s *Store) add(b *batch, deployment, reverts string, u Update, entries []sealed, blobs []content, n int64) (int64, error) {
	for _, c := range blobs {
		if err := c.insert(b); err != nil {
			return 0, err
		}
	}
	if err := b.append(entries...); err != nil {
		return 0, err
	}
	consumed, err := s.consume(b, deployment, u.Consumed, n+int64(len(entries)))
	if err != nil {
		return 0, err
	}
	s.project(&b.draft, deployment, u)
	return consumed, s.moved(b, deployment, reverts, u.State)
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
func (a *appending) unmatched(b *batch) error {
	var owner *string
	var epoch, n int64
	const query = "SELECT owner, epoch, n, waiting FROM deployment WHERE id = $1"
	err := b.QueryRowContext(b.ctx, query, a.lease.Deployment).Scan(&owner, &epoch, &n, &a.waiting)
	switch {
	case isNoRows(err):
		return refusal{fmt.Errorf("deployment %s: %w", a.lease.Deployment, ErrNotFound)}
	case err != nil:
		return err
	case epoch != a.lease.Epoch || n <= a.lease.N:
		return refusal{ErrFenced}
	}
	same, err := a.s.same(b, a.lease, a.entries, n)
	if err != nil {
		return err
	}
	if !same {
		if owner == nil || *owner != a.s.node {
			return refusal{ErrFenced}
		}
		return refusal{fmt.Errorf("the lease stands at entry %d, the ledger at %d: a lease has one writer", a.lease.N, n)}
	}
	a.head, err = b.head()
	return err
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
func (s *Store) project(d *draft, deployment string, u Update) {
	for _, r := range u.Resources {
		at, proven := r.At, 0
		if at.IsZero() {
			at = d.wall()
		}
		if r.Proven {
			proven = 1
		}
		if r.Deployment == "" {
			r.Deployment = deployment
		}
		d.later(`INSERT INTO resource (key, deployment_id, step, state, proven, at) VALUES ($1, $2, $3, $4, $5, $6)
			ON CONFLICT (key) DO UPDATE SET deployment_id = excluded.deployment_id, step = excluded.step,
			state = excluded.state, proven = excluded.proven, at = excluded.at`,
			string(r.Key), r.Deployment, r.Step, string(backstay.Canonical(r.State)), proven, at.UnixMicro())
	}
	for _, t := range u.Timings {
		undo := 0
		if t.Undo {
			undo = 1
		}
		d.later(`INSERT INTO timing (release, step, undo, leaf, took) VALUES ($1, $2, $3, $4, $5)
			ON CONFLICT (release, undo, step, leaf) DO UPDATE SET took = excluded.took`,
			t.Release, t.Step, undo, d.edge.size, t.Took.Microseconds())
	}
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
