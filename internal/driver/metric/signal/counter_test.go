package signal_test

import (
	"testing"

	"github.com/backstay-dev/backstay/internal/driver/metric/signal"
)

func TestIncrease(t *testing.T) {
	t.Parallel()
	at := func(values ...float64) []signal.Sample { // one a second, from 0; negative: none
		var out []signal.Sample
		for i, v := range values {
			if v >= 0 {
				out = append(out, signal.Sample{At: int64(1000 * i), Value: v})
			}
		}
		return out
	}
	for name, tt := range map[string]struct {
		series   signal.Series
		from, to int64
		want     float64
		known    bool
	}{
		"grows":                      {signal.Series{Samples: at(5, 7, 9, 12)}, 1000, 3000, 5, true},
		"ends are (from, to]":        {signal.Series{Samples: at(5, 7, 9, 12)}, 1500, 2500, 2, true},
		"restarts":                   {signal.Series{Samples: at(50, 52, 3, 4)}, 0, 3000, 6, true},
		"restarts at zero":           {signal.Series{Samples: at(50, 0, 0, 2)}, 0, 3000, 2, true},
		"was there before the range": {signal.Series{Samples: at(-1, 40, 41)}, 0, 2000, 1, true},
		"is born":                    {signal.Series{Samples: at(-1, 40, 41), Born: true}, 0, 2000, 41, true},
		"was born earlier":           {signal.Series{Samples: at(-1, 40, 41), Born: true}, 1000, 2000, 1, true},
		"one scrape is missing":      {signal.Series{Samples: at(1, 2, -1, 5)}, 1000, 3000, 3, true},
		"silent for long":            {signal.Series{Samples: at(1, 2, -1, -1, -1, -1, 9)}, 1000, 6000, 0, false},
		"fell silent":                {signal.Series{Samples: at(1, 2, -1, -1, -1, -1)}, 1000, 6000, 0, false},
		"back after silence":         {signal.Series{Samples: at(1, 2, -1, -1, -1, -1, 9, 10)}, 6000, 7000, 1, true},
		"back after a slice of it":   {signal.Series{Samples: at(1, 2, -1, -1, -1, -1, 9, 10)}, 5000, 7000, 1, true},
		"nothing":                    {signal.Series{}, 0, 1000, 0, true},
		"only later":                 {signal.Series{Samples: at(-1, -1, -1, 9)}, 0, 1000, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, known := tt.series.Increase(tt.from, tt.to, 3000)
			if got != tt.want || known != tt.known {
				t.Errorf("Increase(%d, %d) = %v, %v; want %v, %v", tt.from, tt.to, got, known, tt.want, tt.known)
			}
		})
	}
}
