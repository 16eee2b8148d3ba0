package backstay

import (
	"encoding/json"
	"time"
)

// EntryFormat is the version of the ledger entry format this code writes.
const EntryFormat = 1

// EntryKind names what an entry records. Readers keep kinds they do not know.
type EntryKind string

// The kinds of entry. Body holds the type named beside each.
const (
	EntryPlanned      EntryKind = "planned"      // PlannedBody
	EntryTransition   EntryKind = "transition"   // TransitionBody
	EntryIntent       EntryKind = "intent"       // IntentBody: before an act
	EntryOutcome      EntryKind = "outcome"      // OutcomeBody: after it
	EntryObserved     EntryKind = "observed"     // ObservedBody: recovery's finding about an open intent
	EntryUndoIntent   EntryKind = "undo_intent"  // UndoIntentBody
	EntryCompensation EntryKind = "compensation" // CompensationBody: after an undo; never undone
	EntryVerdict      EntryKind = "verdict"      // VerdictBody
	EntrySignal       EntryKind = "signal"       // SignalBody: what an operator asked, as it was taken
	EntrySettled      EntryKind = "settled"      // SettledBody: leftovers of a step cleaned up
	EntryTakeover     EntryKind = "takeover"     // TakeoverBody
	EntryNote         EntryKind = "note"         // NoteBody
	EntryRefused      EntryKind = "refused"      // RefusedBody: nothing was touched
	EntryLockBroken   EntryKind = "lock_broken"  // NoteBody
	EntryDrill        EntryKind = "drill"        // DrillBody: what a drill over a plan showed
	EntryFlag         EntryKind = "flag"         // FlagBody: a flag changed, or somebody asked for that
	EntryMitigation   EntryKind = "mitigation"   // MitigationBody: one was approved ahead, or glass was broken
)

// Entry is one leaf of the ledger. Its record, which the Merkle tree covers,
// is its canonical JSON. N counts from 1 within a deployment; entries that
// belong to no deployment (refusals, broken locks) have an empty Deployment
// and N 0. Epoch is the writer's fencing epoch. At is wall-clock time, for
// people; nothing decides by it.
type Entry struct {
	V          int             `json:"v"`
	Deployment string          `json:"deployment,omitempty"`
	N          int64           `json:"n,omitempty"`
	Kind       EntryKind       `json:"kind"`
	Step       string          `json:"step,omitempty"`
	Attempt    int             `json:"attempt,omitempty"`
	Epoch      int64           `json:"epoch,omitempty"`
	At         time.Time       `json:"at"`
	Actor      *Actor          `json:"actor,omitempty"`
	Body       json.RawMessage `json:"body,omitempty"`
	// Blobs are the content addresses the body refers to: pinned with the entry.
	Blobs []string `json:"blobs,omitempty"`
}

// Decode reads the entry's body into v. An entry without a body is damaged.
func (e Entry) Decode(v any) error {
	return json.Unmarshal(e.Body, v)
}

// ImageRef holds an image inline, or, beyond 64 KiB, the address of the blob
// that holds its canonical JSON.
type ImageRef struct {
	Digest string `json:"digest"`
	Inline Image  `json:"inline,omitempty"`
	Stored bool   `json:"stored,omitempty"` // in a blob at Digest
}

// PlannedBody opens a deployment.
type PlannedBody struct {
	PlanDigest string `json:"plan_digest"`
	Release    string `json:"release"`
	Version    string `json:"version,omitempty"`
	Reverts    string `json:"reverts,omitempty"` // the deployment this one takes back
	Reason     string `json:"reason,omitempty"`
	Tool       string `json:"tool,omitempty"` // version of backstay that wrote it
}

// TransitionBody moves the deployment from one state to another.
type TransitionBody struct {
	From    State     `json:"from"`
	Event   string    `json:"event"`
	To      State     `json:"to"`
	Cause   Cause     `json:"cause,omitempty"`
	Reason  string    `json:"reason,omitempty"`
	Step    string    `json:"step,omitempty"`
	Until   time.Time `json:"until,omitzero"` // of a hold or a bake
	Residue []Residue `json:"residue,omitempty"`
	Kept    []Residue `json:"kept,omitempty"` // outsiders' later values that were not overwritten
}

// IntentBody is written before a step acts. Nothing is written to a target
// before its intent is durable.
type IntentBody struct {
	Before ImageRef `json:"before"`
}

// OutcomeBody is written after a step acted.
type OutcomeBody struct {
	OK       bool              `json:"ok"`
	After    *ImageRef         `json:"after,omitempty"`
	Class    ErrorClass        `json:"class,omitempty"`
	Cause    Cause             `json:"cause,omitempty"`
	Error    string            `json:"error,omitempty"`
	Hint     string            `json:"hint,omitempty"`
	Output   string            `json:"output,omitempty"` // bounded, redacted tail
	Note     string            `json:"note,omitempty"`
	Slots    map[string]string `json:"slots,omitempty"`
	Tries    int               `json:"tries,omitempty"`
	Duration Duration          `json:"duration"`
}

// ObservedBody is what recovery found about an open intent.
type ObservedBody struct {
	Finding Finding   `json:"finding"`
	Reason  string    `json:"reason,omitempty"`
	Now     *ImageRef `json:"now,omitempty"`
}

// UndoIntentBody is written before an undo acts.
type UndoIntentBody struct {
	Now ImageRef `json:"now"`
	// Covers are the steps that the same act takes back as well, newest first:
	// earlier moves of one dial, and the waits between them.
	Covers []string `json:"covers,omitempty"`
}

// CompensationBody is written after an undo: one per intent, never undone.
// Result is "restored" (read back equal to the before-image), "compensated"
// (the undo ran; nothing can be read), "untouched" (nothing had to be done),
// "kept" (all but outsiders' later values restored), or "failed".
type CompensationBody struct {
	Result  string    `json:"result"`
	Kept    []Residue `json:"kept,omitempty"`
	Residue []Residue `json:"residue,omitempty"`
	// Now is what was read after the undo: the evidence of Result.
	Now      *ImageRef         `json:"now,omitempty"`
	Error    string            `json:"error,omitempty"`
	Hint     string            `json:"hint,omitempty"`
	Output   string            `json:"output,omitempty"`
	Note     string            `json:"note,omitempty"`
	Slots    map[string]string `json:"slots,omitempty"`
	Cause    Cause             `json:"cause,omitempty"`
	Class    ErrorClass        `json:"class,omitempty"` // of an undo that failed by itself
	Duration Duration          `json:"duration"`
	// With names the step whose undo took this one back too (see UndoIntentBody.Covers).
	With string `json:"with,omitempty"`
}

// VerdictBody records one evaluation of a check or gate with the samples used.
type VerdictBody struct {
	Check string `json:"check"`
	Phase string `json:"phase"` // verify, bake, gate (the entry names the step)
	CheckResult
}

// SignalBody records what a person or program asked of a deployment.
type SignalBody struct {
	ID       string `json:"id"`
	Signal   string `json:"signal"` // abort, pause, resume, promote, approve, retry, close, fail, resolved
	Reason   string `json:"reason,omitempty"`
	Plan     string `json:"plan,omitempty"` // the plan digest an approval is bound to
	Step     string `json:"step,omitempty"` // the hold it is meant for
	Accepted bool   `json:"accepted"`       // false: refused, Why says why
	Why      string `json:"why,omitempty"`
	Alarm    *Alarm `json:"alarm,omitempty"` // of fail and resolved: what was reported
}

// Turns is the cause for which the signal turns a deployment around; "" where it
// does not.
func (b SignalBody) Turns() Cause {
	switch {
	case !b.Accepted:
	case b.Signal == "abort":
		return CauseAborted
	case b.Signal == "fail":
		return CauseSignalled
	}
	return ""
}

// SettledBody records the clean-up of what a step kept for its undo.
type SettledBody struct {
	OK       bool     `json:"ok"`
	Error    string   `json:"error,omitempty"`
	Output   string   `json:"output,omitempty"` // what was let go: bounded, redacted
	Duration Duration `json:"duration"`
}

// TakeoverBody records that another node drives the deployment now.
type TakeoverBody struct {
	Node     string `json:"node"`
	PID      int    `json:"pid,omitempty"`
	Previous string `json:"previous,omitempty"`
	Reason   string `json:"reason,omitempty"`
}

// NoteBody is a fact worth keeping that changes no state.
type NoteBody struct {
	Text string `json:"text"`
	Key  Key    `json:"key,omitempty"`
	// Collected are the addresses of blobs that were let go because nothing
	// pinned them: they are missing on purpose.
	Collected []string `json:"collected,omitempty"`
	// Rewound says that the database went back behind what was acknowledged,
	// or may have: what follows is another branch of the log.
	Rewound *Rewound `json:"rewound,omitempty"`
}

// Rewound is what a node knows of a database that lost acknowledged entries
// (a failover to an asynchronous standby) or may have (a restored backup).
type Rewound struct {
	// Generation is the first part of the fencing tokens that are issued from
	// here on: greater than that of any token of the lost branch.
	Generation int64 `json:"generation"`
	// Lost is the head that this node had been told of; its size is 0 where
	// the node remembered none.
	LostSize int64  `json:"lost_size,omitempty"`
	LostRoot string `json:"lost_root,omitempty"` // base64
	// Was and Is name the database before and after (system identifier and
	// timeline), where it says so.
	Was string `json:"was,omitempty"`
	Is  string `json:"is,omitempty"`
}

// RefusedBody records a refusal before anything was touched.
type RefusedBody struct {
	What     string    `json:"what"`
	Problems []Problem `json:"problems,omitempty"`
	Error    string    `json:"error,omitempty"`
	Release  string    `json:"release,omitempty"`
	Plan     string    `json:"plan,omitempty"`
}

// DrillBody sums up one drill: faults were injected into a copy of the targets,
// and what rollback restored was compared. It belongs to no deployment. It
// speaks of exactly the plan it names, until Expires.
type DrillBody struct {
	ID      string       `json:"id"`
	Release string       `json:"release"`
	Plan    string       `json:"plan"` // digest of the plan that was drilled
	Tool    string       `json:"tool,omitempty"`
	Depth   int          `json:"depth"`
	Tallies []DrillTally `json:"tallies"`
	Blind   int          `json:"blind"` // entries of the blind list
	// Undo is the measured time to undo a step, by step ID.
	Undo    map[string]Duration `json:"undo,omitempty"`
	Took    Duration            `json:"took"`
	Expires time.Time           `json:"expires"`
	// Report is the address of the whole report (backstay.drill/v1).
	Report string `json:"report"`
}

// FlagBody records one change of a flag in Backstay's own store. The change and
// this entry are one write. It belongs to no deployment's log; By names the one
// whose step made it.
type FlagBody struct {
	Key     Key    `json:"key"`
	Version int64  `json:"version"` // after the change
	Act     string `json:"act"`     // see FlagChange; "ask": nothing changed yet, a second person must agree
	Reason  string `json:"reason,omitempty"`
	// Before and After are the states of the one key; of an "ask", After is the
	// state that was asked for. Neither has it where there
	// was, or is, no such flag.
	Before ImageRef `json:"before"`
	After  ImageRef `json:"after"`
	By     *FlagBy  `json:"by,omitempty"`
	Second *Actor   `json:"second,omitempty"` // who agreed to what the entry's actor asked for
}

// MitigationBody records that a person approved a mitigation ahead, bound to
// what was written of it, or ran it past its cell and its approvals. It belongs
// to no deployment's log.
type MitigationBody struct {
	Act        string    `json:"act"` // MitigationApproved, GlassBroken
	Release    string    `json:"release"`
	Name       string    `json:"name"`
	Definition string    `json:"definition"`
	Reason     string    `json:"reason,omitempty"`
	Deployment string    `json:"deployment,omitempty"` // that broke the glass
	Plan       string    `json:"plan,omitempty"`       // its digest
	Until      time.Time `json:"until,omitzero"`       // when somebody must have accounted for it
}

// What a MitigationBody records.
const (
	MitigationApproved = "approve"
	GlassBroken        = "break-glass"
)

// FlagBy is the deployment and step that changed a flag.
type FlagBy struct {
	Deployment string `json:"deployment"`
	Step       string `json:"step"`
	Token      Token  `json:"token"`
}

// DrillTally counts the cells of one evidence level. Levels are never added up:
// a simulated target proves less than a disposable copy of the real one.
type DrillTally struct {
	Level          string `json:"level"` // D1: simulated targets; D2: disposable copies of the real ones
	Cells          int    `json:"cells"`
	Restored       int    `json:"restored"`
	RestoredModulo int    `json:"restored_modulo"`
	HeldExact      int    `json:"held_exact"`
	Failed         int    `json:"failed"`
	Hung           int    `json:"hung"`
	NotRun         int    `json:"not_run"`
}
