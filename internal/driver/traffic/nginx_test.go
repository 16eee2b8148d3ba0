package traffic_test

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/drivertest"
	"github.com/backstay-dev/backstay/internal/driver/traffic"
	"github.com/backstay-dev/backstay/internal/parts"
)

// nginxBed is Debian's nginx, with an upstream as a person writes it.
func nginxBed(tb testing.TB) *drivertest.RouterBed {
	tb.Helper()
	b := &drivertest.RouterBed{Kind: traffic.New(), Blue: drivertest.StartBackend(tb, "blue"), Green: drivertest.StartBackend(tb, "green")}
	n := parts.StartNginx(tb, strings.TrimPrefix(b.Blue.URL, "http://"), strings.TrimPrefix(b.Green.URL, "http://"))
	b.Front = n.Front
	b.Route = map[string]any{"nginx": map[string]any{
		"file": n.File, "status": n.Status, "test": n.Test, "reload": n.Reload, "health": "/healthz",
	}}
	b.Look = func(tb testing.TB) drivertest.RouterLook { tb.Helper(); return lookAtNginx(tb, n) }
	b.Overwrite = func(tb testing.TB, green int) {
		tb.Helper()
		text, err := os.ReadFile(n.File)
		must(tb, err)
		ways := regexp.MustCompile(`(server [^ ]+).*; # side (blue|green)`)
		must(tb, os.WriteFile(n.File, ways.ReplaceAllFunc(text, func(line []byte) []byte {
			m := ways.FindSubmatch(line)
			w := map[string]int{"green": green, "blue": 100 - green}[string(m[2])]
			return fmt.Appendf(nil, "%s weight=%d; # side %s", m[1], w, m[2])
		}), 0o600))
	}
	return b
}

func lookAtNginx(tb testing.TB, n *parts.Nginx) drivertest.RouterLook {
	tb.Helper()
	text, err := os.ReadFile(n.File)
	must(tb, err)
	look := drivertest.RouterLook{Weights: map[string]int{}, World: map[string]string{"file": string(text), "loaded": n.Mark(tb)}}
	total, sums := 0, map[string]int{}
	for _, line := range strings.Split(string(text), "\n") {
		line, side, ok := strings.Cut(line, "# side ")
		if !ok || strings.Contains(line, " down") {
			continue
		}
		w := 1
		if _, after, ok := strings.Cut(line, "weight="); ok {
			digits := strings.TrimRight(after[:strings.IndexAny(after, " ;")], " ;")
			w, err = strconv.Atoi(digits)
			must(tb, err)
		}
		sums[side] += w
		total += w
	}
	for side, w := range sums {
		look.Weights[side] = w * 100 / total
	}
	return look
}

func TestNginx(t *testing.T) {
	t.Parallel()
	parts.Real(t)
	moves, points := 10, 2 // each takes half a second
	if *full {
		moves, points = 200, 12
	}
	drivertest.RunRouter(t, drivertest.RouterSuite{New: func(t *testing.T) *drivertest.RouterBed { t.Helper(); return nginxBed(t) }, Moves: moves, Points: points, Cuts: true})
}

// What nginx does not load is put back, and told.
func TestNginxRefuses(t *testing.T) {
	t.Parallel()
	parts.Real(t)
	for name, command := range map[string]string{"test": "test", "reload": "reload"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := nginxBed(t)
			settings, ok := b.Route["nginx"].(map[string]any)
			if !ok {
				t.Fatal("no settings")
			}
			settings[command] = []string{"/bin/sh", "-c", "echo 'no, not today' >&2; exit 1"}
			before := b.Look(t)
			err := b.Move(t, 10).Do(t.Context())
			if err == nil || !strings.Contains(err.Error(), "no, not today") {
				t.Errorf("nginx refused, and the step says %v", err)
			}
			if diff := cmp.Diff(before, b.Look(t)); diff != "" {
				t.Errorf("(-before +after):\n%s", diff)
			}
		})
	}
}

// A reload that does nothing is noticed: the file is not what nginx serves. The
// undo puts the file back, and a new move does not begin in between.
func TestNginxLies(t *testing.T) {
	t.Parallel()
	parts.Real(t)
	b := nginxBed(t)
	settings, ok := b.Route["nginx"].(map[string]any)
	if !ok {
		t.Fatal("no settings")
	}
	reload := settings["reload"]
	settings["reload"] = []string{"/bin/true"}
	before := b.Look(t)
	tr := b.Move(t, 10)
	err := tr.Do(t.Context())
	if err == nil || !strings.Contains(err.Error(), "did not load") {
		t.Fatalf("the reload did nothing, and the step says %v", err)
	}
	if state := tr.Observe(t, false)[tr.Step.Dial]; state.Unreadable != "" || state.Equal(tr.Before[tr.Step.Dial]) {
		t.Errorf("a half done move reads as %v", state)
	}
	second := b.Move(t, 20)
	if err := second.Do(t.Context()); backstay.ClassOf(err) != backstay.Conflict {
		t.Errorf("a move began while nginx serves something else: %v", err)
	}
	settings["reload"] = reload
	must(t, tr.Undo(t, t.Context()))
	if diff := cmp.Diff(before, b.Look(t)); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
}
