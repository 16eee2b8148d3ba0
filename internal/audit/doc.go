// Package audit proves what the ledger says, or shows exactly where it lies.
//
// It owns checkpoints (signed tree heads in the C2SP tlog-checkpoint format),
// verification of a ledger or a copy of it, the export that can be verified
// alone, and the lines of the audit log. It reads the ledger only; the one
// thing it writes is a checkpoint.
//
// Verification recomputes everything from what was written: leaf hashes from
// salt and record, the tree from the leaves, the roots that checkpoints signed,
// the numbering and the grammar of every deployment, and what commands read
// (rows and columns) from the records. Stored content is read and held against
// its address; what is missing must have been recorded as collected. Its grammar is its own: it shares no
// code with the engine that writes the entries. It streams: memory grows with
// the number of deployments, not of entries or of content.
//
// The log is tamper-evident, not tamper-proof. Who can write the ledger and has
// the signing key can rewrite it all; a checkpoint kept elsewhere (Options.Against)
// shows that too. Entries newer than the newest signed checkpoint are covered by
// no signature, and every result says how many those are.
package audit
