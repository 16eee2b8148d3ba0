package analysis

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
)

// stateVersion is the version of the state format this code writes and reads.
const stateVersion = 1

type document struct {
	V      int    `json:"v"`
	Config Config `json:"config"`
	State  state  `json:"state"`
}

// MarshalJSON writes configuration and state, so that the test can go on in
// another process. Numbers are written so that they read back as the same bits.
func (t *Test) MarshalJSON() ([]byte, error) {
	return json.Marshal(document{V: stateVersion, Config: t.config, State: t.state})
}

// Restore continues the test that MarshalJSON wrote. A document of another
// version, or one that does not fit itself, is refused.
func Restore(data []byte) (*Test, error) {
	var head struct {
		V int `json:"v"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return nil, fmt.Errorf("read analysis state: %w", err)
	}
	if head.V != stateVersion {
		return nil, fmt.Errorf("read analysis state: version %d, this program knows version %d", head.V, stateVersion)
	}
	var doc document
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&doc); err != nil {
		return nil, fmt.Errorf("read analysis state: %w", err)
	}
	t, err := New(doc.Config)
	if err != nil {
		return nil, fmt.Errorf("read analysis state: %w", err)
	}
	if err := t.adopt(doc.State); err != nil {
		return nil, fmt.Errorf("read analysis state: %w", err)
	}
	return t, nil
}

// adopt puts a state that was read in the place of the fresh one, if it has its shape.
func (t *Test) adopt(s state) error {
	w, fresh := s.Wealth, &t.state
	if len(w.Bets) != len(fresh.Wealth.Bets) || len(s.Metrics) != len(fresh.Metrics) {
		return fmt.Errorf("%d bets on %d metrics: the configuration has %d on %d", len(w.Bets), len(s.Metrics), len(fresh.Wealth.Bets), len(fresh.Metrics))
	}
	if !finite(w.Bets) || !(w.Reserve >= 0 && w.Reserve <= t.config.Reserve) || !finite([]float64{w.Start, s.FailedLn}) ||
		w.Paid < 0 || s.Now < 0 || s.Now > math.MaxInt64/2 {
		return fmt.Errorf("the capital is damaged")
	}
	for m := range s.Metrics {
		rec, want := &s.Metrics[m], &fresh.Metrics[m]
		if len(rec.Curves) != len(want.Curves) || len(rec.Safe) != len(want.Safe) || len(rec.Series) > maxSeries {
			return fmt.Errorf("metric %q has another shape than its configuration", t.tracks[m].name)
		}
		for i, c := range rec.Curves {
			if len(c) != len(want.Curves[i]) || !finite(c) {
				return fmt.Errorf("metric %q: its likelihood is damaged", t.tracks[m].name)
			}
		}
		for i, c := range rec.Safe {
			if len(c) != len(want.Safe[i]) || !finite(c) {
				return fmt.Errorf("metric %q: its evidence of safety is damaged", t.tracks[m].name)
			}
		}
		if rec.Canary.validate(0) != nil || rec.Baseline.validate(0) != nil {
			return fmt.Errorf("metric %q: its counts are damaged", t.tracks[m].name)
		}
		for i, series := range rec.Series {
			if r := series.Ratio; r.Share < 0 || r.Share >= 1 || r.Canary > maxCount || r.Baseline > maxCount || !finite([]float64{r.Closed}) {
				return fmt.Errorf("metric %q, stratum %q: its sample ratio is damaged", t.tracks[m].name, series.Stratum)
			}
			if _, twice := t.tracks[m].strata[series.Stratum]; twice {
				return fmt.Errorf("metric %q: stratum %q is there twice", t.tracks[m].name, series.Stratum)
			}
			t.tracks[m].strata[series.Stratum] = i
		}
	}
	s.Wealth.share = fresh.Wealth.share
	t.state = s
	return nil
}

func finite(x []float64) bool {
	for _, v := range x {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return false
		}
	}
	return true
}
