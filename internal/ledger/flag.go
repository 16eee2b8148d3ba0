package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/backstay-dev/backstay"
)

// maxInline is the largest state that an entry holds itself.
const maxInline = 64 << 10

// FlagWriter is who changes flags: a person, or the step of a deployment.
type FlagWriter struct {
	Actor backstay.Actor
	// By, where set, makes the write fenced: it is refused with ErrFenced unless
	// this node drives the deployment under that epoch.
	By *backstay.FlagBy
	// Override changes a flag although a deployment holds its key: a kill does.
	Override bool
}

// ChangeFlags makes all changes durable, each with its entry, or none. It
// returns a *backstay.FlagMovedError where a flag has another version than its
// change was made for, a *LockedError where another deployment holds it, and
// ErrFenced to a stale step.
func (s *Store) ChangeFlags(ctx context.Context, w FlagWriter, changes ...backstay.FlagChange) ([]backstay.Flag, error) {
	var out []backstay.Flag
	err := s.write(ctx, func(b *batch) error {
		out = make([]backstay.Flag, 0, len(changes))
		if err := s.fenceFlags(b, w.By); err != nil {
			return err
		}
		for _, c := range changes {
			f, err := s.changeFlag(b, w, c)
			if err != nil {
				return err
			}
			out = append(out, f)
		}
		return nil
	})
	return out, flagError("change flag", err)
}

// AskFlag records that somebody asks for a change which needs a second person.
// The flag stays as it is; asking anew takes the place of what was asked before.
func (s *Store) AskFlag(ctx context.Context, w FlagWriter, c backstay.FlagChange) (backstay.Flag, error) {
	var f backstay.Flag
	err := s.write(ctx, func(b *batch) (err error) {
		if f, err = readFlag(b.ctx, b, c.Key); err != nil {
			return err
		}
		if f.Version != c.Version {
			return refusal{&backstay.FlagMovedError{Key: c.Key, Want: c.Version, Have: f.Version}}
		}
		body := backstay.FlagBody{Key: c.Key, Version: f.Version, Act: "ask", Reason: c.Reason}
		blobs, err := flagImages(b, &body, f.State, c.To)
		if err != nil {
			return err
		}
		if f.Asked, err = flagEntry(b, w, body, blobs); err != nil {
			return err
		}
		_, err = b.ExecContext(b.ctx, "UPDATE flag SET asked = $1 WHERE key = $2", f.Asked, string(c.Key))
		return err
	})
	return f, flagError("ask for a change of", err)
}

// flagError keeps what callers tell apart as it is.
func flagError(op string, err error) error {
	var moved *backstay.FlagMovedError
	var locked *LockedError
	if err == nil || errors.As(err, &moved) || errors.As(err, &locked) || errors.Is(err, ErrFenced) {
		return err
	}
	return fmt.Errorf("%s: %w", op, err)
}

// fenceFlags refuses a step whose deployment this node does not drive any more.
func (s *Store) fenceFlags(b *batch, by *backstay.FlagBy) error {
	if by == nil {
		return nil
	}
	var n int
	const query = "SELECT COUNT(*) FROM deployment WHERE id = $1 AND epoch = $2 AND owner = $3"
	if err := b.QueryRowContext(b.ctx, query, by.Deployment, by.Token.Epoch, s.node).Scan(&n); err != nil {
		return err
	}
	if n == 0 {
		return refusal{ErrFenced}
	}
	return nil
}

func (s *Store) changeFlag(b *batch, w FlagWriter, c backstay.FlagChange) (backstay.Flag, error) {
	was, err := readFlag(b.ctx, b, c.Key)
	if err != nil {
		return was, err
	}
	if was.Version != c.Version {
		return was, refusal{&backstay.FlagMovedError{Key: c.Key, Want: c.Version, Have: was.Version}}
	}
	if !w.Override {
		if err := s.refuseHeld(b, w, c.Key); err != nil {
			return was, err
		}
	}
	body := backstay.FlagBody{Key: c.Key, Version: c.Version + 1, Act: c.Act, Reason: c.Reason, By: w.By, Second: c.Second}
	blobs, err := flagImages(b, &body, was.State, c.To)
	if err != nil {
		return was, err
	}
	leaf, err := flagEntry(b, w, body, blobs)
	if err != nil {
		return was, err
	}
	now := backstay.Flag{Key: c.Key, Version: body.Version, State: c.To, Act: c.Act, Leaf: leaf, At: b.wall().UTC().Truncate(time.Microsecond)}
	if w.By != nil {
		now.Writer = w.By.Deployment
	}
	const upsert = `INSERT INTO flag (key, version, state, leaf, at, asked, writer, act) VALUES ($1, $2, $3, $4, $5, 0, $6, $7)
		ON CONFLICT (key) DO UPDATE SET version = excluded.version, state = excluded.state, leaf = excluded.leaf, at = excluded.at,
		asked = 0, writer = excluded.writer, act = excluded.act`
	_, err = b.ExecContext(b.ctx, upsert, string(now.Key), now.Version, string(backstay.Canonical(now.State)), now.Leaf, now.At.UnixMicro(), now.Writer, now.Act)
	if err != nil || w.By != nil {
		return now, err
	}
	// A change by hand is no drift: it is in the ledger.
	_, err = b.ExecContext(b.ctx, "UPDATE resource SET state = $1 WHERE key = $2", string(backstay.Canonical(now.State)), string(now.Key))
	return now, err
}

// refuseHeld refuses a change of what another deployment holds.
func (s *Store) refuseHeld(b *batch, w FlagWriter, key backstay.Key) error {
	var holder string
	err := b.QueryRowContext(b.ctx, "SELECT deployment_id FROM lock WHERE key = $1", string(key)).Scan(&holder)
	switch {
	case isNoRows(err) || (err == nil && w.By != nil && w.By.Deployment == holder):
		return nil
	case err != nil:
		return err
	}
	now, err := b.now()
	if err != nil {
		return err
	}
	locks, err := s.locks(b.ctx, b, now, "WHERE l.key = $1", string(key))
	if err != nil || len(locks) != 1 {
		return err
	}
	return refusal{&LockedError{Lock: locks[0], Want: key}}
}

// flagImages puts both states into the body, and returns the blobs that hold
// what is large.
func flagImages(b *batch, body *backstay.FlagBody, before, after backstay.ResourceState) (blobs []string, err error) {
	var stored [2]string
	if body.Before, stored[0], err = flagImage(b, body.Key, before); err != nil {
		return nil, err
	}
	if body.After, stored[1], err = flagImage(b, body.Key, after); err != nil {
		return nil, err
	}
	for _, address := range stored {
		if address != "" {
			blobs = append(blobs, address)
		}
	}
	return blobs, nil
}

// flagImage is a state as an entry holds it, and the blob that holds it where
// it is large.
func flagImage(b *batch, key backstay.Key, state backstay.ResourceState) (ref backstay.ImageRef, stored string, err error) {
	image := backstay.Image{key: state}
	body := backstay.Canonical(image)
	ref.Digest = digestOf(body)
	if len(body) <= maxInline {
		ref.Inline = image
		return ref, "", nil
	}
	ref.Stored = true
	return ref, ref.Digest, content{digest: ref.Digest, body: body}.insert(b)
}

// flagEntry appends the entry and returns its leaf.
func flagEntry(b *batch, w FlagWriter, body backstay.FlagBody, blobs []string) (int64, error) {
	e := backstay.Entry{
		V: backstay.EntryFormat, Kind: backstay.EntryFlag, Actor: &w.Actor, At: b.wall().UTC().Round(0),
		Body: backstay.Canonical(body), Blobs: blobs,
	}
	if w.By != nil {
		e.Step = w.By.Step
	}
	sealed, err := seal(e)
	if err != nil {
		return 0, err
	}
	leaf := b.edge.size
	if err := b.append(sealed); err != nil {
		return 0, err
	}
	_, err = b.ExecContext(b.ctx, "INSERT INTO flag_change (key, leaf) VALUES ($1, $2)", string(body.Key), leaf)
	return leaf, err
}

const flagColumns = "SELECT key, version, state, leaf, at, asked, writer, act FROM flag "

// Flag reads one flag; one that never was has version 0.
func (s *Store) Flag(ctx context.Context, key backstay.Key) (backstay.Flag, error) {
	f, err := readFlag(ctx, s.backend.Read, key)
	return f, s.reading("read", string(key), err)
}

func readFlag(ctx context.Context, q querier, key backstay.Key) (backstay.Flag, error) {
	all, err := flags(ctx, q, "WHERE key = $1", string(key))
	if err != nil || len(all) == 0 {
		return backstay.Flag{Key: key}, err
	}
	return all[0], nil
}

// Flags reads every flag and segment that changed after a leaf (-1: all), in
// the order of the changes. Removed ones are among them, without parts.
func (s *Store) Flags(ctx context.Context, afterLeaf int64) ([]backstay.Flag, error) {
	all, err := flags(ctx, s.backend.Read, "WHERE leaf > $1 ORDER BY leaf", afterLeaf)
	return all, s.reading("read the flags of", s.backend.Where, err)
}

func flags(ctx context.Context, q querier, where string, args ...any) ([]backstay.Flag, error) {
	rows, err := q.QueryContext(ctx, flagColumns+where, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []backstay.Flag
	for rows.Next() {
		var f backstay.Flag
		var state []byte
		var at int64
		if err := rows.Scan(&f.Key, &f.Version, &state, &f.Leaf, &at, &f.Asked, &f.Writer, &f.Act); err != nil {
			return nil, err
		}
		if err := json.Unmarshal(state, &f.State); err != nil {
			return nil, errors.Join(ErrDamaged, err)
		}
		f.At = time.UnixMicro(at).UTC()
		all = append(all, f)
	}
	return all, rows.Err()
}

// FlagHistory reads the entries about one flag, newest first, at most limit of
// them (0: all).
func (s *Store) FlagHistory(ctx context.Context, key backstay.Key, limit int) ([]Leaf, error) {
	query := "SELECT " + leafColumns + " FROM entry WHERE leaf IN (SELECT leaf FROM flag_change WHERE key = $1) ORDER BY leaf DESC"
	if limit > 0 {
		query += fmt.Sprintf(" LIMIT %d", limit)
	}
	leaves, err := scanLeaves(s.backend.Read.QueryContext(ctx, query, string(key)))
	return leaves, s.reading("read the history of", string(key), err)
}

// FlagLeaf is the leaf of the newest change of any flag; -1: there is none.
// It is cheap: a server asks many times a second.
func (s *Store) FlagLeaf(ctx context.Context) (int64, error) {
	var leaf int64
	err := s.backend.Read.QueryRowContext(ctx, "SELECT COALESCE(MAX(leaf), -1) FROM flag").Scan(&leaf)
	return leaf, s.reading("read the flags of", s.backend.Where, err)
}
