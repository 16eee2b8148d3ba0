package engine

import (
	"strings"
	"testing"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/plan"
)

// Who came through the control socket may steer only where an approve step of
// the plan names him; who can open the ledger may as before.
func TestGuestsSteerOnlyWhereNamed(t *testing.T) {
	t.Parallel()
	hold := func(id string, from ...string) backstay.Step {
		return backstay.Step{ID: id, Prepared: backstay.Prepared{Kind: "approve", Hold: &backstay.Hold{From: from, Count: 1, Within: backstay.Duration(time.Hour)}}}
	}
	tests := []struct {
		name   string
		steps  []backstay.Step
		guest  bool
		signal string
		want   string // "": accepted
	}{
		{"owner approves what names nobody", []backstay.Step{hold("go")}, false, SignalApprove, ""},
		{"guest approves what names nobody", []backstay.Step{hold("go")}, true, SignalApprove, "is named by no approve step"},
		{"guest is named", []backstay.Step{hold("go", "sre")}, true, SignalApprove, ""},
		{"guest is not named", []backstay.Step{hold("go", "ops")}, true, SignalApprove, "is named by no approve step"},
		{"guest is named by another step only", []backstay.Step{hold("go", "ops"), hold("later", "sre")}, true, SignalApprove, "is none of [ops]"},
		{"guest is named by another step, this one names nobody", []backstay.Step{hold("go"), hold("later", "sre")}, true, SignalApprove, "step go names nobody"},
		{"owner is not named", []backstay.Step{hold("go", "ops")}, false, SignalApprove, "is none of [ops]"},
		{"named guest aborts", []backstay.Step{hold("go", "sre")}, true, SignalAbort, ""},
		{"other guest aborts", []backstay.Step{hold("go", "ops")}, true, SignalAbort, "is named by no approve step"},
		{"other guest pauses", []backstay.Step{hold("go")}, true, SignalPause, "is named by no approve step"},
		{"owner pauses", []backstay.Step{hold("go")}, false, SignalPause, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := &plan.Plan{Release: "shop", Steps: tt.steps}
			s := newProgress(p)
			s.State = backstay.Holding
			s.Steps["go"].Phase = PhaseOpen
			now := time.Date(2026, 3, 29, 1, 0, 0, 0, time.UTC)
			s.Steps["go"].Opened = now
			c := newCore(p, nil, func(string) bool { return false })
			got := c.answer(s, backstay.SignalBody{Signal: tt.signal, Step: "go", Plan: "d"}, backstay.Actor{UID: 1000, Name: "ann"}, answerContext{
				author: backstay.Actor{UID: 1}, guest: tt.guest, now: now, planDigest: "d",
				memberOf: func(_ backstay.Actor, word string) bool { return word == "sre" },
			})
			if (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
