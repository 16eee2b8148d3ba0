package drill

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/fault"
)

// realJudge judges a cell of level D2 by what differs from the host, which
// neither the engine nor the kinds were asked for. Modelled steps are judged as
// at D1.
type realJudge struct {
	judge
	job    Job
	hybrid *hybrid
	in     Inside
	ran    []string // programs, before the deployment

	rehearsing []rehearsing // targets that are no files
}

// judged looks at what is left, recovers once more, and says how the cell ended.
func (j *realJudge) judged(ctx context.Context) (Tried, error) {
	t := j.trial
	out := backstay.DrillCell{Level: LevelReal, Step: t.step, Fault: t.name, End: j.state}
	j.after, j.writes = t.world.snapshot(), t.world.writes()
	j.diff = differing(j.m.start, j.after)
	notRun := func(format string, args ...any) (Tried, error) {
		out.Result, out.Reason, out.End = backstay.DrillNotRun, fmt.Sprintf(format, args...), ""
		return Tried{Cell: out, Stuck: j.stuck}, nil
	}
	targets, targetsErr := j.endTargets(ctx)
	for _, s := range targets {
		out.Wrote = append(out.Wrote, s.Wrote...)
	}
	idle := t.inject.Idle()
	switch {
	case j.hung:
		out.Result = backstay.DrillHung
		return Tried{Cell: out, Stuck: j.stuck}, nil
	case j.refused != "":
		return notRun("inside the sandbox it is refused: %s", j.refused)
	case j.hybrid.unable != "":
		return notRun("%s", j.hybrid.unable)
	case len(idle) > 0 && j.err == nil:
		return notRun("it never came to that: %s", neverCame(idle[0]))
	case t.unnoticed() != "":
		return notRun("%s", t.unnoticed())
	case targetsErr != nil:
		return Tried{}, targetsErr
	}
	var err error
	if j.entries, err = t.store.Entries(ctx, t.ids[0], 0); err != nil {
		return Tried{}, err
	}
	left, err := j.in.Changes()
	if err != nil {
		return Tried{}, err
	}
	left = j.relevant(left)
	j.realOutsider()
	out.Result = j.result()
	if j.err == nil {
		j.compare(left)
		j.compareTargets(targets)
		if err := j.processes(ctx); err != nil {
			return Tried{}, err
		}
		j.repeat(ctx, left)
	}
	if len(j.findings) > 0 {
		out.Result = backstay.DrillFailed
	} else if out.Result == backstay.DrillRestored && len(j.modulo) > 0 {
		out.Result = backstay.DrillModulo
	}
	out.Findings = j.findings
	if out.Result == backstay.DrillModulo {
		out.Modulo = slices.Compact(slices.Sorted(slices.Values(j.modulo)))
	}
	return Tried{Cell: out, Undo: j.undoTimes(), Broken: j.broken(), Stuck: j.stuck}, nil
}

// broken are the undos of real steps that failed although nothing was made to.
func (j *realJudge) broken() []backstay.DrillFinding {
	var all []backstay.DrillFinding
	for _, r := range j.residue {
		failed := r.Cause == backstay.CauseUndoFailed || r.Cause == backstay.CauseDeadline
		if failed && j.hybrid.steps[r.Step] && j.unjustified(r) != "" && !slices.ContainsFunc(all, func(f backstay.DrillFinding) bool { return f.Step == r.Step }) {
			all = append(all, backstay.DrillFinding{
				Step: r.Step, Key: r.Key, Part: r.Part,
				Text: "its undo fails in the sandbox although nothing was wrong: it is broken, or it needs what is not there, which nobody can tell (" + r.Detail + ")",
			})
		}
	}
	return all
}

// relevant leaves out what is Backstay's own, and the times of directories that
// are no step's.
func (j *realJudge) relevant(all []Changed) []Changed {
	return slices.DeleteFunc(slices.Clone(all), func(c Changed) bool {
		own := slices.ContainsFunc(j.job.Own, func(dir string) bool { return under(c.Path, dir) || under(dir, c.Path) })
		_, k := j.m.owner(place("file:" + c.Path))
		return own || c.Entered && k == ""
	})
}

// under reports whether a path is dir or lies below it.
func under(name, dir string) bool {
	return name == dir || strings.HasPrefix(name, strings.TrimSuffix(dir, "/")+"/")
}

// compare holds what differs from the host against how the deployment ended.
func (j *realJudge) compare(left []Changed) {
	switch j.state {
	case backstay.RolledBack:
		for _, c := range left {
			if !j.somebodys(c) {
				st, k := j.m.owner(place("file:" + c.Path))
				if k == "" {
					k = backstay.Key("file:" + c.Path)
				}
				j.find(st.ID, k, "", "rolled back, and %s is not as before (%s)", c.Path, c.What)
			}
		}
	case backstay.Held:
		j.heldCompare(left)
	case backstay.Proven, backstay.Planned, backstay.Approved, backstay.Running, backstay.Holding, backstay.Committed,
		backstay.RollingBack, backstay.Closed, backstay.Refused:
	}
}

// somebodys reports whether a change is what somebody else wrote, or the
// directory that holds it.
func (j *realJudge) somebodys(c Changed) bool {
	o := j.hybrid.outside
	return o != nil && (under(o.path, c.Path) || under(c.Path, o.path))
}

// ending is how long a program that was told to end may take.
const ending = 5 * time.Second

// processes: after a rollback what ran before runs, and nothing else.
func (j *realJudge) processes(ctx context.Context) error {
	if j.state != backstay.RolledBack {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, ending)
	defer cancel()
	for {
		now, err := j.in.Processes()
		if err != nil {
			return err
		}
		gone, more := without(j.ran, now), without(now, j.ran)
		if len(gone)+len(more) == 0 {
			return nil
		}
		select {
		case <-time.After(20 * time.Millisecond):
			continue
		case <-ctx.Done():
		}
		for _, program := range gone {
			j.find("", "", "", "rolled back, and %s, which ran before, does not", program)
		}
		for _, program := range more {
			j.find("", "", "", "rolled back, and %s, which did not run before, goes on", program)
		}
		return nil
	}
}

// without is a list less another, each as often as it is there.
func without(all, less []string) []string {
	all = slices.Clone(all)
	for _, s := range less {
		if i := slices.Index(all, s); i >= 0 {
			all = slices.Delete(all, i, i+1)
		}
	}
	return all
}

// heldCompare: the residue lists what differs, and nothing else. What lies
// outside of all keys can only be the business of a step that nothing reads.
func (j *realJudge) heldCompare(left []Changed) {
	unknown := false
	var listed []string
	for _, r := range slices.Concat(j.residue, j.kept) {
		name, file := strings.CutPrefix(string(placeOf(r.Key, r.Part)), "file:")
		if !file {
			unknown = true
			continue
		}
		listed = append(listed, name)
		differs := slices.ContainsFunc(left, func(c Changed) bool { return under(c.Path, name) || under(name, c.Path) })
		if st, _ := j.m.plan.Step(r.Step); !differs && r.Unknown == "" && j.hybrid.steps[st.ID] {
			j.find(r.Step, r.Key, r.Part, "the residue lists it, and it is as before")
		}
	}
	for _, c := range left {
		covered := slices.ContainsFunc(listed, func(name string) bool { return under(c.Path, name) || under(name, c.Path) })
		st, k := j.m.owner(place("file:" + c.Path))
		if !covered && !j.somebodys(c) && !(unknown && k == "") && !c.Entered {
			if k == "" {
				k = backstay.Key("file:" + c.Path)
			}
			j.find(st.ID, k, "", "%s is not as before (%s), and the residue does not say so", c.Path, c.What)
		}
	}
}

// realOutsider: what somebody else wrote to a real file is still there, unless
// nothing can tell it from the step's own work.
func (j *realJudge) realOutsider() {
	o := j.hybrid.outside
	if o == nil {
		return
	}
	now, err := os.ReadFile(o.path)
	if err == nil && string(now) == o.content {
		j.modulo = append(j.modulo, fmt.Sprintf("what somebody else wrote to %s is kept", o.path))
		return
	}
	w := write{at: place("file:" + o.path), n: o.n}
	if when := j.window(w); when != "" {
		j.modulo = append(j.modulo, fmt.Sprintf("what somebody else wrote to %s %s is gone: it cannot be told from the step's own work", o.path, when))
		return
	}
	j.find(o.step, backstay.Key("file:"+o.path), "", "what somebody else wrote there is gone")
}

// repeat recovers once more, which must change nothing, and, where that is asked
// for and everything is restored, deploys again.
func (j *realJudge) repeat(ctx context.Context, left []Changed) {
	t := j.trial
	t.inject.Lift()
	before := t.moment(ctx)
	if _, err := t.settle(ctx, t.ids[0], t.plan); err != nil {
		j.find("", "", "", "recovering a second time: %v", err)
	}
	if more := t.moment(ctx) - before; more != 0 {
		j.find("", "", "", "recovering a second time wrote %d entries", more)
	}
	now, err := j.in.Changes()
	if now = j.relevant(now); err != nil || !slices.Equal(now, left) {
		j.find("", "", "", "recovering a second time changed something (%v)", err)
	}
	if !t.again || j.state != backstay.RolledBack || len(left) > 0 || len(j.findings) > 0 {
		return
	}
	if sum, err := t.settle(ctx, t.ids[1], t.m.plan); err != nil || sum.State != backstay.Proven {
		j.find("", "", "", "deploying again after the rollback ended %s: %v", orNone(sum.State), err)
	}
}

// undoTimes are how long undos took, by step.
func (j *realJudge) undoTimes() map[string]backstay.Duration {
	took := map[string]backstay.Duration{}
	for _, e := range j.entries {
		var b backstay.CompensationBody
		if e.Kind == backstay.EntryCompensation && j.hybrid.steps[e.Step] && e.Decode(&b) == nil && b.Duration > 0 {
			took[e.Step] = b.Duration
		}
	}
	return took
}

// realCells are the cells of level D2: those of the plan, and of the steps that
// are tried; with why none is run.
func (m *model) realCells(only Only, real []string, why string) []cell {
	var all []cell
	for _, c := range m.cells(only) {
		c.level = LevelReal
		switch {
		case c.skip != "":
		case why != "":
			c.skip = why
		case c.planted[0].Halves():
			c.skip = "half of an act cannot be had of a real executor"
		}
		if c.step == "" || slices.Contains(real, c.step) || waits(c.planted) {
			all = append(all, c)
		}
	}
	return all
}

func waits(all []fault.Planted) bool {
	return slices.ContainsFunc(all, func(p fault.Planted) bool { return p.Step.Hold != nil })
}
