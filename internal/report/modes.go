package report

import (
	"fmt"
	"slices"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/plan"
)

// life answers what becomes of a deployment of one plan: from its steps'
// promises and the transition table.
type life struct {
	plan  *plan.Plan
	moves []Move
	after map[string]bool // the steps that need the point of no return
}

func newLife(p *plan.Plan, moves []Move) *life {
	l := &life{plan: p, moves: moves, after: map[string]bool{}}
	if p.Pivot == "" {
		return l
	}
	for _, s := range p.Steps { // in an order that satisfies needs
		if slices.ContainsFunc(s.Needs, func(n string) bool { return n == p.Pivot || l.after[n] }) {
			l.after[s.ID] = true
		}
	}
	return l
}

func (l *life) afterPivot(id string) bool { return l.after[id] }

// irreversibleAfter lists the steps without undo that come after a wait.
func (l *life) irreversibleAfter(id string) []string {
	reach := map[string]bool{id: true}
	var out []string
	for _, s := range l.plan.Steps {
		if slices.ContainsFunc(s.Needs, func(n string) bool { return reach[n] }) {
			reach[s.ID] = true
			if s.Class == backstay.Irreversible {
				out = append(out, s.ID)
			}
		}
	}
	return out
}

// goes is where an event leads from a state, in words, by the table.
func (l *life) goes(from backstay.State, event string) string {
	for _, m := range l.moves {
		if m.From == from && m.Event == event {
			return fmt.Sprintf("%s → %s (%s)", stateWords(m.From), stateWords(m.To), m.Why)
		}
	}
	return fmt.Sprintf("nothing: the table has no %s from %s", event, stateWords(from))
}

// modes is the decision tree of one step.
func (l *life) modes(st backstay.Step, e backstay.Explanation) []Mode {
	probes := len(e.Probe) > 0
	if st.Hold != nil {
		return l.holdModes(st)
	}
	if st.Gate != nil {
		return l.gateModes(st)
	}
	out := []Mode{
		l.changedBefore(st),
		l.fails(st, probes),
		{If: fmt.Sprintf("it does not end within %s", st.Timeout), Then: "it is ended, with everything that it started, and counts as failed with cause deadline; it is not tried again within the attempt", Sub: []Mode{l.turns(st)}},
		l.killed(st, probes),
		l.leaseLost(st),
		l.changedAfter(st),
		l.undoFails(st),
	}
	if l.plan.Within > 0 && !l.after[st.ID] {
		out = slices.Insert(out, 0, Mode{If: fmt.Sprintf("undoing what is done and this step would take longer than rollback.within %s", l.plan.Within), Then: "it does not begin; cause rollback_budget", Sub: []Mode{{If: "always", Then: l.goes(backstay.Running, "fail")}}})
	}
	return out
}

// holdModes is the tree of a wait for people.
func (l *life) holdModes(st backstay.Step) []Mode {
	who := number(st.Hold.Count, "person agrees", "people agree")
	late := "nobody agrees"
	if st.Hold.Within > 0 {
		late += " within " + st.Hold.Within.String()
	}
	turned := l.goes(backstay.Holding, "fail")
	if l.after[st.ID] {
		turned = l.goes(backstay.Holding, "stick")
	}
	return []Mode{
		{If: who, Then: l.goes(backstay.Holding, "resume")},
		{If: late, Then: "cause not_approved: " + turned},
		{If: "somebody asks for a rollback meanwhile", Then: turned},
		l.reported(st),
		{If: "an approval is for another plan, comes too late, or is of somebody who may not agree", Then: "it is refused, recorded, and changes nothing"},
		{If: "the process that waits is killed", Then: "the wait and its deadline are in the ledger: `backstay recover` or an agent goes on waiting"},
	}
}

// gateModes is the tree of a wait for evidence.
func (l *life) gateModes(st backstay.Step) []Mode {
	out := []Mode{{If: "its time is over and every check passed as long as it must", Then: "the next step begins"}}
	if len(st.Gate.Checks) > 0 {
		out = append(out,
			Mode{If: "a check fails as often in a row as it may not", Then: "cause gate_failed", Sub: []Mode{l.turns(st)}},
			l.undecided(st))
	}
	return append(out, l.reported(st), Mode{If: "the process that waits is killed", Then: "`backstay recover` or an agent begins the wait anew"})
}

// undecided is what becomes of a gate whose time is over without an answer.
func (l *life) undecided(st backstay.Step) Mode {
	m := Mode{If: fmt.Sprintf("it is undecided after %s", st.Gate.Within), Then: "no evidence is no pass: cause gate_failed", Sub: []Mode{l.turns(st)}}
	switch st.Gate.Undecided {
	case backstay.HoldUndecided:
		m.Then, m.Sub = "it waits for evidence, or for a person: `backstay promote DEPLOYMENT` or `backstay rollback DEPLOYMENT`", nil
	case backstay.PromoteUndecided:
		m.Then, m.Sub = "it goes on, as its policy says, and the ledger says with what evidence", nil
	case backstay.RollBackUndecided:
	}
	return m
}

// reported is what a report from outside does to a deployment that waits.
func (l *life) reported(st backstay.Step) Mode {
	then := "cause signalled: " + l.goes(backstay.Holding, "fail")
	if l.after[st.ID] {
		then = "it is refused, and kept: the point of no return is passed"
	}
	return Mode{If: "somebody, or a monitor's webhook, reports that it is bad (backstay signal)", Then: then}
}

// turns is where a failed step leads to.
func (l *life) turns(st backstay.Step) Mode {
	switch {
	case st.Pivot:
		return Mode{If: "always", Then: "it is the point of no return", Sub: []Mode{
			{If: "it reads as before: it changed nothing", Then: l.goes(backstay.Running, "fail")},
			{If: "it changed something, or nothing can tell", Then: l.goes(backstay.Running, "stick")},
		}}
	case l.after[st.ID] && st.Effect == backstay.AtMostOnce:
		return Mode{If: "always", Then: "the point of no return is passed and it must not be repeated: " + l.goes(backstay.Running, "stick")}
	case l.after[st.ID]:
		return Mode{If: "always", Then: "the point of no return is passed: it is driven forward, several times with growing pauses", Sub: []Mode{
			{If: "it still fails", Then: l.goes(backstay.Running, "stick")},
		}}
	}
	return Mode{If: "always", Then: l.goes(backstay.Running, "fail") + "; steps under way are ended, then everything that was done is undone, newest first"}
}

func (l *life) fails(st backstay.Step, probes bool) Mode {
	m := Mode{If: "it fails, or what is read back is not what the plan wants", Then: "no success is believed that cannot be read back"}
	if len(st.Want) == 0 {
		m.If, m.Then = "it fails", "its own word counts, and what is read afterwards is kept for the undo"
	}
	may := "the error may pass (" + string(backstay.WordTransient) + ")"
	switch {
	case st.Effect == backstay.AtMostOnce:
		m.Sub = append(m.Sub, Mode{If: may, Then: "it is not tried again: nothing tells whether it took effect"})
	case st.Effect == backstay.Probed && !probes:
		m.Sub = append(m.Sub, Mode{If: may, Then: "it is not tried again: it has no probe command that tells whether it took effect"})
	case st.Retries > 0 && st.Effect == backstay.Probed:
		m.Sub = append(m.Sub, Mode{If: may, Then: fmt.Sprintf("its probe is asked first; only where it says not done, it is tried again, at most %s", number(st.Retries, "time", "times"))})
	case st.Retries > 0:
		m.Sub = append(m.Sub, Mode{If: may, Then: fmt.Sprintf("it is tried again with growing pauses, at most %s and within %s", number(st.Retries, "time", "times"), st.Timeout)})
	default:
		m.Sub = append(m.Sub, Mode{If: may, Then: "it is not tried again: the step allows no retries"})
	}
	last := l.turns(st)
	last.If = fmt.Sprintf("it still fails, the error is for good (%s), or something outside disagrees (%s)", backstay.WordPersistent, backstay.WordSystemic)
	m.Sub = append(m.Sub, last)
	return m
}

// readableStep reports whether anything of the step's keys can be read. (All
// of them can where it has a read summary.)
func readableStep(st backstay.Step) bool { return st.ReadSummary != "" || st.Restorable }

func (l *life) killed(st backstay.Step, probes bool) Mode {
	m := Mode{If: "Backstay is killed, or the host goes down, while it acts (in doubt)", Then: "`backstay recover` or an agent takes over once the lease is over; what the step left running is ended; then the target is looked at"}
	if st.ReadSummary != "" {
		m.Sub = append(m.Sub, Mode{If: "everything reads as before", Then: "not applied: it begins again"})
	}
	if len(st.Want) > 0 {
		m.Sub = append(m.Sub, Mode{If: "everything reads as the plan wants it", Then: "applied: the deployment goes on"})
	}
	if st.Effect == backstay.Probed && probes {
		m.Sub = append(m.Sub, Mode{If: "its probe answers", Then: "applied or not applied, as it says"})
	}
	last := Mode{If: "none of these"}
	if len(m.Sub) == 0 {
		last.If = "always"
	}
	switch {
	case l.after[st.ID] || st.Pivot:
		last.Then = "it may be half done, past the point of no return: " + l.goes(backstay.Running, "stick") + ", cause ambiguous"
		if st.Effect != backstay.AtMostOnce && !st.Pivot {
			last.Then = "it may be half done, past the point of no return: it is driven forward"
		}
	case st.Effect == backstay.Idempotent && st.Restorable:
		last.Then = "half done: " + l.goes(backstay.Running, "fail") + "; what its own resources hold is its partial effect and is put back"
	default:
		last.Then = "unknown, and never repeated blindly: " + l.goes(backstay.Running, "fail") + "; its undo bears an act that stopped anywhere"
	}
	m.Sub = append(m.Sub, last)
	return m
}

func (l *life) leaseLost(st backstay.Step) Mode {
	m := Mode{If: "the process that drives it loses its lease (paused, cut off)", Then: "the act is ended at once and nothing more is written; another process takes over"}
	if st.Fence == backstay.Fenced {
		m.Sub = []Mode{{If: "its effect still reaches the target", Then: "the target refuses the stale actor"}}
		return m
	}
	window := "for a moment"
	if st.Window > 0 {
		window = "up to " + st.Window.String() + " later"
	}
	m.Sub = []Mode{{If: "its effect still reaches the target", Then: "the target cannot refuse it: it could land " + window + "; what is read back by the successor decides"}}
	return m
}

func (l *life) changedBefore(st backstay.Step) Mode {
	m := Mode{If: "somebody changed one of its resources after the plan was made (drift)", Then: "it does not begin and nothing is touched; cause drift", Sub: []Mode{l.turns(st)}}
	if len(st.Before) == 0 {
		return Mode{If: "somebody changed one of its resources after the plan was made (drift)", Then: "it is not noticed before the step: nothing can read them, or an earlier step changes them"}
	}
	m.Sub[0].If = "always"
	if !l.after[st.ID] {
		m.Sub[0] = Mode{If: "always", Then: l.goes(backstay.Running, "fail")}
	}
	return m
}

func (l *life) changedAfter(st backstay.Step) Mode {
	m := Mode{If: "somebody changes one of its resources after it is done (drift)"}
	if !readableStep(st) {
		m.Then = "it is not noticed: nothing can read them"
		return m
	}
	m.Then = "verification reads it before the commit; it does not pass"
	if st.Restorable {
		m.Sub = []Mode{{If: "it is rolled back then", Then: "the later value is kept, reported, and everything else is put back"}}
	} else {
		m.Sub = []Mode{{If: "it is rolled back then", Then: "its undo command could overwrite the later value and does not run: " + l.goes(backstay.RollingBack, "stick") + ", cause drift"}}
	}
	return m
}

func (l *life) undoFails(st backstay.Step) Mode {
	if !st.HasUndo {
		return Mode{If: "the deployment goes back after it took effect", Then: "it has no undo: " + l.goes(backstay.RollingBack, "stick") + ", cause no_undo"}
	}
	proof := "what reads as before counts as restored, whatever the undo says"
	if !readableStep(st) {
		proof = "nothing can be read back: the undo's own word counts, and the report says so"
	}
	stick := l.goes(backstay.RollingBack, "stick")
	if users := l.dependents(st.ID); len(users) > 0 {
		stick += "; the steps that it needs stay as they are, the rest is still undone"
	}
	return Mode{If: fmt.Sprintf("its undo fails, or does not end within %s", st.UndoTimeout), Then: "an error that may pass is tried again, three times; " + proof, Sub: []Mode{
		{If: "it still fails", Then: stick + ", cause undo_failed or deadline"},
		{If: "Backstay is killed in the middle of it", Then: "it is looked at and done again: an undo bears that"},
	}}
}

// dependents are the steps that need this one.
func (l *life) dependents(id string) []string {
	var out []string
	for _, s := range l.plan.Steps {
		if slices.Contains(s.Needs, id) {
			out = append(out, s.ID)
		}
	}
	return out
}

// leadingTo lists the steps that can hold the deployment for a cause.
func (l *life) leadingTo(cause backstay.Cause) []string {
	var out []string
	for _, s := range l.plan.Steps {
		if !s.Waits() && leads(s, l.after[s.ID], l.plan.ExcludesAfter(s.ID), cause) {
			out = append(out, s.ID)
		}
	}
	return out
}

func leads(s backstay.Step, after, excluded bool, cause backstay.Cause) bool {
	switch cause {
	case backstay.CauseNoUndo:
		return !s.HasUndo || after
	case backstay.CauseUndoFailed, backstay.CauseDeadline:
		return s.HasUndo
	case backstay.CauseDrift:
		return s.HasUndo && !s.Restorable && readableStep(s)
	case backstay.CauseAmbiguous:
		return s.Effect == backstay.AtMostOnce && (after || s.Pivot)
	case backstay.CauseUnreachable:
		return readableStep(s)
	case backstay.CauseLedgerDamage:
		return len(s.Keys) > 0
	case backstay.CauseIncompatible:
		return excluded
	case backstay.CauseStepFailed, backstay.CauseVerifyFailed, backstay.CauseBakeFailed, backstay.CauseGateFailed, backstay.CauseAborted, backstay.CauseSignalled, backstay.CauseBudget, backstay.CauseNotApproved, backstay.CauseCrashed:
	}
	return false
}
