package proxy

import (
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/proxy/wire"
)

// shop is what an honest proxy tells.
func shop() wire.RouteStatus {
	r := wire.Route{Name: "shop", Sides: []wire.Side{
		{Name: "green", Weight: 10, Instances: []wire.Instance{{URL: "http://127.0.0.1:2"}}},
		{Name: "blue", Weight: 90, Instances: []wire.Instance{{URL: "http://127.0.0.1:1"}}},
	}}
	return wire.RouteStatus{Route: r, Digest: r.Digest()}
}

// An answer that is no route of this name is not believed, whatever else is
// right about it, and nothing is concluded from it.
func TestReadBelievesNothing(t *testing.T) {
	t.Parallel()
	edited := func(edit func(*wire.RouteStatus)) string {
		s := shop()
		edit(&s)
		return string(backstay.Canonical(s))
	}
	rehashed := func(edit func(*wire.Route)) string {
		return edited(func(s *wire.RouteStatus) { edit(&s.Route); s.Digest = s.Route.Digest() })
	}
	for name, tt := range map[string]struct {
		answer string
		class  backstay.ErrorClass
	}{
		"honest":             {string(backstay.Canonical(shop())), ""},
		"another digest":     {edited(func(s *wire.RouteStatus) { s.Route.Sides[0].Weight, s.Route.Sides[1].Weight = 20, 80 }), backstay.Permanent},
		"another route":      {rehashed(func(r *wire.Route) { r.Name = "other" }), backstay.Permanent},
		"sum":                {rehashed(func(r *wire.Route) { r.Sides[0].Weight = 20 }), backstay.Permanent},
		"negative":           {rehashed(func(r *wire.Route) { r.Sides[0].Weight, r.Sides[1].Weight = -10, 110 }), backstay.Permanent},
		"one side twice":     {rehashed(func(r *wire.Route) { r.Sides[0].Name = "blue" }), backstay.Permanent},
		"no sides":           {rehashed(func(r *wire.Route) { r.Sides = nil }), backstay.Permanent},
		"escape in a name":   {rehashed(func(r *wire.Route) { r.Sides[0].Name = "\x1b[2J" }), backstay.Permanent},
		"metadata service":   {rehashed(func(r *wire.Route) { r.Sides[0].Instances[0].URL = "http://169.254.169.254:80" }), backstay.Permanent},
		"nothing":            {"", backstay.Transient},
		"null":               {"null", backstay.Permanent},
		"empty":              {"{}", backstay.Permanent},
		"half":               {`{"route": {"name": "shop"`, backstay.Transient},
		"a number too large": {`{"route": {"name": "shop", "sides": [{"name": "a", "weight": 1e400}]}}`, backstay.Transient},
		"deep":               {strings.Repeat(`{"route":`, 20000), backstay.Transient},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := fake(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(tt.answer)) })
			route, err := r.Read(t.Context())
			if tt.class == "" {
				if err != nil || route.Weights["green"] != 10 {
					t.Fatalf("got %+v, %v", route, err)
				}
				return
			}
			if err == nil || backstay.ClassOf(err) != tt.class || backstay.HintOf(err) == "" {
				t.Errorf("got %+v, %v of class %s, want class %s and a hint", route, err, backstay.ClassOf(err), tt.class)
			}
		})
	}
}

// Refusals get the class by which the engine decides.
func TestRefusals(t *testing.T) {
	t.Parallel()
	for code, class := range map[wire.Code]backstay.ErrorClass{
		wire.Stale: backstay.Conflict, wire.Conflict: backstay.Conflict, wire.NotReady: backstay.Permanent, wire.Invalid: backstay.Permanent,
		wire.NotFound: backstay.NotFound, wire.Internal: backstay.Transient, "a code of tomorrow": backstay.Permanent,
	} {
		t.Run(string(code), func(t *testing.T) {
			t.Parallel()
			r := fake(t, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(http.StatusTeapot)
				_, _ = w.Write(backstay.Canonical(wire.Error{Code: code, Message: "no"}))
			})
			if _, err := r.Read(t.Context()); backstay.ClassOf(err) != class {
				t.Errorf("got %v of class %s, want %s", err, backstay.ClassOf(err), class)
			}
		})
	}
}

// A proxy that does not answer is given up after the bound, and one that is not
// there at once; both may be asked again.
func TestBounded(t *testing.T) {
	t.Parallel()
	gone := make(chan struct{})
	t.Cleanup(func() { close(gone) })
	hanging := fake(t, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-gone:
		case <-r.Context().Done():
		}
	})
	absent, err := New(Config{Socket: filepath.Join(t.TempDir(), "nobody.sock"), Route: "shop"})
	if err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]*Router{"hanging": hanging, "absent": absent} {
		began := time.Now()
		_, err := r.Read(t.Context())
		if backstay.ClassOf(err) != backstay.Transient || time.Since(began) > 3*time.Second {
			t.Errorf("%s: after %s got %v of class %s", name, time.Since(began), err, backstay.ClassOf(err))
		}
	}
}

// fake is a router at an admin socket that answers as it is told.
func fake(t *testing.T, serve http.HandlerFunc) *Router {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: serve, ReadHeaderTimeout: time.Minute}}
	s.Start()
	t.Cleanup(s.CloseClientConnections)
	t.Cleanup(s.Close)
	r, err := New(Config{Socket: socket, Route: "shop", Call: 300 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	return r
}
