package stats

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// release is a new version in the table of whole rollouts.
type release struct {
	name string
	effect
}

func releases() []release {
	return []release{
		{"good", times("good", 1)},
		{"x2", times("x2", 2)},
		{"x5", times("x5", 5)},
		{"+1pp", plus("+1pp", .01)},
		{"+10pp", plus("+10pp", .1)},
		{"100 % broken", broken()},
	}
}

type policy struct {
	name string
	ours bool
	play func(*rand.Rand, world) outcome
}

func policies(t *testing.T) []policy {
	return []policy{
		{"Backstay, no guard", true, backstayPolicy(t, 0)},
		{"Backstay", true, backstayPolicy(t, 10*time.Second)},
		{"Flagger-like", false, flaggerPolicy},
		{"Argo-like", false, argoPolicy},
		{"Kayenta-like", false, kayentaPolicy},
	}
}

// ends is what many rollouts of one policy came to.
type ends struct {
	rolledBack, promoted float64
	median, p90          float64
	extra                float64
}

func play(seed, runs int, p policy, w world) ends {
	var e ends
	var seconds []float64
	for _, o := range each(runs, func(run uint64) outcome { return p.play(seeded(uint64(seed), run), w) }) {
		if o.rolledBack {
			e.rolledBack += 1 / float64(runs)
		}
		if o.promoted {
			e.promoted += 1 / float64(runs)
		}
		e.extra += o.extra / float64(runs)
		seconds = append(seconds, o.seconds)
	}
	e.median, e.p90 = quantile(seconds, .5), quantile(seconds, .9)
	return e
}

// TestRollouts plays whole rollouts of every policy on the same kinds of traffic
// and prints the table of docs/benchmarks.md. It holds what is promised of ours: good
// releases are not rolled back, bad ones are, and a broken one harms little.
func TestRollouts(t *testing.T) {
	t.Parallel()
	runs := 10
	if *full {
		runs = 300
	}
	tab := newTable(t, "requests/s | baseline | release | policy | rolled back | promoted | time to the verdict: median | p90 | extra failed requests, mean")
	for i, rps := range []uint64{100, 1000} {
		for j, base := range []float64{.0001, .001} {
			for k, rel := range releases() {
				if base < .001 && (rel.name == "x2" || rel.name == "+1pp" || rel.name == "+10pp") {
					continue
				}
				if !*full && (rps == 100 || base < .001) {
					continue // long
				}
				t.Run(fmt.Sprintf("%d rps %v %s", rps, base, rel.name), func(t *testing.T) {
					t.Parallel()
					w, at := world{rps, base, rel.rate(base)}, 1000*i+100*j+10*k
					for l, p := range policies(t) {
						e := play(9000+at+l, runs, p, w)
						tab.set(at+l, "%d | %.2f %% | %s | %s | %.1f %% | %.1f %% | %.0f s | %.0f s | %.1f", rps, 100*base, rel.name, p.name,
							100*e.rolledBack, 100*e.promoted, e.median, e.p90, e.extra)
						if p.ours {
							e.hold(t, p.name, rel, w)
						}
					}
				})
			}
		}
	}
}

// hold checks our own rows.
func (e ends) hold(t *testing.T, where string, rel release, w world) {
	t.Helper()
	worse := w.canaryRate - w.baseline
	switch {
	case worse == 0 && (e.rolledBack > .005 || e.promoted < .99):
		t.Errorf("%s: %.3f rolled back, %.3f promoted", where, e.rolledBack, e.promoted)
	case worse > .0005 && e.rolledBack < .94:
		t.Errorf("%s: %.3f rolled back; worse than the margin must be", where, e.rolledBack)
	case rel.name == "100 % broken" && (e.extra > 250 || e.median > 30):
		t.Errorf("%s: %.1f extra failures in %v s, want at most 250 in 30 s", where, e.extra, e.median)
	case rel.name == "good" && w.rps == 1000 && !(e.median <= 300):
		t.Errorf("%s: promoted after %v s, want at most half of Flagger's 600", where, e.median)
	}
}
