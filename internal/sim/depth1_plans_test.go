package sim

import (
	"maps"
	"slices"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/plan"
)

// scenario is one canonical plan in one world, with the misfortunes that are
// part of it. Depth 1 adds one fault to it.
type scenario struct {
	name   string
	cells  map[string]string
	opaque []backstay.Key
	steps  func() []backstay.Step
	shape  func(*plan.Plan)
	script []fault
	// approval is what people do about a hold: "" nothing, "good", "other" (for
	// another plan).
	approval string
	// revert deploys the plan without faults first and simulates taking it back.
	revert bool
	// theirs are the cells an outsider may write, with what it leaves there.
	theirs []fault
	// shares starts a second deployment on one of the keys at each point, which
	// must wait, and once more after the end, when it must land.
	shares bool
	// later deploys something on the same keys between the deployment and its
	// revert, as somebody else would.
	later []change
	// unlucky says that the plan may end otherwise than well without any fault.
	unlucky bool
	// bug, where set, is what a broken driver does besides; see TestShrink.
	bug func(p *process, verb string, c backstay.Call)
	// untilEnd stops a run at its first end: nobody recovers, retries or signs.
	untilEnd bool
}

func seconds(n int) backstay.Duration { return backstay.Duration(time.Duration(n) * time.Second) }

// needs replaces what a step needs; none makes it a root.
func needs(s backstay.Step, ids ...string) backstay.Step {
	s.Needs = append([]string{}, ids...)
	return s
}

// command makes a step be undone by command, to the given values.
func command(s backstay.Step, undo ...change) backstay.Step {
	b := bodyOf(s)
	b.Undo = undo
	s.Body, s.Class = backstay.Canonical(b), backstay.Compensated
	return s
}

func slow(s backstay.Step, takes backstay.Duration) backstay.Step {
	b := bodyOf(s)
	b.Takes = takes
	s.Body = backstay.Canonical(b)
	return s
}

func staged(s backstay.Step, stage string) backstay.Step { s.Stage = stage; return s }
func once(s backstay.Step) backstay.Step                 { s.Effect = backstay.AtMostOnce; return s }

func pivot(s backstay.Step) backstay.Step {
	s.Class, s.HasUndo, s.Restorable, s.Pivot, s.Irreversible = backstay.Irreversible, false, false, true, "drops a table"
	s.UndoSummary = ""
	return s
}

func hold(id string, within int) backstay.Step {
	return backstay.Step{ID: id, Prepared: backstay.Prepared{
		Kind: "approve", Class: backstay.Exact, Effect: backstay.Idempotent, Summary: "ask " + id,
		Hold: &backstay.Hold{Count: 1, Within: seconds(within), NotAuthor: true},
	}}
}

func outside(cell, value string) fault { return fault{Action: actOutside, Cell: cell, Value: value} }

func always(action, point string) fault { return fault{Action: action, Point: point, N: every} }

// ends is where a scenario without a further fault must end: proven, but for
// the plans that cannot (a failing step, check, hold or budget), and held where
// something cannot be put back.
func (sc scenario) ends() backstay.State {
	switch sc.name {
	case "second-held", "linear-undo-fails", "diamond-undo-fails", "commands-undo-fails", "command-outsider", "pivot-after-fails", "dial-undo-fails":
		return backstay.Held
	case "revert-later", "revert-later-beside": // somebody's later value is in the way: refused before anything is touched
		return ""
	case "linear", "diamond", "parallel", "stages", "shared", "pivot", "pivot-once-fails", "at-most-once", "commands", "verify", "revert", "dial", "second",
		"release-canary", "release-blue-green", "release-rolling":
		return backstay.Proven
	}
	return backstay.RolledBack
}

// freeze makes a plan of the steps as plan.Build would: needs by order, the
// digest of the state that each key must have, the wanted images, the locks.
func (sc scenario) freeze(cells map[string]string) *plan.Plan {
	p := &plan.Plan{Format: plan.Format, Release: "sim", Version: "2"}
	cells = maps.Clone(cells)
	var touched []backstay.Key
	for i, s := range sc.steps() {
		s.Seq = i + 1
		if s.Needs == nil && i > 0 {
			s.Needs = []string{p.Steps[i-1].ID}
		}
		s.Before = map[backstay.Key]string{}
		for _, k := range s.Keys {
			earlier := slices.ContainsFunc(touched, k.Overlaps)
			if !earlier && !slices.Contains(sc.opaque, k) {
				s.Before[k] = stateOf(cells, k).Digest()
			}
			for _, prev := range slices.Backward(p.Steps) {
				if want, known := prev.Want[k]; known {
					s.Before[k] = want.Digest() // the last step on the key leaves it so
				}
				if slices.ContainsFunc(prev.Keys, k.Overlaps) {
					break
				}
			}
		}
		touched = append(touched, s.Keys...)
		if !s.Waits() {
			for _, c := range bodyOf(s).Do {
				apply(cells, c.cell(), c.To)
			}
		}
		if s.Restorable {
			s.Want = backstay.Image{}
			for _, k := range s.Keys {
				s.Want[k] = stateOf(cells, k)
			}
		}
		if s.Pivot {
			p.Pivot = s.ID
		}
		for _, k := range s.Keys {
			if !slices.Contains(p.Locks, k) {
				p.Locks = append(p.Locks, k)
			}
		}
		p.Steps = append(p.Steps, s)
	}
	slices.Sort(p.Locks)
	if sc.shape != nil {
		sc.shape(p)
	}
	return p
}

func apply(cells map[string]string, cell, value string) {
	if value == "" {
		delete(cells, cell)
		return
	}
	cells[cell] = value
}

// site and conf are the two restorable keys that most scenarios have.
const (
	site  = backstay.Key("file:/srv/site")
	conf  = backstay.Key("file:/etc/shop.conf")
	pool  = backstay.Key("run:pool")
	route = backstay.Key("traffic:shop")
)

// start is the world before most deployments, with neighbours that no plan has
// in scope, one of them with a name that begins like a key's.
func start() map[string]string {
	return map[string]string{
		"/srv/site/index": "one", "/srv/site/old": "one", "/etc/shop.conf": "one", "run:pool": "one",
		"/srv/site2/index": "neighbour", "run:pool2": "neighbour",
	}
}

func siteStep(id string) backstay.Step {
	return step(id, kindTree, in("index", "two"), in("old", ""), in("new", "two"))
}
func confStep(id string) backstay.Step { return step(id, kindTree, set(conf, "two")) }
func poolStep(id string) backstay.Step {
	return command(step(id, kindRun, set(pool, "two-"), set(pool, "two")), set(pool, "one"))
}

// theirs are what an outsider does to the keys above: another value, a part
// more, a part less, and something next door.
func theirs() []fault {
	return append(some(), outside("/srv/site/log", "theirs"), outside("/srv/site/new", ""), outside("/etc/shop.conf", "theirs"), outside("/srv/site2/index", "theirs"))
}

// some is one change of each sort of key, for plans whose difficulty is elsewhere.
func some() []fault {
	return []fault{outside("/srv/site/index", "theirs"), outside("run:pool", "theirs")}
}

// weight moves a dial: several in a row are taken back in one.
func weight(percent string) backstay.Step {
	s := step("w"+percent, kindTree, set(route, percent))
	s.Dial = route
	return s
}

func linear() []backstay.Step { return []backstay.Step{siteStep("a"), poolStep("b"), confStep("c")} }

func withVerify(p *plan.Plan) {
	p.Verify = []plan.Check{{
		ID: "health", Within: seconds(5), Every: seconds(1),
		Prepared: backstay.Prepared{Kind: kindRun, Summary: "health", Timeout: seconds(2)},
	}}
	p.Bake = plan.Bake{For: seconds(10), Every: seconds(3), Failures: 2}
}

// scenarios are the canonical plans. Each stands for a way in which plans can
// be hard to take back.
func scenarios() []scenario {
	all := []scenario{
		{name: "linear", cells: start(), steps: linear, theirs: theirs()},
		{name: "linear-fails", cells: start(), steps: linear, theirs: theirs(), script: []fault{always(actFull, "do/c")}},
		{name: "linear-undo-fails", cells: start(), steps: linear, script: []fault{always(actFull, "do/c"), always(actPart, "undo/b")}},
		{name: "linear-outsider", cells: start(), steps: linear, script: []fault{
			{Action: actOutside, Cell: "/srv/site/index", Value: "early", Point: "do/c", N: 1}, always(actPart, "do/c"),
		}},
		{name: "command-outsider", cells: start(), steps: linear, script: []fault{
			{Action: actOutside, Cell: "run:pool", Value: "early", Point: "do/c", N: 1}, always(actPart, "do/c"),
		}},
	}
	all = append(all, branching()...)
	all = append(all, awkward()...)
	all = append(all, watched()...)
	return append(all, releases()...)
}

// branching are plans that are not a list.
func branching() []scenario {
	diamond := func() []backstay.Step {
		return []backstay.Step{siteStep("a"), needs(poolStep("b"), "a"), needs(confStep("c"), "a"), needs(step("d", kindTree, set("file:/d", "two")), "b", "c")}
	}
	parallel := func() []backstay.Step {
		return []backstay.Step{needs(siteStep("p")), needs(poolStep("q")), needs(confStep("r")), needs(step("join", kindTree, set("file:/d", "two")), "p", "q", "r")}
	}
	nested := func() []backstay.Step {
		return []backstay.Step{
			staged(poolStep("schema"), "data"), staged(confStep("conf"), "data/config"),
			staged(siteStep("site"), "app"), staged(step("flag", kindTree, set("file:/flag", "on")), "app/flags"),
		}
	}
	stages := func(p *plan.Plan) {
		p.Stages = []plan.Stage{{Name: "data", Within: seconds(60)}, {Name: "data/config"}, {Name: "app"}, {Name: "app/flags", Within: seconds(30)}}
	}
	const under = backstay.Key("file:/srv/site/conf")
	shared := func() []backstay.Step {
		return []backstay.Step{
			siteStep("tree"), step("again", kindTree, in("index", "three"), in("more", "three")),
			step("below", kindTree, set(under, "four")), confStep("last"),
		}
	}
	dialled := start()
	dialled["traffic:shop"] = "0"
	dial := func() []backstay.Step {
		return []backstay.Step{poolStep("b"), weight("1"), hold("ok", 20), weight("10"), weight("50"), weight("100"), confStep("last")}
	}
	fails := func(id string) []fault { return []fault{always(actFull, "do/"+id)} }
	return []scenario{
		{name: "diamond", cells: start(), steps: diamond, theirs: some()},
		{name: "diamond-fails", cells: start(), steps: diamond, theirs: some(), script: fails("d")},
		{name: "diamond-undo-fails", cells: start(), steps: diamond, script: append(fails("d"), always(actFail, "undo/c"))},
		{name: "parallel", cells: start(), steps: parallel, theirs: some()},
		{name: "parallel-fails", cells: start(), steps: parallel, script: fails("q")},
		{name: "parallel-join-fails", cells: start(), steps: parallel, theirs: some(), script: fails("join")},
		{name: "stages", cells: start(), steps: nested, shape: stages},
		{name: "stages-fail", cells: start(), steps: nested, shape: stages, theirs: some(), script: fails("flag")},
		{name: "shared", cells: start(), steps: shared, theirs: append(some(), outside("/srv/site/conf", "theirs"))},
		{name: "dial", cells: dialled, steps: dial, approval: "good", theirs: []fault{outside("traffic:shop", "theirs")}},
		{name: "dial-fails", cells: dialled, steps: dial, approval: "good", theirs: append(some(), outside("traffic:shop", "theirs")), script: fails("last")},
		{name: "dial-move-fails", cells: dialled, steps: dial, approval: "good", theirs: []fault{outside("traffic:shop", "theirs")}, script: fails("w50")},
		{name: "dial-undo-fails", cells: dialled, steps: dial, approval: "good", script: append(fails("last"), always(actFail, "undo/w100"))},
		{name: "second", cells: start(), steps: linear, shares: true, theirs: []fault{{Action: actSecond}}},
		{name: "second-fails", cells: start(), steps: linear, shares: true, theirs: []fault{{Action: actSecond}}, script: fails("c")},
		{name: "second-held", cells: start(), steps: linear, shares: true, theirs: []fault{{Action: actSecond}}, script: append(fails("c"), always(actPart, "undo/b"))},
		{name: "shared-fails", cells: start(), steps: shared, theirs: append(theirs(), outside("/srv/site/conf", "theirs")), script: fails("last")},
	}
}

// awkward are plans with effects that are hard to repeat or to take back.
func awkward() []scenario {
	const table, mail, token, queue = backstay.Key("run:table"), backstay.Key("run:mail"), backstay.Key("run:token"), backstay.Key("run:queue")
	cells := start()
	maps.Copy(cells, map[string]string{"run:table": "one", "run:mail": "one", "run:token": "one", "run:queue": "one"})
	dropping := func() []backstay.Step {
		drop := step("drop", kindRun, set(table, "two-"), set(table, "two"))
		return []backstay.Step{siteStep("a"), hold("ok", 20), pivot(drop), confStep("z")}
	}
	sending := func() []backstay.Step {
		blind := once(command(step("mail", kindRun, set(mail, "two-"), set(mail, "two")), set(mail, "one")))
		seen := once(command(step("queue", kindRun, set(queue, "two-"), set(queue, "two")), set(queue, "one")))
		return []backstay.Step{siteStep("a"), blind, seen, confStep("c")}
	}
	chain := func() []backstay.Step {
		return []backstay.Step{
			poolStep("read"), command(step("blind", kindRun, set(mail, "two-"), set(mail, "two")), set(mail, "one")),
			command(step("probed", kindProbe, set(token, "two-"), set(token, "two")), set(token, "one")),
			command(step("keyed", kindKeyed, set(queue, "two-"), set(queue, "two")), set(queue, "one")), confStep("last"),
		}
	}
	budget := func() []backstay.Step {
		return []backstay.Step{slow(siteStep("a"), seconds(30)), poolStep("b"), confStep("c")}
	}
	within := func(p *plan.Plan) { p.Within = seconds(10) }
	last := []fault{always(actFull, "do/last")}
	return []scenario{
		{name: "pivot", cells: cells, steps: dropping, approval: "good", theirs: append(some(), outside("run:table", "theirs"))},
		{name: "pivot-after-fails", cells: cells, steps: dropping, approval: "good", script: []fault{always(actFail, "do/z")}},
		{name: "pivot-once-fails", cells: cells, steps: dropping, approval: "good", script: []fault{{Action: actPart, Point: "do/z", N: 1}}},
		{name: "pivot-itself-fails", cells: cells, steps: dropping, approval: "good", script: []fault{always(actFail, "do/drop")}},
		{name: "approval-late", cells: cells, steps: dropping, theirs: some()},
		{name: "approval-other", cells: cells, steps: dropping, approval: "other"},
		{name: "at-most-once", cells: cells, steps: sending, opaque: []backstay.Key{mail}, theirs: append(some(), outside("run:queue", "theirs"))},
		{name: "at-most-once-fails", cells: cells, steps: sending, opaque: []backstay.Key{mail}, script: []fault{always(actPart, "do/c")}},
		{name: "commands", cells: cells, steps: chain, opaque: []backstay.Key{mail, token, queue}, theirs: some()},
		{name: "commands-fail", cells: cells, steps: chain, opaque: []backstay.Key{mail, token, queue}, theirs: some(), script: last},
		{name: "commands-undo-fails", cells: cells, steps: chain, opaque: []backstay.Key{mail, token, queue}, script: append(last, always(actFail, "undo/blind"))},
		{name: "budget", cells: start(), steps: budget, shape: within, theirs: some()},
	}
}

// watched are plans with checks, a bake, leftovers to let go of, and the plan
// that takes another one back.
func watched() []scenario {
	keeping := func() []backstay.Step {
		return []backstay.Step{siteStep("a"), step("web", kindKeeper, set("service:web", "two")), poolStep("b")}
	}
	cells := start()
	cells["service:web"] = "one"
	return []scenario{
		{name: "verify", cells: cells, steps: keeping, shape: withVerify, theirs: some()},
		{name: "verify-fails", cells: cells, steps: keeping, shape: withVerify, theirs: some(), script: []fault{always(actFail, "check/health")}},
		{name: "verify-undecided", cells: cells, steps: keeping, shape: withVerify, script: []fault{always(actLie, "check/health")}},
		{name: "bake-fails", cells: cells, steps: keeping, shape: withVerify, theirs: some(), script: []fault{
			{Action: actFail, Point: "check/health", N: 3},
			{Action: actFail, Point: "check/health", N: 4},
			{Action: actFail, Point: "check/health", N: 5},
		}},
		{name: "keeper-fails", cells: cells, steps: keeping, script: []fault{always(actFull, "do/b")}},
		{name: "revert", cells: start(), steps: linear, revert: true, theirs: some()},
		{name: "revert-later", cells: start(), steps: linear, revert: true, later: []change{in("index", "later")}},
		{name: "revert-later-beside", cells: start(), steps: linear, revert: true, later: []change{in("log", "later")}},
		{name: "revert-fails", cells: start(), steps: linear, revert: true, theirs: theirs(), script: []fault{always(actFull, "undo/revert-a")}},
	}
}
