package sim

import (
	"flag"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/backstay-dev/backstay"
)

var (
	replayFlag = flag.String("sim.replay", "", "play one case of the depth-1 test: 'plan=NAME fault=FAULT'")
	memoryFlag = flag.Bool("sim.memory", false, "play the cases of the depth-1 test on the ledger in memory: quicker, for mutants of the engine")
	fullFlag   = flag.Bool("sim.full", false, "play every case of the depth-1 test, not a stride of them")
)

// scenarioNamed finds a plan by its name: a canonical one's, or "random-SEED".
// "~ID" behind it leaves a step out.
func scenarioNamed(name string) (scenario, bool) {
	base, without, _ := strings.Cut(name, "~")
	var sc scenario
	if seed, ok := strings.CutPrefix(base, randomPrefix); ok {
		n, err := strconv.ParseUint(seed, 10, 64)
		if err != nil {
			return scenario{}, false
		}
		sc = randomScenario(n)
	} else {
		all := scenarios()
		i := slices.IndexFunc(all, func(sc scenario) bool { return sc.name == base })
		if i < 0 {
			return scenario{}, false
		}
		sc = all[i]
	}
	for id := range strings.SplitSeq(without, "~") {
		if id != "" {
			sc = sc.withoutStep(id)
		}
	}
	return sc, true
}

// withoutStep is the same plan without one step: what needed it needs what it
// needed.
func (sc scenario) withoutStep(id string) scenario {
	steps := sc.steps
	sc.name += "~" + id
	sc.steps = func() []backstay.Step {
		var left []backstay.Step
		var its []string
		for i, s := range steps() {
			if s.Needs == nil && i > 0 {
				s.Needs = []string{steps()[i-1].ID}
			}
			if s.ID == id {
				its = s.Needs
				continue
			}
			if slices.Contains(s.Needs, id) {
				s.Needs = append(slices.DeleteFunc(slices.Clone(s.Needs), func(n string) bool { return n == id }), its...)
				slices.Sort(s.Needs)
				s.Needs = slices.Compact(s.Needs)
			}
			left = append(left, s)
		}
		return left
	}
	return sc
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

// TestDepth1 plays every canonical plan with every single fault at every point
// that it passes, and each crash twice at the same point, on the real ledger. In
// its short form it plays a stride of them; -sim.full plays all.
func TestDepth1(t *testing.T) {
	t.Parallel()
	stride := 23
	if raceDetector {
		stride = 211 // it costs the SQLite in it fifteen times as much
	}
	if *fullFlag {
		stride = 1
	}
	if *strideFlag > 0 {
		stride = *strideFlag
	}
	count := newCount("depth1")
	t.Cleanup(func() { count.done(t) })
	for i, sc := range scenarios() {
		count.Plans++
		t.Run(sc.name, func(t *testing.T) {
			t.Parallel()
			enumerateScenario(t, sc, stride, i, count)
			count.shrunk(t)
		})
	}
}

// enumerateScenario plays one scenario dry, then with each of its faults.
func enumerateScenario(t *testing.T, sc scenario, stride, offset int, count *count) {
	t.Helper()
	open := inLab
	if *memoryFlag {
		open = func(t *testing.T, work func(*lab)) { t.Helper(); inBubble(t, sc, work) }
	}
	var all []fault
	open(t, func(l *lab) {
		dry := l.play(sc, nil)
		if dry.end != sc.ends() {
			dry.violate("I1: without a further fault it ended %q, want %q", dry.end, sc.ends())
		}
		count.judged(t, dry, sc, nil)
		all = enumerate(dry.trace, sc.theirs, 0)
		count.covers(dry.trace, len(all))
	})
	for at := offset % stride; at < len(all) && !stopped.Load(); {
		open(t, func(l *lab) {
			for ; at < len(all) && l.n < runsPerLab && !l.dirty && !stopped.Load(); at += stride {
				f := all[at]
				r := l.play(sc, []fault{f})
				count.judged(t, r, sc, []fault{f})
				again := fault{Action: actCrash, Point: f.Point, N: f.N + 1}
				if f.Action == actCrash && !l.dirty && slices.Contains(r.trace, fmt.Sprintf("%s#%d", again.Point, again.N)) {
					count.covers(nil, 1)
					count.judged(t, l.play(sc, []fault{f, again}), sc, []fault{f, again})
				}
			}
		})
	}
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
		{"linear", "abort@observe/a#4+crash@fp:transition.commit.after/#1", "recovery went on to the end past an abort that had waited before it began"},
		{"shared", "part-lie@do/tree#1+crash@claim#1+abort@reap/tree#1+outside(/srv/site/conf=theirs)@undo/tree#1+crash@fp:compensation.before/tree#1", "an outsider's new part was removed by an undo that was cut off and had nothing to do with it"},
		{"linear", "crash@do.w2/a#1+unread@observe/a#4+unread@observe/a#5+outside(/srv/site/index=theirs)@observe/a#6", "what an outsider wrote after recovery had found how far a step came was taken for the step's own"},
		{"linear", "crash@do.w2/a#1+unread@observe/a#3+outside(/srv/site/log=theirs)@undo/a#1+crash@fp:compensation.before/a#1", "the same, where recovery could not read how far the step had come"},
		{"parallel-join-fails", "crash@fp:do.after/r#1+crash@fp:transition.fail.after/#1+outside(run:pool=theirs)@reap/p#2", "recovery's look at one step was cut off by what it had found of another"},
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
