// Package crash tests what the ledger is after a power cut or an I/O error. It is
// a module of its own, so that the program never depends on what it needs: the
// real store (internal/ledger, internal/ledger/sqlite, the engine above it) runs
// on github.com/ncruces/go-sqlite3, whose file system is a Go interface. Below it
// a recorder notes every write, truncation, sync, creation and removal; from the
// record every legal image of the disk is built, reopened and recovered.
//
// The driver that the program ships (modernc.org/sqlite) is another build of the
// same SQLite: above the file system the code is the same, the system calls below
// it are its own. Package internal/sim/power records those as the kernel sees them.
//
//	cd test/crash && go test ./...                 a sample
//	cd test/crash && go test ./... -crash.full     every image, every n-th failure
package crash
