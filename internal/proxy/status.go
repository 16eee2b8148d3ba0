package proxy

import (
	"cmp"
	"slices"

	"github.com/backstay-dev/backstay/internal/proxy/wire"
)

// Status reads everything back.
func (p *Proxy) Status() *wire.Status {
	p.changes.Lock()
	defer p.changes.Unlock()
	s := &wire.Status{Format: wire.Format, Boot: p.boot, Revision: p.store.state.Revision, Draining: p.draining.Load(), Listen: append([]string{}, p.addresses...), Routes: []wire.RouteStatus{}}
	for _, r := range p.table.Load().routes {
		s.Routes = append(s.Routes, *p.statusOf(r))
	}
	slices.SortFunc(s.Routes, func(a, b wire.RouteStatus) int { return cmp.Compare(a.Route.Name, b.Route.Name) })
	return s
}

// Route reads one route back.
func (p *Proxy) Route(name string) (*wire.RouteStatus, error) {
	p.changes.Lock()
	defer p.changes.Unlock()
	r, ok := p.table.Load().routes[name]
	if !ok {
		return nil, p.noRoute(name)
	}
	return p.statusOf(r), nil
}

func (p *Proxy) noRoute(name string) *wire.Error {
	e := &wire.Error{Code: wire.NotFound, Message: "there is no route " + name, Digest: p.digestOf(name)}
	if s := p.store.state.Routes[name]; s != nil {
		e.Seen = &s.Writer
	}
	return e
}

func (p *Proxy) statusOf(r *route) *wire.RouteStatus {
	sh := r.shares.Load()
	s := &wire.RouteStatus{Route: r.spec, Digest: r.digest, Revision: r.saved.Revision, Writer: r.saved.Writer, Unplaced: sh.unplaced}
	for i, sd := range r.sides {
		st := wire.SideStatus{
			Name: sd.name, Weight: sd.weight, Share: sh.of[i], ReadyCapacity: sh.capacity[i],
			Active: sd.flow.active.Load(), Waiting: sd.flow.gate.Load().waiting.Load(), Instances: []wire.InstanceStatus{},
		}
		for _, in := range sd.instances {
			is := wire.InstanceStatus{URL: in.spec.URL, Ready: true, Active: in.active.Load()}
			if why := in.why(); why != nil {
				is.Ready, is.Why = false, why.Error()
			}
			st.Instances = append(st.Instances, is)
		}
		s.Sides = append(s.Sides, st)
	}
	for _, in := range p.leaving {
		if n := in.active.Load(); in.route == r.spec.Name && n > 0 {
			s.Draining = append(s.Draining, wire.DrainStatus{Side: in.side, URL: in.spec.URL, Active: n})
		}
	}
	return s
}

// activeOn counts the requests in flight to a side, on instances that left too.
func (p *Proxy) activeOn(name, side string) (int64, bool) {
	p.changes.Lock()
	defer p.changes.Unlock()
	f, ok := p.flows[name+"/"+side]
	if !ok {
		return 0, false
	}
	return f.active.Load(), true
}
