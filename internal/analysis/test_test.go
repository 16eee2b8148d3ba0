package analysis

import (
	"bytes"
	"encoding/json"
	"flag"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// both watches errors with margins and a limit, and a latency.
func both(tb testing.TB) *Test {
	tb.Helper()
	c := Default()
	c.Rates = []Rate{{
		Name: "errors", Weight: 5, Margins: ImpactMargins(0.0005, []float64{.05, .5, 1}),
		History: Counts{Requests: 10_000, Bad: 10}, Limit: 0.05,
	}}
	latency := lognormalLatency(tb, 0.05)
	latency.Weight = 3
	c.Latencies = []Latency{latency}
	test, err := New(c)
	if err != nil {
		tb.Fatal(err)
	}
	return test
}

// looks are the blocks of some seconds: two strata, both metrics.
func looks(tb testing.TB, test *Test, seconds int) [][]Block {
	tb.Helper()
	r := seeded(8, 8)
	l := test.config.Latencies[0]
	var all [][]Block
	for second := 1; second <= seconds; second++ {
		var look []Block
		for _, stratum := range []string{"eu", "us"} {
			b := rateBlock(stratum, second, 20+r.Uint64N(10), 180, r.Uint64N(3), r.Uint64N(4))
			b.Share = 0.1
			lat := Block{Metric: "latency", Stratum: stratum, Start: b.Start, End: b.End}
			for i, arm := range []*Counts{&lat.Canary, &lat.Baseline} {
				var h Histogram
				n := []int{25, 180}[i]
				for range n {
					h.Observe(lognormal(seeded(uint64(second), uint64(n)), 0.5))
				}
				arm.Classes = l.Classes(&h, arm == &lat.Canary, nil)
				arm.Classes[r.IntN(11)] += 3
			}
			look = append(look, b, lat)
		}
		all = append(all, look)
	}
	return all
}

func stateOf(tb testing.TB, test *Test) string {
	tb.Helper()
	data, err := json.Marshal(test)
	if err != nil {
		tb.Fatal(err)
	}
	return string(data)
}

// Reports come in any order, in parts, and twice: the bits are the same.
func TestOrderPartsAndRepeatsGiveTheSameBits(t *testing.T) {
	t.Parallel()
	plain, shuffled := both(t), both(t)
	r := seeded(8, 1)
	for _, look := range looks(t, plain, 8) {
		add(t, plain, look...)
		var other []Block
		for _, b := range look {
			// Two reporters saw a part of the block each.
			part := Block{Metric: b.Metric, Stratum: b.Stratum, Start: b.Start, End: b.End, Share: b.Share}
			if b.Canary.Classes == nil {
				part.Canary = Counts{Requests: b.Canary.Requests / 3, Bad: b.Canary.Bad / 3}
				part.Baseline = Counts{Requests: b.Baseline.Requests / 3, Bad: b.Baseline.Bad / 3}
				b.Canary.Requests -= part.Canary.Requests
				b.Canary.Bad -= part.Canary.Bad
				b.Baseline.Requests -= part.Baseline.Requests
				b.Baseline.Bad -= part.Baseline.Bad
			} else {
				part.Canary.Classes, part.Baseline.Classes = make([]uint64, 11), make([]uint64, 11)
				b.Canary.Classes = slices.Clone(b.Canary.Classes)
				part.Canary.Classes[3], b.Canary.Classes[3] = b.Canary.Classes[3], 0
			}
			whole, err := part.Merge(b)
			if r.IntN(2) == 0 {
				whole, err = b.Merge(part)
			}
			if err != nil {
				t.Fatal(err)
			}
			other = append(other, whole)
		}
		r.Shuffle(len(other), func(i, j int) { other[i], other[j] = other[j], other[i] })
		add(t, shuffled, other...)
		if err := shuffled.Add(shuffled.state.Now, other[:2]...); err != nil {
			t.Fatalf("a report that was sent twice: %v", err)
		}
		// The second sending was a look without news: undo its traces in the count.
		shuffled.state.Looks--
	}
	if shuffled.state.Repeated != 16 {
		t.Errorf("%d repeated blocks, want 16", shuffled.state.Repeated)
	}
	shuffled.state.Repeated = 0
	if diff := cmp.Diff(stateOf(t, plain), stateOf(t, shuffled)); diff != "" {
		t.Errorf("order, parts or repeats changed the state:\n%s", diff)
	}
}

// A control plane that is killed at any look and goes on from what it wrote
// has the same bits in the end as one that lived.
func TestResumedTestGoesOnWithTheSameBits(t *testing.T) {
	t.Parallel()
	lived, killed := both(t), both(t)
	for _, look := range looks(t, lived, 70) {
		add(t, lived, look...)
		add(t, killed, look...)
		again, err := Restore([]byte(stateOf(t, killed)))
		if err != nil {
			t.Fatal(err)
		}
		killed = again
	}
	if diff := cmp.Diff(stateOf(t, lived), stateOf(t, killed)); diff != "" {
		t.Errorf("resumed state differs:\n%s", diff)
	}
	if diff := cmp.Diff(lived.Verdict(1), killed.Verdict(1)); diff != "" {
		t.Errorf("resumed verdict differs:\n%s", diff)
	}
	if lived.state.Wealth.Paid == 0 || lived.state.Wealth.Window == 0 {
		t.Error("neither reserve nor guard acted in this test")
	}
}

func TestGoldenState(t *testing.T) {
	t.Parallel()
	test := both(t)
	for _, look := range looks(t, test, 3) {
		add(t, test, look...)
	}
	var got bytes.Buffer
	if err := json.Indent(&got, []byte(stateOf(t, test)), "", " "); err != nil {
		t.Fatal(err)
	}
	got.WriteByte('\n')
	path := filepath.Join("testdata", "state-v1.json")
	if *update {
		if err := os.WriteFile(path, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got.String()); diff != "" {
		t.Errorf("the state format changed; a ledger holds the old one (-want +got):\n%s", diff)
	}
	old, err := Restore(want)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(test.Verdict(0), old.Verdict(0)); diff != "" {
		t.Errorf("the golden state says something else:\n%s", diff)
	}
}

func TestDamagedStateIsRefused(t *testing.T) {
	t.Parallel()
	good := stateOf(t, both(t))
	if _, err := Restore([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string][2]string{
		"a later version":    {`"v":1`, `"v":2`},
		"cut":                {`"metrics":[{`, `"metrics":[`},
		"a bet missing":      {`"bets":[`, `"bets":[0],"x":[`},
		"reserve above what": {`"reserve":0.5,"paid"`, `"reserve":0.7,"paid"`},
		"a broken config":    {`"alpha":0.001`, `"alpha":7`},
		"a negative time":    {`"now_ns":0`, `"now_ns":-1`},
		"a curve missing":    {`"curves":[[`, `"curves":[[1],[`},
		"bad counts":         {`"canary":{}`, `"canary":{"bad":5}`},
	} {
		bad := strings.Replace(good, change[0], change[1], 1)
		if bad == good {
			t.Errorf("%s: the case changes nothing", name)
		}
		if _, err := Restore([]byte(bad)); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

func TestVerdicts(t *testing.T) {
	t.Parallel()
	test := both(t)
	if r := test.Verdict(0); r.Verdict != backstay.Undecided || math.Abs(r.Odds-1) > 1e-12 || !strings.Contains(r.Reason, "nothing can be said") {
		t.Errorf("before any data: %v, odds %v, %q", r.Verdict, r.Odds, r.Reason)
	}

	// Equal and good: safe for the wide margin first, for the narrow one later.
	margins := func(c *Config) {
		c.Rates[0].Margins = ImpactMargins(0.0005, []float64{.05, .5, 1})
		c.Rates[0].History = Counts{Requests: 10_000, Bad: 10}
	}
	test = oneRate(t, margins)
	passed := [3]int{}
	for second := 1; passed[2] == 0 && second < 200; second++ {
		add(t, test, rateBlock("a", second, 1000, 9000, 1, 9))
		for step := range passed {
			if test.Decide(step) == backstay.Pass && passed[step] == 0 {
				passed[step] = second
			}
		}
	}
	if !(passed[0] > 0 && passed[0] <= passed[1] && passed[1] < passed[2]) {
		t.Errorf("passed its steps after %v s", passed)
	}
	r := test.Verdict(9)
	if r.Verdict != backstay.Pass || r.Safe < 20 || !strings.Contains(r.Reason, "not worse by 0.05 percentage points in errors") || r.Canary == 0 {
		t.Errorf("at the end: %+v", r)
	}
	if i := r.Metrics[0].Intervals[0]; !(i.Lo < 1 && i.Hi > 1 && i.Confidence == .95) {
		t.Errorf("interval %v of two equal arms", i)
	}

	// Then it breaks: fail is final and beats pass.
	for second := 201; test.Decide(0) != backstay.Fail && second < 300; second++ {
		add(t, test, rateBlock("a", second, 1000, 9000, 500, 9))
	}
	r = test.Verdict(0)
	if r.Verdict != backstay.Fail || r.Odds < 1000 || !strings.Contains(r.Reason, "worse than the running one") {
		t.Errorf("broken: %+v", r)
	}
	for second := 301; second < 400; second++ {
		add(t, test, rateBlock("a", second, 1000, 9000, 0, 90))
	}
	if again := test.Verdict(0); again.Verdict != backstay.Fail || again.Odds != r.Odds {
		t.Errorf("a failed test took it back: %v at %v", again.Verdict, again.Odds)
	}

	// What nobody asks to pass does not.
	test = oneRate(t, nil)
	add(t, test, rateBlock("a", 1, 1e6, 9e6, 10, 90))
	if r := test.Verdict(0); r.Verdict != backstay.Undecided || !strings.Contains(r.Reason, "nothing can pass") {
		t.Errorf("without margins: %v, %q", r.Verdict, r.Reason)
	}
}

// Undecided results say how much is missing, about right.
func TestMoreIsEstimated(t *testing.T) {
	t.Parallel()
	test := oneRate(t, func(c *Config) {
		c.Rates[0].Margins = []Margin{{Ratio: 1, Delta: .0005}}
		c.Rates[0].History = Counts{Requests: 100_000, Bad: 100}
	})
	add(t, test, rateBlock("a", 1, 100, 900, 0, 1))
	r := test.Verdict(0)
	if r.More < 15_000 || r.More > 60_000 || r.Next < 150*time.Second || r.Next > 600*time.Second {
		t.Errorf("%d more canary requests in %v; about 30,000 in 300 s are needed", r.More, r.Next)
	}
}

func TestGuardNeedsThreeWindows(t *testing.T) {
	t.Parallel()
	test := oneRate(t, func(c *Config) { c.Guard, c.Reserve = 10*time.Second, 0.5 })
	for second := 1; ; second++ {
		add(t, test, rateBlock("a", second, 100, 900, 100, 0))
		if test.Decide(0) == backstay.Fail {
			if second != 21 {
				t.Errorf("a broken canary failed after %d s, want 21", second)
			}
			return
		}
		if second > 30 {
			t.Fatal("a broken canary was not found")
		}
	}
}

func TestAlarms(t *testing.T) {
	t.Parallel()
	test := oneRate(t, func(c *Config) { c.Rates[0].Limit = 0.05 })
	right, wrong := rateBlock("right", 1, 1000, 9000, 0, 0), rateBlock("wrong", 1, 1500, 8500, 0, 0)
	right.Share, wrong.Share = 0.1, 0.1
	add(t, test, right, wrong)
	r := test.Verdict(0)
	if len(r.Alarms) != 1 || r.Alarms[0].Kind != AlarmRatio || r.Alarms[0].Stratum != "wrong" || r.Alarms[0].Odds < 1e4 {
		t.Errorf("alarms %+v, want the sample ratio of one stratum", r.Alarms)
	}
	// An outage of both: over the limit, but no fault of the canary's.
	add(t, test, rateBlock("right", 2, 1000, 9000, 300, 2700))
	r = test.Verdict(0)
	if len(r.Alarms) != 2 || r.Alarms[1].Kind != AlarmLimit || r.Verdict == backstay.Fail {
		t.Errorf("alarms %+v, verdict %v; want the limit besides, and no rollback", r.Alarms, r.Verdict)
	}
}

func TestRefusedBlocks(t *testing.T) {
	t.Parallel()
	good := func() Block { return rateBlock("a", 5, 10, 90, 1, 1) }
	for name, change := range map[string]func(*Block){
		"an unknown metric":  func(b *Block) { b.Metric = "x" },
		"more bad than all":  func(b *Block) { b.Canary.Bad = 11 },
		"no length":          func(b *Block) { b.Start = b.End },
		"the future":         func(b *Block) { b.End += time.Hour },
		"before the start":   func(b *Block) { b.Start = -1 },
		"a share of one":     func(b *Block) { b.Share = 1 },
		"a share of nothing": func(b *Block) { b.Share = math.NaN() },
		"classes in a rate":  func(b *Block) { b.Canary.Classes = []uint64{1} },
		"too many":           func(b *Block) { b.Baseline.Requests = math.MaxUint64 },
		"half counted": func(b *Block) {
			b.Start = time.Second
			b.End = 4 * time.Second
		},
	} {
		test := oneRate(t, nil)
		add(t, test, rateBlock("a", 3, 10, 90, 1, 1))
		before := stateOf(t, test)
		fine, bad := good(), good()
		fine.Stratum = "fine"
		change(&bad)
		if err := test.Add(5*time.Second, fine, bad); err == nil {
			t.Errorf("%s was taken", name)
		}
		if stateOf(t, test) != before {
			t.Errorf("%s: something was counted although the look was refused", name)
		}
	}
	test := oneRate(t, nil)
	if err := test.Add(5*time.Second, good(), good()); err == nil {
		t.Error("two blocks of the same slice were taken")
	}
	add(t, test, good())
	if err := test.Add(time.Second); err == nil {
		t.Error("a look back in time was taken")
	}
	if _, err := good().Merge(rateBlock("a", 6, 1, 1, 0, 0)); err == nil {
		t.Error("blocks of different slices were merged")
	}
}

// New names everything that is wrong at once.
func TestRefusedConfigs(t *testing.T) {
	t.Parallel()
	if _, err := New(Config{}); err == nil || !strings.Contains(err.Error(), "alpha") || !strings.Contains(err.Error(), "0 metrics") {
		t.Errorf("an empty configuration: %v", err)
	}
	for name, change := range map[string]func(*Config){
		"reserve of one":      func(c *Config) { c.Reserve = 1 },
		"negative guard":      func(c *Config) { c.Guard = -1 },
		"name twice":          func(c *Config) { c.Rates = append(c.Rates, c.Rates[0]) },
		"no weight":           func(c *Config) { c.Rates[0].Weight = 0 },
		"weight not a number": func(c *Config) { c.Rates[0].Weight = math.NaN() },
		"tolerance below one": func(c *Config) { c.Rates[0].Tolerance = .5 },
		"margin of nothing":   func(c *Config) { c.Rates[0].Margins = []Margin{{Ratio: 1}} },
		"margin below one":    func(c *Config) { c.Rates[0].Margins = []Margin{{Ratio: .9, Delta: .1}} },
		"limit of one":        func(c *Config) { c.Rates[0].Limit = 1 },
		"bad history":         func(c *Config) { c.Rates[0].History = Counts{Bad: 1} },
		"falling bets": func(c *Config) {
			c.Latencies = []Latency{{Name: "l", Weight: 1, Cuts: []int{1}, Bets: [][]float64{{2, 1}}}}
		},
		"cuts twice": func(c *Config) {
			c.Latencies = []Latency{{Name: "l", Weight: 1, Cuts: []int{1, 1}, Bets: [][]float64{{1, 2, 3}}}}
		},
	} {
		c := Default()
		c.Rates = []Rate{{Name: "errors", Weight: 1}}
		change(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

// The numbers hold at any size: no NaN, no infinity, and the two ways to a
// price agree where both are used.
func FuzzAdd(f *testing.F) {
	f.Add(uint64(10), uint64(90), uint64(3), uint64(2), uint64(7), uint8(0))
	f.Add(uint64(1e12), uint64(9e12), uint64(1e12), uint64(0), uint64(1), uint8(1))
	f.Add(uint64(1e12), uint64(9e12), uint64(1e9), uint64(9e9), uint64(3), uint8(2))
	f.Add(uint64(1), uint64(1e14), uint64(1), uint64(0), uint64(1e14), uint8(3))
	f.Add(uint64(5e14), uint64(1), uint64(2e14), uint64(1), uint64(0), uint8(4))
	f.Fuzz(func(t *testing.T, nc, nb, xc, xb, extra uint64, mode uint8) {
		nc, nb = nc%(maxCount/4), nb%(maxCount/4)
		xc, xb = min(xc, nc), min(xb, nb)
		c := Default()
		c.Guard = time.Duration(mode%3) * 5 * time.Second
		c.Reserve = float64(mode%5) / 5
		c.Rates = []Rate{{
			Name: "errors", Weight: 1, Tolerance: 1 + float64(mode%4)/3, Limit: .01,
			Margins: []Margin{{Ratio: 1, Delta: .0005}, {Ratio: 1 + float64(mode)/100, Delta: .9}},
			History: Counts{Requests: extra % maxCount, Bad: extra % maxCount / 3},
		}}
		c.Latencies = []Latency{{Name: "latency", Weight: 1, Cuts: []int{3, 9}, Bets: [][]float64{{.05, 1, 30}, {1e-6, 1, 1e6}}, Certify: []int{0, 1}}}
		test, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		for second := 1; second <= 3; second++ {
			b := rateBlock("a", second*61, nc, nb, xc, xb)
			b.Share = .5
			lat := b
			lat.Metric = "latency"
			lat.Canary = Counts{Classes: []uint64{nc - xc, xc / 2, xc - xc/2}}
			lat.Baseline = Counts{Classes: []uint64{nb - xb, xb - xb/3, xb / 3}}
			add(t, test, b, lat)
			ln := test.state.Wealth.ln()
			if math.IsNaN(ln) || math.IsInf(ln, 0) || test.state.Wealth.Reserve < 0 {
				t.Fatalf("wealth %v, reserve %v", ln, test.state.Wealth.Reserve)
			}
			if _, err := json.Marshal(test.Verdict(second)); err != nil {
				t.Fatalf("verdict: %v", err)
			}
		}
		if again, err := Restore([]byte(stateOf(t, test))); err != nil || stateOf(t, again) != stateOf(t, test) {
			t.Fatalf("the state does not read back: %v", err)
		}
	})
}

// FuzzRestore: whatever is read as a state, the test that comes of it works.
func FuzzRestore(f *testing.F) {
	golden, err := os.ReadFile(filepath.Join("testdata", "state-v1.json"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(golden)
	f.Add([]byte(`{"v":1,"config":{"alpha":0.001,"beta":0.05,"rates":[{"name":"e","weight":1}]},"state":{}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		test, err := Restore(data)
		if err != nil {
			return
		}
		if _, err := json.Marshal(test.Verdict(0)); err != nil {
			t.Fatal(err)
		}
		if err := test.Add(test.state.Now); err != nil {
			t.Fatal(err)
		}
	})
}

// The price is the same whichever of the three ways computes it, at sizes that
// rationals cannot reach.
func TestPricesAgreeAtLargeCounts(t *testing.T) {
	t.Parallel()
	for _, row := range [][4]uint64{{1e6, 9e6, 1100, 9000}, {1e5, 1e5, 90_000, 91_000}, {50, 1e12, 1, 40}, {1e12, 1e12, 500, 400}, {3e4, 7e4, 0, 5e4}} {
		u := newUrn(row[0], row[1], row[2], row[3])
		for _, psi := range []float64{0.1, 1.25, 30, 1000} {
			xc := float64(row[2])
			inverted := xc*math.Log(psi) - lnMeanBet(u.nc, u.n, []float64{u.n - u.m, u.m}, []float64{1, psi})
			summed := u.permutation.lnFactor(xc, psi, math.Log(psi))
			tabled := u.lnFactor(xc, psi, math.Log(psi))
			scale := 1e-9 * (1 + math.Abs(summed))
			if math.Abs(inverted-summed) > scale || math.Abs(tabled-summed) > scale {
				t.Errorf("block %v, psi %v: inverted %.12g, summed %.12g, tabled %.12g", row, psi, inverted, summed, tabled)
			}
		}
	}
}

// The interval covers the truth at every look in nearly all runs, and shrinks.
func TestIntervalCoversAtEveryLook(t *testing.T) {
	t.Parallel()
	const runs, truth = 300, 2.0
	missed, width := 0, 0.0
	for run := range uint64(runs) {
		r := seeded(9, run)
		test := oneRate(t, nil)
		out := false
		for second := 1; second <= 40; second++ {
			var xc, xb uint64
			for range 50 {
				if r.Float64() < .1*truth/(.9+.1*truth) {
					xc++
				}
				if r.Float64() < .1 {
					xb++
				}
			}
			add(t, test, rateBlock("a", second, 50, 50, xc, xb))
			i := test.state.Metrics[0].Curves[0].interval(0.05)
			out = out || truth < i.Lo || i.Hi != 0 && truth > i.Hi
			if second == 40 {
				width += i.Hi / i.Lo / runs
			}
		}
		if out {
			missed++
		}
	}
	if missed > 15 || width > 4 {
		t.Errorf("missed the truth in %d of %d runs (95 %% wanted), mean ratio of the ends %v", missed, runs, width)
	}
}
