package proxy

import (
	"math/rand/v2"
	"net/http"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/backstay-dev/backstay/internal/proxy/wire"
)

// route is one route as it is served. It is never changed after it is in a
// table, but for what is observed: which instances are ready, and the shares.
type route struct {
	spec     wire.Route
	settings wire.Settings // with defaults
	digest   string
	saved    *savedRoute
	sides    []*side
	from     []netip.Prefix // who may override
	fallback int            // index of the fallback side; -1: none
	shares   atomic.Pointer[shares]
	nobody   *flow // of the requests that no side took
}

// side is one side of one route in one table. Its flow lives on in the next.
type side struct {
	name      string
	weight    int
	instances []*instance
	ready     atomic.Pointer[[]*instance]
	flow      *flow
}

// flow is what goes on at a side, whatever its weight and instances become.
type flow struct {
	recorder *recorder
	gate     atomic.Pointer[gate]
	active   atomic.Int64 // requests in flight, waiting ones included
}

// observe reads which instances are ready and places the weights on them. It
// returns whether the shares changed. Callers hold Proxy.observing.
func (r *route) observe() bool {
	weights, ready := make([]int, len(r.sides)), make([]int, len(r.sides))
	for i, s := range r.sides {
		var list []*instance
		for _, in := range s.instances {
			if in.why() == nil {
				list = append(list, in)
				ready[i] += in.capacity()
			}
		}
		weights[i], ready[i] = s.weight, min(ready[i], 100)
		s.ready.Store(&list)
	}
	now := share(weights, ready, r.fallback)
	was := r.shares.Swap(now)
	return was == nil || !slices.Equal(was.of, now.of) || was.unplaced != now.unplaced || !slices.Equal(was.capacity, now.capacity)
}

// choice is which side a request goes to, and what to remember about it. A nil
// side: none can take it.
type choice struct {
	side   *side
	user   uint64 // of the sticky unit; 0: none
	pass   *pass  // to be given to the visitor
	tester bool   // chosen by override: not part of the statistics
}

// choose maps a request to a side: by override, by the user's bucket, by cookie,
// by chance. Whatever says so, a side without a share gets nothing; only an
// override reaches a side of weight 0, and only while it is ready.
func (r *route) choose(req *http.Request, client netip.Addr, passes passes, now time.Time) (c choice, refused string) {
	if o := r.settings.Override; o != nil {
		if name := req.Header.Get(o.Header); name != "" && r.mayOverride(client) {
			i := r.index(name)
			if i < 0 {
				return choice{}, "there is no side of this name"
			}
			if len(*r.sides[i].ready.Load()) == 0 {
				return choice{tester: true}, ""
			}
			return choice{side: r.sides[i], tester: true}, ""
		}
	}
	sh := r.shares.Load()
	if b := r.settings.Bucket; b != nil {
		if value := bucketValue(req, b); value != "" {
			point := Bucket(b.Key, b.Salt, value)
			return choice{side: r.at(sh.pick(point)), user: uint64(point*(1<<60)) | 1}, ""
		}
	}
	a := r.settings.Affinity
	if a == nil {
		return choice{side: r.at(sh.pick(rand.Float64()))}, "" //nolint:gosec // a share, not a secret
	}
	given, ok := r.readPass(req, a, passes, now)
	if ok {
		if i := r.index(given.side); i >= 0 && sh.of[i] > 0 {
			return choice{side: r.sides[i], user: given.user}, ""
		}
	} else {
		given = pass{user: rand.Uint64() | 1} //nolint:gosec // tells visitors apart, proves nothing
	}
	// A new visitor, or one whose side is gone: their number is their point.
	side := r.at(sh.pick(float64(given.user>>11) / (1 << 53)))
	if side == nil {
		return choice{user: given.user}, ""
	}
	given.side, given.until = side.name, now.Add(a.TTL.Std())
	return choice{side: side, user: given.user, pass: &given}, ""
}

func (r *route) readPass(req *http.Request, a *wire.Affinity, passes passes, now time.Time) (pass, bool) {
	for _, cookie := range req.CookiesNamed(a.Cookie) {
		if p, ok := passes.read(r.spec.Name, cookie.Value, now); ok {
			return p, true
		}
	}
	return pass{}, false
}

func (r *route) mayOverride(client netip.Addr) bool {
	return len(r.from) == 0 || slices.ContainsFunc(r.from, func(p netip.Prefix) bool { return p.Contains(client) })
}

func bucketValue(req *http.Request, b *wire.Bucket) string {
	if b.Header != "" {
		return req.Header.Get(b.Header)
	}
	if c, err := req.Cookie(b.Cookie); err == nil {
		return c.Value
	}
	return ""
}

func (r *route) index(name string) int {
	return slices.IndexFunc(r.sides, func(s *side) bool { return s.name == name })
}

func (r *route) at(i int) *side {
	if i < 0 {
		return nil
	}
	return r.sides[i]
}

// pick is the instance for a request: of two by chance, the one with less to do
// for its capacity. Those in tried are left out. Nil: none is ready.
func (s *side) pick(tried []*instance) *instance {
	list := *s.ready.Load()
	if len(tried) > 0 {
		list = slices.DeleteFunc(slices.Clone(list), func(in *instance) bool { return slices.Contains(tried, in) })
	}
	switch len(list) {
	case 0:
		return nil
	case 1:
		return list[0]
	}
	i := rand.IntN(len(list))     //nolint:gosec // balance, not a secret
	j := rand.IntN(len(list) - 1) //nolint:gosec // see above
	if j >= i {
		j++
	}
	a, b := list[i], list[j]
	if a.active.Load()*int64(b.capacity()) > b.active.Load()*int64(a.capacity()) {
		return b
	}
	return a
}
