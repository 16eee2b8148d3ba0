package report

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/backstay-dev/backstay"
)

// Spread is how a set of durations lies. A percentile is given from so many
// values on: 5 for the median, 20 for p90, 200 for p99; below that it is nil,
// because it would say more than the values do. Percentiles are exact to 1 %.
type Spread struct {
	Count int64              `json:"count"`
	Min   *backstay.Duration `json:"min,omitempty"`
	P50   *backstay.Duration `json:"p50,omitempty"`
	P90   *backstay.Duration `json:"p90,omitempty"`
	P99   *backstay.Duration `json:"p99,omitempty"`
	Max   *backstay.Duration `json:"max,omitempty"`
}

// The least numbers of values for a percentile.
const (
	leastForP50 = 5
	leastForP90 = 20
	leastForP99 = 200
)

// histogram counts durations in buckets that are 1 % wide, so that any number
// of them takes the same memory: at most some 4,000 buckets from a microsecond
// to a century.
type histogram struct {
	count    int64
	min, max time.Duration
	buckets  map[int]int64
}

const bucketWidth = 1.01

func (h *histogram) add(d time.Duration) {
	if d < 0 {
		return // the clock was set back: not a duration
	}
	if h.buckets == nil {
		h.buckets = map[int]int64{}
	}
	if h.count == 0 || d < h.min {
		h.min = d
	}
	h.max = max(h.max, d)
	h.count++
	h.buckets[bucketOf(d)]++
}

func bucketOf(d time.Duration) int {
	us := float64(d) / float64(time.Microsecond)
	if us < 1 {
		return 0
	}
	return 1 + int(math.Log(us)/math.Log(bucketWidth))
}

// upTo is the middle of a bucket.
func upTo(bucket int) time.Duration {
	if bucket == 0 {
		return 0
	}
	return time.Duration(math.Pow(bucketWidth, float64(bucket)-0.5) * float64(time.Microsecond))
}

// at is the value that this part (0 to 1) of all values does not exceed.
func (h *histogram) at(part float64) time.Duration {
	rank := int64(math.Ceil(part * float64(h.count)))
	for _, b := range slices.Sorted(maps.Keys(h.buckets)) {
		if rank -= h.buckets[b]; rank <= 0 {
			return min(max(upTo(b), h.min), h.max)
		}
	}
	return h.max
}

func (h *histogram) spread() Spread {
	s := Spread{Count: h.count}
	if h.count == 0 {
		return s
	}
	give := func(d time.Duration) *backstay.Duration {
		v := backstay.Duration(d)
		return &v
	}
	s.Min, s.Max = give(h.min), give(h.max)
	for _, p := range []struct {
		least int64
		part  float64
		into  **backstay.Duration
	}{{leastForP50, 0.5, &s.P50}, {leastForP90, 0.9, &s.P90}, {leastForP99, 0.99, &s.P99}} {
		if h.count >= p.least {
			*p.into = give(h.at(p.part))
		}
	}
	return s
}

// words say the spread in one line.
func (s Spread) words() string {
	if s.Count == 0 {
		return "none measured"
	}
	var parts []string
	if s.P50 != nil {
		parts = append(parts, "typically "+took(s.P50))
	}
	switch {
	case s.Count == 1:
		return took(s.Min) + ", measured once"
	case s.P50 == nil:
		parts = append(parts, took(s.Min)+" to "+took(s.Max))
	default:
		parts = append(parts, "at most "+took(s.Max))
	}
	return strings.Join(parts, ", ") + fmt.Sprintf(", measured %d times", s.Count)
}

// cells are p50, p90, p99 and the largest of a table.
func (s Spread) cells() []string {
	cell := func(d *backstay.Duration, least int64) string {
		if d != nil {
			return took(d)
		}
		if s.Count == 0 {
			return "-"
		}
		return fmt.Sprintf("too few (%d of %d)", s.Count, least)
	}
	largest := "-"
	if s.Max != nil {
		largest = took(s.Max)
	}
	return []string{fmt.Sprint(s.Count), cell(s.P50, leastForP50), cell(s.P90, leastForP90), cell(s.P99, leastForP99), largest}
}
