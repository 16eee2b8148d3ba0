// Package drill rehearses a plan: it lets faults happen to it, one cell (fault
// at a step) after the other, and compares what rollback and recovery leave
// with what was there before.
//
// It owns the enumeration of cells, the model of targets (level D1), the judge
// and the blind list. It promises: each cell has a fresh world and its own
// deployment on a ledger that goes away with the drill; no real target is read
// or written at D1; the same plan gives the same cells with the same results; a
// cell that did not happen is not-run, never good; the judge shares no code
// with the engine, and what an undo reports counts for nothing.
//
// D1 proves what the engine makes of the plan as it is declared: classes,
// effects, order, what can be read. It does not run the plan's commands: an undo
// that does not do what it says is not found at D1.
package drill
