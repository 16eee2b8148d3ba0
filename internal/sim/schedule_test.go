package sim

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/plan"
)

var (
	schedulesFlag = flag.Int("sim.schedules", 0, "how many random schedules to play; 0: a few")
	seedFlag      = flag.Uint64("sim.seed", 1, "seed of the first random schedule; the next has the next")
)

// swarm is what one schedule is made of, all of it drawn from its seed: which
// plan, which kinds of faults are on, how many may happen, how often.
type swarm struct {
	seed   uint64
	plan   string
	most   int
	rate   float64
	on     map[string]bool
	fired  int
	theirs []fault
}

// newSwarm derives the options of a seed.
func newSwarm(seed uint64) *swarm {
	rng := rand.New(rand.NewPCG(seed, 0x9e3779b97f4a7c15))
	s := &swarm{seed: seed, on: map[string]bool{}}
	// Half of the plans are canonical, half are made of the seed.
	all := scenarios()
	if sc := all[rng.IntN(len(all))]; rng.IntN(2) == 0 && !sc.revert {
		s.plan = sc.name
	} else {
		s.plan = randomPrefix + strconv.FormatUint(seed, 10)
	}
	s.most = 1 + min(rng.IntN(4)+rng.IntN(3), 5)
	s.rate = []float64{0.01, 0.03, 0.08, 0.2}[rng.IntN(4)]
	for _, action := range actions() {
		s.on[action] = rng.IntN(2) == 0
	}
	s.on[actions()[rng.IntN(len(actions()))]] = true
	return s
}

// actions are all that a schedule may draw from.
func actions() []string {
	return []string{
		actCrash, actOutside, actAbort, actStop, actFail, actTransient, actPart, actFull, actLost, actLie, actPartLie,
		actHang, actHangPart, actUnread, actObserveErr, actStoreErr, actStoreLost, actSecond,
	}
}

func (s *swarm) String() string {
	var on []string
	for _, a := range actions() {
		if s.on[a] {
			on = append(on, a)
		}
	}
	return fmt.Sprintf("seed %d: plan %s, at most %d faults, rate %.2f, of %s", s.seed, s.plan, s.most, s.rate, strings.Join(on, " "))
}

// draw decides at one pass of a point whether a fault happens there. It depends
// on the seed, the point and the count only, so that what happens at once in
// two goroutines does not matter. Points that only a rollback, a recovery or an
// end passes are rare and get four times the chance.
func (s *swarm) draw(point string, n int) (fault, bool) {
	if s.fired >= s.most {
		return fault{}, false
	}
	rng := rand.New(rand.NewPCG(s.seed, hashOf(point)^uint64(n)))
	rate := s.rate
	for _, rare := range []string{"undo", "compensation", "resolve", "claim", "settle", "takeover", "transition.undone", "transition.stick", "reap", "probe"} {
		if strings.Contains(point, rare) {
			rate *= 4
			break
		}
	}
	if strings.Contains(point, "create") || n == 1 && strings.HasPrefix(point, "observe") {
		rate /= 4 // where most plans would end before they began
	}
	if rng.Float64() >= rate {
		return fault{}, false
	}
	var room []fault
	for _, f := range faultsAt(point, n, n == 1, s.theirs) {
		if s.on[f.Action] {
			room = append(room, f)
		}
	}
	if len(room) == 0 {
		return fault{}, false
	}
	s.fired++
	return room[rng.IntN(len(room))], true
}

// hashOf is FNV-1a: the same in every process, unlike hash/maphash.
func hashOf(text string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(text) {
		h = (h ^ uint64(text[i])) * 1099511628211
	}
	return h
}

// TestSchedules plays random schedules: of each seed one.
func TestSchedules(t *testing.T) {
	t.Parallel()
	n := 400
	if raceDetector {
		n = 40
	}
	if *schedulesFlag > 0 {
		n = *schedulesFlag
	}
	count := newCount("schedules")
	t.Cleanup(func() { count.done(t) })
	for half := range 2 {
		t.Run(strconv.Itoa(half), func(t *testing.T) {
			t.Parallel()
			for i := half; i < n && !stopped.Load(); {
				inMemory(t, func(l *lab) {
					for began := l.n; i < n && l.n-began < mostInBubble && !l.dirty && !stopped.Load(); i += 2 {
						playSeed(t, l, *seedFlag+uint64(i), count)
					}
				})
				count.shrunk(t)
			}
		})
	}
}

func playSeed(t *testing.T, l *lab, seed uint64, count *count) {
	t.Helper()
	s := newSwarm(seed)
	sc, known := scenarioNamed(s.plan)
	if !known {
		t.Fatalf("%v: no such plan", s)
	}
	s.theirs = sc.theirs
	if len(s.theirs) == 0 {
		s.theirs = some()
	}
	r := l.draw(sc, nil, s.draw)
	drawn := r.script[len(sc.script):]
	if len(r.violations) > 0 && !*firstFlag {
		t.Errorf("%v", s)
	}
	count.judged(t, r, sc, drawn)
}

// randomPrefix begins the names of plans that are made of a seed.
const randomPrefix = "random-"

// randomScenario makes a plan of 2 to 5 steps over few keys, so that steps
// share them, with any of the things that make plans hard.
func randomScenario(seed uint64) scenario {
	rng := rand.New(rand.NewPCG(seed, 0xbf58476d1ce4e5b9))
	odds := func(n int) bool { return rng.IntN(n) == 0 }
	sc := scenario{name: randomPrefix + strconv.FormatUint(seed, 10), cells: start(), theirs: theirs()}
	for _, cell := range []string{"run:mail", "run:token", "run:queue", "service:web", "traffic:shop"} {
		sc.cells[cell] = "one"
	}
	sc.theirs = append(sc.theirs, outside("traffic:shop", "theirs"), fault{Action: actSecond})
	sc.opaque = []backstay.Key{"run:mail", "run:token", "run:queue"}
	var steps []backstay.Step
	var notch int
	for i := range 2 + rng.IntN(4) {
		id := string(rune('a' + i))
		s := randomStep(rng, id, &notch)
		switch {
		case i == 0:
		case odds(4): // a root of its own
			s.Needs = []string{}
		case odds(3):
			s.Needs = []string{steps[rng.IntN(i)].ID}
		}
		if s.Hold == nil && odds(8) {
			s = staged(s, []string{"one", "two"}[rng.IntN(2)])
		}
		steps = append(steps, s)
	}
	if last := len(steps) - 1; odds(6) && steps[last].Hold == nil && steps[last].Dial == "" && !steps[last].Restorable {
		asked := hold("ok", 20)
		steps = append(steps[:last], asked, pivot(needs(steps[last], steps[last-1].ID, "ok")))
	}
	for i := 1; i < len(steps); i++ { // plan.Build refuses a key that two steps change in no order
		if steps[i].Needs == nil {
			steps[i].Needs = []string{steps[i-1].ID}
		}
		for j := range i {
			if overlap(steps[i], steps[j]) && !slices.Contains(steps[i].Needs, steps[j].ID) {
				steps[i].Needs = append(steps[i].Needs, steps[j].ID)
			}
		}
	}
	sc.steps = func() []backstay.Step { return append([]backstay.Step{}, steps...) }
	sc.approval = []string{"good", "good", "good", "", "other"}[rng.IntN(5)]
	sc.shares = odds(4)
	watch, budget := odds(3), odds(8)
	sc.shape = func(p *plan.Plan) {
		p.Stages = []plan.Stage{{Name: "one"}, {Name: "two", Within: seconds(60)}}
		if watch {
			withVerify(p)
		}
		if budget {
			p.Within = seconds(10)
		}
	}
	// While something slow goes on beside a wait nobody is seen to be asked.
	sc.unlucky = budget || sc.approval != "good" || slices.ContainsFunc(steps, func(s backstay.Step) bool { return s.Hold != nil })
	if odds(3) {
		sc.script = append(sc.script, always(actFull, "do/"+steps[len(steps)-1].ID))
	}
	if odds(6) {
		sc.script = append(sc.script, always([]string{actFail, actPart}[rng.IntN(2)], "undo/"+steps[rng.IntN(len(steps))].ID))
	}
	return sc
}

func overlap(a, b backstay.Step) bool {
	for _, k := range a.Keys {
		for _, o := range b.Keys {
			if k.Overlaps(o) {
				return true
			}
		}
	}
	return false
}

func randomStep(rng *rand.Rand, id string, notch *int) backstay.Step {
	value := id + "2"
	run := func(kind string, k backstay.Key, was string) backstay.Step {
		return command(step(id, kind, set(k, value+"-"), set(k, value)), set(k, was))
	}
	switch rng.IntN(11) {
	case 0, 1:
		return step(id, kindTree, in("index", value), in("old", ""), in("new", value))
	case 2:
		return step(id, kindTree, set(conf, value))
	case 3:
		return step(id, kindTree, set("file:/srv/site/conf", value))
	case 4:
		return run(kindRun, backstay.Key("run:pool-"+id), "")
	case 5:
		return once(run(kindRun, backstay.Key("run:seen-"+id), ""))
	case 6:
		return run(kindProbe, "run:token", "one")
	case 7:
		return run(kindKeyed, "run:queue", "one")
	case 8:
		return step(id, kindKeeper, set(backstay.Key("service:"+id), value))
	case 9:
		return slow(step(id, kindTree, set(backstay.Key("file:/slow/"+id), value)), seconds(1+rng.IntN(30)))
	}
	*notch++
	s := step(id, kindTree, set(route, strconv.Itoa(*notch*10)))
	s.Dial = route
	return s
}
