package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/backstay-dev/backstay"
)

// planHolder is the holder of the blobs that a plan pins.
func planHolder(digest string) string { return "plan:" + digest }

// SavePlan keeps a frozen plan under its digest, with the content that was put
// into or found through blobs: it pins all of it. Saving the same plan again
// changes nothing.
func (s *Store) SavePlan(ctx context.Context, digest string, plan []byte, blobs *BlobBuffer) error {
	if digest == "" || len(plan) == 0 {
		return errors.New("save plan: it is empty or has no digest")
	}
	if err := blobs.spill(ctx, flushAt); err != nil {
		return fmt.Errorf("save plan %s: %w", digest, err)
	}
	waiting, pins := blobs.waiting(), blobs.touched()
	err := s.writeBesides(ctx, func(b *batch) error {
		for _, c := range waiting {
			if err := c.insert(b); err != nil {
				return err
			}
		}
		const insert = "INSERT INTO plan (digest, body, at) VALUES ($1, $2, $3) ON CONFLICT (digest) DO NOTHING"
		if _, err := b.ExecContext(b.ctx, insert, digest, plan, b.wall().UnixMicro()); err != nil {
			return err
		}
		for _, pin := range pins {
			if err := b.pin(ref{holder: planHolder(digest), digest: pin}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("save plan %s: %w", digest, err)
	}
	blobs.written(waiting)
	return nil
}

// Plan reads a plan by its digest or by a part of at least four characters
// that it alone starts with; the error wraps ErrNotFound where there is none.
func (s *Store) Plan(ctx context.Context, digest string) ([]byte, error) {
	var body []byte
	err := s.backend.Read.QueryRowContext(ctx, "SELECT body FROM plan WHERE digest = $1", digest).Scan(&body)
	if err == nil || !errors.Is(err, sql.ErrNoRows) || len(digest) < 4 || strings.Trim(digest, "0123456789abcdef") != "" {
		return body, s.reading("read plan", digest, err)
	}
	found, err := s.plansLike(ctx, digest)
	if err != nil {
		return nil, s.reading("read plan", digest, err)
	}
	switch len(found) {
	case 0:
		return nil, s.reading("read plan", digest, sql.ErrNoRows)
	case 1:
		err := s.backend.Read.QueryRowContext(ctx, "SELECT body FROM plan WHERE digest = $1", found[0]).Scan(&body)
		return body, s.reading("read plan", found[0], err)
	}
	return nil, &backstay.Error{
		Class: backstay.Conflict, Op: "read plan", Subject: digest,
		Err: fmt.Errorf("it can be %s", strings.Join(found, ", ")), Hint: "give more of the digest",
	}
}

func (s *Store) plansLike(ctx context.Context, prefix string) ([]string, error) {
	// "g" is after every digit of a digest.
	const query = "SELECT digest FROM plan WHERE digest >= $1 AND digest < $2 ORDER BY digest LIMIT 10"
	return texts(s.backend.Read.QueryContext(ctx, query, prefix, prefix+"g"))
}

// Collect removes blobs that nothing pins and that were last used longer than
// keep ago, and what uploads that never finished left. keep must cover the
// time between putting content and the write that refers to it. Pinned is what
// a plan refers to, and what an entry refers to whose deployment is not
// settled, is held, or is the latest proven one of its release and
// environment. Which addresses went is recorded in the log. It returns how many
// blobs went.
func (s *Store) Collect(ctx context.Context, keep time.Duration) (int, error) {
	if keep < 0 {
		return 0, fmt.Errorf("collect blobs: keep %v is negative", keep)
	}
	var gone int64
	err := s.write(ctx, func(b *batch) (err error) {
		gone, err = s.collect(b, b.wall().Add(-keep).UnixMicro())
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("collect blobs: %w", err)
	}
	return int(gone), nil
}

func (s *Store) collect(b *batch, before int64) (int64, error) {
	const unpin = `DELETE FROM blob_ref WHERE EXISTS (SELECT 1 FROM deployment d
		WHERE d.id = blob_ref.holder AND d.state NOT IN ` + openStates + ` AND d.state <> 'held'
		AND NOT (d.state = 'proven' AND d.number = (SELECT MAX(l.number) FROM deployment l
			WHERE l.release = d.release AND l.environment = d.environment AND l.state = 'proven')))`
	if _, err := b.ExecContext(b.ctx, unpin); err != nil {
		return 0, err
	}
	// The rows that give content its address go first: whoever wants it after
	// that stores it anew.
	const doomed = `DELETE FROM blob WHERE touched_at <= $1
		AND NOT EXISTS (SELECT 1 FROM blob_ref r WHERE r.digest = blob.digest) RETURNING digest, ref`
	gone, refs, err := s.remove(b, doomed, before)
	if err != nil {
		return 0, err
	}
	for _, ref := range refs {
		if _, err := b.ExecContext(b.ctx, "DELETE FROM chunk WHERE ref = $1", ref); err != nil {
			return 0, err
		}
	}
	return int64(len(refs)), s.recordCollected(b, gone)
}

// remove deletes blob rows and returns their addresses, in order, and the
// names of their chunks.
func (s *Store) remove(b *batch, doomed string, before int64) (addresses, refs []string, err error) {
	rows, err := b.QueryContext(b.ctx, doomed, before)
	if err != nil {
		return nil, nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var digest, ref string
		if err := rows.Scan(&digest, &ref); err != nil {
			return nil, nil, err
		}
		refs = append(refs, ref)
		if !strings.HasPrefix(digest, uploading) {
			addresses = append(addresses, digest)
		}
	}
	slices.Sort(addresses)
	return addresses, refs, rows.Err()
}

// recordCollected adds the entries that say which blobs went on purpose.
func (s *Store) recordCollected(b *batch, addresses []string) error {
	const most = 500 // of one entry
	for some := range slices.Chunk(addresses, most) {
		e := backstay.Entry{V: backstay.EntryFormat, Kind: backstay.EntryNote, At: b.wall().UTC().Round(0), Body: backstay.Canonical(collected(some))}
		sealed, err := seal(e)
		if err != nil {
			return err
		}
		if err := b.append(sealed); err != nil {
			return err
		}
	}
	return nil
}
