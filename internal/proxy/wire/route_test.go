package wire

import (
	"encoding/json"
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/backstay-dev/backstay"
)

var update = flag.Bool("update", false, "write the golden files")

// full is a route with everything in it.
func full() *Route {
	two := 2
	const second = backstay.Duration(1e9)
	return &Route{
		Name:  "shop",
		Match: Match{Hosts: []string{"shop.test", "*.shop.test"}, Path: "/cart", Headers: []Header{{"X-Tier", "gold"}}},
		Settings: Settings{
			Affinity: &Affinity{Cookie: "side", TTL: 60 * second},
			Bucket:   &Bucket{Key: "new-cart", Salt: "s1", Header: "X-User"},
			Override: &Override{Header: "X-Side", From: []string{"10.0.0.0/8"}},
			Fallback: &Fallback{Side: "blue", Status: 503, ContentType: "text/html", Body: "<p>soon & again</p>"},
			Health:   Health{Path: "/healthz", Host: "shop.test", Interval: second, Timeout: second, Fall: 3},
			Breaker:  Breaker{Failures: 3, Of: 6, Open: second, Status: true},
			Timeouts: Timeouts{Connect: second, FirstByte: 2 * second, Idle: 3 * second, Total: 4 * second},
			Queue:    Queue{Active: 5, Waiting: 6, Wait: second},
			Retries:  &two, MaxBody: 1000, Settle: 5 * second,
		},
		Sides: []Side{
			{Name: "green", Weight: 10, Instances: []Instance{{URL: "http://127.0.0.1:9002", Capacity: 40}, {URL: "h2c://[::1]:9003"}}},
			{Name: "blue", Weight: 90},
		},
	}
}

// The canonical state is what before-images hold for years: its bytes do not
// change, and an image brings the very route back.
func TestStateGolden(t *testing.T) {
	t.Parallel()
	r := full()
	if problems := r.Validate(); problems != nil {
		t.Fatalf("not valid: %v", problems)
	}
	got := backstay.Canonical(r.State())
	const path = "testdata/state-v1.json"
	if *update {
		if err := os.WriteFile(path, append(got, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.TrimSpace(string(want)), string(got)); diff != "" {
		t.Errorf("the canonical state changed (-want +got):\n%s", diff)
	}
	var image backstay.ResourceState
	if err := json.Unmarshal(want, &image); err != nil {
		t.Fatal(err)
	}
	back, err := FromState("shop", image)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(r, back, cmpopts.EquateEmpty()); diff != "" || back.Digest() != r.Digest() {
		t.Errorf("the image brings back (-want +got):\n%s", diff)
	}
}

func TestFromState(t *testing.T) {
	t.Parallel()
	if r, err := FromState("shop", backstay.ResourceState{}); r != nil || err != nil {
		t.Errorf("absence: %v, %v", r, err)
	}
	for name, spoil := range map[string]func(s *backstay.ResourceState){
		"unreadable":     func(s *backstay.ResourceState) { s.Unreadable = "no answer" },
		"a part missing": func(s *backstay.ResourceState) { delete(s.Parts, "weights") },
		"a side missing": func(s *backstay.ResourceState) { delete(s.Parts, "side:green") },
		"a side more":    func(s *backstay.ResourceState) { s.Parts["side:red"] = json.RawMessage("[]") },
		"another form":   func(s *backstay.ResourceState) { s.Parts["match"] = json.RawMessage(`{"new":1}`) },
	} {
		s := full().State()
		spoil(&s)
		if r, err := FromState("shop", s); err == nil {
			t.Errorf("%s: accepted as %+v", name, r)
		}
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		spoil func(r *Route)
		path  string
	}{
		"no sides":          {func(r *Route) { r.Sides = nil }, "sides"},
		"sum":               {func(r *Route) { r.Sides[0].Weight = 11 }, "sides"},
		"more than all":     {func(r *Route) { r.Sides[0].Weight = 101 }, "sides[0].weight"},
		"twice":             {func(r *Route) { r.Sides[0].Name = "blue" }, "sides[1].name"},
		"name with a slash": {func(r *Route) { r.Sides[0].Name = "a/b" }, "sides[0].name"},
		"name of dots":      {func(r *Route) { r.Name = ".." }, "name"},
		"escape in a name":  {func(r *Route) { r.Name = "a\x1b[2J" }, "name"},
		"unix socket":       {func(r *Route) { r.Sides[0].Instances[0].URL = "unix:///run/x" }, "sides[0].instances[0].url"},
		"user in the URL":   {func(r *Route) { r.Sides[0].Instances[0].URL = "http://u:p@h:80" }, "sides[0].instances[0].url"},
		"mapped link-local": {func(r *Route) { r.Sides[0].Instances[0].URL = "http://[::ffff:169.254.169.254]:80" }, "sides[0].instances[0].url"},
		"no port":           {func(r *Route) { r.Sides[0].Instances[0].URL = "http://h" }, "sides[0].instances[0].url"},
		"host with a port":  {func(r *Route) { r.Match.Hosts = []string{"h:80"} }, "match.hosts[0]"},
		"path with dots":    {func(r *Route) { r.Match.Path = "/a/../b" }, "match.path"},
		"header injection":  {func(r *Route) { r.Settings.Override.Header = "A\r\nB" }, "settings.override.header"},
		"content type":      {func(r *Route) { r.Settings.Fallback.ContentType = "a\r\nSet-Cookie: b" }, "settings.fallback"},
		"fallback":          {func(r *Route) { r.Settings.Fallback.Side = "red" }, "settings.fallback.side"},
		"timeout":           {func(r *Route) { r.Settings.Timeouts.Idle = 1 << 62 }, "settings.timeouts.idle"},
		"breaker":           {func(r *Route) { r.Settings.Breaker.Failures = 7 }, "settings.breaker.failures"},
		"queue":             {func(r *Route) { r.Settings.Queue.Active = -1 }, "settings.queue.active"},
		"bucket":            {func(r *Route) { r.Settings.Bucket.Cookie = "c" }, "settings.bucket"},
	} {
		r := full()
		tt.spoil(r)
		problems := r.Validate()
		found := false
		for _, p := range problems {
			found = found || p.Path == tt.path
		}
		if !found {
			t.Errorf("%s: problems %v, want one at %s", name, problems, tt.path)
		}
	}
}
