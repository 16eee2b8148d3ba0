package ledger

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/backstay-dev/backstay"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

// TestRecordFormat freezes format 1 of a record and of its hash: ledgers of
// users are made of them.
func TestRecordFormat(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 3, 4, 5, 6, 7, 123456789, time.FixedZone("", 3600))
	entries := []backstay.Entry{
		{Kind: backstay.EntryPlanned, At: at, Actor: &backstay.Actor{UID: 1000, Name: "ann", Host: "h", Via: "deploy"}, Body: []byte(` { "plan_digest" : "ab<c>" } `)},
		{Kind: backstay.EntryIntent, Step: "web", Attempt: 2, At: at, Blobs: []string{"aa", "bb"}},
		{Kind: "from_the_future", At: at, Body: []byte(`{"z":1,"a":[null,"é","\u2028"]}`)},
	}
	all, err := number(entries, "0197a1c2-0000-7000-8000-000000000001", 41, 3, at)
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	salt := []byte("0123456789abcdef")
	for _, s := range all {
		hash := tlog.Hash(LeafHash(salt, s.record))
		if want := sha256.Sum256([]byte("\x00" + string(salt) + string(s.record))); hash != tlog.Hash(want) {
			t.Error("the leaf hash is not SHA-256 of 0, salt, record")
		}
		fmt.Fprintf(&got, "%s\n%x\n", s.record, hash[:])
		back, err := DecodeRecord(s.record)
		if err != nil {
			t.Fatal(err)
		}
		if again := backstay.Canonical(back); !bytes.Equal(again, s.record) {
			t.Errorf("decoded and encoded again: got %s, want %s", again, s.record)
		}
		if len(s.salt) != saltSize || bytes.Equal(s.salt, all[0].salt) != (s.hash == all[0].hash) {
			t.Errorf("salt: got %x", s.salt)
		}
	}
	golden(t, "entry_v1.golden", got.Bytes())
}

// TestSchemaFormat freezes the tables of each version: a change is a new
// version with its own statements. Both dialects have the same tables.
func TestSchemaFormat(t *testing.T) {
	t.Parallel()
	shape := func(dialect string) string {
		files, err := filepath.Glob(filepath.Join(dialect, "schema", "*.sql"))
		if err != nil || len(files) != SchemaVersion {
			t.Fatalf("schema files of %s: %v, %v; want one per version, %d", dialect, files, err, SchemaVersion)
		}
		var b strings.Builder
		for _, f := range files {
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&b, "-- %s\n%s", filepath.Base(f), text)
		}
		return b.String()
	}
	lite, post := shape("sqlite"), shape("postgres")
	same := strings.NewReplacer("BYTEA", "BLOB", ` COLLATE "C"`, "", "BIGINT PRIMARY KEY", "INTEGER PRIMARY KEY")
	plain := regexp.MustCompile(`(?m)\) WITHOUT ROWID;$`)
	bigint := strings.NewReplacer("BIGINT PRIMARY KEY", "INTEGER PRIMARY KEY")
	if diff := cmp.Diff(bigint.Replace(plain.ReplaceAllString(lite, ");")), same.Replace(post)); diff != "" {
		t.Errorf("the dialects' tables differ (-sqlite +postgres):\n%s", diff)
	}
	golden(t, "schema_sqlite.golden", []byte(lite))
	golden(t, "schema_postgres.golden", []byte(post))
}

func FuzzDecodeRecord(f *testing.F) {
	for _, seed := range []string{
		`{"v":1,"deployment":"d","n":1,"kind":"intent","at":"2026-03-04T05:06:07Z","body":{"before":{}}}`,
		`{"v":1,"kind":"note","at":"2026-03-04T05:06:07Z"}`,
		`{"v":2,"kind":"new","new":{"a":1},"at":"0001-01-01T00:00:00Z"}`,
		`{"v":1,"deployment":"d","n":0,"kind":"x"}`, `{"v":1e400}`, `[]`, `null`, ``, "\xff", `{"v":1,"kind":"a","body":"\ud800"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, record []byte) {
		e, err := DecodeRecord(record)
		if err != nil {
			return
		}
		if !json.Valid(record) || e.V < 1 || e.Kind == "" || e.N < 0 || (e.N == 0) != (e.Deployment == "") {
			t.Fatalf("%q was taken as %+v", record, e)
		}
		if y := e.At.Year(); y < 0 || y > 9999 {
			t.Fatalf("%q has a time that cannot be written again: %v", record, e.At)
		}
		again := backstay.Canonical(e)
		back, err := DecodeRecord(again)
		if err != nil {
			t.Fatalf("%q was decoded, its canonical form %q is not: %v", record, again, err)
		}
		if third := backstay.Canonical(back); !bytes.Equal(again, third) {
			t.Fatalf("canonical form is not stable: %q, then %q", again, third)
		}
	})
}
