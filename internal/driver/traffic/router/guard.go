package router

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/failsafe-go/failsafe-go/circuitbreaker"

	"github.com/backstay-dev/backstay"
)

// A router that does not answer so often in a row is left alone for so long.
const (
	guardFailures = 5
	guardDelay    = time.Second
)

// Guards spare routers that do not answer: one circuit breaker for each place, which
// all deployments of this process share. They are for going forward: going back asks
// the router itself, since to be kept from it for a second is a second longer in which
// users meet what is taken back. Methods are safe for concurrent use.
type Guards struct {
	mu       sync.Mutex
	breakers map[string]circuitbreaker.CircuitBreaker[any]
}

// Around returns the router behind the breaker of its place.
func (g *Guards) Around(place string, r Router) Router {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.breakers == nil {
		g.breakers = map[string]circuitbreaker.CircuitBreaker[any]{}
	}
	b := g.breakers[place]
	if b == nil {
		b = circuitbreaker.NewBuilder[any]().WithFailureThreshold(guardFailures).WithDelay(guardDelay).WithSuccessThreshold(1).Build()
		g.breakers[place] = b
	}
	return &guarded{Router: r, place: place, breaker: b}
}

// guarded is a router behind its breaker.
type guarded struct {
	Router
	place   string
	breaker circuitbreaker.CircuitBreaker[any]
}

var _ Router = (*guarded)(nil)

// run asks, unless the router is left alone. That it answers counts, not what.
func (g *guarded) run(ctx context.Context, ask func() error) error {
	if !g.breaker.TryAcquirePermit() {
		return &backstay.Error{
			Class: backstay.Transient, Op: "ask router", Subject: g.place,
			Err:  fmt.Errorf("it did not answer %d times in a row and is left alone for %s", guardFailures, g.breaker.RemainingDelay().Round(time.Millisecond)),
			Hint: "is it running?",
		}
	}
	err := ask()
	if err != nil && (ctx.Err() != nil || backstay.ClassOf(err) == backstay.Transient) {
		g.breaker.RecordFailure()
	} else {
		g.breaker.RecordSuccess()
	}
	return err
}

// Read reads the route back, unless the router is left alone.
func (g *guarded) Read(ctx context.Context) (route *Route, err error) {
	err = g.run(ctx, func() error { route, err = g.Router.Read(ctx); return err })
	return route, err
}

// Change changes the route, unless the router is left alone.
func (g *guarded) Change(ctx context.Context, now *Route, c Change) error {
	return g.run(ctx, func() error { return g.Router.Change(ctx, now, c) })
}

// Unready says what is not ready, unless the router is left alone.
func (g *guarded) Unready(ctx context.Context, side string) (why []string, err error) {
	err = g.run(ctx, func() error { why, err = g.Router.Unready(ctx, side); return err })
	return why, err
}

// Busy counts requests, unless the router is left alone.
func (g *guarded) Busy(ctx context.Context, side string) (n int64, err error) {
	err = g.run(ctx, func() error { n, err = g.Router.Busy(ctx, side); return err })
	return n, err
}

// Place is the router's own: nothing is asked.
func (g *guarded) Place(now *Route, side string, addresses []string) (json.RawMessage, error) {
	return g.Router.Place(now, side, addresses)
}
