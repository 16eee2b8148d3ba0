package ledgertest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/ledger"
)

// noise is content that is the same for the same seed.
func noise(seed byte, size int64) io.Reader {
	var key [32]byte
	key[0] = seed
	return io.LimitReader(rand.NewChaCha8(key), size)
}

func read(t testing.TB, b backstay.Blobs, digest string) []byte {
	t.Helper()
	r, err := b.Get(digest)
	if err != nil {
		t.Fatalf("get blob: %v", err)
	}
	defer r.Close()
	body, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("read blob: %v", err)
	}
	return body
}

func put(t testing.TB, b backstay.Blobs, r io.Reader) string {
	t.Helper()
	digest, _, err := b.Put(r)
	if err != nil {
		t.Fatalf("put: %v", err)
	}
	return digest
}

func has(t testing.TB, b backstay.Blobs, digest string) bool {
	t.Helper()
	ok, err := b.Has(digest)
	if err != nil {
		t.Fatalf("has: %v", err)
	}
	return ok
}

func testBlobs(t *testing.T, h Harness) {
	s := h.open(t, ledger.Options{})
	lease := Create(t, s, New(t, "shop"))
	stored, buffer := s.Blobs(t.Context()), s.NewBlobBuffer(t.Context())
	for _, body := range []string{"", "small", strings.Repeat("x", 700<<10)} {
		digest, size, err := buffer.Put(strings.NewReader(body))
		sum := sha256.Sum256([]byte(body))
		if err != nil || digest != hex.EncodeToString(sum[:]) || size != int64(len(body)) {
			t.Fatalf("put %d bytes: got %s, %d, %v", len(body), digest, size, err)
		}
		if !has(t, buffer, digest) || string(read(t, buffer, digest)) != body {
			t.Errorf("the buffer does not show its own %d bytes", len(body))
		}
		if has(t, stored, digest) {
			t.Errorf("%d bytes are in the store before the write that carries them", len(body))
		}
		stale := ledger.Lease{Deployment: lease.Deployment, Epoch: lease.Epoch - 1, N: lease.N}
		if _, err := s.Append(t.Context(), &stale, ledger.Update{Entries: []backstay.Entry{Intent("a")}, Blobs: buffer}); !errors.Is(err, ledger.ErrFenced) {
			t.Fatalf("stale append: %v", err)
		}
		if has(t, stored, digest) {
			t.Errorf("a fenced write stored %d bytes", len(body))
		}
		Append(t, s, &lease, ledger.Update{Entries: []backstay.Entry{Intent("a")}, Blobs: buffer})
		if !has(t, stored, digest) || string(read(t, stored, digest)) != body || string(read(t, buffer, digest)) != body {
			t.Errorf("%d bytes are not in the store after the write", len(body))
		}
		if again := put(t, buffer, strings.NewReader(body)); again != digest {
			t.Errorf("put again: got %s, want %s", again, digest)
		}
	}
	digest := put(t, buffer, strings.NewReader("flushed"))
	if err := buffer.Flush(t.Context()); err != nil || !has(t, stored, digest) {
		t.Errorf("flush: %v", err)
	}
	if _, err := stored.Get(strings.Repeat("0", 64)); !errors.Is(err, ledger.ErrNotFound) || backstay.ClassOf(err) != backstay.NotFound {
		t.Errorf("get nothing: got %v, want ErrNotFound", err)
	}
	if _, _, err := stored.Put(strings.NewReader("x")); !errors.Is(err, ledger.ErrReadOnly) {
		t.Errorf("put through the read view: got %v, want ErrReadOnly", err)
	}
	broken := errors.New("the disk is gone")
	if _, _, err := buffer.Put(io.MultiReader(strings.NewReader("half"), readError{broken})); !errors.Is(err, broken) {
		t.Errorf("put of a failing reader: got %v", err)
	}
}

type readError struct{ error }

func (r readError) Read([]byte) (int, error) { return 0, r.error }

func testLargeBlob(t *testing.T, h Harness) {
	s := h.open(t, ledger.Options{})
	stored, buffer := s.Blobs(t.Context()), s.NewBlobBuffer(t.Context())
	// Small ones beyond the buffer's size go to the store by themselves.
	var spilled string
	for i := range byte(6) {
		digest := put(t, buffer, noise(i, 1<<20))
		if i == 0 {
			spilled = digest
		}
	}
	if !has(t, stored, spilled) {
		t.Error("6 MiB of small content is all in memory")
	}
	for _, size := range []int64{4 << 20, 4<<20 + 1, 9<<20 + 12345} {
		want, err := io.ReadAll(noise(9, size))
		if err != nil {
			t.Fatal(err)
		}
		digest := put(t, buffer, bytes.NewReader(want))
		if !has(t, stored, digest) {
			t.Errorf("%d bytes are not in the store", size)
		}
		if !bytes.Equal(read(t, stored, digest), want) {
			t.Errorf("%d bytes came back changed", size)
		}
		if again := put(t, buffer, bytes.NewReader(want)); again != digest || !bytes.Equal(read(t, stored, again), want) {
			t.Errorf("%d bytes stored twice came back changed", size)
		}
	}
}

func testDamagedBlob(t *testing.T, h Harness) {
	s := h.open(t, ledger.Options{})
	buffer := s.NewBlobBuffer(t.Context())
	for name, damage := range map[string]func(){
		"changed":   func() { h.Exec(t, "UPDATE chunk SET body = $1 WHERE n = 1", bytes.Repeat([]byte{7}, 256<<10)) },
		"missing":   func() { h.Exec(t, "DELETE FROM chunk WHERE n = 1") },
		"truncated": func() { h.Exec(t, "UPDATE blob SET size = size - 1") },
	} {
		digest := put(t, buffer, io.MultiReader(strings.NewReader(name), noise(1, 600<<10)))
		if err := buffer.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		damage()
		r, err := s.Blobs(t.Context()).Get(digest)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, r); !errors.Is(err, ledger.ErrDamaged) {
			t.Errorf("read of a blob that is %s: got %v, want ErrDamaged", name, err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
}

func testCollect(t *testing.T, h Harness) {
	clock := h.Clock
	if clock == nil {
		clock = NewClock()
	}
	s := h.open(t, ledger.Options{Clock: clock})
	SavePlan(t, s)
	stored := s.Blobs(t.Context())
	seed := byte(0)
	deploy := func(to backstay.State) string {
		t.Helper()
		lease := Create(t, s, New(t, "shop"))
		buffer := s.NewBlobBuffer(t.Context())
		seed++
		digest := put(t, buffer, noise(seed, 300<<10))
		entry := Intent("a")
		entry.Blobs = []string{digest}
		Append(t, s, &lease, ledger.Update{Entries: []backstay.Entry{entry}, Blobs: buffer, State: to})
		return digest
	}
	older, rolledBack, held, proven, running := deploy(backstay.Proven), deploy(backstay.RolledBack), deploy(backstay.Held), deploy(backstay.Proven), deploy(backstay.Running)
	planBuffer := s.NewBlobBuffer(t.Context())
	planned := put(t, planBuffer, strings.NewReader("artifact"))
	reused := s.NewBlobBuffer(t.Context())
	if err := s.SavePlan(t.Context(), strings.Repeat("e", 64), []byte("{}"), planBuffer); err != nil {
		t.Fatal(err)
	}
	loose := put(t, reused, strings.NewReader("loose"))
	large := put(t, reused, noise(99, 5<<20))
	if err := reused.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n, err := s.Collect(t.Context(), time.Hour); err != nil || n != 0 {
		t.Errorf("collect of what is new: got %d, %v", n, err)
	}
	clock.Advance(2 * time.Hour)
	if !has(t, reused, loose) { // being found is being used
		t.Error("loose content is gone too early")
	}
	if n, err := s.Collect(t.Context(), time.Hour); err != nil || n != 3 {
		t.Errorf("collect: got %d, %v; want 3", n, err)
	}
	var recorded []string
	err := s.Walk(t.Context(), ledger.Query{Kind: backstay.EntryNote, AfterLeaf: -1}, func(l ledger.Leaf) error {
		var note backstay.NoteBody
		err := l.Entry.Decode(&note)
		recorded = append(recorded, note.Collected...)
		return err
	})
	gone := []string{older, rolledBack, large}
	slices.Sort(gone)
	if diff := cmp.Diff(recorded, gone); diff != "" || err != nil {
		t.Errorf("what the log records as collected (-got +want), %v:\n%s", err, diff)
	}
	for _, c := range []struct {
		name, digest string
		want         bool
	}{
		{"an older proven one's", older, false},
		{"a rolled back one's", rolledBack, false},
		{"unreferenced and large", large, false},
		{"a held one's", held, true},
		{"the latest proven one's", proven, true},
		{"a running one's", running, true},
		{"a plan's", planned, true},
		{"just found", loose, true},
	} {
		if got := has(t, stored, c.digest); got != c.want {
			t.Errorf("%s is there: got %v, want %v", c.name, got, c.want)
		}
	}
	if _, err := s.Collect(t.Context(), -1); err == nil {
		t.Error("collect with a negative keep: want an error")
	}
}
