package traffic_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/drivertest"
	"github.com/backstay-dev/backstay/internal/driver/traffic"
	"github.com/backstay-dev/backstay/internal/proxy"
	"github.com/backstay-dev/backstay/internal/proxy/wire"
)

// full plays everything; see scripts/test.sh.
var full = flag.Bool("traffic.full", false, "200 moves under load on every router")

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// proxyBed is a backstay proxy in this process, with its admin API on a socket.
func proxyBed(tb testing.TB) *drivertest.RouterBed {
	tb.Helper()
	dir := drivertest.Scratch(tb)
	if b, ok := tb.(*testing.B); ok {
		dir = b.TempDir() // a move that is measured is durable on a disk
	}
	b := &drivertest.RouterBed{Kind: traffic.New(), Blue: drivertest.StartBackend(tb, "blue"), Green: drivertest.StartBackend(tb, "green")}
	p, err := proxy.New(tb.Context(), proxy.Options{State: filepath.Join(dir, "state"), Routes: []wire.Route{{
		Name: "shop", Match: wire.Match{Hosts: []string{"shop.test"}},
		Settings: wire.Settings{Health: wire.Health{Path: "/healthz", Interval: backstay.Duration(20 * time.Millisecond)}},
		Sides: []wire.Side{
			{Name: "green", Weight: 0, Instances: []wire.Instance{{URL: b.Green.URL}}},
			{Name: "blue", Weight: 100, Instances: []wire.Instance{{URL: b.Blue.URL}}},
		},
	}}})
	must(tb, err)
	socket := filepath.Join(dir, "admin.sock")
	listener, err := net.Listen("unix", socket)
	must(tb, err)
	admin := &httptest.Server{Listener: listener, Config: &http.Server{Handler: p.AdminHandler(), ReadHeaderTimeout: time.Minute}}
	admin.Start()
	front := httptest.NewServer(p)
	tb.Cleanup(func() {
		front.Close()
		admin.Close()
		must(tb, p.Close())
	})
	b.Front = front.URL
	b.Route = map[string]any{"proxy": map[string]any{"socket": socket}}
	b.Look = func(tb testing.TB) drivertest.RouterLook { tb.Helper(); return lookAtProxy(tb, socket) }
	b.Settled = func(tb testing.TB, back *drivertest.Backend) {
		tb.Helper()
		drivertest.Eventually(tb, back.Name+" is seen to be ill", func() bool {
			s, err := p.Route("shop")
			must(tb, err)
			for _, side := range s.Sides {
				if side.Name == back.Name {
					return side.ReadyCapacity == 0
				}
			}
			return false
		})
	}
	b.Overwrite = func(tb testing.TB, green int) {
		tb.Helper()
		now, err := p.Route("shop")
		must(tb, err)
		_, err = p.Change(context.WithoutCancel(tb.Context()), "shop", wire.Change{
			Writer: wire.Writer{Deployment: "somebody else", Token: backstay.Token{Generation: 1}}, Expect: now.Digest,
			Weights: map[string]int{"green": green, "blue": 100 - green},
		})
		must(tb, err)
	}
	return b
}

// lookAtProxy asks the admin socket as curl would.
func lookAtProxy(tb testing.TB, socket string) drivertest.RouterLook {
	tb.Helper()
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	req, err := http.NewRequestWithContext(context.WithoutCancel(tb.Context()), http.MethodGet, "http://admin/v1/routes/shop", nil)
	must(tb, err)
	resp, err := c.Do(req)
	must(tb, err)
	defer resp.Body.Close()
	var s struct {
		Route struct {
			Match, Settings json.RawMessage
			Sides           []struct {
				Name      string
				Weight    int
				Instances json.RawMessage
			}
		}
	}
	must(tb, json.NewDecoder(resp.Body).Decode(&s))
	look := drivertest.RouterLook{Weights: map[string]int{}, World: map[string]string{"match": string(s.Route.Match), "settings": string(s.Route.Settings)}}
	for i, side := range s.Route.Sides {
		look.World[fmt.Sprintf("side %d", i)] = fmt.Sprintf("%s %d %s", side.Name, side.Weight, side.Instances)
		if side.Weight > 0 {
			look.Weights[side.Name] = side.Weight
		}
	}
	return look
}

func TestProxy(t *testing.T) {
	t.Parallel()
	drivertest.RunRouter(t, drivertest.RouterSuite{Fenced: true, New: func(t *testing.T) *drivertest.RouterBed { t.Helper(); return proxyBed(t) }})
}
