package sim

import (
	"flag"
	"os"
	"runtime/debug"
	"testing"
)

// TestMain makes the collector lazier: a run makes much garbage and keeps
// little of it.
func TestMain(m *testing.M) {
	flag.Parse()
	debug.SetGCPercent(400)
	os.Exit(m.Run())
}
