package audit_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/audit"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/ledger/sqlite"
	"github.com/backstay-dev/backstay/internal/plan"
)

// stocked is a ledger file with a before-image of three chunks that its
// deployment's entry 4 refers to, and an artifact that its plan refers to.
type stocked struct {
	dir           string
	deployment    string
	image, pinned string // addresses
}

const stockedBytes = 600_000 + 8 + 5

func stock(t *testing.T) stocked {
	t.Helper()
	k := stocked{dir: t.TempDir()}
	s, err := sqlite.Open(t.Context(), k.dir, ledger.Options{Signer: signer(t)})
	if err != nil {
		t.Fatal(err)
	}
	buffer := s.NewBlobBuffer(t.Context())
	k.pinned = store(t, buffer, []byte("artifact"))
	p := &plan.Plan{Format: plan.Format, Release: "shop", Version: "v1", Steps: []backstay.Step{{ID: "conf", Seq: 1, Prepared: backstay.Prepared{Blobs: []string{k.pinned}}}}}
	if err := s.SavePlan(t.Context(), p.Digest(), p.Encode(), buffer); err != nil {
		t.Fatal(err)
	}
	id, err := uuid.NewV7()
	if err != nil {
		t.Fatal(err)
	}
	k.deployment = id.String()
	entry := func(kind backstay.EntryKind, step string, body any) backstay.Entry {
		return backstay.Entry{Kind: kind, Step: step, Actor: ann(), Body: backstay.Canonical(body)}
	}
	move := func(from backstay.State, event string, to backstay.State) backstay.Entry {
		return entry(backstay.EntryTransition, "", backstay.TransitionBody{From: from, Event: event, To: to})
	}
	lease, err := s.Create(t.Context(), ledger.NewDeployment{
		ID: k.deployment, Release: "shop", Version: "v1", PlanDigest: p.Digest(), Author: *ann(), State: backstay.Running,
		Entries: []backstay.Entry{
			entry(backstay.EntryPlanned, "", backstay.PlannedBody{PlanDigest: p.Digest(), Release: "shop", Version: "v1"}),
			move(backstay.Planned, "approve", backstay.Approved), move(backstay.Approved, "start", backstay.Running),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	buffer = s.NewBlobBuffer(t.Context())
	k.image = store(t, buffer, big())
	store(t, buffer, []byte("loose"))
	intent := entry(backstay.EntryIntent, "conf", backstay.IntentBody{Before: image("old")})
	intent.Blobs = []string{k.image}
	for _, u := range []ledger.Update{
		{State: backstay.Running, Entries: []backstay.Entry{intent}, Blobs: buffer},
		{State: backstay.RollingBack, Entries: []backstay.Entry{
			entry(backstay.EntryOutcome, "conf", backstay.OutcomeBody{Error: "no", Cause: backstay.CauseStepFailed}), move(backstay.Running, "fail", backstay.RollingBack),
		}},
		{State: backstay.RolledBack, Disown: true, Entries: []backstay.Entry{
			entry(backstay.EntryCompensation, "conf", backstay.CompensationBody{Result: "untouched"}), move(backstay.RollingBack, "undone", backstay.RolledBack),
		}},
	} {
		if _, err := s.Append(t.Context(), &lease, u); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return k
}

// big is content of three chunks, all different.
func big() []byte {
	body := make([]byte, 600_000)
	for i := range body {
		body[i] = byte(i>>16) ^ byte(i)
	}
	return body
}

func store(t *testing.T, blobs backstay.Blobs, body []byte) string {
	t.Helper()
	address, _, err := blobs.Put(bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	return address
}

// verifyFile verifies a copy as somebody does who has only the public key.
func verifyFile(t *testing.T, path string) audit.Result {
	t.Helper()
	src, err := sqlite.OpenReadOnly(t.Context(), path, ledger.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = src.Close() })
	return verify(t, src, options(t))
}

// TestTamperedContents damages stored content in a copy of a ledger file: each
// damage is found and named with its address and what needs it.
func TestTamperedContents(t *testing.T) {
	t.Parallel()
	k := stock(t)
	whole, err := os.ReadFile(filepath.Join(k.dir, sqlite.File))
	if err != nil {
		t.Fatal(err)
	}
	ofImage := fmt.Sprintf("ref = '%s'", k.image)
	tests := []struct {
		name string
		sql  []string
		code string
		says string
		at   int64 // entry of the deployment; 0: none
	}{
		{"flipped bit", []string{"UPDATE chunk SET body = CAST(substr(body, 1, 1000) || x'00' || substr(body, 1002) AS BLOB) WHERE n = 1 AND " + ofImage}, "blob_damaged", "not what its address says", 4},
		{"missing chunk", []string{"DELETE FROM chunk WHERE n = 1 AND " + ofImage}, "blob_damaged", "part 2 is missing", 4},
		{"missing last chunk", []string{"DELETE FROM chunk WHERE n = 2 AND " + ofImage}, "blob_damaged", "part 3 is missing", 4},
		{"swapped chunks", []string{
			"UPDATE chunk SET n = 99 WHERE n = 0 AND " + ofImage, "UPDATE chunk SET n = 0 WHERE n = 1 AND " + ofImage, "UPDATE chunk SET n = 1 WHERE n = 99 AND " + ofImage,
		}, "blob_damaged", "not what its address says", 4},
		{"truncated", []string{"UPDATE chunk SET body = substr(body, 1, 10) WHERE n = 2 AND " + ofImage}, "blob_damaged", "part 4 is missing", 4},
		{"truncated with its size", []string{"DELETE FROM chunk WHERE n = 2 AND " + ofImage, "UPDATE blob SET size = 524288 WHERE " + ofImage}, "blob_damaged", "not what its address says", 4},
		{"longer", []string{"UPDATE chunk SET body = CAST(body || x'00' AS BLOB) WHERE n = 2 AND " + ofImage}, "blob_damaged", "part 3 has the wrong size", 4},
		{"a chunk too many", []string{fmt.Sprintf("INSERT INTO chunk (ref, n, body) VALUES ('%s', 3, x'00')", k.image)}, "blob_damaged", "it has 3 parts, 4 are stored", 4},
		{"removed", []string{"DELETE FROM chunk WHERE " + ofImage, "DELETE FROM blob WHERE " + ofImage}, "blob_missing", "the intent entry refers to blob " + k.image, 4},
		{"removed with its pin", []string{"DELETE FROM blob WHERE " + ofImage, "DELETE FROM blob_ref WHERE digest = '" + k.image + "'"}, "blob_missing", "the intent entry refers to blob " + k.image, 4},
		{"another address", []string{fmt.Sprintf("UPDATE blob SET ref = '%s' WHERE digest = '%s'", k.pinned, k.image)}, "blob_damaged", k.image, 4},
		{"a plan's, changed", []string{fmt.Sprintf("UPDATE chunk SET body = CAST('artifakt' AS BLOB) WHERE ref = '%s'", k.pinned)}, "blob_damaged", "plan ", 0},
		{"a plan's, removed", []string{fmt.Sprintf("DELETE FROM blob WHERE digest = '%s'", k.pinned)}, "blob_missing", "refers to blob " + k.pinned, 0},
		{"one that nothing needs", []string{"UPDATE chunk SET body = CAST('LOOSE' AS BLOB) WHERE body = CAST('loose' AS BLOB)"}, "blob_damaged", "no entry or plan refers to it", -1},
		{"a plan that no deployment runs", []string{"INSERT INTO plan (digest, body, at) SELECT 'f' || substr(digest, 2), body, at FROM plan"}, "plan_changed", "hashes to", -1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), sqlite.File)
			if err := os.WriteFile(path, whole, 0o600); err != nil {
				t.Fatal(err)
			}
			change(t, path, tt.sql)
			r := verifyFile(t, path)
			if r.OK || len(r.Problems) != 1 {
				t.Fatalf("want one problem, got\n%s", text(t, r))
			}
			p, deployment := r.Problems[0], k.deployment
			if tt.at < 0 {
				deployment = ""
			}
			if p.Code != tt.code || !strings.Contains(p.Message, tt.says) || p.Deployment != deployment || p.Entry != max(tt.at, 0) {
				t.Errorf("want %s that says %q of entry %d of %q, got %+v", tt.code, tt.says, tt.at, deployment, p)
			}
		})
	}
	t.Run("whole", func(t *testing.T) {
		t.Parallel()
		r := verifyFile(t, filepath.Join(k.dir, sqlite.File))
		if !r.OK || r.Blobs != 3 || r.BlobBytes != stockedBytes || r.Collected != 0 {
			t.Errorf("got\n%s", text(t, r))
		}
		if got := text(t, r); !strings.Contains(got, fmt.Sprintf("3 blobs (%d bytes) read against their addresses\n", stockedBytes)) {
			t.Errorf("got\n%s", got)
		}
	})
}

// TestCollectedContents tells content that was collected from content that was
// lost: by what the log records.
func TestCollectedContents(t *testing.T) {
	t.Parallel()
	k := stock(t)
	s, err := sqlite.Open(t.Context(), k.dir, ledger.Options{Signer: signer(t)})
	if err != nil {
		t.Fatal(err)
	}
	if n, err := s.Collect(t.Context(), 0); err != nil || n != 2 {
		t.Fatalf("collect: got %d, %v; want the image and the loose one", n, err)
	}
	if _, err := s.Blobs(t.Context()).Get(k.image); !errors.Is(err, ledger.ErrNotFound) {
		t.Fatalf("the image after its collection: got %v", err)
	}
	var logged strings.Builder
	if err := audit.Log(t.Context(), s, ledger.Query{Kind: backstay.EntryNote, AfterLeaf: -1}, func(r audit.Row) error {
		_, err := logged.WriteString(r.Text)
		return err
	}); err != nil || !strings.Contains(logged.String(), "collected 2 blobs") {
		t.Errorf("log: got %q, %v", logged.String(), err)
	}
	if _, err := audit.Checkpoint(t.Context(), s, signer(t), time.Now()); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(k.dir, sqlite.File)
	r := verifyFile(t, path)
	if !r.OK || r.Collected != 1 || r.Blobs != 1 {
		t.Errorf("got\n%s", text(t, r))
	}
	if got := text(t, r); !strings.Contains(got, "1 more was collected, as the log records") {
		t.Errorf("got\n%s", got)
	}
	// The record of a collection forgives nothing of what is pinned for ever.
	change(t, path, []string{"DELETE FROM blob WHERE digest = '" + k.pinned + "'"})
	if r := verifyFile(t, path); r.OK || r.Problems[0].Code != "blob_missing" {
		t.Errorf("got\n%s", text(t, r))
	}
}

// TestCollectedWhileVerified reads a ledger whose content is collected between
// the entry and the end of the verification.
func TestCollectedWhileVerified(t *testing.T) {
	t.Parallel()
	for _, noted := range []bool{true, false} {
		t.Run(fmt.Sprintf("noted=%v", noted), func(t *testing.T) {
			t.Parallel()
			b := sample()
			address := strings.Repeat("ab", 32)
			b.put(backstay.Entry{V: 1, Kind: backstay.EntryNote, At: start(), Blobs: []string{address}, Body: backstay.Canonical(backstay.NoteBody{Text: "refers"})})
			if noted {
				b.onWalk = func() {
					b.onWalk = nil
					b.put(backstay.Entry{V: 1, Kind: backstay.EntryNote, At: start(), Body: backstay.Canonical(backstay.NoteBody{Text: "went", Collected: []string{address}})})
				}
			}
			r := verify(t, b, options(t))
			if r.OK != noted || (noted && r.Collected != 1) || (!noted && r.Problems[0].Code != "blob_missing") {
				t.Errorf("got\n%s", text(t, r))
			}
		})
	}
}
