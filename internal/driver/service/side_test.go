package service

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/drivertest"
)

// step plans a step of the service "web" with these keys.
func (w world) step(tb testing.TB, name, id, version string, keys map[string]any) *deployment {
	tb.Helper()
	config := webConfig()
	config["instances"] = 3
	req := w.request(w.artifact(tb, version, "ok"), config)
	keys["service"] = "web"
	req.ID, req.Config = id, backstay.Canonical(keys)
	return &deployment{drivertest.NewTrial(tb, drivertest.Fixture{Kind: New(), Request: req}), name, 1}
}

// run begins and does the step, and wants success.
func (d *deployment) run(tb testing.TB) {
	tb.Helper()
	d.begin(tb)
	if err := d.do(tb); err != nil {
		tb.Fatal(err)
	}
}

func (d *deployment) key() backstay.Key { return d.Call().Step.Keys[0] }

// pids of the current instances of a side, by index.
func (w world) pids(tb testing.TB, side string) []string {
	tb.Helper()
	cur, err := openStore(w.data, "web."+side).current()
	if err != nil {
		tb.Fatal(err)
	}
	if cur == nil {
		return nil
	}
	var out []string
	for _, i := range cur.Instances {
		out = append(out, fmt.Sprintf("%d:%d", i.Index, i.PID))
	}
	slices.Sort(out)
	return out
}

func (w world) onSide(tb testing.TB, side string) []string {
	tb.Helper()
	b, err := openStore(w.data, "web."+side).current()
	if err != nil || b == nil {
		return nil
	}
	return b.Endpoints
}

func TestSidesTakeTurns(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	next, live := map[string]any{"side": "next"}, func() map[string]any { return map[string]any{"side": "live", "retire": true} }
	start1, retire1 := w.step(t, "one", "start", "v1", next), w.step(t, "one", "retire", "v1", live())
	if start1.key() != "service:web.blue" || retire1.key() != "service:web.green" {
		t.Fatalf("the first release starts %s and retires %s", start1.key(), retire1.key())
	}
	start1.run(t)
	retire1.run(t)
	start1.settle(t, true)
	retire1.settle(t, true)
	old, ports := w.pids(t, "blue"), w.onSide(t, "blue")

	start2, retire2 := w.step(t, "two", "start", "v2", map[string]any{"side": "next"}), w.step(t, "two", "retire", "v2", live())
	if start2.key() != "service:web.green" || retire2.key() != "service:web.blue" {
		t.Fatalf("the second release starts %s and retires %s", start2.key(), retire2.key())
	}
	start2.run(t)
	retire2.run(t)
	if got := w.running(); got != "v1+v1+v1+v2+v2+v2" {
		t.Fatalf("before the release is proven %s runs, want both sides", got)
	}
	retire2.undo(t)
	if diff := cmp.Diff(old, w.pids(t, "blue")); diff != "" {
		t.Errorf("the old instances were not taken back as they are (-want +got):\n%s", diff)
	}
	start2.undo(t)
	if got := w.running(); got != "v1+v1+v1" || w.pids(t, "green") != nil {
		t.Fatalf("after the undo %s runs", got)
	}

	start2, retire2 = w.step(t, "three", "start", "v2", map[string]any{"side": "next"}), w.step(t, "three", "retire", "v2", live())
	start2.run(t)
	retire2.run(t)
	var told bytes.Buffer
	c := retire2.call()
	c.Proven, c.Output = true, &told
	if err := New().Settle(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	start2.settle(t, true)
	if got := w.running(); got != "v2+v2+v2" {
		t.Fatalf("once it is proven %s runs", got)
	}
	if got := told.String(); strings.Count(got, "ended instance") != 3 || !strings.Contains(got, "of web.blue (pid ") || !strings.Contains(got, "step start") {
		t.Errorf("it tells %q", got)
	}

	// A later deployment takes that back: the old release is started again, where it was.
	back := w.step(t, "back", "revert-retire", "v2", map[string]any{"side": "blue", "retire": true})
	back.Before = retire2.Before
	back.undo(t)
	if diff := cmp.Diff(ports, w.onSide(t, "blue")); diff != "" {
		t.Errorf("the side has other ports (-want +got):\n%s", diff)
	}
	if version, err := get("http://" + ports[0] + "/"); err != nil || version != "v1" {
		t.Errorf("the old side answers %q, error %v", version, err)
	}
}

func TestBatches(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	batch := func(id string, n int) *deployment {
		keys := map[string]any{"side": "blue"}
		if n > 0 {
			keys["instances"] = n
		}
		d := w.step(t, "one", id, "v1", keys)
		d.Step.Of = "release-1"
		return d
	}
	one, all := batch("start-1", 1), batch("start-3", 0)
	one.run(t)
	first := w.pids(t, "blue")
	all.run(t)
	if got := w.pids(t, "blue"); len(first) != 1 || len(got) != 3 || !slices.Contains(got, first[0]) {
		t.Fatalf("first %v, then %v", first, got)
	}
	if got := w.running(); got != "v1+v1+v1" {
		t.Fatalf("%s runs", got)
	}
	all.undo(t)
	if diff := cmp.Diff(first, w.pids(t, "blue")); diff != "" {
		t.Errorf("after the undo of the second batch (-want +got):\n%s", diff)
	}
	if got := w.running(); got != "v1" {
		t.Errorf("%s runs", got)
	}
	one.undo(t)
	if got := w.running(); got != "" || w.pids(t, "blue") != nil {
		t.Errorf("%q runs", got)
	}
}

func TestSideRefusals(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	tests := []struct {
		name string
		keys map[string]any
		want string
	}{
		{"instances without a side", map[string]any{"instances": 2}, "belongs to a step with a side"},
		{"retire without a side", map[string]any{"retire": true}, "belongs to a step with a side"},
		{"more than there are", map[string]any{"side": "next", "instances": 9}, "9 is not from 1 to 2"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			req := w.request(w.file(t, "web-"+strings.ReplaceAll(tt.name, " ", "-"), []byte("#!/bin/sh\n")), webConfig())
			tt.keys["service"] = "web"
			req.Config = backstay.Canonical(tt.keys)
			if _, err := New().Prepare(t.Context(), req); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want a refusal with %q", err, tt.want)
			}
		})
	}
	t.Run("both in use", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		for _, side := range []string{"blue", "green"} {
			dir := filepath.Join(w.data, "services", "web."+side)
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "current"), []byte(`{"v":1}`), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		req := w.request(w.file(t, "web-x", []byte("#!/bin/sh\n")), webConfig())
		req.Config = backstay.Canonical(map[string]any{"service": "web", "side": "next"})
		if _, err := New().Prepare(t.Context(), req); err == nil || !strings.Contains(err.Error(), "both sides of web are in use") {
			t.Errorf("got %v", err)
		}
	})
}

// TestSideConformance: steps with a side keep what every step promises.
func TestSideConformance(t *testing.T) {
	t.Parallel()
	for name, keys := range map[string]map[string]any{
		"start":  {"service": "web", "side": "next"},
		"batch":  {"service": "web", "side": "next", "instances": 1},
		"retire": {"service": "web", "side": "live", "retire": true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			delays := []time.Duration{10 * time.Millisecond, 60 * time.Millisecond}
			drivertest.Run(t, drivertest.Suite{CancelAfter: delays, MaxCuts: 2, New: func(t *testing.T) drivertest.Fixture {
				t.Helper()
				w := newWorld(t)
				former := w.step(t, "former", "start", "v1", map[string]any{"side": "next"})
				former.run(t)
				former.settle(t, true)
				f := drivertest.Fixture{
					Kind: New(), Canaries: []string{canary}, World: w.sides,
					Request: w.request(w.artifact(t, "v2", "ok"), webConfig()),
					Spoil: func(tb testing.TB) {
						tb.Helper()
						if err := os.Remove(filepath.Join(w.spec, "web-v2")); err != nil {
							tb.Fatal(err)
						}
					},
				}
				f.Request.Config = backstay.Canonical(keys)
				return f
			}})
		})
	}
}

// sides is an independent look: who answers on the addresses of each side in use.
func (w world) sides(tb testing.TB) map[string]string {
	tb.Helper()
	state := map[string]string{}
	for _, side := range []string{"blue", "green"} {
		for i, e := range w.onSide(tb, side) {
			version, err := get("http://" + e + "/")
			if err != nil {
				version = "no answer"
			}
			state[fmt.Sprintf("%s %d", side, i)] = version
		}
	}
	return state
}
