package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/backstay-dev/backstay"
)

// draft is what a transaction is to add to the log, beside the statements of
// its own that nothing in the transaction reads. Making it asks the database
// nothing.
type draft struct {
	s *Store

	generation int64
	first      int64 // index of the draft's first leaf
	edge       fringe
	leaves     []sealed
	nodes      []node
	refs       []ref
	must       []Statement // of a guess: run first, and each must find its row
	rest       []Statement // run with the log's own, at the end
	sent       bool        // its COMMIT may have reached the database
}

// batch is one transaction of the committer with what its writes add.
// Locks are taken in this order: head, deployment, node, anything else.
type batch struct {
	draft
	*txn
	ctx context.Context

	besides bool // takes no turn at the head
	writes  int

	version int64 // of the head, before this batch
	settled bool  // sign a checkpoint
	signals int   // sent in this batch
	rewound bool  // this batch records that the ledger lost entries

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
	b.s.steady = b.s.edge.is(head)
	if b.s.steady {
		b.edge = b.s.edge.trim()
		return nil
	}
	lost, err := b.lost(head)
	if err != nil {
		return err
	}
	if b.edge, err = loadFringe(b.ctx, b.txn, head); err != nil || !lost {
		return err
	}
	known, err := b.s.edge.root()
	if err != nil {
		return err
	}
	return b.rewind(backstay.NoteBody{
		Text:    fmt.Sprintf("the database lost entries that it had acknowledged: it had %d and was found with %d", b.s.edge.size, head.Size),
		Rewound: &backstay.Rewound{LostSize: b.s.edge.size, LostRoot: known.String()},
	})
}

// append adds sealed entries to the log.
func (d *draft) append(entries ...sealed) error {
	for _, e := range entries {
		nodes, err := d.edge.add(e.hash)
		if err != nil {
			return err
		}
		d.nodes = append(d.nodes, nodes...)
		d.leaves = append(d.leaves, e)
		for _, digest := range e.entry.Blobs {
			d.refs = append(d.refs, ref{holder: e.entry.Deployment, digest: digest})
		}
	}
	return nil
}

// later runs a statement with the log's own, at the end.
func (d *draft) later(query string, args ...any) {
	d.rest = append(d.rest, Statement{Query: query, Args: args})
}

// head is the head after what was appended so far.
func (d *draft) head() (Head, error) {
	root, err := d.edge.root()
	return Head{Size: d.edge.size, Root: root}, err
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
	rest, err := b.record()
	if err != nil {
		return err
	}
	if err := b.each(b.ctx, rest); err != nil {
		return err
	}
	if b.settled && b.s.opt.Signer != nil {
		head, err := b.head()
		if err != nil {
			return err
		}
		return b.checkpoint(head)
	}
	return nil
}

// record is all that is left to run: the statements that waited, entries, tree
// and head.
func (d *draft) record() ([]Statement, error) {
	head, err := d.head()
	if err != nil {
		return nil, err
	}
	entries := make([][]any, len(d.leaves))
	for i, e := range d.leaves {
		entries[i] = e.row(d.first + int64(i))
	}
	nodes := make([][]any, len(d.nodes))
	for i, n := range d.nodes {
		nodes[i] = []any{n.id, n.hash[:]}
	}
	const intoEntry = "INSERT INTO entry (leaf, deployment_id, n, kind, step, actor_name, actor_uid, at, salt, record)"
	const intoTree = "INSERT INTO tree (id, hash)"
	all := append(d.rest, inserts(intoEntry, entries)...)
	all = append(all, inserts(intoTree, nodes)...)
	const update = "UPDATE head SET size = $1, root = $2, version = version + 1 WHERE id = 1"
	return append(all, Statement{Query: update, Args: []any{head.Size, head.Root[:]}}), nil
}

// pin keeps a blob for its holder. One that is not there is an error: an entry
// must not promise content that an undo would look for in vain.
func (b *batch) pin(r ref) error {
	const insert = `INSERT INTO blob_ref (holder, digest) SELECT $1, digest FROM blob WHERE digest = $2
		ON CONFLICT (holder, digest) DO UPDATE SET digest = excluded.digest`
	n, err := exec(b.ctx, b, insert, r.holder, r.digest)
	if err != nil || n > 0 {
		return err
	}
	return &backstay.Error{
		Class: backstay.Permanent, Op: "pin blob", Subject: r.digest,
		Err:  fmt.Errorf("%w in the ledger: it was never stored, or the database lost it", ErrNotFound),
		Hint: "run the command again: what it reads is stored anew",
	}
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
func (d *draft) wall() time.Time { return d.s.opt.Clock.Wall() }

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
