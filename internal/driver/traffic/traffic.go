// Package traffic is the step kind "traffic": the requests of a route move
// between its sides, and sides get and lose their instances, on the router that
// holds the route.
//
// It owns the section routes (which router holds which route), the move (one
// notch of the route's dial: all weights at once) and the side step (a side's
// instances: named, those of a service, or none any more). Routers are in the
// folders below: backstay proxy, HAProxy, nginx.
//
// It promises: what counts is what the router tells, before and after; a move is
// made only from the weights that the step began with, read back after it, and
// refused when a side would get more than its ready instances can carry; undo
// brings back the router's own account of what was there, and moves of one route
// are taken back in one (Prepared.Dial). Steps are fenced where the router
// refuses stale writers (backstay proxy), else leased for the step's timeout.
//
// It starts and stops no instance. It does not create routes.
package traffic

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver"
	"github.com/backstay-dev/backstay/internal/driver/traffic/router"
)

// Kind is the kind. Its methods are safe for concurrent use.
type Kind struct {
	call   time.Duration // bounds one exchange with a router
	guards *router.Guards
}

var (
	_ driver.Kind      = (*Kind)(nil)
	_ driver.Prober    = (*Kind)(nil)
	_ driver.Sectioner = (*Kind)(nil)
	_ driver.Explainer = (*Kind)(nil)
	_ driver.Turner    = (*Kind)(nil)
)

// New returns the kind.
func New() *Kind { return Bounded(router.CallTimeout) }

// Bounded returns the kind with another bound of one exchange with a router.
func Bounded(call time.Duration) *Kind { return &Kind{call: call, guards: &router.Guards{}} }

// Name is "traffic".
func (*Kind) Name() string { return "traffic" }

// Config returns a step's keys.
func (*Kind) Config() any { return &stepConfig{} }

// Sections are the routes.
func (*Kind) Sections() map[string]any { return map[string]any{section: &routeConfig{}} }

const section = "routes"

// body is the frozen step; format 1. It is a move, or a side step.
type body struct {
	V      int    `json:"v"`
	Route  string `json:"route"` // as the spec calls it
	Router holder `json:"router"`

	// Move are the sides that get traffic, in percent, summing to 100. Side and
	// Other are set where the step names one side's weight: Other gets the rest.
	Move  map[string]int `json:"move,omitempty"`
	Side  string         `json:"side,omitempty"`
	Other string         `json:"other,omitempty"`

	// Of a side step: what Side shall have.
	Instances []string          `json:"instances,omitempty"`
	Service   string            `json:"service,omitempty"`
	Retire    bool              `json:"retire,omitempty"`
	Within    backstay.Duration `json:"within,omitempty"`
	Drain     backstay.Duration `json:"drain,omitempty"`
}

const bodyFormat = 1

func decode(step backstay.Step) (body, error) {
	var b body
	if err := json.Unmarshal(step.Body, &b); err != nil {
		return b, fmt.Errorf("decode traffic step %s: %w", step.ID, err)
	}
	if b.V != bodyFormat {
		return b, &backstay.Error{
			Class: backstay.Permanent, Op: "decode traffic step", Subject: step.ID,
			Err: fmt.Errorf("format %d", b.V), Hint: "use the backstay version that planned this deployment",
		}
	}
	return b, nil
}

// names are the keys of a route: its weights, the order of its sides (where that
// means something), and the instances of one side.
type names struct{ route, order, side backstay.Key }

func namesOf(name, side string) names {
	return names{
		route: backstay.Key("route:" + name), order: backstay.Key("sides:" + name), side: backstay.Key("side:" + side + "/" + name),
	}
}

// keys are the keys of the step. A side step has the weights as well: two
// deployments do not share a route.
func (b body) keys(t router.Traits) []backstay.Key {
	n := namesOf(t.Name, b.Side)
	switch {
	case b.Move != nil:
		return []backstay.Key{n.route}
	case t.Ordered:
		return []backstay.Key{n.route, n.order, n.side}
	}
	return []backstay.Key{n.route, n.side}
}

// The parts of a route's weights: what everybody understands, and the router's
// own account where that says more.
const (
	partWeights = ""
	partOwn     = "own"
)

func weightsOf(weights map[string]int, own json.RawMessage) backstay.ResourceState {
	parts := map[string]json.RawMessage{partWeights: backstay.Canonical(router.Nonzero(weights))}
	if len(own) > 0 {
		parts[partOwn] = own
	}
	return backstay.ResourceState{Parts: parts}
}

// stateOf is the state of a side with this account; absent for none.
func stateOf(account json.RawMessage) backstay.ResourceState {
	if len(account) == 0 {
		return backstay.ResourceState{}
	}
	return backstay.ResourceState{Parts: map[string]json.RawMessage{"": account}}
}

func sideOf(route *router.Route, side string) backstay.ResourceState {
	if s := route.Side(side); s != nil {
		return stateOf(s.Value)
	}
	return backstay.ResourceState{}
}

// imageOf is the route as the step's keys hold it.
func (b body) imageOf(t router.Traits, route *router.Route) backstay.Image {
	n := namesOf(t.Name, b.Side)
	all := backstay.Image{
		n.route: weightsOf(route.Weights, route.Own),
		n.order: backstay.PartValue(route.Order()),
		n.side:  sideOf(route, b.Side),
	}
	image := backstay.Image{}
	for _, k := range b.keys(t) {
		image[k] = all[k]
	}
	return image
}

// Observe reads the route back from its router. A route that is not there is
// absent; a router that does not answer is unreadable.
func (k *Kind) Observe(ctx context.Context, call backstay.Call) (backstay.Image, error) {
	b, r, t, err := k.opened(call.Step)
	if err != nil {
		return nil, err
	}
	route, err := r.Read(ctx)
	if ctx.Err() != nil {
		return nil, fmt.Errorf("read route %s: %w", b.Route, ending(ctx))
	}
	if err == nil {
		return b.imageOf(t, route), nil
	}
	state := backstay.ResourceState{Unreadable: err.Error()}
	if backstay.ClassOf(err) == backstay.NotFound {
		state = backstay.ResourceState{}
	}
	image := backstay.Image{}
	for _, k := range b.keys(t) {
		image[k] = state
	}
	return image, nil
}

// Probe answers for a side step, whose wanted state is not all known when it is
// planned: whether the side has the instances that it shall have.
func (k *Kind) Probe(ctx context.Context, call backstay.Call) (backstay.Finding, error) {
	b, r, _, err := k.opened(call.Step)
	if err != nil || b.Move != nil {
		return backstay.Unknown, err
	}
	route, err := r.Read(ctx)
	if err != nil {
		return backstay.Unknown, err //nolint:wrapcheck // says what it did
	}
	want, _, err := b.account(r, route, call.DataDir)
	if err != nil {
		return backstay.Unknown, err
	}
	if sideOf(route, b.Side).Equal(stateOf(want)) {
		return backstay.Applied, nil
	}
	return backstay.Unknown, nil
}

func (k *Kind) opened(step backstay.Step) (body, router.Router, router.Traits, error) {
	b, err := decode(step)
	if err != nil {
		return b, nil, router.Traits{}, err
	}
	r, t, err := b.Router.open(k.call)
	if err != nil {
		return b, nil, t, fmt.Errorf("find router of route %s: %w", b.Route, err)
	}
	return b, r, t, nil
}

// ending is why ctx ended: an error that is both ctx.Err() and the cause.
func ending(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if cause == nil || errors.Is(cause, err) {
		return err
	}
	return fmt.Errorf("%w: %w", err, cause)
}
