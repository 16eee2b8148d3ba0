package stats

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/backstay-dev/backstay/internal/analysis"
)

// slice is what one stratum does in one second, with no difference between the arms.
type slice struct {
	requests   uint64
	bad, share float64
	robin      bool // the share is dealt exactly, not drawn
}

// scenario is a rollout without any difference between the versions.
type scenario struct {
	name    string
	seconds int
	at      func(second int) []slice
}

// ramp is a share that grows through the steps over the whole rollout.
func ramp(second, seconds int, steps ...float64) float64 {
	return steps[second*len(steps)/seconds]
}

func scenarios() []scenario {
	one := func(bad, share float64) []slice { return []slice{{200, bad, share, false}} } // 200 requests a second
	return []scenario{
		{"iid, 0.1 % errors, 10 % share", 3600, func(int) []slice { return one(.001, .1) }},
		{"iid, 1 % errors, 50 % share", 1200, func(int) []slice { return one(.01, .5) }},
		{"drift 0.05 to 5 % while the share ramps 1-5-10-50 %", 600, func(s int) []slice {
			return one(.0005+.0495*float64(s)/600, ramp(s, 600, .01, .05, .1, .5))
		}},
		{"the same drift downwards", 600, func(s int) []slice {
			return one(.05-.0495*float64(s)/600, ramp(s, 600, .01, .05, .1, .5))
		}},
		{"common outage: 5 minutes of 30 % errors", 1800, func(s int) []slice {
			if s >= 600 && s < 900 {
				return one(.3, .1)
			}
			return one(.001, .1)
		}},
		{"ramp 1-5-25-50 %, 0.5 % errors", 1200, func(s int) []slice { return one(.005, ramp(s, 1200, .01, .05, .25, .5)) }},
		{"weighted round robin, 0.5 % errors, 25 % share", 1200, func(int) []slice { return []slice{{200, .005, .25, true}} }},
		{"two regions, shares 50 and 2 %, errors 2 and 0.1 %", 1200, func(int) []slice {
			return []slice{{50, .02, .5, false}, {150, .001, .02, false}}
		}},
	}
}

// falseRollback plays a scenario and says whether it was rolled back. Seconds
// without a bad request are left out: their factor is exactly 1. pool adds the
// strata up, which is wrong.
func (s scenario) falseRollback(t *testing.T, seed, run uint64, pool bool, change func(*analysis.Config)) bool {
	r := seeded(seed, run)
	test := watch(t, change)
	blocks := make([]analysis.Block, 0, 2)
	for second := 0; second < s.seconds; second += stride() {
		blocks = blocks[:0]
		end := time.Duration(second+1) * time.Second
		for i, part := range s.at(second) {
			m := binomial(r, part.requests, part.bad)
			nc := uint64(float64(part.requests) * part.share)
			if !part.robin && (m > 0 || pool) {
				nc = binomial(r, part.requests, part.share)
			}
			if m == 0 && !pool {
				continue
			}
			xc := dealt(r, part.requests, nc, m)
			b := rates(string(rune('a'+i)), end, time.Second, nc, part.requests-nc, xc, m-xc)
			if pool && len(blocks) > 0 {
				b.Stratum = blocks[0].Stratum
				sum, err := blocks[0].Merge(b)
				if err != nil {
					t.Error(err)
				}
				blocks[0] = sum
				continue
			}
			blocks = append(blocks, b)
		}
		if len(blocks) == 0 {
			continue
		}
		if err := test.Add(end, blocks...); err != nil {
			t.Error(err)
			return false
		}
		if failed(test) {
			return true
		}
	}
	return false
}

// TestFalseRollbacks: over a whole rollout, looked at every second, with the
// tool's defaults, a canary that is no worse is rolled back in at most alpha of
// the runs, at the upper 95 % bound, in every scenario.
func TestFalseRollbacks(t *testing.T) {
	t.Parallel()
	runs, alpha := falseRollbackRuns()
	tab := newTable(t, falseRollbackColumns)
	for i, s := range scenarios() {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			hits := s.falseRollbacks(t, 100+i, runs, func(c *analysis.Config) { c.Alpha = alpha })
			tab.falseRollbacks(i, s.name, hits, runs)
			if bound := upper(hits, runs); bound > alpha {
				t.Errorf("%d of %d rolled back: up to %.4f, alpha is %v", hits, runs, bound, alpha)
			}
		})
	}
}

// TestFalseRollbacksUnguarded: the bound does not come from the burst guard.
// Without it alpha is nearly reached, so it is held over all scenarios together at
// the upper bound, and no single one may refute it.
func TestFalseRollbacksUnguarded(t *testing.T) {
	t.Parallel()
	runs, alpha := falseRollbackRuns()
	tab := newTable(t, falseRollbackColumns)
	var played, hits atomic.Int64
	t.Cleanup(func() {
		if int(played.Load()) < len(scenarios()) {
			return // a part, chosen with -run
		}
		n, all := int(hits.Load()), runs*len(scenarios())
		tab.falseRollbacks(len(scenarios()), "all together", n, all)
		if bound := upper(n, all); bound > alpha || n == 0 {
			t.Errorf("%d of %d rolled back: up to %.4f; want some, and at most alpha %v", n, all, bound, alpha)
		}
	})
	for i, s := range scenarios() {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			n := s.falseRollbacks(t, 120+i, runs, func(c *analysis.Config) { c.Alpha, c.Guard = alpha, 0 })
			tab.falseRollbacks(i, s.name, n, runs)
			if bound := lower(n, runs); bound > alpha {
				t.Errorf("%d of %d rolled back: at least %.4f, alpha is %v", n, runs, bound, alpha)
			}
			played.Add(1)
			hits.Add(int64(n))
		})
	}
}

// falseRollbackRuns is how much is simulated: in a hurry few runs at an alpha that
// they can hold to.
func falseRollbackRuns() (runs int, alpha float64) {
	if *full {
		return 20_000, 0.001
	}
	return 250, 0.10
}

const falseRollbackColumns = "no difference | runs | rolled back | share | at most (95 %)"

func (tab *table) falseRollbacks(i int, name string, hits, runs int) {
	tab.set(i, "%s | %d | %d | %.4f %% | %.4f %%", name, runs, hits, 100*float64(hits)/float64(runs), 100*upper(hits, runs))
}

// stride thins the seconds of a scenario out when there is little time.
func stride() int {
	if *full {
		return 1
	}
	return 8
}

func (s scenario) falseRollbacks(t *testing.T, seed, runs int, change func(*analysis.Config)) int {
	t.Helper()
	return count(each(runs, func(run uint64) bool { return s.falseRollback(t, uint64(seed), run, false, change) }))
}

// TestPooledStrataFail: the simulation can see a broken test. Adding two
// regions up before the bet, as one must not, rolls nearly every good release back.
func TestPooledStrataFail(t *testing.T) {
	t.Parallel()
	all := scenarios()
	s := all[len(all)-1]
	const runs = 40
	if n := count(each(runs, func(run uint64) bool { return s.falseRollback(t, 99, run, true, nil) })); n < runs*9/10 {
		t.Errorf("%d of %d good releases rolled back with pooled strata; the simulation should see Simpson's paradox", n, runs)
	}
}

// TestFalseRollbacksLatency: the same for the ordinal bet, with levels that
// drift by a factor of two between blocks, and a canary whose fast half is faster.
func TestFalseRollbacksLatency(t *testing.T) {
	t.Parallel()
	runs, alpha := falseRollbackRuns()
	if !*full {
		runs = 150
	}
	l := shape{name: "lognormal", sigma: 0.5}
	latency := l.metric(t)
	tab := newTable(t, falseRollbackColumns)
	for i, row := range []struct {
		name   string
		canary func(u, x float64) float64
	}{
		{"latency: the same, drifting", func(_, x float64) float64 { return x }},
		{"latency: the fast half is 30 % faster", func(u, x float64) float64 {
			if u < .5 {
				return x * .7
			}
			return x
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			hits := count(each(runs, func(run uint64) bool { return l.falseRollback(t, latency, run, alpha, row.canary) }))
			tab.falseRollbacks(i, row.name, hits, runs)
			if bound := upper(hits, runs); bound > alpha {
				t.Errorf("%d of %d rolled back: up to %.4f, alpha is %v", hits, runs, bound, alpha)
			}
		})
	}
}

// falseRollback plays blocks of requests whose level drifts for both arms.
func (s shape) falseRollback(t *testing.T, latency analysis.Latency, run uint64, alpha float64, canary func(u, x float64) float64) bool {
	r := seeded(140, run)
	test := watch(t, func(c *analysis.Config) {
		c.Alpha, c.Guard, c.Rates, c.Latencies = alpha, 0, nil, []analysis.Latency{latency}
	})
	blocks, size := 15, uint64(60)
	if *full {
		blocks, size = 60, 100
	}
	for i := range blocks {
		level := 1 + float64(i%5)/4
		b := s.block(r, latency, i, size, .3,
			func(u, x float64) float64 { return level * canary(u, x) },
			func(x float64) float64 { return level * x })
		if err := test.Add(b.End, b); err != nil {
			t.Error(err)
			return false
		}
		if failed(test) {
			return true
		}
	}
	return false
}
