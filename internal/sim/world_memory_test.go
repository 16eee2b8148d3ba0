package sim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/engine"
	"github.com/backstay-dev/backstay/internal/ledger"
)

// ledgerStore is what a lab needs of its ledger: what the engine needs, and
// what people send.
type ledgerStore interface {
	engine.Store
	Signal(ctx context.Context, deployment string, sig ledger.Signal) error
	Close() error
}

var (
	_ ledgerStore = (*ledger.Store)(nil)
	_ ledgerStore = (*memory)(nil)
)

// memory is a ledger without SQL, for the runs that are many: pairs of faults
// and random schedules. It has one node, whose lease never ends, and no blobs.
// TestMemoryIsALedger holds it against the real one.
type memory struct {
	mu        sync.Mutex
	version   int64
	rows      map[string]*memoryRow
	plans     map[string][]byte
	numbers   map[string]int64
	resources map[backstay.Key]ledger.Resource
	undos     map[string][]memoryTiming // by release
}

type memoryRow struct {
	ledger.Deployment
	owned   bool
	entries []backstay.Entry
	locks   []backstay.Key
	waiting []ledger.Signal
	known   map[string]bool
}

type memoryTiming struct {
	step string
	took time.Duration
}

func newMemory() *memory {
	return &memory{
		rows: map[string]*memoryRow{}, plans: map[string][]byte{}, numbers: map[string]int64{},
		resources: map[backstay.Key]ledger.Resource{}, undos: map[string][]memoryTiming{},
	}
}

// Flag and ChangeFlags: its plans move no flags.
func (m *memory) Flag(_ context.Context, key backstay.Key) (backstay.Flag, error) {
	return backstay.Flag{Key: key}, nil
}

func (m *memory) ChangeFlags(context.Context, ledger.FlagWriter, ...backstay.FlagChange) ([]backstay.Flag, error) {
	return nil, errors.New("the ledger in memory has no flags")
}

// Keys and List: its plans change no schemas, and nobody asks for more.
func (m *memory) Keys(context.Context, string) ([]backstay.Key, error) { return nil, nil }

func (m *memory) List(context.Context, ledger.Filter) ([]ledger.Deployment, error) {
	return nil, errors.New("the ledger in memory lists nothing")
}

func (m *memory) Close() error                { return nil }
func (m *memory) Start(context.Context) error { return nil }
func (m *memory) NodeID() string              { return "memory" }

// Gate never closes: the one node's lease does not end.
func (m *memory) Gate(ctx context.Context) (context.Context, context.CancelFunc, error) {
	ctx, cancel := context.WithCancel(ctx)
	return ctx, cancel, nil
}

// write counts a write. The caller holds no lock.
func (m *memory) write(do func() error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := do(); err != nil {
		return err
	}
	m.version++
	return nil
}

func (m *memory) row(id string) (*memoryRow, error) {
	if row, ok := m.rows[id]; ok {
		return row, nil
	}
	return nil, fmt.Errorf("deployment %s: %w", id, ledger.ErrNotFound)
}

func numbered(entries []backstay.Entry, id string, after, epoch int64) []backstay.Entry {
	out := slices.Clone(entries)
	for i := range out {
		e := &out[i]
		e.V, e.Deployment, e.N, e.Epoch = backstay.EntryFormat, id, after+int64(i)+1, epoch
		if e.At.IsZero() {
			e.At = time.Now()
		}
		e.At, e.Body = e.At.UTC().Round(0), bytes.Clone(e.Body)
	}
	return out
}

// Create records a deployment with its locks.
func (m *memory) Create(_ context.Context, d ledger.NewDeployment) (ledger.Lease, error) {
	err := m.write(func() error {
		if _, known := m.rows[d.ID]; known {
			return fmt.Errorf("create deployment: deployment %s is in the ledger already", d.ID)
		}
		if _, planned := m.plans[d.PlanDigest]; !planned {
			return fmt.Errorf("create deployment: its plan %s: %w", d.PlanDigest, ledger.ErrNotFound)
		}
		row := &memoryRow{known: map[string]bool{}, owned: true, locks: slices.Clone(d.Locks)}
		if err := m.refuseLocked(d.Locks); err != nil {
			return err
		}
		m.numbers[d.Release]++
		now := time.Now().UTC()
		row.entries = numbered(d.Entries, d.ID, 0, 1)
		row.Deployment = ledger.Deployment{
			ID: d.ID, Name: fmt.Sprintf("%s#%d", d.Release, m.numbers[d.Release]), Release: d.Release, Number: m.numbers[d.Release],
			Version: d.Version, Environment: d.Environment, PlanDigest: d.PlanDigest, State: d.State, Reverts: d.Reverts,
			Author: d.Author, Epoch: 1, N: int64(len(d.Entries)), CreatedAt: now, UpdatedAt: now,
		}
		m.rows[d.ID] = row
		m.moved(row)
		return nil
	})
	return ledger.Lease{Deployment: d.ID, Generation: 1, Epoch: 1, N: int64(len(d.Entries))}, err
}

func (m *memory) refuseLocked(want []backstay.Key) error {
	for _, other := range m.rows {
		for _, k := range want {
			if i := slices.IndexFunc(other.locks, k.Overlaps); i >= 0 {
				lock := ledger.Lock{Key: other.locks[i], Deployment: other.ID, Name: other.Name, State: other.State, Since: other.CreatedAt}
				return &ledger.LockedError{Lock: lock, Want: k}
			}
		}
	}
	return nil
}

// moved does what goes with a new state.
func (m *memory) moved(row *memoryRow) {
	if !row.State.Locks() {
		row.locks = nil
	}
	if row.State == backstay.Proven {
		for k, r := range m.resources {
			if r.Deployment == row.ID {
				r.Proven = true
				m.resources[k] = r
			}
		}
	}
}

// Append records entries under a lease.
func (m *memory) Append(_ context.Context, lease *ledger.Lease, u ledger.Update) (ledger.Ack, error) {
	var ack ledger.Ack
	err := m.write(func() error {
		row, err := m.row(lease.Deployment)
		switch {
		case err != nil:
			return err
		case row.Epoch != lease.Epoch || !row.owned:
			return ledger.ErrFenced
		case row.N != lease.N:
			return fmt.Errorf("the lease stands at entry %d, the ledger at %d", lease.N, row.N)
		}
		row.entries = append(row.entries, numbered(u.Entries, row.ID, row.N, row.Epoch)...)
		row.N = int64(len(row.entries))
		row.UpdatedAt = time.Now().UTC()
		if u.State != "" {
			row.State = u.State
		}
		row.owned = !u.Disown
		row.waiting = slices.DeleteFunc(row.waiting, func(s ledger.Signal) bool { return slices.Contains(u.Consumed, s.ID) })
		for _, r := range u.Resources {
			if r.Deployment == "" {
				r.Deployment = row.ID
			}
			m.resources[r.Key] = r
		}
		for _, t := range u.Timings {
			if t.Undo {
				m.undos[t.Release] = append(m.undos[t.Release], memoryTiming{t.Step, t.Took.Truncate(time.Microsecond)})
			}
		}
		m.moved(row)
		ack.Signals = len(row.waiting) > 0
		lease.N = row.N
		return nil
	})
	return ack, err
}

// Claim takes a deployment under the next epoch.
func (m *memory) Claim(_ context.Context, id string) (ledger.Lease, error) {
	var lease ledger.Lease
	err := m.write(func() error {
		row, err := m.row(id)
		if err != nil {
			return err
		}
		row.Epoch++
		row.owned = true
		lease = ledger.Lease{Deployment: id, Generation: 1, Epoch: row.Epoch, N: row.N}
		return nil
	})
	return lease, err
}

// ClaimNext is not simulated: no agent runs here.
func (m *memory) ClaimNext(context.Context, int) ([]ledger.Lease, error) {
	return nil, errors.New("sim: no agent runs on a ledger in memory")
}

// Signal leaves a signal; the same ID twice is one.
func (m *memory) Signal(_ context.Context, id string, sig ledger.Signal) error {
	return m.write(func() error {
		row, err := m.row(id)
		if err != nil {
			return err
		}
		if !row.known[sig.ID] {
			sig.At = time.Now().UTC()
			row.known[sig.ID], row.waiting = true, append(row.waiting, sig)
		}
		return nil
	})
}

// read looks at something under the lock.
func read[T any](m *memory, look func() (T, error)) (T, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return look()
}

// Signals are those that wait.
func (m *memory) Signals(_ context.Context, id string) ([]ledger.Signal, error) {
	return read(m, func() ([]ledger.Signal, error) {
		row, err := m.row(id)
		if err != nil {
			return nil, nil //nolint:nilerr // nobody waits for an answer where nothing is
		}
		return slices.Clone(row.waiting), nil
	})
}

// Version grows with each write.
func (m *memory) Version(context.Context) (int64, error) {
	return read(m, func() (int64, error) { return m.version, nil })
}

// Deployment reads a row.
func (m *memory) Deployment(_ context.Context, id string) (ledger.Deployment, error) {
	return read(m, func() (ledger.Deployment, error) {
		row, err := m.row(id)
		if err != nil {
			return ledger.Deployment{}, err
		}
		return row.Deployment, nil
	})
}

// Entries are those after a number.
func (m *memory) Entries(_ context.Context, id string, afterN int64) ([]backstay.Entry, error) {
	return read(m, func() ([]backstay.Entry, error) {
		row, err := m.row(id)
		if err != nil {
			return nil, nil //nolint:nilerr // as the real ledger answers
		}
		return slices.Clone(row.entries[min(afterN, row.N):]), nil
	})
}

// Plan is what SavePlan stored.
func (m *memory) Plan(_ context.Context, digest string) ([]byte, error) {
	return read(m, func() ([]byte, error) {
		if p, ok := m.plans[digest]; ok {
			return p, nil
		}
		return nil, fmt.Errorf("plan %s: %w", digest, ledger.ErrNotFound)
	})
}

// SavePlan stores a plan.
func (m *memory) SavePlan(_ context.Context, digest string, data []byte, blobs *ledger.BlobBuffer) error {
	if blobs != nil {
		return errors.New("sim: a ledger in memory has no blobs")
	}
	return m.write(func() error {
		m.plans[digest] = bytes.Clone(data)
		return nil
	})
}

// NewBlobBuffer is a buffer that nothing fits into: every image here is small.
func (m *memory) NewBlobBuffer(ctx context.Context) *ledger.BlobBuffer {
	return (*ledger.Store)(nil).NewBlobBuffer(ctx)
}

// Timings are the medians of the last five undos of each step.
func (m *memory) Timings(_ context.Context, release string) (map[string]time.Duration, error) {
	return read(m, func() (map[string]time.Duration, error) {
		last := map[string][]time.Duration{}
		for _, t := range m.undos[release] {
			all := append(last[t.step], t.took)
			last[t.step] = all[max(0, len(all)-5):]
		}
		medians := map[string]time.Duration{}
		for step, all := range last {
			all = slices.Sorted(slices.Values(all))
			medians[step] = all[len(all)/2]
		}
		return medians, nil
	})
}

// Resources are what the ledger believes about keys.
func (m *memory) Resources(_ context.Context, keys ...backstay.Key) ([]ledger.Resource, error) {
	return read(m, func() ([]ledger.Resource, error) {
		var all []ledger.Resource
		for _, k := range slices.Sorted(maps.Keys(m.resources)) {
			if len(keys) == 0 || slices.Contains(keys, k) {
				all = append(all, m.resources[k])
			}
		}
		return all, nil
	})
}

// Record takes an entry of no deployment; nothing here reads it again.
func (m *memory) Record(context.Context, backstay.Entry) (ledger.Head, error) {
	return ledger.Head{}, m.write(func() error { return nil })
}

// Walk finds nothing: no drill is recorded here.
func (m *memory) Walk(context.Context, ledger.Query, func(ledger.Leaf) error) error { return nil }

// forget drops what a finished run left, but for locks that it holds.
func (m *memory) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.rows, func(_ string, r *memoryRow) bool { return len(r.locks) == 0 })
	clear(m.plans)
	clear(m.resources)
	clear(m.undos)
	clear(m.numbers)
}

// TestMemoryIsALedger plays the same cases on the real ledger and on the one
// in memory: the world's journal and the ledger's entries must be the same.
func TestMemoryIsALedger(t *testing.T) {
	t.Parallel()
	stride := 41
	switch {
	case *fullFlag:
		stride = 23
	case raceDetector:
		stride = 97
	}
	for i, sc := range scenarios() {
		if sc.revert || strings.HasPrefix(sc.name, "parallel") || strings.HasPrefix(sc.name, "diamond") {
			continue // blobs; two orders of what happens at once
		}
		t.Run(sc.name, func(t *testing.T) {
			t.Parallel()
			var all [][]fault
			inMemory(t, func(l *lab) {
				all = append(all, nil)
				for j, f := range enumerate(l.play(sc, nil).trace, sc.theirs, 0) {
					// Whether a person's word or an act's end is taken first, if both
					// wait, is chance on either ledger.
					if (i+j)%stride == 0 && f.Action != actStop && f.Action != actAbort {
						all = append(all, []fault{f})
					}
				}
			})
			for _, script := range all {
				var got, want *record
				inMemory(t, func(l *lab) { got = l.play(sc, script) })
				inLab(t, func(l *lab) { want = l.play(sc, script) })
				if g, w := story(got), story(want); g != w {
					t.Errorf("%s: in memory:\n%s\nin the real ledger:\n%s", faultText(script), g, w)
				}
			}
		})
	}
}

// moments are what chance decides: the jitter between two tries, and how often a
// gate was asked while it was held.
var moments = regexp.MustCompile(`"(duration|until)":"[^"]*"|"samples":[0-9]+`)

// story is what happened in a run, in words that do not depend on the ledger.
func story(r *record) string {
	var b strings.Builder
	for _, e := range r.journal {
		switch {
		case e.Entry != nil:
			fmt.Fprintf(&b, "%s %d %s\n", e.Entry.Kind, e.Entry.Epoch, e.Step)
		case e.Kind == "write" || e.Kind == "outsider":
			fmt.Fprintf(&b, "%s %s %s %s>%s %d\n", e.Kind, e.Step, e.Cell, e.Old, e.New, e.Epoch)
		}
	}
	for _, e := range r.entries {
		fmt.Fprintf(&b, "%d %d %s %s %d %s\n", e.N, e.Epoch, e.Kind, e.Step, e.Attempt, moments.ReplaceAll(e.Body, []byte(`"$1":""`)))
	}
	fmt.Fprintf(&b, "%s %d %d %s", r.row.State, r.row.N, r.row.Epoch, r.end)
	return b.String()
}
