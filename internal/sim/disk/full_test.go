package disk_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/ledger/sqlite"
)

// deploySpec changes files in every way and then fails or not. The big file
// needs room in the ledger (its before-image) and beside itself (the new one).
const deploySpec = `backstay: v1
release: full
version: "2"
steps:
  - name: conf
    file: {path: "${WORLD}/app.conf", content: "version = 2\n"}
  - name: big
    file: {path: "${WORLD}/big", from: new/big}
  - name: tree
    file: {path: "${WORLD}/site", tree: new/site, prune: true}
  - name: script
    run: |
      cd ${WORLD}/lib
      head -c 900000 /dev/urandom > code
      rm -f legacy
      mkdir -p more
      echo three > more/code
    touches: ["${WORLD}/lib"]
  - name: last
    run: %s
    undo: "true"
    idempotent: true
`

// mountable is set by the first mount.
var mountable atomic.Bool

// small mounts a file system that is soon full.
func small(t *testing.T, mib int) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("a small file system is mounted as root only; run as root")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dm,mode=0700", mib)); err != nil {
		t.Skipf("this host does not let root mount a tmpfs: %v", err)
	}
	mountable.Store(true)
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return dir
}

// mounts reports whether this host lets us mount, as small needs it.
func mounts() bool {
	return os.Getuid() == 0 && mountable.Load()
}

// full reports whether to run everything, as CI does, or a sample that keeps
// `go test ./...` quick.
func full() bool { return os.Getenv("BACKSTAY_REAL") == "1" }

// place is where one test's things lie.
type place struct{ dir, world, state string }

func (p place) write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// stage writes a world, its spec and what is to be deployed.
func (p place) stage(t *testing.T, last string) {
	t.Helper()
	for path, text := range map[string]string{
		filepath.Join(p.dir, "backstay.yaml"):       fmt.Sprintf(deploySpec, last),
		filepath.Join(p.dir, "new/big"):             strings.Repeat("2", 700_000),
		filepath.Join(p.dir, "new/site/index.html"): "<h1>2</h1>",
		filepath.Join(p.dir, "new/site/picture"):    strings.Repeat("3", 200_000),
		filepath.Join(p.world, "app.conf"):          "version = 1\n",
		filepath.Join(p.world, "big"):               strings.Repeat("1", 700_000),
		filepath.Join(p.world, "site/index.html"):   "<h1>1</h1>",
		filepath.Join(p.world, "site/old.css"):      "black",
		filepath.Join(p.world, "lib/code"):          strings.Repeat("one\n", 100_000),
		filepath.Join(p.world, "lib/legacy"):        "old\n",
		filepath.Join(p.world, "neighbour"):         "not in scope",
	} {
		p.write(t, path, text)
	}
}

// run runs a child to its end and returns what it printed.
func (p place) run(t *testing.T, role, fill string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(os.Environ(), envRole+"="+role, envDir+"="+p.dir, envWorld+"="+p.world, envState+"="+p.state, envFill+"="+fill)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1) {
		t.Fatalf("%s child: %v\n%s", role, err, out)
	}
	if strings.Contains(string(out), "panic") {
		t.Fatalf("%s child panicked:\n%s", role, out)
	}
	return string(out)
}

// free makes room again.
func free(t *testing.T, dir string) {
	t.Helper()
	if err := os.Remove(filepath.Join(dir, ballast)); err != nil {
		t.Fatalf("the disk was not filled: %v", err)
	}
}

// picture is the oracle's own look at a folder.
func picture(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() == ballast {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		line := info.Mode().String()
		if err == nil && info.Mode().IsRegular() {
			var data []byte
			data, err = os.ReadFile(path)
			line += " " + info.ModTime().Format(time.RFC3339Nano) + " " + string(data)
		}
		out[rel] = line
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// deployment reads how the only deployment stands, and that the ledger can be read.
func (p place) deployment(t *testing.T) (ledger.Deployment, bool) {
	t.Helper()
	store, err := sqlite.OpenReadOnly(t.Context(), p.state, ledger.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	deps, err := store.List(t.Context(), ledger.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	if len(deps) == 0 {
		return ledger.Deployment{}, false
	}
	return deps[0], true
}

const failing, passing = "exit 7", "'true'"

// TestFullLedger fills the disk under the ledger at every kind of moment. The
// process stops acting with a word about space, loses nothing that was
// recorded, and once there is room again recover ends the deployment exactly.
func TestFullLedger(t *testing.T) {
	t.Parallel()
	var stopped atomic.Int64
	t.Run("at", func(t *testing.T) {
		for i, tt := range []struct {
			point string
			last  string
			want  backstay.State // after recover; "": nothing was begun
		}{
			{"create.before:1", passing, ""},
			{"intent.before:2", passing, backstay.RolledBack},
			{"do.before:2", passing, backstay.RolledBack},
			{"do.after:4", passing, backstay.RolledBack},
			{"outcome.before:2", passing, backstay.RolledBack},
			{"transition.commit.before:1", passing, backstay.Proven},
			{"transition.fail.before:1", failing, backstay.RolledBack},
			{"undo_intent.before:1", failing, backstay.RolledBack},
			{"undo.before:2", failing, backstay.RolledBack},
			{"undo.after:3", failing, backstay.RolledBack},
			{"compensation.before:2", failing, backstay.RolledBack},
			{"transition.undone.before:1", failing, backstay.RolledBack},
		} {
			if !full() && i%4 != 2 {
				continue
			}
			t.Run(tt.point, func(t *testing.T) {
				t.Parallel()
				disk := small(t, 6)
				p := place{dir: t.TempDir(), state: filepath.Join(disk, "state")}
				p.world = filepath.Join(p.dir, "world")
				p.stage(t, tt.last)
				before := picture(t, p.world)
				out := p.run(t, "deploy", tt.point+":"+disk)
				if strings.Contains(out, "error:") {
					stopped.Add(1)
					if !strings.Contains(out, "full") && !strings.Contains(out, "no space") {
						t.Errorf("the message does not say that the disk is full: %s", out)
					}
					if !strings.Contains(out, "hint: free space") || !strings.Contains(out, "backstay recover") {
						t.Errorf("the message does not say what to do: %s", out)
					}
				}
				// It can be read while the disk is still full.
				d, begun := p.deployment(t)
				if begun && d.State.Settled() && strings.Contains(out, "error:") {
					t.Errorf("it is %s, yet the process ended with %s", d.State, out)
				}
				free(t, disk)
				again := p.run(t, "recover", "")
				if strings.Contains(again, "error:") {
					t.Fatalf("recover after space was freed: %s", again)
				}
				p.judge(t, before, tt.last)
				settled := picture(t, p.world)
				p.run(t, "recover", "")
				if diff := cmp.Diff(settled, picture(t, p.world)); diff != "" {
					t.Errorf("recovering again changed the world:\n%s", diff)
				}
			})
		}
	})
	if n := stopped.Load(); mounts() && (n < 2 || full() && n < 7) {
		t.Errorf("only %d of the deployments met the full disk: the failpoints have other names now", n)
	}
}

// judge: rolled back means as before to the byte; proven means all of it.
func (p place) judge(t *testing.T, before map[string]string, last string) {
	t.Helper()
	d, begun := p.deployment(t)
	now := picture(t, p.world)
	switch {
	case !begun || d.State == backstay.RolledBack:
		if diff := cmp.Diff(before, now); diff != "" {
			t.Errorf("%s, but the world differs (-before +now):\n%.2000s", d.State, diff)
		}
	case d.State == backstay.Proven && last == passing:
		if !strings.Contains(now["app.conf"], "version = 2") || !strings.HasSuffix(now["site/index.html"], "<h1>2</h1>") || now["site/old.css"] != "" || now["lib/legacy"] != "" {
			t.Errorf("proven, but the world is not as planned")
		}
	default:
		t.Errorf("ended %s", d.State)
	}
}

// TestFullTarget fills the disk under the targets. The step fails, its undo may
// lack room as well: then the deployment is held, says exactly what is missing
// and why, and a retry after space was freed restores everything.
func TestFullTarget(t *testing.T) {
	t.Parallel()
	var held atomic.Int64
	t.Run("at", func(t *testing.T) {
		for i, tt := range []struct{ point, last string }{
			{"do.before:1", passing},
			{"do.before:2", passing},
			{"do.before:3", passing},
			{"do.before:4", passing},
			{"undo.before:1", failing},
			{"undo.before:2", failing},
			{"undo.before:4", failing},
		} {
			if !full() && i%4 != 1 {
				continue
			}
			t.Run(tt.point, func(t *testing.T) {
				t.Parallel()
				disk := small(t, 4)
				p := place{dir: t.TempDir(), world: filepath.Join(disk, "world")}
				p.state = filepath.Join(p.dir, "state")
				p.stage(t, tt.last)
				before := picture(t, p.world)
				out := p.run(t, "deploy", tt.point+":"+disk)
				if strings.Contains(out, "error:") {
					t.Fatalf("a full target stopped the engine: %s", out)
				}
				d, _ := p.deployment(t)
				switch d.State { //nolint:exhaustive // every other end is wrong
				case backstay.RolledBack:
				case backstay.Held:
					held.Add(1)
					if !strings.Contains(out, "residue: ") || !strings.Contains(out, "because of undo_failed") || !strings.Contains(out, "next: ") {
						t.Errorf("held without saying what, why and what next:\n%s", out)
					}
				default:
					t.Fatalf("ended %s on a full disk:\n%s", d.State, out)
				}
				free(t, disk)
				if again := p.run(t, "recover", ""); strings.Contains(again, "error:") || strings.Contains(again, "held") {
					t.Errorf("after space was freed: %s", again)
				}
				p.judge(t, before, failing)
			})
		}
	})
	if mounts() && held.Load() == 0 {
		t.Error("no undo met the full disk")
	}
}

// TestReadOnlyState: a state directory on a read-only file system refuses a
// deployment before anything is touched, and can still be read.
func TestReadOnlyState(t *testing.T) {
	t.Parallel()
	disk := small(t, 8)
	p := place{dir: t.TempDir(), state: filepath.Join(disk, "state")}
	p.world = filepath.Join(p.dir, "world")
	p.stage(t, passing)
	p.run(t, "deploy", "")
	if err := unix.Mount("", disk, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Skipf("this host does not remount read-only: %v", err)
	}
	before := picture(t, p.world)
	p.write(t, filepath.Join(p.dir, "new/site/index.html"), "<h1>3</h1>")
	out := p.run(t, "deploy", "")
	if !strings.Contains(out, "state refused") || !strings.Contains(out, "read-only") || !strings.Contains(out, "--state") {
		t.Errorf("got %s", out)
	}
	if diff := cmp.Diff(before, picture(t, p.world)); diff != "" {
		t.Errorf("refused, yet the world changed:\n%s", diff)
	}
	if d, _ := p.deployment(t); d.State != backstay.Proven {
		t.Errorf("the ledger cannot be read any more: %+v", d)
	}
}
