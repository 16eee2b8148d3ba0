package flag

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/drivertest"
)

const ldToken = "api-canary-of-launchdarkly"

// ldFlag is a flag in one environment, as LaunchDarkly's REST API shows it.
type ldFlag struct {
	Key          string           `json:"key"`
	Variations   []map[string]any `json:"variations"`
	Environments map[string]ldEnv `json:"environments"`
}

type ldEnv struct {
	On           bool           `json:"on"`
	Archived     bool           `json:"archived"`
	Salt         string         `json:"salt"`
	Version      int            `json:"version"`
	Targets      []ldTarget     `json:"targets"`
	Rules        []any          `json:"rules"`
	Fallthrough  map[string]any `json:"fallthrough"`
	OffVariation int            `json:"offVariation"`
}

type ldTarget struct {
	Values    []string `json:"values"`
	Variation int      `json:"variation"`
}

// launchDarkly speaks the part of LaunchDarkly's documented REST API that moves
// flags: "get feature flag", and "update feature flag" with a semantic patch.
type launchDarkly struct {
	mu       sync.Mutex
	flags    map[string]*ldFlag
	busy     int    // answer 429 so many times
	limit    string // their Retry-After
	conflict int    // answer 409 so many times, after changing nothing
	meddle   func() // called once between a look and a patch
	patches  []string
}

func newLaunchDarkly() *launchDarkly {
	flag := func(key string) *ldFlag {
		return &ldFlag{
			Key:        key,
			Variations: []map[string]any{{"_id": "id-true", "value": true}, {"_id": "id-false", "value": false}},
			Environments: map[string]ldEnv{"production": {
				Salt: "s", Version: 7, OffVariation: 1, Fallthrough: map[string]any{"variation": 0},
				Targets: []ldTarget{{[]string{"ann"}, 1}}, Rules: []any{map[string]any{"_id": "r", "variation": 1}},
			}},
		}
	}
	return &launchDarkly{flags: map[string]*ldFlag{"new-checkout": flag("new-checkout"), "neighbour": flag("neighbour")}}
}

func (l *launchDarkly) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	say := func(code int, body any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(body)
	}
	if r.Header.Get("Authorization") != ldToken {
		say(http.StatusUnauthorized, map[string]string{"code": "unauthorized", "message": "Invalid access token"})
		return
	}
	if l.busy > 0 {
		l.busy--
		w.Header().Set("Retry-After", l.limit)
		say(http.StatusTooManyRequests, map[string]string{"code": "rate_limited", "message": "You've exceeded the API rate limit"})
		return
	}
	key, ok := strings.CutPrefix(r.URL.Path, "/api/v2/flags/shop/")
	f := l.flags[key]
	if !ok || f == nil {
		say(http.StatusNotFound, map[string]string{"code": "not_found", "message": "Unknown feature flag key"})
		return
	}
	switch r.Method {
	case http.MethodGet:
		say(http.StatusOK, f)
	case http.MethodPatch:
		l.patch(r, f, say)
	default:
		say(http.StatusMethodNotAllowed, nil)
	}
}

func (l *launchDarkly) patch(r *http.Request, f *ldFlag, say func(int, any)) {
	if r.Header.Get("Content-Type") != "application/json; domain-model=launchdarkly.semanticpatch" {
		say(http.StatusBadRequest, map[string]string{"code": "invalid_request", "message": "want a semantic patch"})
		return
	}
	if l.conflict > 0 {
		l.conflict--
		say(http.StatusConflict, map[string]string{"code": "optimistic_locking_error", "message": "Conflict. Optimistic lock error. Try again."})
		return
	}
	if m := l.meddle; m != nil {
		l.meddle = nil
		m()
	}
	var p struct {
		EnvironmentKey string
		Instructions   []map[string]any
	}
	if err := json.NewDecoder(r.Body).Decode(&p); err != nil {
		say(http.StatusBadRequest, map[string]string{"message": err.Error()})
		return
	}
	env, ok := f.Environments[p.EnvironmentKey]
	if !ok {
		say(http.StatusBadRequest, map[string]string{"message": "unknown environment"})
		return
	}
	env.Targets = slices.Clone(env.Targets)
	for _, in := range p.Instructions {
		if err := env.apply(f, in); err != nil { // all of them or none
			say(http.StatusBadRequest, map[string]string{"code": "invalid_request", "message": err.Error()})
			return
		}
		l.patches = append(l.patches, fmt.Sprint(in["kind"]))
	}
	env.Version++
	f.Environments[p.EnvironmentKey] = env
	say(http.StatusOK, f)
}

func (e *ldEnv) apply(f *ldFlag, in map[string]any) error {
	number := func(id any) (int, error) {
		i := slices.IndexFunc(f.Variations, func(v map[string]any) bool { return v["_id"] == id })
		if i < 0 {
			return 0, fmt.Errorf("no variation %v", id)
		}
		return i, nil
	}
	switch in["kind"] {
	case "turnFlagOn":
		e.On = true
	case "turnFlagOff":
		e.On = false
	case "updateFallthroughVariationOrRollout":
		if id, ok := in["variationId"]; ok {
			i, err := number(id)
			e.Fallthrough = map[string]any{"variation": i}
			return err
		}
		weights, _ := in["rolloutWeights"].(map[string]any)
		sum, entries := 0.0, make([]any, len(f.Variations))
		for i, v := range f.Variations { // every variation is listed, in their order
			weight, _ := weights[fmt.Sprint(v["_id"])].(float64)
			sum += weight
			entries[i] = map[string]any{"variation": i, "weight": weight}
		}
		if sum != 100000 {
			return fmt.Errorf("the weights sum to %v", sum)
		}
		e.Fallthrough = map[string]any{"rollout": map[string]any{"variations": entries, "contextKind": "user"}}
	case "addTargets", "removeTargets":
		i, err := number(in["variationId"])
		if err != nil {
			return err
		}
		values, _ := in["values"].([]any)
		e.target(i, values, in["kind"] == "addTargets")
	default:
		return fmt.Errorf("unknown instruction %v", in["kind"])
	}
	return nil
}

func (e *ldEnv) target(variation int, values []any, add bool) {
	at := slices.IndexFunc(e.Targets, func(t ldTarget) bool { return t.Variation == variation })
	if at < 0 {
		at, e.Targets = len(e.Targets), append(e.Targets, ldTarget{Variation: variation})
	}
	t := ldTarget{slices.Clone(e.Targets[at].Values), variation}
	for _, v := range values {
		name := fmt.Sprint(v)
		t.Values = slices.DeleteFunc(t.Values, func(have string) bool { return have == name })
		if add {
			t.Values = append(t.Values, name)
		}
	}
	e.Targets[at] = t
	e.Targets = slices.DeleteFunc(e.Targets, func(t ldTarget) bool { return len(t.Values) == 0 })
}

func ldBed(tb testing.TB) (*drivertest.FlagBed, *launchDarkly) {
	tb.Helper()
	ld := newLaunchDarkly()
	server := httptest.NewServer(ld)
	tb.Cleanup(server.Close)
	return &drivertest.FlagBed{
		Kind:     New(time.Now),
		Store:    map[string]any{"launchdarkly": server.URL, "token": "secret:env/LD", "project": "shop", "environment": "production"},
		Secrets:  secrets{"secret:env/LD": ldToken},
		Canaries: []string{ldToken},
		Look:     func(tb testing.TB) (map[string]string, string) { tb.Helper(); return ld.look(tb) },
		Overwrite: func(tb testing.TB) {
			tb.Helper()
			ld.mu.Lock()
			defer ld.mu.Unlock()
			ld.everybody()
		},
	}, ld
}

func (l *launchDarkly) everybody() {
	env := l.flags["new-checkout"].Environments["production"]
	env.On, env.Fallthrough = true, map[string]any{"variation": 0}
	env.Version++
	l.flags["new-checkout"].Environments["production"] = env
}

func (l *launchDarkly) look(tb testing.TB) (map[string]string, string) {
	tb.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	env := l.flags["new-checkout"].Environments["production"]
	env.Version = 0 // only counts
	definition, err := json.Marshal(map[string]any{"on": env.On, "fallthrough": env.Fallthrough})
	if err != nil {
		tb.Fatal(err)
	}
	return map[string]string{
		"flag": string(backstay.Canonical(env)), "neighbour": string(backstay.Canonical(l.flags["neighbour"])),
	}, shareOf(tb, definition)
}

func TestLaunchDarkly(t *testing.T) {
	t.Parallel()
	drivertest.RunFlagStore(t, drivertest.FlagStoreSuite{Compares: false, New: func(t *testing.T) *drivertest.FlagBed {
		t.Helper()
		b, _ := ldBed(t)
		return b
	}})
}

// TestLaunchDarklyAnswers: limits are waited out, conflicts are looked at again, a
// tester is one target more, and a wrong token is said without being shown.
func TestLaunchDarklyAnswers(t *testing.T) {
	t.Parallel()
	b, ld := ldBed(t)
	ld.busy, ld.limit = 1, "0"
	tr := drivertest.NewTrial(t, b.Step(t, map[string]any{"percentage": "10%", "tester": "qa-1"}))
	tr.Begin(t)
	ld.busy, ld.conflict = 2, 1
	if err := tr.Do(t.Context()); err != nil {
		t.Fatal(err)
	}
	world, gives := b.Look(t)
	if gives != "10" || !strings.Contains(world["flag"], `{"values":["qa-1"],"variation":0}`) || !strings.Contains(world["flag"], `{"values":["ann"],"variation":1}`) {
		t.Errorf("gives %s: %s", gives, world["flag"])
	}
	want := []string{"updateFallthroughVariationOrRollout", "addTargets", "turnFlagOn"}
	if !slices.Equal(ld.patches, want) {
		t.Errorf("instructions %v, want %v", ld.patches, want)
	}

	// Somebody changes it between the look and the patch: it is overwritten, seen and said.
	b, ld = ldBed(t)
	tr = drivertest.NewTrial(t, b.Step(t, map[string]any{"percentage": "10%"}))
	tr.Begin(t)
	ld.meddle = ld.everybody
	if err := tr.Do(t.Context()); err != nil || len(tr.Notes) != 1 || !strings.Contains(tr.Notes[0], "somebody else changed flag new-checkout at the same moment") {
		t.Errorf("got %v, notes %q", err, tr.Notes)
	}

	// A limit that ends too late is no hang, and a refused token is not shown.
	ld.busy, ld.limit = 1, "3600"
	_, err := tr.Fixture.Kind.Observe(t.Context(), tr.Call())
	if backstay.ClassOf(err) != backstay.Transient || !strings.Contains(err.Error(), "asked too often") {
		t.Errorf("got %v", err)
	}
	b.Secrets = secrets{"secret:env/LD": "api-wrong-canary"}
	f := b.Step(t, map[string]any{"percentage": "10%"})
	_, err = f.Kind.Prepare(t.Context(), f.Request)
	if text := drivertest.Explain(err); !strings.Contains(text, "it refuses the token: 401") || strings.Contains(text, "canary") {
		t.Errorf("got %s", text)
	}
}
