package drivertest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver"
)

// Backend is an instance of a side: a server that says who it is. It answers
// /healthz with 200 as long as it is well.
type Backend struct {
	Name string
	URL  string

	ill    atomic.Bool
	served atomic.Int64
	first  atomic.Int64 // when it was asked first since Await
}

// StartBackend starts one on a loopback port of its own.
func StartBackend(t testing.TB, name string) *Backend {
	t.Helper()
	b := &Backend{Name: name}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/healthz" {
			if b.ill.Load() {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			return
		}
		b.served.Add(1)
		b.first.CompareAndSwap(0, time.Now().UnixNano())
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, name)
	}))
	t.Cleanup(s.Close)
	b.URL = s.URL
	return b
}

// Ail makes it fail its health checks, or pass them again.
func (b *Backend) Ail(ill bool) { b.ill.Store(ill) }

// Served counts the requests that it answered, health checks left out.
func (b *Backend) Served() int64 { return b.served.Load() }

// Await forgets when it was first asked.
func (b *Backend) Await() { b.first.Store(0) }

// First is when it was first asked since Await; false: not yet.
func (b *Backend) First() (time.Time, bool) {
	at := b.first.Load()
	return time.Unix(0, at), at != 0
}

// RouterBed is a router with the route shop and its sides blue and green, each
// with one instance that is ready; blue has all the traffic.
type RouterBed struct {
	Kind driver.Kind
	// Route is the entry of the section routes.
	Route map[string]any
	// Front is where the router serves the route, for the host shop.test.
	Front string
	Blue  *Backend
	Green *Backend
	// Look reads what the router itself holds, without the code under test.
	Look func(t testing.TB) RouterLook
	// Settled waits until the router has seen that a backend's health changed.
	// Nil: it looks for itself when it matters.
	Settled func(t testing.TB, b *Backend)
	// Overwrite is somebody else's change of the weights.
	Overwrite func(t testing.TB, green int)
	// Leftovers as in Fixture.
	Leftovers func(t testing.TB) []string
}

// RouterLook is what a router holds: the weights of sides in percent, and all
// that it says about the route, name to value.
type RouterLook struct {
	Weights map[string]int
	World   map[string]string
}

// RouterSuite is what the implementation of a router fills in.
type RouterSuite struct {
	New func(t *testing.T) *RouterBed
	// Fenced says that the router refuses stale writers.
	Fenced bool
	// Moves under load; 0 means 200.
	Moves int
	// Points is how many interruption points of each act are tried; 0 means 12.
	Points int
	// Cuts says that the router closes kept connections while a client may be
	// sending: bodies go on new ones, as only a GET is sent again by itself.
	Cuts bool
}

// Step is the fixture of a traffic step on the bed.
func (b *RouterBed) Step(t testing.TB, keys map[string]any) Fixture {
	t.Helper()
	config := map[string]any{"route": "shop"}
	maps.Copy(config, keys)
	return Fixture{
		Kind: b.Kind,
		Request: backstay.Request{
			ID: "1-traffic", Dir: t.TempDir(), DataDir: t.TempDir(), Release: "shop", Blobs: NewBlobs(),
			Config:   backstay.Canonical(map[string]any{"traffic": config}),
			Sections: map[string]json.RawMessage{"routes": backstay.Canonical(map[string]any{"shop": b.Route})},
		},
		World:     func(t testing.TB) map[string]string { t.Helper(); return b.Look(t).World },
		Leftovers: b.Leftovers,
		Mutations: []Mutation{{Name: "weights overwritten", Apply: func(t testing.TB) { t.Helper(); b.Overwrite(t, 37) }}},
	}
}

// Move is the trial of a move to a share of green, begun.
func (b *RouterBed) Move(t testing.TB, green int) *Trial {
	t.Helper()
	tr := NewTrial(t, b.Step(t, map[string]any{"to": map[string]any{"green": green, "blue": 100 - green}}))
	tr.Begin(t)
	return tr
}

// RunRouter runs the suite of routers as parallel subtests of t: each kind of
// step by the suite of kinds, and what only routers promise.
func RunRouter(t *testing.T, s RouterSuite) {
	t.Helper()
	if s.Moves == 0 {
		s.Moves = 200
	}
	if s.Points == 0 {
		s.Points = 12
	}
	for name, keys := range map[string]func(t *testing.T, b *RouterBed) map[string]any{
		"move": func(*testing.T, *RouterBed) map[string]any {
			return map[string]any{"to": map[string]any{"green": "10%", "blue": "90%"}}
		},
		"weight of the next side": func(*testing.T, *RouterBed) map[string]any {
			return map[string]any{"side": "next", "weight": "100%"}
		},
		"register": func(t *testing.T, b *RouterBed) map[string]any {
			t.Helper()
			return map[string]any{"side": "green", "instances": []string{StartBackend(t, "green").URL}, "within": "10s"}
		},
		"retire": func(*testing.T, *RouterBed) map[string]any { return map[string]any{"side": "green", "retire": true} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			Run(t, Suite{MaxCuts: s.Points, New: func(t *testing.T) Fixture {
				t.Helper()
				b := s.New(t)
				return b.Step(t, keys(t, b))
			}})
		})
	}
	for name, run := range map[string]func(*testing.T, RouterSuite){
		"weights sum to 100 and read back":      testRouterWeights,
		"an unready side gets nothing":          testRouterUnready,
		"weight within ready capacity":          testRouterCapacity,
		"moves go back in one":                  testRouterDial,
		"what somebody else changed is refused": testRouterConflict,
		"a stale writer is refused":             testRouterStale,
		"moves under load fail no request":      testRouterLoad,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run(t, s)
		})
	}
}

// weightsAre compares what the router holds with what the kind observes and with
// what is wanted.
func weightsAre(t testing.TB, b *RouterBed, tr *Trial, want map[string]int) {
	t.Helper()
	look := b.Look(t)
	if diff := cmp.Diff(want, look.Weights); diff != "" {
		t.Errorf("the router holds other weights (-want +got):\n%s", diff)
	}
	sum := 0
	for _, w := range look.Weights {
		sum += w
	}
	if sum != 100 {
		t.Errorf("the router's weights %v sum to %d", look.Weights, sum)
	}
	var seen map[string]int
	if err := json.Unmarshal(tr.Observe(t, false)[tr.Step.Dial].Parts[""], &seen); err != nil {
		t.Fatalf("read the observed weights: %v", err)
	}
	if diff := cmp.Diff(look.Weights, seen); diff != "" {
		t.Errorf("the kind observes other weights than the router holds (-router +kind):\n%s", diff)
	}
}

// shares are the weights of a share of green.
func shares(green int) map[string]int {
	out := map[string]int{"green": green, "blue": 100 - green}
	maps.DeleteFunc(out, func(_ string, w int) bool { return w == 0 })
	return out
}

func testRouterWeights(t *testing.T, s RouterSuite) {
	b := s.New(t)
	random := rand.New(rand.NewPCG(3, 4)) //nolint:gosec // a test that can be repeated
	for _, green := range append([]int{0, 1, 99, 100}, random.Perm(101)[:8]...) {
		tr := b.Move(t, green)
		if tr.Step.Dial == "" || len(tr.Step.Keys) != 1 || tr.Step.Keys[0] != tr.Step.Dial || !tr.Step.Restorable {
			t.Fatalf("a move is no dial: dial %q of keys %v", tr.Step.Dial, tr.Step.Keys)
		}
		mustDo(t, tr)
		weightsAre(t, b, tr, shares(green))
	}
}

func testRouterUnready(t *testing.T, s RouterSuite) {
	b := s.New(t)
	b.Green.Ail(true)
	if b.Settled != nil {
		b.Settled(t, b.Green)
	}
	before := b.Look(t).World
	tr := b.Move(t, 1)
	err := tr.Do(t.Context())
	if err == nil {
		t.Fatal("traffic moved to a side that is not ready")
	}
	if backstay.ClassOf(err) != backstay.Permanent || backstay.HintOf(err) == "" {
		t.Errorf("class %s, hint %q of: %v", backstay.ClassOf(err), backstay.HintOf(err), err)
	}
	if diff := cmp.Diff(before, b.Look(t).World); diff != "" {
		t.Errorf("the refused move changed the router (-before +after):\n%s", diff)
	}
	// A side that is not ready can be registered, but the step does not pass.
	ill := StartBackend(t, "ill")
	ill.Ail(true)
	tr = NewTrial(t, b.Step(t, map[string]any{"side": "green", "instances": []string{ill.URL}, "within": "300ms"}))
	tr.Begin(t)
	if err := tr.Do(t.Context()); err == nil {
		t.Error("a side that is not ready was registered as ready")
	}
	mustUndo(t, tr)
	if diff := cmp.Diff(before, b.Look(t).World); diff != "" {
		t.Errorf("after the undo the router differs (-before +after):\n%s", diff)
	}
}

func testRouterCapacity(t *testing.T, s RouterSuite) {
	b := s.New(t)
	b.Route["capacity"] = "50%"
	second := StartBackend(t, "green")
	register := func(list ...string) {
		tr := NewTrial(t, b.Step(t, map[string]any{"side": "green", "instances": list, "within": "10s"}))
		tr.Begin(t)
		mustDo(t, tr)
	}
	register(b.Green.URL)
	tr := b.Move(t, 60)
	if err := tr.Do(t.Context()); err == nil {
		t.Error("60 % moved to a side that can carry 50 %")
	}
	tr = b.Move(t, 50)
	mustDo(t, tr)
	weightsAre(t, b, tr, shares(50))
	register(b.Green.URL, second.URL)
	tr = b.Move(t, 60)
	mustDo(t, tr)
	weightsAre(t, b, tr, shares(60))
}

// testRouterDial makes three moves, and undoes the last with the before-image of
// the first, as the engine does.
func testRouterDial(t *testing.T, s RouterSuite) {
	b := s.New(t)
	before := b.Look(t)
	var first backstay.Image
	var last *Trial
	for _, green := range []int{1, 10, 50} {
		last = b.Move(t, green)
		if first == nil {
			first = last.Before
		}
		mustDo(t, last)
	}
	last.Before = first
	mustUndo(t, last)
	if diff := cmp.Diff(before, b.Look(t)); diff != "" {
		t.Errorf("after one undo the router differs (-before +after):\n%s", diff)
	}
}

func testRouterConflict(t *testing.T, s RouterSuite) {
	b := s.New(t)
	tr := b.Move(t, 10)
	b.Overwrite(t, 37)
	theirs := b.Look(t)
	err := tr.Do(t.Context())
	if backstay.ClassOf(err) != backstay.Conflict {
		t.Errorf("a move from weights that somebody else set: got %v of class %s", err, backstay.ClassOf(err))
	}
	if diff := cmp.Diff(theirs, b.Look(t)); diff != "" {
		t.Errorf("the refused move changed the router (-before +after):\n%s", diff)
	}
}

func testRouterStale(t *testing.T, s RouterSuite) {
	b := s.New(t)
	tr := b.Move(t, 10)
	if fenced := tr.Step.Fence == backstay.Fenced; fenced != s.Fenced {
		t.Fatalf("the step says %s", tr.Step.Fence)
	}
	if !s.Fenced {
		if tr.Step.Window <= 0 {
			t.Error("a leased step names no window")
		}
		return
	}
	mustDo(t, tr)
	call := tr.Call()
	call.Token.Epoch++ // the node that took over
	call.Restore = Differing(tr.Before, tr.Observe(t, false))
	if _, err := b.Kind.Undo(t.Context(), call); err != nil {
		t.Fatalf("the new owner's undo: %v", err)
	}
	back := b.Look(t)
	// The old owner wakes up and does it again.
	for _, act := range []func() error{
		func() error { return tr.Do(t.Context()) },
		func() error { _, err := b.Kind.Undo(t.Context(), undoTo(tr, b, 90)); return err },
	} {
		if err := act(); backstay.ClassOf(err) != backstay.Conflict {
			t.Errorf("a stale writer: got %v of class %s", err, backstay.ClassOf(err))
		}
	}
	if diff := cmp.Diff(back, b.Look(t)); diff != "" {
		t.Errorf("a stale writer changed the router (-before +after):\n%s", diff)
	}
}

// undoTo is the call of an undo to another share of green.
func undoTo(tr *Trial, _ *RouterBed, green int) backstay.Call {
	call := tr.Call()
	call.Before = backstay.Image{tr.Step.Dial: backstay.PartValue(shares(green))}
	call.Restore = map[backstay.Key][]string{tr.Step.Dial: {""}}
	return call
}

// testRouterLoad moves at random while clients of all sorts ask.
func testRouterLoad(t *testing.T, s RouterSuite) {
	b := s.New(t)
	load := StartLoad(t, b.Front, "shop.test", Clients{FreshBodies: s.Cuts})
	random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // a test that can be repeated
	green := 0
	for range s.Moves {
		to := random.IntN(101)
		for to == green {
			to = random.IntN(101)
		}
		green = to
		tr := b.Move(t, green)
		mustDo(t, tr)
		if diff := cmp.Diff(shares(green), b.Look(t).Weights); diff != "" {
			t.Fatalf("the router holds other weights (-want +got):\n%s", diff)
		}
		load.More(t, 5)
	}
	served, err := load.Stop()
	if err != nil {
		t.Fatal(err)
	}
	if b.Blue.Served() == 0 || b.Green.Served() == 0 {
		t.Errorf("blue served %d and green %d requests: nothing was moved", b.Blue.Served(), b.Green.Served())
	}
	t.Logf("%d requests during %d moves, none failed; blue %d, green %d", served, s.Moves, b.Blue.Served(), b.Green.Served())
}

var errShort = errors.New("the answer is not what a side says")

// wellAnswered reads an answer and says what is wrong with it.
func wellAnswered(resp *http.Response) error {
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if closed := resp.Body.Close(); err == nil {
		err = closed
	}
	switch {
	case err != nil:
		return fmt.Errorf("read answer: %w", err)
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("status %d: %.200s", resp.StatusCode, body)
	case string(body) != "blue" && string(body) != "green":
		return fmt.Errorf("%w: %.200s", errShort, body)
	}
	return nil
}
