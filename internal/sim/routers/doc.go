// Package routers holds the tests of deployments whose router fails: real routers
// behind a relay that breaks one exchange, or all from one on, in every way that
// an admin API breaks: it refuses, hangs, cuts, loses its answer, answers garbage,
// a byte at a time, or says that it did what it did not. Each exchange of a
// deployment is broken once in each way. What became of the traffic is read from
// the router itself, past the relay.
//
//	go test ./internal/sim/routers                  a taste of it
//	go test ./internal/sim/routers -routers.full    nearly all: minutes
package routers
