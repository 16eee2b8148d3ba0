package sim

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/plan"
	"github.com/backstay-dev/backstay/internal/spec"
)

// The cells of a release: what each side runs, and which instances the router
// knows of the new one.
const (
	newSide  = backstay.Key("service:web.green")
	oldSide  = backstay.Key("service:web.blue")
	routed   = backstay.Key("side:shop.green")
	isServed = "two"
)

// released are the steps that plan makes of a release step, each with its
// effect on the cells.
func released(strategy string, keys spec.ReleaseKeys) []backstay.Step {
	keys.Service, keys.Route, keys.Strategy = "web", "shop", strategy
	draft := plan.NewDraft(&spec.Spec{
		Sections: map[string]json.RawMessage{"services": json.RawMessage(`{"web":{"instances":2}}`)},
		Steps:    []spec.Step{{ID: "rel", Kind: spec.ReleaseKind, Config: backstay.Canonical(spec.ReleaseConfig{Release: keys})}},
	})
	steps := []backstay.Step{confStep("conf")}
	for _, q := range draft.Requests() {
		steps = append(steps, simulated(q))
	}
	return append(steps, poolStep("last"))
}

// simulated is one such step in the simulator's world. Only retire keeps
// something for its undo: of several the order in which they let go is chance.
func simulated(q plan.Request) backstay.Step {
	name, config := strings.TrimPrefix(q.ID, "rel."), string(q.Config)
	switch {
	case q.Kind == "gate":
		return gated(q.ID)
	case name == "retire":
		return step(q.ID, kindKeeper, set(oldSide, ""))
	case strings.HasPrefix(name, "start-1"):
		return step(q.ID, kindTree, set(newSide, "half"))
	case q.Kind == "service":
		return step(q.ID, kindTree, set(newSide, isServed))
	case strings.HasPrefix(name, "register-1"):
		return step(q.ID, kindTree, set(routed, "half"))
	case strings.HasPrefix(name, "register"):
		return step(q.ID, kindTree, set(routed, isServed))
	}
	var c struct{ Traffic struct{ Weight int } }
	if json.Unmarshal(q.Config, &c) != nil || c.Traffic.Weight == 0 {
		panic("sim: what does " + q.ID + " do? " + config)
	}
	s := step(q.ID, kindTree, set(route, strconv.Itoa(c.Traffic.Weight)))
	s.Dial = route
	return s
}

// gated waits for time and for a check.
func gated(id string) backstay.Step {
	return backstay.Step{ID: id, Prepared: backstay.Prepared{
		Kind: "gate", Class: backstay.Exact, Effect: backstay.Idempotent, Summary: "wait at " + id, Timeout: seconds(30),
		Gate: &backstay.Gate{Hold: seconds(2), Within: seconds(30), Checks: []backstay.GateCheck{{
			Name: "smoke", Every: backstay.Duration(700 * time.Millisecond), Failures: 2,
			Prepared: backstay.Prepared{Kind: kindRun, Summary: "smoke", Timeout: seconds(2)},
		}}},
	}}
}

// releases are the plans that release steps expand into, good and bad.
func releases() []scenario {
	cells := start()
	cells[string(route)], cells[string(oldSide)] = "0", "one"
	hold := backstay.Duration(2 * time.Second)
	canary := func() []backstay.Step {
		return released(spec.Canary, spec.ReleaseKeys{Hold: hold, Through: []spec.ReleaseStage{{Weight: 1}, {Weight: 50}, {Weight: 100}}})
	}
	blueGreen := func() []backstay.Step {
		return released(spec.BlueGreen, spec.ReleaseKeys{Test: []string{"smoke"}, Hold: hold})
	}
	rolling := func() []backstay.Step { return released(spec.Rolling, spec.ReleaseKeys{Batch: 1}) }
	theirs := []fault{outside(string(route), "theirs")}
	fails := func(ns ...int) (out []fault) {
		for _, n := range ns {
			out = append(out, fault{Action: actFail, Point: "check/smoke", N: n})
		}
		return out
	}
	return []scenario{
		{name: "release-canary", cells: cells, steps: canary, theirs: theirs},
		{name: "release-canary-gate-fails", cells: cells, steps: canary, theirs: theirs, script: fails(5, 6)},
		{name: "release-canary-last-fails", cells: cells, steps: canary, script: []fault{always(actFail, "do/last")}},
		{name: "release-canary-no-data", cells: cells, steps: canary, script: []fault{always(actLie, "check/smoke")}},
		{name: "release-blue-green", cells: cells, steps: blueGreen},
		{name: "release-blue-green-retire-fails", cells: cells, steps: blueGreen, script: []fault{always(actFull, "do/rel.retire")}},
		{name: "release-rolling", cells: cells, steps: rolling},
		{name: "release-rolling-move-fails", cells: cells, steps: rolling, script: []fault{always(actFull, "do/rel.to-100")}},
	}
}

// traffic: at every instant of a release no side has users that it cannot
// serve, and after a rollback the router reads as before (I15). Moves that
// somebody else made are not the deployment's.
func (h *history) traffic() {
	if !strings.HasPrefix(h.sc.name, "release") {
		return
	}
	for _, k := range []backstay.Key{route, newSide, oldSide, routed} {
		if _, theirs := h.lastOutsider(string(k), len(h.journal)); theirs {
			return
		}
	}
	for i, e := range h.journal {
		if e.Kind != "write" {
			continue
		}
		at := func(k backstay.Key) string { return h.valueAt(string(k), i+1) }
		weight, err := strconv.Atoi(at(route))
		if err != nil {
			h.violate("I15: step %s leaves %q as the weight", e.Step, at(route))
			continue
		}
		if weight > 0 && (at(newSide) == "" || at(routed) == "") {
			h.violate("I15: step %s leaves %d%% of the users on a new side that runs %q and of which the router knows %q", e.Step, weight, at(newSide), at(routed))
		}
		if weight > 50 && (at(newSide) != isServed || at(routed) != isServed) {
			h.violate("I15: step %s leaves %d%% of the users on half of the new side", e.Step, weight)
		}
		if weight < 100 && at(oldSide) == "" {
			h.violate("I15: step %s leaves %d%% of the users on an old side that is retired", e.Step, 100-weight)
		}
		if _, covers := keyOf(h.step(e.Step), e.Cell); !covers {
			h.violate("I15: step %s writes %s", e.Step, e.Cell)
		}
	}
	if h.row.State == backstay.RolledBack && h.valueAt(string(route), len(h.journal)) != "0" {
		h.violate("I15: rolled back, and the router reads %q", h.valueAt(string(route), len(h.journal)))
	}
}
