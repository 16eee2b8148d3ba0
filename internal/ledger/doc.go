// Package ledger is the append-only log of Backstay, which is write-ahead log,
// event source and audit log in one, with the leases that say who may write
// which deployment. It owns entries and the Merkle tree over them, deployments
// as rows, leases and epochs, locks on resource keys, signals, plans,
// content-addressed blobs, and the projections that reads show.
//
// It promises: what a write acknowledged survives kill -9, power cut and a
// restart of the database (one transaction per write holds entries, tree nodes
// and rows; its commit is synchronous). A write begins with the check of its
// epoch and owner; a stale one changes nothing and gets ErrFenced. Entries of a
// deployment are numbered without gaps. No decision depends on wall-clock time:
// leases live by the host's boot clock (SQLite) or by the database's clock
// (PostgreSQL). After an I/O error of an embedded store nothing more is
// written by this process. The middle of the log is never truncated: damage is
// reported.
//
// One code path on portable SQL serves every store; what differs is in a
// Dialect. All writes of a process pass one committer, which groups what waits
// into one transaction. A Store is safe for concurrent use; a Lease and a
// BlobBuffer say what they are.
//
// It is not a queue, not a lock service for others, and knows no plan, step
// kind or state machine: bodies are opaque to it. DESIGN.md has tables,
// invariants and lock order.
package ledger
