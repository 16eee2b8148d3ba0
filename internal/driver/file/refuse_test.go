package file_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/drivertest"
)

// declaration is a function of the bed, as its paths are known only then.
type declaration func(t *testing.T, b bed) map[string]any

func plain(kv ...any) declaration {
	return func(_ *testing.T, b bed) map[string]any {
		cfg := map[string]any{"path": b.target + "/f"}
		for i := 0; i < len(kv); i += 2 {
			key, ok := kv[i].(string)
			if !ok {
				panic("keys are strings")
			}
			cfg[key] = kv[i+1]
		}
		return cfg
	}
}

func at(path string) declaration { return plain("path", path, "content", "x") }

func after(cfg declaration, setup func(t *testing.T, b bed)) declaration {
	return func(t *testing.T, b bed) map[string]any {
		t.Helper()
		setup(t, b)
		return cfg(t, b)
	}
}

// TestPrepareRefuses: each hostile or mistaken declaration is refused with a
// problem at the right key, and nothing is touched.
func TestPrepareRefuses(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		cfg  declaration
		key  string // of a problem
		says string // in its message or hint
	}{
		{"relative path", at("etc/f"), "path", "not absolute"},
		{"no path", at(""), "path", "empty"},
		{"the root", at("/"), "path", "whole host"},
		{"dots", at("/tmp/../etc/f"), "path", `"/etc/f"`},
		{"trailing slash", at("/tmp/f/"), "path", "not clean"},
		{"NUL", at("/tmp/a\x00b"), "path", "U+0000"},
		{"newline", at("/tmp/a\nb"), "path", "U+000A"},
		{"escape sequence", at("/tmp/\x1b[31m"), "path", "U+001B"},
		{"bidi control", at("/tmp/a\u202eb"), "path", "U+202E"},
		{"overlong name", at("/tmp/" + strings.Repeat("n", 256)), "path", "256 bytes"},
		{"overlong path", at("/" + strings.Repeat("n/", 2100) + "n"), "path", "too long"},
		{"proc", at("/proc/sys/kernel/hostname"), "path", "/proc"},
		{"device directory", at("/dev/null"), "path", "/dev"},
		{"Backstay's state", func(_ *testing.T, b bed) map[string]any {
			return map[string]any{"path": b.data + "/ledger.db", "content": "x"}
		}, "path", "own state"},
		{"Backstay's state from above", func(_ *testing.T, b bed) map[string]any {
			return map[string]any{"path": filepath.Dir(b.data), "absent": true, "prune": true}
		}, "path", "own state"},
		{"no source", plain(), "", "says not"},
		{"two sources", plain("content", "x", "symlink", "y"), "symlink", "exclude"},
		{"unknown key", plain("content", "x", "contnet", "y"), "", "contnet"},
		{"octal number", plain("content", "x", "mode", 420), "mode", "quotes"},
		{"numeric owner", plain("content", "x", "owner", 33), "owner", "quotes"},
		{"no octal digits", plain("content", "x", "mode", "0999"), "mode", "no mode"},
		{"mode too large", plain("content", "x", "mode", "17777"), "mode", "no mode"},
		{"mode with symlink", plain("symlink", "x", "mode", "0644"), "mode", "means nothing"},
		{"prune without tree", plain("content", "x", "prune", true), "prune", "means nothing"},
		{"unknown owner", plain("content", "x", "owner", "no-such-user-here"), "owner", "no user"},
		{"unknown group", plain("content", "x", "group", "no-such-group-here"), "group", "no group"},
		{"absolute source", plain("from", "/etc/passwd"), "from", "absolute"},
		{"escaping source", plain("from", "../../etc/passwd"), "from", "leaves"},
		{"escaping source inside", plain("from", "a/../../x"), "from", "leaves"},
		{"escaping template", plain("template", "../x"), "template", "leaves"},
		{"escaping tree", plain("tree", ".."), "tree", "leaves"},
		{"missing source", plain("from", "missing"), "from", "no such file"},
		{"directory as source", after(plain("from", "d"), func(t *testing.T, b bed) { t.Helper(); must(t, os.Mkdir(b.spec+"/d", 0o755)) }), "from", "no plain file"},
		{"FIFO as source", after(plain("from", "p"), func(t *testing.T, b bed) { t.Helper(); must(t, unix.Mkfifo(b.spec+"/p", 0o644)) }), "from", "no plain file"},
		{"symlink out of the spec", after(plain("from", "l"), func(t *testing.T, b bed) { t.Helper(); must(t, os.Symlink("/etc/passwd", b.spec+"/l")) }), "from", "escapes"},
		{"relative symlink out of the spec", after(plain("from", "l"), func(t *testing.T, b bed) {
			t.Helper()
			put(t, filepath.Dir(b.spec)+"/outside", "x", 0o644)
			must(t, os.Symlink("../outside", b.spec+"/l"))
		}), "from", "escapes"},
		{"sparse source", after(plain("from", "s"), func(t *testing.T, b bed) {
			t.Helper()
			put(t, b.spec+"/s", "", 0o644)
			must(t, os.Truncate(b.spec+"/s", 1<<36))
		}), "from", "at most"},
		{"file as tree", after(plain("tree", "f"), func(t *testing.T, b bed) { t.Helper(); put(t, b.spec+"/f", "x", 0o644) }), "tree", "no directory"},
		{"tree through a symlink", after(plain("tree", "l/x"), func(t *testing.T, b bed) {
			t.Helper()
			must(t, os.MkdirAll(b.target+"/elsewhere/x", 0o755))
			must(t, os.Symlink(b.target+"/elsewhere", b.spec+"/l"))
		}), "tree", "symlink"},
		{"tree with a link out", after(plain("tree", "d"), func(t *testing.T, b bed) {
			t.Helper()
			put(t, b.spec+"/d/sub/f", "x", 0o644)
			must(t, os.Symlink("../../../etc/passwd", b.spec+"/d/sub/l"))
		}), "tree", "points out"},
		{"tree with an absolute link", after(plain("tree", "d"), func(t *testing.T, b bed) {
			t.Helper()
			put(t, b.spec+"/d/f", "x", 0o644)
			must(t, os.Symlink("/etc", b.spec+"/d/l"))
		}), "tree", "points out"},
		{"tree with a FIFO", after(plain("tree", "d"), func(t *testing.T, b bed) {
			t.Helper()
			put(t, b.spec+"/d/f", "x", 0o644)
			must(t, unix.Mkfifo(b.spec+"/d/p", 0o644))
		}), "tree", "fifo"},
		{"target is a directory", after(plain("content", "x"), func(t *testing.T, b bed) { t.Helper(); must(t, os.Mkdir(b.target+"/f", 0o755)) }), "path", "is a dir"},
		{"target is a symlink", after(plain("content", "x"), func(t *testing.T, b bed) { t.Helper(); must(t, os.Symlink("g", b.target+"/f")) }), "path", "points to"},
		{"target is a FIFO", after(plain("content", "x"), func(t *testing.T, b bed) { t.Helper(); must(t, unix.Mkfifo(b.target+"/f", 0o644)) }), "path", "fifo"},
		{"directory of the target is a symlink", func(t *testing.T, b bed) map[string]any {
			t.Helper()
			must(t, os.Symlink(b.spec, b.target+"/l"))
			return map[string]any{"path": b.target + "/l/f", "content": "x"}
		}, "path", "symlink"},
		{"missing directory", func(_ *testing.T, b bed) map[string]any {
			return map[string]any{"path": b.target + "/a/b/f", "content": "x"}
		}, "path", "mkdir"},
		{"absent over a full directory", after(plain("absent", true), func(t *testing.T, b bed) { t.Helper(); put(t, b.target+"/f/g", "x", 0o644) }), "absent", "prune"},
		{"tree over a file", func(t *testing.T, b bed) map[string]any {
			t.Helper()
			put(t, b.spec+"/d/x", "x", 0o644)
			put(t, b.target+"/f", "x", 0o644)
			return map[string]any{"path": b.target + "/f", "tree": "d"}
		}, "path", "is a file"},
		{"tree over a tree with other types", func(t *testing.T, b bed) map[string]any {
			t.Helper()
			put(t, b.spec+"/d/x", "x", 0o644)
			put(t, b.target+"/f/x/inside", "x", 0o644)
			return map[string]any{"path": b.target + "/f", "tree": "d"}
		}, "path", "has a file there"},
		{"symlink target with a NUL", plain("symlink", "a\x00b"), "symlink", "U+0000"},
		{"validation without the path", plain("content", "x", "validate", []string{"true"}), "validate", "{path}"},
		{"validation by a relative program", plain("content", "x", "validate", []string{"./check", "{path}"}), "validate", "relative"},
		{"validation by nothing", plain("content", "x", "validate", []string{"no-such-program-here", "{path}"}), "validate", "no program"},
		{"secret over an existing file", after(plain("content", "secret:env/KEY", "secret", true), func(t *testing.T, b bed) { t.Helper(); put(t, b.target+"/f", "x", 0o644) }), "secret", "never stored"},
		{"secret from a file", after(plain("from", "x", "secret", true), func(t *testing.T, b bed) { t.Helper(); put(t, b.spec+"/x", "x", 0o644) }), "secret", "from"},
		{"secret reference in the clear", plain("content", "secret:env/KEY"), "content", "go together"},
		{"secret in the clear", plain("content", "hunter2", "secret", true), "content", "go together"},
		{"secret that does not resolve", plain("content", "secret:env/NONE", "secret", true), "secret", "secret:env/NONE"},
		{"template with a typing error", after(plain("template", "t", "values", map[string]string{"name": "x"}), func(t *testing.T, b bed) { t.Helper(); put(t, b.spec+"/t", "{{.nome}}", 0o644) }), "template", "nome"},
		{"template value that cannot be named", after(plain("template", "t", "values", map[string]string{"a-b": "x"}), func(t *testing.T, b bed) { t.Helper(); put(t, b.spec+"/t", "", 0o644) }), "values", "a-b"},
		{"template secret without the word", after(plain("template", "t", "values", map[string]string{"a": "secret:env/KEY"}), func(t *testing.T, b bed) { t.Helper(); put(t, b.spec+"/t", "{{.a}}", 0o644) }), "secret", "go together"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t)
			req := b.request(t, tt.cfg(t, b))
			world := drivertest.Walk(t, filepath.Dir(b.spec), nil, nil)
			_, err := newKind(t).Prepare(t.Context(), req)
			var refused *backstay.RefusedError
			if !errors.As(err, &refused) {
				t.Fatalf("Prepare: %v, want a RefusedError", err)
			}
			found := false
			for _, p := range refused.Problems {
				found = found || (p.Path == tt.key && strings.Contains(p.Message+" "+p.Hint, tt.says))
			}
			if !found {
				t.Errorf("no problem at %q says %q:%s", tt.key, tt.says, drivertest.Explain(err))
			}
			if strings.Contains(drivertest.Explain(err), "canary") {
				t.Errorf("the refusal shows a secret: %s", drivertest.Explain(err))
			}
			if diff := cmp.Diff(world, drivertest.Walk(t, filepath.Dir(b.spec), nil, nil)); diff != "" {
				t.Errorf("Prepare changed the world:\n%s", diff)
			}
		})
	}
}

func TestPrepareTellsAllProblemsAtOnce(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	_, err := newKind(t).Prepare(t.Context(), b.request(t, map[string]any{
		"path": "relative", "content": "x", "mode": "abc", "owner": "no-such-user-here", "prune": true,
	}))
	var refused *backstay.RefusedError
	if !errors.As(err, &refused) || len(refused.Problems) != 4 {
		t.Errorf("Prepare: %s, want four problems", drivertest.Explain(err))
	}
}
