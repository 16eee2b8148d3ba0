package postgres_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/ledger/ledgertest"
	"github.com/backstay-dev/backstay/internal/ledger/postgres"
	"github.com/backstay-dev/backstay/internal/parts"
)

// patient is a lease that outlasts a failover on a busy machine.
func patient() ledger.Options { return ledger.Options{TTL: 2 * time.Minute} }

// store opens a store that is closed as a crash closes it.
func store(t *testing.T, dsn string) *ledger.Store {
	t.Helper()
	s, err := postgres.Open(t.Context(), dsn, patient())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Abandon() })
	return s
}

// rewinds lists what the log says of lost branches.
func rewinds(t *testing.T, s *ledger.Store) []backstay.Rewound {
	t.Helper()
	var all []backstay.Rewound
	err := s.Walk(t.Context(), ledger.Query{Kind: backstay.EntryNote, AfterLeaf: -1}, func(l ledger.Leaf) error {
		var note backstay.NoteBody
		err := json.Unmarshal(l.Entry.Body, &note)
		if note.Rewound != nil {
			all = append(all, *note.Rewound)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestFailoverThatLostCommits goes on with a server that does not have the
// newest acknowledged entries: the node that drives the deployment writes them
// again, under a greater generation, and says so.
func TestFailoverThatLostCommits(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		promoted bool
	}{{"standby promoted", true}, {"files restored", false}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			pg := parts.StartPostgres(t)
			s := store(t, pg.Database(t))
			lease := ledgertest.Create(t, s, ledgertest.New(t, "shop"))
			idle := ledgertest.Create(t, s, ledgertest.New(t, "idle"))
			ledgertest.Append(t, s, &lease, ledger.Update{Entries: []backstay.Entry{ledgertest.Intent("a")}})
			backup := pg.Backup(t)

			buffer := s.NewBlobBuffer(t.Context())
			image, _, err := buffer.Put(strings.NewReader("before-image"))
			if err != nil {
				t.Fatal(err)
			}
			next := ledgertest.Intent("b")
			next.Blobs = []string{image}
			ledgertest.Append(t, s, &lease, ledger.Update{Entries: []backstay.Entry{ledgertest.Outcome("a"), next}, Blobs: buffer})
			lost := ledgertest.Append(t, s, &lease, ledger.Update{Entries: []backstay.Entry{ledgertest.Outcome("b")}, State: backstay.Holding})
			before, err := s.Entries(t.Context(), lease.Deployment, 0)
			if err != nil {
				t.Fatal(err)
			}

			pg.Fail(t, backup, c.promoted)
			ledgertest.Append(t, s, &lease, ledger.Update{Entries: []backstay.Entry{ledgertest.Intent("c")}})
			after, err := s.Entries(t.Context(), lease.Deployment, 0)
			if err != nil || len(after) != len(before)+1 {
				t.Fatalf("entries after the failover: got %d, %v; want %d", len(after), err, len(before)+1)
			}
			for i, e := range before {
				if string(backstay.Canonical(e)) != string(backstay.Canonical(after[i])) {
					t.Errorf("entry %d: got %+v, want %+v", i+1, after[i], e)
				}
			}
			if lease.Generation != 2 {
				t.Errorf("generation: got %d, want 2", lease.Generation)
			}
			if there, err := s.Blobs(t.Context()).Has(image); err != nil || !there {
				t.Errorf("the before-image is there: got %v, %v", there, err)
			}
			d, err := s.Deployment(t.Context(), lease.Deployment)
			if err != nil || d.State != backstay.Holding || d.N != lease.N {
				t.Errorf("deployment: got %+v, %v", d, err)
			}
			got := rewinds(t, s)
			if len(got) != 1 || got[0].Generation != 2 || got[0].LostSize != lost.Head.Size || got[0].LostRoot == "" {
				t.Errorf("recorded: got %+v, want the lost head of size %d", got, lost.Head.Size)
			}
			// What lost nothing goes on, under the new generation.
			ledgertest.Append(t, s, &idle, ledger.Update{Entries: []backstay.Entry{ledgertest.Intent("a")}})
			if idle.Generation != 2 {
				t.Errorf("generation of the other: got %d, want 2", idle.Generation)
			}
			if _, err := ledgertest.CheckTree(t.Context(), s); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestFailoverWithoutMemory goes on as a process that knows nothing of what
// was lost: the server's timeline tells it, and its tokens are greater.
func TestFailoverWithoutMemory(t *testing.T) {
	t.Parallel()
	pg := parts.StartPostgres(t)
	dsn := pg.Database(t)
	first, err := postgres.Open(t.Context(), dsn, ledger.Options{TTL: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = first.Abandon() })
	lease := ledgertest.Create(t, first, ledgertest.New(t, "shop"))
	backup := pg.Backup(t)
	for range 3 { // epochs that the backup does not know
		if lease, err = first.Claim(t.Context(), lease.Deployment); err != nil {
			t.Fatal(err)
		}
	}
	ledgertest.Append(t, first, &lease, ledger.Update{Entries: []backstay.Entry{ledgertest.Intent("a")}})
	if err := first.Abandon(); err != nil {
		t.Fatal(err)
	}
	pg.Fail(t, backup, true)

	s := store(t, dsn)
	var next ledger.Lease
	for {
		next, err = s.Claim(t.Context(), lease.Deployment)
		if _, owned := errors.AsType[*ledger.OwnedError](err); !owned {
			break // the lease of the first one has ended
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	if next.Generation <= lease.Generation || next.Epoch > lease.Epoch {
		t.Errorf("lease: got %+v after %+v; want a lower epoch under a greater generation", next, lease)
	}
	if got := rewinds(t, s); len(got) != 1 || got[0].Was == "" || got[0].Is == got[0].Was {
		t.Errorf("recorded: got %+v", got)
	}
	// The same server again is no news.
	if again := store(t, dsn); len(rewinds(t, again)) != 1 {
		t.Error("opened again: another rewind was recorded")
	}
}

// TestFailoverRefuses is what cannot be written again safely.
func TestFailoverRefuses(t *testing.T) {
	t.Parallel()
	pg := parts.StartPostgres(t)
	dsn := pg.Database(t)
	s := store(t, dsn)
	taken := ledgertest.Create(t, s, ledgertest.New(t, "taken"))
	large := ledgertest.Create(t, s, ledgertest.New(t, "large"))
	backup := pg.Backup(t)
	gone := ledgertest.Create(t, s, ledgertest.New(t, "gone"))
	ledgertest.Append(t, s, &taken, ledger.Update{Entries: []backstay.Entry{ledgertest.Intent("a")}})
	buffer := s.NewBlobBuffer(t.Context())
	image, _, err := buffer.Put(strings.NewReader(strings.Repeat("large", 1<<20)))
	if err != nil {
		t.Fatal(err)
	}
	intent := ledgertest.Intent("a")
	intent.Blobs = []string{image}
	ledgertest.Append(t, s, &large, ledger.Update{Entries: []backstay.Entry{intent}, Blobs: buffer})

	pg.Fail(t, backup, true)
	// Somebody else writes the deployment in the meantime.
	pg.Exec(t, dsn, "UPDATE deployment SET epoch = 2, owner = 'somebody' WHERE id = $1", taken.Deployment)
	update := ledger.Update{Entries: []backstay.Entry{ledgertest.Outcome("a")}}
	if _, err := s.Append(t.Context(), &taken, update); !errors.Is(err, ledger.ErrFenced) {
		t.Errorf("of a deployment that another took: got %v, want ErrFenced", err)
	}
	if _, err := s.Append(t.Context(), &gone, update); !errors.Is(err, ledger.ErrRewound) || backstay.HintOf(err) == "" {
		t.Errorf("of a deployment that is not there: got %v, want ErrRewound with a hint", err)
	}
	if _, err := s.Append(t.Context(), &large, update); !errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("of one whose before-image is lost: got %v, want ErrNotFound", err)
	}
	if got := rewinds(t, s); len(got) != 1 {
		t.Errorf("a refused write leaves the record of the rewind: got %+v", got)
	}
}

// TestOldPrimaryComesBack: a process that saw a timeline never writes to an
// older one.
func TestOldPrimaryComesBack(t *testing.T) {
	t.Parallel()
	pg := parts.StartPostgres(t)
	dsn := pg.Database(t)
	old, standby := pg.Backup(t), pg.Backup(t)
	pg.Fail(t, standby, true)
	s := store(t, dsn)
	if _, err := s.Record(t.Context(), backstay.Entry{Kind: backstay.EntryNote}); err != nil {
		t.Fatal(err)
	}
	pg.Fail(t, old, false)
	_, err := s.Record(t.Context(), backstay.Entry{Kind: backstay.EntryNote})
	if err == nil || !strings.Contains(err.Error(), "an old primary is back") || backstay.HintOf(err) == "" {
		t.Errorf("got %v, want a refusal with a hint", err)
	}
}
