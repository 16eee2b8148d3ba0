package proxy

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/proxy/wire"
)

func TestChangeRefuses(t *testing.T) {
	t.Parallel()
	blue, green := backend(t, "blue"), backend(t, "green")
	dead := deadURL(t)
	start := func(t *testing.T) *Proxy {
		t.Helper()
		p, _ := newProxy(t, Options{Routes: []wire.Route{twoSides(blue.URL, green.URL, 100)}})
		if _, err := move(t, p, writer("b", 2, 5), 10); err != nil {
			t.Fatalf("first move: %v", err)
		}
		return p
	}
	shop := twoSides(blue.URL, green.URL, 90)
	with := func(change func(r *wire.Route)) *wire.Route {
		r, err := wire.FromState("shop", shop.State())
		if err != nil {
			t.Fatal(err)
		}
		change(r)
		return r
	}
	for _, tt := range []struct {
		name string
		ch   wire.Change
		want wire.Code
	}{
		{"older epoch", wire.Change{Writer: writer("b", 1, 9), Expect: shop.Digest(), Weights: map[string]int{"green": 0, "blue": 100}}, wire.Stale},
		{"older seq", wire.Change{Writer: writer("b", 2, 4), Expect: shop.Digest(), Weights: map[string]int{"green": 0, "blue": 100}}, wire.Stale},
		{"older generation of another", wire.Change{Writer: wire.Writer{Deployment: "c"}, Expect: shop.Digest(), Remove: true}, wire.Stale},
		{"stale, though it is in effect", wire.Change{Writer: writer("b", 1, 1), Expect: shop.Digest(), Route: &shop}, wire.Stale},
		{"another state expected", wire.Change{Writer: writer("b", 2, 6), Expect: "0", Weights: map[string]int{"green": 0, "blue": 100}}, wire.Conflict},
		{"weights sum to 90", wire.Change{Writer: writer("b", 2, 6), Expect: shop.Digest(), Weights: map[string]int{"green": 0}}, wire.Invalid},
		{"weight below 0", wire.Change{Writer: writer("b", 2, 6), Expect: shop.Digest(), Weights: map[string]int{"green": -1, "blue": 101}}, wire.Invalid},
		{"no such side", wire.Change{Writer: writer("b", 2, 6), Expect: shop.Digest(), Weights: map[string]int{"red": 0}}, wire.NotFound},
		{"nothing asked", wire.Change{Writer: writer("b", 2, 6), Expect: shop.Digest()}, wire.Invalid},
		{"two things asked", wire.Change{Writer: writer("b", 2, 6), Expect: shop.Digest(), Remove: true, Route: &shop}, wire.Invalid},
		{"no deployment", wire.Change{Expect: shop.Digest(), Remove: true}, wire.Invalid},
		{"to a dead side", wire.Change{Writer: writer("b", 2, 6), Expect: shop.Digest(), Route: with(func(r *wire.Route) { r.Sides[0].Instances[0].URL = dead })}, wire.NotReady},
		{"over its capacity", wire.Change{Writer: writer("b", 2, 6), Expect: shop.Digest(), Route: with(func(r *wire.Route) {
			r.Sides[0].Instances[0].Capacity, r.Sides[0].Weight, r.Sides[1].Weight = 40, 50, 50
		})}, wire.NotReady},
		{"to an empty side", wire.Change{Writer: writer("b", 2, 6), Expect: shop.Digest(), Route: with(func(r *wire.Route) { r.Sides[0].Instances = nil })}, wire.NotReady},
		{"back, to a dead side", wire.Change{Writer: writer("b", 2, 6), Expect: shop.Digest(), Restore: true, Route: with(func(r *wire.Route) { r.Sides[0].Instances[0].URL = dead })}, wire.NotReady},
		{"a metadata service", wire.Change{Writer: writer("b", 2, 6), Expect: shop.Digest(), Route: with(func(r *wire.Route) { r.Sides[0].Instances[0].URL = "http://169.254.169.254:80" })}, wire.Invalid},
		{"a file", wire.Change{Writer: writer("b", 2, 6), Expect: shop.Digest(), Route: with(func(r *wire.Route) { r.Sides[0].Instances[0].URL = "file:///etc/passwd" })}, wire.Invalid},
		{"the same requests as another route", wire.Change{Writer: writer("b", 2, 6), Expect: (*wire.Route)(nil).Digest(), Route: with(func(r *wire.Route) { r.Name = "shop2" })}, wire.Invalid},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := start(t)
			before := p.Status()
			name := "shop"
			if tt.ch.Route != nil {
				name = tt.ch.Route.Name
			}
			_, err := p.Change(t.Context(), name, tt.ch)
			if got := codeOf(err); got != tt.want {
				t.Fatalf("got %v (%v), want %v", got, err, tt.want)
			}
			after := p.Status()
			if before.Revision != after.Revision || before.Routes[0].Digest != after.Routes[0].Digest {
				t.Errorf("a refused change changed something: revision %d to %d", before.Revision, after.Revision)
			}
			var e *wire.Error
			if errors.As(err, &e); (e.Code == wire.Stale || e.Code == wire.Conflict) && (e.Seen == nil || e.Seen.Token.Seq != 5 || e.Digest != shop.Digest()) {
				t.Errorf("the refusal does not say what was seen: %+v", e)
			}
		})
	}
}

// Before its first release a route had its weight on a side where nobody serves:
// the way back may give it there again.
func TestChangeBackToNobody(t *testing.T) {
	t.Parallel()
	blue := backend(t, "blue").URL
	route := twoSides(blue, blue, 0) // green has everything, and nobody there
	for i, s := range route.Sides {
		if s.Weight > 0 {
			route.Sides[i].Instances = nil
		}
	}
	p, _ := newProxy(t, Options{Routes: []wire.Route{route}})
	there, err := p.Change(t.Context(), "shop", wire.Change{Writer: writer("a", 1, 1), Expect: p.Status().Routes[0].Digest, Weights: map[string]int{"green": 0, "blue": 100}})
	if err != nil {
		t.Fatal(err)
	}
	back := wire.Change{Writer: writer("a", 1, 2), Expect: there.Digest, Weights: map[string]int{"green": 100, "blue": 0}}
	if _, err := p.Change(t.Context(), "shop", back); codeOf(err) != wire.NotReady {
		t.Errorf("a move to nobody: got %v, want not ready", err)
	}
	back.Restore = true
	if again, err := p.Change(t.Context(), "shop", back); err != nil || again.Digest != route.Digest() {
		t.Errorf("the way back: %+v, %v", again, err)
	}
}

func TestChangeRepeats(t *testing.T) {
	t.Parallel()
	blue, green := backend(t, "blue"), backend(t, "green")
	p, _ := newProxy(t, Options{Routes: []wire.Route{twoSides(blue.URL, green.URL, 100)}})
	first := p.Status().Routes[0].Digest
	ch := wire.Change{Writer: writer("a", 1, 1), Expect: first, Weights: map[string]int{"green": 50, "blue": 50}}
	one, err := p.Change(t.Context(), "shop", ch)
	if err != nil {
		t.Fatal(err)
	}
	two, err := p.Change(t.Context(), "shop", ch)
	if err != nil || two.Revision != one.Revision {
		t.Fatalf("the repeat: revision %v, %v; want %d and no error", two, err, one.Revision)
	}
	// A later act that finds the state as it wants it still fences the earlier ones.
	ch.Token.Epoch = 2
	if _, err := p.Change(t.Context(), "shop", ch); err != nil {
		t.Fatal(err)
	}
	ch.Token.Epoch = 1
	if _, err := p.Change(t.Context(), "shop", ch); codeOf(err) != wire.Stale {
		t.Fatalf("the earlier epoch: got %v, want stale", err)
	}
}

// One deployment takes over from another; the first never writes again, not
// even after the route was removed.
func TestTakeOver(t *testing.T) {
	t.Parallel()
	blue, green := backend(t, "blue"), backend(t, "green")
	p, _ := newProxy(t, Options{Routes: []wire.Route{twoSides(blue.URL, green.URL, 100)}})
	if _, err := move(t, p, writer("a", 7, 1), 10); err != nil {
		t.Fatal(err)
	}
	s, err := move(t, p, writer("b", 1, 1), 20)
	if err != nil {
		t.Fatalf("the next deployment has a lower epoch of its own, and that is right: %v", err)
	}
	if _, err := move(t, p, writer("a", 8, 1), 30); codeOf(err) != wire.Stale {
		t.Fatalf("the deployment before: got %v, want stale", err)
	}
	if gone, err := p.Change(t.Context(), "shop", wire.Change{Writer: writer("b", 1, 2), Expect: s.Digest, Remove: true}); err != nil || gone != nil {
		t.Fatalf("remove: %v, %v", gone, err)
	}
	if _, err := p.Route("shop"); codeOf(err) != wire.NotFound {
		t.Fatalf("the removed route: %v", err)
	}
	r := s.Route
	bring := wire.Change{Writer: writer("a", 9, 1), Expect: (*wire.Route)(nil).Digest(), Route: &r}
	if _, err := p.Change(t.Context(), "shop", bring); codeOf(err) != wire.Stale {
		t.Fatalf("bring it back as the deployment before: got %v, want stale", err)
	}
	bring.Writer = writer("b", 1, 3)
	back, err := p.Change(t.Context(), "shop", bring)
	if err != nil || back.Digest != s.Digest {
		t.Fatalf("restore from the image: %v, %v", back, err)
	}
}

// Two writers with one expectation: exactly one wins each round.
func TestTwoWriters(t *testing.T) {
	t.Parallel()
	blue, green := backend(t, "blue"), backend(t, "green")
	p, _ := newProxy(t, Options{Routes: []wire.Route{twoSides(blue.URL, green.URL, 100)}})
	for round := range 20 {
		expect := p.Status().Routes[0].Digest
		results := make([]error, 2)
		var both sync.WaitGroup
		for i := range results {
			both.Go(func() {
				weight := 1 + (2*round+i)%99
				_, results[i] = p.Change(t.Context(), "shop", wire.Change{
					Writer: writer(fmt.Sprintf("d%d-%d", round, i), 1, 1), Expect: expect, Weights: map[string]int{"green": weight, "blue": 100 - weight},
				})
			})
		}
		both.Wait()
		if (results[0] == nil) == (results[1] == nil) {
			t.Fatalf("round %d: %v and %v; want exactly one refused", round, results[0], results[1])
		}
		if err := errors.Join(results...); codeOf(err) != wire.Conflict {
			t.Fatalf("round %d: %v; want a conflict", round, err)
		}
	}
}

func TestStateSurvives(t *testing.T) {
	t.Parallel()
	blue, green := backend(t, "blue"), backend(t, "green")
	dir := t.TempDir()
	seed := twoSides(blue.URL, green.URL, 100)
	p, err := New(t.Context(), Options{State: dir, Routes: []wire.Route{seed}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := move(t, p, writer("a", 3, 4), 25); err != nil {
		t.Fatal(err)
	}
	want := p.Status()
	if _, err := New(t.Context(), Options{State: dir}); err == nil {
		t.Fatal("a second proxy opened the same state")
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	p, err = New(t.Context(), Options{State: dir, Routes: []wire.Route{seed}}) // the seed does not win
	if err != nil {
		t.Fatal(err)
	}
	got := p.Status()
	want.Boot, got.Boot = "", ""
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("after the restart (-want +got):\n%s", diff)
	}
	if _, err := move(t, p, writer("a", 3, 3), 0); codeOf(err) != wire.Stale {
		t.Errorf("a stale writer after the restart: %v", err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestDamagedStateIsRefused(t *testing.T) {
	t.Parallel()
	for name, content := range map[string]string{
		"torn":            `{"format":"backstay.proxy.state/v1","rou`,
		"newer format":    `{"format":"backstay.proxy.state/v9"}`,
		"weights of 90":   `{"format":"backstay.proxy.state/v1","routes":{"a":{"route":{"name":"a","sides":[{"name":"x","weight":90}]}}}}`,
		"another's route": `{"format":"backstay.proxy.state/v1","routes":{"a":{"route":{"name":"b","sides":[{"name":"x","weight":100}]}}}}`,
		"null":            `{"format":"backstay.proxy.state/v1","routes":{"a":null}}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, stateFile), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := New(t.Context(), Options{State: dir})
			if err == nil || backstay.HintOf(err) == "" {
				t.Fatalf("got %v, want a refusal with a hint", err)
			}
			if after, _ := os.ReadFile(filepath.Join(dir, stateFile)); string(after) != content {
				t.Error("the damaged state was touched")
			}
		})
	}
}

// A change that cannot be made durable is not served.
func TestUnsavedIsNotServed(t *testing.T) {
	t.Parallel()
	blue, green := backend(t, "blue"), backend(t, "green")
	p, front := newProxy(t, Options{Routes: []wire.Route{twoSides(blue.URL, green.URL, 100)}})
	p.changes.Lock()
	p.store.dir = filepath.Join(p.store.dir, "gone")
	p.changes.Unlock()
	before := p.Status().Routes[0].Digest
	if _, err := move(t, p, writer("a", 1, 1), 100); codeOf(err) != wire.Internal {
		t.Fatalf("got %v, want internal", err)
	}
	if after := p.Status().Routes[0].Digest; after != before {
		t.Error("the state reads as changed")
	}
	if _, body, _ := get(t, client(t), request(t, front, "shop.test", "/")); body != "blue" {
		t.Errorf("served by %q, want blue", body)
	}
}
