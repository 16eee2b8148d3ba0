package traffic_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/drivertest"
	"github.com/backstay-dev/backstay/internal/driver/traffic"
	"github.com/backstay-dev/backstay/internal/parts"
)

// haproxyBed is Debian's HAProxy, whose weights are 1 and 0 as a person
// configures them.
func haproxyBed(tb testing.TB) *drivertest.RouterBed {
	tb.Helper()
	b, _ := startHAProxy(tb, false)
	return b
}

func startHAProxy(tb testing.TB, keepState bool) (*drivertest.RouterBed, *parts.HAProxy) {
	tb.Helper()
	b := &drivertest.RouterBed{Kind: traffic.New(), Blue: drivertest.StartBackend(tb, "blue"), Green: drivertest.StartBackend(tb, "green")}
	h := parts.StartHAProxy(tb, strings.TrimPrefix(b.Blue.URL, "http://"), strings.TrimPrefix(b.Green.URL, "http://"), keepState)
	b.Front = h.Front
	b.Route = map[string]any{"haproxy": map[string]any{
		"socket": h.Socket, "backend": "shop", "health": "/healthz",
		"sides": map[string]any{"blue": []string{"b1", "b2"}, "green": []string{"g1", "g2"}},
	}}
	b.Look = func(tb testing.TB) drivertest.RouterLook { tb.Helper(); return lookAtHAProxy(tb, h) }
	b.Settled = func(tb testing.TB, back *drivertest.Backend) {
		tb.Helper()
		drivertest.Eventually(tb, back.Name+" is seen to be ill", func() bool {
			_, port, _ := strings.Cut(strings.TrimPrefix(back.URL, "http://"), ":")
			for _, row := range servers(tb, h) {
				if row["srv_port"] == port && row["srv_op_state"] == "0" {
					return true
				}
			}
			return false
		})
	}
	b.Overwrite = func(tb testing.TB, green int) {
		tb.Helper()
		h.Ask(tb, fmt.Sprintf("set weight shop/b1 %d", 100-green))
		h.Ask(tb, fmt.Sprintf("set weight shop/g1 %d", green))
	}
	return b, h
}

// servers are the rows of HAProxy's own table.
func servers(tb testing.TB, h *parts.HAProxy) []map[string]string {
	tb.Helper()
	lines := strings.Split(strings.TrimSpace(h.Ask(tb, "show servers state shop")), "\n")
	names := strings.Fields(strings.TrimPrefix(lines[1], "# "))
	var rows []map[string]string
	for _, line := range lines[2:] {
		row := map[string]string{}
		for i, v := range strings.Fields(line) {
			row[names[i]] = v
		}
		rows = append(rows, row)
	}
	return rows
}

func lookAtHAProxy(tb testing.TB, h *parts.HAProxy) drivertest.RouterLook {
	tb.Helper()
	look := drivertest.RouterLook{Weights: map[string]int{}, World: map[string]string{}}
	sums, total := map[string]int{}, 0
	for _, row := range servers(tb, h) {
		w, err := strconv.Atoi(row["srv_uweight"])
		must(tb, err)
		admin, err := strconv.Atoi(row["srv_admin_state"])
		must(tb, err)
		look.World[row["srv_name"]] = fmt.Sprintf("%s:%s weight %d maintenance %v drain %v", row["srv_addr"], row["srv_port"], w, admin&0x63 != 0, admin&0x18 != 0)
		if admin == 0 || admin == 4 {
			side := map[byte]string{'b': "blue", 'g': "green"}[row["srv_name"][0]]
			sums[side] += w
			total += w
		}
	}
	for side, w := range sums {
		if w > 0 {
			look.Weights[side] = w * 100 / total
		}
	}
	return look
}

func TestHAProxy(t *testing.T) {
	t.Parallel()
	parts.Real(t)
	drivertest.RunRouter(t, drivertest.RouterSuite{New: func(t *testing.T) *drivertest.RouterBed { t.Helper(); return haproxyBed(t) }})
}

// A reload or restart without a state file loses what HAProxy was told: reading
// back finds that, a later move is refused as a conflict, and with a state file
// nothing is lost.
func TestHAProxyForgets(t *testing.T) {
	t.Parallel()
	parts.Real(t)
	for _, keeps := range []bool{false, true} {
		t.Run(fmt.Sprintf("state file %v", keeps), func(t *testing.T) {
			t.Parallel()
			b, h := startHAProxy(t, keeps)
			tr := b.Move(t, 30)
			must(t, tr.Do(t.Context()))
			moved := tr.Observe(t, false)
			if keeps {
				must(t, os.WriteFile(h.Dir+"/state", []byte(h.Ask(t, "show servers state")), 0o600))
			}
			next := b.Move(t, 60)
			h.Restart(t)
			if now := tr.Observe(t, false); now.Equal(moved) != keeps {
				t.Errorf("after the restart it reads %v, moved to %v", now, moved)
			}
			err := next.Do(t.Context())
			if keeps {
				must(t, err)
			} else if backstay.ClassOf(err) != backstay.Conflict {
				t.Errorf("a move from weights that are gone: got %v", err)
			}
		})
	}
}

// A side that has traffic gets more instances, and others instead of the ones it
// has, without a failed request.
func TestHAProxyRolls(t *testing.T) {
	t.Parallel()
	parts.Real(t)
	b := haproxyBed(t)
	second, third := drivertest.StartBackend(t, "blue"), drivertest.StartBackend(t, "blue")
	load := drivertest.StartLoad(t, b.Front, "shop.test", drivertest.Clients{})
	before := b.Look(t)
	var trials []*drivertest.Trial
	for _, list := range [][]string{{b.Blue.URL, second.URL}, {second.URL}, {second.URL, third.URL}, {third.URL}} {
		tr := drivertest.NewTrial(t, b.Step(t, map[string]any{"side": "blue", "instances": list, "within": "10s"}))
		tr.Begin(t)
		must(t, tr.Do(t.Context()))
		trials = append(trials, tr)
		load.More(t, 200)
	}
	if second.Served() == 0 || third.Served() == 0 {
		t.Errorf("the new instances served %d and %d requests", second.Served(), third.Served())
	}
	for i := len(trials) - 1; i >= 0; i-- {
		must(t, trials[i].Undo(t, t.Context()))
		load.More(t, 100)
	}
	if _, err := load.Stop(); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(before, b.Look(t)); diff != "" {
		t.Errorf("after all undos HAProxy differs (-before +after):\n%s", diff)
	}
	// Three instances need three servers.
	tr := drivertest.NewTrial(t, b.Step(t, map[string]any{"side": "green", "instances": []string{b.Green.URL, second.URL, third.URL}}))
	tr.Begin(t)
	if err := tr.Do(t.Context()); err == nil || !strings.Contains(err.Error(), "it has 2") {
		t.Errorf("three instances on two servers: %v", err)
	}
}

// A side that has traffic changes all its instances: the ones in spare servers
// take over before the others change. With no spare server it is refused.
func TestHAProxyChangesInPlace(t *testing.T) {
	t.Parallel()
	parts.Real(t)
	b := haproxyBed(t)
	second, third := drivertest.StartBackend(t, "blue"), drivertest.StartBackend(t, "blue")
	load := drivertest.StartLoad(t, b.Front, "shop.test", drivertest.Clients{})
	before := b.Look(t)
	var trials []*drivertest.Trial
	for _, list := range [][]string{{second.URL, third.URL}, {b.Blue.URL, second.URL}} {
		tr := drivertest.NewTrial(t, b.Step(t, map[string]any{"side": "blue", "instances": list, "within": "10s"}))
		tr.Begin(t)
		must(t, tr.Do(t.Context()))
		trials = append(trials, tr)
		load.More(t, 100)
	}
	fourth := drivertest.StartBackend(t, "blue")
	tr := drivertest.NewTrial(t, b.Step(t, map[string]any{"side": "blue", "instances": []string{third.URL, fourth.URL}}))
	tr.Begin(t)
	if err := tr.Do(t.Context()); err == nil || !strings.Contains(err.Error(), "all its servers have traffic") {
		t.Errorf("two others on two servers with traffic: %v", err)
	}
	for i := len(trials) - 1; i >= 0; i-- {
		must(t, trials[i].Undo(t, t.Context()))
		load.More(t, 100)
	}
	if _, err := load.Stop(); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(before, b.Look(t)); diff != "" {
		t.Errorf("after all undos HAProxy differs (-before +after):\n%s", diff)
	}
}
