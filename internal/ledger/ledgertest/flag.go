package ledgertest

import (
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/ledger"
)

func flagState(text string) backstay.ResourceState {
	return backstay.ResourceState{Parts: map[string]json.RawMessage{backstay.FlagDefinition: backstay.Canonical(text)}}
}

func testFlags(t *testing.T, h Harness) {
	s := h.open(t, ledger.Options{})
	ann := ledger.FlagWriter{Actor: backstay.Actor{UID: 1000, Name: "ann"}}
	const key = backstay.Key("flag:new-checkout")
	large := strings.Repeat("x", 100<<10)
	none, err := s.Flag(t.Context(), key)
	if err != nil || none.Version != 0 || none.Exists() {
		t.Fatalf("a flag that never was: got %+v, %v", none, err)
	}
	for i, to := range []backstay.ResourceState{flagState("a"), flagState(large), {}, flagState("b")} {
		got, err := s.ChangeFlags(t.Context(), ann, backstay.FlagChange{Key: key, Version: int64(i), To: to, Act: "set", Reason: "why"})
		if err != nil {
			t.Fatal(err)
		}
		read, err := s.Flag(t.Context(), key)
		if diff := cmp.Diff(got[0], read); err != nil || diff != "" || read.Version != int64(i)+1 || !read.State.Equal(to) {
			t.Errorf("change %d (-returned +read): %v\n%s", i, err, diff)
		}
	}
	history, err := s.FlagHistory(t.Context(), key, 0)
	if err != nil || len(history) != 4 {
		t.Fatalf("history: got %d, %v", len(history), err)
	}
	var last, first backstay.FlagBody
	if err := errors.Join(history[0].Entry.Decode(&last), history[2].Entry.Decode(&first)); err != nil {
		t.Fatal(err)
	}
	if last.Version != 4 || last.Reason != "why" || len(last.Before.Inline[key].Parts) != 0 || !last.After.Inline[key].Equal(flagState("b")) {
		t.Errorf("newest entry: got %+v", last)
	}
	if !first.After.Stored || !has(t, s.Blobs(t.Context()), first.After.Digest) {
		t.Errorf("a large state is not stored: %+v", first.After)
	}
	all, err := s.ChangeFlags(t.Context(), ann,
		backstay.FlagChange{Key: "flag:other", To: flagState("o"), Act: "import"}, backstay.FlagChange{Key: key, Version: 3, To: flagState("z"), Act: "import"})
	var moved *backstay.FlagMovedError
	if !errors.As(err, &moved) || moved.Have != 4 {
		t.Errorf("one stale change of two: got %v, %v", all, err)
	}
	if other, err := s.Flag(t.Context(), "flag:other"); err != nil || other.Version != 0 {
		t.Errorf("half of a refused write happened: %+v, %v", other, err)
	}
	asked, err := s.AskFlag(t.Context(), ann, backstay.FlagChange{Key: key, Version: 4, To: flagState("c"), Reason: "burning"})
	if read, readErr := s.Flag(t.Context(), key); err != nil || readErr != nil || read.Asked != asked.Asked || read.Asked == 0 || read.Version != 4 {
		t.Errorf("asked: got %+v, %v, %v", read, err, readErr)
	}
	changed, err := s.Flags(t.Context(), all4(t, s)-1)
	if err != nil || len(changed) != 1 || changed[0].Key != key {
		t.Errorf("changed since: got %+v, %v", changed, err)
	}
	if got, err := s.Flags(t.Context(), changed[0].Leaf); err != nil || len(got) != 0 {
		t.Errorf("changed since the last: got %+v, %v", got, err)
	}
	checkTree(t, s, 5)
}

func all4(t *testing.T, s *ledger.Store) int64 {
	t.Helper()
	leaf, err := s.FlagLeaf(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return leaf
}

func testFlagsWriters(t *testing.T, h Harness) {
	s, other := h.open(t, ledger.Options{}), h.open(t, ledger.Options{})
	const key = backstay.Key("flag:dial")
	lease := Create(t, s, New(t, "shop", key))
	step := ledger.FlagWriter{By: &backstay.FlagBy{Deployment: lease.Deployment, Step: "to-10", Token: backstay.Token{Generation: lease.Generation, Epoch: lease.Epoch}}}
	change := backstay.FlagChange{Key: key, To: flagState("10%"), Act: "step"}
	var locked *ledger.LockedError
	if _, err := other.ChangeFlags(t.Context(), ledger.FlagWriter{}, change); !errors.As(err, &locked) || locked.Lock.Deployment != lease.Deployment {
		t.Errorf("a person changes what a deployment holds: got %v", err)
	}
	if _, err := other.ChangeFlags(t.Context(), step, change); !errors.Is(err, ledger.ErrFenced) {
		t.Errorf("another node writes for the step: got %v", err)
	}
	got, err := s.ChangeFlags(t.Context(), step, change)
	if err != nil || got[0].Writer != lease.Deployment {
		t.Fatalf("the step's own change: got %+v, %v", got, err)
	}
	if _, err := other.ChangeFlags(t.Context(), ledger.FlagWriter{Override: true}, backstay.FlagChange{Key: key, Version: 1, To: flagState("off"), Act: "kill"}); err != nil {
		t.Errorf("a kill: %v", err)
	}
	if _, err := s.Claim(t.Context(), lease.Deployment); err != nil {
		t.Fatal(err)
	}
	change.Version = 2
	if _, err := s.ChangeFlags(t.Context(), step, change); !errors.Is(err, ledger.ErrFenced) {
		t.Errorf("a step of an older epoch: got %v", err)
	}
	race(t, s, other)
}

// race lets several writers of two stores make changes to one flag, each for
// the version it read: every version has exactly one writer.
func race(t *testing.T, stores ...*ledger.Store) {
	t.Helper()
	const key, each = backstay.Key("flag:raced"), 10
	var wg sync.WaitGroup
	var mu sync.Mutex
	won, moved := map[int64]int{}, 0
	for i := range 4 {
		s := stores[i%len(stores)]
		wg.Go(func() {
			for n := 0; n < each; {
				f, err := s.Flag(t.Context(), key)
				if err != nil {
					t.Error(err)
					return
				}
				got, err := s.ChangeFlags(t.Context(), ledger.FlagWriter{}, backstay.FlagChange{Key: key, Version: f.Version, To: flagState("x"), Act: "set"})
				mu.Lock()
				var late *backstay.FlagMovedError
				switch {
				case err == nil:
					won[got[0].Version]++
					n++
				case errors.As(err, &late):
					moved++
				default:
					t.Error(err)
					n = each
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for v := int64(1); v <= 4*each; v++ {
		if won[v] != 1 {
			t.Errorf("version %d was written %d times", v, won[v])
		}
	}
	t.Logf("%d changes, %d came too late and said so", len(won), moved)
}
