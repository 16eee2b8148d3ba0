// Package plan turns a spec and what was observed of the world into a plan:
// the frozen list of reversible steps that one deployment executes.
//
// It owns the plan document, its digest, the order of steps, the point of no
// return (pivot), the plan's promise, what a release step becomes (its
// strategy), and the plans that take a deployment back (Revert, Gradual) or
// restore drifted resources (Restore). Build is pure: the same
// draft and observations give the same bytes. Nothing here reads files, clocks
// or ledgers; the engine surveys the world and hands in what it saw.
package plan

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/backstay-dev/backstay"
)

// Format names the version of the plan document.
const Format = "backstay.plan/v1"

// Plan is what one deployment executes, whole: a resumed deployment reads this
// and never today's files. It is frozen under Digest.
type Plan struct {
	Format      string              `json:"format"`
	Release     string              `json:"release"`
	Version     string              `json:"version,omitempty"`
	Owner       string              `json:"owner,omitempty"`
	Environment string              `json:"environment,omitempty"`
	Spec        string              `json:"spec,omitempty"` // SHA-256 of the merged spec
	Inputs      []Input             `json:"inputs,omitempty"`
	Artifacts   []backstay.Artifact `json:"artifacts,omitempty"`
	Stages      []Stage             `json:"stages,omitempty"`
	Steps       []backstay.Step     `json:"steps"`              // in an order that satisfies Needs
	Releases    []Release           `json:"releases,omitempty"` // what release steps became
	Verify      []Check             `json:"verify,omitempty"`
	Bake        Bake                `json:"bake"`
	// Within is the time that rolling everything back may take; zero: no budget.
	Within  backstay.Duration `json:"rollback_within,omitzero"`
	Pivot   string            `json:"pivot,omitempty"`
	Locks   []backstay.Key    `json:"locks"`
	Promise Promise           `json:"promise"`
	// Require is the evidence without which the plan is not run; nil: none.
	Require *Require `json:"require,omitempty"`
	// Mitigation says that this is the plan of a mitigation; nil: it is not.
	Mitigation *Mitigation `json:"mitigation,omitempty"`
	// Reverts is the deployment that this plan takes back, if it does.
	Reverts string `json:"reverts,omitempty"`
}

// Input is one recorded value the spec was read with.
type Input struct {
	Name   string `json:"name"`
	Value  string `json:"value"`
	Source string `json:"source"`
}

// Stage is a named group of steps with its own rollback boundary.
type Stage struct {
	Name   string            `json:"name"`
	Within backstay.Duration `json:"rollback_within,omitzero"`
}

// Check is a verify probe.
type Check struct {
	ID     string            `json:"id"`
	Within backstay.Duration `json:"within"` // keeps trying until it passes or this ends
	Every  backstay.Duration `json:"every"`
	backstay.Prepared
}

// Bake is how long the verify probes are watched after the commit.
type Bake struct {
	For      backstay.Duration `json:"for,omitzero"`
	Every    backstay.Duration `json:"every,omitzero"`
	Failures int               `json:"failures,omitempty"` // consecutive failing rounds that end it
}

// Require is evidence that must be there before a plan runs.
type Require struct {
	Drill *RequireDrill `json:"drill,omitempty"`
}

// RequireDrill asks for a drill of exactly this plan, not older than MaxAge, of
// which at most Failed cells failed or hung.
type RequireDrill struct {
	MaxAge backstay.Duration `json:"max_age"`
	Failed int               `json:"failed"`
}

// Promise is what the plan can promise about being put back: the class of its
// weakest step.
type Promise struct {
	Class backstay.Class `json:"class"`
	Step  string         `json:"step,omitempty"` // the weakest step
	Text  string         `json:"text"`
}

// Encode returns the plan's canonical bytes: what is stored and digested.
func (p *Plan) Encode() []byte { return backstay.Canonical(p) }

// Digest is the SHA-256 of Encode, in hex.
func (p *Plan) Digest() string {
	sum := sha256.Sum256(p.Encode())
	return hex.EncodeToString(sum[:])
}

// Decode reads a stored plan. It refuses formats it does not know.
func Decode(data []byte) (*Plan, error) {
	var head struct {
		Format string `json:"format"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return nil, fmt.Errorf("decode plan: %w", err)
	}
	if head.Format != Format {
		return nil, &backstay.Error{
			Class: backstay.Permanent, Op: "decode plan", Err: fmt.Errorf("format %q, this binary reads %q", head.Format, Format),
			Hint: "use the backstay version that wrote the plan",
		}
	}
	var p Plan
	if err := json.Unmarshal(data, &p); err != nil {
		return nil, fmt.Errorf("decode plan: %w", err)
	}
	return &p, nil
}

// Step returns the step with this ID.
func (p *Plan) Step(id string) (backstay.Step, bool) {
	for _, s := range p.Steps {
		if s.ID == id {
			return s, true
		}
	}
	return backstay.Step{}, false
}

// Blobs returns the content addresses the plan refers to, to be pinned.
func (p *Plan) Blobs() []string {
	var all []string
	for _, a := range p.Artifacts {
		all = append(all, a.SHA256)
	}
	for _, s := range p.Steps {
		all = append(all, s.Blobs...)
		if s.Gate != nil {
			for _, c := range s.Gate.Checks {
				all = append(all, c.Blobs...)
			}
		}
		if s.Reverts != nil {
			all = append(all, s.Reverts.Target)
			if s.Reverts.From != "" {
				all = append(all, s.Reverts.From)
			}
		}
	}
	for _, c := range p.Verify {
		all = append(all, c.Blobs...)
	}
	return all
}
