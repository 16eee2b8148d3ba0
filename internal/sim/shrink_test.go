package sim

import (
	"slices"
	"strings"
	"testing"

	"github.com/backstay-dev/backstay"
)

// mostShrinks bounds the runs that shrinking one case may take.
const mostShrinks = 300

// shrink makes a failing case minimal: it drops faults, then steps, then those
// misfortunes that are the plan's own, until every further drop makes it pass.
// fails plays a case and reports whether it still fails.
func shrink(sc scenario, script []fault, fails func(scenario, []fault) bool) (scenario, []fault) {
	tries := 0
	try := func(sc scenario, script []fault) bool {
		tries++
		return tries <= mostShrinks && fails(sc, script)
	}
	for smaller := true; smaller; {
		smaller = false
		for i := len(script) - 1; i >= 0; i-- {
			if less := slices.Delete(slices.Clone(script), i, i+1); try(sc, less) {
				script, smaller = less, true
			}
		}
		for _, s := range slices.Backward(sc.steps()) {
			if less := sc.withoutStep(s.ID); len(sc.steps()) > 1 && try(less, script) {
				sc, smaller = less, true
			}
		}
	}
	return sc, script
}

// failsAlone plays a case in a lab of its own.
func failsAlone(t *testing.T) func(scenario, []fault) bool {
	t.Helper()
	return func(sc scenario, script []fault) (failed bool) {
		inBubble(t, sc, func(l *lab) { failed = len(l.play(sc, script).violations) > 0 })
		return failed
	}
}

// TestShrink seeds a bug that needs two faults to show (a driver that, undoing
// in a process that took over, writes next door) into a case of five faults and
// a plan of four steps: what is left must be the two faults and one step, and
// the line that is printed must play it again.
func TestShrink(t *testing.T) {
	t.Parallel()
	sc, _ := scenarioNamed("stages")
	sc.bug = func(p *process, verb string, _ backstay.Call) {
		if verb == "undo" && p.n > 1 {
			p.w.put(event{Kind: "write", Step: "site", Proc: p.n, Back: true}, "/srv/site2/index", "oops")
		}
	}
	script, err := parseFaults("transient@do/schema#1+crash@fp:outcome.after/site#1+unread@observe/site#9+lost@do/conf#1+fail@do/flag#1")
	if err != nil {
		t.Fatal(err)
	}
	fails := failsAlone(t)
	if !fails(sc, script) {
		t.Fatal("the seeded bug does not show")
	}
	small, left := shrink(sc, script, fails)
	if !fails(small, left) {
		t.Errorf("the shrunk case passes: %s", replayLine(small, left))
	}
	if got := len(small.steps()); len(left) > 2 || got > 2 {
		t.Errorf("%d faults and %d steps are left: %s", len(left), got, replayLine(small, left))
	}
	_, text, _ := strings.Cut(replayLine(small, left), "plan=")
	name, faults, _ := strings.Cut(strings.TrimSuffix(text, "'"), " fault=")
	again, known := scenarioNamed(name)
	parsed, err := parseFaults(faults)
	again.bug = sc.bug
	if !known || err != nil || !fails(again, parsed) {
		t.Errorf("the replay line does not play the case again: known %v, %v: %s", known, err, replayLine(small, left))
	}
	sc.bug = nil
	if fails(sc, script) {
		t.Error("the case fails without the bug")
	}
}
