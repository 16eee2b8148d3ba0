// Package drivertest is the conformance suite of step kinds: what every kind
// promises in package driver, as tests that a kind runs against itself by
// describing one step and the world around it.
//
// It owns the fixture (a step in a world of its own), the trial (one step
// driven as the engine drives it), a context that ends at an exact point, and
// content storage in memory. It knows no kind: how the world is read comes
// from the fixture and must not use the code under test.
package drivertest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver"
)

// Suite is what a kind fills in, once per shape of step.
type Suite struct {
	// New returns a fixture in a fresh world. It is called once per test and
	// once per interruption point, concurrently.
	New func(t *testing.T) Fixture
	// CancelAfter are delays after which Do (and Undo) is cancelled in the
	// half-done tests, beside the enumerated points: for kinds whose work
	// happens in other processes. Empty: enumerated points only.
	CancelAfter []time.Duration
	// MaxCuts bounds the enumerated interruption points of do and undo each; 0
	// means 100. Beyond it the rest is left out.
	MaxCuts int
}

// Fixture is one step and the world it acts on.
type Fixture struct {
	Kind driver.Kind
	// Request is the step's declaration. Without Blobs it gets a NewBlobs.
	Request backstay.Request
	// World reads everything the step could touch, name to value, without the
	// code under test. What Undo does not promise to restore (Prepared.Modulo)
	// is left out of it. It must be the same for the same world.
	World func(t testing.TB) map[string]string
	// Mutations are an outsider's changes of the step's own keys. Observe must
	// tell the world after each from the one before. Each gets a fresh fixture.
	Mutations []Mutation
	// Spoil changes or removes the inputs that Prepare read. It is called
	// between Prepare and Do, which must not notice. Nil: there are none.
	Spoil func(t testing.TB)
	// Leftovers names what still runs or lies about (processes, temporary
	// files, sockets) and should not after an act has returned. Nil: nothing can.
	Leftovers func(t testing.TB) []string
	// Canaries are secret values that the step uses. They must not show in
	// the prepared step, images, results, errors and stored content.
	Canaries []string
	// Revive is called before each act, to restart helpers of the world that a
	// test needs alive. Nil: nothing to do.
	Revive func(t testing.TB)
}

// Mutation is an outsider's change.
type Mutation struct {
	Name  string
	Apply func(t testing.TB)
}

// Run runs the suite as parallel subtests of t.
func Run(t *testing.T, s Suite) {
	t.Helper()
	if s.MaxCuts == 0 {
		s.MaxCuts = 100
	}
	tests := []struct {
		name string
		run  func(*testing.T, Suite)
	}{
		{"prepare changes nothing", testPrepare},
		{"do reaches what was wanted", testDo},
		{"do twice is do once", testDoTwice},
		{"undo restores", testUndo},
		{"undo twice is undo once", testUndoTwice},
		{"undo without do changes nothing", testUndoWithoutDo},
		{"do half done is undone", testHalfDone},
		{"undo half done is finished", testHalfUndone},
		{"do with an ended context changes nothing", testCancelled},
		{"acts after the lease change nothing", testLapsed},
		{"observe is honest", testObserve},
		{"observe notices outsiders", testMutations},
		{"secrets stay out", testSecrets},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.run(t, s)
		})
	}
}

func testPrepare(t *testing.T, s Suite) {
	f := s.New(t)
	before := f.World(t)
	tr := NewTrial(t, f)
	if diff := cmp.Diff(before, f.World(t)); diff != "" {
		t.Errorf("Prepare changed the world (-before +after):\n%s", diff)
	}
	p := tr.Step.Prepared
	if p.Kind != f.Kind.Name() {
		t.Errorf("Prepared.Kind = %q, want the kind's name %q", p.Kind, f.Kind.Name())
	}
	if p.Hold == nil && len(p.Keys) == 0 {
		t.Errorf("Prepared has neither keys nor a hold: nothing is locked and nothing can be observed")
	}
	if p.Class.Rank() < 0 {
		t.Errorf("Prepared.Class = %q is no class", p.Class)
	}
	if p.Class == backstay.Equivalent && len(p.Modulo) == 0 {
		t.Errorf("Prepared.Class is equivalent without saying modulo what")
	}
	if p.Class == backstay.Irreversible && p.Irreversible == "" {
		t.Errorf("Prepared.Class is irreversible without a reason")
	}
	if p.Hold == nil && p.Fence == backstay.Leased && p.Window <= 0 {
		t.Errorf("Prepared.Fence is leased without its window")
	}
	if p.Summary == "" || strings.ContainsAny(p.Summary, "\n\r") {
		t.Errorf("Prepared.Summary = %q, want one line", p.Summary)
	}
	if p.Hold == nil && (p.Timeout <= 0 || (p.HasUndo && p.UndoTimeout <= 0)) {
		t.Errorf("Prepared has no timeouts: %v, %v", p.Timeout, p.UndoTimeout)
	}
	if len(p.Body) > 0 && !json.Valid(p.Body) {
		t.Errorf("Prepared.Body is no JSON: %q", p.Body)
	}
	for _, digest := range p.Blobs {
		if ok, err := tr.Fixture.Request.Blobs.Has(digest); err != nil || !ok {
			t.Errorf("Prepared.Blobs names %s, which is not stored (%v)", digest, err)
		}
	}
	for key := range p.Want {
		if !slices.Contains(p.Keys, key) {
			t.Errorf("Prepared.Want holds %s, which is not among the keys %v", key, p.Keys)
		}
	}
}

func testDo(t *testing.T, s Suite) {
	tr := begin(t, s)
	mustDo(t, tr)
	if err := wantReached(t, tr); err != nil {
		t.Error(err)
	}
	noLeftovers(t, tr.Fixture, "do")
}

func testDoTwice(t *testing.T, s Suite) {
	tr := begin(t, s)
	if tr.Step.Effect == backstay.AtMostOnce {
		mustDo(t, tr) // such a step is never repeated: once is all it promises
		return
	}
	mustDo(t, tr)
	once, onceImage := tr.Fixture.World(t), tr.Observe(t, false)
	mustDo(t, tr)
	if diff := cmp.Diff(once, tr.Fixture.World(t)); diff != "" {
		t.Errorf("the second do changed the world (-once +twice):\n%s", diff)
	}
	if readable(onceImage) && !onceImage.Equal(tr.Observe(t, false)) {
		t.Errorf("the second do changed the observed state")
	}
	noLeftovers(t, tr.Fixture, "do")
}

func testUndo(t *testing.T, s Suite) {
	f := s.New(t)
	before := f.World(t)
	tr := beginWith(t, f)
	mustDo(t, tr)
	if !tr.Step.HasUndo {
		return
	}
	tr.After = tr.Observe(t, false)
	mustUndo(t, tr)
	restored(t, tr, before, "do and undo")
}

func testUndoTwice(t *testing.T, s Suite) {
	f := s.New(t)
	before := f.World(t)
	tr := beginWith(t, f)
	mustDo(t, tr)
	if !tr.Step.HasUndo {
		return
	}
	// The engine repeats an undo whose record it could not write with the same list.
	tr.After = tr.Observe(t, false)
	restore := Differing(tr.Before, tr.After)
	for range 2 {
		call := tr.Call()
		if tr.Step.Restorable {
			call.Restore = restore
		}
		result, err := f.Kind.Undo(t.Context(), call)
		if err != nil {
			t.Fatalf("Undo: %v", err)
		}
		tr.keep(result)
	}
	restored(t, tr, before, "two undos")
}

func testUndoWithoutDo(t *testing.T, s Suite) {
	f := s.New(t)
	before := f.World(t)
	tr := beginWith(t, f)
	if !tr.Step.HasUndo {
		return
	}
	mustUndo(t, tr)
	restored(t, tr, before, "an undo without a do")
}

// testHalfDone stops do at every point where it asks its context, until it
// runs through, and after every delay; each time undo must bring back before.
func testHalfDone(t *testing.T, s Suite) {
	cuts(t, s, func(t *testing.T, ctx context.Context, ended func() bool) {
		f := s.New(t)
		before := f.World(t)
		tr := beginWith(t, f)
		err := tr.Do(ctx)
		if err != nil && !ended() {
			t.Fatalf("do failed by itself: %v", err)
		}
		noLeftovers(t, f, "a cancelled do")
		if !tr.Step.HasUndo {
			return
		}
		mustUndo(t, tr)
		restored(t, tr, before, "half a do and undo")
	})
}

func testHalfUndone(t *testing.T, s Suite) {
	cuts(t, s, func(t *testing.T, ctx context.Context, ended func() bool) {
		f := s.New(t)
		before := f.World(t)
		tr := beginWith(t, f)
		mustDo(t, tr)
		if !tr.Step.HasUndo {
			return
		}
		tr.After = tr.Observe(t, false)
		if err := tr.Undo(t, ctx); err != nil && !ended() {
			t.Fatalf("undo failed by itself: %v", err)
		}
		noLeftovers(t, f, "a cancelled undo")
		mustUndo(t, tr)
		restored(t, tr, before, "half an undo and another")
	})
}

func testCancelled(t *testing.T, s Suite) {
	f := s.New(t)
	before := f.World(t)
	tr := beginWith(t, f)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := tr.Do(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Do with an ended context returned %v, want the context's error", err)
	}
	if diff := cmp.Diff(before, f.World(t)); diff != "" {
		t.Errorf("Do with an ended context changed the world (-before +after):\n%s", diff)
	}
	noLeftovers(t, f, "a do with an ended context")
}

// testLapsed lets a step that no target fences act in a process that was stopped
// until after its lease: nothing has ended its context yet.
func testLapsed(t *testing.T, s Suite) {
	f := s.New(t)
	tr := beginWith(t, f)
	if tr.Step.Fence != backstay.Leased {
		return
	}
	lapsed := errors.New("lapsed")
	ctx := backstay.WithLease(t.Context(), func() (time.Duration, error) { return 0, lapsed })
	acts := []struct {
		name string
		act  func() error
	}{{"do", func() error { return tr.Do(ctx) }}, {"undo", func() error { return tr.Undo(t, ctx) }}}
	if !tr.Step.HasUndo {
		acts = acts[:1]
	}
	for _, a := range acts {
		if a.name == "undo" {
			mustDo(t, tr)
			tr.After = tr.Observe(t, false)
		}
		revive(t, f)
		before := f.World(t)
		err := a.act()
		if diff := cmp.Diff(before, f.World(t)); diff != "" {
			t.Errorf("%s after the lease changed the world (-before +after):\n%s", a.name, diff)
		} else if err != nil && !errors.Is(err, lapsed) {
			t.Errorf("%s after the lease returned %v, want the lease's error", a.name, err)
		}
		noLeftovers(t, f, a.name+" after the lease")
	}
}

func testObserve(t *testing.T, s Suite) {
	f := s.New(t)
	tr := NewTrial(t, f)
	worldBefore := f.World(t)
	first := tr.Observe(t, false)
	kept := tr.Observe(t, true)
	if diff := cmp.Diff(worldBefore, f.World(t)); diff != "" {
		t.Errorf("Observe changed the world (-before +after):\n%s", diff)
	}
	if !readable(first) {
		return // a step that nothing can read says so, and that is honest
	}
	if !first.Equal(kept) {
		t.Errorf("Observe of one world twice differs:\nlooked: %s\nkept:   %s", backstay.Canonical(first), backstay.Canonical(kept))
	}
	tr.Before = kept
	mustDo(t, tr)
	after := tr.Observe(t, false)
	sameWorld := cmp.Equal(worldBefore, f.World(t))
	if sameImage := first.Equal(after); sameImage != sameWorld {
		t.Errorf("Observe sees the same state before and after do: %v; an independent look: %v\nbefore: %s\nafter:  %s",
			sameImage, sameWorld, backstay.Canonical(first), backstay.Canonical(after))
	}
}

func testMutations(t *testing.T, s Suite) {
	for i, m := range s.New(t).Mutations {
		t.Run(m.Name, func(t *testing.T) {
			t.Parallel()
			f := s.New(t)
			tr := NewTrial(t, f)
			before, world := tr.Observe(t, false), f.World(t)
			f.Mutations[i].Apply(t)
			if cmp.Equal(world, f.World(t)) {
				t.Fatalf("the fixture's mutation does not change its world")
			}
			if before.Equal(tr.Observe(t, false)) {
				t.Errorf("Observe does not notice it: %s", backstay.Canonical(before))
			}
		})
	}
}

func testSecrets(t *testing.T, s Suite) {
	f := s.New(t)
	if f.Request.Blobs == nil {
		f.Request.Blobs = NewBlobs()
	}
	tr := beginWith(t, f)
	mustDo(t, tr)
	shown := map[string]string{
		"prepared step": string(backstay.Canonical(tr.Step)),
		"before-image":  string(backstay.Canonical(tr.Before)),
		"after-image":   string(backstay.Canonical(tr.Observe(t, true))),
		"slots":         fmt.Sprint(tr.Slots),
		"notes":         fmt.Sprint(tr.Notes),
	}
	if blobs, ok := f.Request.Blobs.(*Blobs); ok {
		for digest, content := range blobs.All() {
			shown["content "+digest] = string(content)
		}
	}
	for _, canary := range f.Canaries {
		for where, text := range shown {
			if strings.Contains(text, canary) {
				t.Errorf("the %s shows the secret %q: %.400s", where, canary, text)
			}
		}
	}
}
