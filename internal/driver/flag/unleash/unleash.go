// Package unleash is the store of a flag in one environment of an Unleash server,
// by its admin API.
//
// Its parts are enabled and strategies (without their IDs, which the server
// gives). A share is the rollout of the flag's one gradual strategy; a flag with
// other strategies is turned on and off, and its strategies stay its owner's. The
// API compares nothing: what somebody else writes between the look and the
// write is overwritten. A move of both parts is several requests, in an order in
// which nobody gets more than before and after.
package unleash

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/flag/store"
	"github.com/backstay-dev/backstay/internal/flag/model"
)

// The parts of a flag.
const (
	enabled    = "enabled"
	strategies = "strategies"
)

// gradual is the strategy that gives a flag to a share of the users.
const gradual = "flexibleRollout"

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
func New(c Config) *Store { return &Store{c, store.NewAPI("Unleash", c.URL, c.Token)} }

// Traits of Unleash.
func (*Store) Traits() store.Traits {
	return store.Traits{
		Vendor: "Unleash", Window: backstay.Duration(store.CallTimeout),
		Gap: "its API compares nothing: a change between the look and the write is overwritten",
	}
}

// strategy is one of a flag's strategies. What is not named here is not touched
// by a move of a share, and is put back by an undo only where it was read.
type strategy struct {
	ID          string            `json:"id,omitempty"`
	Name        string            `json:"name"`
	Title       string            `json:"title,omitempty"`
	Disabled    bool              `json:"disabled,omitempty"`
	Parameters  map[string]string `json:"parameters"`
	Constraints []json.RawMessage `json:"constraints"`
	Segments    []int             `json:"segments,omitempty"`
	Variants    []json.RawMessage `json:"variants,omitempty"`
}

type environment struct {
	Enabled    bool       `json:"enabled"`
	Strategies []strategy `json:"strategies"`
}

func (s *Store) path(rest string) string {
	return "/api/admin/projects/" + url.PathEscape(s.c.Project) + "/features/" + url.PathEscape(s.c.Key) + "/environments/" + url.PathEscape(s.c.Environment) + rest
}

func (s *Store) get(ctx context.Context) (environment, error) {
	var env environment
	err := s.api.Ask(ctx, http.MethodGet, s.path(""), "", nil, &env)
	if backstay.ClassOf(err) == backstay.NotFound {
		err = store.Missing("project "+s.c.Project+", environment "+s.c.Environment+" of Unleash", s.c.Key)
	}
	return env, err
}

// Read gets the flag.
func (s *Store) Read(ctx context.Context) (store.Flag, error) {
	env, err := s.get(ctx)
	return env.flag(), err
}

func (e environment) flag() store.Flag {
	return store.Flag{State: stateOf(e.Enabled, e.Strategies)}
}

func stateOf(on bool, all []strategy) backstay.ResourceState {
	plain := make([]strategy, len(all))
	for i, st := range all {
		st.ID = ""
		if st.Constraints == nil {
			st.Constraints = []json.RawMessage{}
		}
		plain[i] = st
	}
	return backstay.ResourceState{Parts: map[string]json.RawMessage{enabled: backstay.Canonical(on), strategies: backstay.Canonical(plain)}}
}

func decode(state backstay.ResourceState) (on bool, all []strategy, err error) {
	err = errors.Join(json.Unmarshal(state.Parts[enabled], &on), json.Unmarshal(state.Parts[strategies], &all))
	return on, all, err
}

// Plan moves the flag. Its variants are true and false: what is on for a user.
func (s *Store) Plan(now store.Flag, m model.Move) (backstay.ResourceState, error) {
	_, all, err := decode(now.State)
	switch {
	case err != nil:
		return now.State, fmt.Errorf("read the flag: %w", err)
	case m.Tester != "":
		return now.State, errors.New("Backstay adds no testers to a flag of Unleash: leave test out, and constrain its strategy there") //nolint:staticcheck // a name
	case m.Off:
		return stateOf(false, all), nil
	case m.On && len(all) == 0:
		return now.State, fmt.Errorf("flag %s has no strategy, so turning it on says nothing: give a percentage", s.c.Key)
	case m.On:
		return stateOf(true, all), nil
	}
	share := *m.Share
	switch m.Variant {
	case "", "true":
	case "false":
		share = model.Whole - share
	default:
		return now.State, fmt.Errorf("a flag of Unleash is true or false for a user, not %q", m.Variant)
	}
	if share%1000 != 0 {
		return now.State, fmt.Errorf("%s is no whole percentage, which Unleash's rollouts are", model.FormatShare(share))
	}
	if len(all) == 0 {
		all = []strategy{{Name: gradual, Parameters: map[string]string{"stickiness": "default", "groupId": s.c.Key}}}
	}
	if len(all) != 1 || all[0].Name != gradual {
		return now.State, fmt.Errorf("flag %s has strategies of its own, which a share would not replace: turn it on or off, or leave it one %s", s.c.Key, gradual)
	}
	one := all[0]
	one.Parameters = map[string]string{}
	for k, v := range all[0].Parameters {
		one.Parameters[k] = v
	}
	one.Parameters["rollout"] = strconv.Itoa(share / 1000)
	return stateOf(true, []strategy{one}), nil
}

// Exposure says what the flag gives.
func (*Store) Exposure(now store.Flag) string {
	on, all, err := decode(now.State)
	switch {
	case err != nil:
		return "cannot be read"
	case !on:
		return "off"
	case len(all) == 1 && all[0].Name == gradual:
		return all[0].Parameters["rollout"] + "% true"
	}
	return fmt.Sprintf("on, by %d strategies", len(all))
}

// Write makes the requests that lead from one state to another.
func (s *Store) Write(ctx context.Context, from store.Flag, to backstay.ResourceState) (string, error) {
	now, err := s.get(ctx)
	if err != nil {
		return "", err
	}
	if !now.flag().State.Equal(from.State) {
		return "", store.ErrMoved
	}
	on, want, err := decode(to)
	if err != nil {
		return "", fmt.Errorf("read the wanted flag: %w", err)
	}
	if now.Enabled && !on {
		err = s.turn(ctx, false)
	}
	if err == nil {
		err = s.replace(ctx, now.Strategies, want)
	}
	if err == nil && !now.Enabled && on {
		err = s.turn(ctx, true)
	}
	if errors.Is(err, store.ErrConflict) {
		err = store.ErrMoved
	}
	return "", err
}

func (s *Store) turn(ctx context.Context, on bool) error {
	path := "/off"
	if on {
		path = "/on"
	}
	return s.api.Ask(ctx, http.MethodPost, s.path(path), "", nil, nil)
}

// replace changes the strategies that differ, adds what is missing and takes away
// what is too much.
func (s *Store) replace(ctx context.Context, now, want []strategy) error {
	for i, st := range want {
		var err error
		switch {
		case i >= len(now):
			err = s.api.Ask(ctx, http.MethodPost, s.path("/strategies"), "application/json", st, nil)
		case string(stateOf(false, now[i:i+1]).Parts[strategies]) != string(stateOf(false, want[i:i+1]).Parts[strategies]):
			err = s.api.Ask(ctx, http.MethodPut, s.path("/strategies/"+url.PathEscape(now[i].ID)), "application/json", st, nil)
		}
		if err != nil {
			return err
		}
	}
	for _, st := range now[min(len(want), len(now)):] {
		if err := s.api.Ask(ctx, http.MethodDelete, s.path("/strategies/"+url.PathEscape(st.ID)), "", nil, nil); err != nil {
			return err
		}
	}
	return nil
}
