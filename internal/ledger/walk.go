package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/backstay-dev/backstay"
)

// page is how many entries are read at once: it bounds memory, and keeps no
// cursor open while the caller works.
const page = 128

// Walk calls f with each entry that the query selects, in leaf order. It holds
// a page of entries in memory, no more. An entry whose record cannot be
// decoded has a zero Entry: Record holds its bytes. It stops with the first
// error of f. Entries that are appended meanwhile are visited too.
func (s *Store) Walk(ctx context.Context, q Query, f func(Leaf) error) error {
	after, left := q.AfterLeaf, q.Limit
	for {
		n := page
		if q.Limit > 0 {
			n = min(n, left)
		}
		leaves, err := s.leaves(ctx, q, after, n)
		if err != nil {
			return s.reading("read entries of", s.backend.Where, err)
		}
		for _, l := range leaves {
			if err := f(l); err != nil {
				return err
			}
			after = l.Index
		}
		left -= len(leaves)
		if len(leaves) < n || (q.Limit > 0 && left == 0) {
			return nil
		}
	}
}

func (s *Store) leaves(ctx context.Context, q Query, after int64, limit int) ([]Leaf, error) {
	var c conditions
	c.add("leaf > ?", after)
	if q.Deployment != "" {
		c.add("deployment_id = ?", q.Deployment)
	}
	if q.Step != "" {
		c.add("step = ?", q.Step)
	}
	if q.Kind != "" {
		c.add("kind = ?", string(q.Kind))
	}
	if uid, err := strconv.ParseInt(q.Actor, 10, 64); err == nil {
		c.add("actor_uid = ?", uid)
	} else if q.Actor != "" {
		c.add("actor_name = ?", q.Actor)
	}
	if !q.Since.IsZero() {
		c.add("at >= ?", q.Since.UnixMicro())
	}
	if !q.Until.IsZero() {
		c.add("at < ?", q.Until.UnixMicro())
	}
	query := "SELECT " + leafColumns + " FROM entry " + c.where() + " ORDER BY leaf LIMIT " + strconv.Itoa(limit)
	return scanLeaves(s.backend.Read.QueryContext(ctx, query, c.args...))
}

// leafColumns are what scanLeaves scans.
const leafColumns = "leaf, salt, record, COALESCE(deployment_id, ''), COALESCE(n, 0), kind, step, actor_name, actor_uid, at"

func scanLeaves(rows *sql.Rows, err error) ([]Leaf, error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []Leaf
	for rows.Next() {
		var l Leaf
		var c Columns
		var at int64
		if err := rows.Scan(&l.Index, &l.Salt, &l.Record, &c.Deployment, &c.N, &c.Kind, &c.Step, &c.ActorName, &c.ActorUID, &at); err != nil {
			return nil, err
		}
		c.At = time.UnixMicro(at).UTC()
		l.Columns = &c
		if e, err := DecodeRecord(l.Record); err == nil {
			l.Entry = e
		}
		all = append(all, l)
	}
	return all, rows.Err()
}

// Entries reads a deployment's log after entry afterN. Each record is held
// against the tree and its own number: nothing decides by a record that is not
// what was written. The error then wraps ErrDamaged.
func (s *Store) Entries(ctx context.Context, id string, afterN int64) ([]backstay.Entry, error) {
	var all []backstay.Entry
	for n := afterN; ; {
		const query = "SELECT " + leafColumns + " FROM entry WHERE deployment_id = $1 AND n > $2 ORDER BY n LIMIT $3"
		leaves, err := scanLeaves(s.backend.Read.QueryContext(ctx, query, id, n, page))
		if err != nil {
			return nil, s.reading("read entries of", id, err)
		}
		if err := s.prove(ctx, id, n, leaves); err != nil {
			return nil, s.reading("read entries of", id, err)
		}
		for _, l := range leaves {
			all = append(all, l.Entry)
		}
		n += int64(len(leaves))
		if len(leaves) < page {
			break
		}
	}
	if len(all) > 0 {
		return all, nil
	}
	if _, err := s.Deployment(ctx, id); err != nil {
		return nil, err
	}
	return nil, nil
}

func (s *Store) prove(ctx context.Context, id string, after int64, leaves []Leaf) error {
	ids := make([]int64, len(leaves))
	for i, l := range leaves {
		ids[i] = tlog.StoredHashIndex(0, l.Index)
	}
	hashes, err := readHashes(ctx, s.backend.Read, ids)
	if err != nil {
		return err
	}
	for i, l := range leaves {
		n := after + int64(i) + 1
		switch {
		case tlog.Hash(LeafHash(l.Salt, l.Record)) != hashes[i]:
			err = errors.New("its record is not the one in the tree")
		case l.Entry.Deployment != id || l.Entry.N != n:
			err = fmt.Errorf("its record says entry %d of deployment %q", l.Entry.N, l.Entry.Deployment)
		default:
			continue
		}
		return &backstay.Error{
			Class: backstay.Permanent, Op: "check entry " + strconv.FormatInt(n, 10) + " of", Subject: id,
			Err:  fmt.Errorf("%w: %w", ErrDamaged, err),
			Hint: "keep a copy of the ledger and run `backstay audit verify` on it",
		}
	}
	return nil
}
