package haproxy

import (
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

// Change sets what differs: first what nobody notices (servers that get traffic
// later), then weights, then what nobody uses any more.
func (r *Router) Change(ctx context.Context, now *router.Route, c router.Change) error {
	was, err := tableOf(now)
	if err != nil {
		return err
	}
	want, err := r.wanted(now, was, c)
	if err != nil {
		return err
	}
	if err := r.refuseUnready(ctx, now, was, want); err != nil {
		return err
	}
	between, err := r.between(was, want)
	if err != nil {
		return err
	}
	for _, step := range []table{between, want} {
		if step == nil {
			continue
		}
		if err := r.bring(ctx, was, step, c.Within); err != nil {
			return err
		}
		was = step
	}
	return nil
}

// between is the table to go through first where servers that have traffic get
// another address: the others of their side take it over meanwhile. Nil where
// there are none.
func (r *Router) between(was, want table) (table, error) {
	var mid table
	for _, side := range r.names() {
		changed, sum := false, 0
		for _, name := range r.ready(want, side) {
			sum += want[name].Weight
			if from := was[name]; from.State == stateReady && from.Weight > 0 && from.Address != want[name].Address {
				if mid == nil {
					mid = maps.Clone(want)
				}
				from.State, from.Weight, changed = stateMaint, 0, true
				mid[name] = from
			}
		}
		if !changed || sum == 0 {
			continue
		}
		for _, name := range r.ready(was, side) {
			if want[name].State != stateReady {
				mid[name] = was[name] // leaves later
			}
		}
		ready := r.ready(mid, side)
		if len(ready) == 0 {
			return nil, &backstay.Error{
				Class: backstay.Permanent, Op: "change instances of side", Subject: side, Err: errors.New("all its servers have traffic and would change"),
				Hint: "give the side one server more in HAProxy's configuration and in haproxy.sides, or move its traffic away first",
			}
		}
		for i, w := range router.Split(sum, len(ready)) {
			s := mid[ready[i]]
			s.Weight = w
			mid[ready[i]] = s
		}
	}
	return mid, nil
}

// bring goes from one table to another.
func (r *Router) bring(ctx context.Context, was, want table, within time.Duration) error {
	fresh := r.arriving(was, want)
	if err := r.tell(ctx, r.arrive(was, want, fresh)); err != nil {
		return err
	}
	if err := r.await(ctx, want, fresh, within); err != nil {
		return err
	}
	if err := r.tell(ctx, r.weigh(was, want, fresh)); err != nil {
		return err
	}
	return r.tell(ctx, r.leave(was, want))
}

// wanted is the table as it shall be.
func (r *Router) wanted(now *router.Route, was table, c router.Change) (table, error) {
	want := maps.Clone(was)
	respread := c.Weights != nil
	for _, side := range slices.Sorted(maps.Keys(c.Sides)) {
		if err := r.put(want, side, c.Sides[side]); err != nil {
			return nil, err
		}
		respread = respread || now.Weights[side] > 0
		for _, name := range r.ready(want, side) {
			if s := want[name]; was[name].State != stateReady {
				s.Weight = 0
				want[name] = s
			}
		}
	}
	weights := now.Weights
	if c.Weights != nil {
		weights = c.Weights
	}
	for _, side := range slices.Sorted(maps.Keys(weights)) {
		if _, ok := r.sides[side]; !ok {
			return nil, &backstay.Error{Class: backstay.NotFound, Op: "move traffic", Err: fmt.Errorf("haproxy.sides has no side %q", side), Hint: "it has: " + strings.Join(r.names(), ", ")}
		}
		if weights[side] > 0 && len(r.ready(want, side)) == 0 {
			return nil, router.NotReady(side, weights[side], 0, []string{"all its servers are in maintenance"})
		}
	}
	if len(c.Own) == 0 && respread {
		r.spread(want, weights)
	}
	if len(c.Own) > 0 {
		own := map[string]int{}
		if err := json.Unmarshal(c.Own, &own); err != nil {
			return nil, fmt.Errorf("read HAProxy's own weights: %w", err)
		}
		for name, w := range own {
			s, ok := want[name]
			if !ok || w < 0 || w > 256 {
				return nil, fmt.Errorf("read HAProxy's own weights: server %.40q with weight %d", name, w)
			}
			s.Weight = w
			want[name] = s
		}
	}
	return want, nil
}

// put gives a side's servers the places of an account.
func (r *Router) put(want table, side string, account json.RawMessage) error {
	places := map[string]place{}
	if err := json.Unmarshal(account, &places); err != nil {
		return fmt.Errorf("read servers of side %s: %w", side, err)
	}
	for name, p := range places {
		address, err := netip.ParseAddrPort(p.Address)
		known := slices.Contains([]string{stateReady, stateDrain, stateMaint}, p.State)
		if !slices.Contains(r.sides[side], name) || err != nil || !known {
			return fmt.Errorf("read servers of side %s: %.40q is none (%.40q, %.10q)", side, name, p.Address, p.State)
		}
		s := want[name]
		s.Address, s.State = address.String(), p.State
		if p.Weight != nil && *p.Weight >= 0 && *p.Weight <= 256 {
			s.Weight = *p.Weight
		}
		want[name] = s
	}
	return nil
}

// refuseUnready refuses before anything is changed: a side that would get more
// than before must be ready for it, with the servers that it has already.
func (r *Router) refuseUnready(ctx context.Context, now *router.Route, was, want table) error {
	sums := map[string]int{}
	for _, side := range r.names() {
		for _, name := range r.ready(want, side) {
			sums[side] += want[name].Weight
		}
	}
	for side, weight := range router.Percents(sums) {
		if weight <= now.Weights[side] {
			continue
		}
		var stay []string
		joining := 0
		for _, name := range r.ready(want, side) {
			if was[name].State == stateReady && was[name].Address == want[name].Address {
				stay = append(stay, name)
			} else {
				joining++ // waited for
			}
		}
		well, why := r.well(ctx, was, stay)
		if capacity := min(100, (well+joining)*r.capacity); weight > capacity {
			return router.NotReady(side, weight, capacity, why)
		}
	}
	return nil
}

// arriving are the servers that become ready, or get another address.
func (r *Router) arriving(was, want table) []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if want[name].State == stateReady && (was[name].State != stateReady || was[name].Address != want[name].Address) {
			out = append(out, name)
		}
	}
	return out
}

// arrive makes servers ready without any weight.
func (r *Router) arrive(was, want table, fresh []string) []string {
	var out []string
	for _, name := range fresh {
		at := r.backend + "/" + name
		if was[name].State != stateMaint {
			out = append(out, "set weight "+at+" 0", "set server "+at+" state maint")
		}
		if was[name].Address != want[name].Address {
			out = append(out, r.moveTo(name, want[name].Address))
		}
		out = append(out, "set weight "+at+" 0")
		if was[name].unchecked {
			out = append(out, "enable health "+at)
		}
		out = append(out, "set server "+at+" state ready")
	}
	return out
}

func (r *Router) moveTo(name, address string) string {
	a, err := netip.ParseAddrPort(address)
	if err != nil {
		return "" // was parsed before
	}
	return fmt.Sprintf("set server %s/%s addr %s port %d", r.backend, name, a.Addr(), a.Port())
}

// await waits until the servers that are to get traffic are ready.
func (r *Router) await(ctx context.Context, want table, fresh []string, within time.Duration) error {
	fresh = slices.DeleteFunc(slices.Clone(fresh), func(name string) bool { return want[name].Weight == 0 })
	if len(fresh) == 0 {
		return nil
	}
	waiting, cancel := context.WithTimeout(ctx, max(within, r.call))
	defer cancel()
	tick := time.NewTicker(waitEvery)
	defer tick.Stop()
	for {
		t, err := r.read(waiting)
		var why []string
		if err == nil {
			if _, why = r.well(waiting, t, fresh); len(why) == 0 {
				return nil
			}
		}
		select {
		case <-tick.C:
			continue
		case <-waiting.Done():
		}
		if ctx.Err() != nil {
			return fmt.Errorf("wait for servers: %w", ctx.Err())
		}
		return &backstay.Error{Class: backstay.Permanent, Op: "wait for servers of", Subject: r.backend, Err: fmt.Errorf("not ready: %s %w", strings.Join(why, "; "), waiting.Err()), Hint: "look at the instances"}
	}
}

// weigh sets weights: those that go up first.
func (r *Router) weigh(was, want table, fresh []string) []string {
	var up, down []string
	for _, name := range slices.Sorted(maps.Keys(want)) {
		from := was[name].Weight
		if slices.Contains(fresh, name) {
			from = 0
		}
		command := fmt.Sprintf("set weight %s/%s %d", r.backend, name, want[name].Weight)
		switch to := want[name].Weight; {
		case to > from:
			up = append(up, command)
		case to < from:
			down = append(down, command)
		}
	}
	return append(up, down...)
}

// leave puts servers that are not needed into their state.
func (r *Router) leave(was, want table) []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if want[name].State == stateReady {
			continue
		}
		at := r.backend + "/" + name
		if was[name].State != want[name].State {
			out = append(out, "set server "+at+" state "+want[name].State)
		}
		if was[name].Address != want[name].Address {
			out = append(out, r.moveTo(name, want[name].Address))
		}
	}
	return out
}

// perLine is how many commands are sent in one line: HAProxy bounds its length.
const perLine = 50

// tell sends commands. What they answer is not asked: reading back says what
// became of them, and an answer of HAProxy to one that did nothing is told then.
func (r *Router) tell(ctx context.Context, commands []string) error {
	for batch := range slices.Chunk(commands, perLine) {
		if ctx.Err() != nil {
			return fmt.Errorf("tell HAProxy: %w", ctx.Err())
		}
		if _, err := backstay.LeaseLeft(ctx); err != nil {
			return fmt.Errorf("tell HAProxy: %w", err)
		}
		text, err := r.ask(ctx, batch...)
		if err != nil {
			return err
		}
		if why := refusalIn(text); why != "" {
			return &backstay.Error{Class: backstay.Permanent, Op: "tell HAProxy at", Subject: r.socket, Err: fmt.Errorf("it answered %.200q", why), Hint: "the socket needs `level admin`, and the backend a balance algorithm whose weights can change (roundrobin, leastconn)"}
		}
	}
	return nil
}

// refusalIn finds what HAProxy says when it does not do what it was told.
func refusalIn(text string) string {
	for _, line := range strings.Split(text, "\n") {
		lower := strings.ToLower(line)
		for _, sign := range []string{"permission denied", "unknown command", "no such", "require", "invalid", "can't", "cannot", "only accepts", "unable", "failed", "not supported"} {
			if strings.Contains(lower, sign) {
				return strings.TrimSpace(line)
			}
		}
	}
	return ""
}
