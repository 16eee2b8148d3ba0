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
	"maps"
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

// Check is a kind that is no step: it only answers, in verify and in gates.
type Check interface {
	Name() string
	Checker
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

// Sandboxer is a kind whose acts stay within the files and processes of the
// host that runs them, so that a drill may try a step on a private,
// copy-on-write view of this host. Sandbox says why it must not be tried there;
// nil: it may.
type Sandboxer interface {
	Sandbox(step backstay.Step) error
}

// Furnisher is a Sandboxer whose targets are not files alone: Furnish starts, in
// a private view, what ran on the host when the plan was made. Doing it twice
// does no more than once.
type Furnisher interface {
	Furnish(ctx context.Context, call backstay.Call) error
}

// Rehearser is a Sandboxer whose targets are databases. Scratch makes, outside of
// sandboxes, what stands in for a step's; nil where it is a file of this host,
// which a sandbox has a view of. Inside, Rebind makes of a frozen step the one that
// acts on the stand-in and on nothing else, and Rehearse begins to use it.
type Rehearser interface {
	Scratch(ctx context.Context, step backstay.Step, secrets backstay.Secrets) (backstay.Scratch, error)
	Rebind(ctx context.Context, call backstay.Call) (backstay.Step, error)
	Rehearse(ctx context.Context, call backstay.Call) (backstay.Rehearsal, error)
}

// Turner is a kind whose steps move a dial. Turn makes of such a step the one
// that gives its side another share, in percent. It reads the frozen step only.
type Turner interface {
	Turn(step backstay.Step, percent int) (backstay.Prepared, error)
}

// Verifier is a kind that can try, on a scratch copy, whether what a step would
// do can be taken back. An empty scratch makes one beside the step's own target;
// nothing of the target itself is changed or read. It remembers in the request's
// data directory what it showed; Verified says in a line what that was for exactly
// the content of a frozen step, and nothing for a step that changes nothing.
type Verifier interface {
	Verify(ctx context.Context, req backstay.Request, from backstay.VerifyFrom) (backstay.Verification, error)
	Verified(step backstay.Step, dataDir string) (string, error)
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
	kinds    map[string]Kind
	checks   map[string]Checker
	sections map[string]any
}

// NewRegistry returns a registry of exactly these kinds. Those of them that can
// check do so as well.
func NewRegistry(kinds ...Kind) (*Registry, error) {
	r := &Registry{kinds: make(map[string]Kind, len(kinds)), checks: map[string]Checker{}, sections: map[string]any{}}
	for _, k := range kinds {
		if err := r.enter(k.Name(), k); err != nil {
			return nil, err
		}
		r.kinds[k.Name()] = k
	}
	return r, nil
}

// AddChecks adds kinds that only check.
func (r *Registry) AddChecks(checks ...Check) error {
	for _, c := range checks {
		if err := r.enter(c.Name(), c); err != nil {
			return err
		}
	}
	return nil
}

// enter takes down what a kind can beside its steps.
func (r *Registry) enter(name string, kind any) error {
	if name == "" {
		return fmt.Errorf("register kind %T: it has no name", kind)
	}
	if _, dup := r.kinds[name]; dup || r.checks[name] != nil {
		return fmt.Errorf("register kind %q: registered twice", name)
	}
	if c, ok := kind.(Checker); ok {
		r.checks[name] = c
	}
	if s, ok := kind.(Sectioner); ok {
		for section, entry := range s.Sections() {
			if _, taken := r.sections[section]; taken {
				return fmt.Errorf("register kind %q: section %q belongs to another kind", name, section)
			}
			r.sections[section] = entry
		}
	}
	return nil
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
	return slices.Sorted(maps.Keys(r.checks))
}

// CheckConfig returns a new verify config value of the kind.
func (r *Registry) CheckConfig(kind string) (any, bool) {
	c, ok := r.checks[kind]
	if !ok {
		return nil, false
	}
	return c.CheckConfig(), true
}

// Sections returns the top-level sections that kinds own, with an entry's zero value.
func (r *Registry) Sections() map[string]any { return maps.Clone(r.sections) }

// checker finds a kind that checks.
func (r *Registry) checker(name string) (Checker, error) {
	if c, ok := r.checks[name]; ok {
		return c, nil
	}
	if _, err := r.kind(name); err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("kind %q cannot verify", name)
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
	c, err := r.checker(kind)
	if err != nil {
		return backstay.Prepared{}, err
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
	c, err := r.checker(call.Step.Kind)
	if err != nil {
		return backstay.CheckResult{}, err
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

// Sandbox says why a step must not be tried on a private view of this host; nil:
// it may.
func (r *Registry) Sandbox(step backstay.Step) error {
	k, err := r.kind(step.Kind)
	if err != nil {
		return err
	}
	if s, ok := k.(Sandboxer); ok {
		return s.Sandbox(step)
	}
	return fmt.Errorf("what a step of kind %s does is not confined to the files and processes of this host", step.Kind)
}

// Furnish starts in a private view what a step's key stands for on the host;
// nothing for kinds whose targets are files.
func (r *Registry) Furnish(ctx context.Context, call backstay.Call) error {
	k, err := r.kind(call.Step.Kind)
	if err != nil {
		return err
	}
	if f, ok := k.(Furnisher); ok {
		return f.Furnish(ctx, call)
	}
	return nil
}

// Rehearses reports whether the kind's targets need a stand-in in a drill.
func (r *Registry) Rehearses(kind string) bool {
	_, ok := r.kinds[kind].(Rehearser)
	return ok
}

// Scratch dispatches to the kind's Scratch; nil for kinds without one.
func (r *Registry) Scratch(ctx context.Context, step backstay.Step, secrets backstay.Secrets) (backstay.Scratch, error) {
	if k, ok := r.kinds[step.Kind].(Rehearser); ok {
		return k.Scratch(ctx, step, secrets)
	}
	return nil, nil //nolint:nilnil // there is none
}

// Rebind dispatches to the kind's Rebind; the step as it is for kinds without one.
func (r *Registry) Rebind(ctx context.Context, call backstay.Call) (backstay.Step, error) {
	if k, ok := r.kinds[call.Step.Kind].(Rehearser); ok {
		return k.Rebind(ctx, call)
	}
	return call.Step, nil
}

// Rehearse dispatches to the kind's Rehearse.
func (r *Registry) Rehearse(ctx context.Context, call backstay.Call) (backstay.Rehearsal, error) {
	k, ok := r.kinds[call.Step.Kind].(Rehearser)
	if !ok {
		return backstay.Rehearsal{}, fmt.Errorf("steps of kind %s are not rehearsed", call.Step.Kind)
	}
	return k.Rehearse(ctx, call)
}

// Turn dispatches to the kind's Turn.
func (r *Registry) Turn(step backstay.Step, percent int) (backstay.Prepared, error) {
	k, err := r.kind(step.Kind)
	if err != nil {
		return backstay.Prepared{}, err
	}
	t, ok := k.(Turner)
	if !ok {
		return backstay.Prepared{}, fmt.Errorf("steps of kind %s move no dial", step.Kind)
	}
	return t.Turn(step, percent)
}

// Verify dispatches to the kind's Verify; an error for kinds without one.
func (r *Registry) Verify(ctx context.Context, kind string, req backstay.Request, from backstay.VerifyFrom) (backstay.Verification, error) {
	k, err := r.kind(kind)
	if err != nil {
		return backstay.Verification{}, err
	}
	v, ok := k.(Verifier)
	if !ok {
		return backstay.Verification{}, fmt.Errorf("steps of kind %q have nothing to verify", kind)
	}
	return v.Verify(ctx, req, from)
}

// Verified dispatches to the kind's Verified; nothing for kinds without one.
func (r *Registry) Verified(step backstay.Step, dataDir string) (string, error) {
	k, err := r.kind(step.Kind)
	if err != nil {
		return "", err
	}
	if v, ok := k.(Verifier); ok {
		return v.Verified(step, dataDir)
	}
	return "", nil
}

// Settles reports whether the kind keeps something that must be settled.
func (r *Registry) Settles(kind string) bool {
	_, ok := r.kinds[kind].(Settler)
	return ok
}
