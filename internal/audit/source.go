package audit

import (
	"context"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/ledger"
)

// Leaves reads entries in leaf order.
type Leaves interface {
	Walk(ctx context.Context, q ledger.Query, visit func(ledger.Leaf) error) error
}

// Tree reads the stored Merkle tree.
type Tree interface {
	Head(ctx context.Context) (ledger.Head, error)
	HashReader(ctx context.Context) tlog.HashReader
}

// Checkpoints reads the stored signed heads and the ledger's name.
type Checkpoints interface {
	ReadCheckpoints(ctx context.Context) ([]ledger.Checkpoint, error)
	LedgerID(ctx context.Context) (string, error)
}

// Rows reads what commands read: the projections beside the log.
type Rows interface {
	List(ctx context.Context, f ledger.Filter) ([]ledger.Deployment, error)
	Entries(ctx context.Context, id string, afterN int64) ([]backstay.Entry, error)
	Plan(ctx context.Context, digest string) ([]byte, error)
	// Flags reads the flags that changed after a leaf (-1: all), removed ones too.
	Flags(ctx context.Context, afterLeaf int64) ([]backstay.Flag, error)
}

// Contents reads what entries and plans refer to by content address.
type Contents interface {
	PlanDigests(ctx context.Context, after string, limit int) ([]string, error)
	Addresses(ctx context.Context, after string, limit int) ([]string, error)
	// CheckBlob reads a blob; its error wraps ledger.ErrDamaged or ErrNotFound.
	CheckBlob(ctx context.Context, address string) (size int64, err error)
	Blobs(ctx context.Context) backstay.Blobs
}

// Source is a ledger to verify, live or a copy opened read-only.
type Source interface {
	Leaves
	Tree
	Checkpoints
	Rows
	Contents
}

// pageSize is how many leaves are held at once. Reads of the tree and of rows
// happen between pages, never inside Walk: a store with one connection would
// wait for itself.
const pageSize = 256

// pages walks the query in pages and calls each with up to pageSize leaves.
func pages(ctx context.Context, src Leaves, q ledger.Query, page func([]ledger.Leaf) error) error {
	left := q.Limit
	for {
		part := q
		part.Limit = pageSize
		if left > 0 {
			part.Limit = min(part.Limit, left)
		}
		leaves, err := collect(ctx, src, part)
		if err != nil {
			return err
		}
		if len(leaves) > 0 {
			if err := page(leaves); err != nil {
				return err
			}
			q.AfterLeaf = leaves[len(leaves)-1].Index
		}
		if left > 0 {
			if left -= len(leaves); left <= 0 {
				return nil
			}
		}
		if len(leaves) < part.Limit {
			return nil
		}
	}
}

// read returns up to limit leaves after one.
func read(ctx context.Context, src Leaves, after int64, limit int) ([]ledger.Leaf, error) {
	return collect(ctx, src, ledger.Query{AfterLeaf: after, Limit: limit})
}

func collect(ctx context.Context, src Leaves, q ledger.Query) ([]ledger.Leaf, error) {
	leaves := make([]ledger.Leaf, 0, q.Limit)
	err := src.Walk(ctx, q, func(l ledger.Leaf) error {
		leaves = append(leaves, l)
		return nil
	})
	return leaves, err
}
