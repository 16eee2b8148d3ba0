package ledgertest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/ledger"
)

func testCreateAppendRead(t *testing.T, h Harness) {
	s := h.open(t, ledger.Options{Host: "one"})
	d := New(t, "shop", "service:web")
	d.Environment = "production"
	lease := Create(t, s, d)
	if want := (ledger.Lease{Deployment: d.ID, Generation: 1, Epoch: 1, N: 1}); lease != want {
		t.Errorf("lease: got %+v, want %+v", lease, want)
	}
	ack := Append(t, s, &lease, ledger.Update{Entries: []backstay.Entry{Intent("a")}})
	if ack.Head.Size != 2 || ack.Signals {
		t.Errorf("ack: got %+v", ack)
	}
	ack = Append(t, s, &lease, ledger.Update{Entries: []backstay.Entry{Outcome("a"), Intent("b")}, State: backstay.Holding})
	head, err := s.Head(t.Context())
	if err != nil || head != ack.Head || head.Size != 4 || lease.N != 4 {
		t.Errorf("head: got %+v, %v; acknowledged %+v at %d", head, err, ack.Head, lease.N)
	}
	entries, err := s.Entries(t.Context(), d.ID, 0)
	if err != nil || len(entries) != 4 {
		t.Fatalf("entries: got %v, %v", entries, err)
	}
	for i, e := range entries {
		if e.V != backstay.EntryFormat || e.N != int64(i)+1 || e.Deployment != d.ID || e.Epoch != 1 || e.At.IsZero() {
			t.Errorf("entry %d: got %+v", i, e)
		}
	}
	if diff := cmp.Diff(d.Entries[0].Body, entries[0].Body); diff != "" {
		t.Errorf("body (-want +got):\n%s", diff)
	}
	if tail, err := s.Entries(t.Context(), d.ID, 3); err != nil || len(tail) != 1 || tail[0].N != 4 {
		t.Errorf("entries after 3: got %v, %v", tail, err)
	}
	if tail, err := s.Entries(t.Context(), d.ID, 4); err != nil || len(tail) != 0 {
		t.Errorf("entries after the last: got %v, %v", tail, err)
	}
	got, err := s.Deployment(t.Context(), d.ID)
	if err != nil {
		t.Fatal(err)
	}
	if got.Owner == nil || got.Owner.Node != s.NodeID() || got.Owner.Host != "one" || !got.Owner.Live || got.Owner.PID == 0 || got.Owner.Start == 0 {
		t.Errorf("owner: got %+v", got.Owner)
	}
	got.Owner, got.CreatedAt, got.UpdatedAt = nil, time.Time{}, time.Time{}
	want := ledger.Deployment{
		ID: d.ID, Name: "shop#1", Release: "shop", Number: 1, Version: "1.2.3", Environment: "production", PlanDigest: PlanDigest,
		State: backstay.Holding, Author: d.Author, Epoch: 1, N: 4,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("deployment (-want +got):\n%s", diff)
	}
	if _, err := s.Deployment(t.Context(), NewID(t)); !errors.Is(err, ledger.ErrNotFound) || backstay.ClassOf(err) != backstay.NotFound {
		t.Errorf("no deployment: got %v", err)
	}
	if _, err := s.Entries(t.Context(), NewID(t), 0); !errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("entries of no deployment: got %v", err)
	}
	checkTree(t, s, 4)
}

func testCreateRefuses(t *testing.T, h Harness) {
	s := h.open(t, ledger.Options{})
	if _, err := s.Create(t.Context(), New(t, "shop")); !errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("without its plan: got %v, want ErrNotFound", err)
	}
	known := New(t, "shop")
	Create(t, s, known)
	for name, change := range map[string]func(*ledger.NewDeployment){
		"the same ID":       func(d *ledger.NewDeployment) { d.ID = known.ID },
		"an ID of capitals": func(d *ledger.NewDeployment) { d.ID = "0197A1C2-0000-7000-8000-00000000000A" },
		"no UUID":           func(d *ledger.NewDeployment) { d.ID = "../../etc/passwd" },
		"no release":        func(d *ledger.NewDeployment) { d.Release = "" },
		"no state":          func(d *ledger.NewDeployment) { d.State = "" },
		"no entry":          func(d *ledger.NewDeployment) { d.Entries = nil },
		"no JSON":           func(d *ledger.NewDeployment) { d.Entries[0].Body = []byte("{") },
		"no kind":           func(d *ledger.NewDeployment) { d.Entries[0].Kind = "" },
	} {
		d := New(t, "shop")
		change(&d)
		if _, err := s.Create(t.Context(), d); err == nil {
			t.Errorf("%s: want an error", name)
		}
	}
	checkTree(t, s, 1)
}

func testNumbers(t *testing.T, h Harness) {
	s := h.open(t, ledger.Options{})
	SavePlan(t, s)
	var wg sync.WaitGroup
	for _, release := range []string{"shop", "web"} {
		for range 8 {
			d := New(t, release)
			wg.Go(func() {
				if _, err := s.Create(t.Context(), d); err != nil {
					t.Errorf("create: %v", err)
				}
			})
		}
	}
	wg.Wait()
	for _, release := range []string{"shop", "web"} {
		all, err := s.List(t.Context(), ledger.Filter{Release: release})
		if err != nil || len(all) != 8 {
			t.Fatalf("list: got %d, %v", len(all), err)
		}
		for i, d := range all {
			if want := fmt.Sprintf("%s#%d", release, 8-i); d.Name != want {
				t.Errorf("name: got %s, want %s", d.Name, want)
			}
		}
	}
}

func testSignals(t *testing.T, h Harness) {
	s := h.open(t, ledger.Options{})
	lease := Create(t, s, New(t, "shop"))
	send := func(id, kind string) {
		t.Helper()
		sig := ledger.Signal{ID: id, Kind: kind, Reason: "because", Actor: backstay.Actor{UID: 5}}
		if err := s.Signal(t.Context(), lease.Deployment, sig); err != nil {
			t.Fatal(err)
		}
	}
	send("b", "pause")
	send("a", "abort")
	send("b", "resume") // the same ID is the same signal
	got, err := s.Signals(t.Context(), lease.Deployment)
	if err != nil || len(got) != 2 || got[0].ID != "b" || got[0].Kind != "pause" || got[0].Reason != "because" || got[0].Actor.UID != 5 || got[1].ID != "a" {
		t.Fatalf("signals: got %+v, %v", got, err)
	}
	if got[0].At.IsZero() {
		t.Error("a signal has no time")
	}
	if ack := Append(t, s, &lease, ledger.Update{Entries: []backstay.Entry{Intent("a")}}); !ack.Signals {
		t.Error("append while signals wait: Ack.Signals is false")
	}
	if ack := Append(t, s, &lease, ledger.Update{Consumed: []string{"b", "none"}}); !ack.Signals {
		t.Error("append that leaves a signal: Ack.Signals is false")
	}
	if ack := Append(t, s, &lease, ledger.Update{Consumed: []string{"a", "b"}}); ack.Signals {
		t.Error("append that takes the last signal: Ack.Signals is true")
	}
	send("b", "pause") // taken already
	if got, err := s.Signals(t.Context(), lease.Deployment); err != nil || len(got) != 0 {
		t.Errorf("signals left: got %v, %v", got, err)
	}
	if err := s.Signal(t.Context(), NewID(t), ledger.Signal{ID: "x", Kind: "abort"}); !errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("signal to nothing: got %v, want ErrNotFound", err)
	}
	if err := s.Signal(t.Context(), lease.Deployment, ledger.Signal{Kind: "abort"}); err == nil {
		t.Error("signal without an ID: want an error")
	}
}

func testWallBack(t *testing.T, h Harness) {
	clock := h.Clock
	if clock == nil {
		clock = NewClock()
	}
	s := h.open(t, ledger.Options{Clock: clock})
	first := Create(t, s, New(t, "shop"))
	clock.SetWall(clock.Wall().Add(-10 * 365 * 24 * time.Hour))
	second := Create(t, s, New(t, "shop"))
	Append(t, s, &first, ledger.Update{Entries: []backstay.Entry{Intent("a")}})
	all, err := s.List(t.Context(), ledger.Filter{})
	if err != nil || len(all) != 2 || all[0].ID != second.Deployment || all[0].Number != 2 {
		t.Errorf("newest first: got %+v, %v", all, err)
	}
	if _, cancel, err := s.Gate(t.Context()); err != nil {
		t.Errorf("gate with the wall clock set back: %v", err)
	} else {
		cancel()
	}
	if entries, err := s.Entries(t.Context(), first.Deployment, 0); err != nil || len(entries) != 2 || !entries[1].At.Before(entries[0].At) {
		t.Errorf("entries: got %v, %v", entries, err)
	}
	checkTree(t, s, 3)
}

func testTree(t *testing.T, h Harness) {
	s := h.open(t, ledger.Options{})
	lease := Create(t, s, New(t, "shop"))
	heads := map[int64]tlog.Hash{}
	for i := range 40 {
		var entries []backstay.Entry
		for range i%5 + 1 {
			entries = append(entries, Intent("a"))
		}
		ack := Append(t, s, &lease, ledger.Update{Entries: entries})
		heads[ack.Head.Size] = ack.Head.Root
	}
	head, err := s.Record(t.Context(), backstay.Entry{Kind: backstay.EntryRefused, Body: backstay.Canonical(backstay.RefusedBody{What: "spec"})})
	if err != nil {
		t.Fatal(err)
	}
	checkTree(t, s, head.Size)
	r := s.HashReader(t.Context())
	for size, root := range heads {
		proof, err := tlog.ProveTree(head.Size, size, r)
		if err != nil {
			t.Fatal(err)
		}
		if err := tlog.CheckTree(proof, head.Size, head.Root, size, root); err != nil {
			t.Errorf("head of %d entries is not a prefix: %v", size, err)
		}
	}
	err = s.Walk(t.Context(), ledger.Query{AfterLeaf: -1}, func(l ledger.Leaf) error {
		proof, err := tlog.ProveRecord(head.Size, l.Index, r)
		if err != nil {
			return err
		}
		return tlog.CheckRecord(proof, head.Size, head.Root, l.Index, ledger.LeafHash(l.Salt, l.Record))
	})
	if err != nil {
		t.Errorf("inclusion: %v", err)
	}
	if _, err := s.HashReader(t.Context()).ReadHashes([]int64{1 << 40}); !errors.Is(err, ledger.ErrDamaged) {
		t.Errorf("a hash that is not there: got %v, want ErrDamaged", err)
	}
}

// signer signs by writing what it was asked to sign; it can be broken.
type signer struct{ err error }

func (s signer) SignCheckpoint(_ context.Context, origin string, head ledger.Head) ([]byte, error) {
	return fmt.Appendf(nil, "%s %d %v", origin, head.Size, tlog.Hash(head.Root)), s.err
}

func testCheckpoints(t *testing.T, h Harness) {
	s := h.open(t, ledger.Options{Signer: signer{}})
	lease := Create(t, s, New(t, "shop"))
	Append(t, s, &lease, ledger.Update{Entries: []backstay.Entry{Intent("a")}, State: backstay.Committed})
	if got, err := s.ReadCheckpoints(t.Context()); err != nil || len(got) != 0 {
		t.Errorf("checkpoints before the end: got %v, %v", got, err)
	}
	ack := Append(t, s, &lease, ledger.Update{Entries: []backstay.Entry{Outcome("a")}, State: backstay.Proven})
	id, err := s.LedgerID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.ReadCheckpoints(t.Context())
	if err != nil || len(got) != 1 {
		t.Fatalf("checkpoints: got %v, %v", got, err)
	}
	if want := fmt.Sprintf("%s 3 %v", ledger.Origin(id), tlog.Hash(ack.Head.Root)); got[0].Size != 3 || string(got[0].Note) != want {
		t.Errorf("checkpoint: got %d %q, want 3 %q", got[0].Size, got[0].Note, want)
	}
	if err := s.SaveCheckpoint(t.Context(), ledger.Checkpoint{Size: 3, Note: []byte("cosigned")}); err != nil {
		t.Fatal(err)
	}
	if got, err = s.ReadCheckpoints(t.Context()); err != nil || len(got) != 1 || string(got[0].Note) != "cosigned" || got[0].At.IsZero() {
		t.Errorf("checkpoint after it was replaced: got %v, %v", got, err)
	}
}

func testReverts(t *testing.T, h Harness) {
	s := h.open(t, ledger.Options{})
	first := Create(t, s, New(t, "shop"))
	Append(t, s, &first, ledger.Update{State: backstay.Proven})
	back := New(t, "shop")
	back.Reverts = first.Deployment
	lease := Create(t, s, back)
	for _, c := range []struct {
		to   backstay.State
		want string
	}{{backstay.Running, ""}, {backstay.Committed, back.ID}, {backstay.RollingBack, ""}, {backstay.RolledBack, ""}} {
		Append(t, s, &lease, ledger.Update{State: c.to})
		d, err := s.Deployment(t.Context(), first.Deployment)
		if err != nil || d.RevertedBy != c.want {
			t.Errorf("reverted by, while the revert is %s: got %q, %v; want %q", c.to, d.RevertedBy, err, c.want)
		}
	}
}

func testVersion(t *testing.T, h Harness) {
	a, b := h.open(t, ledger.Options{}), h.open(t, ledger.Options{})
	lease := Create(t, a, New(t, "shop"))
	version := func() int64 {
		t.Helper()
		v, err := b.Version(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	last := version()
	if again := version(); again != last {
		t.Errorf("version without a change: got %d after %d", again, last)
	}
	for name, change := range map[string]func() error{
		"append": func() error {
			return second(a.Append(t.Context(), &lease, ledger.Update{Entries: []backstay.Entry{Intent("a")}}))
		},
		"signal": func() error { return a.Signal(t.Context(), lease.Deployment, ledger.Signal{ID: "1", Kind: "abort"}) },
		"record": func() error { return second(a.Record(t.Context(), backstay.Entry{Kind: backstay.EntryNote})) },
	} {
		if err := change(); err != nil {
			t.Fatal(err)
		}
		now := version()
		if now <= last {
			t.Errorf("version after %s: got %d after %d", name, now, last)
		}
		last = now
	}
}

func testClosed(t *testing.T, h Harness) {
	s := h.open(t, ledger.Options{})
	lease := Create(t, s, New(t, "shop"))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("close again: %v", err)
	}
	if _, err := s.Append(t.Context(), &lease, ledger.Update{Entries: []backstay.Entry{Intent("a")}}); !errors.Is(err, ledger.ErrClosed) {
		t.Errorf("append: got %v, want ErrClosed", err)
	}
	if _, err := s.Head(t.Context()); !errors.Is(err, ledger.ErrClosed) {
		t.Errorf("head: got %v, want ErrClosed", err)
	}
	if _, _, err := s.Gate(t.Context()); !errors.Is(err, ledger.ErrLapsed) {
		t.Errorf("gate: got %v, want ErrLapsed", err)
	}
}
