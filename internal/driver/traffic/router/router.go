// Package router is what the step kind "traffic" asks of a router: to read one
// route back, to change it, and to say which instances are ready.
//
// It owns the words that all routers share: a route with its sides and their
// weights as the router itself tells them, and a change of them. It promises
// nothing by itself; each router in a folder beside it says what it can: the
// weights that it reads are whole percents that sum to 100, a change that would
// give a side more than its ready instances can carry is refused before anything
// is changed (I15), and what the router's own account holds beyond whole percents
// comes back by Change with that account.
package router

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/proxy/wire"
)

// CallTimeout bounds one exchange with a router, unless something else is said.
const CallTimeout = 5 * time.Second

// Router is one route on one router. Methods are not safe for concurrent use.
// Errors have a class; a transient one says nothing about whether a change took
// effect. All of them end when ctx does.
type Router interface {
	// Read reads the route back; an error of class NotFound where there is none.
	Read(ctx context.Context) (*Route, error)
	// Place is the account of a side that has exactly the instances at these
	// addresses (http://host:port); with none, of a side that is not needed, which
	// may be no account. Now may be nil where Fixed is true.
	Place(now *Route, side string, addresses []string) (json.RawMessage, error)
	// Change replaces what was read. It refuses with class Conflict when the route
	// is not as read any more (as far as the router can tell), and without having
	// changed anything when a side would get more than it is ready for.
	Change(ctx context.Context, now *Route, c Change) error
	// Unready says why instances of the side are not ready; none: all are.
	Unready(ctx context.Context, side string) ([]string, error)
	// Busy counts the requests in flight to the side's instances that it does not
	// list (any more), or to all of it while it has no weight.
	Busy(ctx context.Context, side string) (int64, error)
}

// Traits are what a router can and cannot do, whatever it holds.
type Traits struct {
	// Name is how the route is called in keys and to people: "shop@/run/x.sock".
	Name string
	// Fence is Fenced where the router itself refuses a stale writer.
	Fence backstay.Fence
	// Ordered: the order of sides means something, and is part of the state.
	Ordered bool
	// Loose is what putting back the instances of a side leaves out; "": nothing.
	Loose string
	// Fixed: what Place returns does not depend on what is there.
	Fixed bool
}

// Route is a route as its router tells it.
type Route struct {
	// Weights are the sides that have traffic, in whole percents that sum to 100;
	// empty where none has.
	Weights map[string]int
	// Own is the router's own account of the weights, where whole percents do not
	// say all of it (such as weights of 1 and 0 that a person configured).
	Own json.RawMessage
	// Sides in the router's order.
	Sides []Side
	// Torn says why a change must not begin here, though one may be taken back: what
	// the router serves is not what it is told to serve.
	Torn string
	// Detail is the router's own.
	Detail any
}

// Side is one side as its router tells it: Value is the canonical account of its
// instances, Addresses are theirs.
type Side struct {
	Name      string
	Value     json.RawMessage
	Addresses []string
}

// Side returns the side of that name, or nil.
func (r *Route) Side(name string) *Side {
	for i := range r.Sides {
		if r.Sides[i].Name == name {
			return &r.Sides[i]
		}
	}
	return nil
}

// Order are the names of the sides.
func (r *Route) Order() []string {
	names := make([]string, len(r.Sides))
	for i, s := range r.Sides {
		names[i] = s.Name
	}
	return names
}

// Change says what a route shall be; what is nil stays.
type Change struct {
	Writer wire.Writer
	// Weights are the sides that shall have traffic; Own, where set, the router's
	// own account of them.
	Weights map[string]int
	Own     json.RawMessage
	// Sides are accounts by name; an empty one removes the side.
	Sides map[string]json.RawMessage
	Order []string
	// Restore: an earlier state is put back, in which a side without any instance
	// may have had the traffic.
	Restore bool
	// Within is how long instances that take over from others may take to be ready.
	Within time.Duration
}

// Sum adds up weights.
func Sum(weights map[string]int) int {
	sum := 0
	for _, w := range weights {
		sum += w
	}
	return sum
}

// Nonzero are the weights above 0.
func Nonzero(weights map[string]int) map[string]int {
	out := maps.Clone(weights)
	maps.DeleteFunc(out, func(_ string, w int) bool { return w == 0 })
	return out
}

// Split spreads a weight over n instances, evenly to within 1.
func Split(weight, n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = weight / n
		if i < weight%n {
			out[i]++
		}
	}
	return out
}

// Percents are shares of a total in whole percents that sum to 100: each rounded
// down, and what is left given to the largest remainders. Empty for no total.
func Percents(parts map[string]int) map[string]int {
	total := Sum(parts)
	out := map[string]int{}
	if total == 0 {
		return out
	}
	names := slices.Sorted(maps.Keys(parts))
	left := 100
	for _, name := range names {
		out[name] = parts[name] * 100 / total
		left -= out[name]
	}
	slices.SortStableFunc(names, func(a, b string) int { return parts[b]*100%total - parts[a]*100%total })
	for i := range left {
		out[names[i]]++
	}
	return Nonzero(out)
}

// ErrNotReady is in every refusal of a move to what is not ready for it.
var ErrNotReady = errors.New("not ready")

// NotReady is the refusal of a move to a side that is not ready for it.
func NotReady(side string, weight, ready int, why []string) error {
	err := fmt.Errorf("%w: side %s would get %d %% and is ready for %d %%", ErrNotReady, side, weight, ready)
	if len(why) > 0 {
		err = fmt.Errorf("%w (%s)", err, why[0])
	}
	return &backstay.Error{
		Class: backstay.Permanent, Op: "move traffic", Err: err,
		Hint: "traffic moves to what is ready only: look at the instances of side " + side,
	}
}
