package engine

import (
	"cmp"
	"slices"

	"github.com/backstay-dev/backstay"
)

// covered returns the IDs of the steps that the undo of step i takes back as
// well, newest first: the earlier moves of its dial, back to the first one that
// nothing stands before, and the waits between them. Empty for any other step.
//
// A move is covered only if going straight to what was there before it is what
// undoing one by one would come to: each of its successors is covered or needs
// no undo any more (I11), and nobody changed the dial between two moves, which
// would have to be kept (I18).
func (c *core) covered(s *Progress, i int) []string {
	if c.plan.Steps[i].Dial == "" {
		return nil
	}
	if sp := s.order[i]; sp.Phase == PhaseUndoing {
		return sp.Covers // as it was announced, whatever this binary would do
	}
	group, first := map[int]bool{i: true}, i
	for j := i - 1; j >= 0; j-- {
		if c.plan.Steps[j].Dial != c.plan.Steps[i].Dial {
			continue
		}
		waits, ok := c.follows(s, j, first, group)
		if !ok {
			break
		}
		for _, w := range waits {
			group[w] = true
		}
		group[j], first = true, j
	}
	delete(group, i)
	at := make([]int, 0, len(group))
	for j := range group {
		at = append(at, j)
	}
	slices.SortFunc(at, func(a, b int) int { return cmp.Compare(b, a) })
	ids := make([]string, len(at))
	for n, j := range at {
		ids[n] = c.plan.Steps[j].ID
	}
	return ids
}

// follows reports whether the move next began where the move j ended, with
// nothing to be undone between them but waits, which it returns.
func (c *core) follows(s *Progress, j, next int, group map[int]bool) (waits []int, ok bool) {
	move, then := s.order[j], s.order[next]
	if move.Phase != PhaseApplied || move.After == nil || then.Before == nil || move.After.Digest != then.Before.Digest {
		return nil, false
	}
	todo := slices.Clone(c.dependents[j])
	for len(todo) > 0 {
		d := todo[0]
		todo = todo[1:]
		sp := s.order[d]
		switch {
		case group[d] || slices.Contains(waits, d):
		case sp.blocks():
			return nil, false
		case !sp.needsUndo():
		case !c.plan.Steps[d].Waits():
			return nil, false
		default:
			waits = append(waits, d)
			todo = append(todo, c.dependents[d]...)
		}
	}
	return waits, true
}

// oldest is the step whose before-image an undo that covers others goes back to.
func oldest(id string, covers []string) string {
	if len(covers) == 0 {
		return id
	}
	return covers[len(covers)-1] // a wait is covered only between two moves
}

// compensate appends the compensation record of a step, and, if that went
// well, one for every step that the same act took back: all of them become
// durable in one transaction.
func (r *runner) compensate(id string, covers []string, body backstay.CompensationBody, blobs ...string) {
	r.append(backstay.EntryCompensation, id, body, blobs...)
	if body.Result == CompensationFailed {
		return // what it covers keeps waiting for it
	}
	for _, other := range covers {
		same := backstay.CompensationBody{Result: CompensationUntouched, With: id}
		if !r.core.steps[other].Waits() {
			same.Result, same.Kept, same.Now = body.Result, body.Kept, body.Now
		} else {
			r.land(other) // its timer
		}
		r.append(backstay.EntryCompensation, other, same, blobs...)
	}
}
