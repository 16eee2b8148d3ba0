package analysis

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// lognormal draws a latency with a median of 50 ms.
func lognormal(r *rand.Rand, sigma float64) time.Duration {
	return time.Duration(50 * float64(time.Millisecond) * math.Exp(sigma*r.NormFloat64()))
}

func lognormalLatency(tb testing.TB, tolerance float64) Latency {
	tb.Helper()
	r := seeded(7, 7)
	var h Histogram
	for range 10_000 {
		h.Observe(lognormal(r, 0.5))
	}
	l, err := NewLatency("latency", 1, tolerance, &h)
	if err != nil {
		tb.Fatal(err)
	}
	return l
}

func TestLatencyClasses(t *testing.T) {
	t.Parallel()
	l := lognormalLatency(t, 0.05)
	if len(l.Cuts) != 10 || len(l.Bets) != 11 || !slices.Equal(l.Certify, []int{2, 7}) {
		t.Fatalf("%d cuts, %d bets, certified at %v; want 10, 11, [2 7]", len(l.Cuts), len(l.Bets), l.Certify)
	}
	if l.Shift != 2 || math.Abs(l.Tolerance()-0.0404) > 1e-9 {
		t.Errorf("a tolerance of 5 %% became %d buckets, %v; want 2, 0.0404", l.Shift, l.Tolerance())
	}
	if err := (Config{Alpha: .1, Beta: .1, Latencies: []Latency{l}}).validate(); err != nil {
		t.Error(err)
	}
	// The cuts lie where the quantiles of the distribution are, within a bucket.
	for i, z := range []float64{-1.2816, -0.6745, 0, 0.6745, 1.2816, 1.6449, 2.0537, 2.3263, 2.5758, 3.0902} {
		want := math.Log(50_000*math.Exp(0.5*z)) / math.Log(Gamma)
		if math.Abs(float64(l.Cuts[i])-want) > 4 {
			t.Errorf("cut %d is bucket %d, want about %.1f", i, l.Cuts[i], want)
		}
	}
	// Classes are exact, and a canary's are moved by the tolerance.
	var h Histogram
	h.Observe(Edge(l.Cuts[2]) - 1)
	h.Observe(Edge(l.Cuts[2]+2) - 1)
	h.ObserveFailed()
	if got := l.Classes(&h, false, nil); got[2] != 1 || got[3] != 1 || got[10] != 1 {
		t.Errorf("baseline classes %v", got)
	}
	if got := l.Classes(&h, true, nil); got[2] != 2 || got[10] != 1 {
		t.Errorf("canary classes %v", got)
	}
}

func TestLatencyRefusals(t *testing.T) {
	t.Parallel()
	var few, failed, constant Histogram
	for range 2000 {
		failed.ObserveFailed()
		constant.Observe(time.Millisecond)
	}
	if _, err := NewLatency("l", 1, 0, &few); err == nil {
		t.Error("an empty baseline was taken")
	}
	if _, err := NewLatency("l", 1, 0, &failed); err == nil {
		t.Error("a baseline of failures was taken")
	}
	if _, err := NewLatency("l", 1, -1, &constant); err == nil {
		t.Error("a negative tolerance was taken")
	}
	l, err := NewLatency("l", 1, 0.1, &constant)
	if err != nil || len(l.Cuts) != 1 {
		t.Fatalf("a constant latency: %v cuts, %v", l.Cuts, err)
	}
	if err := (Config{Alpha: .1, Beta: .1, Latencies: []Latency{l}}).validate(); err != nil {
		t.Errorf("a constant latency: %v", err)
	}
}

func TestHistogram(t *testing.T) {
	t.Parallel()
	r := seeded(7, 1)
	var whole Histogram
	parts := make([]Histogram, 3)
	for range 5000 {
		d := lognormal(r, 1)
		whole.Observe(d)
		parts[r.IntN(3)].Observe(d)
		if i := Bucket(d); d > Edge(i) || i > 0 && d <= Edge(i-1) {
			t.Fatalf("%v is in bucket %d (%v to %v)", d, i, Edge(i-1), Edge(i))
		}
	}
	var merged, wire Histogram
	for _, i := range []int{2, 0, 1} {
		merged.Merge(&parts[i])
		if err := wire.AddSparse(parts[i].Sparse()); err != nil {
			t.Fatal(err)
		}
	}
	if merged != whole || wire != whole {
		t.Error("merged histograms differ from the whole")
	}
	if q := whole.Quantile(.5).Seconds(); math.Abs(q-0.05) > 0.005 {
		t.Errorf("median %v s, want about 0.05", q)
	}
	if err := wire.AddSparse([][2]uint64{{1, 1}, {Buckets, 1}}); err == nil || wire != whole {
		t.Error("a bucket outside was taken, or half of a bad report")
	}
	for _, row := range []struct {
		of   time.Duration
		want int
	}{{0, 0}, {-5, 0}, {time.Microsecond, 0}, {time.Hour, 1112}, {2 * time.Hour, Buckets - 1}, {math.MaxInt64, Buckets - 1}} {
		if got := Bucket(row.of); got != row.want {
			t.Errorf("bucket of %v is %d, want %d", row.of, got, row.want)
		}
	}
}
