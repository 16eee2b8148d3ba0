package report_test

import (
	"encoding/json"
	"testing"
	"time"
	"unicode"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/report"
)

// FuzzTimeline: whatever an entry's body holds, a report is made of it or an
// error says which entry is damaged, and no page shows a control character.
func FuzzTimeline(f *testing.F) {
	for _, s := range []*story{rolledBack(), held(), failed(), proven(), hostileStory()} {
		for _, e := range s.entries {
			f.Add(string(e.Kind), e.Step, []byte(e.Body), int64(time.Second))
		}
	}
	f.Add("drill", "", []byte(`{"release":"shop","tallies":[{"cells":-1}],"expires":"0001-01-01T00:00:00Z"}`), int64(-time.Hour))
	f.Fuzz(func(t *testing.T, kind, step string, body []byte, after int64) {
		if !json.Valid(body) {
			t.Skip("a record is JSON")
		}
		const century = int64(100 * 365 * 24 * time.Hour)
		s := failed()
		s.at = s.at.Add(time.Duration(after % century))
		s.entries = append(s.entries, backstay.Entry{V: 1, Deployment: s.dep.ID, N: int64(len(s.entries) + 1), Kind: backstay.EntryKind(kind), Step: step, At: s.at, Body: body})
		r, err := report.Timeline(t.Context(), s, s.dep.ID)
		if err != nil {
			return
		}
		for _, how := range renderings() {
			for _, c := range render(t, r, how) {
				if c != '\n' && !unicode.IsPrint(c) {
					t.Fatalf("%s shows %U", how.ext, c)
				}
			}
		}
		b := &ledgerBook{stories: []*story{s}}
		if _, err := report.HistoryStats(t.Context(), b, report.StatsFilter{}); err != nil {
			t.Errorf("statistics: %v", err)
		}
	})
}
