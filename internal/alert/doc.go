// Package alert takes in what monitors report by webhook: Alertmanager's format
// (version 4), and one of our own, "backstay.alert/v1", signed as Standard Webhooks
// says. It owns the report (what one request says about one deployment), the
// handler with its bounds, and the server.
//
// It promises: nothing of a request is believed, or read further than needed, before
// it is authenticated, by a signature over its identifier, its time and its body or,
// for Alertmanager, which signs nothing, by a bearer token; both are compared in a
// time that tells nothing. A signed request is taken once, and not when it is late;
// the same report twice has the same ID, so that the ledger takes it once, also after
// a restart. Size, time, connections and requests of one sender are bounded, and what
// is kept of an alert is bounded, free of control characters and of the receiver's own
// secrets.
//
// It decides nothing and knows no ledger: which deployment is meant, and what becomes
// of it, is the caller's (Options.Deliver).
package alert
