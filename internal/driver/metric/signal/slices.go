package signal

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"time"
)

// maxBehind is how much of the past is read at once. What is older is left out.
const maxBehind = time.Hour

// Span is the time that a source of fixed slices has still to tell of, in
// milliseconds: all slices from Start to End.
type Span struct {
	Start, End, Slice int64
	// Lost says that what was before Start is left out.
	Lost string
}

// spanCursor is the end of the last slice.
type spanCursor struct {
	End int64 `json:"end_ms"`
}

// Pending is what an ask has still to be told of by a source that cuts time into
// slices, of which those are final that ended settle ago.
func Pending(ask Ask, now time.Time, slice, settle time.Duration) (Span, error) {
	s := Span{Slice: slice.Milliseconds()}
	at := spanCursor{End: ask.From.UnixMilli() / s.Slice * s.Slice}
	if len(ask.Cursor) > 0 {
		if err := json.Unmarshal(ask.Cursor, &at); err != nil {
			return s, fmt.Errorf("read cursor: %w", err)
		}
	}
	if behind := now.Add(-maxBehind).UnixMilli() / s.Slice * s.Slice; at.End < behind {
		at.End, s.Lost = behind, "what is older than an hour is left out"
	}
	s.Start = at.End
	s.End = max(s.Start, now.Add(-settle).UnixMilli()/s.Slice*s.Slice)
	return s, nil
}

// Empty reports whether there is no slice to tell of yet.
func (s Span) Empty() bool { return s.End <= s.Start }

// Batch is the answer without a signal in it.
func (s Span) Batch() Batch {
	return Batch{Fresh: time.UnixMilli(s.Start), Cursor: s.cursor(), Lost: s.Lost}
}

func (s Span) cursor() json.RawMessage {
	data, err := json.Marshal(spanCursor{End: s.End})
	if err != nil {
		panic("signal: " + err.Error()) // a struct of a number
	}
	return data
}

// Counts are what a source counted of one side, by the start of each slice in
// milliseconds. A slice without a total was not reported; one without a count of
// bad ones had none, because what never happened is not reported.
type Counts struct{ Total, Bad map[int64]float64 }

// Tell is the answer of a source that has counts alone: every slice in which both
// sides reported.
func (s Span) Tell(ask Ask, canary, baseline Counts) Batch {
	b := s.Batch()
	for start := s.Start; start < s.End; start += s.Slice {
		of, okCanary := canary.at(start)
		and, okBaseline := baseline.at(start)
		if !okCanary || !okBaseline {
			b.Lost = "a side did not report for a whole slice; it is left out for both"
			continue
		}
		for _, x := range []Signal{of, and} {
			x.Name, x.Unit, x.Stratum = ask.Metric, "request", cmp.Or(ask.Route, "all")
			x.Start, x.End = time.UnixMilli(start), time.UnixMilli(start+s.Slice)
			b.Signals = append(b.Signals, x)
		}
		b.Signals[len(b.Signals)-2].Canary = true
		b.Fresh = time.UnixMilli(start + s.Slice)
	}
	return b
}

func (c Counts) at(start int64) (x Signal, reported bool) {
	total, reported := c.Total[start]
	if !reported || !(total >= 0) || math.IsInf(total, 0) {
		return x, false
	}
	bad := c.Bad[start]
	if !(bad >= 0) || math.IsInf(bad, 0) {
		return x, false
	}
	all := uint64(math.Round(total))
	x.Bad = min(uint64(math.Round(bad)), all)
	x.Good = all - x.Bad
	return x, true
}
