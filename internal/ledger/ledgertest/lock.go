package ledgertest

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/ledger"
)

func testLocksOverlap(t *testing.T, h Harness) {
	s := h.open(t, ledger.Options{})
	holder := Create(t, s, New(t, "holder", "file:/etc/shop", "file:/srv/a/", "service:web", "file:/opt/x/y/z"))
	head, err := s.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		want backstay.Key
		held backstay.Key // "" when it is free
	}{
		{"file:/etc/shop", "file:/etc/shop"},
		{"file:/etc/shop/", "file:/etc/shop"},
		{"file:/etc/shop/a/b", "file:/etc/shop"},
		{"file:/etc", "file:/etc/shop"},
		{"file:/", "file:/etc/shop"},
		{"file:/srv/a", "file:/srv/a/"},
		{"file:/srv/a/b", "file:/srv/a/"},
		{"file:/opt/x", "file:/opt/x/y/z"},
		{"service:web", "service:web"},
		{"file:/etc/shopping", ""},
		{"file:/etc/sho", ""},
		{"file:/srv/ab", ""},
		{"service:web/a", ""},
		{"service:", ""},
	} {
		_, err := s.Create(t.Context(), New(t, "other", "run:free", c.want))
		locked, isLocked := errors.AsType[*ledger.LockedError](err)
		switch {
		case c.held == "" && err != nil:
			t.Errorf("%s: got %v, want it free", c.want, err)
		case c.held == "":
			free(t, s, "other")
		case !isLocked:
			t.Errorf("%s: got %v, want a *LockedError", c.want, err)
		case c.want == "file:/":
			if !locked.Lock.Key.Overlaps(c.want) {
				t.Errorf("%s: got lock %s, which does not overlap", c.want, locked.Lock.Key)
			}
		case locked.Lock.Key != c.held || locked.Lock.Deployment != holder.Deployment || locked.Want != c.want || locked.Lock.Name != "holder#1" ||
			locked.Lock.Owner == nil || locked.Lock.Owner.Node != s.NodeID():
			t.Errorf("%s: got %+v", c.want, locked)
		}
		if isLocked != (c.held != "" && c.want.Overlaps(c.held)) {
			t.Errorf("%s: locked is %v, Key.Overlaps says otherwise", c.want, isLocked)
		}
	}
	checkTree(t, s, head.Size+5*2) // the refused ones left nothing
}

// free settles the newest deployment of a release.
func free(t testing.TB, s *ledger.Store, release string) {
	t.Helper()
	all, err := s.List(t.Context(), ledger.Filter{Release: release, Limit: 1})
	if err != nil || len(all) != 1 {
		t.Fatalf("list: %v, %v", all, err)
	}
	lease := ledger.Lease{Deployment: all[0].ID, Epoch: all[0].Epoch, N: all[0].N}
	Append(t, s, &lease, ledger.Update{Entries: []backstay.Entry{Outcome("a")}, State: backstay.RolledBack})
}

func testLocksEnd(t *testing.T, h Harness) {
	s := h.open(t, ledger.Options{})
	for _, c := range []struct {
		to    backstay.State
		keeps bool
	}{
		{backstay.Holding, true},
		{backstay.Committed, true},
		{backstay.Held, true},
		{backstay.Proven, false},
		{backstay.RolledBack, false},
		{backstay.Closed, false},
	} {
		key := backstay.Key("run:" + string(c.to))
		lease := Create(t, s, New(t, "shop", key, key))
		Append(t, s, &lease, ledger.Update{Entries: []backstay.Entry{Outcome("a")}, State: c.to})
		locks, err := s.Locks(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var got bool
		for _, l := range locks {
			got = got || (l.Key == key && l.Deployment == lease.Deployment)
		}
		if got != c.keeps {
			t.Errorf("%s keeps its lock: got %v, want %v", c.to, got, c.keeps)
		}
	}
	refused := New(t, "shop", "run:refused", "run:held")
	refused.State = backstay.Refused
	Create(t, s, refused) // takes no locks, so needs none free
}

func testBreakLock(t *testing.T, h Harness) {
	a, b := h.open(t, ledger.Options{}), h.open(t, ledger.Options{})
	lease := Create(t, a, New(t, "shop", "service:web", "service:db"))
	bob := backstay.Actor{UID: 7, Name: "bob"}
	if _, ok := errors.AsType[*ledger.OwnedError](second(b.BreakLock(t.Context(), "service:web", bob, "it hangs"))); !ok {
		t.Error("break a live owner's lock: want an *OwnedError")
	}
	if _, err := b.BreakLock(t.Context(), "service:web", bob, " "); err == nil {
		t.Error("break a lock without a reason: want an error")
	}
	if _, err := b.BreakLock(t.Context(), "service:none", bob, "it hangs"); !errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("break no lock: got %v, want ErrNotFound", err)
	}
	h.expire(t, a.NodeID())
	lock, err := b.BreakLock(t.Context(), "service:web", bob, "it hangs")
	if err != nil || lock.Deployment != lease.Deployment || lock.Key != "service:web" {
		t.Fatalf("break lock: got %+v, %v", lock, err)
	}
	entries, err := b.Entries(t.Context(), lease.Deployment, 1)
	if err != nil || len(entries) != 1 || entries[0].Kind != backstay.EntryLockBroken || entries[0].Actor == nil || *entries[0].Actor != bob {
		t.Fatalf("entries: got %v, %v", entries, err)
	}
	var note backstay.NoteBody
	if err := entries[0].Decode(&note); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(backstay.NoteBody{Text: "it hangs", Key: "service:web"}, note); diff != "" {
		t.Errorf("note (-want +got):\n%s", diff)
	}
	if _, err := a.Append(t.Context(), &lease, ledger.Update{Entries: []backstay.Entry{Intent("a")}}); !errors.Is(err, ledger.ErrFenced) {
		t.Errorf("append of the owner whose lock was broken: got %v, want ErrFenced", err)
	}
	locks, err := b.Locks(t.Context())
	if err != nil || len(locks) != 1 || locks[0].Key != "service:db" {
		t.Errorf("locks left: got %v, %v", locks, err)
	}
	checkTree(t, b, 2)
}
