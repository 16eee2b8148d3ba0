package plan

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/spec"
)

// Draft is a spec on its way to a plan: what has to be surveyed.
type Draft struct {
	spec     *spec.Spec // with the steps that release steps became
	expanded expansion
}

// NewDraft makes a draft of a loaded spec: its release steps are expanded.
func NewDraft(s *spec.Spec) *Draft {
	d := &Draft{expanded: expand(s)}
	whole := *s
	whole.Steps = d.expanded.steps
	d.spec = &whole
	return d
}

// Spec returns the spec, with the steps that its release steps became.
func (d *Draft) Spec() *spec.Spec { return d.spec }

// Observed is what a survey saw of the world: the only thing Build learns
// beyond the spec.
type Observed struct {
	Artifacts map[string]backstay.Artifact
	Steps     map[string]backstay.Prepared // by step ID
	Checks    map[string]backstay.Prepared // by check ID
	Images    map[string]backstay.Image    // by step ID: its keys before anything ran
	Standing  Standing
	// Problems are refusals of the step kinds, in spec order.
	Problems []backstay.Problem
}

// Build makes the plan, or refuses with all problems at once
// (*backstay.RefusedError).
func Build(d *Draft, seen Observed) (*Plan, error) {
	b := builder{spec: d.spec, expanded: d.expanded, seen: seen, problems: slices.Clone(seen.Problems)}
	whole := *d.spec
	whole.Steps = b.needed(d.spec.Steps)
	b.spec = &whole
	order := b.order()
	if len(b.problems) > 0 {
		return nil, b.refuse()
	}
	p := b.skeleton()
	p.Steps = make([]backstay.Step, 0, len(order))
	for i, ds := range order {
		prepared := seen.Steps[ds.ID]
		if prepared.Hold != nil && d.spec.Policy.NotAuthor {
			hold := *prepared.Hold
			hold.NotAuthor = true
			prepared.Hold = &hold
		}
		if prepared.Gate != nil {
			prepared.Gate = b.gate(ds, *prepared.Gate)
		}
		prepared.Warnings = b.unsaid(ds.ID, prepared.Warnings)
		p.Steps = append(p.Steps, backstay.Step{ID: ds.ID, Seq: i + 1, Stage: ds.Stage, Needs: ds.Needs, Of: d.expanded.of[ds.ID], Prepared: prepared})
	}
	b.mitigates(p)
	reach := reachability(p.Steps)
	b.checkOverlaps(p.Steps, reach)
	b.checkDials(p.Steps)
	b.freezeBefore(p.Steps)
	b.findPivot(p, reach)
	b.warnUnkept(p.Steps, reach)
	b.compatible(p)
	for _, c := range d.spec.Verify {
		p.Verify = append(p.Verify, Check{ID: c.ID, Within: c.Within, Every: c.Every, Prepared: seen.Checks[c.ID]})
	}
	finish(p)
	if len(b.problems) > 0 {
		return nil, b.refuse()
	}
	return p, nil
}

// unsaid leaves out what was warned of at another part of the same step of the
// spec: a step that became several warns once.
func (b *builder) unsaid(id string, warnings []string) []string {
	of := b.expanded.of[id]
	if of == "" || len(warnings) == 0 {
		return warnings
	}
	if b.warned == nil {
		b.warned = map[string]bool{}
	}
	return slices.DeleteFunc(slices.Clone(warnings), func(w string) bool {
		said := b.warned[of+": "+w]
		b.warned[of+": "+w] = true
		return said
	})
}

type builder struct {
	warned   map[string]bool // by release step and warning
	spec     *spec.Spec
	expanded expansion
	seen     Observed
	problems []backstay.Problem
}

func (b *builder) refuse() error {
	return &backstay.RefusedError{What: "plan", Problems: b.problems}
}

func (b *builder) problem(id, hint, format string, args ...any) {
	p := backstay.Problem{File: b.spec.File, Path: id, Message: fmt.Sprintf(format, args...), Hint: hint}
	for _, s := range b.spec.Steps {
		if s.ID == id {
			p.Line, p.Column = s.Line, s.Column
			break
		}
	}
	b.problems = append(b.problems, p)
}

func (b *builder) skeleton() *Plan {
	s := b.spec
	p := &Plan{
		Format: Format, Release: s.Release, Version: s.Version, Owner: s.Owner, Environment: s.Environment,
		Spec: s.Digest, Within: s.Rollback.Within,
		Bake: Bake{For: s.Bake.For, Every: s.Bake.Every, Failures: s.Bake.Failures},
	}
	if r := s.Policy.Require; r != nil && r.Drill != nil {
		p.Require = &Require{Drill: &RequireDrill{MaxAge: r.Drill.MaxAge, Failed: r.Drill.Failed}}
	}
	for _, in := range s.Inputs {
		p.Inputs = append(p.Inputs, Input{Name: in.Name, Value: in.Value, Source: string(in.Source)})
	}
	for _, name := range slices.Sorted(maps.Keys(b.seen.Artifacts)) {
		p.Artifacts = append(p.Artifacts, b.seen.Artifacts[name])
	}
	p.Releases = b.expanded.releases
	for _, st := range s.Stages {
		p.Stages = append(p.Stages, Stage{Name: st.Name, Within: st.Within})
	}
	return p
}

// order sorts the spec's steps so that needs come first, keeping the spec's
// order wherever needs allow it. A cycle is a problem (the spec reports it
// first, with its position; this is the second line of defence).
func (b *builder) order() []spec.Step {
	index := make(map[string]int, len(b.spec.Steps))
	for i, s := range b.spec.Steps {
		if _, twice := index[s.ID]; twice {
			b.problem(s.ID, "rename the other step", "is the name of a step that a release step became")
			return nil
		}
		index[s.ID] = i
	}
	done := make([]bool, len(b.spec.Steps))
	out := make([]spec.Step, 0, len(b.spec.Steps))
	for len(out) < len(b.spec.Steps) {
		before := len(out)
		for i, s := range b.spec.Steps {
			if done[i] {
				continue
			}
			ready := true
			for _, need := range s.Needs {
				j, ok := index[need]
				if !ok {
					b.problem(s.ID, "", "needs %q, which is no step", need)
					return nil
				}
				ready = ready && done[j]
			}
			if ready {
				done[i] = true
				out = append(out, s)
			}
		}
		if len(out) == before {
			for i, s := range b.spec.Steps {
				if !done[i] {
					b.problem(s.ID, "remove one of the needs", "step is part of a cycle of needs")
					return nil
				}
			}
		}
	}
	return out
}

// checkOverlaps refuses two steps that touch the same resource without one
// needing the other: their order, and so their undo, would be chance.
func (b *builder) checkOverlaps(steps []backstay.Step, reach []bitset) {
	type use struct {
		key  backstay.Key
		step int
	}
	var uses []use
	for i, s := range steps {
		for _, k := range s.Keys {
			uses = append(uses, use{k, i})
		}
	}
	// Sorted by "key/", a key that lies below another follows it directly,
	// after the ones in between that also lie below it.
	slices.SortStableFunc(uses, func(x, y use) int {
		return strings.Compare(string(x.key)+"/", string(y.key)+"/")
	})
	for i, u := range uses {
		for _, v := range uses[i+1:] {
			if !u.key.Overlaps(v.key) {
				break
			}
			lo, hi := min(u.step, v.step), max(u.step, v.step)
			if lo != hi && !reach[hi].has(lo) {
				b.problem(steps[hi].ID, fmt.Sprintf("add `needs: [%s]` or take the steps out of `parallel`", steps[lo].ID),
					"touches %s, which step %q touches at the same time (%s)", v.key, steps[lo].ID, u.key)
				break
			}
		}
	}
}

// checkDials refuses moves of a dial that could not be taken back in one.
func (b *builder) checkDials(steps []backstay.Step) {
	for _, s := range steps {
		if s.Dial != "" && (!s.Restorable || len(s.Keys) != 1 || s.Keys[0] != s.Dial) {
			b.problem(s.ID, "this is a mistake of its step kind", "moves the dial %s, but is not restorable or has other keys", s.Dial)
		}
	}
}

// freezeBefore sets, for the first step on each key, the digest of the state
// that was observed; a later step on the key expects its predecessor's wanted
// state where that is known.
func (b *builder) freezeBefore(steps []backstay.Step) {
	last := map[backstay.Key]int{}
	overlapped := newOverlapIndex()
	for i := range steps {
		s := &steps[i]
		image := b.seen.Images[s.ID]
		for _, k := range s.Keys {
			prev, again := last[k]
			last[k] = i
			switch {
			case again:
				if want, ok := steps[prev].Want[k]; ok && !overlapsOneOf(steps[prev+1:i], k) {
					b.freeze(s, k, want)
				}
			case overlapped.any(k):
				// an earlier step changes a path above or below: what is here
				// then is not known now
			default:
				state, seen := image[k]
				if !seen {
					b.problem(s.ID, "", "nothing was observed about %s", k)
					continue
				}
				if state.Unreadable != "" {
					b.problem(s.ID, "make it readable, or take it out of the plan", "%s cannot be read: %s", k, state.Unreadable)
					continue
				}
				b.freeze(s, k, state)
			}
			overlapped.add(k)
		}
	}
}

// overlapsOneOf reports whether one of the steps changes a path above or below k.
func overlapsOneOf(steps []backstay.Step, k backstay.Key) bool {
	return slices.ContainsFunc(steps, func(s backstay.Step) bool {
		return slices.ContainsFunc(s.Keys, k.Overlaps)
	})
}

func (b *builder) freeze(s *backstay.Step, k backstay.Key, state backstay.ResourceState) {
	if state.Opaque {
		return
	}
	if s.Before == nil {
		s.Before = map[backstay.Key]string{}
	}
	s.Before[k] = state.Digest()
}

// findPivot marks the first irreversible step. What may run before it must
// have an undo, what runs after it must be safe to repeat, and a person must
// have agreed before it.
func (b *builder) findPivot(p *Plan, reach []bitset) {
	pivot := -1
	for i := range p.Steps {
		s := &p.Steps[i]
		if s.Class == backstay.Irreversible {
			if pivot < 0 {
				pivot = i
				s.Pivot, p.Pivot = true, s.ID
			}
			approved := false
			for j := range i {
				approved = approved || (p.Steps[j].Hold != nil && reach[i].has(j))
			}
			if !approved {
				b.problem(s.ID, "put `- approve: {within: 2h}` before it", "is irreversible (%s) and no approve step comes before it", s.Irreversible)
			}
		}
	}
	if pivot < 0 {
		return
	}
	for i, s := range p.Steps {
		if i == pivot || s.Waits() {
			continue
		}
		after := reach[i].has(pivot)
		if !after && !reach[pivot].has(i) {
			b.problem(s.ID, fmt.Sprintf("order it with needs before or after %q", p.Pivot), "may run beside the point of no return %q", p.Pivot)
		}
		if after && s.Effect == backstay.AtMostOnce && s.Class != backstay.Irreversible {
			b.problem(s.ID, "give it a probe, say `idempotent: true`, or move it before the pivot",
				"comes after the point of no return %q and cannot be repeated safely", p.Pivot)
		}
	}
}

// finish computes what follows from the steps: locks and promise.
func finish(p *Plan) {
	locks := map[backstay.Key]bool{}
	for _, s := range p.Steps {
		for _, k := range s.Keys {
			locks[k] = true
		}
	}
	p.Locks = slices.Sorted(maps.Keys(locks))
	p.Promise = promise(p.Steps)
}

func promise(steps []backstay.Step) Promise {
	out := Promise{Class: backstay.Exact}
	for _, s := range steps {
		if s.Waits() {
			continue
		}
		if s.Class.Rank() > out.Class.Rank() {
			out.Class, out.Step = s.Class, s.ID
		}
	}
	switch out.Class {
	case backstay.Exact:
		out.Text = "every resource is put back exactly as it was, and read back to prove it"
	case backstay.Equivalent:
		out.Text = "every resource is put back; step " + out.Step + " is equal only up to its stated list"
	case backstay.Compensated:
		out.Text = "step " + out.Step + " is undone by its own command; nothing can be read back to prove it"
	case backstay.Irreversible:
		out.Text = "step " + out.Step + " cannot be undone; what comes after it is driven forward"
	case backstay.Unclassified:
		out.Text = "step " + out.Step + " does not say how well it can be put back"
	}
	return out
}

// bitset over step indexes.
type bitset []uint64

func (b bitset) has(i int) bool { return b[i/64]&(1<<(i%64)) != 0 }
func (b bitset) set(i int)      { b[i/64] |= 1 << (i % 64) }
func (b bitset) merge(c bitset) {
	for i := range c {
		b[i] |= c[i]
	}
}

// reachability returns, per step, the set of steps that it (transitively)
// needs. Steps must be in an order that satisfies needs.
func reachability(steps []backstay.Step) []bitset {
	index := make(map[string]int, len(steps))
	words := (len(steps) + 63) / 64
	out := make([]bitset, len(steps))
	for i, s := range steps {
		out[i] = make(bitset, words)
		for _, need := range s.Needs {
			j := index[need]
			out[i].set(j)
			out[i].merge(out[j])
		}
		index[s.ID] = i
	}
	return out
}

// overlapIndex answers whether any key added before overlaps a key, without
// comparing all pairs: file keys are looked up by their ancestors and as ancestors.
type overlapIndex struct {
	exact map[backstay.Key]bool
	above map[string]bool // every proper ancestor of an added file path
}

func newOverlapIndex() *overlapIndex {
	return &overlapIndex{exact: map[backstay.Key]bool{}, above: map[string]bool{}}
}

func (x *overlapIndex) add(k backstay.Key) {
	x.exact[k] = true
	for up := range ancestors(k) {
		x.above[up] = true
	}
}

func (x *overlapIndex) any(k backstay.Key) bool {
	if x.exact[k] || x.above[string(k)] {
		return true
	}
	for up := range ancestors(k) {
		if x.exact[backstay.Key(up)] {
			return true
		}
	}
	return false
}

// ancestors yields "file:/a/b", "file:/a", "file:/" for "file:/a/b/c".
func ancestors(k backstay.Key) func(func(string) bool) {
	return func(yield func(string) bool) {
		path, ok := strings.CutPrefix(string(k), "file:")
		if !ok {
			return
		}
		for {
			i := strings.LastIndexByte(path, '/')
			if i < 0 || path == "/" {
				return
			}
			path = path[:max(i, 1)]
			if !yield("file:" + path) {
				return
			}
		}
	}
}

// Requests lists what must be prepared for the draft, in spec order.
func (d *Draft) Requests() []Request {
	out := make([]Request, 0, len(d.spec.Steps)+len(d.spec.Verify))
	for _, s := range d.spec.Steps {
		out = append(out, Request{
			ID: s.ID, Kind: s.Kind, Config: s.Config, Line: s.Line, Column: s.Column,
			Timeout: s.Timeout, UndoTimeout: s.UndoTimeout, Retries: s.Retries,
		})
	}
	for _, g := range d.gateChecks() {
		out = append(out, Request{ID: gateID(g.Name), Kind: g.Kind, Check: true, Config: g.Config, Line: g.Line, Column: g.Column, Timeout: g.Timeout})
	}
	for _, c := range d.spec.Verify {
		out = append(out, Request{ID: c.ID, Kind: c.Kind, Check: true, Config: c.Config, Line: c.Line, Column: c.Column, Timeout: c.Timeout})
	}
	return out
}

// Request is one declaration to be prepared by its kind.
type Request struct {
	ID, Kind     string
	Check        bool // a verify probe
	Config       json.RawMessage
	Line, Column int
	Timeout      backstay.Duration
	UndoTimeout  backstay.Duration
	Retries      *int
}
