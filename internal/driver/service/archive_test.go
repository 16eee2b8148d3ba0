package service

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay/internal/driver/drivertest"
)

// entry is one entry of an archive under test.
type entry struct {
	name string
	kind byte // of tar
	body string
	mode int64
}

func tarOf(tb testing.TB, entries []entry) []byte {
	tb.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Typeflag: e.kind, Mode: max(e.mode, 0o644)}
		switch e.kind {
		case tar.TypeReg:
			h.Size = int64(len(e.body))
		case tar.TypeSymlink, tar.TypeLink:
			h.Linkname = e.body
		}
		if err := w.WriteHeader(h); err != nil {
			tb.Fatal(err)
		}
		if e.kind == tar.TypeReg {
			if _, err := io.WriteString(w, e.body); err != nil {
				tb.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

func gzipOf(tb testing.TB, b []byte) []byte {
	tb.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		tb.Fatal(err)
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return out.Bytes()
}

func zipOf(tb testing.TB, entries []entry) []byte {
	tb.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, e := range entries {
		h := &zip.FileHeader{Name: e.name, Method: zip.Deflate}
		mode := fs.FileMode(max(e.mode, 0o644))
		switch e.kind {
		case tar.TypeSymlink:
			mode = fs.ModeSymlink | 0o777
		case tar.TypeDir:
			mode = fs.ModeDir | 0o755
			h.Name = strings.TrimSuffix(h.Name, "/") + "/"
		case tar.TypeFifo:
			mode = fs.ModeNamedPipe | 0o644
		case tar.TypeChar:
			mode = fs.ModeDevice | fs.ModeCharDevice | 0o644
		}
		h.SetMode(mode)
		f, err := w.CreateHeader(h)
		if err != nil {
			tb.Fatal(err)
		}
		if e.kind == tar.TypeReg || e.kind == tar.TypeSymlink {
			if _, err := io.WriteString(f, e.body); err != nil {
				tb.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

// testLimits are small, to be quick.
func testLimits() limits { return limits{files: 500, bytes: 8 << 20, ratio: 100, free: 1 << 20} }

// unpackTo unpacks into an empty directory inside a guarded one, and returns
// what is in the guarded one.
func unpackTo(tb testing.TB, f format, archive []byte) (map[string]string, error) {
	tb.Helper()
	guarded := tb.TempDir()
	dir := filepath.Join(guarded, "release")
	if err := os.Mkdir(dir, 0o755); err != nil {
		tb.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		tb.Fatal(err)
	}
	err = unpack(tb.Context(), f, bytes.NewReader(archive), int64(len(archive)), testLimits(), root)
	if closeErr := root.Close(); closeErr != nil {
		tb.Fatal(closeErr)
	}
	found := map[string]string{}
	walkErr := filepath.WalkDir(guarded, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(guarded, p)
		info, err := e.Info()
		if err != nil {
			return err
		}
		switch {
		case info.Mode().IsRegular():
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			found[rel] = fmt.Sprintf("%o %s", info.Mode().Perm(), b)
		case info.Mode().Type() == fs.ModeSymlink:
			found[rel], _ = os.Readlink(p)
		}
		return nil
	})
	if walkErr != nil {
		tb.Fatal(walkErr)
	}
	return found, err
}

func TestUnpack(t *testing.T) {
	t.Parallel()
	entries := []entry{
		{name: "./", kind: tar.TypeDir},
		{name: "bin/web", kind: tar.TypeReg, body: "program", mode: 0o4777},
		{name: "bin/", kind: tar.TypeDir},
		{name: "conf/a.conf", kind: tar.TypeReg, body: "a"},
		{name: "current", kind: tar.TypeSymlink, body: "conf/a.conf"},
		{name: "bin/up", kind: tar.TypeSymlink, body: "../conf"},
	}
	want := map[string]string{
		"release/bin/web": "555 program", "release/conf/a.conf": "444 a",
		"release/current": "conf/a.conf", "release/bin/up": "../conf",
	}
	archives := map[string][]byte{"a.tar": tarOf(t, entries), "a.tgz": gzipOf(t, tarOf(t, entries)), "a.ZIP": zipOf(t, entries[1:])}
	for name, archive := range archives {
		f := formatOf(name)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if err := inspect(t.Context(), f, bytes.NewReader(archive), int64(len(archive)), testLimits()); err != nil {
				t.Errorf("inspect: %v", err)
			}
			got, err := unpackTo(t, f, archive)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("unpacked (-want +got):\n%s", diff)
			}
		})
	}
}

func TestUnpackRefuses(t *testing.T) {
	t.Parallel()
	file := func(name string) entry { return entry{name: name, kind: tar.TypeReg, body: "x"} }
	link := func(name, target string) entry { return entry{name: name, kind: tar.TypeSymlink, body: target} }
	many := make([]entry, 0, testLimits().files+1)
	for i := range testLimits().files + 1 {
		many = append(many, entry{name: fmt.Sprintf("f%d", i), kind: tar.TypeReg})
	}
	tests := []struct {
		name    string
		entries []entry
		says    string
		late    bool // only unpacking sees it
		tarOnly bool
	}{
		{"slip", []entry{file("../evil")}, "leads out", false, false},
		{"slip in the middle", []entry{file("a/../../evil")}, "leads out", false, false},
		{"slip that comes back", []entry{file("a/../b")}, "leads out", false, false},
		{"absolute", []entry{file("/tmp/evil")}, "absolute", false, false},
		{"drive", []entry{file(`C:\evil`)}, "another operating system", false, false},
		{"backslashes", []entry{file(`..\evil`)}, "another operating system", false, false},
		{"control character", []entry{file("a\nb")}, "not printable", false, false},
		{"duplicate", []entry{file("a"), file("a")}, "occurs twice", false, false},
		{"duplicate by spelling", []entry{file("a/b"), file("a/./b")}, "occurs twice", false, false},
		{"file and directory", []entry{file("a/b"), file("a")}, "occurs twice", false, false},
		{"below a file", []entry{file("a"), file("a/b")}, "no directory", false, false},
		{"link to an absolute path", []entry{link("a", "/etc/passwd")}, "leads out of the archive", false, false},
		{"link that leaves", []entry{link("a", "../../etc")}, "leads out of the archive", false, false},
		{"file below a link", []entry{{name: "d", kind: tar.TypeDir}, link("a", "d"), file("a/b")}, "no directory", false, false},
		{"link replaced by a file", []entry{link("a", "b"), file("a")}, "occurs twice", false, false},
		{"link that leaves by another", []entry{{name: "d", kind: tar.TypeDir}, link("d/x", ".."), link("y", "d/x/../..")}, "leads", true, false},
		{"link to nothing", []entry{link("a", "none"), file("b")}, "leads nowhere", true, false},
		{"link loop", []entry{link("a", "b"), link("b", "a")}, "leads nowhere", true, false},
		{"FIFO", []entry{{name: "p", kind: tar.TypeFifo}}, "neither file", false, false},
		{"device", []entry{{name: "p", kind: tar.TypeChar}}, "neither file", false, false},
		{"hard link", []entry{file("a"), {name: "b", kind: tar.TypeLink, body: "a"}}, "hard link", false, true},
		{"too many files", many, "more than", false, false},
		{"bomb", []entry{{name: "zeros", kind: tar.TypeReg, body: strings.Repeat("\x00", int(testLimits().free)+1)}}, "out of proportion", false, false},
		{"bomb in pieces", []entry{
			{name: "a", kind: tar.TypeReg, body: strings.Repeat("\x00", int(testLimits().free)/2)},
			{name: "b", kind: tar.TypeReg, body: strings.Repeat("\x00", int(testLimits().free)/2+1)},
		}, "out of proportion", false, false},
		{"empty", nil, "empty", false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			archives := map[string][]byte{"a.tar.gz": gzipOf(t, tarOf(t, tt.entries))}
			if !tt.tarOnly {
				archives["a.zip"] = zipOf(t, tt.entries)
			}
			for name, archive := range archives {
				f := formatOf(name)
				err := inspect(t.Context(), f, bytes.NewReader(archive), int64(len(archive)), testLimits())
				if tt.late == (err != nil) {
					t.Errorf("%s: inspect says %v", f, err)
				}
				found, err := unpackTo(t, f, archive)
				if bad := new(unsafeError); !errors.As(err, &bad) || !strings.Contains(err.Error(), tt.says) {
					t.Errorf("%s: error %v, want a refusal that says %q", f, err, tt.says)
				}
				for p := range found {
					if !strings.HasPrefix(p, "release/") {
						t.Errorf("%s: %s was written outside", f, p)
					}
				}
			}
		})
	}
}

// A refused archive leaves neither release nor temporary files.
func TestRefusedArchiveLeavesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	archive := tarOf(t, []entry{{name: "d", kind: tar.TypeDir}, {name: "d/x", kind: tar.TypeSymlink, body: ".."}, {name: "y", kind: tar.TypeSymlink, body: "d/x/../.."}})
	config := webConfig()
	config["command"] = []string{"{release-dir}/y", "{port}"}
	f := drivertest.Fixture{Kind: New(), Request: w.request(w.file(t, "web.tar", archive), config)}
	d := &deployment{drivertest.NewTrial(t, f), "first", 1}
	if err := d.do(t); err == nil || !strings.Contains(err.Error(), "leads") {
		t.Fatalf("error %v", err)
	}
	entries, err := os.ReadDir(filepath.Join(w.data, "releases"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != ".lock" {
			t.Errorf("left: %s", e.Name())
		}
	}
}

// FuzzUnpack looks for archives that panic, or write outside their directory.
func FuzzUnpack(f *testing.F) {
	good := []entry{{name: "a/b", kind: tar.TypeReg, body: "x"}, {name: "l", kind: tar.TypeSymlink, body: "a"}}
	f.Add(0, tarOf(f, good))
	f.Add(1, gzipOf(f, tarOf(f, good)))
	f.Add(2, zipOf(f, good))
	f.Add(0, tarOf(f, []entry{{name: "../x", kind: tar.TypeReg, body: "x"}}))
	f.Fuzz(func(t *testing.T, which int, archive []byte) {
		kind := []format{tarred, gzTar, zipped}[uint(which)%3]
		found, _ := unpackTo(t, kind, archive)
		for p := range found {
			if !strings.HasPrefix(p, "release/") {
				t.Errorf("%s was written outside", p)
			}
		}
	})
}
