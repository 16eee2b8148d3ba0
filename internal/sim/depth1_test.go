package sim

import (
	"flag"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

var (
	replayFlag = flag.String("sim.replay", "", "play one case of the depth-1 test: 'plan=NAME fault=FAULT'")
	fullFlag   = flag.Bool("sim.full", false, "play every case of the depth-1 test, not a stride of them")
)

func scenarioNamed(name string) (scenario, bool) {
	all := scenarios()
	i := slices.IndexFunc(all, func(sc scenario) bool { return sc.name == name })
	if i < 0 {
		return scenario{}, false
	}
	return all[i], true
}

// TestReplay plays the one case of -sim.replay and prints its journal.
func TestReplay(t *testing.T) {
	t.Parallel()
	if *replayFlag == "" {
		t.Skip("needs -sim.replay='plan=NAME fault=FAULT'")
	}
	name, script, ok := strings.Cut(strings.TrimPrefix(*replayFlag, "plan="), " fault=")
	sc, known := scenarioNamed(name)
	faults, err := parseFaults(script)
	if !ok || !known || err != nil {
		t.Fatalf("-sim.replay=%q: no such case (%v)", *replayFlag, err)
	}
	r := play(t, sc, faults)
	for i, e := range r.journal {
		t.Log(i, e)
	}
	t.Logf("ended %s after %d processes; faults that did not happen: %v", r.end, r.lives, r.unfired)
	for _, v := range r.violations {
		t.Error(v)
	}
}

// tally counts what a scenario's enumeration covered.
type tally struct {
	points, faults, runs, idle, failed int
	ends                               map[string]int
}

func (a *tally) add(b tally) {
	a.points, a.faults, a.runs, a.idle, a.failed = a.points+b.points, a.faults+b.faults, a.runs+b.runs, a.idle+b.idle, a.failed+b.failed
	for end, n := range b.ends {
		a.ends[end] += n
	}
}

// TestDepth1 plays every canonical plan with every single fault at every point
// that it passes, and each crash twice at the same point. In its short form it
// plays a stride of them; -sim.full plays all.
func TestDepth1(t *testing.T) {
	t.Parallel()
	stride := 23
	if raceDetector {
		stride = 211 // it costs the SQLite in it fifteen times as much
	}
	if *fullFlag {
		stride = 1
	}
	// A run makes little garbage that lives and much that does not.
	gc := debug.SetGCPercent(400)
	var mu sync.Mutex
	total := tally{ends: map[string]int{}}
	began := time.Now()
	t.Cleanup(func() {
		debug.SetGCPercent(gc)
		t.Logf("%d plans, %d points, %d faults, %d runs (stride %d) in %v; %d faults came too late to happen; %d runs failed; ends %v",
			len(scenarios()), total.points, total.faults, total.runs, stride, time.Since(began).Round(time.Millisecond), total.idle, total.failed, total.ends)
	})
	for i, sc := range scenarios() {
		t.Run(sc.name, func(t *testing.T) {
			t.Parallel()
			got := enumerateScenario(t, sc, stride, i)
			t.Logf("%d points, %d faults, %d runs, %d too late, %d failed, ends %v", got.points, got.faults, got.runs, got.idle, got.failed, got.ends)
			mu.Lock()
			defer mu.Unlock()
			total.add(got)
		})
	}
}

// enumerateScenario plays one scenario dry, then with each of its faults.
func enumerateScenario(t *testing.T, sc scenario, stride, offset int) tally {
	t.Helper()
	got := tally{ends: map[string]int{}}
	report := func(r *record, extra []fault) {
		got.runs++
		got.ends[string(r.end)]++
		if len(r.unfired) > 0 {
			got.idle++
		}
		if len(r.violations) == 0 {
			return
		}
		if got.failed++; got.failed <= 15 {
			t.Errorf("-sim.replay='plan=%s fault=%s': %s", sc.name, faultText(extra), strings.Join(r.violations, "\n\t"))
		}
	}
	dry := play(t, sc, nil)
	if dry.end != sc.ends() {
		dry.violate("I1: without a further fault it ended %s, want %s", dry.end, sc.ends())
	}
	report(dry, nil)
	all := enumerate(dry.trace, sc.theirs)
	got.faults = len(all)
	for _, pass := range dry.trace {
		if pass != changed {
			got.points++
		}
	}
	for at := offset % stride; at < len(all); {
		inLab(t, func(l *lab) {
			for ; at < len(all) && l.n < runsPerLab && !l.dirty; at += stride {
				f := all[at]
				r := l.play(sc, []fault{f})
				report(r, []fault{f})
				again := fault{Action: actCrash, Point: f.Point, N: f.N + 1}
				if f.Action == actCrash && !l.dirty && slices.Contains(r.trace, fmt.Sprintf("%s#%d", again.Point, again.N)) {
					got.faults++
					report(l.play(sc, []fault{f, again}), []fault{f, again})
				}
			}
		})
	}
	return got
}

// runsPerLab bounds how large the ledger of a lab grows.
const runsPerLab = 100

// TestRegressions plays the cases that once found a bug in the engine, for ever.
func TestRegressions(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ plan, fault, bug string }{
		{"command-outsider", "", "a step that was not undone because of drift in its way was held with undo_failed"},
		{"bake-fails", "observe-err@observe/b#6", "the same, behind something that could not be read"},
		{"keeper-fails", "unread@observe/b#6", "a key unreadable at the last look had no next command, and the cause undo_failed"},
		{"parallel-join-fails", "outside(/srv/site/index=theirs)@fp:compensation.before/q#1", "an outsider's change during an undo was held as undo_failed instead of kept"},
		{"linear-fails", "outside(/srv/site/log=theirs)@undo/a#1", "the same, of a part that the undo had nothing to do with"},
		{"shared-fails", "outside(/srv/site/conf=theirs)@undo.w1/tree#1", "the same, of a part that a later step had"},
		{"pivot", "outside(/etc/shop.conf=theirs)@do/a#1", "a step refused twice past the point of no return made every recovery fail"},
		{"pivot-after-fails", "unread@observe/z#6", "the same, unreadable before another try"},
		{"revert", "outside(run:pool=theirs)@fp:do.after/revert-b#1", "a revert by command was committed without reading as the state to bring back"},
		{"commands", "lost@do/probed#1", "a probed step was tried again after a lost answer without asking its probe"},
		{"commands-fail", "lost@do/probed#*", "the same, each time"},
		{"revert-fails", "part@do/revert-b#1", "what a failed undo command had left was taken for an outsider's when it was tried again"},
	} {
		t.Run(tc.plan+" "+tc.fault, func(t *testing.T) {
			t.Parallel()
			sc, known := scenarioNamed(tc.plan)
			script, err := parseFaults(tc.fault)
			if !known || err != nil {
				t.Fatalf("no such case (%v)", err)
			}
			r := play(t, sc, script)
			if len(r.unfired) > 0 {
				t.Errorf("%v came too late: the case no longer says anything", r.unfired)
			}
			for _, v := range r.violations {
				t.Errorf("%s: %s", tc.bug, v)
			}
		})
	}
}
