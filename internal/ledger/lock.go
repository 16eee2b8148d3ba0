package ledger

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/backstay-dev/backstay"
)

// lock takes the locks of a new deployment and keeps its keys for List.
func (s *Store) lock(b *batch, d NewDeployment, now int64) error {
	seen := make(map[backstay.Key]bool, len(d.Locks))
	var locks, keys [][]any
	for _, key := range d.Locks {
		if seen[key] {
			continue
		}
		seen[key] = true
		locks = append(locks, []any{string(key), d.ID, now})
		keys = append(keys, []any{string(key), d.ID})
	}
	all := inserts("INSERT INTO deployment_key (key, deployment_id)", keys)
	if d.State.Locks() {
		all = append(all, inserts("INSERT INTO lock (key, deployment_id, since)", locks)...)
	}
	return b.each(b.ctx, all)
}

// holders finds overlapping keys quickly: it knows each held key, and for each
// path above a held file key one of the keys below it.
type holders struct {
	held  map[backstay.Key]string // key → deployment
	below map[backstay.Key]backstay.Key
}

// above lists the file keys above a file key, from its parent to the root.
func above(key backstay.Key) []backstay.Key {
	path, ok := strings.CutPrefix(string(key), "file:")
	if !ok {
		return nil
	}
	var all []backstay.Key
	for path = strings.TrimSuffix(path, "/"); path != ""; {
		path = path[:max(0, strings.LastIndexByte(path, '/'))]
		if path == "" {
			return append(all, "file:/")
		}
		all = append(all, backstay.Key("file:"+path))
	}
	return all
}

// plain is a key without the slash that says nothing.
func plain(key backstay.Key) backstay.Key {
	if path, ok := strings.CutPrefix(string(key), "file:"); ok && path != "/" {
		return backstay.Key("file:" + strings.TrimSuffix(path, "/"))
	}
	return key
}

func (h *holders) add(key backstay.Key, deployment string) {
	h.held[plain(key)] = deployment
	for _, up := range above(key) {
		if _, known := h.below[up]; known {
			return // and so is all above it
		}
		h.below[up] = plain(key)
	}
}

// overlapping returns a held key that the wanted one overlaps.
func (h *holders) overlapping(want backstay.Key) (backstay.Key, bool) {
	want = plain(want)
	if _, ok := h.held[want]; ok {
		return want, true
	}
	if key, ok := h.below[want]; ok {
		return key, true
	}
	for _, up := range above(want) {
		if _, ok := h.held[up]; ok {
			return up, true
		}
	}
	return "", false
}

// refuseLocked refuses keys of which one overlaps a held one.
func (s *Store) refuseLocked(b *batch, want []backstay.Key) error {
	if len(want) == 0 {
		return nil
	}
	now, err := b.now()
	if err != nil {
		return err
	}
	h := holders{held: map[backstay.Key]string{}, below: map[backstay.Key]backstay.Key{}}
	rows, err := b.QueryContext(b.ctx, "SELECT key, deployment_id FROM lock")
	if err != nil {
		return err
	}
	defer rows.Close()
	written := map[backstay.Key]string{} // as the holder wrote it
	for rows.Next() {
		var key, deployment string
		if err := rows.Scan(&key, &deployment); err != nil {
			return err
		}
		h.add(backstay.Key(key), deployment)
		written[plain(backstay.Key(key))] = key
	}
	if err := rows.Err(); err != nil {
		return err
	}
	_ = rows.Close() // before the next query on this connection
	for _, w := range want {
		key, ok := h.overlapping(w)
		if !ok {
			continue
		}
		locks, err := s.locks(b.ctx, b, now, "WHERE l.key = $1", written[key])
		if err != nil {
			return err
		}
		if len(locks) == 1 {
			return refusal{&LockedError{Lock: locks[0], Want: w}}
		}
	}
	return nil
}

// Locks lists the held locks, by key.
func (s *Store) Locks(ctx context.Context) ([]Lock, error) {
	now, err := s.now(ctx, s.backend.Read)
	if err != nil {
		return nil, s.reading("read locks of", s.backend.Where, err)
	}
	locks, err := s.locks(ctx, s.backend.Read, now, "")
	return locks, s.reading("read locks of", s.backend.Where, err)
}

func (s *Store) locks(ctx context.Context, q querier, now int64, where string, args ...any) ([]Lock, error) {
	const query = `SELECT l.key, l.deployment_id, l.since, d.release, d.number, d.state, ` + ownerColumns + `
		FROM lock l JOIN deployment d ON d.id = l.deployment_id LEFT JOIN node o ON o.id = d.owner `
	rows, err := q.QueryContext(ctx, query+where+" ORDER BY l.key", args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var locks []Lock
	for rows.Next() {
		var l Lock
		var since, number int64
		var release string
		var o ownerRow
		dest := append([]any{&l.Key, &l.Deployment, &since, &release, &number, &l.State}, o.fields()...)
		if err := rows.Scan(dest...); err != nil {
			return nil, err
		}
		l.Name, l.Since, l.Owner = name(release, number), time.UnixMicro(since).UTC(), o.owner(s.boot(), now)
		locks = append(locks, l)
	}
	return locks, rows.Err()
}

// BreakLock takes a lock away from a deployment that no live node drives, and
// records who did it and why in that deployment's log. The deployment gets a
// new epoch, so that an owner that comes back cannot write as if it still had
// the lock. It returns an *OwnedError while the owner lives.
func (s *Store) BreakLock(ctx context.Context, key backstay.Key, actor backstay.Actor, reason string) (Lock, error) {
	if strings.TrimSpace(reason) == "" {
		return Lock{}, fmt.Errorf("break lock %s: there is no reason", key)
	}
	var lock Lock
	err := s.write(ctx, func(b *batch) (err error) {
		lock, err = s.breakLock(b, key, actor, reason)
		return err
	})
	if err != nil {
		if _, ok := errors.AsType[*OwnedError](err); ok {
			return Lock{}, err
		}
		return Lock{}, fmt.Errorf("break lock %s: %w", key, err)
	}
	return lock, nil
}

func (s *Store) breakLock(b *batch, key backstay.Key, actor backstay.Actor, reason string) (Lock, error) {
	var id string
	err := b.QueryRowContext(b.ctx, "SELECT deployment_id FROM lock WHERE key = $1", string(key)).Scan(&id)
	if isNoRows(err) {
		return Lock{}, refusal{fmt.Errorf("lock %s: %w", key, ErrNotFound)}
	}
	if err != nil {
		return Lock{}, err
	}
	d, err := s.row(b, id)
	if err != nil {
		return Lock{}, err
	}
	if d.Owner != nil && d.Owner.Live {
		return Lock{}, refusal{&OwnedError{Deployment: id, Owner: *d.Owner}}
	}
	now, err := b.now()
	if err != nil {
		return Lock{}, err
	}
	locks, err := s.locks(b.ctx, b, now, "WHERE l.key = $1", string(key))
	if err != nil || len(locks) != 1 {
		return Lock{}, errors.Join(err, b.ctx.Err())
	}
	if d.Owner != nil {
		if _, err := b.ExecContext(b.ctx, "UPDATE node SET dead = 1 WHERE id = $1", d.Owner.Node); err != nil {
			return Lock{}, err
		}
	}
	entry := backstay.Entry{
		Kind: backstay.EntryLockBroken, Actor: &actor,
		Body: backstay.Canonical(backstay.NoteBody{Text: reason, Key: key}),
	}
	entries, err := number([]backstay.Entry{entry}, id, d.N, d.Epoch+1, b.wall())
	if err != nil {
		return Lock{}, err
	}
	if _, err := b.ExecContext(b.ctx, "UPDATE deployment SET owner = NULL, epoch = epoch + 1, n = n + 1 WHERE id = $1", id); err != nil {
		return Lock{}, err
	}
	if _, err := b.ExecContext(b.ctx, "DELETE FROM lock WHERE key = $1", string(key)); err != nil {
		return Lock{}, err
	}
	return locks[0], b.append(entries...)
}
