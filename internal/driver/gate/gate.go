// Package gate is the step kind "gate": a wait for time and evidence between
// two steps. It freezes how long to hold, which checks must pass and when no
// answer counts as no; the engine does the waiting and asks its judge. The kind
// itself touches nothing, has no keys and nothing to undo.
package gate

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver"
)

// Driver is the kind. It has no state; methods are safe for concurrent use.
type Driver struct{}

var (
	_ driver.Kind      = (*Driver)(nil)
	_ driver.Explainer = (*Driver)(nil)
	_ driver.Sandboxer = (*Driver)(nil)
)

// New returns the kind.
func New() *Driver { return &Driver{} }

// Name is "gate".
func (*Driver) Name() string { return "gate" }

// Config returns a step's keys.
func (*Driver) Config() any { return &stepConfig{} }

type stepConfig struct {
	Gate gateConfig `yaml:"gate" json:"gate" required:"true" doc:"Wait here until the evidence is good enough to go on." example:"{hold: 1m, gates: [smoke]}"`
}

type gateConfig struct {
	Hold   backstay.Duration `yaml:"hold" json:"hold,omitempty" doc:"How long to wait at least." example:"5m"`
	Gates  []string          `yaml:"gates" json:"gates,omitempty" ref:"gates" doc:"The checks that must pass: entries of gates. One that fails rolls back at once." example:"[smoke]"`
	Within backstay.Duration `yaml:"within" json:"within,omitempty" doc:"When the time is over without an answer, which is no pass; undecided says what happens then. Default: hold and 10m." example:"30m"`

	Undecided string `yaml:"undecided" json:"undecided,omitempty" enum:"rollback,hold,promote" doc:"What happens when the time is over without an answer: roll back; hold until evidence or a person comes (backstay promote, backstay rollback); or go on, which is never safe. Default: rollback." example:"hold"`
}

const defaultWithin = backstay.Duration(10 * time.Minute)

// Prepare freezes the wait. The plan adds the checks that it names.
func (d *Driver) Prepare(_ context.Context, req backstay.Request) (backstay.Prepared, error) {
	var sc stepConfig
	if err := json.Unmarshal(req.Config, &sc); err != nil {
		return backstay.Prepared{}, fmt.Errorf("decode gate step: %w", err)
	}
	c := sc.Gate
	var problems []backstay.Problem
	refuse := func(path, message, hint string) {
		problems = append(problems, backstay.Problem{Path: path, Message: message, Hint: hint})
	}
	if c.Hold <= 0 && len(c.Gates) == 0 {
		refuse("gate", "waits for nothing", "give hold, gates, or both")
	}
	seen := map[string]bool{}
	for i, name := range c.Gates {
		if seen[name] {
			refuse(fmt.Sprintf("gate.gates[%d]", i), fmt.Sprintf("%q stands there twice", name), "drop one")
		}
		seen[name] = true
	}
	if c.Within > 0 && c.Within <= c.Hold {
		refuse("gate.within", fmt.Sprintf("%s is over before hold, %s, is", c.Within, c.Hold), "give more, or leave it out")
	}
	if len(problems) > 0 {
		return backstay.Prepared{}, &backstay.RefusedError{What: "spec", Problems: problems}
	}
	g := &backstay.Gate{Hold: c.Hold, Names: c.Gates, Within: c.Within, Undecided: backstay.GatePolicy(c.Undecided)}
	if g.Within <= 0 {
		g.Within = c.Hold + defaultWithin
	}
	return backstay.Prepared{
		Kind: d.Name(), Class: backstay.Exact, Effect: backstay.Idempotent, Fence: backstay.Fenced,
		Gate: g, Timeout: g.Within, Summary: summary(g),
	}, nil
}

// summary says what is waited for.
func summary(g *backstay.Gate) string {
	var parts []string
	if g.Hold > 0 {
		parts = append(parts, "hold for "+g.Hold.String())
	}
	if len(g.Names) > 0 {
		parts = append(parts, fmt.Sprintf("go on when %s passed, at most %s", strings.Join(g.Names, ", "), g.Within))
	}
	return strings.Join(parts, "; ")
}

// Observe sees nothing: there are no keys.
func (*Driver) Observe(context.Context, backstay.Call) (backstay.Image, error) {
	return backstay.Image{}, nil
}

// Do does nothing: the engine waits.
func (*Driver) Do(ctx context.Context, _ backstay.Call) (backstay.Result, error) {
	return backstay.Result{}, ctx.Err()
}

// Undo does nothing.
func (*Driver) Undo(context.Context, backstay.Call) (backstay.Result, error) {
	return backstay.Result{}, nil
}

// Explain says how to look at the wait and how to end it.
func (*Driver) Explain(step backstay.Step) (backstay.Explanation, error) {
	return backstay.Explanation{
		Do: []backstay.Command{
			{Note: step.Summary},
			{Note: "to say no", Line: `backstay rollback "$DEPLOYMENT" --reason "why"`},
		},
		Read: []backstay.Command{{Note: "what the checks say", Line: `backstay status "$DEPLOYMENT"`}},
	}, nil
}

// Sandbox allows every gate: nothing is changed.
func (*Driver) Sandbox(backstay.Step) error { return nil }
