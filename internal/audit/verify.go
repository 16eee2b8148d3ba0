package audit

import (
	"context"
	"fmt"
	"slices"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/backstay-dev/backstay/internal/ledger"
)

// Options of a verification.
type Options struct {
	// PublicKeys are the verifier keys whose signatures count; at least one.
	// Several: nodes that share one ledger sign with a key each.
	PublicKeys []string
	// Against are checkpoints that were kept elsewhere: the only thing that
	// shows that the newest entries were removed, or that everything was
	// rewritten by somebody with the key.
	Against [][]byte
}

// maxProblems is how many problems a result lists.
const maxProblems = 20

// Verify recomputes the whole ledger and says what was proven and what is
// wrong. An error means that the ledger could not be read or the options are
// not usable; a damaged ledger is a Result that is not OK. It verifies the
// entries that the head covers when it begins; a ledger that is written
// meanwhile is fine.
func Verify(ctx context.Context, src Source, o Options) (Result, error) {
	keys, err := newTrust(o.PublicKeys)
	if err != nil {
		return Result{}, err
	}
	v := &verifier{src: src, trust: keys, chronicle: newChronicle(nil), told: true, unreadable: map[int64]bool{}}
	v.result = Result{Type: ResultFormat, Of: "ledger", Keys: keys.names}
	v.chronicle.report = v.report
	v.contents = newContents(src, v.report)
	if err := v.run(ctx, o.Against); err != nil {
		return Result{}, fmt.Errorf("verify ledger: %w", err)
	}
	return v.result, nil
}

type verifier struct {
	src       Source
	trust     trust
	result    Result
	head      ledger.Head
	signed    []signed
	tree      *tree
	chronicle *chronicle
	contents  *contents
	rewinds   []Rewind
	names     map[string]string // deployment names, once the rows are read
	// told is false when the store did not tell the columns of some leaf.
	told bool
	// unreadable leaves were reported already.
	unreadable map[int64]bool
}

// signed is one checkpoint whose signature counts.
type signed struct {
	body
	kept bool // kept elsewhere
	at   time.Time
}

func (c signed) name() string {
	if c.kept {
		return fmt.Sprintf("the kept checkpoint of size %d", c.size)
	}
	return fmt.Sprintf("the stored checkpoint of size %d", c.size)
}

func (v *verifier) report(p Problem) { v.result.add(p) }

func (v *verifier) run(ctx context.Context, against [][]byte) error {
	id, err := v.src.LedgerID(ctx)
	if err != nil {
		return err
	}
	if v.head, err = v.src.Head(ctx); err != nil {
		return err
	}
	stored, err := v.src.ReadCheckpoints(ctx)
	if err != nil {
		return err
	}
	v.result.Ledger = id
	v.result.Head = headOf(v.head)
	for _, c := range stored {
		v.open(c.Note, false, c.At, c.Size)
	}
	for _, kept := range against {
		v.open(kept, true, time.Time{}, -1)
	}
	sizes := map[int64]bool{v.head.Size: true}
	for _, c := range v.signed {
		sizes[c.size] = true
	}
	v.tree = newTree(v.src.HashReader(ctx), sizes, v.report)
	if err := v.contents.read(ctx); err != nil {
		return err
	}
	if err := v.walk(ctx); err != nil {
		return err
	}
	v.checkHead()
	v.checkSigned()
	if err := v.checkRows(ctx); err != nil {
		return err
	}
	if err := v.checkContents(ctx); err != nil {
		return err
	}
	v.result.Entries = v.tree.size
	v.result.Deployments = len(v.chronicle.sagas)
	v.result.UnknownKinds = v.chronicle.unknown
	v.result.Rewinds = v.rewinds
	v.result.finish(v.names)
	return nil
}

// open checks one checkpoint's signature and takes it on.
func (v *verifier) open(text []byte, kept bool, at time.Time, size int64) {
	c := signed{kept: kept, at: at}
	var err error
	c.body, err = v.trust.open(text)
	switch {
	case err != nil && size < 0:
		size = c.size
		fallthrough
	case err != nil:
		c.size = size
		v.report(Problem{
			Code: "checkpoint_not_trusted", Leaf: none, Last: none, Message: c.name() + ": " + err.Error(),
			Meaning: "nobody you trust signed it: it proves nothing",
			Do:      "give the right public key; if it is right, the checkpoint was forged or damaged",
		})
		return
	case c.origin != Origin(v.result.Ledger):
		v.report(Problem{
			Code: "checkpoint_foreign", Leaf: none, Last: none,
			Message: fmt.Sprintf("%s is of the log %q, this is %q", c.name(), c.origin, Origin(v.result.Ledger)),
			Meaning: "it is a checkpoint of another ledger, or this ledger was put in the place of the one that it signed",
			Do:      "give the checkpoint of this ledger, or find out where the ledger went",
		})
		return
	case size >= 0 && size != c.size:
		v.report(Problem{
			Code: "checkpoint_row", Leaf: none, Last: none,
			Message: fmt.Sprintf("a checkpoint is stored as of size %d and signs size %d", size, c.size),
			Meaning: "its row was changed", Do: "take the ledger from a copy",
		})
	}
	v.signed = append(v.signed, c)
}

// walk recomputes leaves, tree and sagas.
func (v *verifier) walk(ctx context.Context) error {
	next := int64(0)
	err := v.eachPage(ctx, func(leaves []ledger.Leaf) error {
		hashes := make([]leafHash, 0, len(leaves))
		records := make([]record, 0, len(leaves))
		for _, l := range leaves {
			if l.Index >= v.head.Size {
				continue
			}
			if l.Index < next {
				v.report(Problem{Code: "record_twice", Leaf: l.Index, Last: l.Index, Message: "the leaf is there twice", Meaning: "entries were added beside the tree", Do: "take the ledger from a copy"})
				continue
			}
			if l.Index > next {
				v.missing(next, l.Index)
				if err := v.flush(ctx, hashes, records); err != nil {
					return err
				}
				hashes, records = hashes[:0], records[:0]
				v.pad(l.Index)
			}
			r := readRecord(l)
			v.told = v.told && r.columns != nil
			hashes = append(hashes, leafHash{hash: recordHash(l.Salt, l.Record), where: r.where()})
			records = append(records, r)
			next = l.Index + 1
		}
		return v.flush(ctx, hashes, records)
	})
	if err != nil {
		return err
	}
	if next < v.head.Size {
		v.missing(next, v.head.Size)
		v.pad(v.head.Size)
	}
	return nil
}

// eachPage walks all leaves that the head covers. Around a leaf that cannot be
// read it goes one by one, so that a damaged row does not hide the others.
func (v *verifier) eachPage(ctx context.Context, page func([]ledger.Leaf) error) error {
	const most = 100 // unreadable leaves: beyond that it is the store
	after, slow, failed := none, 0, 0
	for last := v.head.Size - 1; after < last; {
		limit := min(pageSize, last-after)
		if slow > 0 {
			limit = 1
		}
		leaves, err := read(ctx, v.src, after, int(limit))
		switch {
		case err == nil && len(leaves) == 0:
			return nil
		case err == nil:
			after, slow = leaves[len(leaves)-1].Index, max(slow-1, 0)
			if err := page(leaves); err != nil {
				return err
			}
		case ctx.Err() != nil || failed == most:
			return err
		case slow == 0:
			slow = pageSize
		default:
			after++
			failed++
			v.unreadable[after] = true
			v.report(Problem{
				Code: "record_unreadable", Leaf: after, Last: after, Message: "the leaf cannot be read: " + err.Error(),
				Meaning: "its row was changed, or the file is damaged", Do: "take the ledger from a copy",
			})
		}
	}
	return nil
}

// flush hands leaves to the tree, their entries to the sagas, and what those
// refer to, to the check of contents.
func (v *verifier) flush(ctx context.Context, hashes []leafHash, records []record) error {
	for i, wrong := range v.tree.add(hashes) {
		r := records[i]
		v.chronicle.take(ctx, r, wrong, v.src)
		if wrong || r.wrong != "" {
			continue // it says nothing
		}
		v.noteRewind(r)
		if err := v.contents.take(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

// missing reports leaves whose records are gone.
func (v *verifier) missing(from, to int64) {
	v.chronicle.damaged = true
	for from < to && v.unreadable[from] {
		from++
	}
	if from == to {
		return
	}
	what := fmt.Sprintf("leaves %d to %d have no record", from, to-1)
	if to-from == 1 {
		what = fmt.Sprintf("leaf %d has no record", from)
	}
	v.report(Problem{
		Code: "record_missing", Leaf: from, Last: to - 1, Message: what,
		Meaning: "entries were removed", Do: "take the ledger from a copy",
	})
}

// pad goes on in the tree over leaves whose records are gone.
func (v *verifier) pad(to int64) {
	for v.tree.size < to && !v.tree.broken {
		gone := make([]leafHash, min(pageSize, to-v.tree.size))
		for i := range gone {
			gone[i].unknown = true
		}
		v.tree.add(gone)
	}
	v.tree.size = max(v.tree.size, to)
}

// checkHead compares the stored head with the root over the leaves.
func (v *verifier) checkHead() {
	if root, ok := v.tree.roots[v.head.Size]; ok && root != tlog.Hash(v.head.Root) {
		v.report(Problem{
			Code: "head_changed", Leaf: none, Last: none,
			Message: fmt.Sprintf("the stored head of size %d is %s, the leaves give %s", v.head.Size, tlog.Hash(v.head.Root), root),
			Meaning: "the head was changed, or entries were added, removed or rewritten without it", Do: "take the ledger from a copy",
		})
	}
}

// checkSigned compares what was signed with the roots over the leaves.
func (v *verifier) checkSigned() {
	slices.SortStableFunc(v.signed, func(a, b signed) int { return int(min(max(a.size-b.size, -1), 1)) })
	good := int64(0)
	for _, c := range v.signed {
		if c.size > v.head.Size {
			v.report(Problem{
				Code: "truncated", Leaf: v.head.Size, Last: c.size - 1,
				Message: fmt.Sprintf("%s was made when the ledger had %d entries; it has %d now", c.name(), c.size, v.head.Size),
				Meaning: fmt.Sprintf("at least the newest %d entries of that time were removed", c.size-v.head.Size) + v.lostBranch(c),
				Do:      "take the ledger from a copy; was a backup restored? then what ran since is not recorded here",
			})
			continue
		}
		root, ok := v.tree.roots[c.size]
		if !ok {
			continue // the tree is broken before it, and that is reported
		}
		if root != c.root {
			v.report(Problem{
				Code: "rewritten", Leaf: good, Last: c.size - 1,
				Message: fmt.Sprintf("%s signs root %s, the first %d entries give %s", c.name(), c.root, c.size, root),
				Meaning: fmt.Sprintf("among the entries %d to %d some were changed, added or removed after that checkpoint was signed", good, c.size-1) + v.lostBranch(c),
				Do:      "take the ledger from a copy; everything the log says about these entries is in doubt",
			})
			continue
		}
		good = c.size
		v.result.cover(c)
	}
}
