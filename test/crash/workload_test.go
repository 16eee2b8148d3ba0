package crash_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/all"
	"github.com/backstay-dev/backstay/internal/engine"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/ledger/ledgertest"
	"github.com/backstay-dev/backstay/internal/ledger/sqlite"
	"github.com/backstay-dev/backstay/internal/plan"
	"github.com/backstay-dev/backstay/internal/spec"
)

// workload is one short life of a ledger and the files that its deployments
// change.
type workload struct {
	dir, state, root string
	start            world // as it was before the first deployment
	clock            *ledgertest.Clock
	acked            func(ledger.Head) // called with each head that was told to anybody
}

func newWorkload(t *testing.T) *workload {
	t.Helper()
	dir := t.TempDir()
	w := &workload{dir: dir, state: filepath.Join(dir, "state"), root: filepath.Join(dir, "world"), clock: ledgertest.NewClock(), acked: func(ledger.Head) {}}
	start := world{}
	for name, text := range before() {
		start[name] = standing{text: text, mode: 0o640, time: time.Date(2020, 1, 2, 3, 4, 5, 6789, time.UTC)}
	}
	w.start = start
	if err := w.setWorld(start); err != nil {
		t.Fatal(err)
	}
	return w
}

// lease is so long that no heartbeat falls into the workload.
const lease = time.Hour

func (w *workload) options() ledger.Options {
	return ledger.Options{Version: "test", TTL: lease, Clock: w.clock, Signer: signer{}}
}

func (w *workload) open(t *testing.T, d *disk) (*ledger.Store, error) {
	t.Helper()
	return sqlite.OpenOn(t.Context(), on(t, d), w.state, w.options())
}

// signer signs checkpoints with nothing: here only where they are kept counts.
type signer struct{}

func (signer) SignCheckpoint(_ context.Context, origin string, head ledger.Head) ([]byte, error) {
	return fmt.Appendf(nil, "%s\n%d\n%x\n", origin, head.Size, head.Root), nil
}

// big is larger than what a before-image keeps inline, so it becomes a blob.
func big(what string) string { return strings.Repeat(what, 70<<10) }

// world is the files that deployments change, by name.
type world map[string]standing

// standing is what a rollback must bring back of a file, and what a deployment
// must leave alone.
type standing struct {
	text string
	mode fs.FileMode
	time time.Time
}

// before are the contents before any deployment.
func before() map[string]string {
	return map[string]string{"a": big("1"), "c": "1", "e": "1", "neighbour": "not in scope"}
}

// releases are the deployments of the workload and what they leave when proven.
func releases() map[string]map[string]string {
	return map[string]map[string]string{
		"one":   {"a": big("2"), "b": "2"}, // a new content and a new file
		"two":   {"c": "2"},                // is interrupted and rolls back
		"three": {"e": "2", "f": "2"},      // its process dies and another takes over
	}
}

func (w *workload) setWorld(files world) error {
	if err := os.RemoveAll(w.root); err != nil {
		return err
	}
	if err := os.MkdirAll(w.root, 0o750); err != nil {
		return err
	}
	for name, f := range files {
		path := filepath.Join(w.root, name)
		if err := os.WriteFile(path, []byte(f.text), 0o600); err != nil {
			return err
		}
		if err := errors.Join(os.Chmod(path, f.mode), os.Chtimes(path, f.time, f.time)); err != nil {
			return err
		}
	}
	return nil
}

// look reads the world; a problem is in it, too, so that it differs.
func (w *workload) look() world {
	files := world{}
	names, err := os.ReadDir(w.root)
	if err != nil {
		files["."] = standing{text: err.Error()}
	}
	for _, n := range names {
		text, err := os.ReadFile(filepath.Join(w.root, n.Name()))
		info, statErr := n.Info()
		if err := errors.Join(err, statErr); err != nil {
			files[n.Name()] = standing{text: err.Error()}
			continue
		}
		files[n.Name()] = standing{text: string(text), mode: info.Mode(), time: info.ModTime().UTC()}
	}
	return files
}

// engine is one on a store.
func (w *workload) engine(s engine.Store, failpoint func(at, step string) error) (*engine.Engine, spec.Kinds, error) {
	kinds, err := all.New()
	if err != nil {
		return nil, nil, err
	}
	e, err := engine.New(s, kinds, engine.Options{
		DataDir: filepath.Join(w.dir, "data"), Actor: backstay.Actor{Host: "here"}, Version: "test",
		Poll: time.Millisecond, Failpoint: failpoint,
	})
	return e, kinds, err
}

var errStop = errors.New("the process dies here")

// deploy deploys one release. at is called at the engine's points and may stop
// it, or interrupt it, which rolls back.
func (w *workload) deploy(ctx context.Context, s engine.Store, release string, at func(point, step string, interrupt chan<- struct{}) error) error {
	interrupt := make(chan struct{}, 8)
	e, kinds, err := w.engine(s, func(point, step string) error {
		if at == nil {
			return nil
		}
		return at(point, step, interrupt)
	})
	if err != nil {
		return err
	}
	var text strings.Builder
	fmt.Fprintf(&text, "backstay: v1\nrelease: %s\nversion: \"2\"\nsteps:\n", release)
	for _, name := range slices.Sorted(maps.Keys(releases()[release])) {
		fmt.Fprintf(&text, "  - name: step-%s\n    file: {path: %q, content: %q}\n", name, filepath.Join(w.root, name), releases()[release][name])
	}
	file := filepath.Join(w.dir, release+".yaml")
	if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
		return err
	}
	sp, err := spec.Load(spec.Source{File: file}, kinds)
	if err != nil {
		return err
	}
	d := plan.NewDraft(sp)
	seen, err := e.Survey(ctx, d.Requests(), engine.Declared{Sections: sp.Sections, Dir: sp.Dir, Release: sp.Release, Version: sp.Version})
	if err != nil {
		return err
	}
	p, err := plan.Build(d, seen)
	if err != nil {
		return err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return err
	}
	_, err = e.Deploy(ctx, engine.Start{ID: id.String(), Plan: p, Interrupt: interrupt})
	return err
}

// begin is the first life: a new ledger, a deployment that is proven, a passive
// checkpoint while the store is open, a deployment that is interrupted and rolls
// back (over the log from its start), and a close, which empties the log.
func (w *workload) begin(t *testing.T, d *disk) {
	t.Helper()
	ctx := t.Context()
	s, err := w.open(t, d)
	must(t, "open", err)
	must(t, "deploy one", w.deploy(ctx, acking{s, w}, "one", nil))
	must(t, "checkpoint", w.checkpoint(ctx, t, d))
	must(t, "deploy two", w.deploy(ctx, acking{s, w}, "two", func(point, _ string, interrupt chan<- struct{}) error {
		if point == "do.after" {
			interrupt <- struct{}{}
		}
		return nil
	}))
	must(t, "close", s.Close())
}

// proceed is the second life: a deployment whose process dies, another process
// that takes over and finishes it, and a close.
func (w *workload) proceed(t *testing.T, d *disk) {
	t.Helper()
	ctx := t.Context()
	first, err := w.open(t, d)
	must(t, "open", err)
	err = w.deploy(ctx, acking{first, w}, "three", func(point, step string, _ chan<- struct{}) error {
		if point == "do.after" {
			return errStop
		}
		return nil
	})
	if !errors.Is(err, errStop) {
		t.Fatalf("deploy three: %v", err)
	}
	must(t, "abandon", first.Abandon())
	w.clock.Advance(2 * lease)
	second, err := w.open(t, d)
	must(t, "open again", err)
	must(t, "recover", w.recover(ctx, acking{second, w}))
	must(t, "close", second.Close())
}

func must(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// checkpoint moves the log into the file while the store stays open.
func (w *workload) checkpoint(ctx context.Context, t *testing.T, d *disk) error {
	t.Helper()
	db, err := on(t, d).Open("file:" + filepath.Join(w.state, sqlite.File) + "?_busy_timeout=5000")
	if err != nil {
		return err
	}
	_, err = db.ExecContext(ctx, "PRAGMA wal_checkpoint(PASSIVE)")
	return errors.Join(err, db.Close())
}

// recover drives what is not settled to its end.
func (w *workload) recover(ctx context.Context, s acking) error {
	e, _, err := w.engine(s, nil)
	if err != nil {
		return err
	}
	deps, err := s.List(ctx, ledger.Filter{})
	if err != nil {
		return err
	}
	for _, d := range deps {
		if d.State.Settled() {
			continue
		}
		if _, err := e.Resume(ctx, d.ID, nil, nil); err != nil {
			return fmt.Errorf("resume %s: %w", d.Name, err)
		}
	}
	return nil
}

// acking is a store that tells which heads were acknowledged.
type acking struct {
	*ledger.Store
	w *workload
}

func (a acking) told(ctx context.Context, err error) error {
	if err != nil {
		return err
	}
	head, err := a.Head(ctx)
	if err == nil {
		a.w.acked(head)
	}
	return err
}

func (a acking) Create(ctx context.Context, d ledger.NewDeployment) (ledger.Lease, error) {
	l, err := a.Store.Create(ctx, d)
	return l, a.told(ctx, err)
}

func (a acking) Append(ctx context.Context, l *ledger.Lease, u ledger.Update) (ledger.Ack, error) {
	ack, err := a.Store.Append(ctx, l, u)
	if err == nil {
		a.w.acked(ack.Head)
	}
	return ack, err
}

func (a acking) Claim(ctx context.Context, id string) (ledger.Lease, error) {
	l, err := a.Store.Claim(ctx, id)
	return l, a.told(ctx, err)
}

// differ says where a world is not what it must be when these releases are
// proven and no other: their files have the new content, every other file is as
// it was before, with mode and time.
func differ(start, now world, proven ...string) string {
	want := maps.Clone(start)
	for _, r := range proven {
		for name, text := range releases()[r] {
			want[name] = standing{text: text, mode: now[name].mode, time: now[name].time}
		}
	}
	return cmp.Diff(want, now, cmp.AllowUnexported(standing{}))
}
