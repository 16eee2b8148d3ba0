package drill

import (
	"fmt"
	"strings"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/fault"
)

// levelGaps say which steps were only modelled, and what real ones do not meet.
func (m *model) levelGaps(real *Real, say func(about, step, format string, args ...any)) {
	if real == nil {
		say("level", "", "no step was tried above D1: its targets are modelled, its commands and files are not run. An undo that does not do what it says is not found at D1")
		return
	}
	for _, st := range m.plan.Steps {
		if why, not := real.Not[st.ID]; not {
			say("level", st.ID, "not tried above D1 (an undo that does not do what it says is not found there): %s", why)
		}
	}
	say("level", "", "at D2 steps run on a private view of this host: its files as they are, no network but loopback (and a door to scratch databases), none of its processes")
	for _, st := range m.plan.Steps {
		if text, scratch := real.Scratch[st.ID]; scratch {
			say("level", st.ID, "at D2 %s", text)
		}
	}
	say("level", "", "at D2 no act is stopped half-way, and what differs is told from files, and from which programs run; times of directories that are no step's, and what this host itself changes meanwhile, are passed over")
	say("level", "", "at D2 deploying again after a rollback must be committed; that it leaves the same files is not compared")
}

// blind lists what a drill of a plan does not or cannot see, what weighs most
// first.
func (m *model) blind(real *Real) []backstay.DrillGap {
	var all []backstay.DrillGap
	say := func(about, step, format string, args ...any) {
		all = append(all, backstay.DrillGap{About: about, Step: step, Text: fmt.Sprintf(format, args...)})
	}
	m.levelGaps(real, say)
	for _, st := range m.plan.Steps {
		if st.Waits() {
			continue
		}
		for _, k := range m.unread(st) {
			say("no_read", st.ID, "nothing reads %s: whether it was put back cannot be seen, here or in production", k)
		}
	}
	for _, st := range m.plan.Steps {
		if !st.Waits() && st.Effect == backstay.AtMostOnce {
			say("no_probe", st.ID, "neither a probe nor anything that is read tells whether it was done: after a crash it is never repeated")
		}
	}
	for _, st := range m.plan.Steps {
		switch {
		case st.Waits():
		case !st.HasUndo:
			say("no_undo", st.ID, "it has no undo: %s", st.Irreversible)
		case st.Class == backstay.Compensated:
			say("class", st.ID, "compensated: an undo of yours runs, and nothing compares what it did")
		case st.Class == backstay.Equivalent:
			say("class", st.ID, "equivalent: restored but for %s", strings.Join(st.Modulo, ", "))
		case st.Class != backstay.Exact:
			say("class", st.ID, "class %s", st.Class)
		}
	}
	for _, g := range fault.Gaps() {
		points := ""
		if len(g.Points) > 0 {
			points = strings.Join(g.Points, ", ") + ": "
		}
		say("fault", "", "not injected: %s%s", points, g.Text)
	}
	for _, st := range m.plan.Steps {
		for _, k := range st.Keys {
			if m.cut[k] {
				say("equivalence", st.ID, "of the parts of %s the first %d are modelled: the others are treated alike", k, mostParts)
			}
		}
	}
	say("equivalence", "", "one crash stands for every instruction between two records of the ledger and the halves of an act; half of an act is the first half of its writes")
	say("equivalence", "", "an outsider changes one part of a key, once; what is written to the other parts is treated alike")
	say("equivalence", "", "of each fault one rollback that restored everything was followed by the same deployment once more: a model remembers nothing that is not read")
	say("depth", "", "one fault at a time: pairs of faults were not tried")
	say("time", "", "times are not drilled: rollback.within, bakes, timeouts as they are, certificates and caches that run out, what cron does meanwhile")
	say("scope", "", "the plan's own verify checks are not run; whatever else uses the same targets is not there")
	return all
}
