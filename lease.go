package backstay

import (
	"context"
	"math"
	"time"
)

type leaseKey struct{}

// WithLease gives ctx the lease under which its acts run. left says how long
// that lease is good for, or why nothing may be done any more.
func WithLease(ctx context.Context, left func() (time.Duration, error)) context.Context {
	return context.WithValue(ctx, leaseKey{}, left)
}

// LeaseLeft is to be asked right before an effect, beside the end of ctx: a
// process that was stopped or suspended wakes between any two instructions, and
// goes on before the timer that ends ctx has run. Without a lease the time left
// is the longest there is.
func LeaseLeft(ctx context.Context) (time.Duration, error) {
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	left, ok := ctx.Value(leaseKey{}).(func() (time.Duration, error))
	if !ok {
		return math.MaxInt64, nil
	}
	return left()
}
