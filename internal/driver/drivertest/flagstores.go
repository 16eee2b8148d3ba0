package drivertest

import (
	"context"
	"encoding/json"
	"maps"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver"
)

// FlagBed is a store with the flag new-checkout: true for those who get it, false
// for the others, and off; and a flag neighbour, which nobody may touch.
type FlagBed struct {
	Kind driver.Kind
	// Store is the entry of the section stores; nil: Backstay's own store.
	Store   map[string]any
	Secrets backstay.Secrets
	Flags   backstay.Flags
	// Canaries as in Fixture.
	Canaries []string
	// Look reads the store without the code under test: all of both flags, name to
	// value, and what new-checkout gives: "off", or the share of true in percent.
	Look func(t testing.TB) (world map[string]string, gives string)
	// Overwrite is somebody else's change: everybody gets true.
	Overwrite func(t testing.TB)
	// Key is the flag's, where it is not new-checkout.
	Key string
	// Dir is where the spec is; "": anywhere.
	Dir string
}

// FlagStoreSuite is what a store of flags fills in.
type FlagStoreSuite struct {
	New func(t *testing.T) *FlagBed
	// Fenced says that the store refuses a stale actor. Compares says that the second
	// of two writers at once is refused.
	Fenced, Compares bool
	// Points is how many interruption points of each act are tried; 0 means 6.
	Points int
}

// noFlags is a ledger without flags of its own.
type noFlags struct{}

func (noFlags) Flag(_ context.Context, key backstay.Key) (backstay.Flag, error) {
	return backstay.Flag{Key: key}, nil
}

func (noFlags) ChangeFlag(context.Context, backstay.FlagChange) (backstay.Flag, error) {
	return backstay.Flag{}, context.Canceled
}

// Step is the fixture of a flag step on the bed.
func (b *FlagBed) Step(t testing.TB, keys map[string]any) Fixture {
	t.Helper()
	config := map[string]any{"key": "new-checkout"}
	if b.Key != "" {
		config["key"] = b.Key
	}
	r := backstay.Request{ID: "1-flag", Dir: b.Dir, DataDir: t.TempDir(), Release: "shop", Blobs: NewBlobs(), Secrets: b.Secrets, Flags: b.Flags}
	if r.Dir == "" {
		r.Dir = t.TempDir()
	}
	if b.Store != nil {
		config["store"] = "it"
		r.Sections = map[string]json.RawMessage{"stores": backstay.Canonical(map[string]any{"it": b.Store})}
	}
	if r.Flags == nil {
		r.Flags = noFlags{}
	}
	maps.Copy(config, keys)
	r.Config = backstay.Canonical(map[string]any{"flag": config})
	return Fixture{
		Kind: b.Kind, Request: r, Canaries: b.Canaries,
		World:     func(t testing.TB) map[string]string { t.Helper(); w, _ := b.Look(t); return w },
		Mutations: []Mutation{{Name: "everybody gets it", Apply: b.Overwrite}},
	}
}

func (b *FlagBed) move(t testing.TB, keys map[string]any) *Trial {
	t.Helper()
	tr := NewTrial(t, b.Step(t, keys))
	tr.Begin(t)
	return tr
}

func (b *FlagBed) gives(t testing.TB, want string) {
	t.Helper()
	if _, got := b.Look(t); got != want {
		t.Errorf("the flag gives %s, want %s", got, want)
	}
}

// RunFlagStore runs the suite of flag stores as parallel subtests of t.
func RunFlagStore(t *testing.T, s FlagStoreSuite) {
	t.Helper()
	if s.Points == 0 {
		s.Points = 6
	}
	for name, keys := range map[string]map[string]any{
		"a share": {"percentage": "10%"},
		"nobody":  {"percentage": "0%"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			Run(t, Suite{MaxCuts: s.Points, New: func(t *testing.T) Fixture { t.Helper(); return s.New(t).Step(t, keys) }})
		})
	}
	for name, run := range map[string]func(*testing.T, FlagStoreSuite){
		"moves go there and back in one":      testFlagDial,
		"what somebody else changed stays":    testFlagOutsider,
		"the second of two writers is late":   testFlagRace,
		"neighbours keep every byte":          testFlagNeighbours,
		"a flag that is not there is refused": testFlagMissing,
		"its traits are what the step says":   testFlagTraits,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run(t, s)
		})
	}
}

func testFlagDial(t *testing.T, s FlagStoreSuite) {
	b := s.New(t)
	before, _ := b.Look(t)
	b.gives(t, "off")
	oldest := b.move(t, map[string]any{"percentage": "10%"})
	mustDo(t, oldest)
	b.gives(t, "10")
	last := oldest
	for _, m := range []struct {
		keys map[string]any
		want string
	}{
		{map[string]any{"percentage": "50%"}, "50"},
		{map[string]any{"percentage": "100%"}, "100"},
		{map[string]any{"turn": "off"}, "off"},
		{map[string]any{"turn": "on"}, "100"},
		{map[string]any{"percentage": "25%", "variant": "false"}, "75"},
		{map[string]any{"percentage": "0%"}, "0"},
	} {
		last = b.move(t, m.keys)
		mustDo(t, last)
		b.gives(t, m.want)
	}
	// As the engine takes moves of one dial back: the last one, to what was before the first.
	last.After, last.Before = last.Observe(t, false), oldest.Before
	mustUndo(t, last)
	if after, _ := b.Look(t); !cmp.Equal(before, after) {
		t.Errorf("the way back (-before +after):\n%s", cmp.Diff(before, after))
	}
}

func testFlagOutsider(t *testing.T, s FlagStoreSuite) {
	b := s.New(t)
	tr := b.move(t, map[string]any{"percentage": "10%"})
	b.Overwrite(t) // after the intent
	result, err := tr.Fixture.Kind.Do(t.Context(), tr.Call())
	if backstay.ClassOf(err) != backstay.Conflict || !result.Untouched {
		t.Errorf("do over somebody's change: got %+v, %v", result, err)
	}
	b.gives(t, "100")

	b = s.New(t)
	tr = b.move(t, map[string]any{"percentage": "10%"})
	mustDo(t, tr)
	tr.After = tr.Observe(t, false)
	call := tr.Call()
	call.Restore = Differing(tr.Before, tr.After)
	b.Overwrite(t) // after the undo was decided
	if _, err := tr.Fixture.Kind.Undo(t.Context(), call); err != nil {
		t.Fatal(err)
	}
	b.gives(t, "100")
}

// testFlagRace lets two steps that saw the same flag write at once: what is there
// then is what one of them wanted, whole; the other was told so where that can be.
func testFlagRace(t *testing.T, s FlagStoreSuite) {
	b := s.New(t)
	trials := []*Trial{b.move(t, map[string]any{"percentage": "10%"}), b.move(t, map[string]any{"percentage": "60%"})}
	errs := make([]error, len(trials))
	var wg sync.WaitGroup
	for i, tr := range trials {
		wg.Go(func() { errs[i] = tr.Do(t.Context()) })
	}
	wg.Wait()
	_, got := b.Look(t)
	if got != "10" && got != "60" {
		t.Errorf("two writers left the flag at %s", got)
	}
	late := 0
	for _, err := range errs {
		if backstay.ClassOf(err) == backstay.Conflict {
			late++
		} else if err != nil {
			t.Errorf("a writer failed otherwise: %v", err)
		}
	}
	if s.Compares && late != 1 {
		t.Errorf("%d of two writers at once were refused, want 1: %v", late, errs)
	}
}

func testFlagNeighbours(t *testing.T, s FlagStoreSuite) {
	b := s.New(t)
	before, _ := b.Look(t)
	tr := b.move(t, map[string]any{"percentage": "10%"})
	mustDo(t, tr)
	after, _ := b.Look(t)
	neighbours := 0
	for name, was := range before {
		if strings.HasPrefix(name, "neighbour") {
			neighbours++
			if after[name] != was {
				t.Errorf("%s changed from %s to %s", name, was, after[name])
			}
		}
	}
	if neighbours == 0 {
		t.Error("the bed has no neighbour")
	}
}

func testFlagMissing(t *testing.T, s FlagStoreSuite) {
	b := s.New(t)
	f := b.Step(t, map[string]any{"key": "nowhere", "percentage": "10%"})
	_, err := f.Kind.Prepare(t.Context(), f.Request)
	refused, ok := errorAs[*backstay.RefusedError](err)
	if !ok || !strings.Contains(Explain(err), "no") || refused.Problems[0].Hint == "" {
		t.Errorf("got %v", Explain(err))
	}
}

func testFlagTraits(t *testing.T, s FlagStoreSuite) {
	p := s.New(t).move(t, map[string]any{"percentage": "10%"}).Step
	if (p.Fence == backstay.Fenced) != s.Fenced || p.Dial == "" || !p.Restorable || p.Class.Rank() > backstay.Equivalent.Rank() || p.Effect != backstay.Idempotent {
		t.Errorf("the step is %s, %s, %s, dial %q", p.Fence, p.Class, p.Effect, p.Dial)
	}
}
