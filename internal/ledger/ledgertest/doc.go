// Package ledgertest is the conformance and fault suite of the ledger's
// stores: the same tests run on SQLite (file and memory) and on a real
// PostgreSQL. A store package fills in a Harness and calls Run.
//
// It also has what tests of stores share: a clock that tests move, and the
// recomputation of a tree from its records, which shares no code with the
// writer but the hash functions.
//
// It is for tests only.
package ledgertest
