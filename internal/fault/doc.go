// Package fault makes steps, and the process that drives them, go wrong on
// purpose.
//
// It owns the catalogue of faults (what can be injected, where, and which crash
// points of the fault model that covers), the list of what cannot be, and the
// injector: a decorator around what acts on targets, with the failpoints of the
// engine beside it. A fault fires at most once unless its text says otherwise,
// and the injector says whether it did: what never fired proved nothing.
//
// It knows nothing of plans, ledgers and the engine; it fits the engine's Actions
// by shape. It judges nothing.
package fault
