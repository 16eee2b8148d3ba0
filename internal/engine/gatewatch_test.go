package engine

import (
	"strings"
	"testing"
	"time"

	"github.com/backstay-dev/backstay"
)

// TestGateWatch: what a gate makes of answers at given times.
func TestGateWatch(t *testing.T) {
	t.Parallel()
	const s = time.Second
	type answer struct {
		at      time.Duration
		check   int
		verdict backstay.Verdict
	}
	const yes, no, mute = backstay.Pass, backstay.Fail, backstay.Undecided
	gate := backstay.Gate{Hold: backstay.Duration(4 * s), Within: backstay.Duration(60 * s), Checks: []backstay.GateCheck{
		{Name: "a", For: backstay.Duration(5 * s), Failures: 2}, {Name: "b", Failures: 1},
	}}
	tests := []struct {
		name    string
		answers []answer
		at      time.Duration
		want    backstay.Verdict
		why     string
	}{
		{"nobody was asked", nil, 30 * s, mute, "a: it was not asked yet; b: it was not asked yet"},
		{"one was not asked", []answer{{s, 0, yes}}, 30 * s, mute, "b: it was not asked yet"},
		{"all pass long enough", []answer{{s, 0, yes}, {s, 1, yes}}, 6 * s, yes, "held for 6s"},
		{"not long enough", []answer{{s, 0, yes}, {s, 1, yes}}, 5 * s, mute, "a passes since 4s of 5s"},
		{"a break begins anew", []answer{{s, 0, yes}, {s, 1, yes}, {2 * s, 0, no}, {3 * s, 0, yes}}, 7 * s, mute, "a passes since 4s of 5s"},
		{"after the break", []answer{{s, 0, yes}, {s, 1, yes}, {2 * s, 0, no}, {3 * s, 0, yes}}, 8 * s, yes, ""},
		{"no answer begins anew", []answer{{s, 0, yes}, {s, 1, yes}, {2 * s, 0, mute}, {3 * s, 0, yes}}, 7 * s, mute, "a passes since 4s"},
		{"no answer does not forgive", []answer{{s, 1, yes}, {s, 0, no}, {2 * s, 0, mute}, {3 * s, 0, no}}, 3 * s, no, "a: why"},
		{"a pass forgives", []answer{{s, 1, yes}, {s, 0, no}, {2 * s, 0, yes}, {3 * s, 0, no}}, 3 * s, mute, "a: why (fail)"},
		{"one failure is too many", []answer{{s, 0, yes}, {s, 1, no}}, s, no, "b: why"},
		{"it holds although all pass", []answer{{0, 1, yes}}, 3 * s, mute, "a: it was not asked"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			began, watches := time.Now(), map[string]*watched{}
			for _, a := range tt.answers {
				name, at := gate.Checks[a.check].Name, began.Add(a.at)
				if watches[name] == nil {
					watches[name] = &watched{}
				}
				watches[name].note(backstay.CheckResult{Verdict: a.verdict, Reason: "why"}, at, at)
			}
			if got, why := verdictOf(&gate, began, began.Add(tt.at), watches); got != tt.want || !strings.Contains(why, tt.why) {
				t.Errorf("got %s (%s), want %s (%s)", got, why, tt.want, tt.why)
			}
		})
	}
	short, began := backstay.Gate{Hold: backstay.Duration(4 * s), Checks: gate.Checks[1:]}, time.Now()
	answered := func(at time.Time) map[string]*watched {
		w := &watched{}
		w.note(backstay.CheckResult{Verdict: yes}, at, at)
		return map[string]*watched{"b": w}
	}
	if got, why := verdictOf(&short, began, began.Add(4*s-1), answered(began)); got != mute || why != "it holds for 4s" {
		t.Errorf("before hold is over: %s (%s)", got, why)
	}
	if got, _ := verdictOf(&short, began, began.Add(4*s), answered(began)); got != yes {
		t.Errorf("when hold is over: %s", got)
	}
	if got, why := verdictOf(&short, began, began.Add(4*s), answered(began.Add(-1))); got != mute || !strings.Contains(why, "not asked") {
		t.Errorf("an answer about the share before: %s (%s)", got, why)
	}
}
