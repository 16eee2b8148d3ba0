// Package sim hunts the engine with faults. It holds tests and what they need,
// nothing that the binary links: real child processes that are killed at every
// failpoint and at random moments, with an oracle that looks at the world and
// the ledger's entries only and shares no code with the engine.
package sim
