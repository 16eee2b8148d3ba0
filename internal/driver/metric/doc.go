// Package metric holds the kinds of check that ask for evidence: compare (the new
// side against the running one, by the sequential tests of internal/analysis),
// query (a number against its bounds), burn (how fast an error budget is spent),
// probe (one synthetic request over TCP or gRPC) and initialise (it must answer in
// time). It owns the spec's section sources and the breaker around each source.
//
// Checks hold no state of their own: what a check must remember is in its answer
// (CheckResult.State), which the engine keeps, in the ledger too, and hands back.
// So an analysis goes on after a crash where the ledger left it.
//
// What cannot be known (no data, old data, NaN, a source that is down) is
// undecided, never a pass (invariant I17).
package metric
