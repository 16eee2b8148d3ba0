package drill

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/fault"
)

// judge compares what a cell left with what was there before. It knows the
// world, its journal and what the deployment said at its end, nothing of how
// the engine decides.
type judge struct {
	outcome
	m        *model
	real     map[string]bool // steps that are no model's business (level D2)
	diff     []place         // that do not read as before
	modulo   []string
	findings []backstay.DrillFinding
}

// verdict is the cell as the report has it.
func (o outcome) verdict() backstay.DrillCell {
	t := o.trial
	out := backstay.DrillCell{Level: t.level, Step: t.step, Fault: t.name, End: o.state}
	j := &judge{outcome: o, m: t.m, diff: differing(t.m.start, o.after)}
	idle := t.inject.Idle()
	switch {
	case o.hung:
		out.Result = backstay.DrillHung
		return out
	case len(idle) > 0 && o.err == nil:
		out.Result, out.Reason, out.End = backstay.DrillNotRun, "it never came to that: "+neverCame(idle[0]), ""
		return out
	case t.unnoticed() != "":
		out.Result, out.Reason, out.End = backstay.DrillNotRun, t.unnoticed(), ""
		return out
	}
	out.Result = j.result()
	out.Modulo, out.Findings = slices.Compact(slices.Sorted(slices.Values(j.modulo))), j.findings
	if out.Result != backstay.DrillModulo {
		out.Modulo = nil
	}
	return out
}

// neverCame says why a fault may not have happened.
func neverCame(p fault.Planted) string {
	switch {
	case p.Undoes() || p.Scope == fault.OfUndo:
		return "the step is not taken back by an act of its own"
	case p.Crashes():
		return "the deployment does not pass this moment"
	}
	return "the step does not act"
}

// unnoticed says why nobody would notice what the fault was: an undo that lies
// about keys that nothing can read. That is outside of what the plan promises.
func (t *trial) unnoticed() string {
	for _, p := range t.planted {
		if unread := t.m.unread(p.Step); p.LyingUndo() && len(unread) > 0 {
			return fmt.Sprintf("nothing reads %s, so nobody would notice: give the step a read", unread[0])
		}
	}
	return ""
}

func (j *judge) find(step string, key backstay.Key, part, format string, args ...any) {
	j.findings = append(j.findings, backstay.DrillFinding{Step: step, Key: key, Part: part, Text: fmt.Sprintf(format, args...)})
}

// findAt is find about a place.
func (j *judge) findAt(at place, format string, args ...any) {
	j.findings = append(j.findings, j.m.about(at, j.writes, fmt.Sprintf(format, args...)))
}

// about is a finding about a place: its owner's, or, where it is no step's, of
// the step that wrote it last.
func (m *model) about(at place, writes []write, text string) backstay.DrillFinding {
	st, k := m.owner(at)
	if k != "" {
		part, _ := partAt(k, at)
		return backstay.DrillFinding{Step: st.ID, Key: k, Part: part, Text: text}
	}
	f := backstay.DrillFinding{Key: backstay.Key(at.String()), Text: text}
	for _, w := range writes {
		if w.at == at {
			f.Step = w.step
		}
	}
	return f
}

// result looks at everything that must hold and says how the cell ended.
func (j *judge) result() backstay.DrillResult {
	if j.err != nil {
		j.find("", "", "", "the engine stopped: %v", j.err)
	}
	j.findings = append(append(j.findings, j.wrong...), j.trial.world.wrong...)
	j.scope()
	j.once()
	j.outsiders()
	if j.err == nil {
		j.ending()
	}
	switch {
	case len(j.findings) > 0:
		return backstay.DrillFailed
	case j.state == backstay.Held:
		return backstay.DrillHeld
	case len(j.modulo) > 0:
		return backstay.DrillModulo
	}
	return backstay.DrillRestored
}

// scope: no step writes outside of its own keys.
func (j *judge) scope() {
	for _, w := range j.writes {
		st, ok := j.m.plan.Step(w.step)
		if ok && !covers(st, w.at) {
			j.find(w.step, backstay.Key(w.at.String()), "", "its %s wrote to %s, which is none of its keys", w.verb, w.at)
			return
		}
	}
}

// once: what must not happen twice did not.
func (j *judge) once() {
	type done struct{ act, n int }
	acts := map[string]done{}
	for _, w := range j.writes {
		st, ok := j.m.plan.Step(w.step)
		if !ok || st.Effect != backstay.AtMostOnce || w.verb != fault.Do || w.act == acts[w.step].act {
			continue
		}
		acts[w.step] = done{w.act, acts[w.step].n + 1}
		if acts[w.step].n == 2 {
			j.find(w.step, "", "", "it was done twice, though it must be done at most once")
		}
	}
}

// outsiders: what somebody else wrote is still there, and was told of, unless
// nothing can tell it from the step's own work.
func (j *judge) outsiders() {
	for i, w := range j.writes {
		if w.step != "" {
			continue
		}
		st, k := j.m.owner(w.at)
		part, _ := partAt(k, w.at)
		blind := j.m.opaque[k]
		switch {
		case blind && !bytes.Equal(j.after[w.at], w.to):
			j.modulo = append(j.modulo, fmt.Sprintf("what somebody else wrote to %s is gone: nothing reads it, so it could not be told apart", k))
		case blind:
			j.modulo = append(j.modulo, fmt.Sprintf("what somebody else wrote to %s stays: nothing reads it", k))
		case !bytes.Equal(j.after[w.at], w.to) && j.window(w) != "":
			j.modulo = append(j.modulo, fmt.Sprintf("what somebody else wrote to %s %s is gone: it cannot be told from the step's own work", k, j.window(w)))
		case !bytes.Equal(j.after[w.at], w.to):
			by := "nobody"
			for _, later := range j.writes[i+1:] {
				if later.at == w.at {
					by = fmt.Sprintf("the %s of step %s", later.verb, later.step)
				}
			}
			j.find(st.ID, k, part, "what somebody else wrote was overwritten by %s", by)
		case j.state == backstay.RolledBack:
			told := slices.ContainsFunc(j.kept, func(r backstay.Residue) bool { return placeOf(r.Key, r.Part) == w.at })
			if !told && slices.Contains(j.diff, w.at) && !j.before(w) {
				j.find(st.ID, k, part, "what somebody else wrote stays, and the deployment does not say so")
			}
			j.modulo = append(j.modulo, fmt.Sprintf("what somebody else wrote to %s is kept", k))
		}
	}
}

// before reports whether an outsider wrote before any act of the key's steps:
// to the deployment that is what was there.
func (j *judge) before(w write) bool {
	for _, other := range j.writes {
		if other.at == w.at && other.step != "" {
			return false
		}
		if other.step == "" && other.at == w.at {
			return true
		}
	}
	return true
}

// theirs reports whether a place holds what somebody else wrote.
func (j *judge) theirs(at place) bool {
	return slices.ContainsFunc(j.writes, func(w write) bool {
		return w.step == "" && w.at == at && bytes.Equal(j.after[at], w.to)
	})
}

// ending: the state in which the deployment ended is true.
func (j *judge) ending() {
	if j.trial.commits && j.state != backstay.Proven {
		j.find("", "", "", "it was not committed although nothing was to go wrong: %s", j.why)
	}
	switch j.state {
	case backstay.Proven:
		if !j.trial.commits {
			j.find("", "", "", "it was committed although verify failed")
		}
		for _, at := range differing(j.m.end, j.after) {
			if st, _ := j.m.owner(at); j.real[st.ID] {
				continue
			}
			j.findAt(at, "committed, and reads %s instead of what the plan wants", shown(j.after[at]))
		}
	case backstay.RolledBack:
		for _, at := range j.diff {
			if !j.theirs(at) && !j.lost(at) {
				j.findAt(at, "rolled back, and reads %s instead of %s as before", shown(j.after[at]), shown(j.m.start[at]))
			}
		}
		j.equivalents()
	case backstay.Held:
		j.residueIsExact()
		for _, r := range j.residue {
			if why := j.unjustified(r); why != "" {
				j.find(r.Step, r.Key, r.Part, "held for %s, %s (%s)", r.Cause, why, r.Detail)
			}
		}
		if len(j.residue) == 0 && j.m.plan.Pivot == "" {
			j.find("", "", "", "held, and nothing says what differs")
		}
	case backstay.Refused, "":
		j.find("", "", "", "nothing was deployed: %s", j.refused)
		for _, at := range j.diff {
			if !j.theirs(at) {
				j.findAt(at, "refused, and yet it was changed")
			}
		}
	case backstay.Planned, backstay.Approved, backstay.Running, backstay.Holding, backstay.Committed, backstay.RollingBack, backstay.Closed:
		j.find("", "", "", "it ended %s, which is no end", j.state)
	}
}

// lost reports whether an outsider's value was taken for the step's own: what
// is there now is not ours to say.
func (j *judge) lost(at place) bool {
	_, k := j.m.owner(at)
	return slices.ContainsFunc(j.writes, func(w write) bool {
		return w.step == "" && w.at == at && (j.m.opaque[k] || j.window(w) != "")
	})
}

// equivalents: what the classes of the steps that acted leave out. A step that
// may run at the same time as the faulty one counts: whether it came to act is
// chance.
func (j *judge) equivalents() {
	for _, st := range j.m.plan.Steps {
		acted := slices.ContainsFunc(j.writes, func(w write) bool { return w.step == st.ID }) ||
			slices.ContainsFunc(j.entries, func(e backstay.Entry) bool { return e.Kind == backstay.EntryIntent && e.Step == st.ID })
		if acted || j.m.beside(st.ID, j.trial.step) {
			j.modulo = append(j.modulo, st.Modulo...)
		}
	}
}

// residueIsExact: the residue lists what differs, all of it, and nothing else.
func (j *judge) residueIsExact() {
	listed := map[place]bool{}
	whole := map[backstay.Key]bool{}
	for _, r := range j.residue {
		at := placeOf(r.Key, r.Part)
		listed[at] = true
		if j.real[r.Step] {
			continue // what differs from the host is held against it
		}
		if r.Unknown != "" {
			whole[r.Key] = true
			continue
		}
		if !same(r.Current, j.after[at]) {
			j.find(r.Step, r.Key, r.Part, "the residue says that it reads %s, it reads %s", shown(r.Current), shown(j.after[at]))
		}
		if !slices.Contains(j.diff, at) {
			j.find(r.Step, r.Key, r.Part, "the residue lists it, and it reads as before")
		}
	}
	for _, r := range j.kept {
		listed[placeOf(r.Key, r.Part)] = true
	}
	for _, at := range j.diff {
		_, k := j.m.owner(at)
		if !listed[at] && !whole[k] && !j.theirs(at) {
			j.findAt(at, "it reads %s instead of %s as before, and the residue does not say so", shown(j.after[at]), shown(j.m.start[at]))
		}
	}
}

func same(a, b json.RawMessage) bool { return bytes.Equal(a, b) }

// unjustified says why the cause of a residue is not true, or "".
func (j *judge) unjustified(r backstay.Residue) string {
	return unjustified(j.trial, j.passed(), r)
}

// unjustified is that of a trial that passed, or did not pass, the point of no
// return.
func unjustified(t *trial, passed bool, r backstay.Residue) string {
	st, _ := t.m.plan.Step(r.Step)
	switch r.Cause {
	case backstay.CauseNoUndo:
		if st.HasUndo && !passed {
			return "and the step has an undo"
		}
	case backstay.CauseUndoFailed, backstay.CauseDeadline:
		if !t.inject.Fired(fault.Fault.Undoes) && !t.inject.Fired(fault.Fault.Outsider) {
			return "and nothing was wrong with its undo"
		}
	case backstay.CauseDrift:
		if !t.inject.Fired(fault.Fault.Outsider) {
			return "and nobody else changed anything"
		}
	case backstay.CauseAmbiguous:
		if !passed || !t.inject.Fired(fault.Fault.Crashes) {
			return "and everything can be told"
		}
	case backstay.CauseUnreachable:
		if !t.inject.Fired(fault.Fault.Unreads) {
			return "and everything can be read"
		}
	case backstay.CauseIncompatible:
		if !t.m.plan.ExcludesAfter(r.Step) {
			return "and no schema that stays excludes what was before"
		}
	case backstay.CauseLedgerDamage, backstay.CauseStepFailed, backstay.CauseVerifyFailed, backstay.CauseBakeFailed, backstay.CauseGateFailed,
		backstay.CauseAborted, backstay.CauseSignalled, backstay.CauseBudget, backstay.CauseNotApproved, backstay.CauseCrashed:
		return "which is no cause for that"
	default:
		return "which is no cause at all"
	}
	return ""
}

// passed reports whether the point of no return was, or may have been, passed:
// its step was begun, and it is not read that it changed nothing.
func (j *judge) passed() bool {
	pivot, ok := j.m.plan.Step(j.m.plan.Pivot)
	if !ok {
		return false
	}
	begun := slices.ContainsFunc(j.entries, func(e backstay.Entry) bool { return e.Kind == backstay.EntryIntent && e.Step == pivot.ID })
	wrote := slices.ContainsFunc(j.writes, func(w write) bool { return w.step == pivot.ID })
	return begun && (wrote || len(j.m.unread(pivot)) > 0)
}
