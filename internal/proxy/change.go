package proxy

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/proxy/wire"
)

// Change changes one route: it is checked, made durable, and then served, in
// this order. It returns the route as it is after that; nil when it was removed.
// The error is a *wire.Error, and then nothing was changed; only after an
// internal one the state is to be read back.
func (p *Proxy) Change(ctx context.Context, name string, ch wire.Change) (*wire.RouteStatus, error) {
	p.changes.Lock()
	d, refused := p.decide(name, ch)
	p.changes.Unlock()
	if refused != nil {
		return nil, refused
	}
	// New instances are checked without the lock: a hanging one must not hold up
	// the way back of another route.
	known := p.checkNew(ctx, d.want)
	p.changes.Lock()
	defer p.changes.Unlock()
	if d, refused = p.decide(name, ch); refused != nil {
		return nil, refused
	}
	if refused := p.apply(name, d, known); refused != nil {
		return nil, refused
	}
	if d.want == nil {
		return nil, nil //nolint:nilnil // it was removed
	}
	return p.statusOf(p.table.Load().routes[name]), nil
}

// decision is a change that may be made, if what it needs is ready.
type decision struct {
	was    *savedRoute // nil: never known
	want   *wire.Route // nil: none
	writer wire.Writer
	done   bool // it is in effect already, by this writer
	back   bool // it puts back an earlier state
}

// decide checks everything about a change that needs no look at instances.
func (p *Proxy) decide(name string, ch wire.Change) (decision, *wire.Error) {
	d := decision{was: p.store.state.Routes[name], writer: ch.Writer, back: ch.Restore}
	var now *wire.Route
	if d.was != nil {
		now = d.was.Route
	}
	if refused := wellFormed(name, ch); refused != nil {
		return d, refused
	}
	digest := now.Digest()
	if d.was != nil && d.was.stale(ch.Writer) {
		return d, &wire.Error{Code: wire.Stale, Message: fmt.Sprintf("deployment %s does not write route %s any more: a later act was seen", ch.Deployment, name), Seen: &d.was.Writer, Digest: digest}
	}
	switch {
	case ch.Route != nil:
		d.want = ch.Route
	case ch.Weights != nil && now == nil:
		return d, &wire.Error{Code: wire.NotFound, Message: "there is no route " + name, Digest: digest}
	case ch.Weights != nil:
		moved, err := now.Moved(ch.Weights)
		if err != nil {
			return d, &wire.Error{Code: wire.NotFound, Message: err.Error(), Digest: digest}
		}
		d.want = moved
	}
	if d.want != nil {
		if problems := d.want.Validate(); len(problems) > 0 {
			return d, &wire.Error{Code: wire.Invalid, Message: "route " + name + " is not valid", Problems: problems, Digest: digest}
		}
		if other := clash(p.table.Load().routes, d.want); other != "" {
			return d, &wire.Error{Code: wire.Invalid, Message: fmt.Sprintf("route %s would take the same requests as route %s", name, other), Digest: digest}
		}
	}
	same := d.want.Digest() == digest
	if !same && ch.Expect != digest {
		seen := &wire.Error{Code: wire.Conflict, Message: "route " + name + " is not in the expected state", Digest: digest}
		if d.was != nil {
			seen.Seen = &d.was.Writer
		}
		return d, seen
	}
	d.done = same && d.was != nil && d.was.Writer == ch.Writer
	return d, nil
}

func wellFormed(name string, ch wire.Change) *wire.Error {
	invalid := func(format string, args ...any) *wire.Error {
		return &wire.Error{Code: wire.Invalid, Message: fmt.Sprintf(format, args...)}
	}
	asked := 0
	for _, is := range []bool{ch.Route != nil, ch.Weights != nil, ch.Remove} {
		if is {
			asked++
		}
	}
	switch {
	case !wire.IsName(name):
		return invalid("%q is no name of a route", name)
	case asked != 1:
		return invalid("a change wants exactly one of route, weights and remove")
	case ch.Route != nil && ch.Route.Name != name:
		return invalid("the route is named %q, not %q", ch.Route.Name, name)
	case ch.Deployment == "" || len(ch.Deployment) > 128:
		return invalid("a change names its deployment")
	}
	return nil
}

// checkNew checks the instances of a route that are not checked yet, all at
// the same time, and returns what was found by instance key.
func (p *Proxy) checkNew(ctx context.Context, want *wire.Route) map[string]error {
	if want == nil {
		return nil
	}
	s := want.Settings.WithDefaults()
	var mu sync.Mutex
	var checks sync.WaitGroup
	found := map[string]error{}
	for _, side := range want.Sides {
		for _, spec := range side.Instances {
			key := instanceKey(want.Name, side.Name, spec, s)
			if p.checked(key) {
				continue
			}
			in, err := newInstance(key, want.Name, side.Name, spec, s, p.opts.Roots)
			if err != nil {
				continue // validated: cannot be
			}
			checks.Go(func() {
				err := in.check(ctx)
				in.remove()
				mu.Lock()
				defer mu.Unlock()
				found[key] = err
			})
		}
	}
	checks.Wait()
	return found
}

func (p *Proxy) checked(key string) bool {
	p.changes.Lock()
	defer p.changes.Unlock()
	_, ok := p.instances[key]
	return ok
}

// apply makes a decision true. changes is held.
func (p *Proxy) apply(name string, d decision, known map[string]error) *wire.Error {
	if d.done {
		return nil
	}
	p.observing.Lock()
	defer p.observing.Unlock()
	saved := &savedRoute{Route: d.want, Writer: d.writer}
	if d.was != nil {
		saved.Past = d.was.Past
		if seen := d.was.Writer.Deployment; seen != "" && seen != d.writer.Deployment {
			saved.Past = append(slices.Clone(saved.Past), seen)
			saved.Past = saved.Past[max(0, len(saved.Past)-maxPast):]
		}
	}
	next := p.store.state.with(name, saved) // gives saved its revision
	routes := map[string]*route{}
	for n, r := range p.table.Load().routes {
		if n != name {
			routes[n] = r
		}
	}
	if d.want != nil {
		r, err := p.build(saved, known)
		if err != nil {
			p.retire(p.table.Load())
			return &wire.Error{Code: wire.Internal, Message: err.Error()}
		}
		if refused := p.refuseUnready(r, d.back); refused != nil {
			p.retire(p.table.Load())
			return refused
		}
		routes[name] = r
	}
	if err := p.store.save(next); err != nil {
		p.retire(p.table.Load())
		p.opts.Log.Error("a change was not made durable, and is not served", "route", name, "error", err)
		return &wire.Error{Code: wire.Internal, Message: err.Error()}
	}
	if p.opts.Saved != nil {
		p.opts.Saved()
	}
	p.swap(newTable(routes))
	p.opts.Log.Info("a route was changed", "route", name, "revision", saved.Revision, "deployment", d.writer.Deployment)
	return nil
}

// refuseUnready refuses a route in which a side would get more than its ready
// capacity by this change (I15). What was so before, because instances failed,
// is no reason: shares take care of that. On the way back a side without any
// instance may have weight: nobody served there before either.
func (p *Proxy) refuseUnready(r *route, back bool) *wire.Error {
	r.observe()
	ready := r.shares.Load().capacity
	oldWeight, oldReady := map[string]int{}, map[string]int{}
	if was := p.table.Load().routes[r.spec.Name]; was != nil {
		sh := was.shares.Load()
		for i, s := range was.sides {
			oldWeight[s.name], oldReady[s.name] = s.weight, sh.capacity[i]
		}
	}
	var problems []backstay.Problem
	for i, s := range r.sides {
		if s.weight <= ready[i] || s.weight <= oldWeight[s.name] && ready[i] >= oldReady[s.name] || back && len(s.instances) == 0 {
			continue
		}
		q := backstay.Problem{Path: fmt.Sprintf("sides[%d]", i), Message: fmt.Sprintf("side %s would get %d %% and is ready for %d %%", s.name, s.weight, ready[i])}
		for _, in := range s.instances {
			if why := in.why(); why != nil {
				q.Hint = fmt.Sprintf("%s: %v", in.spec.URL, why)
			}
		}
		problems = append(problems, q)
	}
	if problems == nil {
		return nil
	}
	return &wire.Error{Code: wire.NotReady, Message: "traffic moves to what is ready only", Problems: problems, Digest: p.digestOf(r.spec.Name)}
}

func (p *Proxy) digestOf(name string) string {
	if s := p.store.state.Routes[name]; s != nil {
		return s.Route.Digest()
	}
	return (*wire.Route)(nil).Digest()
}
