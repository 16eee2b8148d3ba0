package spec_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay/internal/spec"
)

// plainKinds have no kind "release": the spec's own is read.
type plainKinds struct{ fakeKinds }

func (plainKinds) Names() []string { return []string{"http", "run"} }

func (k plainKinds) Config(kind string) (any, bool) {
	if kind == "release" {
		return nil, false
	}
	return k.fakeKinds.Config(kind)
}

func (k plainKinds) Sections() map[string]any {
	all := k.fakeKinds.Sections()
	all["routes"] = &struct {
		Socket string `yaml:"socket" json:"socket" doc:"Where." example:"/run/x.sock"`
	}{}
	return all
}

const releaseHead = `backstay: v1
release: shop
environment: dev
artifacts: {web: {file: f}}
services: {web: {artifact: web, command: c}}
routes: {shop: {socket: s}}
gates: {smoke: {run: ./smoke.sh, for: 10s, failures: 2}, deep: {http: "http://127.0.0.1/"}}
steps:
  - release: `

func TestRelease(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, keys, want string }{
		{
			"canary by default", "{service: web, route: shop, strategy: canary}",
			`{"service":"web","route":"shop","strategy":"canary","through":[{"weight":1},{"weight":10},{"weight":50},{"weight":100}]}`,
		},
		{
			"shares in all their forms", "{service: web, route: shop, strategy: canary, through: [5, 10%, {weight: 20%, hold: 1m, gates: [deep]}, {setWeight: 50}, 100%], hold: 30s, gates: [smoke], within: 5m}",
			`{"service":"web","route":"shop","strategy":"canary","through":[{"weight":5},{"weight":10},{"weight":20,"hold":"1m0s","gates":["deep"]},{"weight":50},{"weight":100}],"hold":"30s","gates":["smoke"],"within":"5m0s"}`,
		},
		{"rolling by one", "{service: web, route: shop, strategy: rolling}", `{"service":"web","route":"shop","strategy":"rolling","batch":1}`},
		{
			"blue-green with a test", "{service: web, route: shop, strategy: blue-green, test: [smoke, deep]}",
			`{"service":"web","route":"shop","strategy":"blue-green","test":["smoke","deep"]}`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, err := spec.Parse(spec.Text{Name: "b", Data: []byte(releaseHead + tt.keys + "\n")}, nil, spec.Source{}, plainKinds{})
			if err != nil {
				t.Fatal(show(problems(t, err)))
			}
			var got struct{ Release json.RawMessage }
			if err := json.Unmarshal(s.Steps[0].Config, &got); err != nil {
				t.Fatal(err)
			}
			// Times without a value are left out where nobody reads them.
			text := strings.NewReplacer(`,"hold":""`, "", `,"within":""`, "").Replace(string(got.Release))
			if diff := cmp.Diff(tt.want, text); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if len(s.Gates) != 2 || s.Gates[1].Name != "smoke" || s.Gates[1].Failures != 2 || s.Gates[0].Failures != 3 {
				t.Errorf("gates %+v", s.Gates)
			}
		})
	}
}

func TestReleaseRefused(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, keys, want string }{
		{"no strategy", "{service: web, route: shop}", `the key "strategy" is missing`},
		{"an unknown one", "{service: web, route: shop, strategy: canari}", `did you mean "canary"`},
		{"no such route", "{service: web, route: shp, strategy: canary}", `did you mean "shop"`},
		{"no such gate", "{service: web, route: shop, strategy: canary, gates: [smok]}", `did you mean "smoke"`},
		{"no such gate of a share", "{service: web, route: shop, strategy: canary, through: [{weight: 5%, gates: [smok]}, 100%]}", `did you mean "smoke"`},
		{"shares that shrink", "{service: web, route: shop, strategy: canary, through: [50%, 10%, 100%]}", "10% does not follow 50%"},
		{"shares that stop", "{service: web, route: shop, strategy: canary, through: [10%, 50%]}", "ends at 50%"},
		{"no share", "{service: web, route: shop, strategy: canary, through: [0%, 100%]}", "not a whole share from 1% to 100%"},
		{"too much", "{service: web, route: shop, strategy: canary, through: [101%]}", "not a whole share from 1% to 100%"},
		{"a fraction", "{service: web, route: shop, strategy: canary, through: [0.5%, 100%]}", "not a whole share from 1% to 100%"},
		{"both words", "{service: web, route: shop, strategy: canary, through: [{weight: 5%, setWeight: 6%}, 100%]}", "both weight and setWeight"},
		{"a share of nothing", "{service: web, route: shop, strategy: canary, through: [{hold: 5s}, 100%]}", "has no weight"},
		{"shares of a switch", "{service: web, route: shop, strategy: blue-green, through: [10%, 100%]}", "a blue-green release has no through"},
		{"batches of a canary", "{service: web, route: shop, strategy: canary, batch: 2}", "a canary release has no batch"},
		{"no instances at a time", "{service: web, route: shop, strategy: rolling, batch: 0}", "want 1 or more"},
		{"over before it holds", "{service: web, route: shop, strategy: canary, hold: 5m, within: 5m}", "5m0s is over before hold, 5m0s, is"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := spec.Parse(spec.Text{Name: "b", Data: []byte(releaseHead + tt.keys + "\n")}, nil, spec.Source{}, plainKinds{})
			if err == nil {
				t.Fatal("it was read")
			}
			if got := show(problems(t, err)); !strings.Contains(got, tt.want) {
				t.Errorf("got:\n%swant %q", got, tt.want)
			}
		})
	}
}
