package analysis

import (
	"fmt"
	"math"
	"time"
)

// Gamma is the ratio of neighbouring bucket edges. Every reporter must use the
// same; a quantile read off a histogram is within 1 % or so.
const Gamma = 1.02

// Buckets is the length of a histogram: bucket i holds durations in
// (Gamma^(i-1), Gamma^i] microseconds, bucket 0 all up to 1 µs, and the last
// one what takes longer than an hour or failed.
const Buckets = 1114

// Histogram counts durations in logarithmic buckets, with the mapping of
// DDSketch (Masson, Rim, Lee 2019). Merging is addition, so it is exact in any
// order; counts beyond a bucket edge are exact too. The zero value is empty.
type Histogram struct {
	Counts [Buckets]uint64
}

// Bucket is the bucket that a duration falls into.
func Bucket(d time.Duration) int {
	if d <= time.Microsecond {
		return 0
	}
	i := int(math.Ceil(math.Log(float64(d)/float64(time.Microsecond)) / math.Log(Gamma)))
	return min(i, Buckets-1)
}

// Edge is the upper edge of a bucket.
func Edge(bucket int) time.Duration {
	return time.Duration(math.Pow(Gamma, float64(bucket)) * float64(time.Microsecond))
}

// Observe counts one request that took d.
func (h *Histogram) Observe(d time.Duration) { h.Counts[Bucket(d)]++ }

// ObserveFailed counts one request that failed or ran into its timeout: it is
// slower than any that succeeded.
func (h *Histogram) ObserveFailed() { h.Counts[Buckets-1]++ }

// Merge adds another reporter's counts.
func (h *Histogram) Merge(other *Histogram) {
	for i, n := range &other.Counts {
		h.Counts[i] += n
	}
}

// Total is the number of requests.
func (h *Histogram) Total() uint64 {
	n := uint64(0)
	for _, c := range &h.Counts {
		n += c
	}
	return n
}

// Quantile returns the upper edge of the bucket that holds the quantile q in
// [0, 1]; 0 where the histogram is empty, an hour or more where the quantile
// is among the failed.
func (h *Histogram) Quantile(q float64) time.Duration {
	total := h.Total()
	if total == 0 {
		return 0
	}
	want, sum := q*float64(total), 0.0
	for i, c := range &h.Counts {
		if sum += float64(c); sum >= want && c > 0 {
			return Edge(i)
		}
	}
	return Edge(Buckets - 1)
}

// Sparse is the histogram as pairs of bucket and count, for the wire.
func (h *Histogram) Sparse() [][2]uint64 {
	var pairs [][2]uint64
	for i, c := range &h.Counts {
		if c > 0 {
			pairs = append(pairs, [2]uint64{uint64(i), c})
		}
	}
	return pairs
}

// AddSparse adds what Sparse returned elsewhere; all of it or nothing.
func (h *Histogram) AddSparse(pairs [][2]uint64) error {
	for _, p := range pairs {
		if p[0] >= Buckets || p[1] > maxCount {
			return fmt.Errorf("bucket %d with count %d: buckets end at %d, counts at 2^50", p[0], p[1], Buckets-1)
		}
	}
	for _, p := range pairs {
		h.Counts[p[0]] += p[1]
	}
	return nil
}
