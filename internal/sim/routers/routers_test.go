package routers_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver"
	"github.com/backstay-dev/backstay/internal/driver/command"
	"github.com/backstay-dev/backstay/internal/driver/drivertest"
	"github.com/backstay-dev/backstay/internal/driver/traffic"
	"github.com/backstay-dev/backstay/internal/engine"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/ledger/sqlite"
	"github.com/backstay-dev/backstay/internal/parts"
	"github.com/backstay-dev/backstay/internal/plan"
	"github.com/backstay-dev/backstay/internal/proc"
	"github.com/backstay-dev/backstay/internal/proxy"
	"github.com/backstay-dev/backstay/internal/proxy/wire"
	"github.com/backstay-dev/backstay/internal/spec"
)

var full = flag.Bool("routers.full", false, "break (nearly) every exchange in every way")

func TestMain(m *testing.M) {
	if code, supervised := proc.SupervisorMain(os.Args); supervised {
		os.Exit(code)
	}
	os.Exit(m.Run())
}

// lab is a router with a relay before it, and deployments on a ledger of their own.
type lab struct {
	t     *testing.T
	dir   string
	relay *relay
	route string // the entry of the section routes
	look  func() map[string]string
	i15   func(t *testing.T) // what the router's own journal says
	green string
}

// onProxy is a backstay proxy. Its journal is every state that it made durable.
func onProxy(t *testing.T) *lab {
	t.Helper()
	dir := drivertest.Scratch(t)
	blue, green := drivertest.StartBackend(t, "blue"), drivertest.StartBackend(t, "green")
	state := filepath.Join(dir, "proxy")
	var mu sync.Mutex
	var journal [][]byte
	p, err := proxy.New(t.Context(), proxy.Options{
		State: state,
		Saved: func() {
			text, err := os.ReadFile(filepath.Join(state, "routes.json"))
			if err != nil {
				t.Errorf("read the proxy's journal: %v", err)
			}
			mu.Lock()
			defer mu.Unlock()
			journal = append(journal, text)
		},
		Routes: []wire.Route{{
			Name: "shop", Settings: wire.Settings{Health: wire.Health{Path: "/healthz"}},
			Sides: []wire.Side{{Name: "blue", Weight: 100, Instances: []wire.Instance{{URL: blue.URL}}}},
		}},
	})
	must(t, err)
	socket := filepath.Join(dir, "admin.sock")
	l, err := net.Listen("unix", socket)
	must(t, err)
	admin := &httptest.Server{Listener: l, Config: &http.Server{Handler: p.AdminHandler(), ReadHeaderTimeout: time.Minute}}
	admin.Start()
	t.Cleanup(func() {
		admin.Close()
		must(t, p.Close())
	})
	b := &lab{t: t, dir: dir, green: green.URL, relay: startRelay(t, socket, spoken())}
	b.route = "{proxy: {socket: " + b.relay.socket + "}}"
	b.look = func() map[string]string {
		s, err := p.Route("shop")
		must(t, err)
		out := map[string]string{}
		for i, side := range s.Route.Sides {
			out[fmt.Sprintf("side %d", i)] = fmt.Sprintf("%s %d %v", side.Name, side.Weight, side.Instances)
		}
		return out
	}
	b.i15 = func(t *testing.T) {
		t.Helper()
		mu.Lock()
		defer mu.Unlock()
		for i, text := range journal {
			var saved struct {
				Routes map[string]struct{ Route *wire.Route }
			}
			must(t, json.Unmarshal(text, &saved))
			sum := 0
			for _, side := range saved.Routes["shop"].Route.Sides {
				sum += side.Weight
				if side.Weight > 100*len(side.Instances) {
					t.Errorf("journal %d: side %s has %d %% and %d instances", i, side.Name, side.Weight, len(side.Instances))
				}
			}
			if sum != 100 {
				t.Errorf("journal %d: the weights sum to %d", i, sum)
			}
		}
	}
	return b
}

// onHAProxy is Debian's HAProxy. It keeps no journal: it is sampled.
func onHAProxy(t *testing.T) *lab {
	t.Helper()
	blue, green := drivertest.StartBackend(t, "blue"), drivertest.StartBackend(t, "green")
	h := parts.StartHAProxy(t, strings.TrimPrefix(blue.URL, "http://"), strings.TrimPrefix(green.URL, "http://"), false)
	b := &lab{t: t, dir: h.Dir, green: drivertest.StartBackend(t, "green").URL, relay: startRelay(t, h.Socket, typed())}
	b.route = "{haproxy: {socket: " + b.relay.socket + ", sides: {blue: [b1, b2], green: [g1, g2]}}}"
	b.look = func() map[string]string {
		out := map[string]string{}
		lines := strings.Split(strings.TrimSpace(h.Ask(t, "show servers state shop")), "\n")
		for _, line := range lines[2:] {
			f := strings.Fields(line) // address, weight, port, and whether it is out
			out[f[3]] = fmt.Sprintf("%s:%s weight %s out %v", f[4], f[18], f[7], f[6] != "0" && f[6] != "4")
		}
		return out
	}
	stop, sampled := make(chan struct{}), make(chan struct{})
	var mu sync.Mutex
	var dark, samples, row int
	go func() {
		defer close(sampled)
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			served := false
			for _, is := range b.look() {
				served = served || !strings.Contains(is, "weight 0") && strings.HasSuffix(is, "out false")
			}
			mu.Lock()
			samples++
			// HAProxy has two threads: one sample can be of two moments.
			if row++; served {
				row = 0
			} else if row > 1 {
				dark++
			}
			mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		close(stop)
		<-sampled
	})
	b.i15 = func(t *testing.T) {
		t.Helper()
		mu.Lock()
		defer mu.Unlock()
		if dark > 0 {
			t.Errorf("in %d of %d samples no server had any traffic", dark, samples)
		}
	}
	return b
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// shopSpec registers green and moves there; its last step makes it good or bad.
const shopSpec = `backstay: v1
release: shop
routes: {shop: %[1]s}
steps:
  - name: register
    traffic: {route: shop, side: green, instances: [%[2]q], within: 1s, drain: 200ms}
    timeout: 4s
    undo-timeout: 4s
  - name: to-10
    traffic: {route: shop, to: {green: 10%%, blue: 90%%}}
    timeout: 3s
    undo-timeout: 3s
  - name: to-100
    traffic: {route: shop, to: {green: 100%%}}
    timeout: 3s
    undo-timeout: 3s
  - name: last
    run: [%[3]q]
    undo: "true"
    idempotent: true
`

// deployed is how one deployment ended.
type deployed struct {
	sum engine.Summary
	eng *engine.Engine
}

// deploy plans with a router that is well, breaks it, and drives to the end.
func (b *lab) deploy(t *testing.T, last string, how fault, at int, on bool) deployed {
	t.Helper()
	b.relay.breaks("", 0, false)
	dir := drivertest.Scratch(t)
	store, err := sqlite.Open(t.Context(), filepath.Join(dir, "state"), ledger.Options{Version: "test", TTL: 30 * time.Second})
	must(t, err)
	t.Cleanup(func() { must(t, store.Close()) })
	var kinds *driver.Registry
	engineOf := func(call time.Duration) *engine.Engine {
		kinds, err = driver.NewRegistry(traffic.Bounded(call), command.New())
		must(t, err)
		eng, err := engine.New(store, kinds, engine.Options{
			DataDir: filepath.Join(dir, "data"), Actor: backstay.Actor{UID: os.Getuid(), Host: "here"}, Version: "test",
			Poll: 10 * time.Millisecond, Backoff: time.Millisecond,
		})
		must(t, err)
		return eng
	}
	// Who talks to a router that hangs is impatient; who talks to one that is well
	// waits for a busy machine.
	impatient, eng := engineOf(250*time.Millisecond), engineOf(20*time.Second)
	file := filepath.Join(dir, "backstay.yaml")
	must(t, os.WriteFile(file, fmt.Appendf(nil, shopSpec, b.route, b.green, last), 0o600))
	sp, err := spec.Load(spec.Source{File: file}, kinds)
	must(t, told(err))
	d := plan.NewDraft(sp)
	seen, err := eng.Survey(t.Context(), d.Requests(), engine.Declared{Sections: sp.Sections, Dir: sp.Dir, Release: sp.Release})
	must(t, told(err))
	p, err := plan.Build(d, seen)
	must(t, told(err))
	b.relay.breaks(how, at, on)
	id, err := uuid.NewV7()
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	sum, err := impatient.Deploy(ctx, engine.Start{ID: id.String(), Plan: p})
	var refused *backstay.RefusedError
	if errors.As(err, &refused) { // before anything was touched
		var sum engine.Summary
		sum.State = backstay.Refused
		return deployed{sum, eng}
	}
	if err != nil {
		t.Fatalf("the deployment did not end: %v", err)
	}
	return deployed{sum, eng}
}

func told(err error) error {
	var refused *backstay.RefusedError
	if errors.As(err, &refused) {
		return fmt.Errorf("%w: %v", err, refused.Problems)
	}
	return err
}

// most is how often a router is asked at most after it began to fail, in one
// deployment of three steps and its way back.
const most = 150

// Every exchange of a good and of a bad deployment breaks, in every way, once and
// for good: the deployment ends in time, its end is the router's own truth, and
// when the router is well again a held one is rolled back.
func TestBrokenRouter(t *testing.T) {
	t.Parallel()
	routers := map[string]func(*testing.T) *lab{"proxy": onProxy}
	if os.Getenv("BACKSTAY_REAL") == "1" {
		routers["haproxy"] = onHAProxy
	}
	for name, start := range routers {
		for _, how := range faults() {
			for _, on := range []bool{false, true} {
				if !*full && (on != (how == refuses) || slow(how)) {
					continue // a taste of it: some faults once, one for good
				}
				t.Run(fmt.Sprintf("%s/%s/on %v", name, how, on), func(t *testing.T) {
					t.Parallel()
					b := start(t)
					ends := map[string]int{}
					for _, last := range []string{"true", "false"} {
						b.enumerate(t, last, how, on, ends)
					}
					b.i15(t)
					t.Logf("ends: %v", ends)
				})
			}
		}
	}
}

// slow faults end by the bound of each exchange.
func slow(how fault) bool { return how == hangs || how == late || how == drips }

// enumerate breaks one exchange after the other until one is not reached.
func (b *lab) enumerate(t *testing.T, last string, how fault, on bool, ends map[string]int) {
	t.Helper()
	stride := 8
	switch {
	case *full && slow(how) && on:
		stride = 9
	case *full && slow(how):
		stride = 3
	case *full:
		stride = 1
	}
	start := b.look()
	for at := 1; ; at += stride {
		d := b.deploy(t, last, how, at, on)
		seen, broken := b.relay.counts()
		if seen < at {
			b.restore(t, start, d)
			return
		}
		ends[string(d.sum.State)]++
		where := fmt.Sprintf("last step %s, exchange %d", last, at)
		if seen-at > most {
			t.Errorf("%s: the router was asked %d times after it began to fail", where, seen-at)
		}
		slow := d.sum.Failure != nil && strings.Contains(d.sum.Failure.Reason, "did not answer within")
		if broken == 0 && !slow && (last == "true") != (d.sum.State == backstay.Proven) {
			t.Errorf("%s: nothing broke, and it ended %s: %+v", where, d.sum.State, d.sum.Failure)
		}
		b.judge(t, where, on, start, d)
		b.restore(t, start, d)
		if t.Failed() {
			return
		}
	}
}

// judge compares how it ended with what the router itself holds.
func (b *lab) judge(t *testing.T, where string, on bool, start map[string]string, d deployed) {
	t.Helper()
	now := b.look()
	if d.sum.State == backstay.Proven {
		if cmp.Equal(start, now) {
			t.Errorf("%s: proven, and the router is as it was", where)
		}
		return
	}
	if d.sum.State != backstay.Held {
		if d.sum.State != backstay.RolledBack && d.sum.State != backstay.Refused {
			t.Errorf("%s: ended %s", where, d.sum.State)
		}
		if diff := cmp.Diff(start, now); diff != "" {
			t.Errorf("%s: %s (%+v), and the router is not as it was (-before +now):\n%s", where, d.sum.State, d.sum.Failure, diff)
		}
		return
	}
	if len(d.sum.Residue) == 0 {
		t.Errorf("%s: held without residue", where)
	}
	for _, r := range d.sum.Residue {
		known := slices.Contains([]backstay.Cause{backstay.CauseUnreachable, backstay.CauseUndoFailed, backstay.CauseDeadline}, r.Cause)
		if !known || r.Next == "" {
			t.Errorf("%s: residue of %s has the cause %q and the next command %q", where, r.Key, r.Cause, r.Next)
		}
		if r.Unknown != "" && !on && !strings.Contains(r.Unknown, "did not answer within") {
			t.Errorf("%s: %s is unknown (%s), and the router can be read", where, r.Key, r.Unknown)
		}
	}
}

// restore brings the router back for the next run: a held deployment by retrying
// its rollback, now that the router is well; a proven one by hand.
func (b *lab) restore(t *testing.T, start map[string]string, d deployed) {
	t.Helper()
	b.relay.breaks("", 0, false)
	if d.sum.State == backstay.Held {
		again, err := d.eng.Resume(t.Context(), d.sum.Deployment, nil, &ledger.Signal{ID: "again", Kind: engine.SignalRetry})
		must(t, err)
		if again.State != backstay.RolledBack || !cmp.Equal(start, b.look()) {
			t.Errorf("the retry with a router that is well ended %s with residue %+v; the router (-before +now):\n%s", again.State, again.Residue, cmp.Diff(start, b.look()))
		}
	}
	if d.sum.State != backstay.Proven {
		return
	}
	old, done, err := d.eng.Undone(t.Context(), d.sum.Deployment)
	must(t, err)
	p, err := plan.Revert(old, d.sum.Deployment, "shop", done)
	must(t, told(err))
	id, err := uuid.NewV7()
	must(t, err)
	sum, err := d.eng.Deploy(t.Context(), engine.Start{ID: id.String(), Plan: p})
	must(t, told(err))
	if sum.State != backstay.Proven || !cmp.Equal(start, b.look()) {
		t.Fatalf("taking it back ended %s (%+v); the router (-before +now):\n%s", sum.State, sum.Failure, cmp.Diff(start, b.look()))
	}
}
