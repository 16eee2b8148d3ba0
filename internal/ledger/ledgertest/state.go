package ledgertest

import (
	"bytes"
	"errors"
	"strconv"
	"sync"
	"testing"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/ledger"
)

func testReopen(t *testing.T, h Harness) {
	a := h.open(t, ledger.Options{})
	lease := Create(t, a, New(t, "shop", "service:web"))
	ack := Append(t, a, &lease, ledger.Update{Entries: []backstay.Entry{Intent("a"), Outcome("a")}})
	id, err := a.LedgerID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Abandon(); err != nil {
		t.Fatal(err)
	}
	b := h.open(t, ledger.Options{})
	if again, err := b.LedgerID(t.Context()); err != nil || again != id {
		t.Errorf("ledger ID: got %s, %v; want %s", again, err, id)
	}
	if head, err := b.Head(t.Context()); err != nil || head != ack.Head {
		t.Errorf("head: got %+v, %v; want %+v", head, err, ack.Head)
	}
	if _, ok := errors.AsType[*ledger.OwnedError](second(b.Claim(t.Context(), lease.Deployment))); !ok {
		t.Error("claim from a process that died a moment ago: want an *OwnedError")
	}
	h.expire(t, a.NodeID())
	taken, err := b.Claim(t.Context(), lease.Deployment)
	if err != nil {
		t.Fatal(err)
	}
	Append(t, b, &taken, ledger.Update{Entries: []backstay.Entry{Intent("b")}})
	checkTree(t, b, 5)
}

func testOpenedAtOnce(t *testing.T, h Harness) {
	const stores = 4
	ids := make([]string, stores)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			s, err := h.Open(t, ledger.Options{Clock: clockOf(h)})
			if err != nil {
				t.Errorf("open: %v", err)
				return
			}
			if ids[i], err = s.LedgerID(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id == "" || id != ids[0] {
			t.Fatalf("ledger IDs: got %v, want one", ids)
		}
	}
}

func clockOf(h Harness) ledger.Clock {
	if h.Clock == nil {
		return nil
	}
	return h.Clock
}

func testNewerSchema(t *testing.T, h Harness) {
	s := h.open(t, ledger.Options{})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	h.Exec(t, "UPDATE meta SET value = $1 WHERE key = 'schema_version'", strconv.Itoa(ledger.SchemaVersion+1))
	_, err := h.Open(t, ledger.Options{Clock: clockOf(h)})
	refused, ok := errors.AsType[*backstay.RefusedError](err)
	if !ok || refused.What != "state" || refused.Hint == "" {
		t.Errorf("open a newer schema: got %v, want a *RefusedError with a hint", err)
	}
}

// testOlderSchema: a ledger of version 1 had no flags.
func testOlderSchema(t *testing.T, h Harness) {
	s := h.open(t, ledger.Options{})
	lease := Create(t, s, New(t, "shop"))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, statement := range []string{"DROP TABLE flag", "DROP TABLE flag_change", "UPDATE meta SET value = '1' WHERE key = 'schema_version'"} {
		h.Exec(t, statement)
	}
	s = h.open(t, ledger.Options{})
	if _, err := s.Flag(t.Context(), "flag:a"); err != nil {
		t.Errorf("a flag in a ledger that was brought up: %v", err)
	}
	if d, err := s.Deployment(t.Context(), lease.Deployment); err != nil || d.N != 1 {
		t.Errorf("what was there before: got %+v, %v", d, err)
	}
}

func testDamagedRecord(t *testing.T, h Harness) {
	s := h.open(t, ledger.Options{})
	lease := Create(t, s, New(t, "shop"))
	other := Create(t, s, New(t, "shop"))
	Append(t, s, &lease, ledger.Update{Entries: []backstay.Entry{Intent("a"), Outcome("a")}})
	// A record that only says something else is damage, however well it reads.
	var record []byte
	if err := s.Walk(t.Context(), ledger.Query{AfterLeaf: 1, Limit: 1}, func(l ledger.Leaf) error { record = l.Record; return nil }); err != nil {
		t.Fatal(err)
	}
	forged := bytes.Replace(record, []byte(`"step":"a"`), []byte(`"step":"b"`), 1)
	if bytes.Equal(forged, record) {
		t.Fatalf("nothing to forge in %s", record)
	}
	h.Exec(t, "UPDATE entry SET record = $1 WHERE leaf = 2", forged)
	if _, err := s.Entries(t.Context(), lease.Deployment, 0); !errors.Is(err, ledger.ErrDamaged) {
		t.Errorf("entries with a forged record: got %v, want ErrDamaged", err)
	}
	h.Exec(t, "UPDATE entry SET record = $1 WHERE leaf = 2", []byte("not JSON"))
	if _, err := s.Entries(t.Context(), lease.Deployment, 0); !errors.Is(err, ledger.ErrDamaged) || backstay.HintOf(err) == "" {
		t.Errorf("entries with a changed record: got %v, want ErrDamaged with a hint", err)
	}
	if _, err := s.Entries(t.Context(), other.Deployment, 0); err != nil {
		t.Errorf("entries of another deployment: %v", err)
	}
	var records []string
	if err := s.Walk(t.Context(), ledger.Query{AfterLeaf: 1}, func(l ledger.Leaf) error { records = append(records, string(l.Record)); return nil }); err != nil {
		t.Fatal(err)
	}
	if len(records) != 2 || records[0] != "not JSON" {
		t.Errorf("walk over a changed record: got %q", records)
	}
	if _, err := CheckTree(t.Context(), s); err == nil {
		t.Error("the changed record is not seen in the tree")
	}
	// A record swapped for another's is damage too, however well it is formed.
	h.Exec(t, "UPDATE entry SET record = (SELECT record FROM entry WHERE leaf = 0), salt = (SELECT salt FROM entry WHERE leaf = 0) WHERE leaf = 2")
	if _, err := s.Entries(t.Context(), lease.Deployment, 0); !errors.Is(err, ledger.ErrDamaged) {
		t.Errorf("entries with a swapped record: got %v, want ErrDamaged", err)
	}
	h.Exec(t, "DELETE FROM entry WHERE leaf = 2")
	if _, err := s.Entries(t.Context(), lease.Deployment, 0); !errors.Is(err, ledger.ErrDamaged) {
		t.Errorf("entries with a hole: got %v, want ErrDamaged", err)
	}
}

func testDamagedTree(t *testing.T, h Harness) {
	a := h.open(t, ledger.Options{})
	lease := Create(t, a, New(t, "shop"))
	Append(t, a, &lease, ledger.Update{Entries: []backstay.Entry{Intent("a"), Outcome("a")}})
	h.Exec(t, "UPDATE tree SET hash = (SELECT hash FROM tree WHERE id = 0) WHERE id = 2")
	b := h.open(t, ledger.Options{})
	before, err := b.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Record(t.Context(), backstay.Entry{Kind: backstay.EntryNote}); !errors.Is(err, ledger.ErrDamaged) || backstay.HintOf(err) == "" {
		t.Errorf("write to a damaged tree: got %v, want ErrDamaged with a hint", err)
	}
	if after, err := b.Head(t.Context()); err != nil || after != before {
		t.Errorf("head after a refused write: got %+v, %v", after, err)
	}
}

// testDamagedHead changes the head behind the back of a process that has had
// the ledger for itself, and so need not read it.
func testDamagedHead(t *testing.T, h Harness) {
	s := h.open(t, ledger.Options{})
	lease := Create(t, s, New(t, "shop"))
	for range 4 {
		Append(t, s, &lease, ledger.Update{Entries: []backstay.Entry{Intent("a"), Outcome("a")}})
	}
	h.Exec(t, "UPDATE head SET root = (SELECT hash FROM tree WHERE id = 0)")
	before := lease
	_, err := s.Append(t.Context(), &lease, ledger.Update{Entries: []backstay.Entry{Intent("b")}})
	if !errors.Is(err, ledger.ErrDamaged) || lease != before {
		t.Errorf("append under a damaged head: got %v, lease %+v; want ErrDamaged, %+v", err, lease, before)
	}
	if head, err := s.Head(t.Context()); err != nil || head.Size != lease.N {
		t.Errorf("head after a refused write: got %+v, %v", head, err)
	}
}
