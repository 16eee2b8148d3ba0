package ledger

import (
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// newHostClock reads the boot ID once: it cannot change while the process lives.
func newHostClock() (Clock, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, fmt.Errorf("read boot ID: %w", err)
	}
	return hostClock{bootID: strings.TrimSpace(string(id))}, nil
}

// Boot is CLOCK_BOOTTIME: unlike Go's monotonic clock it does not stop in suspend.
func (hostClock) Boot() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("ledger: CLOCK_BOOTTIME: " + err.Error()) // there since Linux 2.6.39
	}
	return time.Duration(ts.Nano())
}

// processStart is when this process started, in clock ticks since boot: with
// the pid it names the process for as long as the host is up. 0: not known.
func processStart() int64 {
	_, start, _ := processStat("self")
	return start
}
