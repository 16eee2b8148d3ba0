// Package proxy is the router "backstay proxy": its routes are read and changed
// over its admin socket, by compare-and-set with the deployment's fencing token.
//
// It promises what the proxy promises: a change is atomic, durable before it is
// served, and refused when the writer is stale, the state is not the expected
// one, or a side would get more than its ready instances can carry.
package proxy

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/traffic/router"
	"github.com/backstay-dev/backstay/internal/proxy/wire"
)

// Config says which route of which proxy.
type Config struct {
	Socket string // the proxy's admin socket
	Route  string // as the proxy calls it
	// Capacity is what each registered instance can carry, in percent of the
	// route's traffic; 0: all.
	Capacity int
	Call     time.Duration // bounds one exchange; 0: router.CallTimeout
}

// Router is one route of one proxy.
type Router struct {
	socket   string
	name     string
	capacity int
	call     time.Duration
}

var _ router.Router = (*Router)(nil)

// New makes a router of the route.
func New(c Config) (*Router, error) {
	if !wire.IsName(c.Route) {
		return nil, fmt.Errorf("%q is no name of a route", c.Route)
	}
	return &Router{socket: c.Socket, name: c.Route, capacity: c.Capacity, call: cmp.Or(c.Call, router.CallTimeout)}, nil
}

// Traits are the proxy's.
func (r *Router) Traits() router.Traits {
	return router.Traits{Name: r.name + "@" + r.socket, Fence: backstay.Fenced, Ordered: true, Fixed: true}
}

// with calls f with a client, for at most one exchange's time.
func (r *Router) with(ctx context.Context, f func(ctx context.Context, c *wire.Client) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, r.call, fmt.Errorf("the proxy did not answer within %s", r.call))
	defer cancel()
	c := wire.NewClient(r.socket)
	defer c.Close()
	err := f(ctx, c)
	if err == nil {
		return nil
	}
	var refused *wire.Error
	if errors.As(err, &refused) {
		return r.refusal(refused)
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	return &backstay.Error{
		Class: backstay.Transient, Op: "ask the proxy at", Subject: r.socket, Err: err,
		Hint: cmp.Or(backstay.HintOf(err), "is it running? `backstay proxy status` asks it as well"),
	}
}

// refusal gives a refusal of the proxy its class and what to do next.
func (r *Router) refusal(e *wire.Error) error {
	out := &backstay.Error{Class: backstay.Permanent, Op: "change route", Subject: r.name, Err: e}
	switch e.Code {
	case wire.Stale:
		out.Class, out.Hint = backstay.Conflict, "another deployment, or a later act of this one, has this route now"
	case wire.Conflict:
		out.Class, out.Hint = backstay.Conflict, "somebody changed the route meanwhile: look with `backstay proxy status`"
	case wire.NotReady:
		out.Err = fmt.Errorf("%w: %w", router.ErrNotReady, e)
		out.Hint = "traffic moves to what is ready only: `backstay proxy status` says what is not, and why"
	case wire.NotFound:
		out.Class, out.Op = backstay.NotFound, "find route"
		out.Hint = "routes are in the proxy's configuration: `backstay proxy routes` lists them"
	case wire.Internal:
		out.Class, out.Op, out.Hint = backstay.Transient, "ask the proxy for route", "the proxy's log says why"
	case wire.Invalid:
	}
	return out
}

// Read reads the route back. An answer that is no valid route is not believed.
func (r *Router) Read(ctx context.Context) (*router.Route, error) {
	status, err := r.status(ctx)
	if err != nil {
		return nil, err
	}
	out := &router.Route{Weights: map[string]int{}, Detail: status}
	for _, s := range status.Route.Sides {
		side := router.Side{Name: s.Name, Value: accountOf(s.Instances)}
		for _, in := range s.Instances {
			side.Addresses = append(side.Addresses, in.URL)
		}
		out.Sides = append(out.Sides, side)
		if s.Weight > 0 {
			out.Weights[s.Name] = s.Weight
		}
	}
	return out, nil
}

func (r *Router) status(ctx context.Context) (*wire.RouteStatus, error) {
	var status *wire.RouteStatus
	err := r.with(ctx, func(ctx context.Context, c *wire.Client) (err error) {
		status, err = c.Route(ctx, r.name)
		return err
	})
	if err != nil {
		return nil, err
	}
	problems := status.Route.Validate()
	switch {
	case status.Route.Name != r.name:
		err = fmt.Errorf("it answered with route %q", status.Route.Name)
	case len(problems) > 0:
		err = fmt.Errorf("what it answered is no route: %s", problems[0])
	case status.Digest != status.Route.Digest():
		err = errors.New("its digest is not that of the route it answered with")
	}
	if err != nil {
		return nil, &backstay.Error{Class: backstay.Permanent, Op: "read route", Subject: r.name + " of " + r.socket, Err: err, Hint: "is this the admin socket of a backstay proxy of this version?"}
	}
	return status, nil
}

func accountOf(list []wire.Instance) json.RawMessage {
	return backstay.Canonical(append([]wire.Instance{}, list...))
}

// Place is the account of instances at the addresses; a side without any is none.
func (r *Router) Place(_ *router.Route, _ string, addresses []string) (json.RawMessage, error) {
	if len(addresses) == 0 {
		return nil, nil
	}
	list := make([]wire.Instance, len(addresses))
	for i, a := range addresses {
		list[i] = wire.Instance{URL: a, Capacity: r.capacity}
	}
	return accountOf(list), nil
}

// Change posts the whole route, expecting the one that was read.
func (r *Router) Change(ctx context.Context, now *router.Route, c router.Change) error {
	status, ok := now.Detail.(*wire.RouteStatus)
	if !ok {
		return errors.New("change route: it was not read from this router")
	}
	next := status.Route
	next.Sides = slices.Clone(next.Sides)
	for _, name := range slices.Sorted(maps.Keys(c.Sides)) {
		if err := setSide(&next, name, c.Sides[name]); err != nil {
			return err
		}
	}
	if c.Weights != nil {
		if err := weigh(&next, c.Weights); err != nil {
			return err
		}
	}
	if c.Order != nil {
		place := func(s wire.Side) int {
			if i := slices.Index(c.Order, s.Name); i >= 0 {
				return i
			}
			return len(c.Order)
		}
		slices.SortStableFunc(next.Sides, func(a, b wire.Side) int { return place(a) - place(b) })
	}
	return r.with(ctx, func(ctx context.Context, client *wire.Client) error {
		_, err := client.Change(ctx, r.name, wire.Change{Writer: c.Writer, Expect: status.Digest, Route: &next, Restore: c.Restore})
		return err
	})
}

// setSide gives a side other instances. A new side stands first: it is the one
// that grows, and a user's bucket falls into sides in their order.
func setSide(route *wire.Route, name string, account json.RawMessage) error {
	at := slices.IndexFunc(route.Sides, func(s wire.Side) bool { return s.Name == name })
	if len(account) == 0 {
		if at >= 0 && route.Sides[at].Weight > 0 {
			return &backstay.Error{Class: backstay.Permanent, Op: "remove side", Subject: name, Err: fmt.Errorf("it has %d %% of the traffic", route.Sides[at].Weight), Hint: "move the traffic away first"}
		}
		if at >= 0 {
			route.Sides = slices.Delete(route.Sides, at, at+1)
		}
		return nil
	}
	var list []wire.Instance
	if err := json.Unmarshal(account, &list); err != nil {
		return fmt.Errorf("read instances of side %s: %w", name, err)
	}
	if at < 0 {
		route.Sides = slices.Insert(route.Sides, 0, wire.Side{Name: name})
		at = 0
	}
	route.Sides[at].Instances = list
	return nil
}

func weigh(route *wire.Route, weights map[string]int) error {
	left := maps.Clone(weights)
	for i := range route.Sides {
		route.Sides[i].Weight = weights[route.Sides[i].Name]
		delete(left, route.Sides[i].Name)
	}
	for _, name := range slices.Sorted(maps.Keys(left)) {
		return &backstay.Error{Class: backstay.NotFound, Op: "move traffic", Err: fmt.Errorf("route %s has no side %q", route.Name, name), Hint: "register its instances first"}
	}
	return nil
}

// Unready says which instances the proxy does not take for ready.
func (r *Router) Unready(ctx context.Context, side string) ([]string, error) {
	status, err := r.status(ctx)
	if err != nil {
		return nil, err
	}
	var why []string
	for _, s := range status.Sides {
		if s.Name != side {
			continue
		}
		for _, in := range s.Instances {
			if !in.Ready {
				why = append(why, in.URL+": "+in.Why)
			}
		}
	}
	return why, nil
}

// Busy counts what is in flight to instances that left the side, and to the side
// itself while it has no weight.
func (r *Router) Busy(ctx context.Context, side string) (int64, error) {
	status, err := r.status(ctx)
	if err != nil {
		return 0, err
	}
	var n int64
	for _, d := range status.Draining {
		if d.Side == side {
			n += d.Active
		}
	}
	for _, s := range status.Sides {
		if s.Name == side && s.Weight == 0 {
			n += s.Active
		}
	}
	return n, nil
}
