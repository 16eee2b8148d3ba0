package stats

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/backstay-dev/backstay/internal/analysis"
)

// effect is a regression: the canary's rate from the baseline's.
type effect struct {
	name string
	rate func(base float64) float64
}

func times(name string, f float64) effect {
	return effect{name, func(base float64) float64 { return f * base }}
}

func plus(name string, d float64) effect {
	return effect{name, func(base float64) float64 { return base + d }}
}

func broken() effect { return effect{"100 %", func(float64) float64 { return 1 }} }

// regression is a row of the table of detection times: canary requests to the
// rollback, as published for blocks of 20, all capital at work or half in reserve;
// 0 where nothing is published.
type regression struct {
	base    float64
	effect  effect
	share   float64
	plain   float64
	reserve float64
}

func regressions() []regression {
	x2, x5, x10, pp := times("x2", 2), times("x5", 5), times("x10", 10), plus("+1pp", .01)
	return []regression{
		{.0001, x2, .01, 0, 0},
		{.0001, x2, .1, 249043, 268353},
		{.0001, x2, .5, 489339, 518757},
		{.0001, x5, .01, 0, 0},
		{.0001, x5, .1, 23975, 26729},
		{.0001, x5, .5, 53430, 58890},
		{.0001, x10, .01, 0, 7201},
		{.0001, x10, .1, 7969, 8549},
		{.0001, x10, .5, 17547, 19799},
		{.0001, pp, .1, 448, 500},
		{.0001, pp, .5, 1256, 1377},
		{.0001, broken(), .01, 0, 0},
		{.0001, broken(), .1, 5, 5},
		{.0001, broken(), .5, 10, 10},
		{.001, x2, .01, 0, 0},
		{.001, x2, .1, 24003, 27042},
		{.001, x2, .5, 47364, 53151},
		{.001, x5, .01, 0, 0},
		{.001, x5, .1, 2441, 2706},
		{.001, x5, .5, 5381, 5740},
		{.001, x10, .01, 0, 0},
		{.001, x10, .1, 766, 882},
		{.001, x10, .5, 1779, 1968},
		{.001, pp, .1, 694, 760},
		{.001, pp, .5, 1559, 1754},
		{.001, broken(), .01, 0, 0},
		{.001, broken(), .1, 5, 5},
		{.001, broken(), .5, 10, 10},
		{.01, x2, .01, 0, 0},
		{.01, x2, .1, 2359, 2650},
		{.01, x2, .5, 4658, 5120},
		{.01, x5, .01, 0, 0},
		{.01, x5, .1, 254, 277},
		{.01, x5, .5, 529, 587},
		{.01, x10, .01, 0, 0},
		{.01, x10, .1, 78, 84},
		{.01, x10, .5, 183, 195},
		{.01, broken(), .01, 0, 0},
		{.01, broken(), .1, 5, 5},
		{.01, broken(), .5, 10, 10},
	}
}

// detect returns the canary requests until the rollback, in blocks of 20 with
// drawn arms. Runs of blocks without a bad request are drawn as one.
func detect(t *testing.T, r *rand.Rand, row regression, reserve float64) float64 {
	const size = 20
	test := watch(t, func(c *analysis.Config) { c.Guard, c.Reserve = 0, reserve })
	pc, c := row.effect.rate(row.base), row.share
	bad := c*pc + (1-c)*row.base
	some := 1 - math.Pow(1-bad, size) // a block has some bad request
	ofBad, ofGood := c*pc/bad, 0.0    // share of the canary among the bad and the good
	if bad < 1 {
		ofGood = c * (1 - pc) / (1 - bad)
	}
	used := 0.0
	for i := time.Duration(1); ; i++ {
		silent := uint64(math.Log(1-r.Float64()) / math.Log1p(-math.Min(some, 1-1e-16)))
		used += float64(binomial(r, size*silent, ofGood))
		m := binomial(r, size, bad)
		for m == 0 {
			m = binomial(r, size, bad)
		}
		xc := binomial(r, m, ofBad)
		nc := xc + binomial(r, size-m, ofGood)
		used += float64(nc)
		if err := test.Add(i, rates("a", i, 1, nc, size-nc, xc, m-xc)); err != nil {
			t.Error(err)
			return 0
		}
		if failed(test) {
			return used
		}
	}
}

// oracle is the same for the bet that knows both rates and the share, and is
// still valid whatever the baseline does: nobody who compares the arms fairly can
// be faster on average. It looks after every bad request, and after every request
// where most are bad.
func oracle(r *rand.Rand, row regression) float64 {
	pc, pb, c := row.effect.rate(row.base), row.base, row.share
	bad := c*pc + (1-c)*pb
	badC, badB, goodB := math.Log(pc/bad), math.Log(pb/bad), math.Log((1-pb)/(1-bad))
	goodC := math.Inf(-1)
	if pc < 1 {
		goodC = math.Log((1 - pc) / (1 - bad))
	}
	ofBad, ofGood := c*pc/bad, c*(1-pc)/(1-bad)
	ln, used := 0.0, 0.0
	for ln < math.Log(1000) {
		goods := uint64(math.Log(1-r.Float64()) / math.Log1p(-bad))
		if bad > 0.05 { // one by one
			goods = 0
			if r.Float64() >= bad {
				if r.Float64() < ofGood {
					ln, used = ln+goodC, used+1
				} else {
					ln += goodB
				}
				continue
			}
		}
		canary := float64(binomial(r, goods, ofGood))
		if canary > 0 {
			ln += canary * goodC
		}
		ln, used = ln+(float64(goods)-canary)*goodB, used+canary
		if r.Float64() < ofBad {
			ln, used = ln+badC, used+1
		} else {
			ln += badB
		}
	}
	return used
}

// TestDetection: the median number of canary requests until the rollback is
// within 10 % of the published one, and at most 1.5 times what the concurrent
// oracle needs where that is more than a handful; with half the capital in reserve
// for later, 1.6 times. A broken canary is found after six requests at most.
func TestDetection(t *testing.T) {
	t.Parallel()
	runs, off := 2000, 0.10
	if !*full {
		runs, off = 200, 0.20
	}
	tab := newTable(t, "baseline | canary | share | oracle | all capital at work: median / p90 | half in reserve: median / p90 | × oracle | × oracle, reserve")
	for i, row := range regressions() {
		if !*full && row.base < .01 && row.effect.rate(row.base) < .05 {
			continue // long
		}
		t.Run(fmt.Sprintf("%v %s at %v", row.base, row.effect.name, row.share), func(t *testing.T) {
			t.Parallel()
			sample := func(salt int, f func(r *rand.Rand) float64) []float64 {
				return each(runs, func(run uint64) float64 { return f(seeded(uint64(2000+10*i+salt), run)) })
			}
			plain := sample(0, func(r *rand.Rand) float64 { return detect(t, r, row, 0) })
			half := sample(1, func(r *rand.Rand) float64 { return detect(t, r, row, 0.5) })
			best := sample(2, func(r *rand.Rand) float64 { return oracle(r, row) })
			med, med2, low := quantile(plain, .5), quantile(half, .5), quantile(best, .5)
			tab.set(i, "%.4g %% | %s | %.0f %% | %.0f | %.0f / %.0f | %.0f / %.0f | %.2f | %.2f", 100*row.base, row.effect.name, 100*row.share,
				low, med, quantile(plain, .9), med2, quantile(half, .9), med/low, med2/low)
			for _, m := range []struct{ got, want float64 }{{med, row.plain}, {med2, row.reserve}} {
				if m.want > 0 && math.Abs(m.got-m.want) > max(1, off*m.want) {
					t.Errorf("median %v canary requests, published %v", m.got, m.want)
				}
			}
			if *full && low > 20 && (med > 1.5*low || med2 > 1.6*low) {
				t.Errorf("median %v and %v with reserve, the concurrent oracle %v", med, med2, low)
			}
			if row.effect.name == "100 %" && row.share <= .1 && max(med, med2) > 6 {
				t.Errorf("a broken canary was found after %v and %v requests, want at most 6", med, med2)
			}
		})
	}
}

// onset plays a regression that begins after some clean minutes and returns the
// seconds from its beginning to the rollback.
func onset(t *testing.T, r *rand.Rand, base float64, e effect, clean time.Duration) float64 {
	const requests, share = 200, .1
	test := watch(t, func(c *analysis.Config) { c.Planned = time.Hour; c.Guard = 0 })
	for end := time.Second; ; end += time.Second {
		pc := base
		if end > clean {
			pc = e.rate(base)
		}
		nc := binomial(r, requests, share)
		xc, xb := binomial(r, nc, pc), binomial(r, requests-nc, base)
		if xc+xb == 0 {
			continue
		}
		if err := test.Add(end, rates("a", end, time.Second, nc, requests-nc, xc, xb)); err != nil {
			t.Error(err)
			return 0
		}
		if failed(test) {
			return (end - clean).Seconds()
		}
	}
}

// TestLateRegression: one that begins after half an hour is found within twice
// the time of one that is there from the start.
func TestLateRegression(t *testing.T) {
	t.Parallel()
	runs := 40
	if *full {
		runs = 2000
	}
	tab := newTable(t, "regression | there from the start: median | after 30 clean minutes: median | ratio")
	for i, row := range []struct {
		base   float64
		effect effect
	}{{.001, times("x5", 5)}, {.001, plus("+1pp", .01)}, {.01, times("x2", 2)}, {.001, broken()}} {
		t.Run(fmt.Sprintf("%v %s", row.base, row.effect.name), func(t *testing.T) {
			t.Parallel()
			median := func(salt int, clean time.Duration) float64 {
				return quantile(each(runs, func(run uint64) float64 {
					return onset(t, seeded(uint64(500+10*i+salt), run), row.base, row.effect, clean)
				}), .5)
			}
			now, late := median(0, 0), median(1, 30*time.Minute)
			tab.set(i, "%.4g %% %s | %.0f s | %.0f s | %.2f", 100*row.base, row.effect.name, now, late, late/now)
			if late > 2*now {
				t.Errorf("found after %v s, %v s when it begins late", now, late)
			}
		})
	}
}
