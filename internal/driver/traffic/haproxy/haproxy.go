// Package haproxy is the router HAProxy: one backend, read and changed over the
// runtime API on its admin socket.
//
// A side is a set of servers of the backend, named in the spec: the configuration
// has them all, and a server that a side does not need is in maintenance. A share
// is the sum of a side's weights of 100 in all, spread evenly over its servers
// that are ready.
//
// It promises: what counts is what HAProxy tells ("show servers state"); a weight
// goes up only on servers that HAProxy and a probe of our own take for ready;
// weights that go up are set before those that go down, so that while several are
// set each share is between its old and its new one. HAProxy refuses no stale
// writer and knows no compare-and-set: what was read is compared, and what is set
// follows at once (leased). What it was told is gone after a reload or restart
// unless it keeps a state file: reading back finds that.
package haproxy

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/traffic/router"
)

// Config says which backend, and which of its servers belong to which side.
type Config struct {
	Socket  string
	Backend string
	Sides   map[string][]string
	// Health is the path that our own probe asks for; "": a connection is enough.
	Health string
	// Capacity is what one server can carry, in percent of the route's traffic; 0: all.
	Capacity int
	Call     time.Duration // bounds one exchange; 0: router.CallTimeout
}

// Router is one backend.
type Router struct {
	socket   string
	backend  string
	sides    map[string][]string
	health   string
	capacity int
	call     time.Duration
}

var _ router.Router = (*Router)(nil)

// New makes a router of the backend.
func New(c Config) (*Router, error) {
	if !isName(c.Backend) {
		return nil, fmt.Errorf("%q is no name of a backend", c.Backend)
	}
	of := map[string]string{}
	for _, side := range slices.Sorted(maps.Keys(c.Sides)) {
		if len(c.Sides[side]) == 0 {
			return nil, fmt.Errorf("side %s has no servers", side)
		}
		for _, name := range c.Sides[side] {
			if !isName(name) {
				return nil, fmt.Errorf("%q is no name of a server", name)
			}
			if other, twice := of[name]; twice {
				return nil, fmt.Errorf("server %s is in the sides %s and %s", name, other, side)
			}
			of[name] = side
		}
	}
	if len(of) == 0 {
		return nil, errors.New("it has no sides")
	}
	if c.Capacity == 0 {
		c.Capacity = 100
	}
	return &Router{socket: c.Socket, backend: c.Backend, sides: c.Sides, health: c.Health, capacity: c.Capacity, call: cmp.Or(c.Call, router.CallTimeout)}, nil
}

// Traits are HAProxy's.
func (r *Router) Traits() router.Traits {
	return router.Traits{Name: r.backend + "@" + r.socket, Fence: backstay.Leased, Loose: "whether HAProxy checks a server that is in maintenance"}
}

// names are the sides in a fixed order.
func (r *Router) names() []string { return slices.Sorted(maps.Keys(r.sides)) }

// ready are the side's servers that get traffic by their state.
func (r *Router) ready(t table, side string) []string {
	return slices.DeleteFunc(slices.Clone(r.sides[side]), func(name string) bool { return t[name].State != stateReady })
}

// Read reads the backend.
func (r *Router) Read(ctx context.Context) (*router.Route, error) {
	t, err := r.read(ctx)
	if err != nil {
		return nil, err
	}
	out := &router.Route{Detail: t}
	sums, own := map[string]int{}, map[string]int{}
	for _, side := range r.names() {
		s := router.Side{Name: side, Value: accountOf(t, r.sides[side])}
		for _, name := range r.ready(t, side) {
			s.Addresses = append(s.Addresses, "http://"+t[name].Address)
			sums[side] += t[name].Weight
			own[name] = t[name].Weight
		}
		out.Sides = append(out.Sides, s)
	}
	out.Weights = router.Percents(sums)
	plain := maps.Clone(t)
	r.spread(plain, out.Weights)
	if !maps.Equal(plain, t) {
		out.Own = backstay.Canonical(own)
	}
	return out, nil
}

// spread gives the ready servers of each side their part of its weight.
func (r *Router) spread(t table, weights map[string]int) {
	for side := range r.sides {
		ready := r.ready(t, side)
		if len(ready) == 0 {
			continue
		}
		for i, w := range router.Split(weights[side], len(ready)) {
			s := t[ready[i]]
			s.Weight = w
			t[ready[i]] = s
		}
	}
}

// Place chooses servers of the side for the addresses: one that has the address,
// then one that is in maintenance, then one that is to go. The others go into
// maintenance.
func (r *Router) Place(now *router.Route, side string, addresses []string) (json.RawMessage, error) {
	t, err := tableOf(now)
	if err != nil {
		return nil, err
	}
	servers, ok := r.sides[side]
	if !ok {
		return nil, &backstay.Error{Class: backstay.NotFound, Op: "find side", Subject: side, Err: errors.New("haproxy.sides does not have it"), Hint: "it has: " + strings.Join(r.names(), ", ")}
	}
	if len(addresses) > len(servers) {
		return nil, &backstay.Error{Class: backstay.Permanent, Op: "place instances of side", Subject: side, Err: fmt.Errorf("%d instances need as many servers, and it has %d", len(addresses), len(servers)), Hint: "add servers to HAProxy's configuration (a server-template makes many) and to haproxy.sides"}
	}
	places, left := map[string]place{}, []string{}
	for _, a := range addresses {
		address, err := plainAddress(a)
		if err != nil {
			return nil, err
		}
		has := func(state string) int {
			return slices.IndexFunc(servers, func(name string) bool {
				_, taken := places[name]
				return !taken && t[name].Address == address && (state == "" || t[name].State == state)
			})
		}
		at := has(stateReady)
		if at < 0 {
			at = has("")
		}
		if at < 0 {
			left = append(left, address)
			continue
		}
		places[servers[at]] = place{Address: address, State: stateReady}
	}
	for _, idle := range []bool{true, false} {
		for _, name := range servers {
			if _, taken := places[name]; !taken && len(left) > 0 && (t[name].State == stateMaint) == idle {
				places[name], left = place{Address: left[0], State: stateReady}, left[1:]
			}
		}
	}
	for _, name := range servers {
		if _, taken := places[name]; !taken {
			p := t[name].place()
			if p.State != stateMaint {
				none := 0
				p.State, p.Weight = stateMaint, &none
			}
			places[name] = p
		}
	}
	return backstay.Canonical(places), nil
}

func tableOf(now *router.Route) (table, error) {
	if now == nil {
		return nil, errors.New("place instances: nothing was read from HAProxy")
	}
	t, ok := now.Detail.(table)
	if !ok {
		return nil, errors.New("place instances: it was not read from HAProxy")
	}
	return t, nil
}

// plainAddress is ip:port of http://ip:port. HAProxy's configuration says how it
// speaks to a server, and its runtime API takes no names.
func plainAddress(address string) (string, error) {
	refuse := func(why string) error {
		return &backstay.Error{Class: backstay.Permanent, Op: "place instance", Subject: address, Err: errors.New(why), Hint: "write http://127.0.0.1:9002"}
	}
	plain, ok := strings.CutPrefix(address, "http://")
	if !ok {
		return "", refuse("HAProxy's configuration says how it speaks to its servers: only http:// is meant here")
	}
	parsed, err := netip.ParseAddrPort(plain)
	if err != nil || parsed.Addr().Zone() != "" {
		return "", refuse("HAProxy takes an IP address and a port")
	}
	return netip.AddrPortFrom(parsed.Addr().Unmap(), parsed.Port()).String(), nil
}

// Unready says which of the side's servers HAProxy or our own probe does not take
// for ready.
func (r *Router) Unready(ctx context.Context, side string) ([]string, error) {
	t, err := r.read(ctx)
	if err != nil {
		return nil, err
	}
	_, why := r.well(ctx, t, r.ready(t, side))
	return why, nil
}

// well asks which of the servers are ready: running for HAProxy, and answering us.
func (r *Router) well(ctx context.Context, t table, servers []string) (ready int, why []string) {
	for _, name := range servers {
		if !t[name].running {
			why = append(why, fmt.Sprintf("%s/%s (%s): HAProxy says that it is down", r.backend, name, t[name].Address))
			continue
		}
		if err := router.Probe(ctx, t[name].Address, r.health); err != nil {
			why = append(why, fmt.Sprintf("%s/%s: %v", r.backend, name, err))
			continue
		}
		ready++
	}
	return ready, why
}

// Busy counts sessions of the side's servers that are not ready, or of all of
// them while the side has no weight.
func (r *Router) Busy(ctx context.Context, side string) (int64, error) {
	t, err := r.read(ctx)
	if err != nil {
		return 0, err
	}
	current, err := r.sessions(ctx)
	if err != nil {
		return 0, err
	}
	var n int64
	weight := 0
	for _, name := range r.ready(t, side) {
		weight += t[name].Weight
	}
	for _, name := range r.sides[side] {
		if weight == 0 || t[name].State != stateReady {
			n += current[name]
		}
	}
	return n, nil
}

// waitEvery is how often servers that take over are looked at.
const waitEvery = 50 * time.Millisecond
