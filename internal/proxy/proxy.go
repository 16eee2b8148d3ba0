package proxy

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/backstay-dev/backstay/internal/proxy/wire"
)

// Options are what a Proxy needs. State is required.
type Options struct {
	State   string         // directory of the durable state
	Routes  []wire.Route   // to start with; a route that the state knows stays as it is there
	Trusted []netip.Prefix // proxies whose X-Forwarded-* and Forwarded are believed
	Roots   *x509.CertPool // who signs the certificates of https instances; nil: the system's
	Log     *slog.Logger   // of the proxy itself; nil: none
	Access  *slog.Logger   // of requests; nil: none
	// Saved is called between a state becoming durable and being served, for
	// tests that end the process there.
	Saved func()
}

// Proxy is the data plane: an http.Handler that serves by its routes, and the
// changes to them. All methods are safe for concurrent use.
type Proxy struct {
	opts   Options
	boot   string
	base   time.Time
	store  *store
	passes passes
	feed   *feed

	reverse httputil.ReverseProxy // what all requests have in common; copied for each
	retried atomic.Uint64
	refused atomic.Uint64 // answered without a route's side being asked

	table     atomic.Pointer[table]
	draining  atomic.Bool
	requests  atomic.Int64 // in flight
	addresses []string     // set before it serves

	// Lock order: changes, then observing.
	changes   sync.Mutex // one change at a time; guards store.state and what follows
	flows     map[string]*flow
	instances map[string]*instance
	leaving   []*instance // removed, with requests in flight
	observing sync.Mutex  // one observation of readiness at a time

	life  context.Context // of the checks: it ends with Close, not with a call
	end   context.CancelFunc
	tasks sync.WaitGroup
}

// New opens the state, checks every instance once, and serves from then on.
// Close it.
func New(ctx context.Context, opts Options) (*Proxy, error) {
	var problems []error
	for _, r := range opts.Routes {
		for _, p := range r.Validate() {
			problems = append(problems, fmt.Errorf("route %s: %s", r.Name, p))
		}
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	st, err := openStore(opts.State)
	if err != nil {
		return nil, err
	}
	id := make([]byte, 8)
	_, _ = rand.Read(id) // never fails
	p := &Proxy{
		opts: opts, boot: hex.EncodeToString(id), base: time.Now(), store: st, passes: passes{st.key},
		flows: map[string]*flow{}, instances: map[string]*instance{},
	}
	p.feed = newFeed(p.boot)
	p.reverse = httputil.ReverseProxy{
		FlushInterval: -1, BufferPool: newBufferPool(),
		ErrorLog: slog.NewLogLogger(opts.Log.Handler(), slog.LevelDebug),
	}
	p.life, p.end = context.WithCancel(context.WithoutCancel(ctx))
	if err := p.start(ctx); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

func (p *Proxy) start(ctx context.Context) error {
	next := p.store.state
	for _, r := range p.opts.Routes {
		if known, ok := next.Routes[r.Name]; ok {
			if known.Route.Digest() != r.Digest() {
				p.opts.Log.Warn("the state knows another route of this name, and it stays", "route", r.Name)
			}
			continue
		}
		next = next.with(r.Name, &savedRoute{Route: &r})
	}
	if next != p.store.state {
		if err := p.store.save(next); err != nil {
			return err
		}
	}
	p.changes.Lock()
	defer p.changes.Unlock()
	routes := map[string]*route{}
	for name, saved := range p.store.state.Routes {
		if saved.Route == nil {
			continue
		}
		if other := clash(routes, saved.Route); other != "" {
			return fmt.Errorf("routes %s and %s take the same requests", other, name)
		}
		r, err := p.build(saved, nil)
		if err != nil {
			return err
		}
		routes[name] = r
	}
	p.firstChecks(ctx)
	p.observing.Lock()
	p.swap(newTable(routes))
	p.observing.Unlock()
	p.tasks.Go(p.tick)
	return nil
}

// firstChecks checks every instance once, all at the same time, so that a
// proxy that starts knows who is ready before it serves.
func (p *Proxy) firstChecks(ctx context.Context) {
	var checks sync.WaitGroup
	for _, in := range p.instances {
		checks.Go(func() { in.health.Store(&condition{in.check(ctx)}) })
	}
	checks.Wait()
}

// Close ends the checks and lets go of the state. Requests in flight go on to
// use what they have; end the servers first.
func (p *Proxy) Close() error {
	p.end()
	p.tasks.Wait()
	p.changes.Lock()
	defer p.changes.Unlock()
	for _, in := range p.instances {
		in.remove()
	}
	return p.store.close()
}

// now is the time since the proxy's base, on the monotonic clock.
func (p *Proxy) now() time.Duration { return time.Since(p.base) }

// build makes a route, with the flows and instances that are there already.
// known holds what checks of new instances said, by key. changes is held.
func (p *Proxy) build(saved *savedRoute, known map[string]error) (*route, error) {
	spec := saved.Route
	r := &route{spec: *spec, settings: spec.Settings.WithDefaults(), digest: spec.Digest(), saved: saved, fallback: -1}
	if f := spec.Settings.Fallback; f != nil && f.Side != "" {
		r.fallback = slices.IndexFunc(spec.Sides, func(s wire.Side) bool { return s.Name == f.Side })
	}
	if o := spec.Settings.Override; o != nil {
		for _, from := range o.From {
			prefix, err := netip.ParsePrefix(from)
			if err != nil {
				return nil, fmt.Errorf("read networks of testers: %w", err)
			}
			r.from = append(r.from, prefix)
		}
	}
	r.nobody = p.flow(r, "")
	for _, s := range spec.Sides {
		made := &side{name: s.Name, weight: s.Weight, flow: p.flow(r, s.Name)}
		for _, spec := range s.Instances {
			in, err := p.instance(r, s.Name, spec, known)
			if err != nil {
				return nil, err
			}
			made.instances = append(made.instances, in)
		}
		r.sides = append(r.sides, made)
	}
	return r, nil
}

func (p *Proxy) flow(r *route, side string) *flow {
	key := r.spec.Name + "/" + side
	f, ok := p.flows[key]
	if !ok {
		f = &flow{recorder: newRecorder(r.spec.Name, side, p.base)}
		p.flows[key] = f
	}
	return f
}

func (p *Proxy) instance(r *route, side string, spec wire.Instance, known map[string]error) (*instance, error) {
	key := instanceKey(r.spec.Name, side, spec, r.settings)
	if in, ok := p.instances[key]; ok {
		return in, nil
	}
	in, err := newInstance(key, r.spec.Name, side, spec, r.settings, p.opts.Roots)
	if err != nil {
		return nil, err
	}
	if err, ok := known[key]; ok {
		in.health.Store(&condition{err})
	}
	p.instances[key] = in
	return in, nil
}

// swap serves a table from now on: after it returns, no request is sent to a
// side or instance that the table does not send it to. changes and observing
// are held.
func (p *Proxy) swap(next *table) {
	was := p.table.Load()
	for _, r := range next.routes {
		if was == nil || was.routes[r.spec.Name] != r {
			r.observe()
			p.cut(r)
			for _, f := range append([]*flow{r.nobody}, flowsOf(r)...) {
				if g := f.gate.Load(); g == nil || g.limits != r.settings.Queue {
					f.gate.Store(newGate(r.settings.Queue))
				}
			}
		}
	}
	p.table.Store(next)
	p.retire(next)
}

func flowsOf(r *route) (list []*flow) {
	for _, s := range r.sides {
		list = append(list, s.flow)
	}
	return list
}

// cut ends the slices of a route whose shares change.
func (p *Proxy) cut(r *route) {
	now, sh := p.now(), r.shares.Load()
	r.nobody.recorder.cut(now, r.saved.Revision, sh.unplaced, r.settings)
	for i, s := range r.sides {
		s.flow.recorder.cut(now, r.saved.Revision, sh.of[i], r.settings)
	}
}

// retire removes the instances that no route has any more, and starts the
// checks of those that are new.
func (p *Proxy) retire(next *table) {
	used := map[string]bool{}
	for name, r := range next.routes {
		for _, s := range r.sides {
			for _, in := range s.instances {
				used[in.key] = true
				if in.stop == nil {
					ctx, stop := context.WithCancel(p.life)
					in.stop = stop
					p.tasks.Go(func() { in.watch(ctx, func() { p.observe(name) }) })
				}
			}
		}
	}
	for key, in := range p.instances {
		if used[key] {
			continue
		}
		delete(p.instances, key)
		in.remove()
		p.leaving = append(p.leaving, in)
	}
}

// observe places a route's weights anew on what is ready.
func (p *Proxy) observe(name string) {
	p.observing.Lock()
	defer p.observing.Unlock()
	r, ok := p.table.Load().routes[name]
	if !ok || !r.observe() {
		return
	}
	p.cut(r)
	sh := r.shares.Load()
	p.opts.Log.Info("what is ready changed", "route", name, "shares", sh.of, "unplaced", sh.unplaced)
}

// tick makes blocks of statistics final and forgets what has left, until the
// proxy ends.
func (p *Proxy) tick() {
	every := time.NewTicker(250 * time.Millisecond)
	defer every.Stop()
	for {
		select {
		case <-p.life.Done():
			return
		case <-every.C:
			p.settle()
		}
	}
}

// settle makes final what is due.
func (p *Proxy) settle() {
	p.changes.Lock()
	defer p.changes.Unlock()
	now, used := p.now(), map[*flow]bool{}
	longest := time.Duration(0)
	for _, r := range p.table.Load().routes {
		longest = max(longest, r.settings.Settle.Std())
		for _, f := range append([]*flow{r.nobody}, flowsOf(r)...) {
			used[f] = true
		}
	}
	var blocks []wire.Block
	for key, f := range p.flows {
		blocks = append(blocks, f.recorder.final(now)...)
		if !used[f] && f.active.Load() == 0 && f.recorder.idle() {
			delete(p.flows, key)
		}
	}
	p.leaving = slices.DeleteFunc(p.leaving, func(in *instance) bool { return in.active.Load() == 0 })
	p.feed.add(blocks, p.base.Add(now-longest).UTC())
}

var _ http.Handler = (*Proxy)(nil)
