package engine_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/engine"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/plan"
)

// judge is a scripted judge: each check says what it is set to.
type judge struct {
	mu    sync.Mutex
	says  map[string]backstay.CheckResult
	calls map[string][]backstay.GateView
}

func newJudge() *judge {
	return &judge{says: map[string]backstay.CheckResult{}, calls: map[string][]backstay.GateView{}}
}

func (j *judge) set(check string, res backstay.CheckResult) {
	j.mu.Lock()
	defer j.mu.Unlock()
	res.Reason = "it says " + res.Verdict.String()
	j.says[check] = res
}

// errors sets what the check of that name says.
func (j *judge) errors(v backstay.Verdict) { j.set("errors", backstay.CheckResult{Verdict: v}) }

// views are how the check errors was asked.
func (j *judge) views() []backstay.GateView {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.calls["errors"]
}

func (j *judge) Check(_ context.Context, c backstay.Call) (backstay.CheckResult, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.calls[c.Step.ID] = append(j.calls[c.Step.ID], *c.Gate)
	res := j.says[c.Step.ID]
	res.Samples = 1
	n := 0
	_ = json.Unmarshal(c.Gate.State, &n)
	res.State = fmt.Appendf(nil, "%d", n+1) // how often it was asked
	return res, nil
}

func checks(names ...string) []backstay.GateCheck {
	var all []backstay.GateCheck
	for _, n := range names {
		all = append(all, backstay.GateCheck{Name: n, Every: ms, Failures: 2, Prepared: backstay.Prepared{Kind: "mem"}})
	}
	return all
}

func person() backstay.Step {
	return backstay.Step{ID: "ask", Prepared: backstay.Prepared{
		Kind: "approve", Class: backstay.Exact, Effect: backstay.Idempotent, Hold: &backstay.Hold{Count: 1, Within: 60_000 * ms}, Summary: "ask",
	}}
}

// follow runs then, once, as soon as the deployment is so.
func follow(so func(v engine.View) bool, then func(v engine.View)) func(*engine.Options) {
	var once atomic.Bool
	return func(o *engine.Options) {
		o.Watch = func(v engine.View) {
			if so(v) && once.CompareAndSwap(false, true) {
				go then(v)
			}
		}
	}
}

func in(state backstay.State) func(engine.View) bool {
	return func(v engine.View) bool { return v.State == state }
}

// A breach beats any wait: for a person, during a pause, in the bake.
func TestArmed(t *testing.T) {
	t.Parallel()
	gated := func(bake bool, more ...backstay.Step) *plan.Plan {
		p := chain(append([]backstay.Step{notch("1%"), gate("look", backstay.Gate{Checks: checks("errors")}), notch("100%")}, more...)...)
		if bake {
			p.Bake = plan.Bake{For: 60_000 * ms, Every: 10 * ms, Failures: 1}
		}
		return p
	}
	for name, tt := range map[string]struct {
		plan *plan.Plan
		so   func(engine.View) bool
		sig  string
	}{
		"while a person is waited for": {gated(false, person()), in(backstay.Holding), ""},
		"in the bake":                  {gated(true), in(backstay.Committed), ""},
		"during a pause":               {gated(false, person()), in(backstay.Holding), engine.SignalPause},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, j, id := newWorld(map[backstay.Key]string{route: "0%"}), newJudge(), newID(t)
			j.errors(backstay.Pass)
			var b *bench
			b = newBench(t, w, func(o *engine.Options) { o.Judge = j }, follow(tt.so, func(engine.View) {
				if tt.sig != "" {
					_ = b.store.Signal(t.Context(), id, ledger.Signal{ID: tt.sig, Kind: tt.sig, Actor: backstay.Actor{UID: 1}})
				}
				j.errors(backstay.Fail)
			}))
			s := b.deployBy(tt.plan, id)
			if s.State != backstay.RolledBack || s.Failure.Cause != backstay.CauseGateFailed || !strings.Contains(s.Failure.Reason, "errors: it says fail") {
				t.Fatalf("got state %s, failure %+v", s.State, s.Failure)
			}
			if got := w.snapshot()[route]; got != "0%" {
				t.Errorf("the dial is at %s", got)
			}
		})
	}
}

// A late approval of a deployment whose gate failed is refused: the failure is
// there first. One answer that fails is not enough where two are asked for.
func TestArmedNeedsItsFailures(t *testing.T) {
	t.Parallel()
	w, j, id := newWorld(map[backstay.Key]string{route: "0%"}), newJudge(), newID(t)
	j.errors(backstay.Pass)
	p := chain(notch("1%"), gate("look", backstay.Gate{Checks: checks("errors")}), person())
	var b *bench
	b = newBench(t, w, func(o *engine.Options) { o.Judge = j }, follow(in(backstay.Holding), func(engine.View) {
		j.errors(backstay.Undecided) // no data is no breach
		for n := len(j.views()); len(j.views()) < n+3; {
			time.Sleep(time.Millisecond) //nolint:forbidigo // until it was asked
		}
		approve(t, b, id, p)
	}))
	if s := b.deployBy(p, id); s.State != backstay.Proven {
		t.Fatalf("got state %s, failure %+v", s.State, s.Failure)
	}
}

func TestUndecidedPolicy(t *testing.T) {
	t.Parallel()
	gated := func(policy backstay.GatePolicy) *plan.Plan {
		return chain(notch("1%"), gate("look", backstay.Gate{Within: 40 * ms, Undecided: policy, Checks: checks("errors")}), notch("100%"))
	}
	promote := func(b *bench, id string) {
		_ = b.store.Signal(b.t.Context(), id, ledger.Signal{ID: "p", Kind: engine.SignalPromote, Reason: "I looked", Actor: backstay.Actor{UID: 1}})
	}
	for name, tt := range map[string]struct {
		policy backstay.GatePolicy
		then   func(b *bench, j *judge, id string)
		want   backstay.State
		note   string
	}{
		"by default it rolls back": {"", nil, backstay.RolledBack, ""},
		"rollback":                 {backstay.RollBackUndecided, nil, backstay.RolledBack, ""},
		"promote":                  {backstay.PromoteUndecided, nil, backstay.Proven, "policy goes on: errors: it says undecided"},
		"hold, then evidence":      {backstay.HoldUndecided, func(_ *bench, j *judge, _ string) { j.errors(backstay.Pass) }, backstay.Proven, "held for"},
		"hold, then a breach":      {backstay.HoldUndecided, func(_ *bench, j *judge, _ string) { j.errors(backstay.Fail) }, backstay.RolledBack, ""},
		"hold, then a person":      {backstay.HoldUndecided, func(b *bench, _ *judge, id string) { promote(b, id) }, backstay.Proven, "promoted by a person"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, j, id := newWorld(map[backstay.Key]string{route: "0%"}), newJudge(), newID(t)
			j.errors(backstay.Undecided)
			var b *bench
			b = newBench(t, w, func(o *engine.Options) { o.Judge = j }, follow(in(backstay.Holding), func(v engine.View) {
				if !strings.Contains(v.Next, "look") || !strings.Contains(v.Next, "undecided after 40ms") {
					t.Errorf("it says that it waits for %q", v.Next)
				}
				if tt.then == nil {
					t.Error("it holds")
					return
				}
				tt.then(b, j, id)
			}))
			s := b.deployBy(gated(tt.policy), id)
			if s.State != tt.want {
				t.Fatalf("got state %s, failure %+v", s.State, s.Failure)
			}
			if note := stepOf(s, "look").Note; !strings.Contains(note, tt.note) {
				t.Errorf("the gate's note is %q, want %q", note, tt.note)
			}
			if s.State == backstay.RolledBack && s.Failure.Cause != backstay.CauseGateFailed {
				t.Errorf("failure %+v", s.Failure)
			}
		})
	}
}

func stepOf(s engine.Summary, id string) engine.StepView {
	for _, st := range s.Steps {
		if st.ID == id {
			return st
		}
	}
	return engine.StepView{}
}

// What is undecided at the end of a bake is not proven.
func TestUndecidedBake(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		policy backstay.GatePolicy
		back   bool // the evidence comes back
		want   backstay.State
	}{
		"rolls back":        {"", false, backstay.RolledBack},
		"goes on by policy": {backstay.PromoteUndecided, false, backstay.Proven},
		"comes back":        {backstay.HoldUndecided, true, backstay.Proven},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, j, id := newWorld(map[backstay.Key]string{route: "0%"}), newJudge(), newID(t)
			j.errors(backstay.Pass)
			p := chain(notch("1%"), gate("look", backstay.Gate{Undecided: tt.policy, Checks: checks("errors")}), notch("100%"))
			p.Bake = plan.Bake{For: 80 * ms, Every: 10 * ms, Failures: 1}
			committed := false
			b := newBench(t, w, func(o *engine.Options) {
				o.Judge, o.Grace = j, 30*time.Millisecond
				o.Watch = func(v engine.View) {
					if v.State == backstay.Committed && !committed {
						committed = true
						j.errors(backstay.Undecided)
						if tt.back {
							time.AfterFunc(300*time.Millisecond, func() { j.errors(backstay.Pass) })
						}
					}
				}
			})
			if s := b.deployBy(p, id); s.State != tt.want {
				t.Fatalf("got state %s, failure %+v", s.State, s.Failure)
			}
		})
	}
}

// Comparisons are weighed together: neither convicts alone, both do. Parts of
// comparisons that say nothing count against it.
func TestConvictedTogether(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		errors, latency float64
		want            backstay.State
	}{
		"neither":   {900, 400, backstay.Proven},
		"together":  {900, 1500, backstay.RolledBack},
		"one alone": {2500, 0, backstay.RolledBack},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, j, id := newWorld(map[backstay.Key]string{route: "0%"}), newJudge(), newID(t)
			both := checks("errors", "latency")
			for i, odds := range []float64{tt.errors, tt.latency} {
				both[i].Part = 5
				j.set(both[i].Name, backstay.CheckResult{Verdict: backstay.Pass, Evidence: &backstay.Evidence{Metric: both[i].Name, Odds: odds, FailAt: 1000, Part: 5}})
			}
			b := newBench(t, w, func(o *engine.Options) { o.Judge = j })
			s := b.deployBy(chain(notch("1%"), gate("look", backstay.Gate{Hold: 50 * ms, Checks: both}), notch("100%")), id)
			if s.State != tt.want {
				t.Fatalf("got state %s, failure %+v", s.State, s.Failure)
			}
			if s.State == backstay.RolledBack && !strings.Contains(s.Failure.Reason, "worse than the running one") {
				t.Errorf("failure %+v", s.Failure)
			}
			for _, v := range b.verdicts(id) {
				asked := v.Samples > 0 // one alone convicts before the other was asked
				if v.Check != "look" && asked && (v.Evidence == nil || len(v.State) == 0) {
					t.Errorf("a last answer without evidence or state: %+v", v)
				}
			}
		})
	}
}

// A check gets its state back: from step to step, and after a crash from the
// ledger. Only answers about the share that the gate stands at count.
func TestStateGoesOn(t *testing.T) {
	t.Parallel()
	w, j, id := newWorld(map[backstay.Key]string{route: "0%"}), newJudge(), newID(t)
	j.set("errors", backstay.CheckResult{Verdict: backstay.Pass, Evidence: &backstay.Evidence{Metric: "errors"}})
	died, crashed := errors.New("killed"), false
	at := func(name string, weight int) backstay.Step {
		return gate(name, backstay.Gate{Hold: 30 * ms, Route: "shop", Weight: weight, Checks: checks("errors")})
	}
	b := newBench(t, w, func(o *engine.Options) {
		o.Judge = j
		o.Failpoint = func(p, step string) error {
			if p == "intent.after" && step == "g50" && !crashed {
				crashed = true
				return died
			}
			return nil
		}
	})
	p := chain(notch("1%"), at("g1", 1), notch("50%"), at("g50", 50), notch("100%"))
	if _, err := b.eng.Deploy(t.Context(), engine.Start{ID: id, Plan: p}); !errors.Is(err, died) {
		t.Fatalf("got %v, want the crash", err)
	}
	before := len(j.views())
	s, err := b.engine(func(o *engine.Options) { o.Judge = j }).Resume(t.Context(), id, nil, nil)
	if err != nil || s.State != backstay.Proven {
		t.Fatalf("got state %s, error %v", s.State, err)
	}
	views := j.views()
	n := 0
	if err := json.Unmarshal(views[before].State, &n); err != nil || n == 0 || n > before {
		t.Errorf("after the crash it is given %s (%v), after %d answers", views[before].State, err, before)
	}
	last := 0
	for i, v := range views {
		if i > 0 && i != before && len(v.State) == 0 {
			t.Errorf("question %d comes without state", i)
		}
		last = v.Weight
	}
	if last != 50 {
		t.Errorf("the last question is about %d %%", last)
	}
}

// A promotion without anything to promote is refused, and said so.
func TestPromoteNothing(t *testing.T) {
	t.Parallel()
	w, id := newWorld(nil), newID(t)
	var b *bench
	p := chain(set("one"), person())
	b = newBench(t, w, follow(in(backstay.Holding), func(engine.View) {
		_ = b.store.Signal(t.Context(), id, ledger.Signal{ID: "p", Kind: engine.SignalPromote, Actor: backstay.Actor{UID: 1}})
		approve(t, b, id, p)
	}))
	b.deployBy(p, id)
	entries, err := b.store.Entries(t.Context(), id, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		var body backstay.SignalBody
		if e.Kind == backstay.EntrySignal && e.Decode(&body) == nil && body.Signal == engine.SignalPromote {
			if body.Accepted || !strings.Contains(body.Why, "waits at a gate") {
				t.Errorf("promotion %+v", body)
			}
			return
		}
	}
	t.Error("the promotion is not in the ledger")
}
