package sim

import (
	"flag"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var (
	pairsFlag  = flag.String("sim.pairs", "", "plans of which to play every pair of faults: their names with commas between them, or 'all'")
	strideFlag = flag.Int("sim.stride", 0, "play only each so-manieth case; 0: the default of the test")
)

// pairPlan is the 3-step plan of which CI plays every pair.
const pairPlan = "linear"

// TestDepth2 plays every pair of faults: for each first fault, each second one
// over the trace of the run with the first, from the place on where the first
// happened, so that points which only a recovery or a rollback passes are
// reached. A pair whose second fault happens before its first is the same pair
// with the two exchanged, and is played as that. Besides, what enumerate says
// of single faults holds: what the engine cannot tell apart is played once.
func TestDepth2(t *testing.T) {
	t.Parallel()
	stride, names := 131, []string{pairPlan}
	switch {
	case *pairsFlag == "all":
		names = nil
		for _, sc := range scenarios() {
			names = append(names, sc.name)
		}
		stride = 1
	case *pairsFlag != "":
		names, stride = strings.Split(*pairsFlag, ","), 1
	}
	if raceDetector {
		stride *= 7
	}
	if *strideFlag > 0 {
		stride = *strideFlag
	}
	count := newCount("depth2")
	t.Cleanup(func() { count.done(t) })
	for _, name := range names {
		sc, known := scenarioNamed(name)
		if !known {
			t.Fatalf("no plan %q", name)
		}
		if len(names) == 1 && name == pairPlan {
			sc.theirs = some() // what else an outsider may do is depth 1's, and the night's
		}
		// Halves, so that one plan keeps two cores busy.
		for half := range 2 {
			t.Run(name+"/"+strconv.Itoa(half), func(t *testing.T) {
				t.Parallel()
				pairsOf(t, sc, stride, half, count)
				count.shrunk(t)
			})
		}
	}
}

// pairsOf plays one half of the pairs of a plan.
func pairsOf(t *testing.T, sc scenario, stride, half int, count *count) {
	t.Helper()
	var firsts []fault
	inBubble(t, sc, func(l *lab) {
		dry := l.play(sc, nil)
		count.judged(t, dry, sc, nil)
		firsts = enumerate(dry.trace, sc.theirs, 0)
		count.covers(dry.trace, len(firsts))
	})
	at := half
	for i := half; i < len(firsts) && !stopped.Load(); i += 2 {
		var seconds []fault
		inBubble(t, sc, func(l *lab) {
			one := l.play(sc, firsts[i:i+1])
			count.judged(t, one, sc, firsts[i:i+1])
			seconds = enumerate(one.trace, sc.theirs, placeOf(one.trace, firsts[i])+1)
			count.covers(nil, len(seconds))
		})
		for at < len(seconds) && !stopped.Load() {
			inBubble(t, sc, func(l *lab) {
				for began := l.n; at < len(seconds) && l.n-began < mostInBubble && !l.dirty; at += stride {
					pair := []fault{firsts[i], seconds[at]}
					count.judged(t, l.play(sc, pair), sc, pair)
				}
			})
		}
		at -= len(seconds)
	}
}

// mostInBubble bounds how many runs share a bubble.
const mostInBubble = 200

// inBubble is a lab on the ledger that the plan can do with: reverts need blobs.
func inBubble(t *testing.T, sc scenario, work func(*lab)) {
	t.Helper()
	if sc.revert {
		inLab(t, work)
		return
	}
	inMemory(t, work)
}

// placeOf is where in a trace a fault happened first.
func placeOf(trace []string, f fault) int {
	n := max(f.N, 1)
	return slices.Index(trace, f.Point+"#"+strconv.Itoa(n))
}

// TestPairsFromEitherSide: a pair that is left out, because its second fault
// comes first, is played with the two exchanged.
func TestPairsFromEitherSide(t *testing.T) {
	t.Parallel()
	sc, _ := scenarioNamed("linear")
	early, late := fault{Action: actTransient, Point: "do/a", N: 1}, fault{Action: actFail, Point: "do/c", N: 1}
	inMemory(t, func(l *lab) {
		of := func(f fault) []fault {
			r := l.play(sc, []fault{f})
			return enumerate(r.trace, nil, placeOf(r.trace, f)+1)
		}
		if !slices.Contains(of(early), late) {
			t.Errorf("%v is not among the second faults of %v", late, early)
		}
		if slices.Contains(of(late), early) {
			t.Errorf("%v is among the second faults of %v", early, late)
		}
		if inUndo := (fault{Action: actFail, Point: "undo/b", N: 1}); !slices.Contains(of(late), inUndo) {
			t.Errorf("%v, which only a rollback passes, is not among the second faults of %v", inUndo, late)
		}
	})
}
