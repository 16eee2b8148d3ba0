package backstay

import "slices"

// ErrorClass is the class of an error as a driver reports it.
type ErrorClass string

// The error classes. A driver wraps its error with Classify; an error without
// a class is Permanent.
const (
	NotFound  ErrorClass = "not_found"
	Conflict  ErrorClass = "conflict"
	Transient ErrorClass = "transient"
	Permanent ErrorClass = "permanent"
)

// FailureWord is the user's word for a kind of failure.
type FailureWord string

// The words. NotTold is a failure of which the ledger holds neither a class nor a
// cause that tells.
const (
	WordTransient  FailureWord = "transient"
	WordPersistent FailureWord = "persistent"
	WordSystemic   FailureWord = "systemic"
	NotTold        FailureWord = "not_told"
)

// Lead is one thing that a failure leads to, in the order in which they come.
type Lead string

// The leads.
const (
	LeadRetry    Lead = "retry"     // with backoff and jitter, as often and as long as the step allows
	LeadRollBack Lead = "roll back" // the deployment turns around; past the point of no return it is driven forward, then held
	LeadHold     Lead = "hold"      // it waits: a gate for evidence, what cannot be restored for a person
	LeadPage     Lead = "page"      // somebody has to look now: it is not the release, or it is left half way
)

// FailureKind is one row of the taxonomy: what a word means, and what such a failure
// of a step, of an undo, and of a question to a check or a source leads to.
type FailureKind struct {
	Word    FailureWord
	Classes []ErrorClass
	Meaning string
	Do      []Lead
	Undo    []Lead
	Ask     []Lead
	Next    string // what a person does
}

// FailureKinds is the one table of kinds of failure. What decides, explains, reports
// or documents them reads it.
func FailureKinds() []FailureKind {
	return []FailureKind{
		{
			WordTransient,
			[]ErrorClass{Transient},
			"It may pass when it is repeated: a connection, a lock that another one holds, a target that restarts.",
			[]Lead{LeadRetry, LeadRollBack},
			[]Lead{LeadRetry, LeadHold, LeadPage},
			[]Lead{LeadHold},
			"nothing where a retry helped; else look at the target, not at the release",
		},
		{
			WordPersistent,
			[]ErrorClass{Permanent, NotFound},
			"It fails again however often it is repeated: the release, its specification or its undo is wrong, or what it needs is not there.",
			[]Lead{LeadRollBack},
			[]Lead{LeadHold, LeadPage},
			[]Lead{LeadHold},
			"backstay report REF shows what failed; fix the release or its specification, deploy again",
		},
		{
			WordSystemic,
			[]ErrorClass{Conflict},
			"It is not the release: somebody else changes or holds what it needs, or nothing can be said about it.",
			[]Lead{LeadRollBack, LeadPage},
			[]Lead{LeadHold, LeadPage},
			[]Lead{LeadHold},
			"find who else acts there (backstay drift, backstay lock); the same release may be right",
		},
	}
}

// KindOf is the row of a class; false for a class that is not known.
func KindOf(class ErrorClass) (FailureKind, bool) {
	for _, k := range FailureKinds() {
		if slices.Contains(k.Classes, class) {
			return k, true
		}
	}
	return FailureKind{}, false
}

// Retries reports whether an error of the class is tried again. Whether that is
// allowed is the step's.
func Retries(class ErrorClass) bool {
	k, known := KindOf(class)
	return known && slices.Contains(k.Do, LeadRetry)
}

// CauseMeaning is what a cause means, the word for it where an error's class does not
// say more, and what it leads to.
type CauseMeaning struct {
	Cause   Cause
	Word    FailureWord // "": it is no failure (somebody asked), or the class says it
	Leads   []Lead
	Meaning string
	Next    string
}

// Causes is the one table of causes: first those that hold a deployment, then those
// that turn one around.
func Causes() []CauseMeaning {
	held, back := []Lead{LeadHold, LeadPage}, []Lead{LeadRollBack}
	return []CauseMeaning{
		{CauseNoUndo, WordPersistent, held, "A step that cannot be undone had taken effect.", "put it right by hand or deploy forward, then rollback --retry or --close"},
		{CauseUndoFailed, "", held, "An undo ran and failed, or what it restored does not read as before.", "look at its output with backstay report REF, repair, rollback --retry"},
		{CauseDrift, WordSystemic, held, "Somebody else changed a resource; it was not overwritten.", "decide which value is right; backstay drift shows both"},
		{CauseAmbiguous, WordSystemic, held, "A process died while a step acted, and nothing tells how far it came.", "look at the target, put it right, then rollback --retry or --close"},
		{CauseUnreachable, WordSystemic, held, "A resource could not be read, so nothing is known about it.", "make it reachable, then rollback --retry"},
		{CauseDeadline, WordPersistent, back, "A step or an undo did not end within its time and was ended; an undo that did not is held.", "look at its output; raise timeout or undo-timeout where the work is right"},
		{CauseIncompatible, WordPersistent, held, "Going back would put a version onto a schema that it cannot use.", "deploy a version forward that can; or bring the schema back by hand, then rollback --retry"},
		{CauseLedgerDamage, WordSystemic, held, "The ledger does not hold what the undo needs.", "backstay audit verify; restore the ledger from a copy"},
		{CauseStepFailed, "", back, "A step failed; everything done before it is undone.", "backstay report REF shows its output"},
		{CauseVerifyFailed, WordPersistent, back, "A verify check did not pass, or a resource did not read as its step left it.", "backstay report REF shows which"},
		{CauseBakeFailed, WordPersistent, back, "The checks stopped passing while the release was watched after its commit.", "backstay report REF shows since when"},
		{CauseGateFailed, WordPersistent, back, "A gate failed, or was undecided when its time was over.", "backstay report REF shows which check and why"},
		{CauseAborted, "", back, "A person or a signal (Ctrl-C, SIGTERM) asked for the rollback.", "backstay audit log --deployment REF shows who"},
		{CauseSignalled, WordPersistent, back, "It was reported from outside that the release is bad (`backstay signal`, a monitor's webhook).", "backstay report REF shows the alert that was kept as evidence"},
		{CauseBudget, WordPersistent, back, "Undoing what was done would have taken longer than rollback.within.", "make the undo quicker, split the release, or raise rollback.within"},
		{CauseNotApproved, "", back, "Nobody approved in time.", "deploy again when somebody can"},
		{CauseCrashed, WordSystemic, []Lead{LeadRollBack, LeadPage}, "The process that drove the deployment died in the middle of a step.", "backstay report REF shows what recovery found"},
	}
}

// MeaningOf is the row of a cause; false for one that is not known.
func MeaningOf(cause Cause) (CauseMeaning, bool) {
	for _, m := range Causes() {
		if m.Cause == cause {
			return m, true
		}
	}
	return CauseMeaning{}, false
}

// Told says what kind of failure an act was that failed with a class (of its error)
// and for a cause, and what it leads to.
func Told(class ErrorClass, cause Cause) (FailureWord, []Lead) {
	if k, known := KindOf(class); known {
		return k.Word, k.Do
	}
	if m, known := MeaningOf(cause); known && m.Word != "" {
		return m.Word, m.Leads
	}
	return NotTold, nil
}
