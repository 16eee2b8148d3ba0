package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/backstay-dev/backstay"
)

// ErrRewound is wrapped when the ledger holds less of a deployment than it
// acknowledged and this node cannot write it again: a failover or a restored
// backup lost entries.
var ErrRewound = errors.New("the ledger lost entries that it had acknowledged")

// mark is the last leaf that this process committed; salt is nil before the first.
type mark struct {
	leaf int64
	salt []byte
}

// lost reports whether the database went back behind what this process
// committed: the leaf is not there, or another one is. Salts are random, and
// the leaves before it came before it.
func (b *batch) lost(head Head) (bool, error) {
	last := b.s.last
	if last.salt == nil {
		return false, nil
	}
	if head.Size <= last.leaf {
		return true, nil
	}
	var salt []byte
	err := b.QueryRowContext(b.ctx, "SELECT salt FROM entry WHERE leaf = $1", last.leaf).Scan(&salt)
	if isNoRows(err) {
		return false, fmt.Errorf("%w: leaf %d of %d is missing", ErrDamaged, last.leaf, head.Size)
	}
	return !bytes.Equal(salt, last.salt), err
}

// rewind records that the database lost entries, or may have, and begins the
// next generation: the tokens issued from here on are greater than any of the
// branch that was lost.
func (b *batch) rewind(body backstay.NoteBody) error {
	b.generation++
	body.Rewound.Generation, body.Rewound.Is = b.generation, b.s.backend.Identity
	e := backstay.Entry{V: backstay.EntryFormat, Kind: backstay.EntryNote, At: b.wall().UTC().Round(0), Body: backstay.Canonical(body)}
	sealed, err := seal(e)
	if err != nil {
		return err
	}
	if _, err := b.ExecContext(b.ctx, "UPDATE head SET generation = $1 WHERE id = 1", b.generation); err != nil {
		return err
	}
	b.rewound = true
	return b.append(sealed)
}

// Restored begins the next generation because somebody says that the database
// was restored from a backup: where neither its identity nor this node's
// memory can tell, only a person knows. It is recorded.
func (s *Store) Restored(ctx context.Context, by backstay.Actor) error {
	err := s.write(ctx, func(b *batch) error {
		text := fmt.Sprintf("%s says that the ledger was restored from a backup", by)
		return b.rewind(backstay.NoteBody{Text: text, Rewound: &backstay.Rewound{}})
	})
	if err != nil {
		return fmt.Errorf("record that the ledger was restored: %w", err)
	}
	return nil
}

// recognise compares the database with the one that the ledger remembers. A
// standby that was promoted, or a backup that was restored by the server, is
// another one, and this process cannot know what it lost.
func (s *Store) recognise(ctx context.Context) error {
	is := s.backend.Identity
	if is == "" {
		return nil
	}
	var was string
	const query = "SELECT value FROM meta WHERE key = 'database'"
	err := s.backend.Read.QueryRowContext(ctx, query).Scan(&was)
	if err == nil && was == is {
		return nil
	}
	if err != nil && !isNoRows(err) {
		return s.reading("read the identity of", s.backend.Where, err)
	}
	err = s.write(ctx, func(b *batch) error {
		// Whoever opened it at the same time has the head before us or after us.
		err := b.QueryRowContext(b.ctx, query).Scan(&was)
		if err != nil && !isNoRows(err) {
			return err
		}
		known := err == nil
		if known && was == is {
			return nil
		}
		const set = "INSERT INTO meta (key, value) VALUES ('database', $1) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
		if _, err := b.ExecContext(b.ctx, set, is); err != nil || !known {
			return err
		}
		return b.rewind(backstay.NoteBody{
			Text:    fmt.Sprintf("the database is another than before: %s, it was %s (a standby was promoted or a backup restored); entries may be lost", is, was),
			Rewound: &backstay.Rewound{Was: was},
		})
	})
	if err != nil {
		return fmt.Errorf("remember the database: %w", err)
	}
	return nil
}

// rejoin writes again what the database lost of a deployment, from this node's
// memory, so that the lease fits again. It does nothing where nothing was
// lost, and refuses where that would not be safe: somebody else owns the
// deployment, its past is another, or the memory does not reach. Nobody else
// acted meanwhile then: whoever takes a deployment writes its row.
func (s *Store) rejoin(b *batch, lease Lease) error {
	d, err := s.row(b, lease.Deployment)
	if errors.Is(err, ErrNotFound) && s.known.has(lease) {
		return lostError(lease, "the deployment itself is not there")
	}
	if err != nil {
		return err
	}
	switch {
	case d.Epoch > lease.Epoch || (d.Epoch == lease.Epoch && d.N >= lease.N):
		return nil
	case d.Owner != nil && d.Owner.Node != s.node && d.Owner.Live:
		return refusal{ErrFenced} // it took over from what there was
	case b.generation <= lease.Generation:
		return lostError(lease, fmt.Sprintf("its row says entry %d, and the log was not set back: the row was changed", d.N))
	}
	salt, err := b.saltOf(d.ID, d.N)
	if err != nil {
		return err
	}
	writes, ok := s.known.since(lease, d.N, salt)
	if !ok {
		return lostError(lease, fmt.Sprintf("%d entries are there, %d were acknowledged, and this process does not know what is between them", d.N, lease.N))
	}
	if d.Owner != nil && d.Owner.Node != s.node {
		if _, err := b.ExecContext(b.ctx, "UPDATE node SET dead = 1 WHERE id = $1", d.Owner.Node); err != nil {
			return err
		}
	}
	const back = "UPDATE deployment SET n = $1, epoch = $2, owner = $3, state = CASE WHEN $4 = '' THEN state ELSE $4 END WHERE id = $5"
	state := ""
	for _, w := range writes {
		if w.update.State != "" {
			state = string(w.update.State)
		}
	}
	if _, err := b.ExecContext(b.ctx, back, lease.N, lease.Epoch, s.node, state, d.ID); err != nil {
		return err
	}
	for _, w := range writes {
		if _, err := s.add(b, d.ID, d.Reverts, w.update, w.entries, w.blobs, w.n); err != nil {
			return err
		}
	}
	return nil
}

// saltOf reads the salt of an entry; nil where it is not there.
func (b *batch) saltOf(deployment string, n int64) ([]byte, error) {
	var salt []byte
	err := b.QueryRowContext(b.ctx, "SELECT salt FROM entry WHERE deployment_id = $1 AND n = $2", deployment, n).Scan(&salt)
	if isNoRows(err) {
		return nil, nil
	}
	return salt, err
}

func lostError(lease Lease, why string) error {
	return refusal{&backstay.Error{
		Class: backstay.Permanent, Op: "append to", Subject: lease.Deployment,
		Err:  fmt.Errorf("%w: %s", ErrRewound, why),
		Hint: "stop all nodes; promote the standby or restore the backup that has the entries, or run `backstay recover`, which goes on from what there is",
	}}
}
