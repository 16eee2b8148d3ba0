package wire

import (
	"math/bits"
	"slices"
	"time"
)

// Outcome is how a request ended, as the one who watches a side counts it.
type Outcome string

// The outcomes. Bad says which of them speak against the side.
const (
	OK          Outcome = "ok"           // below 400
	ClientError Outcome = "client_error" // 4xx
	ServerError Outcome = "server_error" // 5xx of the side
	TimedOut    Outcome = "timed_out"    // no response header in time
	Unreachable Outcome = "unreachable"  // no connection, or cut before the header
	Broken      Outcome = "broken"       // cut or silent in the middle of the response
	Shed        Outcome = "shed"         // the side's queue was full, or no side could take it
	Canceled    Outcome = "canceled"     // the client went away first
	Late        Outcome = "late"         // no outcome until the block was final
)

// Outcomes lists all outcomes in their fixed order.
func Outcomes() []Outcome {
	return []Outcome{OK, ClientError, ServerError, TimedOut, Unreachable, Broken, Shed, Canceled, Late}
}

// Bad reports whether the outcome speaks against the side.
func (o Outcome) Bad() bool {
	switch o {
	case ServerError, TimedOut, Unreachable, Broken, Shed, Late:
		return true
	case OK, ClientError, Canceled:
	}
	return false
}

// Block is what one side did with the requests that started in one slice of
// time. It never changes: a request without an outcome when the block became
// final is in it as Late. Slices are one second, cut shorter where the weights
// or the ready instances changed. Side is "" for requests that no side took.
//
// (Boot, Seq) identifies a block for idempotent reading: Seq counts up by one
// from 1 within one boot of the proxy.
type Block struct {
	Boot     string             `json:"boot"`
	Seq      uint64             `json:"seq"`
	Route    string             `json:"route"`
	Side     string             `json:"side"`
	Revision uint64             `json:"revision"` // of the route
	Share    int                `json:"share"`    // of the side, in percent
	Start    time.Time          `json:"start"`
	End      time.Time          `json:"end"`
	Requests uint64             `json:"requests"`
	Outcomes map[Outcome]uint64 `json:"outcomes"`
	// BadUsers counts, on a route that keeps users on a side, bad outcomes with
	// at most one per user in five minutes; elsewhere all bad ones.
	BadUsers uint64    `json:"bad_users"`
	Latency  Histogram `json:"latency"`
}

// Feed is one line of the stream of statistics: a block, or a mark. Final says
// that every block that ended until then is out; Lost counts blocks that were
// asked for and are not kept any more.
type Feed struct {
	Format string    `json:"format"`
	Block  *Block    `json:"block,omitempty"`
	Boot   string    `json:"boot,omitempty"`
	Final  time.Time `json:"final,omitzero"`
	Lost   uint64    `json:"lost,omitempty"`
}

// Buckets is the number of latency buckets. They are fixed and the same
// everywhere, so that histograms add up exactly: whole microseconds below 128,
// then 64 buckets for each doubling (relative width at most 1.6 %), to 71
// minutes; longer is in the last.
const Buckets = 1728

// BucketOf is the bucket of a latency. Below zero counts as zero.
func BucketOf(d time.Duration) int {
	v := uint64(max(d, 0)) / 1000
	if v < 128 {
		return int(v)
	}
	e := bits.Len64(v) - 7
	return min(e*64+int(v>>e), Buckets-1) //nolint:gosec // v>>e is below 128
}

// BucketBounds are the bounds of a bucket: from is in it, to is not.
func BucketBounds(i int) (from, to time.Duration) {
	if i < 128 {
		return time.Duration(i) * time.Microsecond, time.Duration(i+1) * time.Microsecond
	}
	e := i/64 - 1
	low := i - e*64
	return time.Duration(low<<e) * time.Microsecond, time.Duration((low+1)<<e) * time.Microsecond
}

// Histogram is a latency histogram over the fixed buckets: the nonempty ones,
// in order. Latency is the time to the last byte of a response of up to 64 KiB
// of known length, and to the header of all others (streams, upgrades).
type Histogram []Count

// Count is one nonempty bucket: its number and how often it was hit.
type Count [2]uint64

// Merge is the sum of both.
func (h Histogram) Merge(o Histogram) Histogram {
	sum := make(Histogram, 0, len(h)+len(o))
	for len(h) > 0 && len(o) > 0 {
		switch {
		case h[0][0] < o[0][0]:
			sum, h = append(sum, h[0]), h[1:]
		case h[0][0] > o[0][0]:
			sum, o = append(sum, o[0]), o[1:]
		default:
			sum, h, o = append(sum, Count{h[0][0], h[0][1] + o[0][1]}), h[1:], o[1:]
		}
	}
	return append(append(sum, h...), o...)
}

// Total is the number of values in it.
func (h Histogram) Total() (n uint64) {
	for _, c := range h {
		n += c[1]
	}
	return n
}

// Quantile is the middle of the bucket that holds the q-quantile (0 to 1); 0 of
// an empty histogram. It is off by at most 0.8 %, or half a microsecond.
func (h Histogram) Quantile(q float64) time.Duration {
	rank := uint64(q * float64(h.Total()))
	i := slices.IndexFunc(h, func(c Count) bool {
		if rank < c[1] {
			return true
		}
		rank -= c[1]
		return false
	})
	switch {
	case i < 0 && len(h) == 0:
		return 0
	case i < 0:
		i = len(h) - 1
	}
	from, to := BucketBounds(int(h[i][0])) //nolint:gosec // a bucket's number
	return (from + to) / 2
}
