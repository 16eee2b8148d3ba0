package crash_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/ncruces/go-sqlite3"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/ledger/ledgertest"
	"github.com/backstay-dev/backstay/internal/ledger/sqlite"
	"github.com/backstay-dev/backstay/internal/sim/image"
)

// fault is one kind of failure of the disk.
type fault struct {
	name  string
	err   error
	calls []call // which calls of SQLite count and fail
	on    bool   // every later one fails as well
}

func faults() []fault {
	every := []call{callOpen, callRead, callWrite, callTruncate, callSync, callDelete, callLock}
	grow := []call{callOpen, callWrite}
	return []fault{
		{name: "EIO once", err: syscall.EIO, calls: every},
		{name: "EIO from then on", err: syscall.EIO, calls: every, on: true},
		{name: "ENOSPC once", err: sqlite3.FULL, calls: grow},
		{name: "ENOSPC from then on", err: sqlite3.FULL, calls: grow, on: true},
		{name: "fsync error", err: sqlite3.IOERR_FSYNC, calls: []call{callSync}},
	}
}

// scene is a ledger in which one operation is tried.
type scene struct {
	*workload
	disk  *disk
	store *ledger.Store
	lease ledger.Lease
}

// operation is what is tried.
type operation struct {
	name string
	from string // "nothing", "closed", "killed": the state to begin with
	// ready goes before the faults; nil where do opens the store.
	ready func(context.Context, *testing.T, *scene) error
	do    func(context.Context, *testing.T, *scene) error
	// writes says that an error of do is one of a write: the store must not
	// write again.
	writes bool
}

func operations() []operation {
	open := func(_ context.Context, t *testing.T, s *scene) (err error) {
		t.Helper()
		s.store, err = s.open(t, s.disk)
		return err
	}
	create := func(ctx context.Context, t *testing.T, s *scene) (err error) {
		t.Helper()
		if err = s.store.SavePlan(ctx, ledgertest.PlanDigest, []byte(`{"plan":1}`), nil); err == nil {
			s.lease, err = s.store.Create(ctx, ledgertest.New(t, "shop"))
		}
		return err
	}
	created := func(ctx context.Context, t *testing.T, s *scene) error {
		t.Helper()
		return errors.Join(open(ctx, t, s), create(ctx, t, s))
	}
	step := []backstay.Entry{ledgertest.Outcome("a"), ledgertest.Intent("b")}
	return []operation{
		{name: "open a new one", from: "nothing", do: open},
		{name: "open a closed one", from: "closed", do: open},
		{name: "open a killed one", from: "killed", do: open},
		{name: "create", from: "closed", ready: open, do: create, writes: true},
		{name: "append", from: "closed", ready: created, writes: true, do: func(ctx context.Context, _ *testing.T, s *scene) error {
			_, err := s.store.Append(ctx, &s.lease, ledger.Update{Entries: step})
			return err
		}},
		{name: "append with a blob", from: "closed", ready: created, writes: true, do: func(ctx context.Context, _ *testing.T, s *scene) error {
			blobs := s.store.NewBlobBuffer(ctx)
			digest, _, err := blobs.Put(bytes.NewReader([]byte(big("3"))))
			if err != nil {
				return err
			}
			intent := ledgertest.Intent("c")
			intent.Blobs = []string{digest}
			_, err = s.store.Append(ctx, &s.lease, ledger.Update{Entries: []backstay.Entry{intent}, Blobs: blobs})
			return err
		}},
		{name: "checkpoint", from: "closed", ready: created, writes: true, do: func(ctx context.Context, _ *testing.T, s *scene) error {
			return s.store.SaveCheckpoint(ctx, ledger.Checkpoint{Size: 1, Note: []byte("note"), At: s.clock.Wall()})
		}},
		{name: "claim", from: "killed", ready: open, writes: true, do: func(ctx context.Context, _ *testing.T, s *scene) (err error) {
			deps, err := s.store.List(ctx, ledger.Filter{})
			if err != nil {
				return nil //nolint:nilerr // a read: nothing was to be written yet
			}
			s.lease, err = s.store.Claim(ctx, deps[0].ID)
			return err
		}},
		{name: "close", from: "closed", ready: created, do: func(_ context.Context, _ *testing.T, s *scene) error {
			return s.store.Close()
		}},
	}
}

// seeds are the states to begin with, as files of a state directory.
func seeds(t *testing.T) map[string]map[string][]byte {
	t.Helper()
	w := newWorkload(t)
	s := &scene{workload: w, disk: &disk{}}
	created := operations()[4].ready
	must(t, "create", created(t.Context(), t, s))
	for range 3 {
		_, err := s.store.Append(t.Context(), &s.lease, ledger.Update{Entries: []backstay.Entry{ledgertest.Outcome("a"), ledgertest.Intent("b")}})
		must(t, "append", err)
	}
	read := func() map[string][]byte {
		out := map[string][]byte{}
		for _, name := range []string{sqlite.File, sqlite.File + "-wal", sqlite.IdentityFile} {
			if data, err := os.ReadFile(filepath.Join(w.state, name)); err == nil {
				out[name] = data
			}
		}
		return out
	}
	killed := read()
	must(t, "close", s.store.Close())
	return map[string]map[string][]byte{"nothing": {}, "killed": killed, "closed": read()}
}

// TestLedgerNthFailure lets the n-th call of SQLite to its disk fail, for n = 1,
// 2, 3, … until the operation no longer meets the failure. What was acknowledged
// is there after a power cut at that moment; what was not is there whole or not
// at all; and a store that met an error writes no more.
func TestLedgerNthFailure(t *testing.T) {
	t.Parallel()
	seeds := seeds(t)
	for _, op := range operations() {
		t.Run(op.name, func(t *testing.T) {
			t.Parallel()
			tries, refused := 0, 0
			for _, f := range faults() {
				stride := 1
				if !*fullFlag {
					stride = 7
				}
				for n := 1; ; n += stride {
					tr := trial{operation: op, fault: f, n: n, seed: seeds[op.from], scene: &scene{workload: newWorkload(t)}}
					hit, err := tr.run(t)
					if tr.problem != nil {
						t.Errorf("%s, n = %d: %v (the operation said: %v)", f.name, n, tr.problem, err)
					}
					if !hit || t.Failed() {
						break
					}
					tries++
					if err != nil {
						refused++
					}
				}
			}
			t.Logf("%d failures met, %d of them refused the operation; each followed by a power cut that loses and one that keeps", tries, refused)
		})
	}
}

// trial is one operation with one failure.
type trial struct {
	operation
	fault
	n       int
	seed    map[string][]byte
	scene   *scene
	problem error
}

// run returns whether the failure was met and what the operation said.
func (r *trial) run(t *testing.T) (hit bool, said error) {
	t.Helper()
	s := r.scene
	journal := image.New()
	for _, name := range slices.Sorted(maps.Keys(r.seed)) {
		if name != sqlite.IdentityFile {
			journal.Start(0, name, image.File{Data: r.seed[name]})
		}
	}
	if len(r.seed) == 0 {
		journal.Start(0, sqlite.File, image.File{})
	}
	r.check(lay(s.state, r.seed))
	if r.from == "killed" {
		s.clock.Reboot("boot-2")
	}
	s.disk = &disk{journal: journal}
	if r.ready != nil {
		r.check(r.ready(t.Context(), t, s))
	}
	count, reading := 0, false
	s.disk.arm(func(c call) error {
		if !slices.Contains(r.calls, c) {
			return nil
		}
		if count++; count == r.n || (r.on && count > r.n) {
			if !hit {
				hit, reading = true, c == callRead || c == callOpen || c == callLock
			}
			return r.err
		}
		return nil
	})
	said = r.do(t.Context(), t, s)
	s.disk.arm(nil)
	if s.store == nil { // not opened
		r.cut(t, ledger.Head{})
		return hit, said
	}
	if !hit && said != nil {
		r.problem = errors.New("nothing failed, yet the operation did")
	}
	var told ledger.Head
	if said == nil && r.operation.name != "close" {
		var err error
		told, err = s.store.Head(t.Context())
		r.check(err)
	}
	r.cut(t, told)
	// What a reader cannot read is told to who asked, and harms nothing.
	if hit && said != nil && r.writes && (!reading || strings.Contains(said.Error(), "write ledger")) {
		r.stopped(t)
	}
	_ = s.store.Abandon() // it may have failed for good
	return hit, said
}

func (r *trial) check(err error) { r.problem = errors.Join(r.problem, err) }

func (d *disk) arm(fail func(call) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fail = fail
}

// stopped: after an I/O error every later write fails, and gates are closed,
// although the disk works again.
func (r *trial) stopped(t *testing.T) {
	t.Helper()
	_, err := r.scene.store.Record(t.Context(), backstay.Entry{Kind: backstay.EntryNote})
	if err == nil {
		r.check(errors.New("the store goes on writing after an I/O error"))
	} else if !strings.Contains(err.Error(), "write ledger") {
		r.check(fmt.Errorf("the later write fails in another way: %w", err))
	}
	if _, cancel, err := r.scene.store.Gate(t.Context()); err == nil {
		cancel()
		r.check(errors.New("a gate is open after an I/O error"))
	}
}

// cut cuts the power now: once all that was not synced is lost, once it is kept.
func (r *trial) cut(t *testing.T, told ledger.Head) {
	t.Helper()
	j := r.scene.disk.journal
	_, named := os.Stat(filepath.Join(r.scene.state, sqlite.IdentityFile))
	for _, i := range j.Images(image.Bounds{From: j.Len()}) {
		if !strings.Contains(i.Name, ": all ") {
			continue
		}
		files := map[string][]byte{}
		for name, f := range i.Files() {
			files[name] = f.Data
		}
		if named == nil {
			id, err := os.ReadFile(filepath.Join(r.scene.state, sqlite.IdentityFile))
			r.check(err)
			files[sqlite.IdentityFile] = id
		}
		if err := reopened(t, files, told); err != nil {
			r.check(fmt.Errorf("power cut, %s: %w", i.Name, err))
		}
	}
}

// reopened opens a state after a power cut, looks at all of it, and goes on
// from there.
func reopened(t *testing.T, files map[string][]byte, told ledger.Head) (err error) {
	t.Helper()
	ctx := t.Context()
	w := newWorkload(t)
	w.clock.Reboot("boot-3")
	if err := lay(w.state, files); err != nil {
		return err
	}
	s, err := w.open(t, &disk{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	size, err := ledgertest.CheckTree(ctx, s)
	if err != nil {
		return err
	}
	if size < told.Size {
		return fmt.Errorf("%d entries are there, %d were acknowledged", size, told.Size)
	}
	if root, err := rootAt(ctx, s, told.Size); told.Size > 0 && (err != nil || root != told.Root) {
		return fmt.Errorf("the first %d entries are not those that were acknowledged: %w", told.Size, err)
	}
	deps, err := s.List(ctx, ledger.Filter{})
	if err != nil {
		return err
	}
	for _, d := range deps {
		entries, err := s.Entries(ctx, d.ID, 0)
		if err != nil || int64(len(entries)) != d.N {
			return fmt.Errorf("%s has %d entries, its row says %d: %w", d.Name, len(entries), d.N, err)
		}
		for _, e := range entries {
			for _, digest := range e.Blobs {
				if err := readBlob(ctx, s, digest); err != nil {
					return err
				}
			}
		}
		lease, err := s.Claim(ctx, d.ID)
		if err != nil {
			return err
		}
		if _, err := s.Append(ctx, &lease, ledger.Update{Entries: []backstay.Entry{ledgertest.Outcome("z")}}); err != nil {
			return err
		}
	}
	_, err = ledgertest.CheckTree(ctx, s)
	return err
}

// lay puts files into a new state directory.
func lay(state string, files map[string][]byte) error {
	if err := errors.Join(os.RemoveAll(state), os.Mkdir(state, 0o700)); err != nil {
		return err
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(state, name), data, 0o600); err != nil {
			return err
		}
	}
	return nil
}
