package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/backstay-dev/backstay"
)

// batch is one transaction of the committer with what its writes add.
// Locks are taken in this order: head, deployment, node, anything else.
type batch struct {
	ctx context.Context
	*txn
	s *Store

	besides bool // takes no turn at the head
	writes  int

	version    int64 // of the head, before this batch
	generation int64
	first      int64 // index of the batch's first leaf
	edge       fringe
	leaves     []sealed
	nodes      []node
	refs       []ref
	settled    bool // sign a checkpoint
	signals    int  // sent in this batch
	committing bool

	clock int64 // now, once it was asked for; 0 before
}

// ref pins a blob for its holder: a deployment, or a plan.
type ref struct{ holder, digest string }

func isNoRows(err error) bool { return errors.Is(err, sql.ErrNoRows) }

// begin takes the turn at the head and makes the tree's edge ready.
func (b *batch) begin() error {
	if b.besides {
		return nil
	}
	var head Head
	var root []byte
	const query = "SELECT size, root, version, generation FROM head WHERE id = 1"
	row := b.QueryRowContext(b.ctx, query+b.s.backend.ForUpdate)
	if err := row.Scan(&head.Size, &root, &b.version, &b.generation); err != nil {
		return err
	}
	if len(root) != len(head.Root) {
		return ErrDamaged
	}
	copy(head.Root[:], root)
	b.first = head.Size
	if b.s.edge.hashes != nil && b.s.edge.size == head.Size {
		if known, err := b.s.edge.root(); err == nil && known == head.Root {
			b.edge = b.s.edge.trim()
			return nil
		}
	}
	var err error
	b.edge, err = loadFringe(b.ctx, b.txn, head)
	return err
}

// append adds sealed entries to the log.
func (b *batch) append(entries ...sealed) error {
	for _, e := range entries {
		nodes, err := b.edge.add(e.hash)
		if err != nil {
			return err
		}
		b.nodes = append(b.nodes, nodes...)
		b.leaves = append(b.leaves, e)
		for _, digest := range e.entry.Blobs {
			b.refs = append(b.refs, ref{holder: e.entry.Deployment, digest: digest})
		}
	}
	return nil
}

// head is the head after what was appended so far.
func (b *batch) head() (Head, error) {
	root, err := b.edge.root()
	return Head{Size: b.edge.size, Root: root}, err
}

// finish writes what the batch gathered.
func (b *batch) finish() error {
	if b.besides {
		return nil
	}
	for _, r := range b.refs {
		if err := b.pin(r); err != nil {
			return err
		}
	}
	head, err := b.head()
	if err != nil {
		return err
	}
	if err := b.record(head); err != nil {
		return err
	}
	if b.settled && b.s.opt.Signer != nil {
		return b.checkpoint(head)
	}
	return nil
}

// record writes entries, tree and head: in one statement where the database
// takes that, because each statement costs it a round trip.
func (b *batch) record(head Head) error {
	const intoEntry = "INSERT INTO entry (leaf, deployment_id, n, kind, step, actor_name, actor_uid, at, salt, record)"
	const intoTree = "INSERT INTO tree (id, hash)"
	const update = "UPDATE head SET size = %s, root = %s, version = version + 1 WHERE id = 1"
	entries := make([][]any, len(b.leaves))
	for i, e := range b.leaves {
		entries[i] = e.row(b.first + int64(i))
	}
	nodes := make([][]any, len(b.nodes))
	for i, n := range b.nodes {
		nodes[i] = []any{n.id, n.hash[:]}
	}
	if b.s.backend.WritingWith && len(entries) > 0 && len(nodes) <= mostRows {
		args := append(flat(entries), flat(nodes)...)
		n := len(args)
		query := "WITH e AS (" + intoEntry + " VALUES " + places(1, len(entries), len(entries[0])) +
			"), t AS (" + intoTree + " VALUES " + places(1+n-2*len(nodes), len(nodes), 2) +
			") " + fmt.Sprintf(update, "$"+strconv.Itoa(n+1), "$"+strconv.Itoa(n+2))
		_, err := b.ExecContext(b.ctx, query, append(args, head.Size, head.Root[:])...)
		return err
	}
	if err := insertMany(b.ctx, b, intoEntry, entries); err != nil {
		return err
	}
	if err := insertMany(b.ctx, b, intoTree, nodes); err != nil {
		return err
	}
	_, err := b.ExecContext(b.ctx, fmt.Sprintf(update, "$1", "$2"), head.Size, head.Root[:])
	return err
}

func (b *batch) pin(r ref) error {
	_, err := b.ExecContext(b.ctx, "INSERT INTO blob_ref (holder, digest) VALUES ($1, $2) ON CONFLICT DO NOTHING", r.holder, r.digest)
	return err
}

func (b *batch) checkpoint(head Head) error {
	note, err := b.s.opt.Signer.SignCheckpoint(b.ctx, Origin(b.s.id), head)
	if err != nil {
		return &backstay.Error{Op: "sign checkpoint of", Subject: b.s.backend.Where, Err: err}
	}
	return b.saveCheckpoint(Checkpoint{Size: head.Size, Note: note, At: b.wall()})
}

func (b *batch) saveCheckpoint(c Checkpoint) error {
	const insert = "INSERT INTO checkpoint (size, note, at) VALUES ($1, $2, $3) ON CONFLICT (size) DO UPDATE SET note = excluded.note, at = excluded.at"
	_, err := b.ExecContext(b.ctx, insert, c.Size, c.Note, c.At.UnixMicro())
	return err
}

// wall is the time for people.
func (b *batch) wall() time.Time { return b.s.opt.Clock.Wall() }

// now is the time that leases live by, in microseconds, read once per batch
// and before anything is compared with it: a lease never looks shorter than
// it is.
func (b *batch) now() (int64, error) {
	if b.clock == 0 {
		var err error
		if b.clock, err = b.s.now(b.ctx, b); err != nil {
			return 0, err
		}
	}
	return b.clock, nil
}

// now reads the clock that leases live by.
func (s *Store) now(ctx context.Context, q querier) (int64, error) {
	if s.backend.Now == "" {
		return s.opt.Clock.Boot().Microseconds(), nil
	}
	var now int64
	err := q.QueryRowContext(ctx, "SELECT "+s.backend.Now).Scan(&now)
	return now, err
}

// boot names the clock that now reads: times of another one say nothing.
func (s *Store) boot() string {
	if s.backend.Now == "" {
		return s.opt.Clock.BootID()
	}
	return "database"
}
