package sim

import (
	"slices"
	"strings"

	"github.com/backstay-dev/backstay"
)

// commitTruth: at the commit every cell in scope read as the plan wants it (I2).
func (h *history) commitTruth() {
	for at, e := range h.journal {
		if e.Kind != "entry" || e.Entry.Kind != backstay.EntryTransition {
			continue
		}
		var body backstay.TransitionBody
		if e.Entry.Decode(&body) != nil || body.To != backstay.Committed {
			continue
		}
		want := h.wanted()
		for _, cell := range h.cells {
			value, planned := want[cell]
			if len(h.covering(cell)) == 0 || h.opaque(cell) || e.Cells[cell] == value && planned || e.Cells[cell] == "" && !planned {
				continue
			}
			if p, ok := h.lastOutsider(cell, at); ok && p > h.lastLook(cell, at) {
				continue // after the last look before the commit: nobody could know
			}
			if h.lied(cell) || h.unplanned(cell) {
				continue // nothing says what the command should have left there
			}
			h.violate("I2: committed with %s = %q, the plan wants %q", cell, e.Cells[cell], value)
		}
	}
}

// wanted is the world after the whole plan.
func (h *history) wanted() map[string]string {
	want := map[string]string{}
	for _, c := range h.cells {
		if v := h.before[c]; v != "" {
			want[c] = v
		}
	}
	if h.want != nil {
		for _, c := range h.cells {
			if len(h.covering(c)) > 0 {
				apply(want, c, h.want[c])
			}
		}
		return want
	}
	for _, s := range h.plan.Steps {
		if !s.Waits() {
			for _, c := range bodyOf(s).Do {
				apply(want, c.cell(), c.To)
			}
		}
	}
	return want
}

// lied reports whether a step without a wanted image said that it changed the
// cell and did not: there is nothing to compare its read-back with.
func (h *history) lied(cell string) bool {
	return h.had(func(e event) bool {
		if !strings.HasSuffix(e.Kind, ".end") || !strings.Contains(e.Fault, actLie) || e.Back {
			return false
		}
		k, covers := keyOf(h.step(e.Step), cell)
		_, known := h.step(e.Step).Want[k]
		return covers && !known && h.step(e.Step).Reverts == nil
	})
}

// unplanned reports whether an outsider wrote the cell within the window of a
// command whose wanted state is not known beforehand.
func (h *history) unplanned(cell string) bool {
	p, ok := h.lastOutsider(cell, len(h.journal))
	return ok && slices.ContainsFunc(h.dos, func(s span) bool {
		step := h.step(s.step)
		_, covers := keyOf(step, cell)
		return covers && step.Want == nil && step.Reverts == nil && s.look <= p && p <= s.till
	})
}

// lastOutsider is the place of the last change of the cell by somebody else. A
// write of what is there already changes nothing that anybody could see.
func (h *history) lastOutsider(cell string, before int) (int, bool) {
	for i := min(before, len(h.journal)) - 1; i >= 0; i-- {
		if e := h.journal[i]; e.Kind == "outsider" && e.Cell == cell && e.Old != e.New {
			return i, true
		}
	}
	return 0, false
}

// lastLook is the place of the read that covers the cell for the last time
// before a place, or -1. Where several steps cover it, it is the first of
// their last reads: a round of reads is not one moment.
func (h *history) lastLook(cell string, before int) int {
	at := -1
	for _, s := range h.covering(cell) {
		for i := before - 1; i >= 0; i-- {
			if e := h.journal[i]; e.Kind == "seen" && e.Fault == "" && e.Step == s.ID && len(h.doOf(s.ID)) > 0 {
				if at < 0 || i < at {
					at = i
				}
				break
			}
		}
	}
	return at
}

// neighbours: nothing outside a step's own keys is written by it (I18).
func (h *history) neighbours() {
	for _, e := range h.journal {
		if e.Kind != "write" {
			continue
		}
		if _, ok := keyOf(h.step(e.Step), e.Cell); !ok {
			h.violate("I18: step %s wrote %s, which is not in its scope", e.Step, e.Cell)
		}
	}
	for _, cell := range h.cells {
		if len(h.covering(cell)) > 0 {
			continue
		}
		if want := h.theirsOr(cell, h.before[cell]); h.after[cell] != want {
			h.violate("I18: neighbour %s is %q, want %q", cell, h.after[cell], want)
		}
	}
}

// theirsOr is what an outsider wrote last, or the other value.
func (h *history) theirsOr(cell, other string) string {
	if p, ok := h.lastOutsider(cell, len(h.journal)); ok {
		return h.journal[p].New
	}
	return other
}

// overwritten: no write replaces an outsider's value that a look had shown
// before, except in the window between a step's intent and its outcome (I18).
func (h *history) overwritten() {
	for q, e := range h.journal {
		if e.Kind != "write" {
			continue
		}
		p, ok := h.lastOutsider(e.Cell, q)
		if !ok || h.valueAt(e.Cell, q) != h.journal[p].New || e.Old == e.New || h.inDoWindow(e.Cell, p) {
			continue
		}
		if h.indistinct(e.Cell, p) || h.cutOff(e.Cell, p) || e.Back && h.retriedKnowingly(e.Cell, p) {
			continue
		}
		if !e.Back && !h.frozen(e.Step, e.Cell) {
			continue
		}
		spans := h.dos
		if e.Back {
			spans = h.undos
		}
		for _, s := range spans {
			if s.step == e.Step && s.from <= q && q <= s.till && p < h.lookOfAct(s, q) {
				h.violate("I18: step %s (back %v) overwrote %s = %q, an outsider's later value", e.Step, e.Back, e.Cell, h.journal[p].New)
			}
		}
	}
}

// frozen reports whether the plan knows what a step's key must hold when the
// step begins. Where an earlier step changes a path above or below the key, or
// the key itself by a command, nobody knows that when the plan is made.
func (h *history) frozen(step, cell string) bool {
	s := h.step(step)
	k, _ := keyOf(s, cell)
	_, ok := s.Before[k]
	return ok || slices.Contains(h.sc.opaque, k)
}

// indistinct reports whether the outsider left a value that is also one of
// ours: nobody can tell the difference by reading.
func (h *history) indistinct(cell string, p int) bool {
	v := h.journal[p].New
	if v == h.before[cell] || slices.ContainsFunc(h.dos, func(s span) bool {
		_, ok := keyOf(h.step(s.step), cell)
		return ok && s.till < p && v == h.valueAt(cell, s.till) // as a step's outcome read it
	}) {
		return true
	}
	return h.had(func(e event) bool { return e.Kind == "write" && e.Cell == cell && e.New == v })
}

// lookOfAct is the last read for a span's step before its write at q.
func (h *history) lookOfAct(s span, q int) int { return h.lookBefore(s.step, q) }

// inDoWindow reports whether a place lies between the look before some do of
// the cell and its outcome: the window in which an outsider's write cannot be
// told from the step's own.
func (h *history) inDoWindow(cell string, p int) bool {
	return slices.ContainsFunc(h.dos, func(s span) bool {
		_, ok := keyOf(h.step(s.step), cell)
		return ok && s.look <= p && (p <= s.till || h.blind(s))
	})
}

// blind reports whether nobody could read what a step left: then nothing tells
// its work from what somebody else does later.
func (h *history) blind(s span) bool {
	look := h.lookBefore(s.step, min(s.till, len(h.journal)))
	return look < s.from || h.journal[look].Fault != ""
}

// inUndoWindow is the same for an undo: between its look and its last write of
// the cell.
// cutOff reports whether an outsider wrote the cell while an undo that was to
// put it back was announced, had been cut off, and was not yet recorded as
// done: until then what the cell holds is taken for its half-done work.
func (h *history) cutOff(cell string, p int) bool {
	pre, _, ok := h.pre(cell)
	return ok && slices.ContainsFunc(h.undos, func(s span) bool {
		if _, covers := keyOf(h.step(s.step), cell); !covers || s.entry != nil || p < s.look || h.valueAt(cell, s.look) == pre {
			return false
		}
		return !slices.ContainsFunc(h.journal[s.from:max(p, s.from)], func(e event) bool {
			return e.Entry != nil && e.Entry.Kind == backstay.EntryCompensation && e.Step == s.step
		})
	})
}

func (h *history) inUndoWindow(cell string, p int) bool {
	return slices.ContainsFunc(h.undos, func(s span) bool {
		if _, ok := keyOf(h.step(s.step), cell); !ok || p < s.look {
			return false
		}
		for q := min(s.till, len(h.journal)) - 1; q > p; q-- {
			if e := h.journal[q]; e.Kind == "write" && e.Step == s.step && e.Cell == cell {
				return h.lookBefore(s.step, q) < p
			}
		}
		return false
	})
}

// retriedKnowingly reports whether an outsider wrote the cell while an undo of
// it was under way that then failed, and a person who was shown that very value
// as residue asked for another try: what a failed undo left of its own parts is
// taken for its own half-done work.
func (h *history) retriedKnowingly(cell string, p int) bool {
	during := slices.ContainsFunc(h.undos, func(s span) bool {
		_, ok := keyOf(h.step(s.step), cell)
		return ok && s.look <= p && p <= s.till
	})
	return during && slices.ContainsFunc(h.journal[p:], func(e event) bool {
		var body backstay.TransitionBody
		if e.Kind != "entry" || e.Entry.Kind != backstay.EntryTransition || e.Entry.Decode(&body) != nil || body.To != backstay.Held {
			return false
		}
		return slices.ContainsFunc(body.Residue, func(r backstay.Residue) bool {
			return cellOf(r.Key, r.Part) == cell && r.Unknown == "" && valueOf(r.Current) == h.journal[p].New
		})
	})
}

// pre is the cell's value that a rollback must bring back: that of the look
// before the first intent which covers it.
func (h *history) pre(cell string) (value string, at int, ok bool) {
	first := -1
	for _, s := range h.dos {
		if _, covers := keyOf(h.step(s.step), cell); covers && !h.void(s) && (first < 0 || s.from < h.dos[first].from) {
			first = i32(h.dos, s)
		}
	}
	if first < 0 {
		return "", 0, false
	}
	at = h.dos[first].look
	return h.valueAt(cell, at), at, true
}

// void reports whether an intent came to nothing: its process died, the step
// wrote nothing, and the next process found that. It began with no write.
func (h *history) void(s span) bool {
	var body backstay.ObservedBody
	if s.entry == nil || s.entry.Kind != backstay.EntryObserved || s.entry.Decode(&body) != nil || body.Finding != backstay.NotApplied {
		return false
	}
	return !slices.ContainsFunc(h.journal[s.from:s.till], func(e event) bool { return e.Kind == "write" && e.Step == s.step })
}

func i32(all []span, s span) int {
	return slices.IndexFunc(all, func(o span) bool { return o.from == s.from && o.step == s.step })
}

// restored: after a rollback each cell reads as before, or is listed (I3, I4).
func (h *history) restored() {
	for _, cell := range h.cells {
		if len(h.covering(cell)) == 0 {
			continue
		}
		pre, at, begun := h.pre(cell)
		now := h.after[cell]
		if !begun {
			if want := h.theirsOr(cell, h.before[cell]); now != want {
				h.violate("I3: %s is %q, want %q: no step with it began", cell, now, want)
			}
			continue
		}
		listed := h.listed(cell)
		if h.opaque(cell) {
			h.opaqueRestored(cell, pre, now, listed)
			continue
		}
		p, theirs := h.lastOutsider(cell, len(h.journal))
		late := theirs && p > h.lastLook(cell, len(h.journal))
		if theirs && p >= at && !h.inDoWindow(cell, p) && !h.inUndoWindow(cell, p) && !h.cutOff(cell, p) && !h.retriedKnowingly(cell, p) && !h.indistinct(cell, p) && now != h.journal[p].New {
			h.violate("I3: %s is %q, an outsider's %q was lost", cell, now, h.journal[p].New)
		}
		switch {
		case late:
		case now == pre && listed != "" && listed != "unknown":
			h.violate("I4: %s reads as before (%q) and is listed under %s", cell, now, listed)
		case now != pre && listed == "":
			h.violate("I4: %s is %q, was %q, and is not listed (%s)", cell, now, pre, h.row.State)
		case now != pre && listed == "residue" && h.row.State == backstay.RolledBack:
			h.violate("I3: rolled back with residue %s", cell)
		}
	}
}

// opaqueRestored is restored for what nobody can read: the undo's word is all
// there is, so only an undo that failed or did not run must be listed.
func (h *history) opaqueRestored(cell, pre, now, listed string) {
	settled, alien := true, false
	for _, s := range h.covering(cell) {
		settled = settled && (h.undone(s.ID) || !h.touched(s.ID))
		alien = alien || h.outsiderOn(s) || h.had(func(e event) bool { return e.Step == s.ID && strings.Contains(e.Fault, actLie) })
	}
	switch {
	case settled && now != pre && !alien:
		h.violate("I3: %s is %q, was %q, and its undo is recorded as done", cell, now, pre)
	case !settled && listed == "" && now != pre:
		h.violate("I4: %s is %q, was %q, its undo was not done and it is not listed", cell, now, pre)
	case !settled && listed == "residue":
		h.violate("I4: %s cannot be read and its residue claims to know it", cell)
	}
}

func (h *history) outsiderOn(s backstay.Step) bool {
	return h.had(func(e event) bool {
		_, ok := keyOf(s, e.Cell)
		return e.Kind == "outsider" && ok
	})
}

// listed says where a cell is reported: residue, unknown, kept or nowhere.
func (h *history) listed(cell string) string {
	for _, r := range h.last.Residue {
		part, ok := partOf(r.Key, cell)
		switch {
		case ok && r.Unknown != "":
			return "unknown"
		case ok && part == r.Part:
			return "residue"
		}
	}
	for _, r := range h.last.Kept {
		if part, ok := partOf(r.Key, cell); ok && part == r.Part {
			return "kept"
		}
	}
	return ""
}

// residueTrue: each line of the residue is true, caused, and says what to do
// next; held is never empty (I4, I5).
func (h *history) residueTrue() {
	if h.row.State == backstay.Held && len(h.last.Residue) == 0 {
		h.violate("I5: held without residue")
	}
	if h.row.State == backstay.RolledBack && len(h.last.Residue) > 0 {
		h.violate("I3: rolled back with residue %+v", h.last.Residue)
	}
	if len(h.summary.Residue) != len(h.last.Residue) || len(h.summary.Kept) != len(h.last.Kept) {
		h.violate("I4: the summary lists %d and %d, the ledger %d and %d", len(h.summary.Residue), len(h.summary.Kept), len(h.last.Residue), len(h.last.Kept))
	}
	seen := map[string]bool{}
	for _, r := range h.last.Residue {
		cell := cellOf(r.Key, r.Part)
		if seen[cell] {
			h.violate("I4: %s is listed twice", cell)
		}
		seen[cell] = true
		if r.Next == "" || r.Step == "" {
			h.violate("I4: residue %s has step %q and next command %q", cell, r.Step, r.Next)
		}
		h.causeTrue(r)
		if r.Unknown != "" {
			if !h.unreadable(r, h.settledAt) {
				h.violate("I4: %s is listed as unknown, and could be read", cell)
			}
			continue
		}
		h.imageTrue(r, cell)
	}
	for _, r := range h.last.Kept {
		cell := cellOf(r.Key, r.Part)
		if seen[cell] {
			h.violate("I4: %s is listed as residue and as kept", cell)
		}
		if !h.had(func(e event) bool { return e.Kind == "outsider" && e.Cell == cell }) {
			h.violate("I4: %s is kept as an outsider's, who never wrote it", cell)
		}
		h.imageTrue(r, cell)
	}
}

// imageTrue: before and current of a line are what was and what is.
func (h *history) imageTrue(r backstay.Residue, cell string) {
	pre, _, ok := h.pre(cell)
	p, theirs := h.lastOutsider(cell, len(h.journal))
	if theirs && p > h.lastLook(cell, len(h.journal)) {
		return
	}
	if got := valueOf(r.Before); !ok || got != pre {
		h.violate("I4: %s is listed as %q before, it was %q", cell, got, pre)
	}
	if got := valueOf(r.Current); got != h.after[cell] {
		h.violate("I4: %s is listed as %q now, it is %q", cell, got, h.after[cell])
	}
	if want, known := h.step(r.Step).Want[r.Key]; known && valueOf(r.Wanted) != valueOf(want.Parts[r.Part]) {
		h.violate("I4: %s is listed as wanted %s, the plan wants %s", cell, r.Wanted, want.Parts[r.Part])
	}
}

// unreadable reports whether the last look of the line's step showed nothing.
func (h *history) unreadable(r backstay.Residue, before int) bool {
	if slices.Contains(h.sc.opaque, r.Key) {
		return true
	}
	look := h.lookBefore(r.Step, before)
	return h.journal[look].Kind == "seen" && h.journal[look].Fault != ""
}

// causeTrue: the cause of a line is one of the eight and is a fact, of its own
// step or of one that needs it and blocks it (I5).
func (h *history) causeTrue(r backstay.Residue) {
	s := h.step(r.Step)
	blockers := append([]backstay.Step{s}, h.needing(s.ID)...)
	if !slices.ContainsFunc(blockers, func(b backstay.Step) bool { return h.fact(r.Cause, b) }) && !(r.Cause == backstay.CauseNoUndo && h.pastPivot()) {
		h.violate("I5: %s is held with cause %s, which is not so", cellOf(r.Key, r.Part), r.Cause)
	}
}

func (h *history) pastPivot() bool {
	return slices.ContainsFunc(h.plan.Steps, func(s backstay.Step) bool { return s.Pivot && len(h.doOf(s.ID)) > 0 })
}

// fact reports whether the cause holds for the step.
func (h *history) fact(c backstay.Cause, s backstay.Step) bool {
	of := func(kind string, pred func(event) bool) bool {
		return h.had(func(e event) bool { return e.Step == s.ID && e.Kind == kind && pred(e) })
	}
	switch c {
	case backstay.CauseNoUndo:
		return !s.HasUndo && !s.Waits()
	case backstay.CauseUndoFailed:
		bad := func(e event) bool {
			return e.Back && (e.Err != "" || strings.Contains(e.Fault, actLie))
		}
		// An outsider who writes while a command undoes cannot be told from it.
		return of("undo.end", bad) || of("do.end", bad) || h.outsiderDuringUndo(s)
	case backstay.CauseDrift:
		// What an undo command left that did half and claimed all looks the same.
		halfLie := func(e event) bool { return e.Back && e.Fault == actPartLie }
		return h.outsiderOn(s) || !s.Restorable && (of("undo.end", halfLie) || of("do.end", halfLie))
	case backstay.CauseAmbiguous:
		return len(h.doOf(s.ID)) > 0 && (s.Effect == backstay.AtMostOnce || s.Pivot || !s.HasUndo)
	case backstay.CauseUnreachable:
		return of("seen", func(e event) bool { return e.Fault != "" })
	case backstay.CauseDeadline:
		hung := func(e event) bool { return strings.HasPrefix(e.Fault, actHang) }
		return of("undo.end", hung) || of("do.end", hung)
	case backstay.CauseIncompatible, backstay.CauseLedgerDamage: // nothing here makes these true
	case backstay.CauseStepFailed, backstay.CauseVerifyFailed, backstay.CauseBakeFailed, backstay.CauseGateFailed, backstay.CauseAborted, backstay.CauseSignalled,
		backstay.CauseBudget, backstay.CauseNotApproved, backstay.CauseCrashed: // these turn around, they hold nothing
	}
	return false
}

// outsiderDuringUndo reports whether somebody wrote, while the step was undone,
// what looks as if its undo had failed: anything, if a command undoes it; else
// the very value that was there when the undo began.
func (h *history) outsiderDuringUndo(s backstay.Step) bool {
	return slices.ContainsFunc(h.undos, func(u span) bool {
		return u.step == s.ID && slices.ContainsFunc(h.journal[u.look:u.till], func(e event) bool {
			_, ok := keyOf(s, e.Cell)
			return e.Kind == "outsider" && ok && (!s.Restorable || e.New == h.valueAt(e.Cell, u.look))
		})
	})
}

// stoppedOnlyDependents: what is not undone has a reason of its own or a step
// that needs it and failed; the rest was undone (I11).
func (h *history) stoppedOnlyDependents() {
	if h.row.State != backstay.Held || h.pastPivot() {
		return
	}
	for _, s := range h.plan.Steps {
		if len(h.doOf(s.ID)) == 0 || h.undone(s.ID) || !h.touched(s.ID) {
			continue
		}
		own := !s.HasUndo || h.outsiderOn(s) || h.had(func(e event) bool {
			return e.Step == s.ID && (e.Back && e.Kind == "undo.end" && (e.Err != "" || strings.Contains(e.Fault, actLie)) || e.Kind == "seen" && e.Fault != "" ||
				e.Back && e.Kind == "do.end" && (e.Err != "" || strings.Contains(e.Fault, actLie)))
		})
		blocked := slices.ContainsFunc(h.needing(s.ID), func(d backstay.Step) bool {
			return len(h.doOf(d.ID)) > 0 && !h.undone(d.ID) && d.HasUndo
		})
		if !own && !blocked {
			h.violate("I11: step %s was not undone, and nothing that needs it stood in its way", s.ID)
		}
	}
}

// leftovers: what a keeper kept is let go of only at the end, and only then.
func (h *history) leftovers() {
	for i, e := range h.journal {
		if e.Kind == "settle" && !e.Back && i > 0 {
			committed := slices.ContainsFunc(h.journal[:i], func(o event) bool {
				var body backstay.TransitionBody
				return o.Kind == "entry" && o.Entry.Kind == backstay.EntryTransition && o.Entry.Decode(&body) == nil && body.To == backstay.Committed
			})
			if !committed {
				h.violate("I10: step %s let go of what its undo needs before the commit", e.Step)
			}
		}
	}
	if h.row.State == backstay.Proven {
		for step := range h.kept {
			failed := h.had(func(e event) bool { return e.Kind == "settle" && e.Step == step && e.Fault != "" })
			if !failed {
				h.violate("I1: proven, and step %s still keeps what its undo needed", step)
			}
		}
	}
}

// dialInOne: a dial that nobody else moved goes back in one move, straight to
// what was there before the first, never through a notch in between. (In random
// plans other steps may stand between two moves.)
func (h *history) dialInOne() {
	for _, e := range h.journal {
		s := h.step(e.Step)
		if e.Kind != "write" || !e.Back || s.Dial == "" || !strings.HasPrefix(h.sc.name, "dial") && !strings.HasPrefix(h.sc.name, "release-canary") {
			continue
		}
		if _, theirs := h.lastOutsider(e.Cell, len(h.journal)); theirs {
			continue // what stands between two moves is kept or gone through
		}
		if pre, _, ok := h.pre(e.Cell); ok && e.New != pre {
			h.violate("dial: step %s moved %s back to %q, and it began at %q", e.Step, e.Cell, e.New, pre)
		}
	}
}
