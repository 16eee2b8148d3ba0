package ledgertest

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/ledger"
)

func testFence(t *testing.T, h Harness) {
	s := h.open(t, ledger.Options{})
	old := Create(t, s, New(t, "shop"))
	lease, err := s.Claim(t.Context(), old.Deployment)
	if err != nil {
		t.Fatal(err)
	}
	if lease.Epoch != old.Epoch+1 || lease.N != old.N {
		t.Errorf("second lease: got %+v after %+v", lease, old)
	}
	before, err := s.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	update := ledger.Update{
		Entries: []backstay.Entry{Intent("a")}, State: backstay.RolledBack,
		Resources: []ledger.Resource{{Key: "file:/a"}}, Consumed: []string{"x"},
	}
	if _, err := s.Append(t.Context(), &old, update); !errors.Is(err, ledger.ErrFenced) {
		t.Errorf("append under the old lease: got %v, want ErrFenced", err)
	}
	after, err := s.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if before != after {
		t.Error("a fenced write moved the head")
	}
	d, err := s.Deployment(t.Context(), old.Deployment)
	if err != nil || d.State != backstay.Running || d.N != 1 {
		t.Errorf("after a fenced write: got %+v, %v", d, err)
	}
	if found, err := s.Resources(t.Context()); err != nil || len(found) != 0 {
		t.Errorf("a fenced write left resources: %v, %v", found, err)
	}
	Append(t, s, &lease, ledger.Update{Entries: []backstay.Entry{Intent("a")}})
	disowned := lease
	Append(t, s, &disowned, ledger.Update{Disown: true})
	if _, err := s.Append(t.Context(), &disowned, ledger.Update{Entries: []backstay.Entry{Intent("b")}}); !errors.Is(err, ledger.ErrFenced) {
		t.Errorf("append after giving up ownership: got %v, want ErrFenced", err)
	}
	if _, err := s.Append(t.Context(), &ledger.Lease{Deployment: NewID(t), Epoch: 1}, update); !errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("append to nothing: got %v, want ErrNotFound", err)
	}
}

func testSameUpdateTwice(t *testing.T, h Harness) {
	s := h.open(t, ledger.Options{})
	lease := Create(t, s, New(t, "shop"))
	again, other := lease, lease
	update := ledger.Update{Entries: []backstay.Entry{Outcome("a"), Intent("b")}}
	first := Append(t, s, &lease, update)
	if h.Clock != nil {
		h.Clock.Advance(time.Second) // a later retry writes another time
	}
	second := Append(t, s, &again, update)
	if diff := cmp.Diff(first, second); diff != "" {
		t.Errorf("the same update again (-first +second):\n%s", diff)
	}
	if again != lease {
		t.Errorf("lease after the retry: got %+v, want %+v", again, lease)
	}
	if _, err := s.Append(t.Context(), &other, ledger.Update{Entries: []backstay.Entry{Outcome("a"), Intent("c")}}); err == nil || errors.Is(err, ledger.ErrFenced) {
		t.Errorf("another update under a lease left behind: got %v, want an error that is not ErrFenced", err)
	}
	checkTree(t, s, 3)
}

func testTakeover(t *testing.T, h Harness) {
	a, b := h.open(t, ledger.Options{Host: "one"}), h.open(t, ledger.Options{Host: "two"})
	lease := Create(t, a, New(t, "shop"))
	owned, ok := errors.AsType[*ledger.OwnedError](second(b.Claim(t.Context(), lease.Deployment)))
	if !ok {
		t.Fatal("claim of an owned deployment: want an *OwnedError")
	}
	if owned.Owner.Node != a.NodeID() || owned.Owner.Host != "one" || !owned.Owner.Live || owned.Owner.Left <= 0 || owned.Owner.Left > TTL {
		t.Errorf("owner: got %+v", owned.Owner)
	}
	h.expire(t, a.NodeID())
	taken, err := b.Claim(t.Context(), lease.Deployment)
	if err != nil {
		t.Fatalf("claim after the lease: %v", err)
	}
	if taken.Epoch != 2 || taken.N != 2 {
		t.Errorf("lease after takeover: got %+v, want epoch 2 and 2 entries", taken)
	}
	entries, err := b.Entries(t.Context(), lease.Deployment, 1)
	if err != nil || len(entries) != 1 || entries[0].Kind != backstay.EntryTakeover || entries[0].Epoch != 2 {
		t.Fatalf("entries after takeover: %v, %v", entries, err)
	}
	var body backstay.TakeoverBody
	if err := entries[0].Decode(&body); err != nil || body.Node != b.NodeID() || body.Previous != a.NodeID() {
		t.Errorf("takeover: got %+v, %v", body, err)
	}
	if _, err := a.Append(t.Context(), &lease, ledger.Update{Entries: []backstay.Entry{Intent("a")}}); !errors.Is(err, ledger.ErrFenced) {
		t.Errorf("append of the old owner: got %v, want ErrFenced", err)
	}
	// A node that was taken over from is dead for good: were it to renew its
	// lease, its gate would open on what is another's now.
	if _, err := a.Claim(t.Context(), lease.Deployment); !errors.Is(err, ledger.ErrLapsed) {
		t.Errorf("claim of the old owner: got %v, want ErrLapsed", err)
	}
	Append(t, b, &taken, ledger.Update{Entries: []backstay.Entry{Intent("a")}})
	checkTree(t, b, 3)
}

func second[A, B any](_ A, b B) B { return b }

func testClosedGivesWay(t *testing.T, h Harness) {
	a, b := h.open(t, ledger.Options{}), h.open(t, ledger.Options{})
	lease := Create(t, a, New(t, "shop"))
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Claim(t.Context(), lease.Deployment); err != nil {
		t.Errorf("claim from a closed node: %v", err)
	}
}

func testClaimNext(t *testing.T, h Harness) {
	a, b := h.open(t, ledger.Options{}), h.open(t, ledger.Options{})
	create := func(f func(*ledger.NewDeployment)) ledger.Lease {
		d := New(t, "shop")
		f(&d)
		lease := Create(t, a, d)
		if lease.Deployment == "" {
			lease.Deployment = d.ID
		}
		return lease
	}
	detached := create(func(d *ledger.NewDeployment) { d.Detached = true })
	settled := create(func(*ledger.NewDeployment) {})
	Append(t, a, &settled, ledger.Update{State: backstay.Proven, Disown: true})
	kept := create(func(*ledger.NewDeployment) {})
	Append(t, a, &kept, ledger.Update{State: backstay.Held, Disown: true})
	asleep := create(func(*ledger.NewDeployment) {})
	Append(t, a, &asleep, ledger.Update{State: backstay.Committed, Wake: time.Hour, Disown: true})
	driven := create(func(*ledger.NewDeployment) {})

	claimed := func(want ...string) {
		t.Helper()
		leases, err := b.ClaimNext(t.Context(), 10)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, l := range leases {
			got = append(got, l.Deployment)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("claimed (-want +got):\n%s", diff)
		}
	}
	claimed(detached.Deployment)
	claimed() // nothing twice
	// A signal wakes what sleeps.
	if err := b.Signal(t.Context(), asleep.Deployment, ledger.Signal{ID: "s1", Kind: "abort"}); err != nil {
		t.Fatal(err)
	}
	claimed(asleep.Deployment)
	h.expire(t, a.NodeID())
	claimed(driven.Deployment)
}

func testGate(t *testing.T, h Harness) {
	s := h.open(t, ledger.Options{})
	if _, _, err := s.Gate(t.Context()); !errors.Is(err, ledger.ErrLapsed) {
		t.Errorf("gate before the start: got %v, want ErrLapsed", err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel, err := s.Gate(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cause after cancel: got %v", err)
	}
}

// testGateCloses tests the half of the gate that is the same for every store.
func testGateCloses(t *testing.T, h Harness) {
	s := h.open(t, ledger.Options{})
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel, err := s.Gate(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer cancel()
	h.Clock.Advance(TTL - TTL/5 - time.Millisecond)
	if ctx.Err() != nil {
		t.Error("the gate closed before the margin")
	}
	if left, err := backstay.LeaseLeft(ctx); err != nil || left != time.Millisecond {
		t.Errorf("the lease lasts %v, %v more; want 1ms", left, err)
	}
	h.Clock.SetWall(time.Unix(0, 0)) // decides nothing
	h.Clock.Advance(time.Millisecond)
	// Before any timer has run.
	if _, err := backstay.LeaseLeft(ctx); !errors.Is(err, ledger.ErrLapsed) {
		t.Errorf("the lease at the margin: got %v, want ErrLapsed", err)
	}
	select {
	case <-ctx.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the gate stays open past the margin")
	}
	if err := context.Cause(ctx); !errors.Is(err, ledger.ErrLapsed) {
		t.Errorf("cause: got %v, want ErrLapsed", err)
	}
	if _, _, err := s.Gate(t.Context()); !errors.Is(err, ledger.ErrLapsed) {
		t.Errorf("gate after the margin: got %v, want ErrLapsed", err)
	}
	// Nobody took over: a renewal opens the gate again.
	if _, err := s.ClaimNext(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if _, cancel, err = s.Gate(t.Context()); err != nil {
		t.Fatalf("gate after a renewal: %v", err)
	}
	cancel()
}

func testOtherBoot(t *testing.T, h Harness) {
	a := h.open(t, ledger.Options{})
	lease := Create(t, a, New(t, "shop"))
	Append(t, a, &lease, ledger.Update{Wake: time.Hour})
	h.Clock.Reboot("boot-2")
	b := h.open(t, ledger.Options{})
	d, err := b.Deployment(t.Context(), lease.Deployment)
	if err != nil || d.Owner == nil || d.Owner.Live {
		t.Errorf("owner of another boot: got %+v, %v; want one that is not live", d.Owner, err)
	}
	// Its wake time was on a clock that is gone: it is due.
	leases, err := b.ClaimNext(t.Context(), 1)
	if err != nil || len(leases) != 1 {
		t.Errorf("claim after a reboot: got %v, %v", leases, err)
	}
}

func testGroup(t *testing.T, h Harness) {
	s := h.open(t, ledger.Options{})
	const writers, rounds = 20, 10
	leases := make([]ledger.Lease, writers)
	stale := make([]ledger.Lease, writers)
	for i := range leases {
		stale[i] = Create(t, s, New(t, "shop"))
		var err error
		if leases[i], err = s.Claim(t.Context(), stale[i].Deployment); err != nil {
			t.Fatal(err)
		}
	}
	var wg sync.WaitGroup
	for i := range leases {
		wg.Go(func() {
			for range rounds {
				if _, err := s.Append(t.Context(), &leases[i], ledger.Update{Entries: []backstay.Entry{Outcome("a"), Intent("b")}}); err != nil {
					t.Errorf("append: %v", err)
				}
			}
		})
		wg.Go(func() {
			for range rounds {
				if _, err := s.Append(t.Context(), &stale[i], ledger.Update{Entries: []backstay.Entry{Intent("z")}}); !errors.Is(err, ledger.ErrFenced) {
					t.Errorf("stale append: got %v, want ErrFenced", err)
				}
			}
		})
	}
	wg.Wait()
	checkTree(t, s, writers*(1+2*rounds))
	if err := s.Walk(t.Context(), ledger.Query{AfterLeaf: -1, Step: "z"}, func(ledger.Leaf) error { return errors.New("there is one") }); err != nil {
		t.Errorf("entries of fenced writes: %v", err)
	}
}

func testTwoWriters(t *testing.T, h Harness) {
	const rounds = 25
	var wg sync.WaitGroup
	var last *ledger.Store
	for range 2 {
		s := h.open(t, ledger.Options{})
		last = s
		for range 3 {
			lease := Create(t, s, New(t, "shop"))
			wg.Go(func() {
				for range rounds {
					if _, err := s.Append(t.Context(), &lease, ledger.Update{Entries: []backstay.Entry{Outcome("a")}}); err != nil {
						t.Errorf("append: %v", err)
						return
					}
				}
			})
		}
	}
	wg.Wait()
	checkTree(t, last, 6*(1+rounds))
}
