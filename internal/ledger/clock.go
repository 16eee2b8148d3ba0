package ledger

import "time"

// hostClock is the Clock of this host.
type hostClock struct{ bootID string }

var _ Clock = hostClock{}

func (c hostClock) BootID() string  { return c.bootID }
func (c hostClock) Wall() time.Time { return time.Now() }
