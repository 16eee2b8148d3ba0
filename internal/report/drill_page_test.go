package report_test

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/report"
)

func drillReport() *backstay.DrillReport {
	at := time.Date(2026, 11, 25, 10, 0, 0, 0, time.UTC)
	r := &backstay.DrillReport{
		Format: backstay.DrillFormat, ID: "01a2", Release: "shop", Version: "v3", Plan: "0123456789abcdef0123", At: at,
		Expires: at.Add(14 * 24 * time.Hour), Took: backstay.Duration(1500 * time.Millisecond), Depth: 1, Whole: true,
		Blind: []backstay.DrillGap{
			{About: "level", Text: "no step was tried above D1"},
			{About: "no_read", Step: "seed", Text: "nothing reads run:shop/seed\x1b[2J<script>"},
		},
		Faults: []backstay.DrillFault{{Name: "commits", What: "nothing goes wrong"}, {Name: "undo-lies", What: "the undo lies"}},
		Steps:  []backstay.DrillStep{{}, {ID: "conf", Kind: "file", Class: backstay.Exact}, {ID: "seed", Kind: "run", Class: backstay.Compensated}},
		Cells: []backstay.DrillCell{
			{Level: "D1", Fault: "commits", Result: backstay.DrillRestored, End: backstay.Proven},
			{Level: "D1", Step: "conf", Fault: "undo-lies", Result: backstay.DrillFailed, End: backstay.RolledBack, Findings: []backstay.DrillFinding{
				{Step: "conf", Key: "file:/etc/shop.conf", Text: "rolled back, and reads \"v3\" instead of \"v2\" as before"},
			}},
			{Level: "D1", Step: "seed", Fault: "undo-lies", Result: backstay.DrillNotRun, Reason: "nothing reads run:shop/seed"},
		},
	}
	tally := backstay.DrillTally{Level: "D1"}
	for _, c := range r.Cells {
		tally.Count(c.Result)
	}
	r.Tallies = []backstay.DrillTally{tally}
	return r
}

// TestDrillPage: the blind list comes before the matrix, what failed can be seen
// again, and text of a plan forges nothing.
func TestDrillPage(t *testing.T) {
	t.Parallel()
	p := report.DrillPage{Report: drillReport(), Recorded: true, Command: "backstay deploy --plan 0123456789abcdef"}
	for name, write := range map[string]func(io.Writer) error{"drill.txt": p.WriteText, "drill.md": p.WriteMarkdown, "drill.json": p.WriteJSON} {
		var b bytes.Buffer
		if err := write(&b); err != nil {
			t.Fatal(err)
		}
		golden(t, name, b.Bytes())
	}
	var b bytes.Buffer
	if err := p.WriteHTML(&b); err != nil {
		t.Fatal(err)
	}
	page := b.String()
	blind, cells := strings.Index(page, "What this drill does not see"), strings.Index(page, "Matrix, D1")
	if blind < 0 || cells < blind || strings.Contains(page, "<script>") || strings.Contains(page, "\x1b") {
		t.Errorf("the page of a drill: blind list at %d, matrix at %d:\n%s", blind, cells, page)
	}
}
