package flag

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
	"github.com/backstay-dev/backstay/internal/flag/model"
)

// secrets resolves one reference.
type secrets map[string]string

func (s secrets) Resolve(ref string) (string, error) {
	if v, ok := s[ref]; ok {
		return v, nil
	}
	return "", fmt.Errorf("%s is not there", ref)
}

func ownBed(tb testing.TB) *drivertest.FlagBed {
	tb.Helper()
	w := newWorld(tb, boolean, model.Meta{Owner: "team"})
	return &drivertest.FlagBed{
		Kind: New(time.Now), Flags: w,
		Look: func(tb testing.TB) (map[string]string, string) {
			tb.Helper()
			f, err := w.Flag(tb.Context(), key)
			if err != nil {
				tb.Fatal(err)
			}
			world := map[string]string{"neighbour": "none"}
			for part, v := range f.State.Parts {
				world[part] = string(v)
			}
			return world, shareOf(tb, f.State.Parts[backstay.FlagDefinition])
		},
		Overwrite: func(tb testing.TB) {
			tb.Helper()
			w.outside(tb, strings.Replace(boolean, `"on": false`, `"on": true`, 1), model.Meta{Owner: "team"}, "set")
		},
	}
}

// shareOf reads LaunchDarkly's JSON as its documentation says, not as a move does.
func shareOf(tb testing.TB, definition []byte) string {
	tb.Helper()
	var d struct {
		On          bool
		Fallthrough struct {
			Variation *int
			Rollout   struct {
				Variations []struct{ Variation, Weight int }
			}
		}
	}
	if err := json.Unmarshal(definition, &d); err != nil {
		tb.Fatal(err)
	}
	switch {
	case !d.On:
		return "off"
	case d.Fallthrough.Variation != nil:
		return fmt.Sprint(100 * (1 - *d.Fallthrough.Variation)) // 0 is true, 1 is false
	}
	for _, v := range d.Fallthrough.Rollout.Variations {
		if v.Variation == 0 {
			return fmt.Sprint(v.Weight / 1000)
		}
	}
	return "0"
}

func TestOwnStore(t *testing.T) {
	t.Parallel()
	drivertest.RunFlagStore(t, drivertest.FlagStoreSuite{Fenced: true, Compares: true, New: func(t *testing.T) *drivertest.FlagBed { t.Helper(); return ownBed(t) }})
}

const flagdFile = `{
  "$schema": "https://flagd.dev/schema/v0/flags.json",
  "flags": {
    "neighbour": { "state":"ENABLED",   "variants": {"a":1.50, "b": 2e3}, "defaultVariant": "a" },
    "new-checkout": {
      "state": "DISABLED",
      "variants": {
        "true": true,
        "false": false
      },
      "defaultVariant": "false"
    }
  },
  "metadata": {"owner":  "team"}
}
`

func flagdBed(tb testing.TB) *drivertest.FlagBed {
	tb.Helper()
	dir := tb.TempDir()
	path := filepath.Join(dir, "flags.json")
	put := func(tb testing.TB, text string) {
		tb.Helper()
		if err := os.WriteFile(path, []byte(text), 0o640); err != nil {
			tb.Fatal(err)
		}
	}
	put(tb, flagdFile)
	return &drivertest.FlagBed{
		Kind: New(time.Now), Store: map[string]any{"flagd": "flags.json"}, Dir: dir,
		Look: func(tb testing.TB) (map[string]string, string) { tb.Helper(); return lookAtFlagd(tb, path) },
		Overwrite: func(tb testing.TB) {
			tb.Helper()
			put(tb, strings.NewReplacer(`"DISABLED"`, `"ENABLED"`, `"defaultVariant": "false"`, `"defaultVariant": "true"`).Replace(flagdFile))
		},
	}
}

// lookAtFlagd reads the file as flagd's schema says. The text of the neighbours
// counts, with every space.
func lookAtFlagd(tb testing.TB, path string) (map[string]string, string) {
	tb.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		tb.Fatal(err)
	}
	var f struct {
		Flags map[string]struct {
			State          string
			DefaultVariant string
			Variants       map[string]any
			Targeting      struct{ Fractional [][2]any }
		}
		Metadata json.RawMessage
	}
	if err := json.Unmarshal(data, &f); err != nil {
		tb.Fatalf("the file is broken: %v\n%s", err, data)
	}
	world := map[string]string{"mode": info.Mode().String(), "neighbour metadata": string(f.Metadata)}
	for line := range strings.Lines(string(data)) {
		if strings.Contains(line, "neighbour") {
			world["neighbour"] = line
		}
	}
	flag := f.Flags["new-checkout"]
	world["flag"] = fmt.Sprint(flag)
	gives := ""
	switch {
	case flag.State != "ENABLED":
		return world, "off"
	case len(flag.Targeting.Fractional) > 0:
		for _, entry := range flag.Targeting.Fractional {
			if entry[0] == "true" {
				gives = fmt.Sprint(entry[1])
			}
		}
	case flag.DefaultVariant == "true":
		gives = "100"
	default:
		gives = "0"
	}
	return world, gives
}

func TestFlagd(t *testing.T) {
	t.Parallel()
	drivertest.RunFlagStore(t, drivertest.FlagStoreSuite{Compares: true, New: func(t *testing.T) *drivertest.FlagBed { t.Helper(); return flagdBed(t) }})
}

func TestStoresAreChecked(t *testing.T) {
	t.Parallel()
	d := New(time.Now)
	const ld = `"launchdarkly": "https://app.launchdarkly.com"`
	for _, c := range []struct{ store, step, want string }{
		{`{}`, `{"percentage": "10%"}`, "stores.it has to say exactly one of: flagd, launchdarkly, unleash, ofrep"},
		{`{` + ld + `, "unleash": "http://h"}`, `{"percentage": "10%"}`, "exactly one of"},
		{`{` + ld + `, "token": "secret:env/T"}`, `{"percentage": "10%"}`, "stores.it.environment is missing"},
		{`{` + ld + `, "environment": "p"}`, `{"percentage": "10%"}`, "stores.it.token is missing"},
		{`{` + ld + `, "environment": "p", "token": "api-123"}`, `{"percentage": "10%"}`, "stores.it.token is written out"},
		{`{"unleash": "https://u:p@h", "environment": "p", "token": "secret:env/T"}`, `{"percentage": "10%"}`, "holds a user name or password"},
		{`{"unleash": "file:///etc/passwd", "environment": "p", "token": "secret:env/T"}`, `{"percentage": "10%"}`, "is not an http or https URL"},
		{`{"flagd": "f.json", "token": "secret:env/T"}`, `{"percentage": "10%"}`, "stores.it.token belongs to"},
		{`{"flagd": "f.json", "project": "x"}`, `{"percentage": "10%"}`, "stores.it.project and environment belong to"},
		{`{"flagd": "f.json"}`, `{"from": "x.json"}`, "a definition is for Backstay's own store"},
		{`{"flagd": "f.json"}`, `{"percentage": "10%", "purpose": "x"}`, "a purpose is kept in Backstay's own store"},
		{`{"flagd": "f.json"}`, `{"percentage": "10%"}`, "there is no such file"},
		{`{"ofrep": "http://127.0.0.1:1"}`, `{"percentage": "10%"}`, "store it can only be read"},
		{`{` + ld + `, "environment": "p", "token": "secret:env/NONE"}`, `{"percentage": "10%"}`, "secret:env/NONE is not there"},
	} {
		w := newWorld(t, "", model.Meta{})
		var step map[string]any
		if err := json.Unmarshal([]byte(c.step), &step); err != nil {
			t.Fatal(err)
		}
		step["key"], step["store"] = "new-checkout", "it"
		_, err := d.Prepare(t.Context(), backstay.Request{
			Config: backstay.Canonical(map[string]any{"flag": step}), Flags: w, Dir: t.TempDir(), Secrets: secrets{"secret:env/T": "x"},
			Sections: map[string]json.RawMessage{"stores": json.RawMessage(`{"it": ` + c.store + `}`)},
		})
		if got := drivertest.Explain(err); !strings.Contains(got, c.want) {
			t.Errorf("%s %s: got %s, want %s", c.store, c.step, got, c.want)
		}
	}
}

// TestFlagdFiles: what is not flagd's format is refused with its place, and what a
// move cannot keep is not rewritten.
func TestFlagdFiles(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`{"flags": {"new-checkout": {"state": "ENABLED",}}}`: "line 1, column",
		"{\"flags\": {\n \"new-checkout\": []}}":             "line 2, column",
		`[]`:                                                 "want an object",
		`{"flags": {"new-checkout": {"state": "ENABLED", "state": "DISABLED"}}}`: `the key "state" stands there twice`,
		`{"flags": {"new-checkout": {}, "new-checkout": {}}}`:                    `flag "new-checkout" stands there twice`,
		`{"flags": {}} {}`:                                  "something follows",
		`{"flags": {"other": {}}}`:                          "has no such flag",
		`{"flags": {"new-checkout": {"state": "ENABLED"}}}`: "has no variants",
		`{"flags": {"new-checkout": {"variants": {"true": true, "false": false}, "targeting": {"if": [1, 2, 3]}}}}`: "targeting of its own",
		`{"flags": {"new-checkout": {"variants": {"red": 1, "blue": 2}}}}`:                                          "say which variant of flag new-checkout: it has blue, red",
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "f.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := New(time.Now).Prepare(t.Context(), backstay.Request{
			Config: config(`{"key": "new-checkout", "store": "it", "percentage": "10%"}`), Flags: newWorld(t, "", model.Meta{}), Dir: dir,
			Sections: map[string]json.RawMessage{"stores": json.RawMessage(`{"it": {"flagd": "f.json"}}`)},
		})
		if got := drivertest.Explain(err); !strings.Contains(got, want) {
			t.Errorf("%s: got %s, want %s", text, got, want)
		}
	}
}
