package backstay

import (
	"encoding/json"
	"io"
	"time"
)

// Blobs is content-addressed storage that a driver reads and writes through:
// before-images, pinned artifacts, large outputs. Addresses are SHA-256 in
// hex. What is put is durable before the entry that refers to it.
type Blobs interface {
	// Put stores what r yields and returns its address and size. Putting the
	// same content again is cheap and returns the same address.
	Put(r io.Reader) (digest string, size int64, err error)
	// Has reports whether the content is stored.
	Has(digest string) (bool, error)
	// Get opens stored content; the error wraps a NotFound Error where there is none.
	Get(digest string) (io.ReadCloser, error)
}

// Secrets resolves a secret reference ("secret:env/NAME", "secret:file/PATH")
// to its value at the moment of use. Values never enter bodies, images,
// results or errors; the engine also scrubs them from captured output.
type Secrets interface {
	Resolve(ref string) (string, error)
}

// Request is what a driver's Prepare gets: one step's declaration as the spec
// holds it, and where the declaration's relative paths start.
type Request struct {
	ID        string
	Config    json.RawMessage            // the kind's own keys, inputs substituted
	Sections  map[string]json.RawMessage // the kinds' top-level sections ("services")
	Artifacts map[string]Artifact
	Dir       string // absolute directory of the spec file
	DataDir   string // where this host keeps releases, logs, sockets
	Release   string
	Version   string
	Blobs     Blobs
	Secrets   Secrets // only to test that references resolve; values must not be kept
	Flags     Flags   // to look at; nil: this ledger has none

	// Set by the engine from the spec's common step keys; zero means default.
	Timeout     Duration
	UndoTimeout Duration
	Retries     *int
}

// Token is the fencing token of an act. Tokens are ordered by generation,
// epoch, seq; a target that can fence refuses one lower than it has seen.
type Token struct {
	Generation int64 `json:"generation"`
	Epoch      int64 `json:"epoch"`
	Seq        int64 `json:"seq"`
}

// Less orders tokens.
func (t Token) Less(u Token) bool {
	if t.Generation != u.Generation {
		return t.Generation < u.Generation
	}
	if t.Epoch != u.Epoch {
		return t.Epoch < u.Epoch
	}
	return t.Seq < u.Seq
}

// Call is one act on one step: what Observe, Do, Undo, Probe, Check, Reap and
// Settle get.
type Call struct {
	Deployment string
	Release    string
	Step       Step
	Attempt    int
	Token      Token
	// IdempotencyKey is the same for every attempt of this step's do (or undo).
	IdempotencyKey string
	DataDir        string // as in Request
	Blobs          Blobs
	Secrets        Secrets
	Flags          Flags
	// Output takes the raw output of commands. It is bounded and redacted
	// behind the driver's back; nil discards.
	Output io.Writer

	// Before is the image at the step's intent. Undo, Probe, Settle get it.
	Before Image
	// After is the image at the step's outcome; nil where there is no outcome.
	After Image
	// Restore lists, for Undo of a restorable step, exactly the parts to put
	// back to Before; every other part is an outsider's and must not be
	// touched. Nil for command-undo steps.
	Restore map[Key][]string
	// Slots are the run-time facts (ports, pids) that earlier acts of this
	// step returned.
	Slots map[string]string
	// Gate, of a Check that a gate asks, says where the deployment stands. Slots
	// are then those of the steps that the gate waits behind.
	Gate *GateView
	// Proven tells Settle how the deployment ended: true after a proven
	// deployment, false after a rolled back one.
	Proven bool
}

// GateView is what a gate's check may want to know. Weight is the share of the
// new side on Route in percent, since Since at the latest; Shares are all the
// shares that the release goes through. State is what the check's last answer
// asked to be remembered, in this process or one before it.
type GateView struct {
	Step   string
	Route  string
	Weight int
	Shares []int
	Since  time.Time
	State  json.RawMessage
}

// SlotFirst is set by a step that gave a route its first instances: there is no
// running side, and nobody whom the new one could be compared with.
const SlotFirst = "first"

// Result is what Do and Undo return beside their error. Slots are merged into
// the step's; Note is one line for people. Both are kept when err is not nil.
type Result struct {
	Slots map[string]string
	Note  string
	// Untouched says of a Do that failed that it changed nothing: what differs
	// from before is somebody else's.
	Untouched bool
}

// CheckResult is the answer of a verify probe or gate with its evidence.
type CheckResult struct {
	Verdict  Verdict       `json:"verdict"`
	Reason   string        `json:"reason"`
	Samples  int           `json:"samples"`
	Duration time.Duration `json:"duration_ns"`
	// Evidence are the numbers behind the verdict, where there are some.
	Evidence *Evidence `json:"evidence,omitempty"`
	// State is what the check wants to be given back (GateView.State). It holds
	// no secret.
	State json.RawMessage `json:"state,omitempty"`
}
