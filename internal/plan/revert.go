package plan

import (
	"fmt"
	"slices"

	"github.com/backstay-dev/backstay"
)

// Done is what an earlier deployment did in one step, as the ledger tells it,
// and what the survey sees there now.
type Done struct {
	Step   string
	Before backstay.Image // at the step's intent
	After  backstay.Image // at its outcome; nil where it was never read
	Now    backstay.Image
}

// Revert makes the plan that takes a deployment back: its applied steps in
// reverse order of need, each putting its before-image back. Steps without an
// undo are problems; so is a resource that was changed since, unless the
// step's parts can be told apart.
func Revert(old *Plan, deployment, name string, done []Done) (*Plan, error) {
	byStep := make(map[string]Done, len(done))
	for _, d := range done {
		byStep[d.Step] = d
	}
	p := &Plan{
		Format: Format, Release: old.Release, Version: "before " + name, Owner: old.Owner,
		Environment: old.Environment, Within: old.Within, Reverts: deployment,
	}
	var problems []backstay.Problem
	later := newOverlapIndex() // what the steps after this one changed again
	covered := oneMove(old.Steps, byStep)
	for _, s := range slices.Backward(old.Steps) {
		d, applied := byStep[s.ID]
		if !applied || s.Waits() || covered[s.ID] {
			continue
		}
		for _, k := range s.Keys {
			if !s.Restorable && s.HasUndo && !later.any(k) && changedSince(d, k) {
				problems = append(problems, backstay.Problem{
					Path: s.ID, Message: fmt.Sprintf("%s was changed since by somebody else, and the undo command could overwrite that", k),
					Hint: "look with `backstay drift`, put it back as the deployment left it, then try again",
				})
			}
		}
		for _, k := range s.Keys {
			later.add(k)
		}
		if !s.HasUndo {
			problems = append(problems, backstay.Problem{
				Path: s.ID, Message: "cannot be taken back: " + s.Irreversible,
				Hint: "restore it by hand, then deploy what you want forward",
			})
			continue
		}
		p.Steps = append(p.Steps, restoring(s, deployment, d))
	}
	reverseNeeds(p, old, byStep)
	expect(p.Steps, byStep)
	if len(p.Steps) == 0 && len(problems) == 0 {
		problems = append(problems, backstay.Problem{Message: "deployment " + name + " changed nothing that could be taken back"})
	}
	if len(problems) > 0 {
		return nil, &backstay.RefusedError{What: "revert", Problems: problems}
	}
	finish(p)
	return p, nil
}

// Restore makes the plan that puts drifted resources back to what the ledger
// says. Each Done's Before is the state to restore and its Step a step of old.
func Restore(old *Plan, deployment, name string, done []Done) (*Plan, error) {
	p := &Plan{
		Format: Format, Release: old.Release, Version: old.Version, Owner: old.Owner,
		Environment: old.Environment, Within: old.Within,
	}
	var problems []backstay.Problem
	previous := ""
	for _, s := range old.Steps {
		i := slices.IndexFunc(done, func(d Done) bool { return d.Step == s.ID })
		if i < 0 {
			continue
		}
		if !s.Restorable {
			problems = append(problems, backstay.Problem{
				Path: s.ID, Message: fmt.Sprintf("drift of a %s step cannot be restored from an image", s.Kind),
				Hint: "deploy again, or repair it by hand",
			})
			continue
		}
		fix := restoring(s, deployment, done[i])
		fix.ID = "restore-" + s.ID
		fix.Summary = "restore " + s.Summary
		fix.Needs = nil
		if previous != "" {
			fix.Needs = []string{previous}
		}
		previous = fix.ID
		p.Steps = append(p.Steps, fix)
	}
	if len(problems) > 0 {
		return nil, &backstay.RefusedError{What: "drift fix", Problems: problems}
	}
	byStep := make(map[string]Done, len(done))
	for _, d := range done {
		byStep[d.Step] = d
	}
	for i := range p.Steps {
		p.Steps[i].Seq = i + 1
	}
	expect(p.Steps, byStep)
	finish(p)
	return p, nil
}

// oneMove makes consecutive moves of one dial into one, since they are taken
// back in one: the last of them goes back to what was there before the first,
// and the others, which are returned, are covered by it.
func oneMove(steps []backstay.Step, done map[string]Done) map[string]bool {
	covered := map[string]bool{}
	last := -1 // the newest move of the run of moves that is being followed
	for i, s := range slices.Backward(steps) {
		d, applied := done[s.ID]
		switch {
		case !applied || s.Waits():
			continue
		case last < 0 || s.Dial == "" || s.Dial != steps[last].Dial:
			last = i
			continue
		}
		newest := done[steps[last].ID]
		if before, then := newest.Before[s.Dial], d.After[s.Dial]; !then.Equal(before) {
			last = i // somebody else moved it in between
			continue
		}
		covered[s.ID] = true
		newest.Before = d.Before
		done[steps[last].ID] = newest
	}
	return covered
}

// changedSince reports whether a key that can be read is neither as the step
// left it nor as it was before.
func changedSince(d Done, k backstay.Key) bool {
	after, known := d.After[k]
	now, seen := d.Now[k]
	if !known || !seen || after.Opaque || now.Opaque || after.Unreadable != "" || now.Unreadable != "" {
		return false
	}
	return !now.Equal(after) && !now.Equal(d.Before[k])
}

// expect corrects what the steps freeze of the state that they begin with: the
// first one on a key finds what is there now, a later one what the one before
// it brought back.
func expect(steps []backstay.Step, done map[string]Done) {
	last := map[backstay.Key]int{}
	changed := newOverlapIndex()
	for i := range steps {
		for _, k := range steps[i].Keys {
			prev, again := last[k]
			if again || changed.any(k) {
				delete(steps[i].Before, k)
			}
			if again && !overlapsOneOf(steps[prev+1:i], k) {
				state := done[steps[prev].Reverts.Step].Before[k]
				if !state.Opaque && state.Unreadable == "" {
					steps[i].Before[k] = state.Digest()
				}
			}
			last[k] = i
		}
		for _, k := range steps[i].Keys {
			changed.add(k)
		}
	}
}

// restoring is the step that brings back d.Before of the step s.
func restoring(s backstay.Step, deployment string, d Done) backstay.Step {
	r := s
	r.ID = "revert-" + s.ID
	r.Pivot, r.Stage, r.Hold, r.Of = false, "", nil, ""
	r.Schema, r.Excludes = nil, nil // what is said of the schema before is the earlier deployment's
	r.Reverts = &backstay.Reverts{Deployment: deployment, Step: s.ID, Effect: s.Effect, Target: d.Before.Digest()}
	if d.After != nil {
		r.Reverts.From = d.After.Digest()
	}
	r.Before = map[backstay.Key]string{}
	for k, state := range d.Now {
		if !state.Opaque && state.Unreadable == "" {
			r.Before[k] = state.Digest()
		}
	}
	r.Want = nil
	r.Timeout, r.UndoTimeout = s.UndoTimeout, s.Timeout
	r.Summary, r.UndoSummary = s.UndoSummary, s.Summary
	if r.Summary == "" {
		r.Summary = "put back what step " + s.ID + " changed"
	}
	// Taking back a command's effect runs its undo, which must be safe to
	// repeat by the step contract.
	if r.Effect == backstay.AtMostOnce {
		r.Effect = backstay.Idempotent
	}
	return r
}

// reverseNeeds turns the needs around: what was needed is taken back after
// what needed it. Steps that are left out pass their needs on.
func reverseNeeds(p *Plan, old *Plan, in map[string]Done) {
	at := make(map[string]int, len(p.Steps))
	for i := range p.Steps {
		p.Steps[i].Seq = i + 1
		p.Steps[i].Needs = nil
		at[p.Steps[i].Reverts.Step] = i
	}
	// heads(id): the nearest kept steps at or above id.
	memo := map[string][]string{}
	needs := map[string][]string{}
	for _, s := range old.Steps {
		needs[s.ID] = s.Needs
		if _, kept := at[s.ID]; kept {
			memo[s.ID] = []string{s.ID}
			continue
		}
		var up []string
		for _, n := range s.Needs {
			up = append(up, memo[n]...)
		}
		slices.Sort(up)
		memo[s.ID] = slices.Compact(up)
	}
	for id := range in {
		if _, kept := at[id]; !kept {
			continue
		}
		for _, n := range needs[id] {
			for _, head := range memo[n] {
				step := &p.Steps[at[head]]
				step.Needs = append(step.Needs, "revert-"+id)
			}
		}
	}
	for i := range p.Steps {
		slices.Sort(p.Steps[i].Needs)
		p.Steps[i].Needs = slices.Compact(p.Steps[i].Needs)
	}
}
