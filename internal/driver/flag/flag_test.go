package flag

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/drivertest"
	"github.com/backstay-dev/backstay/internal/flag/model"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/ledger/ledgertest"
	"github.com/backstay-dev/backstay/internal/ledger/sqlite"
)

const (
	key     = backstay.Key("flag:new-checkout")
	boolean = `{"key": "new-checkout", "on": false, "salt": "s", "variations": [true, false], "fallthrough": {"variation": 0}, "offVariation": 1}`
)

// world is a ledger with one running deployment, whose steps change flags.
type world struct {
	*ledger.Store
	lease  ledger.Lease
	writer ledger.FlagWriter
}

var _ backstay.Flags = (*world)(nil)

func newWorld(tb testing.TB, definition string, meta model.Meta) *world {
	tb.Helper()
	l, err := sqlite.OpenMemory(context.WithoutCancel(tb.Context()), ledger.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = l.Close() })
	d := ledgertest.New(tb, "shop")
	d.ID = "0190a000-0000-7000-8000-000000000001" // the suite's
	w := &world{Store: l, lease: ledgertest.Create(tb, l, d)}
	w.writer = ledger.FlagWriter{By: &backstay.FlagBy{Deployment: d.ID, Step: "s", Token: backstay.Token{Generation: 1, Epoch: w.lease.Epoch}}}
	if definition != "" {
		w.outside(tb, definition, meta, "set")
	}
	return w
}

// outside is a change by a person.
func (w *world) outside(tb testing.TB, definition string, meta model.Meta, act string) {
	tb.Helper()
	to := backstay.ResourceState{}
	if definition != "" {
		d, _, err := model.Parse(model.FlagKind, "", model.Source{Data: []byte(definition)})
		if err != nil {
			tb.Fatal(err)
		}
		to = model.State(d, meta)
	}
	w.put(tb, to, act)
}

func (w *world) put(tb testing.TB, to backstay.ResourceState, act string) {
	tb.Helper()
	now, err := w.Flag(tb.Context(), key)
	if err != nil {
		tb.Fatal(err)
	}
	change := backstay.FlagChange{Key: key, Version: now.Version, To: to, Act: act}
	if _, err := w.ChangeFlags(tb.Context(), ledger.FlagWriter{Override: true}, change); err != nil {
		tb.Fatal(err)
	}
}

// ChangeFlag is the step's way.
func (w *world) ChangeFlag(ctx context.Context, c backstay.FlagChange) (backstay.Flag, error) {
	out, err := w.ChangeFlags(ctx, w.writer, c)
	if err != nil {
		return backstay.Flag{}, err
	}
	return out[0], nil
}

func (w *world) exposure(tb testing.TB) string {
	tb.Helper()
	f, err := w.Flag(context.WithoutCancel(tb.Context()), key)
	if err != nil {
		tb.Fatal(err)
	}
	if !f.Exists() {
		return "none"
	}
	d, m, err := model.OfState(key, f.State)
	if err != nil {
		tb.Fatal(err)
	}
	return model.Exposure(d, m) + " for " + m.Release
}

func config(text string) json.RawMessage { return json.RawMessage(`{"flag": ` + text + `}`) }

func fixture(tb testing.TB, w *world, text, dir string) drivertest.Fixture {
	tb.Helper()
	return drivertest.Fixture{
		Kind:    New(time.Now),
		Request: backstay.Request{Config: config(text), Release: "shop", Dir: dir, DataDir: dir, Flags: w},
		World: func(tb testing.TB) map[string]string {
			tb.Helper()
			f, err := w.Flag(context.WithoutCancel(tb.Context()), key)
			if err != nil {
				tb.Fatal(err)
			}
			out := map[string]string{}
			for part, v := range f.State.Parts {
				out[part] = string(v)
			}
			return out
		},
	}
}

func TestConformance(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "flag.json"), []byte(boolean), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ text, definition string }{
		"a share":  {`{"key": "new-checkout", "percentage": "10%"}`, boolean},
		"turn on":  {`{"key": "new-checkout", "turn": "on", "purpose": "checkout"}`, boolean},
		"a tester": {`{"key": "new-checkout", "tester": "qa-1"}`, boolean},
		"new":      {`{"key": "new-checkout", "from": "flag.json", "percentage": "50%"}`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			drivertest.Run(t, drivertest.Suite{New: func(t *testing.T) drivertest.Fixture {
				t.Helper()
				w := newWorld(t, c.definition, model.Meta{Owner: "team"})
				f := fixture(t, w, c.text, dir)
				f.Mutations = []drivertest.Mutation{
					{Name: "killed", Apply: func(tb testing.TB) {
						tb.Helper()
						w.outside(tb, strings.Replace(boolean, `"s"`, `"t"`, 1), model.Meta{}, "kill")
					}},
					{Name: "another owner", Apply: func(tb testing.TB) { tb.Helper(); w.outside(tb, boolean, model.Meta{Owner: "others"}, "set") }},
				}
				return f
			}})
		})
	}
}

// TestSomebodyElse: what a person did meanwhile is kept, whenever it was.
func TestSomebodyElse(t *testing.T) {
	t.Parallel()
	w := newWorld(t, boolean, model.Meta{})
	tr := drivertest.NewTrial(t, fixture(t, w, `{"key": "new-checkout", "percentage": "10%"}`, t.TempDir()))
	tr.Begin(t)
	w.outside(t, strings.Replace(boolean, `"variation": 0`, `"variation": 1`, 1), model.Meta{}, "set") // after the intent
	result, err := New(time.Now).Do(t.Context(), tr.Call())
	if backstay.ClassOf(err) != backstay.Conflict || !result.Untouched || w.exposure(t) != "off: false for " {
		t.Errorf("a do over somebody's change: got %+v, %v; the flag is %s", result, err, w.exposure(t))
	}
	w = newWorld(t, boolean, model.Meta{})
	tr = drivertest.NewTrial(t, fixture(t, w, `{"key": "new-checkout", "percentage": "10%"}`, t.TempDir()))
	tr.Begin(t)
	if err := tr.Do(t.Context()); err != nil {
		t.Fatal(err)
	}
	call := tr.Call()
	call.After, call.Restore = tr.Observe(t, false), map[backstay.Key][]string{key: {backstay.FlagDefinition, backstay.FlagMeta}}
	w.outside(t, strings.Replace(boolean, `"s"`, `"other"`, 1), model.Meta{}, "kill") // after the undo was decided
	killed, err := w.Flag(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(time.Now).Undo(t.Context(), call); err != nil {
		t.Fatal(err)
	}
	if now, err := w.Flag(t.Context(), key); err != nil || now.Version != killed.Version {
		t.Errorf("the undo wrote over a kill: %+v, %v", now, err)
	}
}

// TestStale: a step whose deployment somebody else drives by now changes nothing.
func TestStale(t *testing.T) {
	t.Parallel()
	w := newWorld(t, boolean, model.Meta{})
	tr := drivertest.NewTrial(t, fixture(t, w, `{"key": "new-checkout", "percentage": "10%"}`, t.TempDir()))
	tr.Begin(t)
	if _, err := w.Claim(t.Context(), w.lease.Deployment); err != nil {
		t.Fatal(err)
	}
	if err := tr.Do(t.Context()); !errors.Is(err, ledger.ErrFenced) || w.exposure(t) != "off: false for " {
		t.Errorf("got %v; the flag is %s", err, w.exposure(t))
	}
}

func TestWarnings(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		text, act string
		meta      model.Meta
		later     time.Duration
		want      []string
	}{
		"nothing":         {text: `{"key": "new-checkout", "turn": "on"}`, meta: model.Meta{Release: "shop", Purpose: "checkout"}},
		"another release": {text: `{"key": "new-checkout", "turn": "on"}`, meta: model.Meta{Release: "payments"}, want: []string{"flag new-checkout was last moved by release payments: make sure that it still means the same"}},
		"another purpose": {text: `{"key": "new-checkout", "turn": "on", "purpose": "power peg"}`, meta: model.Meta{Purpose: "smars"}, want: []string{`flag new-checkout was for "smars" and is used for "power peg": a flag that is reused wakes up what it once was for; take a new key`}},
		"asleep":          {text: `{"key": "new-checkout", "percentage": "1%"}`, later: 100 * 24 * time.Hour, want: []string{"flag new-checkout has been off and unchanged for 100 days: make sure that no old code waits behind it"}},
		"asleep, off":     {text: `{"key": "new-checkout", "turn": "off"}`, later: 100 * 24 * time.Hour},
		"killed":          {text: `{"key": "new-checkout", "turn": "on"}`, act: "kill", want: []string{"flag new-checkout was killed on"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, "", model.Meta{})
			w.outside(t, boolean, c.meta, c.act)
			p, err := New(func() time.Time { return time.Now().Add(c.later) }).Prepare(t.Context(), backstay.Request{Config: config(c.text), Release: "shop", Flags: w})
			if err != nil {
				t.Fatal(err)
			}
			if len(p.Warnings) != len(c.want) {
				t.Fatalf("got %q, want %q", p.Warnings, c.want)
			}
			for i := range c.want {
				if !strings.HasPrefix(p.Warnings[i], c.want[i]) {
					t.Errorf("got %q, want %q", p.Warnings[i], c.want[i])
				}
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "bad.json"), []byte("{\"key\": \"new-checkout\",\n \"variations\": [null]}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "link.json")); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, boolean, model.Meta{})
	for text, want := range map[string]string{
		`{"key": "none", "turn": "on"}`:                                               `flag.key: there is no flag "none"`,
		`{"key": "../x", "turn": "on"}`:                                               `flag.key: "../x" is not a key`,
		`{"key": "new-checkout"}`:                                                     "flag.key: nothing says what to do",
		`{"key": "new-checkout", "turn": "on", "percentage": "1%"}`:                   "flag.key: the step has several of",
		`{"key": "new-checkout", "variant": "blue"}`:                                  `flag: flag new-checkout has no variant "blue"`,
		`{"key": "new-checkout", "from": "bad.json"}`:                                 "2:17: variations[0]: is null",
		`{"key": "new-checkout", "from": "../bad.json"}`:                              "flag.from:",
		`{"key": "new-checkout", "from": "/etc/passwd"}`:                              "flag.from: is an absolute path",
		`{"key": "new-checkout", "from": "link.json"}`:                                "flag.from:",
		`{"key": "new-checkout", "through": [{"weight": 10}, {"weight": 5}]}`:         "flag.through: through[1]: 5% does not follow 10%",
		`{"key": "new-checkout", "turn": "off", "test": {"as": "q", "gates": ["a"]}}`: "flag.test: there is nothing to try",
	} {
		_, err := New(time.Now).Prepare(t.Context(), backstay.Request{Config: config(strings.NewReplacer(`"weight": 10`, `"weight": "10%"`, `"weight": 5`, `"weight": "5%"`).Replace(text)), Release: "shop", Dir: dir, Flags: w})
		refused, ok := errors.AsType[*backstay.RefusedError](err)
		if !ok || !strings.Contains(refused.Problems[0].String(), want) {
			t.Errorf("%s: got %v, want %s", text, err, want)
		}
	}
}

func TestExplain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, boolean, model.Meta{})
	d := New(time.Now)
	p, err := d.Prepare(t.Context(), backstay.Request{Config: config(`{"key": "new-checkout", "percentage": 0.5, "variant": "true"}`), Release: "shop", Flags: w})
	if err != nil {
		t.Fatal(err)
	}
	got, err := d.Explain(backstay.Step{Prepared: p})
	if diff := cmp.Diff("backstay flag set new-checkout --percentage 0.5% --variant true --reason 'by hand'", got.Do[0].Line); err != nil || diff != "" {
		t.Errorf("(-want +got): %v\n%s", err, diff)
	}
}
