package file_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/drivertest"
	"github.com/backstay-dev/backstay/internal/driver/file"
)

// bed is a directory with a spec side and a target side.
type bed struct {
	spec, target, data string
}

func newBed(t *testing.T) bed {
	t.Helper()
	return bedIn(t, t.TempDir())
}

func bedIn(t *testing.T, base string) bed {
	t.Helper()
	b := bed{spec: filepath.Join(base, "spec"), target: filepath.Join(base, "target"), data: filepath.Join(base, "data")}
	for _, dir := range []string{b.spec, b.target, b.data} {
		must(t, os.Mkdir(dir, 0o755))
	}
	return b
}

// put writes a file with an old time, so that a changed time shows.
func put(tb testing.TB, path, content string, mode os.FileMode) {
	tb.Helper()
	must(tb, os.MkdirAll(filepath.Dir(path), 0o755))
	must(tb, os.WriteFile(path, []byte(content), 0o600))
	must(tb, os.Chmod(path, mode))
	old := time.Unix(1_600_000_000, 123_456_789)
	must(tb, os.Chtimes(path, old, old))
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func newKind(tb testing.TB) *file.Kind {
	tb.Helper()
	k, err := file.New(func() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 999, time.UTC) })
	must(tb, err)
	return k
}

// secrets resolves from a map.
type secrets map[string]string

func (s secrets) Resolve(ref string) (string, error) {
	if v, ok := s[ref]; ok {
		return v, nil
	}
	return "", fmt.Errorf("no such secret")
}

func (b bed) request(tb testing.TB, cfg map[string]any) backstay.Request {
	tb.Helper()
	raw, err := json.Marshal(cfg)
	must(tb, err)
	return backstay.Request{
		ID: "1-file", Config: raw, Dir: b.spec, DataDir: b.data, Release: "shop", Blobs: drivertest.NewBlobs(),
		Secrets: secrets{"secret:env/PASSWORD": "hunter2-canary", "secret:env/KEY": "key-canary\n"},
	}
}

// fixture looks at the target side. The time of the directory that holds the
// keyed path is nobody's state.
func (b bed) fixture(t *testing.T, cfg map[string]any) drivertest.Fixture {
	t.Helper()
	keyed, ok := cfg["path"].(string)
	if !ok {
		t.Fatal("no path")
	}
	return drivertest.Fixture{
		Kind: newKind(t), Request: b.request(t, cfg),
		World: func(tb testing.TB) map[string]string {
			tb.Helper()
			return drivertest.Walk(tb, b.target, nil, func(rel string) bool {
				return strings.HasPrefix(filepath.Join(b.target, rel), keyed)
			})
		},
		Spoil: func(tb testing.TB) { tb.Helper(); must(tb, os.RemoveAll(b.spec)) },
		Leftovers: func(tb testing.TB) []string {
			tb.Helper()
			found, err := filepath.Glob(filepath.Join(b.target, ".backstay-*"))
			must(tb, err)
			return found
		},
		Canaries: []string{"hunter2-canary", "key-canary"},
	}
}

func TestConformance(t *testing.T) {
	t.Parallel()
	shapes := []struct {
		name  string
		setup func(t *testing.T, b bed) map[string]any
		// replaced says that an outsider may overwrite the path in the mutations.
		existing bool
	}{
		{"from, replacing", func(t *testing.T, b bed) map[string]any {
			t.Helper()
			put(t, b.spec+"/config/shop.conf", "new", 0o644)
			put(t, b.target+"/shop.conf", "old", 0o640)
			return map[string]any{"path": b.target + "/shop.conf", "from": "config/shop.conf"}
		}, true},
		{"from, creating", func(t *testing.T, b bed) map[string]any {
			t.Helper()
			put(t, b.spec+"/run.sh", "#!/bin/sh\n", 0o755)
			return map[string]any{"path": b.target + "/run.sh", "from": "run.sh"}
		}, false},
		{"content, same content and other mode", func(t *testing.T, b bed) map[string]any {
			t.Helper()
			put(t, b.target+"/f", "same", 0o644)
			return map[string]any{"path": b.target + "/f", "content": "same", "mode": "0600"}
		}, true},
		{"content, already there", func(t *testing.T, b bed) map[string]any {
			t.Helper()
			put(t, b.target+"/f", "same", 0o644)
			return map[string]any{"path": b.target + "/f", "content": "same"}
		}, true},
		{"content, emptied", func(t *testing.T, b bed) map[string]any {
			t.Helper()
			put(t, b.target+"/f", "old", 0o644)
			return map[string]any{"path": b.target + "/f", "content": ""}
		}, true},
		{"template with validation", func(t *testing.T, b bed) map[string]any {
			t.Helper()
			put(t, b.spec+"/x.tmpl", "{{if eq .env \"prod\"}}workers={{.workers}}{{end}}", 0o644)
			put(t, b.target+"/f", "old", 0o644)
			return map[string]any{
				"path": b.target + "/f", "template": "x.tmpl", "values": map[string]string{"env": "prod", "workers": "8"},
				"validate": []string{"grep", "-q", "^workers=8$", "{path}"},
			}
		}, true},
		{"mkdir", func(t *testing.T, b bed) map[string]any {
			t.Helper()
			return map[string]any{"path": b.target + "/a/b/c/f", "content": "x", "mkdir": true}
		}, false},
		{"symlink, moving", func(t *testing.T, b bed) map[string]any {
			t.Helper()
			must(t, os.Symlink("releases/1", b.target+"/current"))
			return map[string]any{"path": b.target + "/current", "symlink": "releases/2"}
		}, true},
		{"symlink, replacing a file", func(t *testing.T, b bed) map[string]any {
			t.Helper()
			put(t, b.target+"/f", "old", 0o644)
			return map[string]any{"path": b.target + "/f", "symlink": "elsewhere"}
		}, true},
		{"absent file", func(t *testing.T, b bed) map[string]any {
			t.Helper()
			put(t, b.target+"/f", "old", 0o604)
			return map[string]any{"path": b.target + "/f", "absent": true}
		}, true},
		{"absent tree", func(t *testing.T, b bed) map[string]any {
			t.Helper()
			oldSite(t, b)
			return map[string]any{"path": b.target + "/site", "absent": true, "prune": true}
		}, false},
		{"tree, creating", func(t *testing.T, b bed) map[string]any {
			t.Helper()
			newSite(t, b)
			return map[string]any{"path": b.target + "/site", "tree": "dist"}
		}, false},
		{"tree, over an old one", func(t *testing.T, b bed) map[string]any {
			t.Helper()
			newSite(t, b)
			oldSite(t, b)
			return map[string]any{"path": b.target + "/site", "tree": "dist"}
		}, false},
		{"tree, pruning", func(t *testing.T, b bed) map[string]any {
			t.Helper()
			newSite(t, b)
			oldSite(t, b)
			return map[string]any{"path": b.target + "/site", "tree": "dist", "prune": true}
		}, false},
		{"tree, in new directories", func(t *testing.T, b bed) map[string]any {
			t.Helper()
			newSite(t, b)
			return map[string]any{"path": b.target + "/x/y/site", "tree": "dist", "mkdir": true}
		}, false},
		{"secret content", func(t *testing.T, b bed) map[string]any {
			t.Helper()
			return map[string]any{"path": b.target + "/key", "content": "secret:env/KEY", "secret": true}
		}, false},
		{"secret template in a new directory", func(t *testing.T, b bed) map[string]any {
			t.Helper()
			put(t, b.spec+"/x.tmpl", "{{.user}}:{{.password}}", 0o644)
			return map[string]any{
				"path": b.target + "/new/f", "template": "x.tmpl", "secret": true, "mkdir": true,
				"values": map[string]string{"user": "shop", "password": "secret:env/PASSWORD"},
			}
		}, false},
	}
	for _, shape := range shapes {
		t.Run(shape.name, func(t *testing.T) {
			t.Parallel()
			drivertest.Run(t, drivertest.Suite{MaxCuts: 200, New: func(t *testing.T) drivertest.Fixture {
				t.Helper()
				b := bedIn(t, drivertest.Scratch(t))
				cfg := shape.setup(t, b)
				f := b.fixture(t, cfg)
				if shape.existing {
					f.Mutations = overwrites(fmt.Sprint(cfg["path"]))
				}
				return f
			}})
		})
	}
}

// overwrites are what an outsider can do to an existing file.
func overwrites(path string) []drivertest.Mutation {
	return []drivertest.Mutation{
		{Name: "removed", Apply: func(tb testing.TB) { tb.Helper(); must(tb, os.Remove(path)) }},
		{Name: "replaced by a directory", Apply: func(tb testing.TB) {
			tb.Helper()
			must(tb, os.Remove(path))
			must(tb, os.Mkdir(path, 0o755))
		}},
		{Name: "replaced by a symlink", Apply: func(tb testing.TB) {
			tb.Helper()
			must(tb, os.Remove(path))
			must(tb, os.Symlink("/etc/passwd", path))
		}},
		{Name: "replaced by another file", Apply: func(tb testing.TB) {
			tb.Helper()
			must(tb, os.Remove(path))
			put(tb, path, "outsider", 0o644)
		}},
	}
}

func newSite(t *testing.T, b bed) {
	t.Helper()
	put(t, b.spec+"/dist/index.html", "new", 0o644)
	put(t, b.spec+"/dist/same.css", "same", 0o644)
	put(t, b.spec+"/dist/bin/tool", "#!/bin/sh\n", 0o755)
	put(t, b.spec+"/dist/deep/er/f", "f", 0o644)
	must(t, os.Symlink("../index.html", b.spec+"/dist/bin/link"))
}

func oldSite(t *testing.T, b bed) {
	t.Helper()
	put(t, b.target+"/site/index.html", "old", 0o640)
	put(t, b.target+"/site/same.css", "same", 0o644)
	put(t, b.target+"/site/uploads/photo", "theirs", 0o600)
	put(t, b.target+"/site/deep/other", "theirs", 0o600)
	old := time.Unix(1_500_000_000, 42)
	for _, dir := range []string{"/site/deep", "/site/uploads", "/site"} {
		must(t, os.Chtimes(b.target+dir, old, old))
	}
}
