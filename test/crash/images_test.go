package crash_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/ledger/ledgertest"
	"github.com/backstay-dev/backstay/internal/ledger/sqlite"
	"github.com/backstay-dev/backstay/internal/sim/image"
)

var fullFlag = flag.Bool("crash.full", false, "every image and every n-th failure, as CI runs it, not a sample")

// recording is what was recorded of a workload.
type recording struct {
	*workload // plans name absolute paths: images are looked at where they were recorded
	journal   *image.Journal
	acks      []ack
	worlds    []world       // each one that was seen, in order
	at        map[int][]int // point → which worlds were seen there
	id        []byte        // the ledger's name, as it stands beside it
	named     int           // the point from which on the ledger's name stands beside it
}

// ack is a head that was told to somebody at a point.
type ack struct {
	point int
	head  ledger.Head
}

// record runs a life of the workload on a recording disk.
func record(t *testing.T, w *workload, life func(*testing.T, *disk)) *recording {
	t.Helper()
	r := &recording{workload: w, journal: image.New(), at: map[int][]int{}, named: -1}
	data, err := os.ReadFile(filepath.Join(w.state, sqlite.File))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	// The store makes its file, and syncs the directory, before SQLite sees it.
	r.journal.Start(0, sqlite.File, image.File{Attr: image.Attr{Mode: 0o600}, Data: data})
	d := &disk{journal: r.journal}
	d.changed = func(point int) {
		if _, err := os.Stat(filepath.Join(w.state, sqlite.IdentityFile)); err == nil && r.named < 0 {
			r.named = point
		}
		now := w.look()
		if len(r.worlds) == 0 || !maps.Equal(r.worlds[len(r.worlds)-1], now) {
			r.worlds = append(r.worlds, now)
		}
		if last := len(r.worlds) - 1; !slices.Contains(r.at[point], last) {
			r.at[point] = append(r.at[point], last)
		}
	}
	w.acked = func(h ledger.Head) {
		d.mu.Lock()
		defer d.mu.Unlock()
		r.acks = append(r.acks, ack{point: r.journal.Len(), head: h})
	}
	life(t, d)
	w.acked = func(ledger.Head) {}
	if r.id, err = os.ReadFile(filepath.Join(w.state, sqlite.IdentityFile)); err != nil {
		t.Fatal(err)
	}
	return r
}

// promised is the newest head that was acknowledged before a point.
func (r *recording) promised(point int) ledger.Head {
	var head ledger.Head
	for _, a := range r.acks {
		if a.point <= point && a.head.Size > head.Size {
			head = a.head
		}
	}
	return head
}

// TestLedgerImages cuts the power at every point of a short life of the ledger,
// and recovers from every legal image of the disk.
func TestLedgerImages(t *testing.T) {
	t.Parallel()
	t.Run("begin", func(t *testing.T) {
		t.Parallel()
		w := newWorkload(t)
		cutEverywhere(t, record(t, w, w.begin), "one")
	})
	t.Run("proceed", func(t *testing.T) {
		t.Parallel()
		w := newWorkload(t)
		w.begin(t, &disk{})
		cutEverywhere(t, record(t, w, w.proceed), "one", "three")
	})
}

// cutEverywhere tries the images of a recording, whose end has these releases
// proven.
func cutEverywhere(t *testing.T, r *recording, proven ...string) {
	t.Helper()
	if diff := differ(r.start, r.look(), proven...); diff != "" {
		t.Fatalf("the undisturbed life left another world (-want +got):\n%.500s", diff)
	}
	images := r.journal.Images(image.Bounds{Reorder: true})
	stride := 1
	if !*fullFlag {
		stride = len(images)/100 | 1
	}
	began := time.Now()
	n := r.tryAll(t, images, stride, func(problem error) bool {
		t.Error(problem)
		return !t.Failed()
	})
	took := time.Since(began).Seconds()
	t.Logf("%d operations recorded, %d heads acknowledged; %d images of the disk, %d reopened (with each world that could stand beside them: %d), %d deployments recovered; %.1f s, %.0f/s",
		r.journal.Len(), len(r.acks), len(images), n.images, n.worlds, n.recovered, took, float64(n.worlds)/took)
}

// count is how much was tried.
type count struct{ images, worlds, recovered int }

// tryAll tries every stride-th image, until problem returns false.
func (r *recording) tryAll(t *testing.T, images []image.Image, stride int, problem func(error) bool) (n count) {
	t.Helper()
	driver := on(t, &disk{})
	for i := 0; i < len(images); i += stride {
		n.images++
		for _, beside := range r.beside(images[i]) {
			c := cut{workload: r.workload, driver: driver, r: r, image: images[i], world: r.worlds[beside.world], named: beside.named}
			recovered, err := c.check(t)
			n.worlds++
			n.recovered += recovered
			if err != nil && !problem(fmt.Errorf("image %d, %s, world %d, named %v: %w", i, images[i].Name, beside.world, beside.named, err)) {
				return n
			}
		}
	}
	return n
}

// TestImagesFindUnsynced tests the tester: with a ledger that does not sync its
// commits, some image has lost what was acknowledged.
func TestImagesFindUnsynced(t *testing.T) {
	t.Parallel()
	w := newWorkload(t)
	w.begin(t, &disk{})
	r := record(t, w, func(t *testing.T, d *disk) {
		t.Helper()
		d.synchronous = "NORMAL"
		w.proceed(t, d)
	})
	var found error
	r.tryAll(t, r.journal.Images(image.Bounds{Reorder: true}), 1, func(problem error) bool {
		found = problem
		return false
	})
	if found == nil || !strings.Contains(found.Error(), "were acknowledged") {
		t.Errorf("no image lacks what was acknowledged although commits were not synced: %v", found)
	}
}

// beside is what may stand beside an image of the ledger.
type beside struct {
	world int  // one of the recorded worlds
	named bool // the ledger's name
}

func (r *recording) beside(i image.Image) []beside {
	var all []beside
	for point := i.First; point <= i.Point; point++ {
		for _, world := range r.at[point] {
			for _, named := range r.names(point) {
				if b := (beside{world, named}); !slices.Contains(all, b) {
					all = append(all, b)
				}
			}
		}
	}
	return all
}

// names: whether the ledger's name may stand beside it at a point.
func (r *recording) names(point int) []bool {
	switch {
	case point < r.named:
		return []bool{false}
	case point == r.named:
		return []bool{false, true}
	}
	return []bool{true}
}

// cut is one image of the disk, with the world beside it.
type cut struct {
	*workload
	driver sqlite.Driver
	r      *recording
	image  image.Image
	world  world
	named  bool
}

// check reopens the image, holds it against what was promised, and recovers. It
// returns how many deployments were recovered.
func (c cut) check(t *testing.T) (recovered int, err error) {
	t.Helper()
	if err := c.lay(); err != nil {
		return 0, err
	}
	c.clock = ledgertest.NewClock()
	c.clock.Reboot("boot-2") // the power was off
	s, err := c.reopen(t)
	if err != nil {
		return 0, fmt.Errorf("open: %w", err)
	}
	first, err := c.inspect(t, s)
	if err := errors.Join(err, s.Close()); err != nil {
		return 0, err
	}
	s, err = c.reopen(t)
	if err != nil {
		return 0, fmt.Errorf("open again: %w", err)
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	second, err := c.glance(t, s)
	if err != nil {
		return 0, fmt.Errorf("second look: %w", err)
	}
	if diff := cmp.Diff(first.glimpse, second); diff != "" {
		return 0, fmt.Errorf("opening it again changed it:\n%s", diff)
	}
	for _, d := range first.Deployments {
		if !d.State.Settled() {
			recovered++
		}
	}
	if err := c.recover(t.Context(), acking{s, c.workload}); err != nil {
		return recovered, err
	}
	settled, err := c.inspect(t, s)
	if err != nil {
		return recovered, fmt.Errorf("after recovery: %w", err)
	}
	if err := c.recover(t.Context(), acking{s, c.workload}); err != nil {
		return recovered, fmt.Errorf("recovering twice: %w", err)
	}
	again, err := c.glance(t, s)
	if err != nil {
		return recovered, err
	}
	if diff := cmp.Diff(settled.glimpse, again); diff != "" {
		return recovered, fmt.Errorf("recovering twice changed the ledger:\n%s", diff)
	}
	if err := c.judge(settled); err != nil {
		return recovered, fmt.Errorf("%w\n%s", err, c.story(t, s))
	}
	return recovered, nil
}

func (c cut) reopen(t *testing.T) (*ledger.Store, error) {
	t.Helper()
	return sqlite.OpenOn(t.Context(), c.driver, c.state, c.options())
}

// lay puts the image on the disk.
func (c cut) lay() error {
	files := map[string][]byte{}
	for name, f := range c.image.Files() {
		files[name] = f.Data
	}
	if c.named {
		files[sqlite.IdentityFile] = c.r.id
	}
	return errors.Join(lay(c.state, files), c.setWorld(c.world))
}

// glimpse changes with every write to a ledger.
type glimpse struct {
	ID      string
	Version int64
	Head    ledger.Head
}

func (c cut) glance(t *testing.T, s *ledger.Store) (g glimpse, err error) {
	t.Helper()
	if g.ID, err = s.LedgerID(t.Context()); err != nil {
		return g, err
	}
	if g.Version, err = s.Version(t.Context()); err != nil {
		return g, err
	}
	g.Head, err = s.Head(t.Context())
	return g, err
}

// ledgerView is what a ledger shows.
type ledgerView struct {
	glimpse
	Deployments []ledger.Deployment
}

// inspect holds the ledger against what was promised (I7) and against itself.
func (c cut) inspect(t *testing.T, s *ledger.Store) (v ledgerView, err error) {
	t.Helper()
	ctx := t.Context()
	if v.glimpse, err = c.glance(t, s); err != nil {
		return v, err
	}
	if _, err := ledgertest.CheckTree(ctx, s); err != nil {
		return v, fmt.Errorf("the tree: %w", err)
	}
	if want := c.r.promised(c.image.Point); v.Head.Size < want.Size {
		return v, fmt.Errorf("%d entries are there, %d were acknowledged", v.Head.Size, want.Size)
	} else if got, err := rootAt(t.Context(), s, want.Size); err != nil || got != want.Root {
		return v, fmt.Errorf("the first %d entries are not those that were acknowledged: %w", want.Size, err)
	}
	if v.Deployments, err = s.List(ctx, ledger.Filter{}); err != nil {
		return v, err
	}
	e, _, err := c.engine(s, nil)
	if err != nil {
		return v, err
	}
	for _, d := range v.Deployments {
		_, progress, err := e.Replay(ctx, d.ID) // reads the plan, folds the entries
		if err != nil {
			return v, fmt.Errorf("fold %s: %w", d.Name, err)
		}
		if progress.State != d.State {
			return v, fmt.Errorf("%s is %s by its row and %s by its entries", d.Name, d.State, progress.State)
		}
		entries, err := s.Entries(ctx, d.ID, 0)
		if err != nil {
			return v, err
		}
		if int64(len(entries)) != d.N {
			return v, fmt.Errorf("%s has %d entries, its row says %d", d.Name, len(entries), d.N)
		}
		for _, entry := range entries {
			for _, digest := range entry.Blobs {
				if err := readBlob(t.Context(), s, digest); err != nil {
					return v, fmt.Errorf("%s, entry %d: %w", d.Name, entry.N, err)
				}
			}
		}
	}
	return v, nil
}

// readBlob reads a blob to its end: the store checks it against its address.
func readBlob(ctx context.Context, s *ledger.Store, digest string) error {
	body, err := s.NewBlobBuffer(ctx).Get(digest)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, body)
	return errors.Join(err, body.Close())
}

// rootAt is the root of the first n records, computed from the records.
func rootAt(ctx context.Context, s *ledger.Store, n int64) ([32]byte, error) {
	if n == 0 {
		return [32]byte{}, nil
	}
	var hashes []tlog.Hash
	at := int64(0)
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		var out []tlog.Hash
		for _, i := range indexes {
			out = append(out, hashes[i])
		}
		return out, nil
	})
	err := s.Walk(ctx, ledger.Query{AfterLeaf: -1, Limit: int(n)}, func(l ledger.Leaf) error {
		more, err := tlog.StoredHashes(at, append(append([]byte{}, l.Salt...), l.Record...), reader)
		hashes = append(hashes, more...)
		at++
		return err
	})
	if err != nil {
		return [32]byte{}, err
	}
	return tlog.TreeHash(n, reader)
}

// judge: the world is exactly that of the deployments that are proven.
func (c cut) judge(v ledgerView) error {
	var proven []string
	var states strings.Builder
	for _, d := range v.Deployments {
		fmt.Fprintf(&states, " %s is %s", d.Name, d.State)
		switch d.State { //nolint:exhaustive // every other end is wrong
		case backstay.Proven:
			proven = append(proven, d.Release)
		case backstay.RolledBack:
		default:
			return fmt.Errorf("not settled as it must be:%s", states.String())
		}
	}
	if diff := differ(c.start, c.look(), proven...); diff != "" {
		return fmt.Errorf("the world is a third one (-want +got);%s:\n%.600s", states.String(), diff)
	}
	return nil
}

// story is what the ledger tells, for a person who looks for a cause.
func (c cut) story(t *testing.T, s *ledger.Store) string {
	t.Helper()
	var text strings.Builder
	fmt.Fprintf(&text, "the power went at operation %d of %d; the last ones: ", c.image.Point, c.r.journal.Len())
	for at := max(0, c.image.Point-3); at < min(c.image.Point+2, c.r.journal.Len()); at++ {
		fmt.Fprintf(&text, "%s; ", c.r.journal.Text(at))
	}
	err := s.Walk(t.Context(), ledger.Query{AfterLeaf: -1}, func(l ledger.Leaf) error {
		fmt.Fprintf(&text, "\n%d %s %s %.300s", l.Index, l.Entry.Kind, l.Entry.Step, l.Entry.Body)
		return nil
	})
	if err != nil {
		fmt.Fprintln(&text, err)
	}
	return text.String()
}
