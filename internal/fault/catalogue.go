package fault

// Scope is what a fault happens to.
type Scope int

// The scopes.
const (
	OfStep Scope = iota // a step that acts
	OfUndo              // the undo of such a step
	OfWait              // a step that waits for people
	OfAny               // either of them
	OfPlan              // no step in particular
)

// Fault is one way in which something goes wrong.
type Fault struct {
	Name   string
	What   string   // one line, for people
	Points []string // of the fault model, P1 to P19
	Scope  Scope

	do       act
	undo     act
	crash    []string // failpoints of the engine where the process dies, one after the other
	outsider moment
	control  control
}

// act is what becomes of one act.
type act int

const (
	normal      act = iota
	failsBefore     // an error, nothing done
	failsHalf       // half done, then an error
	failsAfter      // all done, then an error
	answerLost      // all done, then an error that invites another try
	failsOnce       // nothing done, an error that invites another try
	failsAlways     // each time: nothing done, an error
	hangs           // half done, then nothing until its time is over
	lies            // nothing done, success
	diesHalf        // half done, then the process dies
)

// moment is when somebody else changes a key of the step.
type moment int

const (
	never        moment = iota
	beforeDo            // after the plan was made, before the step looks
	afterOutcome        // when it was done and recorded
	duringUndo          // while its undo runs, after it has written
)

// control is what happens to the deployment as a whole.
type control int

const (
	nothing    control = iota
	noFault            // verify passes: everything goes forward
	verifyBad          // verify fails
	bakeBad            // verify passes, the bake fails
	abort              // a person aborts
	notAgreed          // nobody approves in time
	unreadable         // the step's keys cannot be read before it begins
)

// Names of the two faults that a drill treats by name.
const (
	Commits     = "commits"
	VerifyFails = "verify-fails"
)

// Catalogue lists every fault that can be injected, in the order of reports.
func Catalogue() []Fault {
	all := []Fault{
		{Name: Commits, What: "nothing goes wrong: everything is committed, and reads as the plan wants it", Scope: OfPlan, control: noFault},
		{Name: VerifyFails, What: "everything is done, then verify fails", Scope: OfPlan, control: verifyBad},
		{Name: "bake-fails", What: "everything is committed, then the bake fails", Scope: OfPlan, control: bakeBad},

		{Name: "do-fails-before", What: "the step fails and did nothing", Scope: OfStep, do: failsBefore},
		{Name: "do-fails-half", What: "the step fails when half of it is done", Scope: OfStep, do: failsHalf},
		{Name: "do-fails-after", What: "the step did everything and reports an error", Scope: OfStep, do: failsAfter},
		{Name: "do-answer-lost", What: "the step did everything; its answer is lost and it looks worth another try", Scope: OfStep, do: answerLost},
		{Name: "do-hangs", What: "the step hangs half-way, past its timeout", Scope: OfStep, do: hangs},
		{Name: "do-lies", What: "the step reports success and did nothing", Scope: OfStep, do: lies},
		{Name: "look-fails", What: "the step's keys cannot be read before it begins", Scope: OfStep, control: unreadable},

		{Name: "undo-fails-once", What: "the undo fails once, and works when tried again", Scope: OfUndo, undo: failsOnce},
		{Name: "undo-fails-always", What: "the undo fails each time", Scope: OfUndo, undo: failsAlways},
		{Name: "undo-answer-lost", What: "the undo did everything; its answer is lost and it is tried again", Scope: OfUndo, undo: answerLost},
		{Name: "undo-hangs", What: "the undo hangs half-way, past its timeout", Scope: OfUndo, undo: hangs},
		{Name: "undo-lies", What: "the undo reports success and did nothing", Scope: OfUndo, undo: lies},

		{Name: "outsider-before", What: "somebody else changes a key after the plan was made, before the step", Scope: OfStep, outsider: beforeDo},
		{Name: "outsider-between", What: "somebody else changes a key after the step, before its undo", Scope: OfStep, outsider: afterOutcome},
		{Name: "outsider-during-undo", What: "somebody else changes a key while the undo runs", Scope: OfUndo, outsider: duringUndo},

		{Name: "abort", What: "a person aborts while the step runs, or waits", Scope: OfAny, control: abort},
		{Name: "not-approved", What: "nobody approves in time", Scope: OfWait, control: notAgreed},
	}
	return append(all, crashes()...)
}

// crashes are the moments at which the process that drives the deployment dies.
// Another one takes over under the next epoch.
func crashes() []Fault {
	at := func(scope Scope, name, what, point string, points ...string) Fault {
		return Fault{Name: "crash-" + name, What: "the process dies " + what, Points: points, Scope: scope, crash: []string{point}}
	}
	return []Fault{
		at(OfPlan, "before-create", "before the deployment is recorded, though all was agreed", "create.before", "P19"),
		at(OfPlan, "after-create", "as soon as the deployment is recorded", "create.after", "P1", "P19"),
		at(OfAny, "before-intent", "before the step's intent is written", "intent.before", "P1"),
		at(OfAny, "after-intent", "when the intent is durable", "intent.after", "P3"),
		at(OfStep, "before-do", "when the step is about to act", "do.before", "P3"),
		{Name: "crash-in-do", What: "the process dies when half of the step is done", Points: []string{"P4"}, Scope: OfStep, do: diesHalf},
		at(OfStep, "after-do", "when the step is done, before anybody hears of it", "do.after", "P5"),
		at(OfAny, "before-outcome", "before the outcome is written", "outcome.before", "P5"),
		at(OfAny, "after-outcome", "when the outcome is durable, before what is next", "outcome.after", "P7"),
		{
			Name: "crash-in-recovery", What: "the process dies when the step is done, and the next one while it looks at what is there",
			Points: []string{"P5", "P15"}, Scope: OfStep, crash: []string{"do.after", "resolve.before"},
		},
		at(OfPlan, "before-verify", "when all steps are done, before verify", "verify.before", "P7"),
		at(OfPlan, "before-turn", "when it is decided to go back, before that is written", "transition.fail.before", "P8"),
		at(OfPlan, "after-turn", "when the decision to go back is durable", "transition.fail.after", "P8", "P9"),
		at(OfUndo, "before-undo-intent", "before the undo's intent is written", "undo_intent.before", "P9"),
		at(OfUndo, "after-undo-intent", "when the undo's intent is durable", "undo_intent.after", "P9"),
		at(OfUndo, "before-undo", "when the undo is about to act", "undo.before", "P9"),
		{Name: "crash-in-undo", What: "the process dies when half of the undo is done", Points: []string{"P10"}, Scope: OfUndo, undo: diesHalf},
		at(OfUndo, "after-undo", "when the undo is done, before anybody hears of it", "undo.after", "P11"),
		at(OfUndo, "before-compensation", "before the compensation record is written", "compensation.before", "P11"),
		at(OfUndo, "after-compensation", "when the compensation record is durable", "compensation.after", "P13"),
		at(OfPlan, "before-last-look", "when everything is undone, before the last look", "finish.before", "P13"),
		at(OfPlan, "before-end", "before the end is written", "transition.undone.before", "P13"),
		at(OfPlan, "after-end", "when the end is durable", "transition.undone.after", "P13"),
	}
}

// Gap is something that goes wrong in the world and cannot be injected.
type Gap struct {
	Points []string
	Text   string
}

// Gaps lists what no fault of the catalogue covers, at any level.
func Gaps() []Gap {
	return []Gap{
		{[]string{"P2", "P6", "P12", "P14"}, "a power cut between a write of the ledger and its sync: the ledger's own tests do that, on crash images"},
		{[]string{"P16"}, "a process that dies while it takes over: each crash here is followed by a takeover, which is not cut itself"},
		{[]string{"P17"}, "a process that dies while the ledger is compacted: nothing compacts it"},
		{[]string{"P18"}, "an entry whose checkpoint is not signed yet: the audit's own tests do that"},
		{nil, "a process that is stopped, loses its lease and wakes up again (a zombie)"},
		{nil, "a ledger whose disk is full, slow or broken, or whose server fails over"},
		{nil, "a network between Backstay and the target that drops, delays or repeats"},
		{nil, "clocks that jump"},
		{nil, "another host behind the same name"},
		{nil, "load: a target that is too slow only when it is used"},
	}
}

// Find returns the fault of this name.
func Find(name string) (Fault, bool) {
	for _, f := range Catalogue() {
		if f.Name == name {
			return f, true
		}
	}
	return Fault{}, false
}

// Undoes reports whether the fault is one of the undo itself (not of the
// process that drives it, which another one continues): what can leave a step
// held.
func (f Fault) Undoes() bool { return f.undo != normal && f.undo != diesHalf }

// Outsider reports whether somebody else changes a key.
func (f Fault) Outsider() bool { return f.outsider != never }

// Crashes reports whether the process dies.
func (f Fault) Crashes() bool { return len(f.crash) > 0 || f.do == diesHalf || f.undo == diesHalf }

// Unreads reports whether a key cannot be read.
func (f Fault) Unreads() bool { return f.control == unreadable }

// Hangs tells which of its two timeouts a fault waits for.
func (f Fault) Hangs() (do, undo bool) { return f.do == hangs, f.undo == hangs }

// NotAgreed reports whether the fault waits for an approval's deadline.
func (f Fault) NotAgreed() bool { return f.control == notAgreed }

// Aborts reports whether a person aborts.
func (f Fault) Aborts() bool { return f.control == abort }

// Bakes reports whether the fault needs a bake.
func (f Fault) Bakes() bool { return f.control == bakeBad }

// LyingUndo reports whether an undo claims to have done what it did not.
func (f Fault) LyingUndo() bool { return f.undo == lies }

// Halves reports whether the fault is about half of an act.
func (f Fault) Halves() bool {
	return f.do == failsHalf || f.do == diesHalf || f.undo == diesHalf
}
