package stats

import (
	"fmt"
	"math"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/backstay-dev/backstay/internal/analysis"
)

// TestPlan prints the table of docs/guide/evidence.md and holds the guide to it.
func TestPlan(t *testing.T) {
	t.Parallel()
	const share, beta, rps = 0.1, 0.05, 1000
	deltas := []float64{.0001, .0002, .0005, .001, .002, .005, .01}
	table := "| fails now |"
	for _, d := range deltas {
		table += fmt.Sprintf(" +%.3g |", 100*d)
	}
	table += "\n|---|" + strings.Repeat("---|", len(deltas)) + "\n"
	for _, base := range []float64{.0001, .001, .01} {
		table += fmt.Sprintf("| %.4g %% |", 100*base)
		for _, d := range deltas {
			m := analysis.Margin{Ratio: 1, Delta: d}
			table += fmt.Sprintf(" %s, %s |", short(m.Requests(base, share, beta)), m.Time(base, share, beta, rps).Round(time.Second))
		}
		table += "\n"
	}
	t.Log("\n" + table)
	guide, err := os.ReadFile("../../../docs/guide/evidence.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(guide), table) {
		t.Error("docs/guide/evidence.md does not hold this table")
	}
}

// short is a number to two digits.
func short(n float64) string {
	unit := math.Pow(10, math.Floor(math.Log10(n))-1)
	n = math.Round(n/unit) * unit
	switch {
	case n >= 1e6:
		return fmt.Sprintf("%.3g million", n/1e6)
	case n >= 1000:
		return fmt.Sprintf("%.0f,%03.0f", math.Floor(n/1000), math.Mod(n, 1000))
	}
	return fmt.Sprintf("%.0f", n)
}
