package backstay

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"slices"
	"strings"
)

// Class is how well a step can be put back. The plan's promise is the weakest
// class among its steps, by Rank.
type Class string

// The classes.
const (
	Exact        Class = "exact"        // restored to the same canonical state
	Equivalent   Class = "equivalent"   // the same but for a stated list (pids, timestamps)
	Compensated  Class = "compensated"  // an undo of the user's ran; nothing can be read back
	Irreversible Class = "irreversible" // cannot be undone; runs only after an approval
	Unclassified Class = "unknown"
)

// Rank orders classes: 0 is best, and what is not a class is worst.
func (c Class) Rank() int {
	order := []Class{Exact, Equivalent, Compensated, Unclassified, Irreversible}
	if i := slices.Index(order, c); i >= 0 {
		return i
	}
	return len(order)
}

// Effect is what is known about doing a step twice (invariant I9).
type Effect string

// The effect modes.
const (
	Idempotent     Effect = "idempotent"      // doing twice is doing once
	Probed         Effect = "probe"           // a probe tells whether it was done
	IdempotencyKey Effect = "idempotency_key" // the target discards a repeated key
	AtMostOnce     Effect = "at_most_once"    // in doubt it is never repeated
)

// Fence says whether the target itself refuses a stale actor.
type Fence string

// The fence modes. Leased steps carry the window in which a stale actor's
// effect could still land; plans and docs state it.
const (
	Fenced Fence = "fenced"
	Leased Fence = "leased"
)

// Key names one resource, "kind:name", in one spelling only: paths are clean
// and their parents resolved, so that equal resources have equal keys: "file:/etc/shop.conf", "service:web",
// "run:shop/warm-cache". Keys are what deployments lock and what images describe.
type Key string

// Kind is the part of the key before the first colon.
func (k Key) Kind() string {
	kind, _, _ := strings.Cut(string(k), ":")
	return kind
}

// Overlaps reports whether two keys can name the same resource: equal keys,
// or file keys of which one lies below the other.
func (k Key) Overlaps(other Key) bool {
	if k == other {
		return true
	}
	a, aok := strings.CutPrefix(string(k), "file:")
	b, bok := strings.CutPrefix(string(other), "file:")
	if !aok || !bok {
		return false
	}
	return strings.HasPrefix(a, strings.TrimSuffix(b, "/")+"/") || strings.HasPrefix(b, strings.TrimSuffix(a, "/")+"/")
}

// ResourceState is the state of one resource, in canonical form. A resource is a set of named
// parts (the paths of a tree; the single part "" of a simple value), each a
// compact JSON value with a fixed field order. No parts means the resource is
// absent. Part names are valid UTF-8: a kind refuses resources with others.
// Values are made by Canonical, and compared by their bytes. Opaque marks a resource that nothing can read: it equals nothing.
// Unreadable says why a readable resource could not be read this time.
//
// Beside is what was read together with the state and is no part of it (the rows
// of a table, which users write all the time): it is kept and shown with the
// image, and never compared, restored or frozen.
type ResourceState struct {
	Parts      map[string]json.RawMessage `json:"parts,omitempty"`
	Opaque     bool                       `json:"opaque,omitempty"`
	Unreadable string                     `json:"unreadable,omitempty"`
	Beside     map[string]json.RawMessage `json:"beside,omitempty"`
}

// Equal reports whether both states were read and are the same.
func (s ResourceState) Equal(t ResourceState) bool {
	if s.Opaque || t.Opaque || s.Unreadable != "" || t.Unreadable != "" {
		return false
	}
	return maps.EqualFunc(s.Parts, t.Parts, func(a, b json.RawMessage) bool { return bytes.Equal(a, b) })
}

// Digest is the SHA-256 of the canonical JSON of the state without what stands
// beside it, in hex.
func (s ResourceState) Digest() string {
	s.Beside = nil
	return DigestJSON(s)
}

// Image is the canonical state of a set of resources at one moment.
type Image map[Key]ResourceState

// Equal reports whether both images hold the same keys with equal states.
func (im Image) Equal(other Image) bool {
	return maps.EqualFunc(im, other, ResourceState.Equal)
}

// Digest is the SHA-256 of the image's canonical JSON, in hex, with what stands
// beside the states: it is the address under which the image is stored.
func (im Image) Digest() string { return DigestJSON(im) }

// Keys returns the image's keys, sorted.
func (im Image) Keys() []Key { return slices.Sorted(maps.Keys(im)) }

// PartValue is a ResourceState with the single part "" holding v.
func PartValue(v any) ResourceState {
	return ResourceState{Parts: map[string]json.RawMessage{"": Canonical(v)}}
}

// Canonical returns v as compact JSON. Maps are sorted by key, structs keep
// their field order, HTML is not escaped. It panics on values that JSON cannot
// hold, which is a bug of the caller.
func Canonical(v any) json.RawMessage {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic("backstay: canonical JSON of " + err.Error())
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// DigestJSON is the SHA-256 of v's canonical JSON, in hex.
func DigestJSON(v any) string {
	sum := sha256.Sum256(Canonical(v))
	return hex.EncodeToString(sum[:])
}

// Step is one reversible unit of a plan, frozen: what a driver's Prepare
// returned plus where it stands in the plan. Body is the kind's own document
// (all paths absolute, all content pinned by digest); only the driver of that
// Kind reads it.
type Step struct {
	ID    string   `json:"id"`
	Seq   int      `json:"seq"` // position in the plan, from 1
	Stage string   `json:"stage,omitempty"`
	Needs []string `json:"needs,omitempty"` // IDs of the steps that must be done first
	Prepared

	// Before holds the digest of the state each key must have when the step
	// begins; a key is absent from it where an earlier step of the same plan
	// changes it (or a path above or below it) and where nothing can read it.
	Before map[Key]string `json:"before,omitempty"`
	Pivot  bool           `json:"pivot,omitempty"` // the point of no return
	// Reverts, on a step of a revert plan, names the step of an earlier
	// deployment whose effect this step takes back.
	Reverts *Reverts `json:"reverts,omitempty"`
	// Of names the release step of the spec that this step is a part of.
	Of string `json:"of,omitempty"`
	// Excludes are the versions of the plan's own release that were live when the
	// plan was made and cannot use the schema after this step: what brought their
	// successor is not undone while the schema stays.
	Excludes []string `json:"excludes,omitempty"`
}

// Reverts points from a step of a revert (or drift fix) plan to the images it
// must bring back.
type Reverts struct {
	Deployment string `json:"deployment"`
	Step       string `json:"step"`
	// Target is the digest of the image (stored as a blob) to restore.
	Target string `json:"target"`
	// Effect is the reverted step's own effect mode: undoing a revert by command
	// does that step again.
	Effect Effect `json:"effect,omitempty"`
	// From is the digest of the image that the reverted step left behind; what
	// differs from it is an outsider's and is kept. Empty: whatever is there.
	From string `json:"from,omitempty"`
}

// Prepared is what a driver makes of a step's declaration before anything
// runs: everything the plan freezes about it.
type Prepared struct {
	Kind   string          `json:"kind"`
	Body   json.RawMessage `json:"body,omitempty"`
	Keys   []Key           `json:"keys,omitempty"`
	Class  Class           `json:"class"`
	Modulo []string        `json:"modulo,omitempty"` // what Equivalent does not restore
	Effect Effect          `json:"effect"`
	Fence  Fence           `json:"fence"`
	// Window is how long a stale actor's effect could still land on a leased target.
	Window Duration `json:"window,omitzero"`
	// Restorable says that the driver's Undo can bring back any image of the
	// keys from the image alone. Otherwise Undo runs a compensating command.
	Restorable bool `json:"restorable,omitempty"`
	// Dial, where set, is the one key of a restorable step that moves it one
	// notch of a scale (a route's weights, a flag's rollout). Consecutive moves of
	// one dial are taken back in one: straight to what was there before the first.
	Dial Key `json:"dial,omitempty"`
	// HasUndo is false only for irreversible steps and pure holds.
	HasUndo      bool   `json:"has_undo,omitempty"`
	Irreversible string `json:"irreversible,omitempty"` // why; demands an approval before it
	Want         Image  `json:"want,omitempty"`         // the wanted state, where it is known beforehand
	Hold         *Hold  `json:"hold,omitempty"`         // a step that only waits for people
	Gate         *Gate  `json:"gate,omitempty"`         // a step that only waits for evidence
	// Schema is set by a step that decides the schema of its key.
	Schema *Schema `json:"schema,omitempty"`
	// Part is a comparison's part of the evidence against a release, relative to
	// others'; 0 for checks that fail by themselves.
	Part        float64  `json:"part,omitempty"`
	Timeout     Duration `json:"timeout"`
	UndoTimeout Duration `json:"undo_timeout"`
	Retries     int      `json:"retries,omitempty"` // of transient errors, within Timeout

	// For people: one line each.
	Summary     string `json:"summary"`
	UndoSummary string `json:"undo_summary,omitempty"`
	ReadSummary string `json:"read_summary,omitempty"`

	Blobs    []string `json:"blobs,omitempty"`   // content the body refers to, to be pinned
	Secrets  []string `json:"secrets,omitempty"` // references used, never values
	Warnings []string `json:"warnings,omitempty"`
}

// Hold is a wait for people: Count distinct approvers among From (group names,
// or user names as "user:NAME"; empty: anybody who can open the ledger),
// within Within. NotAuthor refuses the actor who started the deployment.
type Hold struct {
	From      []string `json:"from,omitempty"`
	Count     int      `json:"count"`
	Within    Duration `json:"within"`
	NotAuthor bool     `json:"not_author,omitempty"`
}

// Waits reports whether the step only waits, for people or for evidence: it
// has no keys, and nothing to undo.
func (p Prepared) Waits() bool { return p.Hold != nil || p.Gate != nil }

// Gate is a wait for time and evidence. It passes when Hold is over and every
// check has passed for as long as that check says. A check that fails (its
// Failures times in a row), or comparisons whose evidence convicts together (see
// Weigh), fail it at once. What is undecided when Within is over is no pass
// (invariant I17): Undecided says what happens then.
//
// The checks of a gate that passed stay armed until the deployment is proven,
// whatever it waits for meanwhile.
type Gate struct {
	Hold      Duration    `json:"hold,omitzero"`
	Within    Duration    `json:"within"`
	Undecided GatePolicy  `json:"undecided,omitempty"`
	Names     []string    `json:"names,omitempty"`  // entries of the section gates
	Checks    []GateCheck `json:"checks,omitempty"` // the same, frozen, in that order
	// Where it stands behind a move of a dial: the route, and the share of the new
	// side in percent.
	Route  string `json:"route,omitempty"`
	Weight int    `json:"weight,omitempty"`
}

// GatePolicy is what happens when a gate's time is over without an answer.
type GatePolicy string

// The policies. The zero value rolls back; promotion is never a default.
const (
	RollBackUndecided GatePolicy = "rollback"
	HoldUndecided     GatePolicy = "hold"    // waits for evidence or a person
	PromoteUndecided  GatePolicy = "promote" // goes on, and the ledger says with what it could show
)

// GateCheck is one question of a gate: asked every Every, it must pass
// uninterrupted for For.
type GateCheck struct {
	Name     string   `json:"name"`
	For      Duration `json:"for,omitzero"`
	Every    Duration `json:"every"`
	Failures int      `json:"failures"`
	Prepared
}

// Artifact is a file that the release ships, pinned by digest.
type Artifact struct {
	Name   string `json:"name"`
	File   string `json:"file"`   // absolute path at plan time
	SHA256 string `json:"sha256"` // hex; also its blob address
	Size   int64  `json:"size"`
}
