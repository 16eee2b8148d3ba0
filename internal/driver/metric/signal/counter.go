package signal

import "slices"

// Sample is one value of a counter, at a time in milliseconds.
type Sample struct {
	At    int64
	Value float64
}

// Series is one counter: its samples in order of time.
type Series struct {
	Samples []Sample
	// Born says that the counter began after the first time that was asked for,
	// at zero.
	Born bool
}

// Increase is by how much the counter grew in (from, to], and whether that is
// known: false where it stopped reporting for longer than stale. A value below
// the one before it is a restart from zero. Nothing is extrapolated, so that
// increases over slices add up to the counter.
func (s Series) Increase(from, to, stale int64) (sum float64, known bool) {
	i, _ := slices.BinarySearchFunc(s.Samples, from+1, func(x Sample, at int64) int { return int(x.At - at) })
	var before *Sample
	if i > 0 {
		before = &s.Samples[i-1]
		if from-before.At > stale {
			before = nil // it was silent: what it counted then belongs to no slice
		}
	}
	wasThere, isThere := before != nil, false
	for ; i < len(s.Samples) && s.Samples[i].At <= to; i++ {
		x := s.Samples[i]
		switch {
		case before == nil && (!s.Born || i > 0):
		case before == nil || x.Value < before.Value:
			sum += x.Value
		case x.At-before.At > stale:
			return 0, false
		default:
			sum += x.Value - before.Value
		}
		before, isThere = &s.Samples[i], true
	}
	return sum, isThere || !wasThere || to-before.At <= stale
}
