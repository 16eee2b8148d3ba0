// Package engine executes plans as sagas: every step is written ahead, done,
// read back, and undone in reverse when anything fails. It owns the transition
// table, the fold of ledger entries into progress, the pure decision of what
// comes next, the runner that performs it, and recovery.
//
// It promises the invariants I1–I13, I16 and I18 of the design: a deployment
// ends committed, rolled back, or held with the exact residue, whatever is
// killed when; nothing is written to a target before its intent and
// before-image are durable; an outsider's value is never overwritten.
//
// Data flows one way: entries → fold → progress → next → commands → runner →
// entries. fold and next are pure: no clock, no goroutine, no I/O. The runner
// is one goroutine that owns a deployment; acts on targets run in workers that
// report back to it. The engine never names a step kind.
package engine
