// Package kill holds the tests that kill real processes: children that deploy
// real files, scripts and services end by SIGKILL at every failpoint and at random
// moments, recover, and are judged by an oracle that looks at the world and at
// the ledger's entries only. Others are stopped past their lease, and wake up
// after somebody took over.
//
//	go test ./internal/sim/kill                                       a sample
//	BACKSTAY_REAL=1 go test ./internal/sim/kill -kill.full            as CI runs it
//	BACKSTAY_REAL=1 go test ./internal/sim/kill -kill.full -kill.times 50 -timeout 3h   a night
package kill
