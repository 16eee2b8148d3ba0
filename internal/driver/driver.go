// Package driver is what the step kinds share: the contract that each of them
// fulfils, the optional extensions of it, and the explicit registry.
//
// A kind lives in one folder below this one and keeps do and undo of a thing
// in one file. It promises: Do is idempotent unless its Prepared.Effect says
// otherwise; Undo is idempotent and tolerates a do that stopped anywhere;
// Observe changes nothing and reports what is, never what should be. Policy
// (retry, timeout, redaction, fault injection) is the engine's and never in a
// kind. Kinds know nothing of plans, ledgers and each other.
package driver

import (
	"context"
	"fmt"
	"slices"

	"github.com/backstay-dev/backstay"
)

// Kind is one kind of step.
type Kind interface {
	// Name is the kind's key in the spec: "file", "run", …
	Name() string
	// Config returns a pointer to a new zero value of the struct that a step of
	// this kind is decoded into. It holds all keys of such a step except the
	// common ones (name, needs, timeout, undo-timeout, retries). Struct tags:
	// `yaml:"key"`, `doc:"one line"`, `example:"…"`, `enum:"a,b"`,
	// `ref:"section"` (must name an entry of that top-level section), and
	// `required:"true"`.
	Config() any
	// Prepare turns a declaration into a frozen step. It may read the spec's
	// files and the host, stores content to be deployed in req.Blobs, and
	// changes nothing else. Errors are *backstay.RefusedError with all problems
	// (paths relative to the step), or I/O errors.
	Prepare(ctx context.Context, req backstay.Request) (backstay.Prepared, error)
	// Observe reads the canonical state of the step's keys, each key present.
	// With call.Blobs set it stores the content needed to restore that state;
	// with nil it only looks. A key that cannot be read this time has its
	// Unreadable set; an error means that nothing could be read at all.
	Observe(ctx context.Context, call backstay.Call) (backstay.Image, error)
	// Do applies the step. When ctx ends it stops as soon as it can, leaving
	// nothing of it running, and returns ctx's error.
	Do(ctx context.Context, call backstay.Call) (backstay.Result, error)
	// Undo puts back what Do changed: for a restorable step exactly the parts
	// in call.Restore to their value in call.Before, else by compensating.
	Undo(ctx context.Context, call backstay.Call) (backstay.Result, error)
}

// Prober is a kind that can tell whether an intent without outcome was applied.
// It is asked only when observing the keys does not answer the question.
type Prober interface {
	Probe(ctx context.Context, call backstay.Call) (backstay.Finding, error)
}

// Checker is a kind that can serve as a verify probe.
type Checker interface {
	// CheckConfig is like Config, for an entry of `verify:`.
	CheckConfig() any
	// PrepareCheck freezes such an entry; only Kind, Body, Summary, Timeout,
	// Blobs, Secrets and Warnings of the result are used.
	PrepareCheck(ctx context.Context, req backstay.Request) (backstay.Prepared, error)
	// Check probes once. It returns an error only when nothing could be asked;
	// that counts as undecided.
	Check(ctx context.Context, call backstay.Call) (backstay.CheckResult, error)
}

// Reaper is a kind whose acts can outlive the process that started them. Reap
// ends what earlier epochs of this deployment's step left running; the engine
// calls it before recovery observes. It returns when nothing is left.
type Reaper interface {
	Reap(ctx context.Context, call backstay.Call) error
}

// Settler is a kind that keeps something for its undo (old instances). Settle
// lets go of it once the deployment is proven, or of what a rolled back one
// left to keep. It is idempotent.
type Settler interface {
	Settle(ctx context.Context, call backstay.Call) error
}

// Sectioner is a kind that owns top-level sections of the spec.
type Sectioner interface {
	// Sections maps the section's key to a pointer to a zero value of one entry:
	// the section is a map from entry name to that struct.
	Sections() map[string]any
}

// Registry holds the kinds by name and dispatches to them. It has the shape of
// the engine's Actions and of the spec's Kinds.
type Registry struct {
	kinds map[string]Kind
}

// NewRegistry returns a registry of exactly these kinds.
func NewRegistry(kinds ...Kind) (*Registry, error) {
	r := &Registry{kinds: make(map[string]Kind, len(kinds))}
	owner := map[string]string{}
	for _, k := range kinds {
		if k.Name() == "" {
			return nil, fmt.Errorf("register kind %T: it has no name", k)
		}
		if s, ok := k.(Sectioner); ok {
			for section := range s.Sections() {
				if other, taken := owner[section]; taken {
					return nil, fmt.Errorf("register kind %q: section %q belongs to kind %q", k.Name(), section, other)
				}
				owner[section] = k.Name()
			}
		}
		if _, dup := r.kinds[k.Name()]; dup {
			return nil, fmt.Errorf("register kind %q: registered twice", k.Name())
		}
		r.kinds[k.Name()] = k
	}
	return r, nil
}

// Names returns the kinds' names, sorted.
func (r *Registry) Names() []string {
	names := make([]string, 0, len(r.kinds))
	for n := range r.kinds {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// Config returns a new config value of the kind; false if there is no such kind.
func (r *Registry) Config(kind string) (any, bool) {
	k, ok := r.kinds[kind]
	if !ok {
		return nil, false
	}
	return k.Config(), true
}

// CheckNames returns the names of the kinds that can serve as verify probes.
func (r *Registry) CheckNames() []string {
	var names []string
	for n, k := range r.kinds {
		if _, ok := k.(Checker); ok {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	return names
}

// CheckConfig returns a new verify config value of the kind.
func (r *Registry) CheckConfig(kind string) (any, bool) {
	c, ok := r.kinds[kind].(Checker)
	if !ok {
		return nil, false
	}
	return c.CheckConfig(), true
}

// Sections returns the top-level sections that kinds own, with an entry's zero value.
func (r *Registry) Sections() map[string]any {
	all := map[string]any{}
	for _, k := range r.kinds {
		if s, ok := k.(Sectioner); ok {
			for name, entry := range s.Sections() {
				all[name] = entry
			}
		}
	}
	return all
}

func (r *Registry) kind(name string) (Kind, error) {
	k, ok := r.kinds[name]
	if !ok {
		return nil, &backstay.Error{
			Class: backstay.Permanent, Op: "find step kind", Subject: name,
			Err:  fmt.Errorf("this binary has no such kind"),
			Hint: "use the backstay version that planned this deployment",
		}
	}
	return k, nil
}

// Prepare dispatches to the kind's Prepare.
func (r *Registry) Prepare(ctx context.Context, kind string, req backstay.Request) (backstay.Prepared, error) {
	k, err := r.kind(kind)
	if err != nil {
		return backstay.Prepared{}, err
	}
	return k.Prepare(ctx, req)
}

// PrepareCheck dispatches to the kind's PrepareCheck.
func (r *Registry) PrepareCheck(ctx context.Context, kind string, req backstay.Request) (backstay.Prepared, error) {
	k, err := r.kind(kind)
	if err != nil {
		return backstay.Prepared{}, err
	}
	c, ok := k.(Checker)
	if !ok {
		return backstay.Prepared{}, fmt.Errorf("kind %q cannot verify", kind)
	}
	return c.PrepareCheck(ctx, req)
}

// Observe dispatches to the kind's Observe.
func (r *Registry) Observe(ctx context.Context, call backstay.Call) (backstay.Image, error) {
	k, err := r.kind(call.Step.Kind)
	if err != nil {
		return nil, err
	}
	return k.Observe(ctx, call)
}

// Do dispatches to the kind's Do.
func (r *Registry) Do(ctx context.Context, call backstay.Call) (backstay.Result, error) {
	k, err := r.kind(call.Step.Kind)
	if err != nil {
		return backstay.Result{}, err
	}
	return k.Do(ctx, call)
}

// Undo dispatches to the kind's Undo.
func (r *Registry) Undo(ctx context.Context, call backstay.Call) (backstay.Result, error) {
	k, err := r.kind(call.Step.Kind)
	if err != nil {
		return backstay.Result{}, err
	}
	return k.Undo(ctx, call)
}

// Probe asks the kind whether an open intent was applied; Unknown where the
// kind cannot tell.
func (r *Registry) Probe(ctx context.Context, call backstay.Call) (backstay.Finding, error) {
	k, err := r.kind(call.Step.Kind)
	if err != nil {
		return backstay.Unknown, err
	}
	p, ok := k.(Prober)
	if !ok {
		return backstay.Unknown, nil
	}
	return p.Probe(ctx, call)
}

// Check runs a verify probe once.
func (r *Registry) Check(ctx context.Context, call backstay.Call) (backstay.CheckResult, error) {
	k, err := r.kind(call.Step.Kind)
	if err != nil {
		return backstay.CheckResult{}, err
	}
	c, ok := k.(Checker)
	if !ok {
		return backstay.CheckResult{}, fmt.Errorf("kind %q cannot verify", call.Step.Kind)
	}
	return c.Check(ctx, call)
}

// Reap ends what earlier epochs left running; nothing for kinds without orphans.
func (r *Registry) Reap(ctx context.Context, call backstay.Call) error {
	k, err := r.kind(call.Step.Kind)
	if err != nil {
		return err
	}
	if reaper, ok := k.(Reaper); ok {
		return reaper.Reap(ctx, call)
	}
	return nil
}

// Settle lets go of what the step kept for its undo; nothing for most kinds.
func (r *Registry) Settle(ctx context.Context, call backstay.Call) error {
	k, err := r.kind(call.Step.Kind)
	if err != nil {
		return err
	}
	if s, ok := k.(Settler); ok {
		return s.Settle(ctx, call)
	}
	return nil
}

// Settles reports whether the kind keeps something that must be settled.
func (r *Registry) Settles(kind string) bool {
	_, ok := r.kinds[kind].(Settler)
	return ok
}
