package ledger

import (
	"context"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"
)

// fringe is the right edge of a tree: the roots of its complete subtrees,
// which is all that is needed to append to it and to compute its root.
type fringe struct {
	size   int64
	hashes map[int64]tlog.Hash // by stored hash index
}

// node is one stored hash of the tree.
type node struct {
	id   int64
	hash tlog.Hash
}

func emptyRoot() tlog.Hash {
	root, err := tlog.TreeHash(0, nil)
	if err != nil {
		panic("ledger: root of the empty tree: " + err.Error()) // it reads nothing
	}
	return root
}

// edgeIndexes are the stored hash indexes of the complete subtrees of a tree
// of this size: one for each bit that is set.
func edgeIndexes(size int64) []int64 {
	var ids []int64
	for level := 62; level >= 0; level-- {
		if size>>level&1 == 1 {
			ids = append(ids, tlog.StoredHashIndex(level, size>>level-1))
		}
	}
	return ids
}

// ReadHashes implements tlog.HashReader on the edge.
func (f *fringe) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	hashes := make([]tlog.Hash, len(indexes))
	for i, id := range indexes {
		h, ok := f.hashes[id]
		if !ok {
			return nil, fmt.Errorf("hash %d is not on the edge of a tree of %d", id, f.size)
		}
		hashes[i] = h
	}
	return hashes, nil
}

// root is the root of the tree.
func (f *fringe) root() (tlog.Hash, error) { return tlog.TreeHash(f.size, f) }

// is reports whether this is the edge of the tree that the head names.
func (f *fringe) is(head Head) bool {
	if f.hashes == nil || f.size != head.Size {
		return false
	}
	root, err := f.root()
	return err == nil && root == head.Root
}

// add appends a leaf and returns the hashes to store, the first with the
// leaf's own index.
func (f *fringe) add(leaf tlog.Hash) ([]node, error) {
	hashes, err := tlog.StoredHashesForRecordHash(f.size, leaf, f)
	if err != nil {
		return nil, err
	}
	first := tlog.StoredHashIndex(0, f.size)
	nodes := make([]node, len(hashes))
	for i, h := range hashes {
		nodes[i] = node{id: first + int64(i), hash: h}
		f.hashes[nodes[i].id] = h
	}
	f.size++
	return nodes, nil
}

// trim returns a copy that holds the edge and nothing else.
func (f *fringe) trim() fringe {
	edge := fringe{size: f.size, hashes: make(map[int64]tlog.Hash, 64)}
	for _, id := range edgeIndexes(f.size) {
		edge.hashes[id] = f.hashes[id]
	}
	return edge
}

// loadFringe reads the edge of the tree from its table and holds it against
// the head: a tree that does not give its own root is damaged.
func loadFringe(ctx context.Context, q querier, head Head) (fringe, error) {
	f := fringe{size: head.Size, hashes: map[int64]tlog.Hash{}}
	ids := edgeIndexes(head.Size)
	hashes, err := readHashes(ctx, q, ids)
	if err != nil {
		return f, err
	}
	for i, id := range ids {
		f.hashes[id] = hashes[i]
	}
	root, err := f.root()
	if err != nil {
		return f, err
	}
	if root != tlog.Hash(head.Root) {
		return f, fmt.Errorf("%w: the tree of %d entries has root %v, its head says %v", ErrDamaged, head.Size, root, tlog.Hash(head.Root))
	}
	return f, nil
}

// readHashes reads stored hashes in the order asked for.
func readHashes(ctx context.Context, q querier, ids []int64) ([]tlog.Hash, error) {
	const most = 256
	hashes := make([]tlog.Hash, 0, len(ids))
	found := make(map[int64]tlog.Hash, len(ids))
	for rest := ids; len(rest) > 0; {
		n := min(most, len(rest))
		if err := readSome(ctx, q, rest[:n], found); err != nil {
			return nil, err
		}
		rest = rest[n:]
	}
	for _, id := range ids {
		h, ok := found[id]
		if !ok {
			return nil, fmt.Errorf("%w: tree hash %d is missing", ErrDamaged, id)
		}
		hashes = append(hashes, h)
	}
	return hashes, nil
}

func readSome(ctx context.Context, q querier, ids []int64, found map[int64]tlog.Hash) error {
	args := make([]any, len(ids))
	for i, id := range ids {
		args[i] = id
	}
	rows, err := q.QueryContext(ctx, "SELECT id, hash FROM tree WHERE id IN "+in(1, len(ids)), args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var id int64
		var b []byte
		if err := rows.Scan(&id, &b); err != nil {
			return err
		}
		if len(b) != tlog.HashSize {
			return fmt.Errorf("%w: tree hash %d has %d bytes", ErrDamaged, id, len(b))
		}
		found[id] = tlog.Hash(b)
	}
	return rows.Err()
}

// HashReader reads stored hashes of the tree, for proofs. ctx bounds its reads.
func (s *Store) HashReader(ctx context.Context) tlog.HashReader {
	return tlog.HashReaderFunc(func(ids []int64) ([]tlog.Hash, error) {
		hashes, err := readHashes(ctx, s.backend.Read, ids)
		return hashes, s.reading("read tree of", s.backend.Where, err)
	})
}
