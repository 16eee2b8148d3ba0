package ledger

import (
	osexec "os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// TestEndStoppedWaits: a stopped process that was ended is gone when the call
// returns. Its locks would else be found held by who took over from it.
func TestEndStoppedWaits(t *testing.T) {
	t.Parallel()
	for range 20 {
		cmd := osexec.CommandContext(t.Context(), "sleep", "60")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		pid := strconv.Itoa(cmd.Process.Pid)
		_, start, ok := processStat(pid)
		if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil || !ok {
			t.Fatal(err)
		}
		for state := ""; state != "T"; {
			state, _, _ = processStat(pid)
		}
		if !endIfStopped(cmd.Process.Pid, start) {
			t.Error("a stopped process was not ended")
		}
		if state, _, ok := processStat(pid); ok && !strings.Contains("ZX", state) {
			t.Errorf("the ended process is still in state %s", state)
		}
		_ = cmd.Wait()
	}
}
