package traffic_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/drivertest"
	"github.com/backstay-dev/backstay/internal/driver/traffic"
)

// Whatever is wrong is refused with its place before any router is asked.
func TestRefusals(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		keys   map[string]any
		routes string // of the section; "" is one whose socket nobody listens at
		want   string
	}{
		{"unknown route", map[string]any{"route": "other", "to": map[string]any{"a": 100}}, "", `no route "other"`},
		{"nothing", map[string]any{}, "", "wants 0 things"},
		{"two things", map[string]any{"side": "a", "weight": 1, "retire": true}, "", "wants 2 things: weight, retire"},
		{"sum", map[string]any{"to": map[string]any{"a": "10%", "b": 80}}, "", "sum to 90%"},
		{"sum above", map[string]any{"to": map[string]any{"a": "60%", "b": 60}}, "", "sum to 120%"},
		{"no sides", map[string]any{"to": map[string]any{}}, "", "sum to 0%"},
		{"name of a side", map[string]any{"to": map[string]any{"A B": 100}}, "", `"A B" is no name`},
		{"control characters", map[string]any{"side": "a\x1b[2J", "retire": true}, "", `"a\x1b[2J" is no name`},
		{"side beside to", map[string]any{"to": map[string]any{"a": 100}, "side": "a"}, "", "traffic.side: belongs to"},
		{"weight without side", map[string]any{"weight": 10}, "", "traffic.side: \"\" is no name"},
		{"within of a move", map[string]any{"to": map[string]any{"a": 100}, "within": "5s"}, "", "traffic.within"},
		{"metadata service", map[string]any{"side": "a", "instances": []string{"http://169.254.169.254:80"}}, "", "no side may have"},
		{"mapped metadata service", map[string]any{"side": "a", "instances": []string{"http://[::ffff:169.254.169.254]:80"}}, "", "no side may have"},
		{"unspecified", map[string]any{"side": "a", "instances": []string{"http://0.0.0.0:80"}}, "", "no side may have"},
		{"scheme", map[string]any{"side": "a", "instances": []string{"file:///etc/passwd"}}, "", "not http, https or h2c"},
		{"path", map[string]any{"side": "a", "instances": []string{"http://a:1/x"}}, "", "more than scheme"},
		{"user", map[string]any{"side": "a", "instances": []string{"http://u:p@a:1"}}, "", "more than scheme"},
		{"no port", map[string]any{"side": "a", "instances": []string{"http://a"}}, "", "names no port"},
		{"injection", map[string]any{"side": "a", "instances": []string{"http://a;b:1"}}, "", "names no host"},
		{"line end", map[string]any{"side": "a", "instances": []string{"http://a:1\nset weight x/y 0"}}, "", "is no URL"},
		{"twice", map[string]any{"side": "a", "instances": []string{"http://a:1", "http://a:1"}}, "", "is there twice"},
		{"no router", map[string]any{"to": map[string]any{"a": 100}}, `{"shop": {}}`, "exactly one router"},
		{"name for the proxy", map[string]any{"to": map[string]any{"a": 100}}, `{"shop": {"proxy": {"socket": "s", "route": "../x"}}}`, "no name of a route"},
		{"socket with line end", map[string]any{"to": map[string]any{"a": 100}}, `{"shop": {"proxy": {"socket": "a\nb"}}}`, "is not a path"},
		{"no capacity", map[string]any{"to": map[string]any{"a": 100}}, `{"shop": {"proxy": {"socket": "s"}, "capacity": "0%"}}`, "carry nothing"},
		{"next without a router", map[string]any{"side": "next", "weight": 10}, "", "cannot be read"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			keys := map[string]any{"route": "shop"}
			for k, v := range tt.keys {
				keys[k] = v
			}
			if tt.routes == "" {
				tt.routes = `{"shop": {"proxy": {"socket": "nobody.sock"}}}`
			}
			_, err := traffic.New().Prepare(t.Context(), backstay.Request{
				ID: "1", Dir: t.TempDir(), DataDir: t.TempDir(), Config: backstay.Canonical(map[string]any{"traffic": keys}),
				Sections: map[string]json.RawMessage{"routes": json.RawMessage(tt.routes)},
			})
			var refused *backstay.RefusedError
			if !errors.As(err, &refused) || !strings.Contains(drivertest.Explain(err), tt.want) {
				t.Errorf("got %v, want a refusal with %q", drivertest.Explain(err), tt.want)
			}
		})
	}
}

func TestShare(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int{`"10%"`: 10, `"0%"`: 0, `100`: 100, `"7"`: 7, `"101%"`: -1, `-1`: -1, `"-0"`: -1, `"1.5%"`: -1, `1e1`: -1, `"%"`: -1, `"+1"`: -1, `null`: -1, `"9223372036854775808"`: -1} {
		var s traffic.Share
		err := json.Unmarshal([]byte(text), &s)
		if text == "null" {
			continue // JSON leaves the value alone
		}
		if (err == nil) != (want >= 0) || err == nil && int(s) != want {
			t.Errorf("%s: got %d, %v; want %d", text, s, err, want)
		}
	}
}

// One thing has one key, however it is written.
func TestOneKey(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "real"), 0o700))
	must(t, os.Symlink("real", filepath.Join(dir, "link")))
	var keys []backstay.Key
	for _, socket := range []string{"real/admin.sock", "./real/../real/admin.sock", "link/admin.sock", filepath.Join(dir, "real", "admin.sock")} {
		p, err := traffic.New().Prepare(t.Context(), backstay.Request{
			ID: "1", Dir: dir, DataDir: dir, Config: json.RawMessage(`{"traffic": {"route": "shop", "to": {"a": 100}}}`),
			Sections: map[string]json.RawMessage{"routes": backstay.Canonical(map[string]any{"shop": map[string]any{"proxy": map[string]any{"socket": socket}}})},
		})
		must(t, err)
		keys = append(keys, p.Dial)
	}
	for _, k := range keys[1:] {
		if k != keys[0] {
			t.Errorf("keys %v; want one", keys)
		}
	}
}

// running writes what a service keeps about its instances on a side.
func running(t *testing.T, dataDir, side string, endpoints ...string) {
	t.Helper()
	dir := filepath.Join(dataDir, "services", "web."+side)
	must(t, os.MkdirAll(dir, 0o700))
	must(t, os.WriteFile(filepath.Join(dir, "current"), backstay.Canonical(map[string]any{"endpoints": endpoints}), 0o600))
}

// A release registers the instances of a service on the side that is next, and
// moves there; the words are resolved when the plan is made.
func TestService(t *testing.T) {
	t.Parallel()
	b := proxyBed(t)
	f := b.Step(t, map[string]any{"side": "next", "service": "web", "within": "5s"})
	running(t, f.Request.DataDir, "blue", strings.TrimPrefix(b.Blue.URL, "http://"))
	fresh := drivertest.StartBackend(t, "green")
	tr := drivertest.NewTrial(t, f)
	tr.Begin(t)
	if err := tr.Do(t.Context()); err == nil || !strings.Contains(err.Error(), "not in use there") {
		t.Errorf("a service without instances on the side was registered: %v", err)
	}
	endpoint := strings.TrimPrefix(fresh.URL, "http://")
	running(t, f.Request.DataDir, "green", endpoint)
	must(t, tr.Do(t.Context()))
	if diff := cmp.Diff(map[string]string{"side": "green", "endpoint": endpoint}, tr.Slots); diff != "" {
		t.Errorf("slots (-want +got):\n%s", diff)
	}
	if got := b.Look(t).World["side 0"]; !strings.Contains(got, fresh.URL) || strings.Contains(got, b.Green.URL) {
		t.Errorf("green is %s, want only %s", got, fresh.URL)
	}
	move := drivertest.NewTrial(t, b.Step(t, map[string]any{"side": "next", "weight": "100%"}))
	move.Begin(t)
	must(t, move.Do(t.Context()))
	if diff := cmp.Diff(map[string]int{"green": 100}, b.Look(t).Weights); diff != "" {
		t.Errorf("weights (-want +got):\n%s", diff)
	}
	// Both words turn with the router.
	back := drivertest.NewTrial(t, b.Step(t, map[string]any{"side": "next", "weight": "100%"}))
	if got := string(back.Step.Want[back.Step.Dial].Parts[""]); got != `{"blue":100}` {
		t.Errorf("next is now %s, want blue", got)
	}
	// A service that runs on the side that has no traffic does not agree.
	_, err := b.Kind.Prepare(t.Context(), b.Step(t, map[string]any{"side": "live", "service": "web"}).Request)
	must(t, err)
	req := b.Step(t, map[string]any{"side": "next", "service": "web"}).Request
	running(t, req.DataDir, "blue", "127.0.0.1:1")
	if _, err := b.Kind.Prepare(t.Context(), req); err == nil || !strings.Contains(drivertest.Explain(err), "goes to side green") {
		t.Errorf("service and route do not agree, and got %v", err)
	}
}

// What a service keeps may be anything by the time that it is read.
func TestServiceHostile(t *testing.T) {
	t.Parallel()
	b := proxyBed(t)
	before := b.Look(t)
	for name, endpoints := range map[string][]string{
		"metadata service": {"169.254.169.254:80"}, "injection": {"a:1/x"}, "nothing": {}, "terminal": {"\x1b[2J:1"},
	} {
		f := b.Step(t, map[string]any{"side": "green", "service": "web", "within": "5s"})
		running(t, f.Request.DataDir, "green", endpoints...)
		tr := drivertest.NewTrial(t, f)
		tr.Begin(t)
		if err := tr.Do(t.Context()); err == nil {
			t.Errorf("%s: registered", name)
		}
	}
	f := b.Step(t, map[string]any{"side": "green", "service": "web"})
	must(t, os.MkdirAll(filepath.Join(f.Request.DataDir, "services", "web.green", "current"), 0o700))
	tr := drivertest.NewTrial(t, f)
	tr.Begin(t)
	if err := tr.Do(t.Context()); err == nil {
		t.Error("a directory was read as a service's instances")
	}
	if diff := cmp.Diff(before, b.Look(t)); diff != "" {
		t.Errorf("the router was changed (-before +after):\n%s", diff)
	}
}

func TestTurn(t *testing.T) {
	t.Parallel()
	b := proxyBed(t)
	tr := drivertest.NewTrial(t, b.Step(t, map[string]any{"side": "green", "weight": "10%"}))
	p, err := traffic.New().Turn(tr.Step, 80)
	must(t, err)
	if got := string(p.Want[p.Dial].Parts[""]); got != `{"blue":20,"green":80}` || p.Dial != tr.Step.Dial || !p.Restorable {
		t.Errorf("turned to 80 it wants %s of %s", got, p.Dial)
	}
	for _, keys := range []map[string]any{{"to": map[string]any{"green": 100}}, {"side": "green", "retire": true}} {
		if _, err := traffic.New().Turn(drivertest.NewTrial(t, b.Step(t, keys)).Step, 10); err == nil {
			t.Errorf("%v was turned", keys)
		}
	}
}
