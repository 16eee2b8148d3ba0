package wire

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/backstay-dev/backstay"
)

// Route is one entry of the data plane: which requests it takes, between which
// sides they are split, and how they are served. It is the whole of what is
// durable about a route, and what a driver's before-image holds.
//
// The order of sides is part of it: a user's bucket falls into the sides'
// shares in this order, so the side that grows stands first, as the variation
// of a flag rollout does.
type Route struct {
	Name     string   `json:"name" yaml:"name"`
	Match    Match    `json:"match" yaml:"match"`
	Settings Settings `json:"settings" yaml:"settings"`
	Sides    []Side   `json:"sides" yaml:"sides"`
}

// Match says which requests a route takes: one of Hosts ("shop.example.com",
// "*.example.com" for one or more labels before it; none: any host), below
// Path (whole segments; "" is "/"), with all Headers. The most exact host wins,
// then the longest path, then the most headers.
type Match struct {
	Hosts   []string `json:"hosts,omitempty" yaml:"hosts"`
	Path    string   `json:"path,omitempty" yaml:"path"`
	Headers []Header `json:"headers,omitempty" yaml:"headers"`
}

// Header is a header that must be there with exactly this value.
type Header struct {
	Name  string `json:"name" yaml:"name"`
	Value string `json:"value" yaml:"value"`
}

// Side is one version behind a route. Weight is its share of the traffic in
// percent; the weights of a route sum to 100.
type Side struct {
	Name      string     `json:"name" yaml:"name"`
	Weight    int        `json:"weight" yaml:"weight"`
	Instances []Instance `json:"instances,omitempty" yaml:"instances"`
}

// Instance is one address of a side: http://host:port, https://host:port, or
// h2c://host:port for HTTP/2 without TLS (gRPC). Capacity is how much of the
// route's traffic it can carry, in percent; 0 means all of it.
type Instance struct {
	URL      string `json:"url" yaml:"url"`
	Capacity int    `json:"capacity,omitempty" yaml:"capacity"`
}

// Settings say how a route is served. What is zero has the default that
// WithDefaults gives it.
type Settings struct {
	Affinity *Affinity         `json:"affinity,omitempty" yaml:"affinity"`
	Bucket   *Bucket           `json:"bucket,omitempty" yaml:"bucket"`
	Override *Override         `json:"override,omitempty" yaml:"override"`
	Fallback *Fallback         `json:"fallback,omitempty" yaml:"fallback"`
	Health   Health            `json:"health,omitzero" yaml:"health"`
	Breaker  Breaker           `json:"breaker,omitzero" yaml:"breaker"`
	Timeouts Timeouts          `json:"timeouts,omitzero" yaml:"timeouts"`
	Queue    Queue             `json:"queue,omitzero" yaml:"queue"`
	Retries  *int              `json:"retries,omitempty" yaml:"retries"`   // of safe requests, on another instance; 1
	MaxBody  int64             `json:"max_body,omitempty" yaml:"max_body"` // bytes of a request's body; 0: no limit
	Settle   backstay.Duration `json:"settle,omitzero" yaml:"settle"`      // a block of statistics is final this long after it ended; 10s
}

// Affinity keeps a visitor on one side by a signed cookie.
type Affinity struct {
	Cookie string            `json:"cookie,omitempty" yaml:"cookie"` // its name; backstay_side
	TTL    backstay.Duration `json:"ttl,omitzero" yaml:"ttl"`        // 24h
}

// Bucket maps a user to a side by the bucket that flags use: LaunchDarkly's,
// of Key and Salt, with the value of Header or Cookie.
type Bucket struct {
	Key    string `json:"key" yaml:"key"`
	Salt   string `json:"salt" yaml:"salt"`
	Header string `json:"header,omitempty" yaml:"header"`
	Cookie string `json:"cookie,omitempty" yaml:"cookie"`
}

// Override lets testers name the side in Header. From lists the networks that
// may; none: everybody.
type Override struct {
	Header string   `json:"header" yaml:"header"`
	From   []string `json:"from,omitempty" yaml:"from"`
}

// Fallback is what is served where no side can: another side that stands by
// (whatever its weight, when it is ready), else a page.
type Fallback struct {
	Side        string `json:"side,omitempty" yaml:"side"`
	Status      int    `json:"status,omitempty" yaml:"status"` // 503
	ContentType string `json:"content_type,omitempty" yaml:"content_type"`
	Body        string `json:"body,omitempty" yaml:"body"`
}

// Health is the active check: a GET of Path that answers 2xx or 3xx; without a
// path, a connection that opens.
type Health struct {
	Path     string            `json:"path,omitempty" yaml:"path"`
	Host     string            `json:"host,omitempty" yaml:"host"`        // that the check asks for; the instance's address
	Interval backstay.Duration `json:"interval,omitzero" yaml:"interval"` // 2s
	Timeout  backstay.Duration `json:"timeout,omitzero" yaml:"timeout"`   // 1s
	Fall     int               `json:"fall,omitempty" yaml:"fall"`        // failed checks until not ready; 2
}

// Breaker is the passive check: it takes an instance out when Failures of the
// last Of requests failed (refused, cut, no answer in time; with Status also
// 5xx), for Open, and until a check passes.
type Breaker struct {
	Failures int               `json:"failures,omitempty" yaml:"failures"` // 5
	Of       int               `json:"of,omitempty" yaml:"of"`             // 10
	Open     backstay.Duration `json:"open,omitzero" yaml:"open"`          // 5s
	Status   bool              `json:"status,omitempty" yaml:"status"`
}

// Timeouts bound the wait for a side: until it is connected, until its response
// header, between two parts of its response, and for the whole (0: no bound).
type Timeouts struct {
	Connect   backstay.Duration `json:"connect,omitzero" yaml:"connect"`       // 2s
	FirstByte backstay.Duration `json:"first_byte,omitzero" yaml:"first_byte"` // 30s
	Idle      backstay.Duration `json:"idle,omitzero" yaml:"idle"`             // 5m
	Total     backstay.Duration `json:"total,omitzero" yaml:"total"`
}

// Queue bounds each side: Active requests at once, Waiting more for at most
// Wait. What does not fit is answered 503.
type Queue struct {
	Active  int               `json:"active,omitempty" yaml:"active"`   // 20000
	Waiting int               `json:"waiting,omitempty" yaml:"waiting"` // 1000
	Wait    backstay.Duration `json:"wait,omitzero" yaml:"wait"`        // 5s
}

func orElse[T comparable](v *T, otherwise T) {
	var zero T
	if *v == zero {
		*v = otherwise
	}
}

// WithDefaults returns the settings with every default filled in.
func (s Settings) WithDefaults() Settings {
	const second = backstay.Duration(1e9)
	orElse(&s.Health.Interval, 2*second)
	orElse(&s.Health.Timeout, second)
	orElse(&s.Health.Fall, 2)
	orElse(&s.Breaker.Failures, 5)
	orElse(&s.Breaker.Of, max(10, s.Breaker.Failures))
	orElse(&s.Breaker.Open, 5*second)
	orElse(&s.Timeouts.Connect, 2*second)
	orElse(&s.Timeouts.FirstByte, 30*second)
	orElse(&s.Timeouts.Idle, 300*second)
	orElse(&s.Queue.Active, 20000)
	orElse(&s.Queue.Waiting, 1000)
	orElse(&s.Queue.Wait, 5*second)
	orElse(&s.Settle, 10*second)
	one := 1
	orElse(&s.Retries, &one)
	if s.Affinity != nil {
		a := *s.Affinity
		orElse(&a.Cookie, "backstay_side")
		orElse(&a.TTL, 24*3600*second)
		s.Affinity = &a
	}
	return s
}

// weight is a side's part in the canonical state.
type weight struct {
	Side   string `json:"side"`
	Weight int    `json:"weight"`
}

// The parts of a route's canonical state; each side is a part of its own.
const (
	partMatch    = "match"
	partSettings = "settings"
	partWeights  = "weights"
	partSide     = "side:"
)

// State is the route as an image holds it: a part for what it matches, one for
// its settings, one for all weights (they only mean something together) and
// one for the instances of each side. A nil route is absent: no parts.
func (r *Route) State() backstay.ResourceState {
	if r == nil {
		return backstay.ResourceState{}
	}
	parts := map[string]json.RawMessage{
		partMatch: backstay.Canonical(r.Match), partSettings: backstay.Canonical(r.Settings),
	}
	weights := make([]weight, len(r.Sides))
	for i, s := range r.Sides {
		weights[i] = weight{s.Name, s.Weight}
		parts[partSide+s.Name] = backstay.Canonical(append([]Instance{}, s.Instances...))
	}
	parts[partWeights] = backstay.Canonical(weights)
	return backstay.ResourceState{Parts: parts}
}

// Digest is the digest of the route's state; that of absence for nil.
func (r *Route) Digest() string { return r.State().Digest() }

// FromState makes the route whose State this is; nil for an absent one.
func FromState(name string, s backstay.ResourceState) (*Route, error) {
	if s.Opaque || s.Unreadable != "" {
		return nil, fmt.Errorf("read image of route %s: the state was not read: %s", name, s.Unreadable)
	}
	if len(s.Parts) == 0 {
		return nil, nil //nolint:nilnil // an absent route is a state
	}
	r := &Route{Name: name}
	var weights []weight
	for part, into := range map[string]any{partMatch: &r.Match, partSettings: &r.Settings, partWeights: &weights} {
		if err := json.Unmarshal(s.Parts[part], into); err != nil {
			return nil, fmt.Errorf("read image of route %s: part %q: %w", name, part, err)
		}
	}
	for _, w := range weights {
		side := Side{Name: w.Side, Weight: w.Weight}
		if err := json.Unmarshal(s.Parts[partSide+w.Side], &side.Instances); err != nil {
			return nil, fmt.Errorf("read image of route %s: side %q: %w", name, w.Side, err)
		}
		r.Sides = append(r.Sides, side)
	}
	if back := r.State(); !back.Equal(s) {
		known := slices.Sorted(maps.Keys(back.Parts))
		return nil, fmt.Errorf("read image of route %s: it does not read back as itself (parts known here: %v)", name, known)
	}
	return r, nil
}

// Moved is the route with other weights; sides that are not named keep theirs.
// Every name must be a side.
func (r *Route) Moved(weights map[string]int) (*Route, error) {
	moved := *r
	moved.Sides = slices.Clone(r.Sides)
	left := maps.Clone(weights)
	for i := range moved.Sides {
		if w, ok := left[moved.Sides[i].Name]; ok {
			moved.Sides[i].Weight = w
			delete(left, moved.Sides[i].Name)
		}
	}
	for name := range left {
		return nil, fmt.Errorf("route %s has no side %q", r.Name, name)
	}
	return &moved, nil
}
