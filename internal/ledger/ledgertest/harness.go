package ledgertest

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/ledger"
)

// Harness is one fresh, empty state of a store.
type Harness struct {
	// Open opens another Store on the state, as another process would. Stores
	// that are still open are closed with the test.
	Open func(t testing.TB, o ledger.Options) (*ledger.Store, error)
	// Exec changes the state behind the store's back; nil where nobody can.
	Exec func(t testing.TB, statement string, args ...any)
	// Clock is the clock that leases of this state live by; nil where that is
	// the database's own.
	Clock *Clock
}

// Suite is the tests that fit a kind of store.
type Suite struct {
	// Fresh makes a new state.
	Fresh func(t *testing.T) Harness
	// Single leaves out the tests that need several stores on one state, or
	// change it behind the store's back.
	Single bool
	// DatabaseClock leaves out the tests of leases that live by the boot clock.
	DatabaseClock bool
}

// Run runs the suite.
func (s Suite) Run(t *testing.T) {
	for _, c := range cases() {
		if (c.shared && s.Single) || (c.boot && s.DatabaseClock) {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.test(t, s.Fresh(t))
		})
	}
}

type testCase struct {
	name   string
	shared bool // needs several stores on one state
	test   func(*testing.T, Harness)
	boot   bool // needs leases that live by the boot clock
}

func cases() []testCase {
	return []testCase{
		{name: "create append read", test: testCreateAppendRead},
		{name: "create refuses", test: testCreateRefuses},
		{name: "fence", test: testFence},
		{name: "same update twice", test: testSameUpdateTwice},
		{name: "numbers per release", test: testNumbers},
		{name: "locks overlap", test: testLocksOverlap},
		{name: "locks end with the deployment", test: testLocksEnd},
		{name: "break lock", shared: true, test: testBreakLock},
		{name: "signals", test: testSignals},
		{name: "claim and takeover", shared: true, test: testTakeover},
		{name: "a closed node gives way at once", shared: true, test: testClosedGivesWay},
		{name: "claim next", shared: true, test: testClaimNext},
		{name: "gate", test: testGate},
		{name: "gate closes", test: testGateCloses, boot: true},
		{name: "other boot", shared: true, test: testOtherBoot, boot: true},
		{name: "wall clock set back", test: testWallBack},
		{name: "group commit with a fenced write", test: testGroup},
		{name: "two writers", shared: true, test: testTwoWriters},
		{name: "tree", test: testTree},
		{name: "checkpoints", test: testCheckpoints},
		{name: "reverts", test: testReverts},
		{name: "blobs", test: testBlobs},
		{name: "large blob", test: testLargeBlob},
		{name: "damaged blob", shared: true, test: testDamagedBlob},
		{name: "collect", test: testCollect},
		{name: "plans", test: testPlans},
		{name: "find", test: testFind},
		{name: "list", test: testList},
		{name: "keys", test: testKeys},
		{name: "walk", test: testWalk},
		{name: "projections", test: testProjections},
		{name: "flags", test: testFlags},
		{name: "flags have one writer", shared: true, test: testFlagsWriters},
		{name: "reopen", shared: true, test: testReopen},
		{name: "opened twice at once", shared: true, test: testOpenedAtOnce},
		{name: "newer schema", shared: true, test: testNewerSchema},
		{name: "older schema", shared: true, test: testOlderSchema},
		{name: "damaged record", shared: true, test: testDamagedRecord},
		{name: "damaged tree", shared: true, test: testDamagedTree},
		{name: "damaged head", shared: true, test: testDamagedHead},
		{name: "version grows", shared: true, test: testVersion},
		{name: "closed", test: testClosed},
	}
}

// Clock is a clock that tests move.
type Clock struct {
	mu   sync.Mutex
	boot time.Duration
	id   string
	wall time.Time
}

var _ ledger.Clock = (*Clock)(nil)

// NewClock returns a clock that stands still until it is moved.
func NewClock() *Clock {
	return &Clock{boot: time.Hour, id: "boot-1", wall: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)}
}

// Boot implements ledger.Clock.
func (c *Clock) Boot() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.boot
}

// BootID implements ledger.Clock.
func (c *Clock) BootID() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.id
}

// Wall implements ledger.Clock.
func (c *Clock) Wall() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.wall
}

// Advance moves the boot clock and the wall clock.
func (c *Clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.boot += d
	c.wall = c.wall.Add(d)
}

// SetWall sets the wall clock alone.
func (c *Clock) SetWall(at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wall = at
}

// Reboot starts the boot clock anew.
func (c *Clock) Reboot(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.boot, c.id = time.Second, id
}

// TTL is the lease of the stores that the suite opens.
const TTL = 15 * time.Second

func (h Harness) open(t testing.TB, o ledger.Options) *ledger.Store {
	t.Helper()
	if o.Clock == nil && h.Clock != nil {
		o.Clock = h.Clock
	}
	s, err := h.Open(t, o)
	if err != nil {
		t.Fatalf("open store: %v", err)
	}
	return s
}

// expire lets the lease of a node run out.
func (h Harness) expire(t testing.TB, node string) {
	t.Helper()
	if h.Clock != nil {
		h.Clock.Advance(TTL + time.Millisecond)
		return
	}
	h.Exec(t, "UPDATE node SET lease_until = 1 WHERE id = $1", node)
}

// NewID is a new deployment ID.
func NewID(t testing.TB) string {
	t.Helper()
	id, err := uuid.NewV7()
	if err != nil {
		t.Fatal(err)
	}
	return id.String()
}

// PlanDigest is the digest of the plan that New refers to.
const PlanDigest = "7d793037a0760186574b0282f2f435e7aa5cbd2a7cbcabd4d4a4d9a6e8b4a001"

// New is a new deployment of a release that locks keys; SavePlan comes first.
func New(t testing.TB, release string, locks ...backstay.Key) ledger.NewDeployment {
	t.Helper()
	return ledger.NewDeployment{
		ID: NewID(t), Release: release, Version: "1.2.3", PlanDigest: PlanDigest, State: backstay.Running,
		Author: backstay.Actor{UID: 1000, Name: "ann"}, Locks: locks,
		Entries: []backstay.Entry{{
			Kind: backstay.EntryPlanned, Actor: &backstay.Actor{UID: 1000, Name: "ann"},
			Body: backstay.Canonical(backstay.PlannedBody{PlanDigest: PlanDigest, Release: release}),
		}},
	}
}

// Create saves the plan and creates the deployment.
func Create(t testing.TB, s *ledger.Store, d ledger.NewDeployment) ledger.Lease {
	t.Helper()
	SavePlan(t, s)
	lease, err := s.Create(t.Context(), d)
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	return lease
}

// SavePlan saves the plan that New refers to.
func SavePlan(t testing.TB, s *ledger.Store) {
	t.Helper()
	if err := s.SavePlan(t.Context(), PlanDigest, []byte(`{"plan":1}`), nil); err != nil {
		t.Fatalf("save plan: %v", err)
	}
}

// Intent and Outcome are the entries of a step.
func Intent(step string) backstay.Entry {
	return backstay.Entry{Kind: backstay.EntryIntent, Step: step, Body: backstay.Canonical(backstay.IntentBody{})}
}

// Outcome is the entry after a step acted.
func Outcome(step string) backstay.Entry {
	return backstay.Entry{Kind: backstay.EntryOutcome, Step: step, Body: backstay.Canonical(backstay.OutcomeBody{OK: true})}
}

// Append appends and fails the test on error.
func Append(t testing.TB, s *ledger.Store, l *ledger.Lease, u ledger.Update) ledger.Ack {
	t.Helper()
	ack, err := s.Append(t.Context(), l, u)
	if err != nil {
		t.Fatalf("append: %v", err)
	}
	return ack
}

// CheckTree recomputes the tree from all records, without the stored hashes,
// and holds it against the head. It also checks that each deployment's entries
// are numbered without gaps. It returns the number of entries.
func CheckTree(ctx context.Context, s *ledger.Store) (int64, error) {
	head, err := s.Head(ctx)
	if err != nil {
		return 0, err
	}
	var level []tlog.Hash
	last := map[string]int64{}
	err = s.Walk(ctx, ledger.Query{AfterLeaf: -1, Limit: int(head.Size)}, func(l ledger.Leaf) error {
		if l.Index != int64(len(level)) {
			return errors.New("a leaf is missing")
		}
		level = append(level, tlog.RecordHash(append(append([]byte{}, l.Salt...), l.Record...)))
		if id := l.Entry.Deployment; id != "" {
			if last[id]++; l.Entry.N != last[id] {
				return errors.New("a deployment's entries are not numbered 1, 2, 3, …")
			}
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	if int64(len(level)) != head.Size {
		return 0, errors.New("there are fewer entries than the head says")
	}
	if got := merkle(level); head.Size > 0 && got != tlog.Hash(head.Root) {
		return 0, errors.New("the root is not that of the records")
	}
	return head.Size, nil
}

// merkle is RFC 6962, section 2.1, as it is written there.
func merkle(leaves []tlog.Hash) tlog.Hash {
	if len(leaves) < 2 {
		if len(leaves) == 0 {
			return tlog.Hash{}
		}
		return leaves[0]
	}
	k := 1
	for k*2 < len(leaves) {
		k *= 2
	}
	return tlog.NodeHash(merkle(leaves[:k]), merkle(leaves[k:]))
}

func checkTree(t testing.TB, s *ledger.Store, want int64) {
	t.Helper()
	got, err := CheckTree(t.Context(), s)
	if err != nil {
		t.Fatalf("check tree: %v", err)
	}
	if got != want {
		t.Errorf("entries: got %d, want %d", got, want)
	}
}
