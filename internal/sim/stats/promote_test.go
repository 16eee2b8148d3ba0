package stats

import (
	"fmt"
	"math"
	"sync/atomic"
	"testing"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/analysis"
)

// certify plays blocks of 1000 requests at fixed rates until the promotion test
// passes, and returns the canary requests it took; +Inf if it did not within the
// given number of blocks.
func certify(t *testing.T, seed, run uint64, m analysis.Margin, pc, pb, share, beta float64, blocks int) float64 {
	r := seeded(seed, run)
	test := watch(t, func(c *analysis.Config) {
		c.Beta = beta
		c.Rates[0].Margins = []analysis.Margin{m}
		c.Rates[0].History = analysis.Counts{Requests: 10_000, Bad: uint64(math.Round(10_000 * pb))}
	})
	used := 0.0
	for i := range blocks {
		nc := binomial(r, 1000, share)
		used += float64(nc)
		end := time.Duration(i+1) * time.Second
		if err := test.Add(end, rates("a", end, time.Second, nc, 1000-nc, binomial(r, nc, pc), binomial(r, 1000-nc, pb))); err != nil {
			t.Error(err)
			return 0
		}
		if test.Decide(0) == backstay.Pass {
			return used
		}
	}
	return math.Inf(1)
}

// certification is a row of the table of promotions: the published median, at
// beta 5 %, for a canary that equals the baseline; and how many blocks a bad one is
// given to slip through.
type certification struct {
	base, share float64
	margin      analysis.Margin
	median      float64
	blocks      int
}

func certifications() []certification {
	return []certification{
		{.01, .1, analysis.Margin{Ratio: 1, Delta: .005}, 2939, 300},
		{.01, .5, analysis.Margin{Ratio: 1.5}, 6824, 300},
		{.0001, .1, analysis.Margin{Ratio: 1, Delta: .0005}, 6577, 1500},
		{.001, .5, analysis.Margin{Ratio: 1.1, Delta: .0005}, 32581, 1500},
	}
}

// TestPromotionError: a canary that is worse by exactly the margin is ever
// promoted in at most beta of the rollouts, at the upper 95 % bound over the rows
// together; and a good one is promoted after about the published number of canary
// requests.
func TestPromotionError(t *testing.T) {
	t.Parallel()
	rows, runs, beta := certifications(), 1000, 0.05
	if !*full {
		rows, runs, beta = rows[:1], 300, 0.20
	}
	tab := newTable(t, "baseline | margin | share | rollouts at the margin | promoted | share of them | good canary: median / p90 | published median | planned")
	var played, promoted atomic.Int64
	t.Cleanup(func() { // when all rows are done
		n, of := int(promoted.Load()), int(played.Load())
		bound := upper(n, of)
		t.Logf("%d of %d promoted at the margin: %.2f %%, at most %.2f %% (95 %%)", n, of, 100*float64(n)/float64(of), 100*bound)
		if bound > beta {
			t.Errorf("up to %.4f are promoted at the margin, beta is %v", bound, beta)
		}
	})
	for i, row := range rows {
		t.Run(fmt.Sprintf("%v %s at %v", row.base, row.margin, row.share), func(t *testing.T) {
			t.Parallel()
			blocks := row.blocks
			if !*full {
				blocks = 100
			}
			bar := row.margin.Ratio*row.base + row.margin.Delta
			n := 0
			for _, used := range each(runs, func(run uint64) float64 {
				return certify(t, uint64(800+10*i), run, row.margin, bar, row.base, row.share, beta, blocks)
			}) {
				if !math.IsInf(used, 1) {
					n++
				}
			}
			played.Add(int64(runs))
			promoted.Add(int64(n))
			good := each(runs, func(run uint64) float64 {
				return certify(t, uint64(801+10*i), run, row.margin, row.base, row.base, row.share, .05, 20*row.blocks)
			})
			med, plan := quantile(good, .5), row.margin.Requests(row.base, row.share, .05)
			tab.set(i, "%.4g %% | %s | %.0f %% | %d | %d | %.1f %% | %.0f / %.0f | %.0f | %.0f", 100*row.base, row.margin, 100*row.share,
				runs, n, 100*float64(n)/float64(runs), med, quantile(good, .9), row.median, plan)
			if *full && math.Abs(med-row.median) > .15*row.median {
				t.Errorf("promoted after %v canary requests, published %v", med, row.median)
			}
			if *full && (plan < med || plan > 2*med) {
				t.Errorf("planned %v canary requests, took %v; the plan should be on the safe side", plan, med)
			}
		})
	}
}
