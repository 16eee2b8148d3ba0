package ledgertest

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/ledger"
)

func testPlans(t *testing.T, h Harness) {
	s := h.open(t, ledger.Options{})
	digests := []string{"aaaa" + PlanDigest[4:], "aaaa" + strings.Repeat("b", 60), PlanDigest}
	for i, d := range digests {
		for range 2 {
			if err := s.SavePlan(t.Context(), d, fmt.Appendf(nil, `{"n":%d}`, i), nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, c := range []struct{ ref, want string }{
		{digests[0], `{"n":0}`},
		{digests[2][:6], `{"n":2}`},
		{digests[1][:8], `{"n":1}`},
	} {
		if got, err := s.Plan(t.Context(), c.ref); err != nil || string(got) != c.want {
			t.Errorf("plan %s: got %s, %v; want %s", c.ref, got, err, c.want)
		}
	}
	if _, err := s.Plan(t.Context(), "aaaa"); err == nil || errors.Is(err, ledger.ErrNotFound) || !strings.Contains(err.Error(), digests[1]) {
		t.Errorf("ambiguous plan: got %v, want the candidates", err)
	}
	for _, ref := range []string{"", "aaa", "ffff", "%", "aaaa%"} {
		if _, err := s.Plan(t.Context(), ref); !errors.Is(err, ledger.ErrNotFound) {
			t.Errorf("plan %q: got %v, want ErrNotFound", ref, err)
		}
	}
}

func testFind(t *testing.T, h Harness) {
	s := h.open(t, ledger.Options{})
	SavePlan(t, s)
	ids := []string{
		"01890000-0000-7000-8000-00000000aaaa",
		"01890000-0000-7000-8000-00000000bbbb",
		"01991234-0000-7000-8000-00000000cccc",
	}
	for _, id := range ids {
		d := New(t, "shop")
		d.ID = id
		if _, err := s.Create(t.Context(), d); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ ref, want string }{
		{ids[0], ids[0]},
		{strings.ToUpper(ids[1]), ids[1]},
		{"01991", ids[2]},
		{"aaaa", ids[0]},
		{" 0000bbbb\n", ids[1]},
		{"shop#3", ids[2]},
	} {
		if got, err := s.Find(t.Context(), c.ref); err != nil || got.ID != c.want {
			t.Errorf("find %q: got %s, %v; want %s", c.ref, got.ID, err, c.want)
		}
	}
	for _, ref := range []string{"", "aaa", "ffff", "shop#4", "shop#x", "shop", "%", "____", "shop#", "x' OR '1'='1"} {
		if _, err := s.Find(t.Context(), ref); !errors.Is(err, ledger.ErrNotFound) {
			t.Errorf("find %q: got %v, want ErrNotFound", ref, err)
		}
	}
	_, err := s.Find(t.Context(), "0189")
	if err == nil || errors.Is(err, ledger.ErrNotFound) || !strings.Contains(err.Error(), ids[0]) || !strings.Contains(err.Error(), ids[1]) ||
		strings.Contains(err.Error(), ids[2]) || backstay.HintOf(err) == "" {
		t.Errorf("find an ambiguous prefix: got %v", err)
	}
}

func testList(t *testing.T, h Harness) {
	clock := h.Clock
	if clock == nil {
		clock = NewClock()
	}
	s := h.open(t, ledger.Options{Clock: clock})
	a := Create(t, s, New(t, "shop", "file:/etc/shop/a", "run:x"))
	Append(t, s, &a, ledger.Update{State: backstay.Proven}) // its locks go, its keys stay
	clock.Advance(time.Second)
	b := Create(t, s, New(t, "web", "file:/srv", "service:web"))
	Append(t, s, &b, ledger.Update{State: backstay.Held})
	since := clock.Wall()
	clock.Advance(time.Second)
	c := Create(t, s, New(t, "shop", "file:/etc/shopping"))
	for _, q := range []struct {
		name   string
		filter ledger.Filter
		want   []string
	}{
		{"all, newest first", ledger.Filter{}, []string{c.Deployment, b.Deployment, a.Deployment}},
		{"limit", ledger.Filter{Limit: 1}, []string{c.Deployment}},
		{"release", ledger.Filter{Release: "shop"}, []string{c.Deployment, a.Deployment}},
		{"states", ledger.Filter{States: []backstay.State{backstay.Proven, backstay.Held}}, []string{b.Deployment, a.Deployment}},
		{"since", ledger.Filter{Since: since}, []string{c.Deployment, b.Deployment}},
		{"key", ledger.Filter{Key: "run:x"}, []string{a.Deployment}},
		{"path below", ledger.Filter{Key: "file:/etc/shop/a/b"}, []string{a.Deployment}},
		{"path above", ledger.Filter{Key: "file:/etc/shop/"}, []string{a.Deployment}},
		{"root", ledger.Filter{Key: "file:/"}, []string{c.Deployment, b.Deployment, a.Deployment}},
		{"both", ledger.Filter{Release: "shop", Key: "file:/etc", States: []backstay.State{backstay.Running}}, []string{c.Deployment}},
		{"none", ledger.Filter{Key: "service:we"}, nil},
	} {
		found, err := s.List(t.Context(), q.filter)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, d := range found {
			got = append(got, d.ID)
		}
		if diff := cmp.Diff(q.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", q.name, diff)
		}
	}
}

func testKeys(t *testing.T, h Harness) {
	s := h.open(t, ledger.Options{})
	a := Create(t, s, New(t, "shop", "database:x", "databases:y", "database-z:z", "file:/database:w"))
	Append(t, s, &a, ledger.Update{State: backstay.Proven}) // its locks go, its keys stay
	b := Create(t, s, New(t, "web", "database:v", "database:x"))
	Append(t, s, &b, ledger.Update{State: backstay.Held})
	got, err := s.Keys(t.Context(), "database")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]backstay.Key{"database:v", "database:x"}, got); diff != "" {
		t.Errorf("keys (-want +got):\n%s", diff)
	}
}

func testWalk(t *testing.T, h Harness) {
	clock := h.Clock
	if clock == nil {
		clock = NewClock()
	}
	s := h.open(t, ledger.Options{Clock: clock})
	lease := Create(t, s, New(t, "shop"))
	start := clock.Wall()
	clock.Advance(time.Minute)
	bob := &backstay.Actor{UID: 42, Name: "bob"}
	Append(t, s, &lease, ledger.Update{Entries: []backstay.Entry{
		Intent("a"),
		{Kind: "from_the_future", Step: "a", Actor: bob, Body: []byte(`{"new":{"field":[1,2]}}`)},
	}})
	if _, err := s.Record(t.Context(), backstay.Entry{Kind: backstay.EntryNote, Actor: bob}); err != nil {
		t.Fatal(err)
	}
	var many []backstay.Entry
	for range 300 { // more than two pages
		many = append(many, Outcome("b"))
	}
	Append(t, s, &lease, ledger.Update{Entries: many})
	for _, c := range []struct {
		name  string
		query ledger.Query
		first int64
		count int
	}{
		{"all", ledger.Query{AfterLeaf: -1}, 0, 304},
		{"limit", ledger.Query{AfterLeaf: -1, Limit: 200}, 0, 200},
		{"after", ledger.Query{AfterLeaf: 2}, 3, 301},
		{"deployment", ledger.Query{AfterLeaf: -1, Deployment: lease.Deployment}, 0, 303},
		{"step", ledger.Query{AfterLeaf: -1, Step: "a"}, 1, 2},
		{"kind", ledger.Query{AfterLeaf: -1, Kind: backstay.EntryNote}, 3, 1},
		{"unknown kind", ledger.Query{AfterLeaf: -1, Kind: "from_the_future"}, 2, 1},
		{"actor", ledger.Query{AfterLeaf: -1, Actor: "bob"}, 2, 2},
		{"uid", ledger.Query{AfterLeaf: -1, Actor: "1000"}, 0, 1},
		{"until", ledger.Query{AfterLeaf: -1, Until: start.Add(time.Second)}, 0, 1},
		{"since", ledger.Query{AfterLeaf: -1, Since: start.Add(time.Second), Step: "a"}, 1, 2},
		{"none", ledger.Query{AfterLeaf: -1, Actor: "eve"}, -1, 0},
	} {
		first, count := int64(-1), 0
		err := s.Walk(t.Context(), c.query, func(l ledger.Leaf) error {
			if count++; first < 0 {
				first = l.Index
			}
			return nil
		})
		if err != nil || first != c.first || count != c.count {
			t.Errorf("%s: got %d from %d, %v; want %d from %d", c.name, count, first, err, c.count, c.first)
		}
	}
	stop := errors.New("enough")
	if err := s.Walk(t.Context(), ledger.Query{AfterLeaf: -1}, func(ledger.Leaf) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("stopped walk: got %v", err)
	}
	entries, err := s.Entries(t.Context(), lease.Deployment, 2)
	if err != nil || len(entries) != 301 || string(entries[0].Body) != `{"new":{"field":[1,2]}}` {
		t.Errorf("entry of an unknown kind: got %d, %v", len(entries), err)
	}
}

func testProjections(t *testing.T, h Harness) {
	s := h.open(t, ledger.Options{})
	lease := Create(t, s, New(t, "shop"))
	state := backstay.PartValue(map[string]int{"mode": 420})
	Append(t, s, &lease, ledger.Update{Resources: []ledger.Resource{
		{Key: "file:/a", Step: "one", State: backstay.ResourceState{}},
		{Key: "file:/b", Step: "one", State: state},
	}})
	Append(t, s, &lease, ledger.Update{Resources: []ledger.Resource{{Key: "file:/a", Step: "two", State: state}}})
	got, err := s.Resources(t.Context(), "file:/a", "file:/none")
	if err != nil || len(got) != 1 || got[0].Key != "file:/a" || got[0].Step != "two" || !got[0].State.Equal(state) || got[0].Proven ||
		got[0].Deployment != lease.Deployment || got[0].At.IsZero() {
		t.Errorf("resource: got %+v, %v", got, err)
	}
	Append(t, s, &lease, ledger.Update{State: backstay.Proven})
	if got, err = s.Resources(t.Context()); err != nil || len(got) != 2 || !got[0].Proven || !got[1].Proven {
		t.Errorf("resources of a proven deployment: got %+v, %v", got, err)
	}
	for _, took := range []time.Duration{900, 800, 5, 1, 4, 2, 3} { // the median of the last five is 3
		Append(t, s, &lease, ledger.Update{
			Entries: []backstay.Entry{Outcome("a")},
			Timings: []ledger.Timing{
				{Release: "shop", Step: "a", Undo: true, Took: took * time.Millisecond},
				{Release: "shop", Step: "a", Took: time.Hour},
				{Release: "web", Step: "b", Undo: true, Took: time.Hour},
			},
		})
	}
	timings, err := s.Timings(t.Context(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]time.Duration{"a": 3 * time.Millisecond}, timings); diff != "" {
		t.Errorf("timings (-want +got):\n%s", diff)
	}
}
