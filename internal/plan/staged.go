package plan

import (
	"fmt"
	"maps"
	"slices"

	"github.com/backstay-dev/backstay"
)

// Turn makes of a move of a dial the one that gives its side another share, in
// percent; driver.Registry has it.
type Turn func(step backstay.Step, percent int) (backstay.Prepared, error)

// Gradual makes the way back of a revert plan gradual: before the dial of each
// release step of old goes back whole, the old side gets the shares through (the
// last is 100), each for hold. What warms the old side comes first anyway: it was
// given up last.
func Gradual(p, old *Plan, through []int, hold backstay.Duration, turn Turn) error {
	staged := false
	for _, r := range old.Releases {
		at := slices.IndexFunc(p.Steps, func(s backstay.Step) bool {
			from, ok := reverted(old, s)
			return ok && from.Of == r.Step && from.Dial != ""
		})
		if at < 0 {
			continue
		}
		steps, err := stages(old, p.Steps[at], r, through, hold, turn)
		if err != nil {
			return err
		}
		p.Steps = slices.Insert(p.Steps, at, steps...)
		whole := &p.Steps[at+len(steps)]
		whole.Needs = []string{steps[len(steps)-1].ID}
		whole.Before = maps.Clone(whole.Before)
		// It begins with what the last stage leaves, and not with what the release left.
		whole.Before[whole.Dial] = steps[lastMove(steps)].Want[whole.Dial].Digest()
		reverts := *whole.Reverts
		reverts.From, whole.Reverts = "", &reverts
		staged = true
	}
	if !staged {
		return &backstay.RefusedError{What: "rollback", Problems: []backstay.Problem{{
			Message: "no release step of that deployment moved traffic, so there is nothing to go through", Hint: "leave out --through",
		}}}
	}
	for i := range p.Steps {
		p.Steps[i].Seq = i + 1
	}
	finish(p)
	return nil
}

// lastMove is the last of the steps that moves a dial.
func lastMove(steps []backstay.Step) int {
	for i, s := range slices.Backward(steps) {
		if s.Dial != "" {
			return i
		}
	}
	return 0
}

// reverted is the step of old that a step takes back.
func reverted(old *Plan, s backstay.Step) (backstay.Step, bool) {
	if s.Reverts == nil {
		return backstay.Step{}, false
	}
	return old.Step(s.Reverts.Step)
}

// stages are the moves and waits before the whole way back, which needs the last
// of them.
func stages(old *Plan, whole backstay.Step, r Release, through []int, hold backstay.Duration, turn Turn) ([]backstay.Step, error) {
	from, _ := reverted(old, whole)
	needs, before := whole.Needs, whole.Before
	var out []backstay.Step
	add := func(name string, prepared backstay.Prepared) {
		out = append(out, backstay.Step{
			ID: fmt.Sprintf("revert-%s.%s", r.Step, name), Needs: needs, Before: before, Prepared: prepared,
		})
		needs, before = []string{out[len(out)-1].ID}, nil
	}
	for _, share := range through[:len(through)-1] {
		move, err := turn(from, 100-share)
		if err != nil {
			return nil, fmt.Errorf("give the old side of %s %d%%: %w", r.Route, share, err)
		}
		add(fmt.Sprintf("back-%d", share), move)
		if wait := gateBack(r, share, hold); wait != nil {
			add(fmt.Sprintf("gate-%d", share), *wait)
		}
	}
	if len(out) == 0 {
		return nil, &backstay.RefusedError{What: "rollback", Problems: []backstay.Problem{{
			Message: "--through has only 100%, which is one move", Hint: "leave it out, or give smaller shares before it",
		}}}
	}
	return out, nil
}

// gateBack is the wait at a share on the way back; nil where there is none. The
// release's own gates ask what is right for the new version, not for the old one.
func gateBack(r Release, share int, hold backstay.Duration) *backstay.Prepared {
	if hold <= 0 {
		return nil
	}
	return &backstay.Prepared{
		Kind: gateKind, Class: backstay.Exact, Effect: backstay.Idempotent, Fence: backstay.Fenced,
		Gate:    &backstay.Gate{Hold: hold, Within: hold + backstay.Duration(1e9*60), Route: r.Route, Weight: 100 - share},
		Timeout: hold + backstay.Duration(1e9*60), Summary: "hold for " + hold.String(),
	}
}
