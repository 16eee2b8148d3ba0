package traffic

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/traffic/haproxy"
	"github.com/backstay-dev/backstay/internal/driver/traffic/nginx"
	"github.com/backstay-dev/backstay/internal/driver/traffic/router"
	"github.com/backstay-dev/backstay/internal/proxy/wire"
)

// The sides of a service behind a router, and the words for them.
const (
	blue  = "blue"
	green = "green"
	next  = "next"
	live  = "live"
)

const maxInstances = 100

// preparer collects everything that is wrong with one declaration.
type preparer struct {
	req      backstay.Request
	problems []backstay.Problem
}

func (p *preparer) refuse(at, hint, format string, args ...any) {
	p.problems = append(p.problems, backstay.Problem{Path: "traffic" + at, Message: fmt.Sprintf(format, args...), Hint: hint})
}

func (p *preparer) refused() error {
	if len(p.problems) == 0 {
		return nil
	}
	return &backstay.RefusedError{What: "spec", Problems: p.problems}
}

// Prepare freezes a traffic step. Where it must know which side has the traffic
// it asks the router.
func (k *Kind) Prepare(ctx context.Context, req backstay.Request) (backstay.Prepared, error) {
	var sc stepConfig
	if err := json.Unmarshal(req.Config, &sc); err != nil {
		return backstay.Prepared{}, fmt.Errorf("decode traffic step: %w", err)
	}
	c, p := sc.Traffic, &preparer{req: req}
	b := body{V: bodyFormat, Route: c.Route, Within: c.Within, Drain: defaultDrain}
	routes, err := sections(req)
	if err != nil {
		return backstay.Prepared{}, err
	}
	rc, ok := routes[c.Route]
	if !ok {
		p.refuse(".route", "add it to the section routes:", "there is no route %q", c.Route)
	} else {
		b.Router = p.holder(c.Route, rc)
	}
	p.wish(c, &b)
	if err := p.refused(); err != nil {
		return backstay.Prepared{}, err
	}
	r, t, err := b.Router.open(k.call)
	if err != nil {
		p.refuse(".route", "", "%v", err)
		return backstay.Prepared{}, p.refused()
	}
	if c.Side != "" && (c.Weight != nil || c.Side == next || c.Side == live) {
		p.pair(ctx, r, c, &b)
	}
	if err := p.refused(); err != nil {
		return backstay.Prepared{}, err
	}
	return b.prepared(k.Name(), r, t, req)
}

// holder freezes where a route is.
func (p *preparer) holder(name string, c routeConfig) holder {
	h := holder{}
	if c.Capacity != nil {
		if h.Capacity = int(*c.Capacity); h.Capacity == 0 {
			p.refuse(".route", "say how much of the traffic one instance can carry: capacity: 50%", "route %s has instances that can carry nothing", name)
		}
	}
	var held []string
	for _, h := range []struct {
		name  string
		there bool
	}{{"proxy", c.Proxy != nil}, {"haproxy", c.HAProxy != nil}, {"nginx", c.Nginx != nil}} {
		if h.there {
			held = append(held, h.name)
		}
	}
	if len(held) != 1 {
		p.refuse(".route", "such as proxy: {socket: /var/lib/backstay/proxy/admin.sock}", "route %s must say exactly one router, and says %d", name, len(held))
		return h
	}
	if c.Proxy != nil {
		h.Proxy = p.proxy(name, *c.Proxy)
	}
	if c.HAProxy != nil {
		h.HAProxy = p.haproxy(name, *c.HAProxy)
	}
	if c.Nginx != nil {
		h.Nginx = p.nginx(name, *c.Nginx)
	}
	return h
}

func (p *preparer) proxy(name string, c proxyConfig) *proxyConfig {
	if c.Route == "" {
		c.Route = name
	}
	if !wire.IsName(c.Route) {
		p.refuse(".route", "say what the proxy calls it: proxy: {socket: …, route: shop}", "%q is no name of a route of a backstay proxy", c.Route)
	}
	c.Socket = p.path("proxy.socket of route "+name, c.Socket)
	return &c
}

func (p *preparer) haproxy(name string, c haproxyConfig) *haproxyConfig {
	if c.Backend == "" {
		c.Backend = name
	}
	c.Socket = p.path("haproxy.socket of route "+name, c.Socket)
	p.health("haproxy.health of route "+name, c.Health)
	for _, side := range slices.Sorted(maps.Keys(c.Sides)) {
		if !wire.IsName(side) {
			p.refuse(".route", "a name has at most 63 of a-z 0-9 . _ -", "%q in haproxy.sides of route %s is no name of a side", side, name)
		}
	}
	if _, err := haproxy.New(haproxy.Config{Socket: c.Socket, Backend: c.Backend, Sides: c.Sides}); err != nil {
		p.refuse(".route", "such as haproxy: {socket: /run/haproxy/admin.sock, backend: shop, sides: {blue: [b1], green: [g1]}}", "haproxy of route %s: %v", name, err)
	}
	return &c
}

func (p *preparer) nginx(name string, c nginxConfig) *nginxConfig {
	if c.Upstream == "" {
		c.Upstream = name
	}
	if c.Test == nil {
		c.Test = []string{"nginx", "-t"}
	}
	if c.Reload == nil {
		c.Reload = []string{"nginx", "-s", "reload"}
	}
	c.File = p.path("nginx.file of route "+name, c.File)
	p.health("nginx.health of route "+name, c.Health)
	c.Test, c.Reload = p.program("nginx.test of route "+name, c.Test), p.program("nginx.reload of route "+name, c.Reload)
	if _, err := nginx.New(nginx.Config{File: c.File, Upstream: c.Upstream, Status: c.Status, Test: c.Test, Reload: c.Reload}); err != nil {
		p.refuse(".route", "such as nginx: {file: /etc/nginx/conf.d/shop.conf, status: \"127.0.0.1:9180\"}", "nginx of route %s: %v", name, err)
	}
	return &c
}

// program makes the program of a command absolute: what is run is what was planned.
func (p *preparer) program(what string, argv []string) []string {
	argv = slices.Clone(argv)
	if len(argv) == 0 || argv[0] == "" || strings.ContainsRune(strings.Join(argv, ""), 0) {
		p.refuse(".route", "such as [nginx, -t]", "%s is no command", what)
		return argv
	}
	if found, err := exec.LookPath(argv[0]); err == nil && filepath.IsAbs(found) {
		argv[0] = found
	} else if local := filepath.Join(p.req.Dir, argv[0]); strings.Contains(argv[0], "/") && !filepath.IsAbs(argv[0]) {
		argv[0] = local
	} else {
		p.refuse(".route", "install it first, or give its absolute path", "%s: there is no program %q on this host", what, argv[0])
	}
	return argv
}

// health checks the path of a probe.
func (p *preparer) health(what, path string) {
	if path != "" && (path[0] != '/' || len(path) > 1000 || strings.ContainsFunc(path, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '#' || r > 0x7e })) {
		p.refuse(".route", "such as /healthz", "%s is %q, which is no path", what, path)
	}
}

// path makes a path absolute, with the directories above it resolved where they
// are there, so that one thing has one key.
func (p *preparer) path(what, path string) string {
	if path == "" || strings.ContainsAny(path, "\x00\n\r") {
		p.refuse(".route", "give the path", "%s is not a path", what)
		return path
	}
	if !filepath.IsAbs(path) {
		path = filepath.Join(p.req.Dir, path)
	}
	path = filepath.Clean(path)
	if dir, err := filepath.EvalSymlinks(filepath.Dir(path)); err == nil {
		path = filepath.Join(dir, filepath.Base(path))
	}
	return path
}

// wish checks what the step wants: exactly one thing.
func (p *preparer) wish(c trafficConfig, b *body) {
	var asked []string
	for _, ask := range []struct {
		key   string
		there bool
	}{
		{"to", c.To != nil}, {"weight", c.Weight != nil}, {"instances", c.Instances != nil}, {"service", c.Service != ""}, {"retire", c.Retire},
	} {
		if ask.there {
			asked = append(asked, ask.key)
		}
	}
	if len(asked) != 1 {
		p.refuse("", "say one of to, weight, instances, service and retire", "wants %d things: %s", len(asked), strings.Join(asked, ", "))
		return
	}
	if c.Within < 0 || c.Drain != nil && *c.Drain < 0 {
		p.refuse("", "", "a time is negative")
	}
	move := c.To != nil || c.Weight != nil
	switch {
	case c.To != nil && c.Side != "":
		p.refuse(".side", "to names its sides itself", "belongs to weight, instances, service and retire")
	case c.To == nil && !wire.IsName(c.Side):
		p.refuse(".side", "name the side that "+asked[0]+" is about, such as side: green", "%q is no name of a side", c.Side)
	case move && c.Within != 0:
		p.refuse(".within", "a move is made to what is ready only, and waits for nothing", "belongs to instances and service")
	}
	b.Side, b.Instances, b.Service, b.Retire = c.Side, c.Instances, c.Service, c.Retire
	if move {
		b.Drain = 0
	} else if b.Within == 0 && !c.Retire {
		b.Within = defaultWithin
	}
	if c.Drain != nil {
		b.Drain = *c.Drain
	}
	p.addresses(c.Instances)
	if c.To != nil {
		p.shares(c.To, b)
	}
}

func (p *preparer) shares(to map[string]Share, b *body) {
	b.Move = map[string]int{}
	for _, side := range slices.Sorted(maps.Keys(to)) {
		if !wire.IsName(side) {
			p.refuse(".to", "a name has at most 63 of a-z 0-9 . _ -", "%q is no name of a side", side)
		}
		b.Move[side] = int(to[side])
	}
	if sum := router.Sum(b.Move); sum != 100 {
		p.refuse(".to", "name every side that gets traffic: to: {canary: 10%, stable: 90%}", "the shares sum to %d%%, not to 100%%", sum)
	}
	b.Move = router.Nonzero(b.Move)
}

func (p *preparer) addresses(list []string) {
	if list != nil && len(list) == 0 {
		p.refuse(".instances", "a side without any is retired: retire: true", "there are none")
	}
	if len(list) > maxInstances {
		p.refuse(".instances", "", "%d are more than %d", len(list), maxInstances)
		return
	}
	for i, a := range list {
		at := fmt.Sprintf(".instances[%d]", i)
		if why := badAddress(a); why != "" {
			p.refuse(at, "write http://127.0.0.1:9002 and nothing after the port", "%q %s", a, why)
		} else if slices.Contains(list[:i], a) {
			p.refuse(at, "", "%q is there twice", a)
		}
	}
}

// badAddress says what is wrong with the address of an instance; nothing is
// connected to.
func badAddress(s string) string {
	u, err := url.Parse(s)
	if err != nil || len(s) > 300 {
		return "is no URL"
	}
	switch {
	case u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "h2c":
		return "is not http, https or h2c"
	case u.Host == "" || u.User != nil || u.Path != "" || u.Opaque != "" || strings.ContainsAny(s, "?#"):
		return "has more than scheme, host and port, or less"
	case u.Hostname() == "" || strings.Trim(u.Hostname(), "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.:-_") != "":
		return "names no host"
	}
	if port, err := strconv.Atoi(u.Port()); err != nil || port < 1 || port > 65535 {
		return "names no port"
	}
	if addr, err := netip.ParseAddr(u.Hostname()); err == nil && wire.Forbidden(addr) {
		return "is an address that no side may have (link-local, multicast or unspecified)"
	}
	return ""
}

// pair resolves the side of a route with two sides, and the other one.
func (p *preparer) pair(ctx context.Context, r router.Router, c trafficConfig, b *body) {
	now, err := r.Read(ctx)
	if err != nil {
		p.refuse(".route", backstay.HintOf(err), "which side of %s has the traffic cannot be read: %v", c.Route, err)
		return
	}
	sides := slices.Sorted(slices.Values(now.Order()))
	if !slices.ContainsFunc(sides, func(s string) bool { return s != blue && s != green }) {
		sides = []string{blue, green} // one of them may not be there yet
	}
	if len(sides) != 2 {
		p.refuse(".side", "name every side's share: to: {canary: 10%, stable: 90%}", "route %s has the sides %s, not two", c.Route, strings.Join(sides, ", "))
		return
	}
	switch c.Side {
	case next, live:
		p.turns(c, now, sides, b)
	default:
		if !slices.Contains(sides, c.Side) {
			p.refuse(".side", "it has "+strings.Join(sides, " and "), "route %s has no side %q", c.Route, c.Side)
			return
		}
		b.Side = c.Side
	}
	b.Other = sides[0]
	if b.Side == sides[0] {
		b.Other = sides[1]
	}
	if c.Weight != nil {
		b.Move = router.Nonzero(map[string]int{b.Side: int(*c.Weight), b.Other: 100 - int(*c.Weight)})
		if len(now.Weights) == 0 && *c.Weight > 0 {
			b.Move = map[string]int{b.Side: 100} // the first release: there is nobody to share with
		}
	}
}

// turns resolves next and live: by the router, which must agree with the service
// whose instances are to be registered.
func (p *preparer) turns(c trafficConfig, now *router.Route, sides []string, b *body) {
	if now.Weights[sides[0]] > 0 && now.Weights[sides[1]] > 0 {
		p.refuse(".side", "move all of it to one of them first, or name the side", "both sides of route %s have traffic (%s)", c.Route, backstay.Canonical(now.Weights))
		return
	}
	idle, used := sides[0], sides[1]
	if now.Weights[idle] > 0 {
		idle, used = used, idle
	}
	if c.Side == next {
		b.Side = idle
	} else {
		b.Side = used
	}
	if c.Service == "" {
		return
	}
	if free, ok := idleSide(p.req.DataDir, c.Service); ok && free != idle {
		p.refuse(".side", fmt.Sprintf("move the traffic of %s to side %s, or start %s there", c.Route, otherOf(free), c.Service),
			"the next release of service %s goes to side %s, which has the traffic of route %s", c.Service, free, c.Route)
	}
}

func otherOf(side string) string {
	if side == blue {
		return green
	}
	return blue
}

// idleSide is the side to which the next release of a service goes; not ok where
// the service cannot tell.
func idleSide(dataDir, service string) (string, bool) {
	_, onBlue := os.Stat(currentFile(dataDir, service, blue))
	_, onGreen := os.Stat(currentFile(dataDir, service, green))
	switch {
	case onBlue == nil && onGreen == nil:
		return "", false
	case onBlue == nil:
		return green, true
	}
	return blue, true
}

// prepared is what the plan freezes about a step.
func (b body) prepared(kind string, r router.Router, t router.Traits, req backstay.Request) (backstay.Prepared, error) {
	n := namesOf(t.Name, b.Side)
	timeout := defaultTimeout + b.Within + b.Drain
	if req.Timeout > 0 {
		timeout = req.Timeout
	}
	undo := defaultTimeout + b.Within + b.Drain
	if req.UndoTimeout > 0 {
		undo = req.UndoTimeout
	}
	p := backstay.Prepared{
		Kind: kind, Body: backstay.Canonical(b), Keys: b.keys(t), Class: backstay.Exact, Effect: backstay.Idempotent, Fence: t.Fence,
		Restorable: true, HasUndo: true, Timeout: timeout, UndoTimeout: undo, ReadSummary: "read route " + b.Route + " back from its router",
	}
	if b.Move == nil && t.Loose != "" {
		p.Class, p.Modulo = backstay.Equivalent, []string{t.Loose}
	}
	if t.Fence == backstay.Leased {
		p.Window = timeout
	}
	switch {
	case b.Move != nil:
		p.Dial = n.route
		p.Want = backstay.Image{n.route: weightsOf(b.Move, nil)}
		p.Summary = "move the traffic of " + b.Route + ": " + told(b.Move)
		p.UndoSummary = "move the traffic of " + b.Route + " back to what the router had"
	case b.Retire:
		if t.Fixed {
			p.Want = backstay.Image{n.side: {}}
		}
		p.Summary = "take all instances out of side " + b.Side + " of " + b.Route
		p.UndoSummary = "register the instances that side " + b.Side + " had"
	case b.Service != "":
		p.Summary = "register the instances of service " + b.Service + " as side " + b.Side + " of " + b.Route
		p.UndoSummary = "take them out, once drained, and register those that side " + b.Side + " had"
	default:
		p.Summary = fmt.Sprintf("register %s as side %s of %s", strings.Join(b.Instances, ", "), b.Side, b.Route)
		p.UndoSummary = "take them out, once drained, and register those that side " + b.Side + " had"
		if t.Fixed {
			account, err := r.Place(nil, b.Side, b.Instances)
			if err != nil {
				return p, fmt.Errorf("place instances of side %s: %w", b.Side, err)
			}
			p.Want = backstay.Image{n.side: stateOf(account)}
		}
	}
	return p, nil
}

// told are weights for people: the largest first.
func told(weights map[string]int) string {
	sides := slices.Sorted(maps.Keys(weights))
	slices.SortStableFunc(sides, func(a, b string) int { return weights[b] - weights[a] })
	words := make([]string, len(sides))
	for i, s := range sides {
		words[i] = fmt.Sprintf("%d%% to %s", weights[s], s)
	}
	return strings.Join(words, ", ")
}
