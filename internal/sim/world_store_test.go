package sim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/engine"
	"github.com/backstay-dev/backstay/internal/ledger"
)

// bubbleClock lets a store live by the virtual time of a synctest bubble.
type bubbleClock struct{ start time.Time }

var _ ledger.Clock = bubbleClock{}

// Boot starts well above zero, as on any host.
func (c bubbleClock) Boot() time.Duration { return time.Since(c.start) + time.Hour }

// BootID never changes: the simulated host does not reboot.
func (c bubbleClock) BootID() string { return "sim" }

// Wall is the bubble's time.
func (c bubbleClock) Wall() time.Time { return time.Now() }

// book is what the simulator knows of the ledger: the entries that it has
// acknowledged, and the real store to ask.
type book struct {
	w     *world
	store ledgerStore

	mu         sync.Mutex
	read       map[string][]backstay.Entry // what the ledger itself showed last, by deployment
	acked      map[string][]backstay.Entry // by deployment
	batches    int
	violations []string
}

func newBook(w *world, store ledgerStore) *book {
	return &book{w: w, store: store, acked: map[string][]backstay.Entry{}, read: map[string][]backstay.Entry{}}
}

func (b *book) violate(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.violations = append(b.violations, fmt.Sprintf(format, args...))
}

// record keeps what was acknowledged. The journal gets each entry in its place.
func (b *book) record(deployment string, proc int, entries []backstay.Entry) {
	b.w.faults.mark()
	b.mu.Lock()
	b.batches++
	batch := b.batches
	b.mu.Unlock()
	for _, e := range entries {
		line := event{Kind: "entry", Step: e.Step, Proc: proc, Entry: &e, Batch: batch}
		if e.Kind == backstay.EntryTransition {
			line.Cells = b.w.snapshot()
		}
		b.w.note(line)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.acked[deployment] = append(b.acked[deployment], entries...)
}

// opens reports whether an entry of the kind announces an act, closes whether
// it tells how one ended.
func opens(k backstay.EntryKind) bool {
	return k == backstay.EntryIntent || k == backstay.EntryUndoIntent
}

func closes(k backstay.EntryKind) bool {
	return k == backstay.EntryOutcome || k == backstay.EntryObserved || k == backstay.EntryCompensation
}

// open is the kind of the act that the entries leave open for the step, or "".
func open(entries []backstay.Entry, step string) backstay.EntryKind {
	for _, e := range slices.Backward(entries) {
		if e.Step != step {
			continue
		}
		if opens(e.Kind) {
			return e.Kind
		}
		if closes(e.Kind) {
			return ""
		}
	}
	return ""
}

// goesBack reports whether the last word on a step is to undo it.
func (b *book) goesBack(deployment, step string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return open(b.acked[deployment], step) == backstay.EntryUndoIntent
}

// mustHaveIntent is I6 at the moment of a write: the ledger itself, asked now,
// must hold an open intent of the step, whose before-image covers the cell.
func (b *book) mustHaveIntent(ctx context.Context, c backstay.Call, cell string) {
	entries, err := b.now(ctx, c.Deployment)
	if err != nil {
		b.violate("I6: step %s writes %s, and the ledger cannot be read: %v", c.Step.ID, cell, err)
		return
	}
	if open(entries, c.Step.ID) == "" {
		b.violate("I6: step %s writes %s without a durable open intent", c.Step.ID, cell)
	}
	for _, e := range entries {
		if e.Kind == backstay.EntryIntent && e.Step == c.Step.ID && b.covers(ctx, e, cell) {
			return
		}
	}
	b.violate("I6: step %s writes %s without a durable before-image of it", c.Step.ID, cell)
}

// mayLetGo is I3 before it is too late: what an undo would need is let go of only
// once the ledger itself says that no undo will come.
func (b *book) mayLetGo(ctx context.Context, c backstay.Call) {
	entries, err := b.now(ctx, c.Deployment)
	if err != nil {
		b.violate("I3: step %s lets go, and the ledger cannot be read: %v", c.Step.ID, err)
		return
	}
	for _, e := range entries {
		var verdict backstay.VerdictBody
		switch {
		case !c.Proven && e.Kind == backstay.EntryCompensation && e.Step == c.Step.ID:
			return
		case c.Proven && e.Kind == backstay.EntryVerdict && e.Decode(&verdict) == nil &&
			verdict.Check == "bake" && verdict.Phase == "bake" && verdict.Verdict == backstay.Pass:
			return
		}
	}
	b.violate("I3: step %s lets go of what its undo needs, and nothing durable says that there will be none", c.Step.ID)
}

// now asks the ledger itself for the deployment's entries, unless it holds no
// more than was shown already: what it has acknowledged it keeps.
func (b *book) now(ctx context.Context, deployment string) ([]backstay.Entry, error) {
	b.mu.Lock()
	known, acked := b.read[deployment], len(b.acked[deployment])
	b.mu.Unlock()
	if len(known) > 0 && len(known) >= acked {
		return known, nil
	}
	return b.ask(ctx, deployment)
}

// ask reads what the ledger has beyond what it has shown before.
func (b *book) ask(ctx context.Context, deployment string) ([]backstay.Entry, error) {
	b.mu.Lock()
	known := b.read[deployment]
	b.mu.Unlock()
	more, err := b.store.Entries(context.WithoutCancel(ctx), deployment, int64(len(known)))
	all := slices.Concat(known, more)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.read[deployment] = all
	return all, err
}

// covers reports whether the intent's before-image has a key that the cell is
// a part of.
func (b *book) covers(ctx context.Context, e backstay.Entry, cell string) bool {
	var body backstay.IntentBody
	if err := e.Decode(&body); err != nil {
		return false
	}
	im, err := b.image(context.WithoutCancel(ctx), body.Before)
	if err != nil {
		b.violate("I6: before-image of step %s: %v", e.Step, err)
		return false
	}
	for k := range im {
		if _, ok := partOf(k, cell); ok {
			return true
		}
	}
	return false
}

// image resolves a reference the way any reader of the ledger would.
func (b *book) image(_ context.Context, ref backstay.ImageRef) (backstay.Image, error) {
	if ref.Stored {
		return nil, errors.New("an image of a few bytes is stored as a blob")
	}
	if got := ref.Inline.Digest(); got != ref.Digest {
		return nil, fmt.Errorf("digest %s, its content has %s", ref.Digest, got)
	}
	return ref.Inline, nil
}

// desk is the store as one process sees it: its writes end with the process,
// and have points for faults around them.
type desk struct {
	ledgerStore
	p *process
}

var _ engine.Store = (*desk)(nil)

var errStore = errors.New("sim: the disk is full")

// write passes the points around one durable write.
func (d *desk) write(name string, do func() error) error {
	hit, err := d.p.at(name)
	if err != nil {
		return err
	}
	if hit.has(actStoreErr) {
		d.p.storeFailed.Store(true)
		return errStore
	}
	if err := do(); err != nil {
		return err
	}
	if hit.has(actStoreLost) {
		d.p.storeFailed.Store(true)
		return errStore
	}
	_, err = d.p.at(name + ".end")
	return err
}

func (d *desk) alive() error {
	if d.p.dead.Load() {
		return errDead
	}
	return nil
}

// Start is the Store's, while the process lives.
func (d *desk) Start(ctx context.Context) error {
	if err := d.alive(); err != nil {
		return err
	}
	return d.ledgerStore.Start(ctx)
}

// Gate is the Store's, while the process lives.
func (d *desk) Gate(ctx context.Context) (context.Context, context.CancelFunc, error) {
	if err := d.alive(); err != nil {
		return nil, nil, err
	}
	return d.ledgerStore.Gate(ctx)
}

// Create is the Store's, with faults around it.
func (d *desk) Create(ctx context.Context, n ledger.NewDeployment) (ledger.Lease, error) {
	var lease ledger.Lease
	err := d.write("create", func() (err error) {
		if lease, err = d.ledgerStore.Create(ctx, n); err == nil {
			d.p.book.record(n.ID, d.p.n, n.Entries)
		}
		return err
	})
	return lease, err
}

// Append is the Store's, with faults around it.
func (d *desk) Append(ctx context.Context, lease *ledger.Lease, u ledger.Update) (ledger.Ack, error) {
	var ack ledger.Ack
	before := *lease
	// A commit takes its time: what does not wait for it acts before it.
	<-time.After(time.Microsecond)
	err := d.write("append", func() (err error) {
		if ack, err = d.ledgerStore.Append(ctx, lease, u); err == nil {
			d.p.book.record(lease.Deployment, d.p.n, u.Entries)
		}
		return err
	})
	if errors.Is(err, errStore) {
		*lease = before // the caller never learnt that it was written
	}
	return ack, err
}

// Claim is the Store's, while the process lives.
func (d *desk) Claim(ctx context.Context, id string) (ledger.Lease, error) {
	var lease ledger.Lease
	err := d.write("claim", func() (err error) {
		lease, err = d.ledgerStore.Claim(ctx, id)
		return err
	})
	return lease, err
}

// ClaimNext is the Store's, while the process lives.
func (d *desk) ClaimNext(ctx context.Context, limit int) ([]ledger.Lease, error) {
	if err := d.alive(); err != nil {
		return nil, err
	}
	return d.ledgerStore.ClaimNext(ctx, limit)
}

// SavePlan is the Store's, while the process lives.
func (d *desk) SavePlan(ctx context.Context, digest string, data []byte, blobs *ledger.BlobBuffer) error {
	if err := d.alive(); err != nil {
		return err
	}
	return d.ledgerStore.SavePlan(ctx, digest, data, blobs)
}

// Record is the Store's, while the process lives.
func (d *desk) Record(ctx context.Context, e backstay.Entry) (ledger.Head, error) {
	if err := d.alive(); err != nil {
		return ledger.Head{}, err
	}
	return d.ledgerStore.Record(ctx, e)
}

// Entries reads from the ledger only what it has not shown before.
func (d *desk) Entries(ctx context.Context, id string, afterN int64) ([]backstay.Entry, error) {
	all, err := d.p.book.ask(ctx, id)
	return slices.Clone(all[min(int(afterN), len(all)):]), err
}
