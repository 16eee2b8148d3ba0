package engine_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/engine"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/plan"
)

const route = backstay.Key("mem:route")

// notch declares a step that moves the dial "mem:route" to its own name.
func notch(value string, needs ...string) backstay.Step {
	st := set(value, needs...)
	st.Keys, st.Dial = []backstay.Key{route}, route
	st.Body = backstay.Canonical(body{Writes: map[backstay.Key]string{route: value}})
	st.Want = backstay.Image{route: backstay.PartValue(value)}
	return st
}

// canary is a dial moved through three notches with a wait between them, and a
// last step that fails.
func canary(w *world) *plan.Plan {
	w.doErr["boom"], w.noWrite["boom"] = errors.New("out of memory"), true
	return chain(set("new side"), notch("1%"), approval("look", time.Minute), notch("10%"), notch("50%"), set("boom"))
}

// undos lists the undo calls in their order.
func (w *world) undos() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []string
	for _, c := range w.calls {
		if step, ok := strings.CutPrefix(c, "undo "); ok {
			out = append(out, step)
		}
	}
	return out
}

// compensations lists what became of each step's undo, in the ledger's order.
func (b *bench) compensations(id string) []string {
	b.t.Helper()
	entries, err := b.store.Entries(b.t.Context(), id, 0)
	if err != nil {
		b.t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		var body backstay.CompensationBody
		if e.Kind != backstay.EntryCompensation {
			continue
		}
		if err := e.Decode(&body); err != nil {
			b.t.Fatal(err)
		}
		line := e.Step + " " + body.Result
		if body.With != "" {
			line += " with " + body.With
		}
		out = append(out, line)
	}
	return out
}

func TestDialGoesBackInOneMove(t *testing.T) {
	t.Parallel()
	w := newWorld(map[backstay.Key]string{route: "0%"})
	b, p, id := newBench(t, w), canary(w), newID(t)
	approveWhenHolding(t, b, id, p)
	if s := b.deployBy(p, id); s.State != backstay.RolledBack {
		t.Fatalf("got state %s, residue %+v", s.State, s.Residue)
	}
	if got := w.snapshot()[route]; got != "0%" {
		t.Errorf("the dial is at %s", got)
	}
	if diff := cmp.Diff([]string{"50%", "new side"}, w.undos()); diff != "" {
		t.Errorf("undo calls (-want +got):\n%s", diff)
	}
	want := []string{
		"boom untouched", "50% restored", "10% restored with 50%", "look untouched with 50%", "1% restored with 50%", "new side restored",
	}
	if diff := cmp.Diff(want, b.compensations(id)); diff != "" {
		t.Errorf("compensation records (-want +got):\n%s", diff)
	}
}

func TestDialStopsAtWhatStandsBetween(t *testing.T) {
	t.Parallel()
	w := newWorld(map[backstay.Key]string{route: "0%"})
	w.doErr["boom"] = errors.New("out of memory")
	b := newBench(t, w)
	if s := b.deploy(chain(notch("1%"), notch("10%"), set("mid"), notch("50%"), notch("100%"), set("boom"))); s.State != backstay.RolledBack {
		t.Fatalf("got state %s, residue %+v", s.State, s.Residue)
	}
	if diff := cmp.Diff([]string{"boom", "100%", "mid", "10%"}, w.undos()); diff != "" {
		t.Errorf("undo calls (-want +got):\n%s", diff)
	}
	if got := w.snapshot()[route]; got != "0%" {
		t.Errorf("the dial is at %s", got)
	}
}

func TestDialKeepsWhatSomebodySetBetweenTwoMoves(t *testing.T) {
	t.Parallel()
	w := newWorld(map[backstay.Key]string{route: "0%"})
	w.doErr["boom"] = errors.New("out of memory")
	w.before["mid"] = func() { w.set(route, "theirs") }
	b := newBench(t, w)
	// Nothing is frozen about the dial before its second move, so it goes on from there.
	s := b.deploy(chain(notch("1%"), set("mid"), notch("10%", "mid", "1%"), set("boom")))
	if s.State != backstay.RolledBack || w.snapshot()[route] != "theirs" {
		t.Errorf("got state %s with the dial at %s, residue %+v", s.State, w.snapshot()[route], s.Residue)
	}
	if len(s.Kept) == 0 {
		t.Error("nothing is reported as kept")
	}
}

func TestDialOutcomeUnknownGoesBackInOneMove(t *testing.T) {
	t.Parallel()
	// The last move fails after it took effect: it is covered all the same.
	w := newWorld(map[backstay.Key]string{route: "0%"})
	w.doErr["50%"] = errors.New("no answer")
	b := newBench(t, w)
	if s := b.deploy(chain(notch("1%"), notch("10%"), notch("50%"))); s.State != backstay.RolledBack || w.snapshot()[route] != "0%" {
		t.Fatalf("got state %s with the dial at %s", s.State, w.snapshot()[route])
	}
	if diff := cmp.Diff([]string{"50%"}, w.undos()); diff != "" {
		t.Errorf("undo calls (-want +got):\n%s", diff)
	}
}

func TestDialUndoIsCutOffAndTakenUpAgain(t *testing.T) {
	t.Parallel()
	for _, point := range []string{"undo_intent.before", "undo_intent.after", "undo.before", "undo.after", "compensation.before", "compensation.after"} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			w := newWorld(map[backstay.Key]string{route: "0%"})
			crash, died := errors.New("power cut"), false
			b := newBench(t, w, func(o *engine.Options) {
				o.Failpoint = func(at, step string) error {
					if at == point && step == "50%" && !died {
						died = true
						return crash
					}
					return nil
				}
			})
			p, id := canary(w), newID(t)
			approveWhenHolding(t, b, id, p)
			if _, err := b.eng.Deploy(t.Context(), engine.Start{ID: id, Plan: p}); !errors.Is(err, crash) {
				t.Fatalf("got %v", err)
			}
			again := b.engine()
			s, err := again.Resume(t.Context(), id, nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			if s.State != backstay.RolledBack || w.snapshot()[route] != "0%" {
				t.Errorf("got state %s with the dial at %s, residue %+v", s.State, w.snapshot()[route], s.Residue)
			}
			if undos := w.undos(); slices.ContainsFunc(undos, func(u string) bool { return u != "50%" && u != "new side" }) {
				t.Errorf("undo calls %v: the dial went through a notch on its way back", undos)
			}
			if got := b.compensations(id); len(got) != 6 {
				t.Errorf("compensation records: %q", got)
			}
		})
	}
}

func TestDialThatCannotBeMovedIsHeldAndRetried(t *testing.T) {
	t.Parallel()
	w := newWorld(map[backstay.Key]string{route: "0%"})
	w.doErr["boom"], w.noWrite["boom"] = errors.New("out of memory"), true
	w.undoErr["10%"] = backstay.Classify(backstay.Permanent, errors.New("the router is gone"))
	b, id := newBench(t, w), newID(t)
	s := b.deployBy(chain(set("a"), notch("1%"), notch("10%"), set("boom")), id)
	if s.State != backstay.Held || len(s.Residue) != 2 { // the dial, and the step that its moves need
		t.Fatalf("got state %s, residue %+v", s.State, s.Residue)
	}
	for _, r := range s.Residue {
		if r.Key == route && (string(r.Before) != `"0%"` || string(r.Current) != `"10%"` || r.Cause != backstay.CauseUndoFailed) {
			t.Errorf("residue of the dial: %+v", r)
		}
	}
	delete(w.undoErr, "10%")
	s, err := b.eng.Resume(t.Context(), id, nil, &ledger.Signal{ID: "again", Kind: engine.SignalRetry})
	if err != nil {
		t.Fatal(err)
	}
	if s.State != backstay.RolledBack || w.snapshot()[route] != "0%" {
		t.Errorf("after the retry: state %s with the dial at %s, residue %+v", s.State, w.snapshot()[route], s.Residue)
	}
	want := []string{"boom untouched", "10% failed", "10% restored", "1% restored with 10%", "a restored"}
	if diff := cmp.Diff(want, b.compensations(id)); diff != "" {
		t.Errorf("compensation records (-want +got):\n%s", diff)
	}
}

func TestDialKeepsWhatSomebodySetWhileItWaited(t *testing.T) {
	t.Parallel()
	w := newWorld(map[backstay.Key]string{route: "0%"})
	w.doErr["boom"], w.noWrite["boom"] = errors.New("out of memory"), true
	b, id := newBench(t, w), newID(t)
	p := chain(notch("1%"), approval("look", time.Minute), notch("10%"), set("boom"))
	whenHolding(t, b, id, func() {
		w.set(route, "theirs")
		approve(t, b, id, p)
	})
	s := b.deployBy(p, id)
	if s.State != backstay.RolledBack || w.snapshot()[route] != "theirs" || len(s.Kept) == 0 {
		t.Errorf("got state %s with the dial at %s, kept %+v", s.State, w.snapshot()[route], s.Kept)
	}
}
