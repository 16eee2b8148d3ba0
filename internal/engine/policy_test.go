package engine

import (
	"strings"
	"testing"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/plan"
)

func TestLacking(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 25, 10, 0, 0, 0, time.UTC)
	want := plan.RequireDrill{MaxAge: backstay.Duration(24 * time.Hour), Failed: 1}
	drill := func(cells, failed, hung, notRun int) *backstay.DrillBody {
		return &backstay.DrillBody{ID: "d", Expires: now.Add(time.Hour), Tallies: []backstay.DrillTally{{Level: "D1", Cells: cells, Failed: failed, Hung: hung, NotRun: notRun}}}
	}
	expired := drill(10, 0, 0, 0)
	expired.Expires = now
	for _, tt := range []struct {
		name  string
		drill *backstay.DrillBody
		at    time.Time
		want  string
	}{
		{"none", nil, now, "was not drilled"},
		{"good", drill(10, 0, 0, 3), now.Add(-time.Hour), ""},
		{"one may fail", drill(10, 1, 0, 0), now, ""},
		{"two may not", drill(10, 1, 1, 0), now, "2 cells failed or hung; 1 may"},
		{"ran nothing", drill(10, 0, 0, 10), now, "ran nothing"},
		{"too old", drill(10, 0, 0, 0), now.Add(-25 * time.Hour), "25h0m0s old"},
		{"expired", expired, now, "expired"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := lacking(tt.drill, tt.at, want, now)
			if (tt.want == "") != (got == "") || !strings.Contains(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
