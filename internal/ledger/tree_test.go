package ledger

import (
	"fmt"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
)

// TestFringe grows a tree by its edge alone and holds each root against the
// one that all stored hashes give.
func TestFringe(t *testing.T) {
	t.Parallel()
	edge := fringe{hashes: map[int64]tlog.Hash{}}
	var stored []tlog.Hash
	all := tlog.HashReaderFunc(func(ids []int64) ([]tlog.Hash, error) {
		hashes := make([]tlog.Hash, len(ids))
		for i, id := range ids {
			hashes[i] = stored[id]
		}
		return hashes, nil
	})
	for n := int64(0); n < 300; n++ {
		want, err := tlog.TreeHash(n, all)
		if err != nil {
			t.Fatal(err)
		}
		got, err := edge.root()
		if err != nil || got != want {
			t.Fatalf("root of %d: got %v, %v; want %v", n, got, err, want)
		}
		nodes, err := edge.add(tlog.RecordHash(fmt.Append(nil, n)))
		if err != nil {
			t.Fatal(err)
		}
		for _, node := range nodes {
			if node.id != int64(len(stored)) {
				t.Fatalf("stored hash: got index %d, want %d", node.id, len(stored))
			}
			stored = append(stored, node.hash)
		}
		if n%3 == 0 {
			edge = edge.trim()
		}
	}
	if len(edge.trim().hashes) != 4 { // 300 = 256 + 32 + 8 + 4
		t.Errorf("edge of 300: got %d hashes, want 4", len(edge.trim().hashes))
	}
}
