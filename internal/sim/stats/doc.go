// Package stats holds internal/analysis to its promises by simulation, and
// compares whole rollouts with what other tools would have done on the same
// traffic. It is tests only. Seeds are fixed, and every claim about a
// probability is a binomial bound.
//
// `go test` plays a reduced version at wider error rates, whose bounds hold just
// as well; `make sim-stats` plays all of it. Each row of a table is a subtest, so
// that -run picks one.
package stats
