package report_test

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/backstay-dev/backstay/internal/report"
)

// TestClockSet: at every entry of every story the host's clock is set, by an
// hour or ten years, back or on, in a zone with daylight-saving time. No report
// shows a negative duration or a time without its offset.
func TestClockSet(t *testing.T) {
	t.Parallel()
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Skipf("this host has no time zones: %v", err)
	}
	const year = 365 * 24 * time.Hour
	negative := regexp.MustCompile(`(^|[\s(>"])[-−]\d+(\.\d+)?\s?(ns|µs|ms|s|m|h|d|min|years?|days?|hours?)\b`)
	for name, tell := range map[string]func() *story{"rolled back": rolledBack, "held": held, "failed": failed, "proven": proven} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for at := range tell().entries {
				for _, jump := range []time.Duration{-time.Hour, time.Hour, -10 * year, 10 * year} {
					s := tell()
					for i := range s.entries {
						if i >= at {
							s.entries[i].At = s.entries[i].At.Add(jump)
						}
						s.entries[i].At = s.entries[i].At.In(berlin)
					}
					where := fmt.Sprintf("%s at entry %d", jump, at+1)
					r := timeline(t, s)
					for _, how := range renderings() {
						if found := negative.FindString(render(t, r, how)); found != "" {
							t.Errorf("%s: %s shows %q", where, how.ext, found)
						}
					}
					checkTimes(t, where, r)
					stats, err := report.HistoryStats(t.Context(), &ledgerBook{stories: []*story{s}}, report.StatsFilter{})
					if err != nil {
						t.Fatal(err)
					}
					checkTimes(t, where, stats)
				}
			}
		})
	}
}

// checkTimes looks at all that a document holds: a time has an offset, a
// number (a duration, a count) is not negative.
func checkTimes(t *testing.T, where string, doc any) {
	t.Helper()
	data, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	var all any
	if err := json.Unmarshal(data, &all); err != nil {
		t.Fatal(err)
	}
	stamp := regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d`)
	var walk func(path string, v any)
	walk = func(path string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for k, x := range v {
				walk(path+"."+k, x)
			}
		case []any:
			for _, x := range v {
				walk(path+"[]", x)
			}
		case float64:
			if v < 0 {
				t.Errorf("%s: %s is %v", where, path, v)
			}
		case string:
			if d, err := time.ParseDuration(v); err == nil && d < 0 {
				t.Errorf("%s: %s is %s", where, path, v)
			}
			if _, err := time.Parse(time.RFC3339Nano, v); err != nil && stamp.MatchString(v) && !strings.Contains(v, " ") {
				t.Errorf("%s: %s is %q, which has no offset", where, path, v)
			}
		}
	}
	walk("", all)
}
