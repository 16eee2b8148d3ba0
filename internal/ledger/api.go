package ledger

import (
	"context"
	"fmt"
	"time"

	"github.com/backstay-dev/backstay"
)

// Lease is this node's right to write one deployment. Epoch is the fencing
// token: a write under an older epoch is refused with ErrFenced and changes
// nothing. A Lease is owned by one goroutine; Append advances N.
type Lease struct {
	Deployment string
	Generation int64
	Epoch      int64
	N          int64 // number of the deployment's last entry
}

// NewDeployment is what Create records in one transaction.
type NewDeployment struct {
	ID          string // UUIDv7
	Release     string
	Version     string
	Environment string
	PlanDigest  string // SavePlan must have stored it
	Reverts     string
	Author      backstay.Actor
	State       backstay.State
	Locks       []backstay.Key
	Entries     []backstay.Entry
	// Detached leaves the new deployment unowned, for an agent to claim; the
	// returned lease is then zero.
	Detached bool
}

// Update is what Append records in one transaction.
type Update struct {
	Entries []backstay.Entry
	State   backstay.State // the state after these entries; "" where they do not change it
	// Consumed are the IDs of signals that these entries answer.
	Consumed []string
	// Blobs are made durable in the same transaction.
	Blobs *BlobBuffer
	// Resources and Timings update the projections that drift and plan read.
	Resources []Resource
	Timings   []Timing
	// Wake is how long the deployment may be left alone before somebody must
	// look at it again (agents claim it then). Zero means at once.
	Wake time.Duration
	// Disown gives up ownership with this write.
	Disown bool
}

// Ack tells what a durable write returned.
type Ack struct {
	Head    Head
	Signals bool // unconsumed signals wait
}

// Head is the root of the Merkle tree over all entries.
type Head struct {
	Size int64
	Root [32]byte
}

// Deployment is the row that reads show.
type Deployment struct {
	ID          string         `json:"id"`
	Name        string         `json:"name"` // release#number, for people
	Release     string         `json:"release"`
	Number      int64          `json:"number"`
	Version     string         `json:"version,omitempty"`
	Environment string         `json:"environment,omitempty"`
	PlanDigest  string         `json:"plan_digest"`
	State       backstay.State `json:"state"`
	Reverts     string         `json:"reverts,omitempty"`
	RevertedBy  string         `json:"reverted_by,omitempty"`
	Author      backstay.Actor `json:"author"`
	Owner       *Owner         `json:"owner,omitempty"`
	Epoch       int64          `json:"epoch"`
	N           int64          `json:"entries"`
	CreatedAt   time.Time      `json:"created_at"`
	UpdatedAt   time.Time      `json:"updated_at"`
}

// Owner is the node that drives a deployment.
type Owner struct {
	Node  string    `json:"node"`
	Host  string    `json:"host"`
	PID   int       `json:"pid"`
	Start int64     `json:"start"` // the process's start time (clock ticks since boot), against reused pids
	Since time.Time `json:"since"`
	// Live is false once the node's lease ran out.
	Live bool `json:"live"`
	// Left is how much of the node's lease is left; 0 when not Live.
	Left time.Duration `json:"left_ns"`
}

// Signal is what a person or program asks of a deployment. Sending the same
// ID twice is one signal.
type Signal struct {
	ID     string         `json:"id"`
	Kind   string         `json:"kind"` // abort, pause, resume, promote, approve, retry, close, fail, resolved
	Reason string         `json:"reason,omitempty"`
	Plan   string         `json:"plan,omitempty"`
	Step   string         `json:"step,omitempty"`
	Actor  backstay.Actor `json:"actor"`
	At     time.Time      `json:"at"`
	// Guest is set for an actor who cannot open the ledger and came through the
	// control socket: only who the plan names may steer that way.
	Guest bool `json:"guest,omitempty"`
	// Alarm is what was reported, of fail and resolved.
	Alarm *backstay.Alarm `json:"alarm,omitempty"`
}

// Resource is what the ledger believes about one key: the state that the last
// committed (or rolled back) deployment left it in.
type Resource struct {
	Key        backstay.Key           `json:"key"`
	Deployment string                 `json:"deployment"`
	Step       string                 `json:"step"`
	State      backstay.ResourceState `json:"state"`
	Proven     bool                   `json:"proven"`
	At         time.Time              `json:"at"`
}

// Timing is one measured duration of a step's do or undo, by release and step.
type Timing struct {
	Release string
	Step    string
	Undo    bool
	Took    time.Duration
}

// Lock is one held resource lock.
type Lock struct {
	Key        backstay.Key   `json:"key"`
	Deployment string         `json:"deployment"`
	Name       string         `json:"name"`
	State      backstay.State `json:"state"`
	Owner      *Owner         `json:"owner,omitempty"`
	Since      time.Time      `json:"since"`
}

// Filter selects deployments, newest first.
type Filter struct {
	Release string
	States  []backstay.State // empty: all
	Key     backstay.Key     // only deployments whose plan locks an overlapping key
	Since   time.Time
	Limit   int // 0: 100
}

// Query selects entries in leaf order.
type Query struct {
	Deployment string
	Step       string
	Kind       backstay.EntryKind
	Actor      string // user name or decimal uid
	Since      time.Time
	Until      time.Time
	AfterLeaf  int64 // -1: from the start
	Limit      int   // 0: no limit
}

// Leaf is an entry with its place in the tree and what its hash covers:
// leaf hash = RFC 6962 hash of Salt followed by Record.
type Leaf struct {
	Index  int64
	Salt   []byte
	Record []byte
	Entry  backstay.Entry
	// Columns are what the row beside the record says; nil where the store
	// does not tell. Queries select by them, the record is what counts.
	Columns *Columns
}

// Columns repeat what a record says, for queries to select by.
type Columns struct {
	Deployment string
	N          int64
	Kind       backstay.EntryKind
	Step       string
	ActorName  string
	ActorUID   int       // -1: no actor
	At         time.Time // to the microsecond
}

// Checkpoint is a signed tree head as it was stored.
type Checkpoint struct {
	Size int64
	Note []byte // C2SP signed note
	At   time.Time
}

// ErrFenced is returned by a write whose lease is no longer the newest: stop,
// touch nothing, do not undo.
var ErrFenced = fmt.Errorf("fenced: another node drives this deployment now")

// ErrLapsed is the cause of a gated context that ended because this node's
// lease may have run out, and the error of Gate when it already has.
var ErrLapsed = fmt.Errorf("this node's lease may have lapsed")

// ErrNotFound is wrapped by reads of things that are not in the ledger.
var ErrNotFound = fmt.Errorf("not found")

// LockedError says which deployment holds an overlapping resource.
type LockedError struct {
	Lock Lock
	Want backstay.Key
}

func (e *LockedError) Error() string {
	return fmt.Sprintf("%s is locked by deployment %s (%s) since %s", e.Lock.Key, e.Lock.Name, e.Lock.State, e.Lock.Since.Format(time.RFC3339))
}

// OwnedError says which live node drives the deployment.
type OwnedError struct {
	Deployment string
	Owner      Owner
}

func (e *OwnedError) Error() string {
	return fmt.Sprintf("deployment %s is driven by process %d on %s (lease: %s left)", e.Deployment, e.Owner.PID, e.Owner.Host, e.Owner.Left.Round(time.Millisecond))
}

// Clock is the time a store lives by. Boot is the time since the host booted,
// which no clock setting moves and suspend does not stop; BootID changes with
// each boot. Wall is for people.
type Clock interface {
	Boot() time.Duration
	BootID() string
	Wall() time.Time
}

// Signer signs checkpoints; audit keys implement it. Text is the C2SP
// checkpoint body; the result is the signed note.
type Signer interface {
	SignCheckpoint(ctx context.Context, origin string, head Head) (note []byte, err error)
}
