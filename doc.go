// Package backstay is the vocabulary of Backstay: the words that its parts say
// to each other, as data. It owns deployments and their states, frozen steps,
// resource images, ledger entries, verdicts and error classes.
//
// Everything here is plain data with pure functions on it: no I/O, no clock,
// no goroutine, and no import beyond the standard library. Formats that reach
// disk or wire (Entry, Step, Image, Residue) are versioned by the documents
// that hold them (ledger entry, plan) and have golden files there.
//
// It is not a client library: programs that want to deploy run the backstay
// binary.
package backstay
