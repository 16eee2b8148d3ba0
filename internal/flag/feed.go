package flag

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/flag/model"
)

// Source is what a feed follows; *ledger.Store fits.
type Source interface {
	LedgerID(ctx context.Context) (string, error)
	FlagLeaf(ctx context.Context) (int64, error)
	Flags(ctx context.Context, afterLeaf int64) ([]backstay.Flag, error)
	Close() error
}

// DefaultEvery is how often a feed asks its ledger for changes. The question is
// one read of an index.
const DefaultEvery = 20 * time.Millisecond

// remembered is how many tags a feed knows as its own past.
const remembered = 64

// Feed is this process's set of all flags. It is safe for concurrent use; Follow
// is for one goroutine.
type Feed struct {
	set  atomic.Pointer[model.Set]
	copy *localCopy
	log  *slog.Logger

	mu      sync.Mutex
	changed chan struct{} // closed with the next change
	past    []string      // tags, newest last

	leaf   int64 // Follow's: the newest change it took
	synced atomic.Int64
	ready  atomic.Bool
}

// NewFeed returns a feed with what the copy in dir holds; "" keeps no copy.
// ledgerID may be "" where the ledger cannot be reached.
func NewFeed(dir, ledgerID string, log *slog.Logger) (*Feed, error) {
	f := &Feed{log: log, leaf: -1, changed: make(chan struct{})}
	f.set.Store(model.NewSet())
	f.past = []string{f.Set().Tag()}
	if dir == "" {
		return f, nil
	}
	c, flags, err := openCopy(dir, ledgerID)
	if err != nil {
		return nil, err
	}
	f.copy = c
	if len(flags) > 0 {
		set, err := f.Set().With(flags)
		if err != nil {
			log.Warn("some flags of the copy are not served", "error", err)
		}
		f.swap(set)
		f.ready.Store(true)
	}
	return f, nil
}

// Set is what is served now.
func (f *Feed) Set() *model.Set { return f.set.Load() }

// Ready reports whether there is anything to serve: the ledger was read, or a
// copy of it.
func (f *Feed) Ready() bool { return f.ready.Load() }

// Behind is how long ago the ledger was last asked successfully; negative: never.
func (f *Feed) Behind(now time.Time) time.Duration {
	at := f.synced.Load()
	if at == 0 {
		return -1
	}
	return now.Sub(time.Unix(0, at))
}

// Changed returns a channel that is closed with the next change.
func (f *Feed) Changed() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changed
}

// Had reports whether the feed has, or had, the set of that tag.
func (f *Feed) Had(tag string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, t := range f.past {
		if t == tag {
			return true
		}
	}
	return false
}

func (f *Feed) swap(set *model.Set) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if set.Tag() == f.Set().Tag() {
		return
	}
	f.set.Store(set)
	f.past = append(f.past, set.Tag())
	if len(f.past) > remembered {
		f.past = f.past[len(f.past)-remembered:]
	}
	close(f.changed)
	f.changed = make(chan struct{})
}

// Follow takes over every change of the ledger until ctx ends. open opens the
// ledger; it is called again, with growing pauses, after the ledger failed.
func (f *Feed) Follow(ctx context.Context, every time.Duration, open func(ctx context.Context) (Source, error)) {
	pause := every
	for ctx.Err() == nil {
		err := f.session(ctx, every, open, func() { pause = every })
		if ctx.Err() != nil {
			return
		}
		f.log.Warn("the ledger cannot be read; serving on from the last flags", "error", err, "again_in", pause)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, 2*time.Second)
	}
}

// session follows the ledger until it fails. After a failure everything is
// read anew: the ledger may have been brought back from somewhere else.
func (f *Feed) session(ctx context.Context, every time.Duration, open func(ctx context.Context) (Source, error), well func()) (err error) {
	src, err := open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	id, err := src.LedgerID(ctx)
	if err != nil {
		return err
	}
	if f.copy != nil && f.copy.ledger != id {
		f.copy.ledger, f.copy.broken = id, true
	}
	f.leaf = -1
	tick := time.NewTicker(every)
	defer tick.Stop()
	for first := true; ; first = false {
		if err := f.look(ctx, src, first); err != nil {
			return err
		}
		well()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// look asks once, and takes over what changed. Durable, then served.
func (f *Feed) look(ctx context.Context, src Source, first bool) error {
	leaf, err := src.FlagLeaf(ctx)
	if err != nil {
		return err
	}
	now := time.Now().UnixNano()
	whole := first || leaf < f.leaf
	if !whole && leaf == f.leaf {
		f.synced.Store(now)
		return nil
	}
	after, from := f.leaf, f.Set()
	if whole {
		after, from = -1, model.NewSet()
	}
	changes, err := src.Flags(ctx, after)
	if err != nil {
		return err
	}
	set, err := from.With(changes)
	if err != nil {
		f.log.Error("a flag cannot be served", "error", err)
	}
	if f.copy != nil && set.Tag() != f.Set().Tag() {
		if whole {
			err = f.copy.rewrite(changes)
		} else {
			err = f.copy.add(changes, set.Len(), func() ([]backstay.Flag, error) { return src.Flags(ctx, -1) })
		}
		if err != nil {
			// A kill must not wait for this disk.
			f.log.Error("the flags' copy is not durable; serving nevertheless", "error", err)
		}
	}
	f.swap(set)
	f.leaf = leaf
	for _, c := range changes {
		f.leaf = max(f.leaf, c.Leaf)
	}
	f.ready.Store(true)
	f.synced.Store(now)
	return nil
}

// Close lets go of the copy.
func (f *Feed) Close() error {
	if f.copy == nil {
		return nil
	}
	if err := f.copy.close(); err != nil {
		return fmt.Errorf("close the flags' copy: %w", err)
	}
	return nil
}
