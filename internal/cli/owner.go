package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"

	"github.com/backstay-dev/backstay/internal/ledger"
)

// ownerWord says who drives a deployment.
func (c *call) ownerWord(o *ledger.Owner) string {
	switch {
	case o == nil:
		return "nobody"
	case !o.Live:
		return fmt.Sprintf("nobody any more (process %d on %s lost its lease)", o.PID, o.Host)
	case gone(o):
		return fmt.Sprintf("nobody any more (process %d is gone, its lease ends in %s)", o.PID, rounded(o.Left))
	}
	return fmt.Sprintf("process %d on %s, for %s", o.PID, o.Host, c.age(o.Since))
}

// driven reports whether somebody drives the deployment, as far as can be
// told: its owner's lease is good, and the process is not known to be gone.
func driven(d ledger.Deployment) bool { return d.Owner != nil && d.Owner.Live && !gone(d.Owner) }

// gone reports whether the owner is a process of this host that does not exist
// any more. Where that cannot be told, it is not gone: only its lease counts.
func gone(o *ledger.Owner) bool {
	if host, err := os.Hostname(); err != nil || host != o.Host {
		return false
	}
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		return false
	}
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(o.PID) + "/stat")
	if errors.Is(err, fs.ErrNotExist) {
		return true
	}
	if err != nil {
		return false
	}
	start, ok := startOf(stat)
	return ok && o.Start != 0 && start != o.Start
}

// startOf reads the start time (proc(5), field 22) out of a process's stat
// line. The name before it is in brackets and may hold anything.
func startOf(stat []byte) (int64, bool) {
	const afterName = 22 - 3
	i := bytes.LastIndexByte(stat, ')')
	if i < 0 {
		return 0, false
	}
	fields := bytes.Fields(stat[i+1:])
	if len(fields) <= afterName {
		return 0, false
	}
	start, err := strconv.ParseInt(string(fields[afterName]), 10, 64)
	return start, err == nil
}
