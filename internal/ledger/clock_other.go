//go:build !linux

package ledger

import (
	"errors"
	"time"
)

// newHostClock refuses: a lease needs a clock that counts through suspend and
// an ID that changes with each boot, and this host has not been taught either.
func newHostClock() (Clock, error) {
	return nil, errors.New("no boot clock is known for this operating system: writing a ledger needs Linux")
}

func (hostClock) Boot() time.Duration { return 0 }

func processStart() int64 { return 0 }
