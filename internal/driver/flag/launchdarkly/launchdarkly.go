// Package launchdarkly is the store of a flag in one environment of LaunchDarkly,
// by its REST API: GET of the flag, PATCH with a semantic patch.
//
// Its parts are what a move changes: the dial (on and fallthrough, which mean
// nothing without each other) and targets (of users, not of other kinds). Everything else of the flag is neither read into an image nor
// written. A patch says what to do and not what to replace, so that it cannot
// overwrite other parts; a change of the same parts between look and patch is
// seen by the environment's version afterwards, and said.
package launchdarkly

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/flag/store"
	"github.com/backstay-dev/backstay/internal/flag/model"
)

// The parts of a flag.
const (
	dial    = "dial"
	targets = "targets"
)

// Config says which flag.
type Config struct {
	URL                       string
	Token                     string
	Project, Environment, Key string
}

// Store is one flag.
type Store struct {
	c   Config
	api *store.API
}

var _ store.Store = (*Store)(nil)

// New returns the store. It does not connect.
func New(c Config) *Store {
	return &Store{c: c, api: store.NewAPI("LaunchDarkly", c.URL, c.Token)}
}

// Traits of LaunchDarkly.
func (*Store) Traits() store.Traits {
	return store.Traits{
		Vendor: "LaunchDarkly", Window: backstay.Duration(store.CallTimeout),
		Gap: "a change of the same part between the look and the patch is overwritten, seen by its version, and said",
	}
}

// answer is the part of a flag that is used. What LaunchDarkly does not say is nil.
type answer struct {
	Variations []struct {
		ID    string          `json:"_id"`
		Name  string          `json:"name,omitempty"`
		Value json.RawMessage `json:"value"`
	} `json:"variations"`
	Environments map[string]environment `json:"environments"`
}

type environment struct {
	On           bool           `json:"on"`
	Archived     bool           `json:"archived"`
	Version      int64          `json:"version"`
	Fallthrough  *fallthroughTo `json:"fallthrough"`
	OffVariation *int           `json:"offVariation"`
	Targets      []target       `json:"targets"`
}

type fallthroughTo struct {
	Variation *int     `json:"variation,omitempty"`
	Rollout   *rollout `json:"rollout,omitempty"`
}

type rollout struct {
	Variations  []share `json:"variations"`
	BucketBy    string  `json:"bucketBy,omitempty"`
	ContextKind string  `json:"contextKind,omitempty"`
}

type share struct {
	Variation int `json:"variation"`
	Weight    int `json:"weight"`
}

type target struct {
	Variation int      `json:"variation"`
	Values    []string `json:"values"`
}

func (s *Store) path() string {
	return "/api/v2/flags/" + url.PathEscape(s.c.Project) + "/" + url.PathEscape(s.c.Key)
}

// Read gets the flag.
func (s *Store) Read(ctx context.Context) (store.Flag, error) {
	a, err := s.get(ctx)
	if err != nil {
		return store.Flag{}, err
	}
	return s.flag(a)
}

func (s *Store) get(ctx context.Context) (*answer, error) {
	var a answer
	err := s.api.Ask(ctx, http.MethodGet, s.path()+"?env="+url.QueryEscape(s.c.Environment), "", nil, &a)
	if backstay.ClassOf(err) == backstay.NotFound {
		return nil, store.Missing("project "+s.c.Project+" of LaunchDarkly", s.c.Key)
	}
	return &a, err
}

// flag makes the parts canonical: what means the same is the same.
func (s *Store) flag(a *answer) (store.Flag, error) {
	env, ok := a.Environments[s.c.Environment]
	switch {
	case !ok:
		return store.Flag{}, store.Missing("environment "+s.c.Environment+" of LaunchDarkly", s.c.Key)
	case env.Archived:
		return store.Flag{}, &backstay.Error{Class: backstay.Permanent, Op: "read flag", Subject: s.c.Key, Err: errors.New("it is archived"), Hint: "restore it in LaunchDarkly first"}
	}
	parts := map[string]json.RawMessage{
		dial: backstay.Canonical(turned{env.On, env.Fallthrough.canonical()}), targets: backstay.Canonical(canonicalTargets(env.Targets)),
	}
	about := about{Off: env.OffVariation}
	for _, v := range a.Variations {
		about.Variations = append(about.Variations, variation{v.Name, v.Value})
	}
	return store.Flag{State: backstay.ResourceState{Parts: parts}, About: backstay.Canonical(about)}, nil
}

// canonical leaves out shares of nothing; a rollout that gives one variation to
// everybody is that variation.
func (f *fallthroughTo) canonical() *fallthroughTo {
	if f == nil || f.Rollout == nil {
		return f
	}
	r := *f.Rollout
	r.Variations = slices.DeleteFunc(slices.Clone(r.Variations), func(w share) bool { return w.Weight == 0 })
	if r.BucketBy == "key" {
		r.BucketBy = "" // the defaults
	}
	if r.ContextKind == "user" {
		r.ContextKind = ""
	}
	slices.SortFunc(r.Variations, func(a, b share) int { return a.Variation - b.Variation })
	if len(r.Variations) == 1 {
		return &fallthroughTo{Variation: &r.Variations[0].Variation}
	}
	return &fallthroughTo{Rollout: &r}
}

func canonicalTargets(all []target) []target {
	by := map[int][]string{}
	for _, t := range all {
		by[t.Variation] = append(by[t.Variation], t.Values...)
	}
	out := []target{}
	for v, values := range by {
		if len(values) > 0 {
			slices.Sort(values)
			out = append(out, target{v, slices.Compact(values)})
		}
	}
	slices.SortFunc(out, func(a, b target) int { return a.Variation - b.Variation })
	return out
}

// parts are the parts of a state, decoded.
type parts struct {
	turned
	Targets []target
}

// turned is the part dial.
type turned struct {
	On          bool           `json:"on"`
	Fallthrough *fallthroughTo `json:"fallthrough,omitempty"`
}

// about is what a plan has to know beside the parts.
type about struct {
	Variations []variation `json:"variations"`
	Off        *int        `json:"off,omitempty"`
}

type variation struct {
	Name  string          `json:"name,omitempty"`
	Value json.RawMessage `json:"value"`
}

func decode(state backstay.ResourceState) (parts, error) {
	var p parts
	for name, into := range map[string]any{dial: &p.turned, targets: &p.Targets} {
		if err := json.Unmarshal(state.Parts[name], into); err != nil {
			return p, fmt.Errorf("read part %s: %w", name, err)
		}
	}
	return p, nil
}

// definition is the flag as LaunchDarkly's SDKs see it, as far as a move needs it.
func definition(key string, now store.Flag) (model.Definition, model.Meta, error) {
	meta, d := model.Meta{}, model.Definition{Kind: model.FlagKind, Key: key}
	p, err := decode(now.State)
	if err != nil {
		return d, meta, err
	}
	var ab about
	if err := json.Unmarshal(now.About, &ab); err != nil {
		return d, meta, fmt.Errorf("read the flag's variations: %w", err)
	}
	values := make([]json.RawMessage, len(ab.Variations))
	for i, v := range ab.Variations {
		values[i] = v.Value
		meta.Variants = append(meta.Variants, v.Name)
	}
	doc := map[string]any{"key": key, "on": p.On, "variations": values, "targets": p.Targets}
	if p.Fallthrough != nil {
		doc["fallthrough"] = p.Fallthrough
	}
	if ab.Off != nil {
		doc["offVariation"] = *ab.Off
	}
	d.JSON = backstay.Canonical(doc)
	return d, meta, nil
}

// Plan moves the flag as one of Backstay's own would move: it has the same dial.
func (s *Store) Plan(now store.Flag, m model.Move) (backstay.ResourceState, error) {
	d, meta, err := definition(s.c.Key, now)
	if err == nil {
		d, err = m.Apply(d, meta)
	}
	if err != nil {
		return now.State, err //nolint:wrapcheck // says enough
	}
	var after struct {
		turned
		Targets []target `json:"targets"`
	}
	if err := json.Unmarshal(d.JSON, &after); err != nil {
		return now.State, fmt.Errorf("read the moved flag: %w", err)
	}
	return backstay.ResourceState{Parts: map[string]json.RawMessage{
		dial: backstay.Canonical(turned{after.On, after.Fallthrough.canonical()}), targets: backstay.Canonical(canonicalTargets(after.Targets)),
	}}, nil
}

// Exposure says what the flag gives.
func (s *Store) Exposure(now store.Flag) string {
	d, meta, err := definition(s.c.Key, now)
	if err != nil {
		return "cannot be read"
	}
	return model.Exposure(d, meta)
}

// Write patches what differs, where the flag is still what from was.
func (s *Store) Write(ctx context.Context, from store.Flag, to backstay.ResourceState) (string, error) {
	now, err := s.get(ctx)
	if err != nil {
		return "", err
	}
	seen, err := s.flag(now)
	if err != nil {
		return "", err
	}
	if !seen.State.Equal(from.State) {
		return "", store.ErrMoved
	}
	instructions, err := s.instructions(now, seen.State, to)
	if err != nil || len(instructions) == 0 {
		return "", err
	}
	var after answer
	err = s.api.Ask(ctx, http.MethodPatch, s.path(), "application/json; domain-model=launchdarkly.semanticpatch", map[string]any{
		"environmentKey": s.c.Environment, "comment": "by Backstay", "instructions": instructions,
	}, &after)
	if errors.Is(err, store.ErrConflict) {
		return "", store.ErrMoved
	}
	if err != nil {
		return "", err
	}
	was, is := now.Environments[s.c.Environment].Version, after.Environments[s.c.Environment].Version
	if is > was+1 {
		return fmt.Sprintf("somebody else changed flag %s at the same moment (version %d became %d): look at it", s.c.Key, was, is), nil
	}
	return "", nil
}

// instructions are the semantic patch from one state to another.
func (s *Store) instructions(a *answer, from, to backstay.ResourceState) ([]any, error) {
	was, err := decode(from)
	if err != nil {
		return nil, err
	}
	want, err := decode(to)
	if err != nil {
		return nil, err
	}
	id := func(i int) (string, error) {
		if i < 0 || i >= len(a.Variations) {
			return "", &backstay.Error{Class: backstay.Conflict, Op: "change flag", Subject: s.c.Key, Err: fmt.Errorf("it has no variation %d any more", i), Hint: "make the plan again"}
		}
		return a.Variations[i].ID, nil
	}
	var out []any
	if !bytes.Equal(backstay.Canonical(was.Fallthrough), backstay.Canonical(want.Fallthrough)) {
		in, err := fallthroughInstruction(want.Fallthrough, id)
		if err != nil {
			return nil, err
		}
		out = append(out, in)
	}
	for _, change := range []struct {
		kind     string
		has, not []target
	}{{"removeTargets", was.Targets, want.Targets}, {"addTargets", want.Targets, was.Targets}} {
		for _, t := range change.has {
			values := slices.DeleteFunc(slices.Clone(t.Values), func(v string) bool { return targeted(change.not, t.Variation, v) })
			if len(values) == 0 {
				continue
			}
			variation, err := id(t.Variation)
			if err != nil {
				return nil, err
			}
			out = append(out, map[string]any{"kind": change.kind, "contextKind": "user", "variationId": variation, "values": values})
		}
	}
	if was.On != want.On {
		turn := map[string]any{"kind": "turnFlagOff"}
		if want.On {
			turn["kind"] = "turnFlagOn"
		}
		out = append(out, turn)
	}
	return out, nil
}

func fallthroughInstruction(f *fallthroughTo, id func(int) (string, error)) (map[string]any, error) {
	in := map[string]any{"kind": "updateFallthroughVariationOrRollout"}
	if f == nil || f.Variation == nil && f.Rollout == nil {
		return nil, errors.New("the flag had no fallthrough, and LaunchDarkly cannot take one away")
	}
	if f.Variation != nil {
		v, err := id(*f.Variation)
		in["variationId"] = v
		return in, err
	}
	weights := map[string]int{}
	for _, w := range f.Rollout.Variations {
		v, err := id(w.Variation)
		if err != nil {
			return nil, err
		}
		weights[v] = w.Weight
	}
	in["rolloutWeights"] = weights
	if f.Rollout.BucketBy != "" {
		in["rolloutBucketBy"] = f.Rollout.BucketBy
	}
	if f.Rollout.ContextKind != "" {
		in["rolloutContextKind"] = f.Rollout.ContextKind
	}
	return in, nil
}

func targeted(all []target, variation int, value string) bool {
	return slices.ContainsFunc(all, func(t target) bool { return t.Variation == variation && slices.Contains(t.Values, value) })
}
