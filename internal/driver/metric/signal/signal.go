// Package signal is the one form in which every source says how a release is
// doing. It owns the words signal (what one side did in one slice of time),
// reading (one number, now), source (what answers with them) and batch.
//
// A source promises: what it returns is final and never changes; a slice is
// returned for both sides or for neither, so that a late or lost report cannot
// speak for one of them; asking again from a cursor gives what came after it
// and nothing twice. What it does not know it says by an error or by not going
// further, never by a zero: no data is not healthy.
package signal

import (
	"context"
	"encoding/json"
	"time"
)

// Metric names what is counted of each request (or user, order, …).
type Metric string

// The metrics. Bad is what speaks against a side.
const (
	Errors     Metric = "error-rate" // failed
	Latency    Metric = "latency"    // how long each took, in Durations
	Throughput Metric = "throughput" // not completed: no answer, cut, or given up by the client
	Rate       Metric = "rate"       // whatever the source's own expressions count
)

// Signal is what one side did in one slice of time, as one stratum saw it.
// Counts of different strata are never added up.
type Signal struct {
	Name    Metric    `json:"name"`
	Unit    string    `json:"unit"` // "request", "user", …
	Stratum string    `json:"stratum"`
	Start   time.Time `json:"start"`
	End     time.Time `json:"end"`
	// Canary is true for the new side, false for the running one.
	Canary bool   `json:"canary"`
	Good   uint64 `json:"good"`
	Bad    uint64 `json:"bad"`
	// Durations are pairs of a duration in microseconds and how often it was
	// seen, of Latency. What failed takes for ever: Never.
	Durations [][2]uint64 `json:"durations,omitempty"`
	// Share is the new side's part of the traffic as it was configured, in percent;
	// 0: unknown, or not what single requests are drawn by (users stay on a side).
	Share float64 `json:"share,omitempty"`
	// Epoch changes when the split does. Slices of different epochs are never put
	// together.
	Epoch uint64 `json:"epoch,omitempty"`
}

// Never is the duration of a request without an answer, in microseconds.
const Never = uint64(1) << 62

// Total is how many units the signal counts.
func (s Signal) Total() uint64 { return s.Good + s.Bad }

// Ask is a question for signals.
type Ask struct {
	Metric Metric `json:"metric"`
	Route  string `json:"route,omitempty"`
	// Canary and Baseline are the names of the sides. An empty Baseline is every
	// side but the canary.
	Canary   string `json:"canary,omitempty"`
	Baseline string `json:"baseline,omitempty"`
	// Total, Bad and Durations are the source's own expressions, where it has
	// some; {side} and {route} in them are replaced.
	Total     string `json:"total,omitempty"`
	Bad       string `json:"bad,omitempty"`
	Durations string `json:"durations,omitempty"`
	// From is where an empty cursor begins.
	From time.Time `json:"from"`
	// Cursor is what the batch before ended with.
	Cursor json.RawMessage `json:"cursor,omitempty"`
}

// Batch is what came after the cursor, in order of time.
type Batch struct {
	Signals []Signal        `json:"signals"`
	Cursor  json.RawMessage `json:"cursor"`
	// Fresh is until when the source has told everything. Old means that it has
	// nothing to say, whatever it said before.
	Fresh time.Time `json:"fresh"`
	// Lost says that slices were left out, and why.
	Lost string `json:"lost,omitempty"`
}

// Question is a question for one number.
type Question struct {
	Query  string        `json:"query"`
	Route  string        `json:"route,omitempty"`
	Canary string        `json:"canary,omitempty"`
	Window time.Duration `json:"window,omitempty"` // what {window} stands for
}

// Reading is one number, and when it was true. It is finite.
type Reading struct {
	Value float64   `json:"value"`
	At    time.Time `json:"at"`
}

// Source answers. Implementations are safe for concurrent use and end within
// the context. An answer that it cannot give is an error, a NoData where it was
// reached and had none.
type Source interface {
	// Read answers with one number.
	Read(ctx context.Context, q Question) (Reading, error)
	// Signals answers with all that became final since the cursor.
	Signals(ctx context.Context, ask Ask) (Batch, error)
}

// NoData is the answer of a source that was reached and has nothing to tell. The
// circuit breaker does not count it against the source.
type NoData struct{ Why string }

func (e *NoData) Error() string { return e.Why }
