// Package kill holds the tests that kill real processes: children that deploy
// real files and scripts end by SIGKILL at every failpoint and at random
// moments, recover, and are judged by an oracle that looks at the world and at
// the ledger's entries only.
package kill
