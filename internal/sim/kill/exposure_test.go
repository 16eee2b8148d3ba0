package kill_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/audit"
	"github.com/backstay-dev/backstay/internal/config"
	"github.com/backstay-dev/backstay/internal/flag/model"
	"github.com/backstay-dev/backstay/internal/ledger"
)

// exposureSpec exposes a flag of the ledger's own store and one in a file of
// flagd's, by shares with a gate between them. The last step fails or not.
const exposureSpec = `backstay: v1
release: exposed
stores:
  file: {flagd: "${WORLD}/flags.json"}
gates:
  good: {run: "true", every: 5ms}
steps:
  - name: own
    flag: {key: new-checkout, through: [10%%, 50%%, 100%%], gates: [good], test: {as: qa-1, gates: [good]}}
  - name: theirs
    flag: {store: file, key: new-cart, through: [10%%, 50%%, 100%%], gates: [good]}
  - name: last
    run: %s
    undo: "true"
    idempotent: true
`

const (
	exposedKey  = backstay.Key("flag:new-checkout")
	exposedFlag = `{"key": "new-checkout", "on": false, "salt": "s", "variations": [true, false], "fallthrough": {"variation": 0}, "offVariation": 1}`
	exposedFile = `{
  "flags": {
    "neighbour": {"state": "ENABLED",  "variants": {"a": 1}, "defaultVariant": "a"},
    "new-cart": {"state": "DISABLED", "variants": {"on": true, "off": false}, "defaultVariant": "off"}
  }
}
`
)

// stageExposure writes both flags and the spec, and returns the folder.
func stageExposure(t *testing.T, failing bool) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "world"), 0o750); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"backstay.yaml": fmt.Sprintf(exposureSpec, lastStep(failing)), "world/flags.json": exposedFile} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	store, err := openStore(t.Context(), filepath.Join(dir, "state"), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	d, _, err := model.Parse(model.FlagKind, "", model.Source{Data: []byte(exposedFlag)})
	if err != nil {
		t.Fatal(err)
	}
	change := backstay.FlagChange{Key: exposedKey, To: model.State(d, model.Meta{Owner: "team"}), Act: "set"}
	if _, err := store.ChangeFlags(t.Context(), ledger.FlagWriter{}, change); err != nil {
		t.Fatal(err)
	}
	return dir
}

// exposed reads both flags: what they give, the file whole.
func exposed(t *testing.T, dir string) (own, file string, state backstay.State) {
	t.Helper()
	store, err := openStore(t.Context(), filepath.Join(dir, "state"), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	f, err := store.Flag(t.Context(), exposedKey)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "world", "flags.json"))
	if err != nil {
		t.Fatal(err)
	}
	deps, err := store.List(t.Context(), ledger.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	if len(deps) > 0 {
		state = deps[0].State
	}
	key, err := config.LoadOrCreateKey(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	// Nothing is signed: what is proven is that the flags' changes are a chain.
	r, err := audit.Verify(t.Context(), store, audit.Options{PublicKeys: []string{key.Public}})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range r.Problems {
		t.Errorf("audit: %s: %s", p.Code, p.Message)
	}
	return string(backstay.Canonical(f.State)), string(text), state
}

// TestKilledExposing kills a deployment that exposes flags at every point, and its
// recovery too: in the end both flags are with everybody, or as they were.
func TestKilledExposing(t *testing.T) {
	t.Parallel()
	hit := map[bool]map[string]int{}
	var after [2]string
	for _, failing := range []bool{false, true} {
		dir := stageExposure(t, failing)
		file := filepath.Join(dir, "hits")
		cmd, out := launch(t, "deploy", dir, filepath.Join(dir, "state"), envHits+"="+file)
		if err := cmd.Wait(); err != nil {
			t.Fatalf("the undisturbed deployment: %v, %s", err, out)
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		hit[failing] = map[string]int{}
		for at := range strings.FieldsSeq(string(text)) {
			hit[failing][at]++
		}
		if !failing {
			after[0], after[1], _ = exposed(t, dir)
		}
	}
	n := 0
	for _, point := range points() {
		for _, failing := range []bool{false, true} {
			for nth := 1; nth <= hit[failing][point]; nth++ {
				if n++; !full() && n%37 != 0 || full() && !*nightFlag && n%7 != 0 {
					continue
				}
				t.Run(fmt.Sprintf("%s/%d/failing=%v", point, nth, failing), func(t *testing.T) {
					t.Parallel()
					crashExposing(t, fmt.Sprintf("%s:%d", point, nth), failing, after)
				})
			}
		}
	}
	t.Logf("%d points", n)
}

func crashExposing(t *testing.T, point string, failing bool, after [2]string) {
	t.Helper()
	dir := stageExposure(t, failing)
	state := filepath.Join(dir, "state")
	before, _, _ := exposed(t, dir)
	if _, killed := spawn(t, "deploy", dir, state, point, 0); killed {
		spawn(t, "recover", dir, state, point, 0)
		settle(t, dir, state)
	}
	own, file, end := exposed(t, dir)
	want := [2]string{before, exposedFile}
	if end == backstay.Proven && !failing {
		want = after
	} else if end != backstay.RolledBack && end != "" {
		t.Errorf("ended %s", end)
	}
	// The release that moved a flag last is said about it; a rollback takes that back too.
	if diff := cmp.Diff(want, [2]string{own, file}); diff != "" {
		t.Errorf("%s, but the flags differ (-want +now):\n%s", end, diff)
	}
	settle(t, dir, state)
	if again, text, _ := exposed(t, dir); again != own || text != file {
		t.Errorf("recovering again changed a flag: %s\n%s", again, text)
	}
}
