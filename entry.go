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
	Duration Duration          `json:"duration"`
}

// VerdictBody records one evaluation of a check or gate with the samples used.
type VerdictBody struct {
	Check string `json:"check"`
	Phase string `json:"phase"` // verify, bake
	CheckResult
}

// SignalBody records what a person or program asked of a deployment.
type SignalBody struct {
	ID       string `json:"id"`
	Signal   string `json:"signal"` // abort, pause, resume, promote, approve, retry, close
	Reason   string `json:"reason,omitempty"`
	Plan     string `json:"plan,omitempty"` // the plan digest an approval is bound to
	Step     string `json:"step,omitempty"` // the hold it is meant for
	Accepted bool   `json:"accepted"`       // false: refused, Why says why
	Why      string `json:"why,omitempty"`
}

// SettledBody records the clean-up of what a step kept for its undo.
type SettledBody struct {
	OK       bool     `json:"ok"`
	Error    string   `json:"error,omitempty"`
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
}

// RefusedBody records a refusal before anything was touched.
type RefusedBody struct {
	What     string    `json:"what"`
	Problems []Problem `json:"problems,omitempty"`
	Error    string    `json:"error,omitempty"`
	Release  string    `json:"release,omitempty"`
	Plan     string    `json:"plan,omitempty"`
}
