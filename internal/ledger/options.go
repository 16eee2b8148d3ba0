package ledger

import (
	"fmt"
	"os"
	"time"
)

// Options of a Store. Zero values mean what each comment says.
type Options struct {
	// Version of the program, shown with its node.
	Version string
	// TTL is how long this node's lease lasts without a renewal: 15 s. It is
	// renewed every third of it.
	TTL time.Duration
	// Margin is how long before the lease's end gates close: a fifth of TTL. It
	// must cover how long an effect goes on after its context ended.
	Margin time.Duration
	// Clock is the time that the store lives by; nil is this host's.
	Clock Clock
	// Signer signs a checkpoint with every settled deployment; nil signs none.
	Signer Signer
	// Host names this host to people; "" is its host name.
	Host string

	// alone commits every write by itself, to measure what grouping is worth.
	alone bool
}

// Resolve fills in the defaults and checks what was given.
func (o Options) Resolve() (Options, error) {
	if o.TTL == 0 {
		o.TTL = 15 * time.Second
	}
	if o.Margin == 0 {
		o.Margin = o.TTL / 5
	}
	// A lease without an end would keep a dead node's deployments from others.
	if o.TTL < 10*time.Millisecond || o.TTL > time.Hour {
		return o, fmt.Errorf("lease of %v: want 10ms to 1h", o.TTL)
	}
	if o.Margin < 0 || o.Margin >= o.TTL/2 {
		return o, fmt.Errorf("lease of %v with a margin of %v: the margin must be less than half of the lease", o.TTL, o.Margin)
	}
	if o.Clock == nil {
		clock, err := newHostClock()
		if err != nil {
			return o, err
		}
		o.Clock = clock
	}
	if o.Host == "" {
		host, err := os.Hostname()
		if err != nil {
			return o, fmt.Errorf("read host name: %w", err)
		}
		o.Host = host
	}
	return o, nil
}
