package ledger

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/backstay-dev/backstay"
)

// ownerColumns are what an owner is made of, from deployment d and node o.
const ownerColumns = "d.owner, d.owned_since, o.host, o.pid, o.start, o.boot, o.lease_until, o.dead"

type ownerRow struct {
	id, host, boot          sql.NullString
	pid, start, until, dead sql.NullInt64
	since                   int64
}

func (o *ownerRow) fields() []any {
	return []any{&o.id, &o.since, &o.host, &o.pid, &o.start, &o.boot, &o.until, &o.dead}
}

// owner is nil where nobody owns the deployment. A node of another boot is not
// live, whatever its lease says.
func (o *ownerRow) owner(boot string, now int64) *Owner {
	if !o.id.Valid {
		return nil
	}
	owner := &Owner{
		Node: o.id.String, Host: o.host.String, PID: int(o.pid.Int64), Start: o.start.Int64,
		Since: time.UnixMicro(o.since).UTC(),
	}
	left := time.Duration(o.until.Int64-now) * time.Microsecond
	if o.boot.String == boot && o.dead.Valid && o.dead.Int64 == 0 && left > 0 {
		owner.Live, owner.Left = true, left
	}
	return owner
}

func name(release string, number int64) string { return release + "#" + strconv.FormatInt(number, 10) }

// deployments reads rows by a condition on d; what follows it may order and limit.
func (s *Store) deployments(ctx context.Context, q querier, now int64, where string, args ...any) ([]Deployment, error) {
	const query = `SELECT d.id, d.release, d.number, d.version, d.environment, d.plan, d.state, d.reverts, d.reverted_by, d.author,
		d.epoch, d.n, d.created_at, d.updated_at, ` + ownerColumns + ` FROM deployment d LEFT JOIN node o ON o.id = d.owner `
	rows, err := q.QueryContext(ctx, query+where, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []Deployment
	for rows.Next() {
		var d Deployment
		var o ownerRow
		var author string
		var created, updated int64
		dest := append([]any{
			&d.ID, &d.Release, &d.Number, &d.Version, &d.Environment, &d.PlanDigest, &d.State, &d.Reverts, &d.RevertedBy,
			&author, &d.Epoch, &d.N, &created, &updated,
		}, o.fields()...)
		if err := rows.Scan(dest...); err != nil {
			return nil, err
		}
		if err := json.Unmarshal([]byte(author), &d.Author); err != nil {
			return nil, errors.Join(ErrDamaged, err)
		}
		d.Name, d.Owner = name(d.Release, d.Number), o.owner(s.boot(), now)
		d.CreatedAt, d.UpdatedAt = time.UnixMicro(created).UTC(), time.UnixMicro(updated).UTC()
		all = append(all, d)
	}
	return all, rows.Err()
}

func (s *Store) find(ctx context.Context, where string, args ...any) ([]Deployment, error) {
	now, err := s.now(ctx, s.backend.Read)
	if err != nil {
		return nil, err
	}
	return s.deployments(ctx, s.backend.Read, now, where, args...)
}

// Deployment reads the deployment of exactly this ID; the error wraps
// ErrNotFound where there is none.
func (s *Store) Deployment(ctx context.Context, id string) (Deployment, error) {
	found, err := s.find(ctx, "WHERE d.id = $1", id)
	if err == nil && len(found) == 0 {
		err = sql.ErrNoRows
	}
	if err != nil {
		return Deployment{}, s.reading("read deployment", id, err)
	}
	return found[0], nil
}

// List reads deployments, newest first: in the order in which they were
// recorded, whatever the clock said.
func (s *Store) List(ctx context.Context, f Filter) ([]Deployment, error) {
	var c conditions
	if f.Release != "" {
		c.add("d.release = ?", f.Release)
	}
	if len(f.States) > 0 {
		args := make([]any, len(f.States))
		for i, st := range f.States {
			args[i] = string(st)
		}
		c.add("d.state IN (?"+strings.Repeat(", ?", len(args)-1)+")", args...)
	}
	if !f.Since.IsZero() {
		c.add("d.created_at >= ?", f.Since.UnixMicro())
	}
	if f.Key != "" {
		cond, args := overlapCondition(f.Key)
		c.add("d.id IN (SELECT deployment_id FROM deployment_key WHERE "+cond+")", args...)
	}
	if f.Limit <= 0 {
		f.Limit = 100
	}
	found, err := s.find(ctx, c.where()+" ORDER BY d.born DESC LIMIT "+strconv.Itoa(f.Limit), c.args...)
	return found, s.reading("list deployments of", s.backend.Where, err)
}

// Keys reads the keys of one kind that any deployment's plan has, sorted.
func (s *Store) Keys(ctx context.Context, kind string) (keys []backstay.Key, err error) {
	// ";" is the byte after ":".
	rows, err := s.backend.Read.QueryContext(ctx, "SELECT DISTINCT key FROM deployment_key WHERE key >= $1 AND key < $2 ORDER BY key", kind+":", kind+";")
	if err != nil {
		return nil, s.reading("read keys of", s.backend.Where, err)
	}
	defer rows.Close()
	for rows.Next() {
		var k backstay.Key
		if err := rows.Scan(&k); err != nil {
			return nil, s.reading("read keys of", s.backend.Where, err)
		}
		keys = append(keys, k)
	}
	return keys, s.reading("read keys of", s.backend.Where, rows.Err())
}

// overlapCondition is Key.Overlaps in SQL.
func overlapCondition(key backstay.Key) (string, []any) {
	key = plain(key)
	cond, args := "key = ?", []any{string(key)}
	path, ok := strings.CutPrefix(string(key), "file:")
	if !ok {
		return cond, args
	}
	for _, up := range above(key) {
		cond, args = cond+" OR key = ?", append(args, string(up))
	}
	below := "file:" + strings.TrimSuffix(path, "/")
	// "0" is the byte after "/": all keys that start with the path and a slash.
	return cond + " OR (key >= ? AND key < ?)", append(args, below+"/", below+"0")
}

// conditions gathers the parts of a WHERE clause, with ? for parameters.
type conditions struct {
	parts []string
	args  []any
}

func (c *conditions) add(cond string, args ...any) {
	for range args {
		c.args = append(c.args, args[0])
		cond = strings.Replace(cond, "?", "$"+strconv.Itoa(len(c.args)), 1)
		args = args[1:]
	}
	c.parts = append(c.parts, "("+cond+")")
}

func (c *conditions) where() string {
	if len(c.parts) == 0 {
		return ""
	}
	return "WHERE " + strings.Join(c.parts, " AND ")
}

// Head is the root of the tree over all entries.
func (s *Store) Head(ctx context.Context) (Head, error) {
	var h Head
	var root []byte
	err := s.backend.Read.QueryRowContext(ctx, "SELECT size, root FROM head WHERE id = 1").Scan(&h.Size, &root)
	if err == nil && len(root) != tlog.HashSize {
		err = fmt.Errorf("%w: a root of %d bytes", ErrDamaged, len(root))
	}
	if err != nil {
		return Head{}, s.reading("read head of", s.backend.Where, err)
	}
	copy(h.Root[:], root)
	return h, nil
}

// Version is a number that grows with every change that anybody made to
// entries, deployments or signals: what watchers poll.
func (s *Store) Version(ctx context.Context) (int64, error) {
	var v int64
	err := s.backend.Read.QueryRowContext(ctx, "SELECT version FROM head WHERE id = 1").Scan(&v)
	return v, s.reading("read version of", s.backend.Where, err)
}

// Resources reads what the ledger believes about these keys, or about all that
// it knows when none is given. Keys that it does not know are left out.
func (s *Store) Resources(ctx context.Context, keys ...backstay.Key) ([]Resource, error) {
	if len(keys) == 0 {
		all, err := s.resources(ctx, "")
		return all, s.reading("read resources of", s.backend.Where, err)
	}
	var all []Resource
	for rest := keys; len(rest) > 0; {
		n := min(256, len(rest))
		args := make([]any, n)
		for i, k := range rest[:n] {
			args[i] = string(k)
		}
		some, err := s.resources(ctx, "WHERE key IN "+in(1, n), args...)
		if err != nil {
			return nil, s.reading("read resources of", s.backend.Where, err)
		}
		all, rest = append(all, some...), rest[n:]
	}
	return all, nil
}

func (s *Store) resources(ctx context.Context, where string, args ...any) ([]Resource, error) {
	const query = "SELECT key, deployment_id, step, state, proven, at FROM resource "
	rows, err := s.backend.Read.QueryContext(ctx, query+where+" ORDER BY key", args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []Resource
	for rows.Next() {
		var r Resource
		var state string
		var proven, at int64
		if err := rows.Scan(&r.Key, &r.Deployment, &r.Step, &state, &proven, &at); err != nil {
			return nil, err
		}
		if err := json.Unmarshal([]byte(state), &r.State); err != nil {
			return nil, errors.Join(ErrDamaged, err)
		}
		r.Proven, r.At = proven == 1, time.UnixMicro(at).UTC()
		all = append(all, r)
	}
	return all, rows.Err()
}

// Timings is how long the undo of each step of a release took: the median of
// the last five that were measured.
func (s *Store) Timings(ctx context.Context, release string) (map[string]time.Duration, error) {
	medians, err := s.timings(ctx, release)
	return medians, s.reading("read timings of", release, err)
}

func (s *Store) timings(ctx context.Context, release string) (map[string]time.Duration, error) {
	// Sorted by duration within a step, so that the middle one is the median.
	const query = `SELECT step, took FROM (SELECT step, took, ROW_NUMBER() OVER (PARTITION BY step ORDER BY leaf DESC) AS age
		FROM timing WHERE release = $1 AND undo = 1) AS recent WHERE age <= 5 ORDER BY step, took`
	rows, err := s.backend.Read.QueryContext(ctx, query, release)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	took := map[string][]int64{}
	for rows.Next() {
		var step string
		var us int64
		if err := rows.Scan(&step, &us); err != nil {
			return nil, err
		}
		took[step] = append(took[step], us)
	}
	medians := make(map[string]time.Duration, len(took))
	for step, all := range took {
		medians[step] = time.Duration(all[len(all)/2]) * time.Microsecond
	}
	return medians, rows.Err()
}

// ReadCheckpoints reads the signed heads that were kept, oldest first.
func (s *Store) ReadCheckpoints(ctx context.Context) ([]Checkpoint, error) {
	all, err := s.checkpoints(ctx)
	return all, s.reading("read checkpoints of", s.backend.Where, err)
}

func (s *Store) checkpoints(ctx context.Context) ([]Checkpoint, error) {
	rows, err := s.backend.Read.QueryContext(ctx, "SELECT size, note, at FROM checkpoint ORDER BY size")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []Checkpoint
	for rows.Next() {
		var c Checkpoint
		var at int64
		if err := rows.Scan(&c.Size, &c.Note, &at); err != nil {
			return nil, err
		}
		c.At = time.UnixMicro(at).UTC()
		all = append(all, c)
	}
	return all, rows.Err()
}

// SaveCheckpoint keeps a signed head; one of the same size is replaced (by one
// that witnesses signed, for example).
func (s *Store) SaveCheckpoint(ctx context.Context, c Checkpoint) error {
	if c.At.IsZero() {
		c.At = s.opt.Clock.Wall()
	}
	if err := s.writeBesides(ctx, func(b *batch) error { return b.saveCheckpoint(c) }); err != nil {
		return fmt.Errorf("save checkpoint of %d entries: %w", c.Size, err)
	}
	return nil
}
