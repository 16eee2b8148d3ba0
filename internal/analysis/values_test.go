package analysis

import (
	"math"
	"testing"
	"time"
)

// value is one row of the table of published and exact values that the design
// holds this package to (its section 5, or the section named).
type value struct {
	section, name string
	got, want     float64
	digits        float64 // the unit of the last stated digit
}

func (v value) check(t *testing.T) {
	t.Helper()
	if !(math.Abs(v.got-v.want) <= v.digits) {
		t.Errorf("%s: %s: got %.15g, want %.15g", v.section, v.name, v.got, v.want)
	}
}

// oneRate is a test of one rate without reserve and guard, at 1000 : 1.
func oneRate(tb testing.TB, change func(*Config)) *Test {
	tb.Helper()
	c := Default()
	c.Reserve, c.Guard = 0, 0
	c.Rates = []Rate{{Name: "errors", Weight: 1}}
	if change != nil {
		change(&c)
	}
	test, err := New(c)
	if err != nil {
		tb.Fatal(err)
	}
	return test
}

// rateBlock is a block of one second that ends at the given second.
func rateBlock(stratum string, second int, nc, nb, xc, xb uint64) Block {
	end := time.Duration(second) * time.Second
	return Block{
		Metric: "errors", Stratum: stratum, Start: end - time.Second, End: end,
		Canary: Counts{Requests: nc, Bad: xc}, Baseline: Counts{Requests: nb, Bad: xb},
	}
}

func add(tb testing.TB, test *Test, blocks ...Block) {
	tb.Helper()
	if err := test.Add(blocks[0].End, blocks...); err != nil {
		tb.Fatal(err)
	}
}

func TestExactBlockFactors(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		nc, nb, xc, xb uint64
		psi, m, factor float64
	}{
		{10, 90, 3, 2, 5, 5.001476579385, 3.218580552588},
		{10, 90, 0, 5, 5, 5.001476579385, -1.609733184714},
		{50, 50, 9, 1, 2, 54.79909547946, 2.234650937071},
		{1, 19, 1, 0, 100, 5.95, 2.821778966431},
		{200, 1800, 9, 20, 3, 188.1018151322, 4.650527211927},
	} {
		u := newUrn(row.nc, row.nb, row.xc, row.xb)
		got := u.lnFactor(float64(row.xc), row.psi, math.Log(row.psi))
		value{"§5 exact blocks", "ln factor", got, row.factor, 1e-12}.check(t)
		m := math.Exp(float64(row.xc)*math.Log(row.psi) - got)
		value{"§5 exact blocks", "M", m, row.m, 1e-12 * row.m}.check(t)
	}
}

func TestDefaultGridSequence(t *testing.T) {
	t.Parallel()
	test := oneRate(t, nil)
	blocks := [][4]uint64{{20, 180, 0, 1}, {22, 178, 2, 0}, {19, 181, 3, 1}, {21, 179, 2, 0}, {18, 182, 4, 1}, {20, 180, 3, 0}}
	want := []float64{-0.521175786, 1.856283733, 6.218805500, 10.039442480, 17.311689312, 23.663918017}
	for i, b := range blocks {
		add(t, test, rateBlock("a", i+1, b[0], b[1], b[2], b[3]))
		value{"§5 default grid", "ln wealth", test.state.Wealth.ln(), want[i], 1e-9}.check(t)
		if failed := i >= 3; test.state.Failed != failed {
			t.Errorf("§5 default grid: after block %d failed is %v, want %v", i+1, test.state.Failed, failed)
		}
	}
}

func TestMultiClassE(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		nc          float64
		totals, rho []float64
		want        float64
	}{
		{10, []float64{50, 25, 15, 5, 5}, []float64{.7, 1, 1.3, 2, 8}, 1.999631483411},
		{3, []float64{5, 3, 2}, []float64{.8, 1.1, 2}, 0.313660443466},
		{7, []float64{0, 90, 10}, []float64{.3, 1, 5}, 2.205400457539},
	} {
		n := 0.0
		for _, t := range row.totals {
			n += t
		}
		value{"§5 multi-class E", "ln E", lnMeanBet(row.nc, n, row.totals, row.rho), row.want, 1e-12}.check(t)
	}
}

// A block in which one of m = 1 bad requests is the canary's has the price that
// a known share c = nc/n has, so the known-share values hold for it too.
func TestKnownShareConsecutiveErrors(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		nc, nb uint64
		errors int
		wealth float64
	}{{1, 99, 2, 1150.86}, {5, 95, 3, 1471.85}, {10, 90, 4, 2154.58}, {25, 75, 6, 1133.75}, {50, 50, 12, 1302.48}} {
		test := oneRate(t, nil)
		for i := 1; i <= row.errors; i++ {
			if test.state.Failed {
				t.Errorf("§5 known share %d %%: failed after %d errors, want %d", row.nc, i-1, row.errors)
			}
			add(t, test, rateBlock("a", i, row.nc, row.nb, 1, 0))
		}
		if !test.state.Failed {
			t.Errorf("§5 known share %d %%: not failed after %d errors", row.nc, row.errors)
		}
		value{"§5 known share", "wealth", math.Exp(test.state.Wealth.ln()), row.wealth, 0.005}.check(t)
	}
}

func TestProjection(t *testing.T) {
	t.Parallel()
	alt := bernoulli{.0001, .0001}
	null := Margin{Ratio: 1, Delta: .0005}.project(alt, .1)
	one := func(canary, baseline Counts) float64 { return lnRatio(alt, null, canary, baseline) }
	bad, good := Counts{Requests: 1, Bad: 1}, Counts{Requests: 1}
	for _, v := range []value{
		{"§5 projection", "p_c0", null.canary, 0.000591543733908, 1e-15},
		{"§5 projection", "p_b0", null.baseline, 0.0000915437339, 1e-13},
		{"§5 projection", "badC", one(bad, Counts{}), -1.777565432, 1e-9},
		{"§5 projection", "badB", one(Counts{}, bad), 0.088353362, 1e-9},
		{"§5 projection", "goodC", one(good, Counts{}), 0.000491713765, 1e-12},
		{"§5 projection", "goodB", one(Counts{}, good), -0.000008457076, 1e-12},
	} {
		v.check(t)
	}
	null = Margin{Ratio: 1.5}.project(bernoulli{.01, .01}, .5)
	value{"§5 projection", "p_c0 at ratio 1.5", null.canary, 0.0119951554489, 1e-13}.check(t)
	value{"§5 projection", "p_b0 at ratio 1.5", null.baseline, 0.0079967702993, 1e-13}.check(t)
}

// The design leaves the bad counts of its Simpson check out. These are the only
// small pattern that gives both of its values: of 60 ticks A has one bad request
// on each side in 30, on the canary's only in 15, on the baseline's only in 15;
// B has one on the baseline's side in every fifth.
func TestSimpson(t *testing.T) {
	t.Parallel()
	apart, pooled := oneRate(t, nil), oneRate(t, nil)
	for tick := 1; tick <= 60; tick++ {
		ac, ab, bb := uint64(1), uint64(1), uint64(0)
		switch tick % 4 {
		case 1:
			ab = 0
		case 3:
			ac = 0
		}
		if tick%5 == 0 {
			bb = 1
		}
		add(t, apart, rateBlock("A", tick, 25, 25, ac, ab), rateBlock("B", tick, 3, 147, 0, bb))
		add(t, pooled, rateBlock("all", tick, 28, 172, ac, ab+bb))
	}
	value{"§5 Simpson", "stratified", apart.state.Wealth.ln(), -2.971520, 1e-6}.check(t)
	value{"§5 Simpson", "pooled", pooled.state.Wealth.ln(), 25.296805, 1e-6}.check(t)
	if apart.state.Failed || !pooled.state.Failed {
		t.Errorf("§5 Simpson: failed apart %v, pooled %v; want false, true", apart.state.Failed, pooled.state.Failed)
	}
}

func TestLindonMalek(t *testing.T) {
	t.Parallel()
	ln := lnMultinomial([]float64{40, 129, 233}, []float64{.1, .4, .5}, 100)
	value{"§5 Lindon-Malek", "p at n = 402", math.Exp(-ln), 0.04845591105969517, 5e-13}.check(t)
}
