package engine_test

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/engine"
)

const ms = backstay.Duration(time.Millisecond)

// gate declares a wait for evidence.
func gate(id string, g backstay.Gate) backstay.Step {
	if g.Within == 0 {
		g.Within = 5000 * ms
	}
	return backstay.Step{ID: id, Prepared: backstay.Prepared{
		Kind: "gate", Class: backstay.Exact, Effect: backstay.Idempotent, Gate: &g, Timeout: g.Within, Summary: "wait for " + id,
	}}
}

func probing(lasts backstay.Duration, failures int) backstay.GateCheck {
	return backstay.GateCheck{Name: "smoke", For: lasts, Every: ms, Failures: failures, Prepared: backstay.Prepared{Kind: "mem"}}
}

// verdicts lists the gates' verdicts of a deployment.
func (b *bench) verdicts(id string) (out []backstay.VerdictBody) {
	b.t.Helper()
	entries, err := b.store.Entries(b.t.Context(), id, 0)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, e := range entries {
		var body backstay.VerdictBody
		if e.Kind != backstay.EntryVerdict || e.Step == "" {
			continue
		}
		if err := e.Decode(&body); err != nil {
			b.t.Fatal(err)
		}
		out = append(out, body)
	}
	return out
}

func TestGate(t *testing.T) {
	t.Parallel()
	answers := func(list ...backstay.Verdict) func() backstay.Verdict {
		var n atomic.Int64
		return func() backstay.Verdict { return list[min(int(n.Add(1)), len(list))-1] }
	}
	const yes, no, mute = backstay.Pass, backstay.Fail, backstay.Undecided
	tests := []struct {
		name   string
		gate   backstay.Gate
		checks func() backstay.Verdict
		state  backstay.State
		why    string // of the failure
		takes  time.Duration
		asked  int // at least
	}{
		{"time only", backstay.Gate{Hold: 40 * ms}, nil, backstay.Proven, "", 40 * time.Millisecond, 0},
		{"a check once", backstay.Gate{Checks: []backstay.GateCheck{probing(0, 1)}}, answers(yes), backstay.Proven, "", 0, 1},
		{"a check for a while", backstay.Gate{Checks: []backstay.GateCheck{probing(40*ms, 1)}}, answers(yes), backstay.Proven, "", 40 * time.Millisecond, 2},
		{"a break begins anew", backstay.Gate{Checks: []backstay.GateCheck{probing(40*ms, 3)}}, answers(yes, no, no, yes), backstay.Proven, "", 40 * time.Millisecond, 4},
		{"undecided begins anew", backstay.Gate{Checks: []backstay.GateCheck{probing(0, 1)}}, answers(mute, mute, yes), backstay.Proven, "", 0, 3},
		{"too many failures", backstay.Gate{Hold: 4000 * ms, Checks: []backstay.GateCheck{probing(0, 3)}}, answers(yes, no, no, no), backstay.RolledBack, "smoke: scripted", 0, 4},
		{"no data is no pass", backstay.Gate{Within: 40 * ms, Checks: []backstay.GateCheck{probing(0, 1)}}, answers(mute), backstay.RolledBack, "undecided after 40ms: smoke", 40 * time.Millisecond, 2},
		{"it fails while it holds", backstay.Gate{Hold: 4000 * ms, Checks: []backstay.GateCheck{probing(0, 1)}}, answers(yes, yes, no), backstay.RolledBack, "smoke", 0, 3},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(map[backstay.Key]string{route: "0%"})
			w.checks = tt.checks
			b, id := newBench(t, w), newID(t)
			began := time.Now()
			s := b.deployBy(chain(notch("1%"), gate("look", tt.gate), notch("100%")), id)
			if took := time.Since(began); s.State != tt.state || took < tt.takes {
				t.Fatalf("got state %s after %s, want %s after %s at least (failure %+v)", s.State, took, tt.state, tt.takes, s.Failure)
			}
			if tt.why != "" {
				if s.Failure == nil || s.Failure.Cause != backstay.CauseGateFailed || s.Failure.Step != "look" || !strings.Contains(s.Failure.Reason, tt.why) {
					t.Errorf("failure %+v, want one of look with %q", s.Failure, tt.why)
				}
				if got := w.snapshot()[route]; got != "0%" {
					t.Errorf("the dial is at %s", got)
				}
			}
			samples := 0
			for _, v := range b.verdicts(id) {
				samples += v.Samples
			}
			if samples < tt.asked {
				t.Errorf("%d samples are recorded, want %d at least", samples, tt.asked)
			}
		})
	}
}

// TestGateBetweenMovesIsCovered: a dial goes back in one although gates stand
// between its moves.
func TestGateBetweenMovesIsCovered(t *testing.T) {
	t.Parallel()
	w := newWorld(map[backstay.Key]string{route: "0%"})
	w.doErr["boom"], w.noWrite["boom"] = errors.New("out of memory"), true
	b, id := newBench(t, w), newID(t)
	hold := backstay.Gate{Hold: ms}
	s := b.deployBy(chain(notch("1%"), gate("g1", hold), notch("10%"), gate("g10", hold), notch("100%"), set("boom")), id)
	if s.State != backstay.RolledBack {
		t.Fatalf("got state %s, residue %+v", s.State, s.Residue)
	}
	if diff := cmp.Diff([]string{"100%"}, w.undos()); diff != "" {
		t.Errorf("undo calls (-want +got):\n%s", diff)
	}
	want := []string{
		"boom untouched", "100% restored", "g10 untouched with 100%", "10% restored with 100%", "g1 untouched with 100%", "1% restored with 100%",
	}
	if diff := cmp.Diff(want, b.compensations(id)); diff != "" {
		t.Errorf("compensation records (-want +got):\n%s", diff)
	}
}

// TestGateIsCutOffByAnAbort: a person's no ends the wait at once.
func TestGateIsCutOffByAnAbort(t *testing.T) {
	t.Parallel()
	w := newWorld(map[backstay.Key]string{route: "0%"})
	interrupt := make(chan struct{}, 1)
	w.checks = func() backstay.Verdict {
		select {
		case interrupt <- struct{}{}:
		default:
		}
		return backstay.Pass
	}
	b := newBench(t, w)
	began := time.Now()
	s, err := b.eng.Deploy(t.Context(), engine.Start{
		ID: newID(t), Interrupt: interrupt,
		Plan: chain(notch("1%"), gate("look", backstay.Gate{Hold: 60_000 * ms, Within: 90_000 * ms, Checks: []backstay.GateCheck{probing(0, 1)}}), notch("100%")),
	})
	if err != nil || s.State != backstay.RolledBack || s.Failure.Cause != backstay.CauseAborted {
		t.Fatalf("got state %s, failure %+v, error %v", s.State, s.Failure, err)
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("it took %s", took)
	}
	if got := w.snapshot()[route]; got != "0%" {
		t.Errorf("the dial is at %s", got)
	}
}

// TestGateBeginsAnewAfterACrash: recovery does not take a wait for done.
func TestGateBeginsAnewAfterACrash(t *testing.T) {
	t.Parallel()
	for _, point := range []string{"do.before", "do.after", "intent.after", "outcome.before"} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			w := newWorld(map[backstay.Key]string{route: "0%"})
			died, crashed := errors.New("killed"), false
			b, id := newBench(t, w, func(o *engine.Options) {
				o.Failpoint = func(p, step string) error {
					if p == point && step == "look" && !crashed {
						crashed = true
						return died
					}
					return nil
				}
			}), newID(t)
			p := chain(notch("1%"), gate("look", backstay.Gate{Hold: 5 * ms}), notch("100%"))
			if _, err := b.eng.Deploy(t.Context(), engine.Start{ID: id, Plan: p}); !errors.Is(err, died) {
				t.Fatalf("got %v, want the crash", err)
			}
			s, err := b.engine().Resume(t.Context(), id, nil, nil)
			if err != nil || s.State != backstay.Proven {
				t.Fatalf("got state %s, error %v", s.State, err)
			}
			if got := w.snapshot()[route]; got != "100%" {
				t.Errorf("the dial is at %s", got)
			}
		})
	}
}
