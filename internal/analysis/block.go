package analysis

import (
	"errors"
	"fmt"
	"time"
)

// Block is what one stratum saw of one metric in one slice of time. A stratum
// is anything over which the canary's share may differ (a proxy, a region, a
// route); counts of different strata are never added up. A block's ends must
// not depend on outcomes: it is closed when a weight or the set of instances
// changes, else after 1 s if it holds 20 requests, else at 20 or after 60 s.
// Requests belong to the block in which they started, and a block is final
// when the outcome of each is known. If one arm's report is missing, the whole
// block must be left out.
type Block struct {
	Metric  string `json:"metric"`
	Stratum string `json:"stratum"`
	// Start and End are measured from the start of the test.
	Start time.Duration `json:"start_ns"`
	End   time.Duration `json:"end_ns"`
	// Share, if not 0, is the canary share that was configured during the block,
	// and makes it count for the sample-ratio check.
	Share    float64 `json:"share,omitempty"`
	Canary   Counts  `json:"canary"`
	Baseline Counts  `json:"baseline"`
}

// Counts are the outcomes of one arm: Requests and Bad of a rate, Classes of a
// latency (from Latency.Classes).
type Counts struct {
	Requests uint64   `json:"requests,omitempty"`
	Bad      uint64   `json:"bad,omitempty"`
	Classes  []uint64 `json:"classes,omitempty"`
}

// maxCount keeps every sum of counts exact in a float64.
const maxCount = 1 << 50

// total is the number of requests.
func (c Counts) total() uint64 {
	if c.Classes == nil {
		return c.Requests
	}
	n := uint64(0)
	for _, t := range c.Classes {
		n += t
	}
	return n
}

// above is the number of requests beyond the cut.
func (c Counts) above(cut int) uint64 {
	n := uint64(0)
	for _, t := range c.Classes[cut+1:] {
		n += t
	}
	return n
}

// validate checks the counts of a metric with so many classes; 0 is a rate.
func (c Counts) validate(classes int) error {
	switch {
	case len(c.Classes) != classes:
		return fmt.Errorf("%d classes, %d wanted", len(c.Classes), classes)
	case classes > 0 && (c.Requests != 0 || c.Bad != 0):
		return errors.New("requests or bad requests beside classes")
	case c.Bad > c.Requests:
		return fmt.Errorf("%d bad of %d requests", c.Bad, c.Requests)
	case c.Requests > maxCount:
		return fmt.Errorf("%d requests: at most 2^50 can be counted", c.Requests)
	}
	for _, t := range c.Classes {
		if t > maxCount {
			return fmt.Errorf("%d requests in a class: at most 2^50 can be counted", t)
		}
	}
	return nil
}

// Merge adds what another reporter counted in the same stratum and slice, so
// that it does not matter in what order reports come in: counts are whole
// numbers. It refuses what is not the same block.
func (b Block) Merge(other Block) (Block, error) {
	if b.Metric != other.Metric || b.Stratum != other.Stratum || b.Start != other.Start || b.End != other.End || b.Share != other.Share {
		return b, fmt.Errorf("merge block %s/%s %v-%v with %s/%s %v-%v: metric, stratum, slice and share must be the same",
			b.Metric, b.Stratum, b.Start, b.End, other.Metric, other.Stratum, other.Start, other.End)
	}
	if len(b.Canary.Classes) != len(other.Canary.Classes) || len(b.Baseline.Classes) != len(other.Baseline.Classes) {
		return b, fmt.Errorf("merge block %s/%s: the numbers of classes differ", b.Metric, b.Stratum)
	}
	b.Canary, b.Baseline = b.Canary.plus(other.Canary), b.Baseline.plus(other.Baseline)
	return b, nil
}

func (c Counts) plus(d Counts) Counts {
	sum := Counts{Requests: c.Requests + d.Requests, Bad: c.Bad + d.Bad}
	for i := range c.Classes {
		sum.Classes = append(sum.Classes, c.Classes[i]+d.Classes[i])
	}
	return sum
}
