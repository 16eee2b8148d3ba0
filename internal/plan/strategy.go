package plan

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/spec"
)

// The kinds that a release step expands into, and the words for its sides.
const (
	serviceKind = "service"
	trafficKind = "traffic"
	gateKind    = "gate"

	sideNext = "next" // the side without traffic
	sideLive = "live" // the side that has it
)

// Release is a release step as the plan shows it; the steps that it became have
// its name in Of. Through are the shares of the new side, in percent.
type Release struct {
	Step     string `json:"step"`
	Service  string `json:"service"`
	Route    string `json:"route"`
	Strategy string `json:"strategy"`
	Through  []int  `json:"through"`
}

// serviceConfig, trafficConfig and gateConfig are what an expansion writes for
// the kinds.
type serviceConfig struct {
	Service   string `json:"service"`
	Side      string `json:"side"`
	Instances int    `json:"instances,omitempty"` // so many of it; 0: all
	Retire    bool   `json:"retire,omitempty"`
}

type trafficConfig struct {
	Traffic trafficKeys `json:"traffic"`
}

type trafficKeys struct {
	Route   string `json:"route"`
	Side    string `json:"side"`
	Service string `json:"service,omitempty"` // register its instances
	Weight  int    `json:"weight,omitempty"`  // or move the dial
	// Drain is how long a move waits for what a side without traffic still answers.
	Drain backstay.Duration `json:"drain,omitempty"`
}

type gateConfig struct {
	Gate gateKeys `json:"gate"`
}

type gateKeys struct {
	Hold   backstay.Duration `json:"hold,omitempty"`
	Gates  []string          `json:"gates,omitempty"`
	Within backstay.Duration `json:"within,omitempty"`

	Undecided string `json:"undecided,omitempty"`
}

// expansion is a spec whose release steps became ordinary ones.
type expansion struct {
	steps    []spec.Step
	of       map[string]string // by ID: the release step
	gates    map[string]place  // by ID: where the gate stands
	releases []Release
	last     map[string]string // by release step: the last of its steps
	keeps    map[string]string // by snapshot step: the migrate step that asks for it
}

// place is where a gate stands behind a move of a dial.
type place struct {
	route  string
	weight int
}

// expand turns each release step into the steps of its strategy, one after the
// other, likewise each flag step that has gates, and points what needed it at
// the last of them. A migrate step that asks for a dump gets a snapshot step before it.
func expand(s *spec.Spec) expansion {
	x := expansion{of: map[string]string{}, gates: map[string]place{}, last: map[string]string{}, keeps: map[string]string{}}
	for _, st := range s.Steps {
		if st.Kind == flagKind && x.expose(st) {
			continue
		}
		if st.Kind == migrateKind {
			x.keep(st)
			continue
		}
		if st.Kind != spec.ReleaseKind {
			x.steps = append(x.steps, st)
			continue
		}
		var c spec.ReleaseConfig
		if json.Unmarshal(st.Config, &c) != nil {
			x.steps = append(x.steps, st) // of a kind of this name: not ours
			continue
		}
		u := unfolding{from: st, keys: c.Release, expansion: &x}
		u.run(declared(s, c.Release.Service))
	}
	for i := range x.steps {
		needs := slices.Clone(x.steps[i].Needs)
		for j, need := range needs {
			if last, ok := x.last[need]; ok && x.of[x.steps[i].ID] != need {
				needs[j] = last
			}
		}
		x.steps[i].Needs = needs
	}
	return x
}

// declared is how many instances the spec wants of a service, and how long one
// may take to end.
func declared(s *spec.Spec, service string) (instances int, drain backstay.Duration) {
	var all map[string]struct {
		Instances int                `json:"instances"`
		Drain     *backstay.Duration `json:"drain"`
	}
	if raw := s.Sections["services"]; raw != nil {
		_ = json.Unmarshal(raw, &all) // its own kind says what is wrong with it
	}
	drain = defaultDrain
	if d := all[service].Drain; d != nil {
		drain = *d
	}
	return max(all[service].Instances, 1), drain
}

// defaultDrain is that of a service which says none.
const defaultDrain = backstay.Duration(10 * time.Second)

// unfolding writes the steps of one release step.
type unfolding struct {
	*expansion
	from    spec.Step
	keys    spec.ReleaseKeys
	drain   backstay.Duration // of the service
	through []int
	needs   []string
}

// run writes them in the order that makes undoing right: what users notice
// first is undone first, and what the way back needs is given up last.
func (u *unfolding) run(instances int, drain backstay.Duration) {
	u.needs, u.drain = u.from.Needs, drain
	switch u.keys.Strategy {
	case spec.Canary:
		u.begin()
		for i, stage := range u.keys.Through {
			u.move(stage.Weight)
			if i < len(u.keys.Through)-1 {
				u.watch(stage)
			}
		}
	case spec.Rolling:
		u.roll(instances, u.keys.Batch)
	default: // blue-green, all-at-once
		u.begin()
		u.move(100)
		u.watch(spec.ReleaseStage{Weight: 100})
	}
	u.add("retire", serviceKind, serviceConfig{Service: u.keys.Service, Side: sideLive, Retire: true})
	u.releases = append(u.releases, Release{
		Step: u.from.ID, Service: u.keys.Service, Route: u.keys.Route, Strategy: u.keys.Strategy, Through: u.through,
	})
	u.last[u.from.ID] = u.needs[0]
}

// begin starts the whole new side, makes the router know it, and tests it.
func (u *unfolding) begin() {
	u.add("start", serviceKind, serviceConfig{Service: u.keys.Service, Side: sideNext})
	u.register("register")
	u.test()
}

// roll adds the new side's instances in batches, each with its part of the traffic.
func (u *unfolding) roll(all, batch int) {
	for n := min(batch, all); ; n = min(n+batch, all) {
		count := n
		if n == all {
			count = 0
		}
		u.add(fmt.Sprintf("start-%d", n), serviceKind, serviceConfig{Service: u.keys.Service, Side: sideNext, Instances: count})
		u.register(fmt.Sprintf("register-%d", n))
		if n == min(batch, all) {
			u.test()
		}
		stage := spec.ReleaseStage{Weight: max(n*100/all, 1)}
		u.move(stage.Weight)
		if n == all {
			return
		}
		u.watch(stage)
	}
}

func (u *unfolding) register(name string) {
	u.add(name, trafficKind, trafficConfig{trafficKeys{Route: u.keys.Route, Side: sideNext, Service: u.keys.Service}})
}

// move gives the new side a share. A move that leaves a side without traffic, and
// the way back, wait until that side has answered what it was asked before.
func (u *unfolding) move(weight int) {
	u.through = append(u.through, weight)
	u.add(fmt.Sprintf("to-%d", weight), trafficKind, trafficConfig{trafficKeys{Route: u.keys.Route, Side: sideNext, Weight: weight, Drain: u.drain}})
}

// test gates the new side before its first request.
func (u *unfolding) test() {
	if len(u.keys.Test) > 0 {
		u.gate("test", gateKeys{Gates: u.keys.Test, Within: u.keys.Within, Undecided: u.keys.Undecided}, 0)
	}
}

// watch gates a share, where anything is to be waited for.
func (u *unfolding) watch(stage spec.ReleaseStage) {
	g := gateKeys{Hold: u.keys.Hold, Gates: u.keys.Gates, Within: u.keys.Within, Undecided: u.keys.Undecided}
	if stage.Hold > 0 {
		g.Hold = stage.Hold
		if g.Within > 0 && g.Within <= g.Hold {
			g.Within = 0 // a longer stay has its own time
		}
	}
	if stage.Gates != nil {
		g.Gates = stage.Gates
	}
	if g.Hold > 0 || len(g.Gates) > 0 {
		u.gate(fmt.Sprintf("gate-%d", stage.Weight), g, stage.Weight)
	}
}

func (u *unfolding) gate(name string, keys gateKeys, weight int) {
	id := u.add(name, gateKind, gateConfig{keys})
	u.gates[id] = place{u.keys.Route, weight}
}

// add appends a step that needs the one before it.
func (u *unfolding) add(name, kind string, config any) string {
	st := u.from
	st.ID, st.Kind, st.Needs, st.Config = u.from.ID+"."+name, kind, u.needs, backstay.Canonical(config)
	if kind == gateKind {
		st.Timeout, st.UndoTimeout, st.Retries = 0, 0, nil
	}
	u.steps = append(u.steps, st)
	u.of[st.ID] = u.from.ID
	u.needs = []string{st.ID}
	return st.ID
}

// gateID names the check of a gate among a survey's checks. No check of verify
// has such a name.
func gateID(name string) string { return "gates." + name }

// gateChecks are the checks that gates of the draft name, in the spec's order.
func (d *Draft) gateChecks() []spec.Gate {
	named := map[string]bool{}
	for _, st := range d.spec.Steps {
		var c gateConfig
		if st.Kind != gateKind || json.Unmarshal(st.Config, &c) != nil {
			continue
		}
		for _, name := range c.Gate.Gates {
			named[name] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(d.spec.Gates), func(g spec.Gate) bool { return !named[g.Name] })
}

// gate completes a frozen gate with the checks it names and where it stands.
func (b *builder) gate(st spec.Step, g backstay.Gate) *backstay.Gate {
	at := b.expanded.gates[st.ID]
	g.Route, g.Weight = at.route, at.weight
	declared := map[string]spec.Gate{}
	for _, d := range b.spec.Gates {
		declared[d.Name] = d
	}
	for _, name := range g.Names {
		d, ok := declared[name]
		prepared, seen := b.seen.Checks[gateID(name)]
		if !ok || !seen {
			known := strings.Join(slices.Sorted(maps.Keys(declared)), ", ")
			b.problem(st.ID, "gates has: "+known, "no gate is named %q", name)
			continue
		}
		if prepared.Part > 0 && g.Weight == 100 {
			b.problem(st.ID, "let it gate the shares before: strategy: canary, with through", "%s compares both sides, and at 100%% the running one has no traffic", name)
		}
		if wait := d.For + g.Hold; wait >= g.Within {
			b.problem(st.ID, "give it more time with within", "%s must pass for %s, and the gate ends after %s", name, d.For, g.Within)
		}
		g.Checks = append(g.Checks, backstay.GateCheck{Name: name, For: d.For, Every: d.Every, Failures: d.Failures, Prepared: prepared})
	}
	return &g
}
