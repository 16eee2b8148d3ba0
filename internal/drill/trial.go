package drill

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/engine"
	"github.com/backstay-dev/backstay/internal/fault"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/plan"
)

const (
	// generous is the timeout of acts that do not hang on purpose: long enough
	// that no busy machine ends them.
	generous = backstay.Duration(time.Minute)
	// brief is the timeout of an act that does.
	brief = backstay.Duration(20 * time.Millisecond)
	// patience is how long one cell may take before it counts as hung.
	patience = 30 * time.Second
	// mostLives is how many processes one cell may need.
	mostLives = 6
)

// errCrash stops the engine as if its process had died: what it had not
// recorded is left for recovery to find.
var errCrash = fmt.Errorf("the process dies: %w", engine.ErrStopped)

// Ledger is what a drill needs of the ledger that its cells run on. It goes
// away with the drill; *ledger.Store fits.
type Ledger interface {
	engine.Store
	Signal(ctx context.Context, deployment string, sig ledger.Signal) error
	Close() error
}

var _ Ledger = (*ledger.Store)(nil)

// timeless is a ledger that forgets how long undos took: how long modelled ones
// do means nothing, and the cells before are nobody's history.
type timeless struct{ Ledger }

// Timings has none.
func (timeless) Timings(context.Context, string) (map[string]time.Duration, error) { return nil, nil }

// trial is one cell being run.
type trial struct {
	cell
	m      *model
	plan   *plan.Plan
	store  Ledger
	ids    [2]string // of the deployment, and of the one that does it again
	world  *world
	inject *fault.Injector
	host   engine.Options  // what an engine needs of the host
	asked  map[string]bool // waits that were approved
}

// outcome is what a trial left.
type outcome struct {
	trial   *trial
	state   backstay.State // "" where nothing was deployed
	residue []backstay.Residue
	kept    []backstay.Residue
	after   places
	writes  []write
	entries []backstay.Entry // of the deployment, where the judge needs them
	err     error            // an error that no fault explains
	refused string           // why nothing was deployed
	why     string           // it turned around
	stuck   string           // the step at which it did, or was refused
	hung    bool
	wrong   []backstay.DrillFinding // what a second recovery, or doing it again, did
}

// drillCheck is the one probe of a modelled plan.
func drillCheck() plan.Check {
	return plan.Check{ID: fault.CheckID, Prepared: backstay.Prepared{Kind: "drill", Summary: "what the drill wants"}}
}

func newTrial(c cell, m *model, store Ledger, n int, settles func(string) bool) *trial {
	t := &trial{cell: c, m: m, store: timeless{store}, asked: map[string]bool{}}
	for i := range t.ids {
		t.ids[i] = fmt.Sprintf("01900000-0000-7000-8000-%012d", 2*n+i)
	}
	t.world = newWorld(m, settles)
	t.host = engine.Options{DataDir: "/nonexistent", Backoff: time.Millisecond}
	t.inject = fault.New(t.world, errCrash, c.planted...)
	t.plan = t.shortened()
	return t
}

// moment is how many entries the deployment has; 0 where that cannot be read:
// the judge then finds no window, and says what it sees.
func (t *trial) moment(ctx context.Context) int {
	d, err := t.store.Deployment(ctx, t.ids[0])
	if err != nil {
		return 0
	}
	return int(d.N)
}

// shortened is the plan with short timeouts where a fault waits for them.
func (t *trial) shortened() *plan.Plan {
	p := *t.m.plan
	p.Steps = append([]backstay.Step(nil), p.Steps...)
	for _, f := range t.planted {
		do, undo := f.Hangs()
		for i := range p.Steps {
			st := &p.Steps[i]
			if st.ID != f.Step.ID {
				continue
			}
			if do {
				st.Timeout = brief
			}
			if undo {
				st.UndoTimeout = brief
			}
			if f.NotAgreed() {
				hold := *st.Hold
				hold.Within = brief
				st.Hold = &hold
			}
		}
		if f.Bakes() {
			p.Bake = plan.Bake{For: backstay.Duration(time.Millisecond), Failures: 1}
		}
	}
	return &p
}

// run plays the cell to its end and looks at what is left.
func (t *trial) run(ctx context.Context) outcome {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	t.world.moment = func() int { return t.moment(ctx) }
	o := t.deploy(ctx)
	o.after, o.writes = t.world.snapshot(), t.world.writes()
	if o.err != nil || o.hung || o.state == backstay.Refused {
		return o
	}
	if t.inject.Fired(fault.Fault.Outsider) || t.m.plan.Pivot != "" {
		o.entries, o.err = t.store.Entries(ctx, t.ids[0], 0)
	}
	if o.err == nil {
		o.wrong = t.repeat(ctx, o)
	}
	return o
}

// deploy deploys the plan, with the faults, and says how that ended.
func (t *trial) deploy(ctx context.Context) outcome {
	o := outcome{trial: t}
	var sum engine.Summary
	sum, o.err = t.settle(ctx, t.ids[0], t.plan)
	o.hung = errors.Is(ctx.Err(), context.DeadlineExceeded)
	o.state, o.residue, o.kept = sum.State, sum.Residue, sum.Kept
	if sum.Failure != nil {
		o.why, o.stuck = strings.TrimSpace(sum.Failure.Step+" "+sum.Failure.Reason), sum.Failure.Step
	}
	var refused *backstay.RefusedError
	if errors.As(o.err, &refused) {
		o.state, o.refused, o.err = backstay.Refused, o.err.Error(), nil
		if len(refused.Problems) > 0 {
			o.stuck = refused.Problems[0].Path
		}
	}
	return o
}

// settle starts processes until the deployment is settled.
func (t *trial) settle(ctx context.Context, id string, p *plan.Plan) (engine.Summary, error) {
	var sum engine.Summary
	err := errCrash
	for lives := 0; errors.Is(err, errCrash) && lives < mostLives; lives++ {
		eng, bad := t.engine(ctx, p)
		if bad != nil {
			return sum, bad
		}
		_, missing := t.store.Deployment(ctx, id)
		switch {
		case errors.Is(missing, ledger.ErrNotFound):
			sum, err = eng.Deploy(ctx, engine.Start{ID: id, Plan: p, AcceptDrift: true, Interrupt: t.inject.Interrupt()})
		case missing != nil:
			return sum, missing
		default:
			sum, err = eng.Resume(ctx, id, t.inject.Interrupt(), nil)
		}
	}
	if err == nil && !sum.State.Settled() {
		err = fmt.Errorf("the process ended, and the deployment is %s", sum.State)
	}
	return sum, err
}

// engine is one life of the process that drives the deployment.
func (t *trial) engine(ctx context.Context, p *plan.Plan) (*engine.Engine, error) {
	opts := t.host
	opts.Actor, opts.Version, opts.Poll = backstay.Actor{Name: "drill"}, "drill", 5*time.Millisecond
	opts.MemberOf = func(backstay.Actor, string) bool { return true }
	opts.Watch = func(v engine.View) { t.approve(ctx, p, v) }
	opts.Failpoint = t.inject.Failpoint
	return engine.New(t.store, t.inject, opts)
}

// approve lets as many people agree as a step waits for.
func (t *trial) approve(ctx context.Context, p *plan.Plan, v engine.View) {
	for _, sv := range v.Steps {
		name := v.Deployment + "/" + sv.ID
		st, _ := p.Step(sv.ID)
		if st.Hold == nil || sv.Phase != engine.PhaseOpen || t.asked[name] {
			continue
		}
		t.asked[name] = true
		if !t.inject.Approves(sv.ID) {
			continue
		}
		for n := range st.Hold.Count {
			// One that is lost leaves the deployment waiting, which is seen as hung.
			_ = t.store.Signal(ctx, v.Deployment, ledger.Signal{
				ID: fmt.Sprintf("%s/%d", name, n), Kind: engine.SignalApprove, Step: sv.ID, Plan: p.Digest(),
				Actor: backstay.Actor{UID: 1000 + n, Name: fmt.Sprintf("approver %d", n+1)},
			})
		}
	}
}

// repeat recovers once more, which must change nothing; where everything was
// restored it then may do everything again, which must come out as at first; and
// where it is held it signs for the residue, so that the next cell finds no lock.
func (t *trial) repeat(ctx context.Context, o outcome) (wrong []backstay.DrillFinding) {
	say := func(format string, args ...any) {
		wrong = append(wrong, backstay.DrillFinding{Text: fmt.Sprintf(format, args...)})
	}
	t.inject.Lift()
	before := t.moment(ctx)
	if _, err := t.settle(ctx, t.ids[0], t.plan); err != nil {
		say("recovering a second time: %v", err)
	}
	if more, n := t.moment(ctx)-before, len(t.world.writes())-len(o.writes); more != 0 || n != 0 {
		say("recovering a second time wrote %d entries and %d values", more, n)
	}
	switch {
	case o.state == backstay.Held:
		if err := t.close(ctx); err != nil {
			say("signing for the residue: %v", err)
		}
	case t.again && o.state == backstay.RolledBack && len(differing(o.after, t.m.start)) == 0:
		sum, err := t.settle(ctx, t.ids[1], t.m.plan)
		if err != nil || sum.State != backstay.Proven {
			say("deploying again after the rollback ended %s: %v", orNone(sum.State), err)
			break
		}
		for _, at := range differing(t.world.snapshot(), t.m.end) {
			wrong = append(wrong, t.m.about(at, t.world.writes(), "deploying again after the rollback left something else than deploying once"))
		}
	}
	return wrong
}

func orNone(s backstay.State) string {
	if s == "" {
		return "nowhere"
	}
	return string(s)
}

// close signs for the residue of a held deployment.
func (t *trial) close(ctx context.Context) error {
	eng, err := t.engine(ctx, t.plan)
	if err != nil {
		return err
	}
	sum, err := eng.Resume(ctx, t.ids[0], nil, &ledger.Signal{ID: "close", Kind: engine.SignalClose, Reason: "the drill goes on"})
	if err == nil && sum.State != backstay.Closed {
		err = fmt.Errorf("the deployment is %s", sum.State)
	}
	return err
}

// locks reports whether a deployment of the cell may still hold locks.
func (t *trial) locks(ctx context.Context) bool {
	for _, id := range t.ids {
		d, err := t.store.Deployment(ctx, id)
		if errors.Is(err, ledger.ErrNotFound) {
			continue
		}
		if err != nil || d.State.Locks() {
			return true
		}
	}
	return false
}
