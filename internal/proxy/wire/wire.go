// Package wire is what the data plane and those who drive or read it say to
// each other: routes and their canonical state, changes with their fencing
// token, refusals, status, blocks of statistics, and the client of the admin
// socket. Documents are JSON and carry Format; a reader ignores keys that it
// does not know.
//
// It promises: a Route survives State and FromState unchanged; two routes are
// the same exactly when their digests are; histograms of any two proxies add up
// exactly. It decides nothing: whether a change is accepted is the data plane's.
package wire
