package spec

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/backstay-dev/backstay"
)

// ReleaseKind is the name of the step that is of no kind: the plan expands it
// into steps of other kinds.
const ReleaseKind = "release"

// The strategies of a release step.
const (
	Canary    = "canary"
	BlueGreen = "blue-green"
	Rolling   = "rolling"
	AllAtOnce = "all-at-once"
)

// ReleaseConfig are the keys of a release step.
type ReleaseConfig struct {
	Release ReleaseKeys `yaml:"release" json:"release" required:"true" doc:"Bring a new version of a service to its users: the plan expands it into steps that start, register, shift, watch and retire." example:"{service: web, route: shop, strategy: canary}"`
}

// ReleaseKeys say what is released, and how traffic gets there.
type ReleaseKeys struct {
	Service  string            `yaml:"service" json:"service" required:"true" ref:"services" doc:"The service whose new version this is." example:"web"`
	Route    string            `yaml:"route" json:"route" required:"true" ref:"routes" doc:"The route by which its users come." example:"shop"`
	Strategy string            `yaml:"strategy" json:"strategy" required:"true" enum:"canary,blue-green,rolling,all-at-once" doc:"canary: through growing shares of the traffic. blue-green: all at once after a test of the new side. rolling: in batches of instances, with the traffic in proportion. all-at-once: start, then switch." example:"canary"`
	Through  []ReleaseStage    `yaml:"through" json:"through,omitempty" doc:"canary: the shares of the new version. The last is 100%. Default: [1%, 10%, 50%, 100%]." example:"[1%, 10%, 50%, 100%]"`
	Batch    int               `yaml:"batch" json:"batch,omitempty" doc:"rolling: how many instances are added at a time. Default: 1." example:"2"`
	Hold     backstay.Duration `yaml:"hold" json:"hold,omitempty" doc:"How long to stay at each share before 100%, and after a switch. Default: no time." example:"5m"`
	Gates    []string          `yaml:"gates" json:"gates,omitempty" ref:"gates" doc:"What must pass at each share before 100%, and after a switch. One that fails rolls back at once." example:"[smoke]"`
	Test     []string          `yaml:"test" json:"test,omitempty" ref:"gates" doc:"What must pass on the new side before it gets traffic. In these checks {side} is its name, {endpoint} the address of its first instance." example:"[green-answers]"`
	Within   backstay.Duration `yaml:"within" json:"within,omitempty" doc:"How long each share may stay without an answer of its gates, which is no pass. Default: hold and 10m." example:"30m"`

	Undecided string `yaml:"undecided" json:"undecided,omitempty" enum:"rollback,hold,promote" doc:"What happens at a share when that time is over: roll back; hold until evidence or a person comes; or go on, which is never safe. Default: rollback." example:"hold"`
}

// ReleaseStage is one share of the traffic: a percentage, or that with what
// holds there. Zero Hold and nil Gates mean those of the release.
type ReleaseStage struct {
	Weight int               `json:"weight"`
	Hold   backstay.Duration `json:"hold,omitempty"`
	Gates  []string          `json:"gates,omitempty"`
}

type stageMapping struct {
	Weight    Percent           `yaml:"weight" json:"weight,omitempty" doc:"The share of the new version." example:"10%"`
	SetWeight Percent           `yaml:"setWeight" json:"setWeight,omitempty" doc:"Another word for weight." example:"10%"`
	Hold      backstay.Duration `yaml:"hold" json:"hold,omitempty" doc:"How long to stay here." example:"10m"`
	Gates     []string          `yaml:"gates" json:"gates,omitempty" ref:"gates" doc:"What must pass here." example:"[smoke]"`
}

var (
	_ Shaper  = ReleaseStage{}
	_ Fielder = ReleaseStage{}
)

// SpecShape says that a stage is written in two ways.
func (ReleaseStage) SpecShape() []string { return []string{"string", "mapping"} }

// SpecFields describes the long form.
func (ReleaseStage) SpecFields() any { return &stageMapping{} }

// UnmarshalJSON reads both forms.
func (s *ReleaseStage) UnmarshalJSON(data []byte) error {
	var m stageMapping
	if len(data) > 0 && data[0] != '{' {
		if err := json.Unmarshal(data, &m.Weight); err != nil {
			return err //nolint:wrapcheck // says enough
		}
	} else if err := json.Unmarshal(data, &m); err != nil {
		return err //nolint:wrapcheck // says enough
	}
	*s = ReleaseStage{Weight: int(max(m.Weight, m.SetWeight)), Hold: m.Hold, Gates: m.Gates}
	if m.Weight > 0 && m.SetWeight > 0 {
		return fmt.Errorf("has both weight and setWeight")
	}
	if s.Weight == 0 {
		return fmt.Errorf("has no weight")
	}
	return nil
}

// Percent is a whole share of the traffic, such as 10%, from 1 to 100.
type Percent int

var _ Shaper = Percent(0)

// SpecShape says that a share is a text (or a plain number).
func (Percent) SpecShape() []string { return []string{"string", "integer"} }

// UnmarshalJSON reads "10%", "10" or 10.
func (p *Percent) UnmarshalJSON(data []byte) error {
	text := strings.TrimSuffix(strings.Trim(string(data), `"`), "%")
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > 100 {
		return fmt.Errorf("%s is not a whole share from 1%% to 100%%", strings.Trim(string(data), `"`))
	}
	*p = Percent(n)
	return nil
}

// builtIn adds the release step to the kinds, unless they have one.
type builtIn struct{ Kinds }

func withRelease(kinds Kinds) Kinds {
	if _, ok := kinds.Config(ReleaseKind); ok {
		return kinds
	}
	return builtIn{kinds}
}

// Names returns the kinds' names with the release step, sorted.
func (b builtIn) Names() []string {
	names := append(slices.Clone(b.Kinds.Names()), ReleaseKind)
	slices.Sort(names)
	return names
}

// Config returns the config of a kind, or of the release step.
func (b builtIn) Config(kind string) (any, bool) {
	if kind == ReleaseKind {
		return &ReleaseConfig{}, true
	}
	return b.Kinds.Config(kind)
}

// release checks what a release step's keys say together.
func (d *decoder) release(n *node, path string, config any) {
	c, ok := config.(*ReleaseConfig)
	if !ok || n.get(ReleaseKind) == nil || n.get(ReleaseKind).shape != mapping {
		return
	}
	n, path = n.get(ReleaseKind), path+"."+ReleaseKind
	k := &c.Release
	only := func(key, strategy string) {
		if at := n.get(key); at != nil && k.Strategy != strategy {
			d.ps.add(at, path+"."+key, fmt.Sprintf("a %s release has no %s", k.Strategy, key), fmt.Sprintf("it belongs to the strategy %s", strategy))
		}
	}
	only("through", Canary)
	only("batch", Rolling)
	if at := n.get("batch"); at != nil && k.Batch < 1 {
		d.ps.add(at, path+".batch", "want 1 or more", "")
	}
	last := 0
	for i, s := range k.Through {
		if s.Weight <= last {
			d.ps.add(n.get("through"), at(path+".through", i), fmt.Sprintf("%d%% does not follow %d%%", s.Weight, last), "shares grow; going back is one move")
		}
		last = s.Weight
	}
	if len(k.Through) > 0 && last != 100 {
		d.ps.add(n.get("through"), path+".through", fmt.Sprintf("ends at %d%%", last), "end with 100%: a release is whole or it is taken back")
	}
	if k.Within > 0 && k.Hold >= k.Within {
		d.ps.add(n.get("within"), path+".within", fmt.Sprintf("%s is over before hold, %s, is", k.Within, k.Hold), "give more, or leave it out")
	}
	if k.Strategy == Canary && len(k.Through) == 0 {
		k.Through = []ReleaseStage{{Weight: 1}, {Weight: 10}, {Weight: 50}, {Weight: 100}}
	}
	if k.Strategy == Rolling && k.Batch == 0 {
		k.Batch = 1
	}
}

// gateKeys are the keys that every entry of gates has.
type gateKeys struct {
	For      *backstay.Duration `yaml:"for" doc:"How long it must pass without a break. Default: the last answer counts." example:"30s"`
	Every    *backstay.Duration `yaml:"every" doc:"How long to wait before asking again. Default: 1s." example:"2s"`
	Failures *int               `yaml:"failures" doc:"How often in a row it may fail before that counts. Default: 3." example:"1"`
	Timeout  *backstay.Duration `yaml:"timeout" doc:"How long one answer may take." example:"5s"`
}

// Gate is one entry of `gates:`: a check that a gate asks again and again.
type Gate struct {
	Name     string            `json:"name"`
	Kind     string            `json:"kind"`
	For      backstay.Duration `json:"for,omitzero"`
	Every    backstay.Duration `json:"every"`
	Failures int               `json:"failures"`
	Timeout  backstay.Duration `json:"timeout,omitzero"`
	Config   json.RawMessage   `json:"config"`
	Line     int               `json:"-"`
	Column   int               `json:"-"`
}

const defaultGateFailures = 3

// gates reads the section gates.
func (d *decoder) gates(n *node, kinds Kinds) []Gate {
	if n.shape != mapping {
		if n.shape != void {
			d.mismatch(n, "gates", "a mapping", "write it as NAME: {http: …}, one per line")
		}
		return nil
	}
	names, common := kinds.CheckNames(), d.fields(reflect.TypeFor[gateKeys]())
	var gates []Gate
	for _, p := range n.pairs {
		path, item := join("gates", p.key.text), p.value
		d.keyFormat(p.key, path, &field{format: "name"})
		if item.shape != mapping {
			if item.shape != void {
				d.mismatch(item, path, "a check", "a check is a mapping such as: http: http://127.0.0.1/healthz")
			}
			continue
		}
		var keys gateKeys
		kind, ok := d.kindOf(item, path, "check", names, common, kinds.CheckConfig)
		d.commonKeys(item, reflect.ValueOf(&keys).Elem(), path)
		if !ok {
			continue
		}
		g := Gate{Name: p.key.text, Kind: kind, Every: defaultCheckEvery, Failures: defaultGateFailures, Line: item.line, Column: item.column}
		g.For, g.Timeout = d.positive(keys.For, item, path, "for"), d.positive(keys.Timeout, item, path, "timeout")
		if every := d.positive(keys.Every, item, path, "every"); every > 0 {
			g.Every = every
		}
		if keys.Failures != nil {
			if g.Failures = *keys.Failures; g.Failures < 1 || g.Failures > 1000 {
				d.ps.add(item.get("failures"), path+".failures", "want 1 to 1000", "")
			}
		}
		config, _ := kinds.CheckConfig(kind)
		g.Config = d.config(item, path, kind, config, common)
		gates = append(gates, g)
	}
	slices.SortFunc(gates, func(a, b Gate) int { return strings.Compare(a.Name, b.Name) })
	return gates
}
