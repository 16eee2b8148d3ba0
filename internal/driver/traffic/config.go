package traffic

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/traffic/haproxy"
	"github.com/backstay-dev/backstay/internal/driver/traffic/nginx"
	"github.com/backstay-dev/backstay/internal/driver/traffic/proxy"
	"github.com/backstay-dev/backstay/internal/driver/traffic/router"
)

// stepConfig are the keys of a traffic step.
type stepConfig struct {
	Traffic trafficConfig `yaml:"traffic" json:"traffic" required:"true" doc:"Move the traffic of a route between its sides, or change the instances of one side. Exactly one of to, weight, instances, service and retire." example:"{route: shop, to: {canary: 10%, stable: 90%}}"`
}

// trafficConfig says which route, and what becomes of it.
type trafficConfig struct {
	Route string           `yaml:"route" json:"route" required:"true" ref:"routes" doc:"The route: an entry of routes." example:"shop"`
	To    map[string]Share `yaml:"to" json:"to,omitempty" doc:"Move: the sides that get traffic, with their whole shares, which sum to 100%. Sides that are not named get none." example:"{canary: 10%, stable: 90%}"`

	Side   string `yaml:"side" json:"side,omitempty" doc:"The side that the other keys are about. On a route with two sides next is the one without traffic, and live the one that has it, as they are when the plan is made." example:"green"`
	Weight *Share `yaml:"weight" json:"weight,omitempty" doc:"Move: the share of side, on a route with two sides; the other one gets the rest." example:"10%"`

	Instances []string `yaml:"instances" json:"instances,omitempty" doc:"Register: the addresses that side shall have, instead of those that it has. The step waits until they are ready." example:"[\"http://127.0.0.1:9002\"]"`
	Service   string   `yaml:"service" json:"service,omitempty" ref:"services" doc:"Register: the instances of this service on side, as they are when the step runs. See release, which writes such steps." example:"web"`
	Retire    bool     `yaml:"retire" json:"retire,omitempty" doc:"Take all instances out of side, which has no traffic any more." example:"true"`

	Within backstay.Duration  `yaml:"within" json:"within,omitempty" doc:"How long instances that are registered may take to be ready for the router. Default: 20s." example:"20s"`
	Drain  *backstay.Duration `yaml:"drain" json:"drain,omitempty" doc:"How long to wait for requests in flight to instances that were taken out. Default: 10s, for moves 0s." example:"30s"`
}

const (
	defaultWithin  = backstay.Duration(20 * time.Second)
	defaultDrain   = backstay.Duration(10 * time.Second)
	defaultTimeout = backstay.Duration(30 * time.Second)
)

// Share is a whole share of a route's traffic, in percent, from 0 to 100.
type Share int

// SpecShape says how a share is written.
func (Share) SpecShape() []string { return []string{"string", "integer"} }

// UnmarshalJSON reads "10%", "10" and 10.
func (s *Share) UnmarshalJSON(data []byte) error {
	text := strings.TrimSuffix(strings.Trim(string(data), `"`), "%")
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > 100 || strings.HasPrefix(text, "+") || text == "-0" {
		return fmt.Errorf("%.40s is not a whole share from 0%% to 100%%", strings.Trim(string(data), `"`))
	}
	*s = Share(n)
	return nil
}

// MarshalJSON writes a number.
func (s Share) MarshalJSON() ([]byte, error) { return strconv.AppendInt(nil, int64(s), 10), nil }

// routeConfig is one entry of the section routes.
type routeConfig struct {
	Proxy *proxyConfig `yaml:"proxy" json:"proxy,omitempty" doc:"The route is on a backstay proxy." example:"{socket: /var/lib/backstay/proxy/admin.sock}"`

	HAProxy *haproxyConfig `yaml:"haproxy" json:"haproxy,omitempty" doc:"The route is a backend of HAProxy." example:"{socket: /run/haproxy/admin.sock, backend: shop, sides: {blue: [b1, b2], green: [g1, g2]}}"`

	Nginx *nginxConfig `yaml:"nginx" json:"nginx,omitempty" doc:"The route is an upstream of nginx, in a file of its own that nginx includes." example:"{file: /etc/nginx/conf.d/shop.conf, status: \"127.0.0.1:9180\"}"`

	Capacity *Share `yaml:"capacity" json:"capacity,omitempty" doc:"How much of the route's traffic one instance can carry. A side never gets more than its ready instances can. Default: 100%." example:"50%"`
}

// proxyConfig says where a route of a backstay proxy is.
type proxyConfig struct {
	Socket string `yaml:"socket" json:"socket" required:"true" doc:"The proxy's admin socket; relative paths start at the spec." example:"/var/lib/backstay/proxy/admin.sock"`
	Route  string `yaml:"route" json:"route,omitempty" doc:"What the proxy calls the route. Default: as here." example:"shop"`
}

// haproxyConfig says where a backend of HAProxy is, and which servers make a side.
type haproxyConfig struct {
	Socket  string              `yaml:"socket" json:"socket" required:"true" doc:"HAProxy's admin socket (stats socket PATH level admin); relative paths start at the spec." example:"/run/haproxy/admin.sock"`
	Backend string              `yaml:"backend" json:"backend,omitempty" doc:"What HAProxy calls the backend. Default: the route's name." example:"shop"`
	Sides   map[string][]string `yaml:"sides" json:"sides" required:"true" doc:"The servers of each side, as HAProxy's configuration names them. A side has room for as many instances as servers." example:"{blue: [b1, b2], green: [g1, g2]}"`
	Health  string              `yaml:"health" json:"health,omitempty" doc:"A path that instances must answer before they get traffic, besides HAProxy's own checks. Default: they must accept a connection." example:"/healthz"`
}

// nginxConfig says where an upstream of nginx is, and how nginx takes a change.
type nginxConfig struct {
	File     string   `yaml:"file" json:"file" required:"true" doc:"The file with the upstream; relative paths start at the spec." example:"/etc/nginx/conf.d/shop.conf"`
	Upstream string   `yaml:"upstream" json:"upstream,omitempty" doc:"What the file calls the upstream. Default: the route's name." example:"shop"`
	Status   string   `yaml:"status" json:"status" required:"true" doc:"Where the file's status server listens, which says what nginx has loaded: an address of this host, or unix: and a path." example:"127.0.0.1:9180"`
	Test     []string `yaml:"test" json:"test,omitempty" doc:"The command that checks the configuration. Default: [nginx, -t]." example:"[nginx, -t]"`
	Reload   []string `yaml:"reload" json:"reload,omitempty" doc:"The command that makes nginx load it. Default: [nginx, -s, reload]." example:"[systemctl, reload, nginx]"`
	Health   string   `yaml:"health" json:"health,omitempty" doc:"A path that instances must answer before they get traffic. Default: they must accept a connection." example:"/healthz"`
}

// holder is where a route is, frozen: exactly one router, all paths absolute.
type holder struct {
	Proxy    *proxyConfig   `json:"proxy,omitempty"`
	HAProxy  *haproxyConfig `json:"haproxy,omitempty"`
	Nginx    *nginxConfig   `json:"nginx,omitempty"`
	Capacity int            `json:"capacity,omitempty"`
}

// open makes the router; call bounds one exchange with it.
func (h holder) open(call time.Duration) (router.Router, router.Traits, error) {
	if c := h.Proxy; c != nil {
		r, err := proxy.New(proxy.Config{Socket: c.Socket, Route: c.Route, Capacity: h.Capacity, Call: call})
		if err != nil {
			return nil, router.Traits{}, fmt.Errorf("use backstay proxy: %w", err)
		}
		return r, r.Traits(), nil
	}
	if c := h.HAProxy; c != nil {
		r, err := haproxy.New(haproxy.Config{Socket: c.Socket, Backend: c.Backend, Sides: c.Sides, Health: c.Health, Capacity: h.Capacity, Call: call})
		if err != nil {
			return nil, router.Traits{}, fmt.Errorf("use HAProxy: %w", err)
		}
		return r, r.Traits(), nil
	}
	if c := h.Nginx; c != nil {
		r, err := nginx.New(nginx.Config{File: c.File, Upstream: c.Upstream, Status: c.Status, Test: c.Test, Reload: c.Reload, Health: c.Health, Capacity: h.Capacity, Call: call})
		if err != nil {
			return nil, router.Traits{}, fmt.Errorf("use nginx: %w", err)
		}
		return r, r.Traits(), nil
	}
	return nil, router.Traits{}, errors.New("this binary does not know its router: use the backstay version that planned this deployment")
}

// sections decodes the section routes.
func sections(req backstay.Request) (map[string]routeConfig, error) {
	all := map[string]routeConfig{}
	if raw := req.Sections[section]; len(raw) > 0 {
		if err := json.Unmarshal(raw, &all); err != nil {
			return nil, fmt.Errorf("decode routes: %w", err)
		}
	}
	return all, nil
}
