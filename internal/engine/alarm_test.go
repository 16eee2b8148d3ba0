package engine_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/engine"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/plan"
)

// alarmed is a signal of a monitor.
func alarmed(id, kind string) ledger.Signal {
	return ledger.Signal{
		ID: id, Kind: kind, Reason: "HighErrorRate fires", Actor: backstay.Actor{UID: 1},
		Alarm: &backstay.Alarm{Source: "monitor", Alerts: []backstay.Alert{{Name: "HighErrorRate", Labels: map[string]string{"severity": "page"}}}},
	}
}

// answers are the entries that answer signals, and how often it turned around.
func (b *bench) answers(id string) (answers []backstay.SignalBody, turns int) {
	b.t.Helper()
	entries, err := b.store.Entries(b.t.Context(), id, 0)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, e := range entries {
		var s backstay.SignalBody
		var tr backstay.TransitionBody
		switch {
		case e.Kind == backstay.EntrySignal && e.Decode(&s) == nil:
			answers = append(answers, s)
		case e.Kind == backstay.EntryTransition && e.Decode(&tr) == nil && tr.Event == string(engine.EventFail):
			turns++
		}
	}
	return answers, turns
}

// What is reported from outside turns a deployment around wherever it could go
// forward, once, and is kept; that it is over changes nothing.
func TestReportedFromOutside(t *testing.T) {
	t.Parallel()
	hour := backstay.Duration(time.Hour)
	baking := func(p *plan.Plan) *plan.Plan {
		p.Bake = plan.Bake{For: hour, Every: hour, Failures: 1}
		return p
	}
	waiting := gate("look", backstay.Gate{Within: hour, Hold: hour, Checks: checks("errors")})
	for name, tt := range map[string]struct {
		plan   *plan.Plan
		at     func(engine.View) bool
		send   []string
		want   backstay.State
		refuse string // a part of why the first one is refused
	}{
		"at a gate":                   {chain(set("a"), waiting), atGate("look"), []string{engine.SignalFail}, backstay.RolledBack, ""},
		"while a person is asked":     {chain(set("a"), person()), in(backstay.Holding), []string{engine.SignalFail}, backstay.RolledBack, ""},
		"in the bake":                 {baking(chain(set("a"))), in(backstay.Committed), []string{engine.SignalFail}, backstay.RolledBack, ""},
		"two at once":                 {baking(chain(set("a"))), in(backstay.Committed), []string{engine.SignalFail, engine.SignalFail}, backstay.RolledBack, ""},
		"resolved, then promoted":     {baking(chain(set("a"))), in(backstay.Committed), []string{engine.SignalResolved, engine.SignalPromote}, backstay.Proven, ""},
		"resolved does not take back": {baking(chain(set("a"))), in(backstay.Committed), []string{engine.SignalFail, engine.SignalResolved}, backstay.RolledBack, ""},
		"past the point of no return": {baking(chain(set("a"), pivotal())), in(backstay.Committed), []string{engine.SignalFail, engine.SignalPromote}, backstay.Proven, "past the point of no return"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, j, id := newWorld(nil), newJudge(), newID(t)
			j.errors(backstay.Pass)
			var b *bench
			b = newBench(t, w, func(o *engine.Options) { o.Judge = j }, follow(tt.at, func(engine.View) {
				for i, kind := range tt.send {
					if err := b.store.Signal(context.WithoutCancel(t.Context()), id, alarmed(fmt.Sprint(i), kind)); err != nil {
						t.Error(err)
					}
				}
			}))
			s := b.deployBy(tt.plan, id)
			if s.State != tt.want {
				t.Fatalf("got state %s, failure %+v", s.State, s.Failure)
			}
			answers, turns := b.answers(id)
			if len(answers) != len(tt.send) || answers[0].Alarm == nil || answers[0].Alarm.Alerts[0].Labels["severity"] != "page" {
				t.Errorf("answers %+v", answers)
			}
			for i, a := range answers {
				if want := tt.refuse == "" || i > 0; a.Accepted != want || (!want && !strings.Contains(a.Why, tt.refuse)) {
					t.Errorf("answer %d: %+v", i, a)
				}
			}
			if tt.want != backstay.RolledBack {
				if turns != 0 {
					t.Errorf("it turned around %d times", turns)
				}
				return
			}
			if turns != 1 || s.Failure.Cause != backstay.CauseSignalled || s.Failure.Reason != "HighErrorRate fires" || len(w.snapshot()) != 0 {
				t.Errorf("%d turns, failure %+v, left %v", turns, s.Failure, w.snapshot())
			}
		})
	}
}

func atGate(id string) func(engine.View) bool {
	return func(v engine.View) bool {
		for _, s := range v.Steps {
			if s.ID == id && s.Phase == engine.PhaseOpen {
				return true
			}
		}
		return false
	}
}
