package audit

import (
	"fmt"

	"golang.org/x/mod/sumdb/tlog"
)

// tree recomputes a Merkle tree leaf by leaf and holds it against the stored
// hashes. Where the two differ it reports that once and goes on with the stored
// hash, so that each change is found where it is and does not hide the next.
// If it reported nothing, every root it gives follows from the leaves alone.
type tree struct {
	stored tlog.HashReader
	report func(Problem)

	size  int64
	stack []subtree // complete subtrees, largest first
	wants map[int64]bool
	roots map[int64]tlog.Hash
	// broken is set when a leaf's hash is known from nowhere: no root can be
	// computed from there on.
	broken bool
}

// subtree is a complete subtree of 2^level leaves.
type subtree struct {
	level int
	hash  tlog.Hash
}

// leafHash is the hash of one leaf as recomputed; unknown where its record is gone.
type leafHash struct {
	hash    tlog.Hash
	unknown bool
	// where names the leaf's entry in a problem.
	where Problem
}

// newTree wants the roots at the sizes.
func newTree(stored tlog.HashReader, sizes map[int64]bool, report func(Problem)) *tree {
	t := &tree{stored: stored, report: report, wants: sizes, roots: map[int64]tlog.Hash{}}
	t.note()
	return t
}

// add appends the next leaves. It returns which of them do not hash to what
// the tree holds.
func (t *tree) add(leaves []leafHash) (wrong []bool) {
	wrong = make([]bool, len(leaves))
	if t.broken || len(leaves) == 0 {
		t.size += int64(len(leaves))
		return wrong
	}
	// The hashes that a leaf completes are stored one after the other.
	first := tlog.StoredHashCount(t.size)
	stored := t.read(first, tlog.StoredHashCount(t.size+int64(len(leaves))))
	at := 0
	next := func() *tlog.Hash {
		at++
		return stored[at-1]
	}
	for i, leaf := range leaves {
		hash, have := leaf.hash, next()
		switch {
		case have == nil && leaf.unknown:
			t.broken = true
			t.size += int64(len(leaves) - i)
			return wrong
		case have == nil:
		case leaf.unknown:
			hash = *have
		case hash != *have:
			wrong[i] = true
			p := leaf.where
			p.Code = "record_changed"
			p.Message = "the record and its salt do not hash to the leaf in the tree"
			p.Meaning = "the record was changed after it was written, or the leaf was"
			p.Do = "take the ledger from a copy made before the change; until then do not act on this entry"
			t.report(p)
			hash = *have
		}
		t.push(hash, next)
		t.note()
	}
	return wrong
}

// push adds a leaf and completes the subtrees that end with it.
func (t *tree) push(hash tlog.Hash, next func() *tlog.Hash) {
	t.size++
	node := subtree{hash: hash}
	for len(t.stack) > 0 && t.stack[len(t.stack)-1].level == node.level {
		left := t.stack[len(t.stack)-1]
		t.stack = t.stack[:len(t.stack)-1]
		node = subtree{level: node.level + 1, hash: tlog.NodeHash(left.hash, node.hash)}
		if have := next(); have != nil && *have != node.hash {
			width := int64(1) << node.level
			t.report(Problem{
				Code: "tree_changed", Leaf: t.size - width, Last: t.size - 1,
				Message: fmt.Sprintf("the tree node over leaves %d to %d does not follow from the leaves below it", t.size-width, t.size-1),
				Meaning: "leaves below it were rewritten together with their hashes, or the tree itself was changed",
				Do:      "take the ledger from a copy; compare with a checkpoint kept elsewhere (--against) to see which side is true",
			})
			node.hash = *have
		}
	}
	t.stack = append(t.stack, node)
}

// read returns the stored hashes of [from, to); nil for those that are not
// there. What is missing is reported once per call.
func (t *tree) read(from, to int64) []*tlog.Hash {
	indexes := make([]int64, 0, to-from)
	for i := from; i < to; i++ {
		indexes = append(indexes, i)
	}
	out := make([]*tlog.Hash, len(indexes))
	hashes, err := t.stored.ReadHashes(indexes)
	if err == nil && len(hashes) == len(indexes) {
		for i := range hashes {
			out[i] = &hashes[i]
		}
		return out
	}
	missing, why := 0, err
	for i := range indexes {
		one, err := t.stored.ReadHashes(indexes[i : i+1])
		if err != nil || len(one) != 1 {
			missing++
			why = err
			continue
		}
		out[i] = &one[0]
	}
	if missing > 0 {
		t.report(Problem{
			Code: "tree_missing", Leaf: t.size, Last: t.size,
			Message: fmt.Sprintf("%d stored hashes of the tree cannot be read from leaf %d on: %v", missing, t.size, why),
			Meaning: "part of the tree was removed; proofs that need it cannot be made",
			Do:      "take the ledger from a copy",
		})
	}
	return out
}

// note keeps the root if it is wanted at this size.
func (t *tree) note() {
	if t.wants[t.size] {
		t.roots[t.size] = t.root()
	}
}

// root is the root over the leaves so far.
func (t *tree) root() tlog.Hash {
	if len(t.stack) == 0 {
		empty, _ := tlog.TreeHash(0, nil) // reads nothing
		return empty
	}
	hash := t.stack[len(t.stack)-1].hash
	for i := len(t.stack) - 2; i >= 0; i-- {
		hash = tlog.NodeHash(t.stack[i].hash, hash)
	}
	return hash
}
