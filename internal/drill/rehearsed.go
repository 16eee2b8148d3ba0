package drill

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/backstay-dev/backstay"
)

// Targets are what a process in a sandbox knows of targets that are no files:
// databases, which have a stand-in there.
type Targets interface {
	// Rehearses reports whether a kind's targets are of that sort.
	Rehearses(kind string) bool
	// Rebind makes of a frozen step the one that acts on the stand-in.
	Rebind(ctx context.Context, call backstay.Call) (backstay.Step, error)
	// Rehearse begins to use a step's target.
	Rehearse(ctx context.Context, call backstay.Call) (backstay.Rehearsal, error)
}

// rebind binds the real steps to their stand-ins. It returns the step with which
// that could not be done.
func (m *model) rebind(ctx context.Context, job Job, in Inside) (string, error) {
	for i, st := range m.plan.Steps {
		if in.Targets == nil || !in.Targets.Rehearses(st.Kind) || !slices.Contains(job.Real, st.ID) {
			continue
		}
		bound, err := in.Targets.Rebind(ctx, backstay.Call{Step: st, DataDir: job.DataDir, Secrets: in.Secrets})
		if err != nil {
			return st.ID, err
		}
		m.plan.Steps[i] = bound
	}
	return "", nil
}

// rehearsing is one target that is used while the cell plays.
type rehearsing struct {
	step  string
	key   backstay.Key
	using backstay.Rehearsal
}

// rehearse begins to use every target of real steps that is no file, each once.
func (j *realJudge) rehearse(ctx context.Context) (string, error) {
	for _, st := range j.m.plan.Steps {
		if j.in.Targets == nil || !j.in.Targets.Rehearses(st.Kind) || !j.hybrid.steps[st.ID] || len(st.Keys) == 0 {
			continue
		}
		if slices.ContainsFunc(j.rehearsing, func(r rehearsing) bool { return r.key == st.Keys[0] }) {
			continue
		}
		using, err := j.in.Targets.Rehearse(ctx, backstay.Call{Step: st, DataDir: j.job.DataDir, Secrets: j.in.Secrets})
		if err != nil {
			return st.ID, err
		}
		j.rehearsing = append(j.rehearsing, rehearsing{st.ID, st.Keys[0], using})
		j.job.Own = append(j.job.Own, using.Files...)
	}
	return "", nil
}

// used is what the use of a target showed.
type used struct {
	rehearsing
	backstay.Rehearsed
}

// endTargets ends all use, also where the cell's time is over.
func (j *realJudge) endTargets(ctx context.Context) ([]used, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	var all []used
	for _, r := range j.rehearsing {
		got, err := r.using.End(ctx)
		if err != nil {
			return nil, fmt.Errorf("compare %s: %w", r.key, err)
		}
		all = append(all, used{r, got})
	}
	return all, nil
}

// most is how many differences a finding lists.
const most = 5

// compareTargets holds what a target is like now against how the deployment ended.
func (j *realJudge) compareTargets(all []used) {
	for _, s := range all {
		listed, unknown := false, false
		for _, r := range slices.Concat(j.residue, j.kept) {
			listed = listed || r.Key == s.key
			unknown = unknown || r.Key == s.key && r.Unknown != ""
		}
		what := strings.Join(s.Differs[:min(len(s.Differs), most)], "; ")
		if extra := len(s.Differs) - most; extra > 0 {
			what += fmt.Sprintf("; and %d more", extra)
		}
		switch {
		case j.state == backstay.RolledBack && len(s.Differs) > 0:
			j.find(s.step, s.key, "", "rolled back, and its schema is not as before: %s", what)
		case j.state == backstay.Held && len(s.Differs) > 0 && !listed:
			j.find(s.step, s.key, "", "its schema is not as before (%s), and the residue does not say so", what)
		case j.state == backstay.Held && len(s.Differs) == 0 && listed && !unknown:
			j.find(s.step, s.key, "", "the residue lists it, and it is as before")
		}
		if j.state == backstay.Proven || j.state == backstay.Held && listed {
			continue // what a migration does to rows is its own matter
		}
		for _, w := range s.Wrote {
			if lost := w.Written - w.Found; lost > 0 {
				j.find(s.step, s.key, "", "of %d rows that users wrote to %s meanwhile, %d are gone", w.Written, w.Table, lost)
			}
			if more := w.Found - w.Written - w.Unknown; more > 0 && j.state == backstay.RolledBack {
				j.find(s.step, s.key, "", "rolled back, and %s holds %d rows that nobody wrote", w.Table, more)
			}
		}
	}
}
