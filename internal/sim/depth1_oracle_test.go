package sim

import (
	"maps"
	"slices"
	"strings"

	"github.com/backstay-dev/backstay"
)

// The oracle: what DESIGN §3 says must be true of a run, computed from the
// journal of the world and the entries of the ledger alone. It shares no code
// with the engine and was written without looking at it.

// span is one act of a step as the ledger brackets it, in places of the
// journal: the last look before it, the entry that opened it, the one that
// closed it (the end of the journal where nothing did).
type span struct {
	step             string
	look, from, till int
	entry            *backstay.Entry // that closed it, or nil
	opened           *backstay.Entry
}

// history is a run's journal, indexed.
type history struct {
	*record
	dos, undos []span
	settledAt  int // place of the last transition
	cells      []string
	last       backstay.TransitionBody
	turned     *backstay.TransitionBody // the transition that turned the deployment around
	states     []backstay.State
}

func judge(r *record) {
	h := &history{record: r}
	if !r.exists {
		h.untouched()
		return
	}
	h.index()
	h.grammar()
	h.acknowledged()
	h.writeAhead()
	h.epochs()
	h.effectCounts()
	h.compensations()
	h.undoOrder()
	h.commitTruth()
	h.neighbours()
	h.overwritten()
	h.justifiedTurn()
	h.onlyOnward()
	h.withinBudget()
	h.decisions()
	h.leftovers()
	h.dialInOne()
	h.traffic()
	h.secrets()
	if r.row.State == backstay.RolledBack || r.row.State == backstay.Held {
		h.restored()
		h.residueTrue()
		h.stoppedOnlyDependents()
	}
}

// untouched holds when nothing was deployed: nobody but outsiders wrote.
func (h *history) untouched() {
	for _, e := range h.journal {
		if e.Kind == "write" || e.Kind == "do" || e.Kind == "undo" {
			h.violate("I1: nothing is in the ledger, yet step %s did %s %s", e.Step, e.Kind, e.Cell)
		}
	}
}

// index finds the spans, the transitions and every cell that ever had a value.
func (h *history) index() {
	names := map[string]bool{}
	for c := range h.before {
		names[c] = true
	}
	for c := range h.after {
		names[c] = true
	}
	looks := map[string]int{}
	openAt := map[string]int{}
	closeAct := func(step string, at int, e *backstay.Entry) {
		if i, ok := openAt[step]; ok {
			all := &h.dos
			if h.journal[i].Entry.Kind == backstay.EntryUndoIntent {
				all = &h.undos
			}
			*all = append(*all, span{step: step, look: h.lookBefore(step, i), from: i, till: at, entry: e, opened: h.journal[i].Entry})
			delete(openAt, step)
		}
	}
	for i, e := range h.journal {
		if e.Cell != "" {
			names[e.Cell] = true
		}
		if e.Kind == "seen" {
			looks[e.Step] = i
		}
		if e.Kind != "entry" {
			continue
		}
		switch kind := e.Entry.Kind; {
		case opens(kind):
			closeAct(e.Step, i, nil)
			openAt[e.Step] = i
		case closes(kind):
			closeAct(e.Step, i, e.Entry)
		case kind == backstay.EntryTransition:
			var body backstay.TransitionBody
			if err := e.Entry.Decode(&body); err != nil {
				h.violate("I13: transition %d: %v", e.Entry.N, err)
				continue
			}
			h.last, h.settledAt = body, i
			h.states = append(h.states, body.To)
			if (body.To == backstay.RollingBack || body.To == backstay.Held) && h.turned == nil {
				h.turned = &body
			}
		}
	}
	for step := range maps.Clone(openAt) {
		closeAct(step, len(h.journal), nil)
	}
	h.cells = slices.Sorted(maps.Keys(names))
}

// lookBefore is the last read for the step before a place, or the place.
func (h *history) lookBefore(step string, at int) int {
	for i := at - 1; i >= 0; i-- {
		if h.journal[i].Kind == "seen" && h.journal[i].Step == step {
			return i
		}
	}
	return at
}

func (h *history) step(id string) backstay.Step {
	s, _ := h.plan.Step(id)
	return s
}

// covering are the steps of the plan that have the cell in scope.
func (h *history) covering(cell string) []backstay.Step {
	var all []backstay.Step
	for _, s := range h.plan.Steps {
		if _, ok := keyOf(s, cell); ok {
			all = append(all, s)
		}
	}
	return all
}

func keyOf(s backstay.Step, cell string) (backstay.Key, bool) {
	for _, k := range s.Keys {
		if _, ok := partOf(k, cell); ok {
			return k, true
		}
	}
	return "", false
}

func (h *history) opaque(cell string) bool {
	return slices.ContainsFunc(h.sc.opaque, func(k backstay.Key) bool { _, ok := partOf(k, cell); return ok })
}

// valueAt is the cell's value just before a place of the journal.
func (h *history) valueAt(cell string, at int) string {
	for i := at - 1; i >= 0; i-- {
		e := h.journal[i]
		if e.Cell == cell && (e.Kind == "write" || e.Kind == "outsider") {
			return e.New
		}
	}
	return h.before[cell]
}

// needing are the steps that need the step, directly or not.
func (h *history) needing(id string) []backstay.Step {
	in := map[string]bool{id: true}
	var all []backstay.Step
	for range h.plan.Steps {
		for _, s := range h.plan.Steps {
			if !in[s.ID] && slices.ContainsFunc(s.Needs, func(n string) bool { return in[n] }) {
				in[s.ID] = true
				all = append(all, s)
			}
		}
	}
	return all
}

// doOf are the forward spans of a step, or of all.
func (h *history) doOf(id string) []span {
	return slices.DeleteFunc(slices.Clone(h.dos), func(s span) bool { return s.step != id })
}

// undone reports whether a compensation says that the step is taken back.
func (h *history) undone(id string) bool {
	_, ok := h.compensated(id)
	return ok
}

func (h *history) compensated(id string) (place int, ok bool) {
	for i, e := range h.journal {
		if e.Kind == "entry" && e.Step == id && e.Entry.Kind == backstay.EntryCompensation {
			var body backstay.CompensationBody
			if e.Entry.Decode(&body) == nil && body.Result != "failed" {
				return i, true
			}
		}
	}
	return 0, false
}

// touched reports whether a step wrote anything forward.
func (h *history) touched(id string) bool {
	return slices.ContainsFunc(h.journal, func(e event) bool { return e.Kind == "write" && e.Step == id && !e.Back })
}

func (h *history) had(pred func(event) bool) bool { return slices.ContainsFunc(h.journal, pred) }

// justifiedTurn: without a failure, a doubt, an outsider or a person's word a
// deployment goes on to its end (I1, decision 0005).
func (h *history) justifiedTurn() {
	if h.row.State == backstay.Proven || h.sc.reason() {
		return
	}
	if h.row.State != backstay.RolledBack && h.row.State != backstay.Held {
		h.violate("I1: ended %s", h.row.State)
		return
	}
	if h.had(func(e event) bool {
		switch e.Kind {
		case "do.end", "undo.end":
			return e.Err != "" || strings.Contains(e.Fault, actLie)
		case "seen", "check":
			return e.Fault != ""
		case "outsider", "signal":
			return true
		case "settle":
			return e.Fault != ""
		}
		return false
	}) || h.doubtful() {
		return
	}
	h.violate("I1: ended %s for no reason: %+v", h.row.State, h.turned)
}

// reason reports whether the scenario itself never ends well.
func (sc scenario) reason() bool {
	return sc.unlucky || sc.name == "budget" || strings.HasPrefix(sc.name, "approval")
}

// doubtful reports whether a process ever began with an open intent whose
// effect was partial, or which nobody could know about.
func (h *history) doubtful() bool {
	for i, e := range h.journal {
		if e.Kind != "resume" || e.Proc == 1 {
			continue
		}
		for _, s := range h.dos {
			if s.from > i || s.till < i {
				continue
			}
			step := h.step(s.step)
			blind := slices.ContainsFunc(step.Keys, func(k backstay.Key) bool { return slices.Contains(h.sc.opaque, k) })
			if blind && step.Effect != backstay.Probed {
				return true
			}
			wrote := 0
			for _, w := range h.journal[s.from:i] {
				if w.Kind == "write" && w.Step == s.step {
					wrote++
				}
			}
			// Without a wanted image a reader cannot tell all from half.
			tellable := step.Want != nil || step.Effect == backstay.Probed || step.Reverts != nil && step.Restorable
			if wrote > 0 && (wrote < h.changes(step) || !tellable) {
				return true
			}
		}
	}
	return false
}

// changes is how many writes a whole forward act of the step has; a step of a
// revert runs the undo of what it reverts.
func (h *history) changes(s backstay.Step) int {
	b := bodyOf(s)
	switch {
	case s.Reverts == nil, s.Restorable:
		return len(b.Do)
	}
	return len(b.Undo)
}

// onlyOnward: once the point of no return changed something, nothing is taken
// back, unless a person asks for it afterwards (decision 0005).
func (h *history) onlyOnward() {
	passed := false
	for _, e := range h.journal {
		switch {
		case e.Kind == "write" && e.Step == h.plan.Pivot && !e.Back:
			passed = true
		case e.Kind == "entry" && e.Entry.Kind == backstay.EntrySignal && strings.Contains(string(e.Entry.Body), `"signal":"retry"`):
			return
		case passed && e.Kind == "write" && e.Back:
			h.violate("I11: step %s was taken back past the point of no return", e.Step)
		}
	}
}

// withinBudget: no step begins after one whose do took longer than all undos
// together may take, where that do was measured (DESIGN §5).
func (h *history) withinBudget() {
	over := false
	for _, e := range h.journal {
		if e.Kind != "entry" || h.plan.Within == 0 {
			continue
		}
		var body backstay.OutcomeBody
		switch {
		case e.Entry.Kind == backstay.EntryIntent && over && !h.step(e.Step).Waits():
			h.violate("budget: step %s began although undoing would take longer than %v", e.Step, h.plan.Within)
		case e.Entry.Kind == backstay.EntryOutcome && e.Entry.Decode(&body) == nil && body.OK:
			over = over || body.Duration > h.plan.Within
		}
	}
}
