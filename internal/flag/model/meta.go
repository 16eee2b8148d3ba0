package model

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/backstay-dev/backstay"
)

// Meta is what people say about a flag. The evaluator never sees it.
type Meta struct {
	// Variants are names of the variations, in their order.
	Variants    []string `json:"variants,omitempty"`
	Description string   `json:"description,omitempty"`
	Owner       string   `json:"owner,omitempty"`
	Tags        []string `json:"tags,omitempty"`
	// Purpose says what the flag is for. Using it for something else is warned of.
	Purpose string `json:"purpose,omitempty"`
	// Release is the release whose deployment moved the flag last.
	Release string `json:"release,omitempty"`
	// People is how many must agree to a change by hand, a kill too; 0 and 1: one.
	// Deployments have approvals of their own.
	People int `json:"people,omitempty"`
}

// State is a definition with its meta data as the ledger holds it.
func State(d Definition, m Meta) backstay.ResourceState {
	return backstay.ResourceState{Parts: map[string]json.RawMessage{
		backstay.FlagDefinition: d.JSON, backstay.FlagMeta: backstay.Canonical(m),
	}}
}

// OfState reads what the ledger holds. The definition was checked when it was
// stored.
func OfState(key backstay.Key, state backstay.ResourceState) (Definition, Meta, error) {
	d := Definition{Kind: Kind(key.Kind()), Key: nameOf(key), JSON: state.Parts[backstay.FlagDefinition]}
	var m Meta
	if len(d.JSON) == 0 {
		return d, m, errors.New("there is no definition")
	}
	if meta := state.Parts[backstay.FlagMeta]; len(meta) > 0 {
		if err := json.Unmarshal(meta, &m); err != nil {
			return d, m, fmt.Errorf("read what is said about %s: %w", key, err)
		}
	}
	return d, m, nil
}
