package audit_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/audit"
	"github.com/backstay-dev/backstay/internal/ledger"
)

var update = flag.Bool("update", false, "write the golden files")

// golden compares with testdata/name.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(got), string(want)); diff != "" {
		t.Errorf("%s (-got +want; -update writes it):\n%s", path, diff)
	}
}

// small is a ledger of few entries, for goldens.
func small() *book {
	b := newBook()
	w := b.deploy(proven, "shop", "conf")
	w.intent("conf")
	w.done("conf")
	w.prove()
	return b
}

func export(t *testing.T, b *book) []byte {
	t.Helper()
	var out bytes.Buffer
	if _, err := audit.Export(t.Context(), b, &out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func verifyExport(t *testing.T, data []byte) audit.Result {
	t.Helper()
	r, err := audit.VerifyExport(bytes.NewReader(data), options(t).PublicKeys)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestGoldens(t *testing.T) {
	t.Parallel()
	b := small()
	c := sign(t, b)
	golden(t, "checkpoint-v1.txt", c.Note)
	golden(t, "export-v1.jsonl", export(t, b))
	result, err := json.MarshalIndent(verify(t, b, options(t, c.Note)), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "verify-v1.json", append(result, '\n'))
	bad := sample()
	sign(t, bad)
	bad.leaves[20].Record[30] ^= 1
	golden(t, "verify-bad.txt", []byte(text(t, verify(t, bad, options(t)))))
}

// TestGoldenExportStillVerifies reads the first version's file, whatever is
// written today.
func TestGoldenExportStillVerifies(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile(filepath.Join("testdata", "export-v1.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	if r := verifyExport(t, data); !r.OK || r.Entries != 9 {
		t.Errorf("got\n%s", text(t, r))
	}
}

func TestExport(t *testing.T) {
	t.Parallel()
	b := sample()
	sign(t, b)
	size := int64(len(b.leaves))
	b.deploy("later", "shop", "conf")
	var out bytes.Buffer
	got, err := audit.Export(t.Context(), b, &out)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(got, audit.Exported{Entries: size, Newer: 3}); diff != "" {
		t.Errorf("exported (-got +want):\n%s", diff)
	}
	r := verifyExport(t, out.Bytes())
	if !r.OK || r.Entries != size || r.Deployments != 3 || r.Covered != size || r.Newer != 3 || r.Of != "export" {
		t.Errorf("got %+v\n%s", r, text(t, r))
	}
}

// TestExportLineAlone verifies one line with nothing but the checkpoint, by
// the arithmetic that the format promises.
func TestExportLineAlone(t *testing.T) {
	t.Parallel()
	b := sample()
	c := sign(t, b)
	lines := bytes.Split(export(t, b), []byte("\n"))
	var l struct {
		Leaf   int64       `json:"leaf"`
		Salt   []byte      `json:"salt"`
		Record string      `json:"record"`
		Proof  []tlog.Hash `json:"proof"`
	}
	if err := json.Unmarshal(lines[1+20], &l); err != nil {
		t.Fatal(err)
	}
	hash := tlog.RecordHash(append(l.Salt, l.Record...))
	if err := tlog.CheckRecord(l.Proof, c.Size, b.head.Root, l.Leaf, hash); err != nil || l.Leaf != 20 {
		t.Errorf("leaf %d: %v", l.Leaf, err)
	}
}

func TestExportNeedsACheckpoint(t *testing.T) {
	t.Parallel()
	b := sample()
	if _, err := audit.Export(t.Context(), b, &bytes.Buffer{}); !strings.Contains(backstay.HintOf(err), "audit checkpoint") {
		t.Errorf("got %v, want an error that says to make one", err)
	}
	sign(t, b)
	b.leaves = b.leaves[:20]
	b.rebuild()
	if _, err := audit.Export(t.Context(), b, &bytes.Buffer{}); !strings.Contains(backstay.HintOf(err), "audit verify") {
		t.Errorf("truncated ledger: got %v, want an error that says to verify", err)
	}
}

func TestExportRefusesDamage(t *testing.T) {
	t.Parallel()
	tests := map[string]func(b *book){
		"leaf missing":           func(b *book) { b.leaves = append(b.leaves[:20:20], b.leaves[21:]...) },
		"last leaf missing":      func(b *book) { b.leaves = b.leaves[:len(b.leaves)-1] },
		"hash missing":           func(b *book) { b.hashes[3] = tlog.Hash{} },
		"record that no text is": func(b *book) { b.leaves[20].Record[5] = 0xff },
	}
	for name, damage := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := sample()
			sign(t, b)
			damage(b)
			if _, err := audit.Export(t.Context(), b, &bytes.Buffer{}); !strings.Contains(backstay.HintOf(err), "audit verify") {
				t.Errorf("got %v, want an error that says to verify", err)
			}
		})
	}
}

func TestTamperedExportIsFound(t *testing.T) {
	t.Parallel()
	b := sample()
	sign(t, b)
	whole := strings.SplitAfter(string(export(t, b)), "\n")
	whole = whole[:len(whole)-1]
	tests := []struct {
		name   string
		tamper func(lines []string) []string
		code   string
		leaf   int64
	}{
		{"record changed", func(l []string) []string { l[21] = strings.Replace(l[21], "ann", "bob", 1); return l }, "record_changed", 20},
		{"salt changed", func(l []string) []string {
			i := strings.Index(l[21], `"salt":"`) + len(`"salt":"`)
			l[21] = l[21][:i] + "AAAA" + l[21][i+4:]
			return l
		}, "record_changed", 20},
		{"line removed", func(l []string) []string { return append(l[:21], l[22:]...) }, "export_damaged", 21},
		{"line twice", func(l []string) []string { return append(l[:21:21], append([]string{l[20]}, l[21:]...)...) }, "export_damaged", 19},
		{"lines swapped", func(l []string) []string { l[21], l[22] = l[22], l[21]; return l }, "export_damaged", 21},
		{"end removed", func(l []string) []string { return l[:30] }, "export_damaged", 29},
		{"line that is none", func(l []string) []string { l[21] = "hello\n"; return l }, "export_damaged", 20},
		{"no header", func(l []string) []string { return l[1:] }, "export_damaged", -1},
		{"empty", func([]string) []string { return nil }, "export_damaged", -1},
		{"another ledger's header", func(l []string) []string { l[0] = strings.Replace(l[0], ledgerID, "other", 1); return l }, "export_damaged", -1},
		{"checkpoint changed", func(l []string) []string {
			l[0] = strings.Replace(l[0], `\n47\n`, `\n46\n`, 1)
			return l
		}, "checkpoint_not_trusted", -1},
		{"more than was signed", func(l []string) []string {
			return append(l, strings.Replace(l[len(l)-1], `"leaf":46`, `"leaf":47`, 1))
		}, "export_damaged", 47},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			lines := tt.tamper(append([]string(nil), whole...))
			r := verifyExport(t, []byte(strings.Join(lines, "")))
			if r.OK || r.Problems[0].Code != tt.code || r.Problems[0].Leaf != tt.leaf {
				t.Errorf("want %s at %d, got\n%s", tt.code, tt.leaf, text(t, r))
			}
			if r.Covered != 0 {
				t.Errorf("a damaged export says that %d entries are covered", r.Covered)
			}
		})
	}
	if _, err := audit.VerifyExport(strings.NewReader(""), nil); err == nil {
		t.Error("no key was accepted")
	}
}

func TestCheckpointSignsNoDamage(t *testing.T) {
	t.Parallel()
	tests := map[string]func(b *book){
		"truncated": func(b *book) { b.leaves = b.leaves[:20]; b.rebuild() },
		"rewritten": func(b *book) { b.rewrite(20, func(e *backstay.Entry) { e.Actor = nil }); b.rebuild() },
		"head":      func(b *book) { b.head.Root[0] ^= 1 },
		"tree":      func(b *book) { b.hashes = b.hashes[:8] },
		"garbage":   func(b *book) { b.checkpoints[0].Note = []byte("hello") },
	}
	for name, damage := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := sample()
			sign(t, b)
			damage(b)
			if c, err := audit.Checkpoint(t.Context(), b, signer(t), start()); !strings.Contains(backstay.HintOf(err), "audit verify") {
				t.Errorf("got %s, %v; want an error that says to verify", c.Note, err)
			}
			if len(b.checkpoints) != 1 {
				t.Error("a checkpoint was stored")
			}
		})
	}
}

func TestSignerRefuses(t *testing.T) {
	t.Parallel()
	if _, err := audit.NewSigner("PRIVATE+KEY+c4nary"); err == nil || strings.Contains(err.Error(), "c4nary") {
		t.Errorf("got %v, want an error without the key", err)
	}
	for _, origin := range []string{"", "a\nb"} {
		if got, err := signer(t).SignCheckpoint(t.Context(), origin, ledger.Head{}); err == nil {
			t.Errorf("origin %q: got %q", origin, got)
		}
	}
	if got, err := signer(t).SignCheckpoint(t.Context(), "a", ledger.Head{Size: -1}); err == nil {
		t.Errorf("size -1: got %q", got)
	}
}

func FuzzVerifyExport(f *testing.F) {
	data, err := os.ReadFile(filepath.Join("testdata", "export-v1.jsonl"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add(data[:100])
	f.Add([]byte(`{"format":"backstay.audit.export/v1"}`))
	_, public := keys(f)
	f.Fuzz(func(t *testing.T, in []byte) {
		r, err := audit.VerifyExport(bytes.NewReader(in), []string{public})
		if err == nil && r.OK && !sameExport(in, data) {
			t.Errorf("verified what was never exported:\n%s", in)
		}
	})
}

// sameExport reports whether both hold the same records in order, whatever
// their white space and order of keys.
func sameExport(a, b []byte) bool {
	read := func(data []byte) (out []string) {
		for line := range bytes.Lines(data) {
			var l struct {
				Record     string `json:"record"`
				Checkpoint string `json:"checkpoint"`
			}
			if json.Unmarshal(line, &l) == nil {
				out = append(out, l.Record+l.Checkpoint)
			}
		}
		return out
	}
	return cmp.Equal(read(a), read(b))
}

// FuzzCheckpoint: a checkpoint that anybody hands in breaks nothing and is
// trusted only when it is one of ours.
func FuzzCheckpoint(f *testing.F) {
	b := small()
	c := sign(f, b)
	f.Add(c.Note)
	f.Add([]byte("a\n1\nAAAA\n\n— x y\n"))
	f.Fuzz(func(t *testing.T, kept []byte) {
		r := verify(t, small(), options(t, kept))
		if r.OK && !bytes.Equal(kept, c.Note) && r.Kept > 0 && r.Covered != c.Size {
			t.Errorf("trusted %q", kept)
		}
	})
}
