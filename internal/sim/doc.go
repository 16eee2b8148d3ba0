// Package sim hunts the engine with faults. It holds tests and what they need,
// nothing that the binary links.
//
// A run is one deployment in a bubble of virtual time (testing/synctest): the
// real engine, a world of cells that steps change, and a ledger, the real one or
// one in memory that TestMemoryIsALedger holds against it. Faults wait at named
// points: each act, look, probe and check of the world, each part of an act,
// each write of the ledger, each failpoint of the engine. A process that dies is
// followed by another, up to the end; then come a second recovery, which must do
// nothing, and, of a held deployment, a retry and a signed acceptance.
//
//   - TestDepth1: each single fault at each point of each canonical plan.
//   - TestDepth2: each pair, the second over the trace of the run with the first.
//   - TestSchedules: faults drawn from a seed, over canonical and random plans.
//   - TestRegressions: what once found a bug, for ever. TestReplay: one case.
//   - TestShrink: the shrinker, on a seeded bug.
//
// The oracle (judge) knows the journal of the world and the entries of the ledger
// and shares no code with the engine. After each run it checks:
//
//	I1  End              run.live, justifiedTurn, run.collect (retry, close)
//	I2  Commit truth     commitTruth, effectCounts
//	I3  Rollback truth   restored, opaqueRestored, dialInOne
//	I4  Held is exact    restored, residueTrue, imageTrue
//	I5  Held justified   causeTrue, fact, run.collect
//	I6  Write-ahead      book.mustHaveIntent (at each write), writeAhead
//	I7  Acknowledged     acknowledged
//	I8  One writer       epochs, run.second, run.secondAfter
//	I9  Effect count     effectCounts
//	I10 Undo progress    compensations, run.follow, leftovers
//	I11 Order            undoOrder, stoppedOnlyDependents, onlyOnward
//	I12 Approval         decisions
//	I13 Audit            grammar, decisions, failuresRecorded, signalsAnswered;
//	                     lab.audit (of the real ledger, after each lab)
//	I14 No secrets       history.secrets
//	I15 Traffic          traffic, over the plans that release steps expand into
//	I16 Bounded          run.once (virtual time), withinBudget; a goroutine that is
//	                     left blocks the end of its bubble, which fails the test
//	I17 No data          decisions
//	I18 Neighbours       neighbours, overwritten, untouched
package sim
