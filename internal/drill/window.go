package drill

import (
	"bytes"
	"strings"

	"github.com/backstay-dev/backstay"
)

// window names the time in which an outsider's write cannot be told from the
// steps' own work (docs/decisions/0008), or is "". It is told from what the
// ledger held when he wrote.
func (j *judge) window(w write) string {
	open := map[string]backstay.EntryKind{}
	begun := map[string]bool{}
	for _, e := range j.entries[:min(w.n, len(j.entries))] {
		switch e.Kind {
		case backstay.EntryIntent:
			open[e.Step], begun[e.Step] = e.Kind, true
		case backstay.EntryUndoIntent:
			open[e.Step] = e.Kind
		case backstay.EntryOutcome, backstay.EntryObserved, backstay.EntryCompensation:
			delete(open, e.Step)
		case backstay.EntryPlanned, backstay.EntryTransition, backstay.EntryVerdict, backstay.EntrySignal, backstay.EntrySettled,
			backstay.EntryTakeover, backstay.EntryNote, backstay.EntryRefused, backstay.EntryLockBroken, backstay.EntryDrill, backstay.EntryFlag, backstay.EntryMitigation:
		}
	}
	later := map[string]bool{} // began after he wrote
	for _, e := range j.entries[min(w.n, len(j.entries)):] {
		if e.Kind == backstay.EntryIntent && !begun[e.Step] {
			later[e.Step] = true
			if overlooked(e, w) {
				return "between the last look of step " + e.Step + " and its act"
			}
		}
	}
	for i, st := range j.m.plan.Steps {
		switch {
		case open[st.ID] == backstay.EntryIntent && covers(st, w.at):
			return "while step " + st.ID + " was under way"
		case open[st.ID] == backstay.EntryUndoIntent && covers(st, w.at):
			return "while the undo of step " + st.ID + " was under way"
		case later[st.ID] && !j.frozen(st, w.at) && j.changedEarlier(i, w.at):
			return "between two steps that change it"
		case (begun[st.ID] || later[st.ID]) && above(w.at, st):
			return "in the directory above what step " + st.ID + " changes"
		}
	}
	return ""
}

// overlooked reports whether a step that began after the write had looked before
// it: its intent tells of another value.
func overlooked(intent backstay.Entry, w write) bool {
	var body backstay.IntentBody
	if intent.Decode(&body) != nil {
		return false
	}
	for k, state := range body.Before.Inline {
		if part, ok := partAt(k, w.at); ok && !bytes.Equal(state.Parts[part], w.to) {
			return true
		}
	}
	return false
}

// frozen reports whether the plan says what a step must find at a place, or the
// step does not have it.
func (j *judge) frozen(st backstay.Step, at place) bool {
	for _, k := range st.Keys {
		if _, ok := partAt(k, at); ok {
			_, fixed := st.Before[k]
			return fixed
		}
	}
	return true
}

// changedEarlier reports whether a step before this one changes the place, or
// what lies above it.
func (j *judge) changedEarlier(i int, at place) bool {
	for _, st := range j.m.plan.Steps[:i] {
		if covers(st, at) {
			return true
		}
	}
	return false
}

// above reports whether the place is a directory above one of the step's keys.
func above(at place, st backstay.Step) bool {
	for _, k := range st.Keys {
		if k.Kind() == "file" && strings.HasPrefix(string(k), string(at)+"/") {
			return true
		}
	}
	return false
}
