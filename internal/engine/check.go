package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/plan"
)

// errBakeEnds cancels the watching of a bake that a person ended.
var errBakeEnds = errors.New("the bake was ended by a person")

// bakeEvery is the time between two rounds of a bake that does not say.
const bakeEvery = 5 * time.Second

// checkTimeout bounds one probe that has no timeout of its own.
const checkTimeout = 30 * time.Second

// verify reads every key back (invariant I2) and then runs the verify probes,
// each until it passes or its time is over.
func (r *runner) verify(acts context.Context) {
	if r.busy(flightVerify) {
		return
	}
	steps, after, err := r.applied()
	if err != nil && isDamage(err) {
		r.append(backstay.EntryVerdict, "", backstay.VerdictBody{
			Check: PhaseOfVerify, Phase: PhaseOfVerify,
			CheckResult: backstay.CheckResult{Verdict: backstay.Fail, Reason: "what a step left cannot be read back from the ledger: " + err.Error()},
		})
		return
	}
	if err != nil {
		r.fatal = err
		return
	}
	calls := r.callsOf(steps)
	r.start(acts, flightVerify, "verify", false, func(ctx context.Context) func() {
		if err := r.e.hit("verify.before", ""); err != nil {
			return func() { r.stopFor(err) }
		}
		var bodies []backstay.VerdictBody
		verdict, reason := backstay.Pass, "every key reads as its step left it"
		for _, c := range r.plan.Verify {
			res := r.untilPass(ctx, c)
			bodies = append(bodies, backstay.VerdictBody{Check: c.ID, Phase: PhaseOfVerify, CheckResult: res})
			if res.Verdict != backstay.Pass {
				// Undecided after its whole time is no pass: no data is not healthy.
				verdict, reason = backstay.Fail, fmt.Sprintf("%s: %s (%s)", c.ID, res.Reason, res.Verdict)
				break
			}
		}
		if verdict == backstay.Pass {
			now := r.lookAll(ctx, calls)
			if wrong := confirm(steps, after, now); len(wrong) > 0 {
				verdict, reason = backstay.Fail, strings.Join(wrong, "; ")
			}
		}
		return func() {
			for _, b := range bodies {
				r.append(backstay.EntryVerdict, "", b)
			}
			r.append(backstay.EntryVerdict, "", backstay.VerdictBody{
				Check: PhaseOfVerify, Phase: PhaseOfVerify,
				CheckResult: backstay.CheckResult{Verdict: verdict, Reason: r.scrub.text(reason), Samples: len(bodies)},
			})
		}
	})
}

// applied returns the applied steps in plan order with their after-images.
func (r *runner) applied() ([]backstay.Step, map[string]backstay.Image, error) {
	var steps []backstay.Step
	after := map[string]backstay.Image{}
	for _, st := range r.plan.Steps {
		sp := r.progress.Steps[st.ID]
		if st.Waits() || sp.Phase != PhaseApplied {
			continue
		}
		im, err := r.load(sp.After)
		if err != nil {
			return nil, nil, err
		}
		steps = append(steps, st)
		after[st.ID] = im
	}
	return steps, after, nil
}

func (r *runner) callsOf(steps []backstay.Step) []backstay.Call {
	calls := make([]backstay.Call, 0, len(steps))
	for i := range steps {
		calls = append(calls, r.call(&steps[i], nil))
	}
	return calls
}

// lookAll reads the keys of all calls, without storing anything.
func (r *runner) lookAll(ctx context.Context, calls []backstay.Call) map[string]backstay.Image {
	now := make(map[string]backstay.Image, len(calls))
	for _, c := range calls {
		now[c.Step.ID], _ = r.lookAgain(ctx, c, &recorder{shared: r.blobs})
	}
	return now
}

// untilPass asks a probe until it passes or its time is over.
func (r *runner) untilPass(ctx context.Context, c plan.Check) backstay.CheckResult {
	if c.Within <= 0 {
		res := r.check(ctx, c)
		res.Samples = 1
		return res
	}
	ctx, cancel := context.WithTimeout(ctx, c.Within.Std())
	defer cancel()
	var last backstay.CheckResult
	for n := 1; ; n++ {
		got := r.check(ctx, c)
		if n == 1 || ctx.Err() == nil {
			last = got // an answer cut off by the deadline says less than the one before
		}
		last.Samples = n
		if last.Verdict == backstay.Pass || ctx.Err() != nil {
			return last
		}
		timer := time.NewTimer(c.Every.Std())
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return last
		}
	}
}

// check asks a probe once. What could not be asked is undecided.
func (r *runner) check(ctx context.Context, c plan.Check) backstay.CheckResult {
	return r.ask(ctx, r.e.actions, backstay.Call{Step: backstay.Step{ID: c.ID, Prepared: c.Prepared}})
}

// ask fills the call in and asks once, within the check's own timeout.
func (r *runner) ask(ctx context.Context, judge Judge, call backstay.Call) backstay.CheckResult {
	timeout := call.Step.Timeout.Std()
	if timeout <= 0 {
		timeout = checkTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	began := time.Now()
	call.Deployment, call.Release, call.DataDir = r.lease.Deployment, r.plan.Release, r.e.opts.DataDir
	call.Secrets, call.Blobs, call.Output = r.scrub, &recorder{shared: r.blobs}, newOutput(r.scrub)
	call.Token = backstay.Token{Epoch: r.lease.Epoch}
	res, err := judge.Check(ctx, call)
	if err != nil {
		res = backstay.CheckResult{Verdict: backstay.Undecided, Reason: err.Error()}
	}
	res.Reason, res.Duration = r.scrub.text(res.Reason), time.Since(began)
	return res
}

// bake watches the probes after the commit. So many failing (or undecided)
// rounds in a row fail it; its end passes it.
func (r *runner) bake(acts context.Context) {
	left := min(r.progress.BakeUntil.Sub(r.e.now()), r.plan.Bake.For.Std())
	if _, why, _ := r.unsure(); left <= 0 && why != "" && r.plan.Bake.For > 0 {
		left = cmp.Or(r.plan.Bake.Every.Std(), bakeEvery)
	}
	promoted := r.progress.Promoted
	r.start(acts, flightBake, "bake", false, func(ctx context.Context) func() {
		if err := r.e.hit("bake.before", ""); err != nil {
			return func() { r.stopFor(err) }
		}
		res := backstay.CheckResult{Verdict: backstay.Pass, Reason: "no bake was asked for"}
		if r.plan.Bake.For > 0 && !promoted {
			res = r.watchBake(ctx, max(left, 0))
		} else if promoted {
			res.Reason = "promoted by an operator"
		}
		return func() {
			if r.progress.Abort != nil || r.progress.Failure != nil {
				return
			}
			if policy, why, young := r.unsure(); res.Verdict == backstay.Pass && why != "" && r.plan.Bake.For > 0 && !r.progress.Promoted {
				if young {
					return // asked again
				}
				switch policy {
				case backstay.HoldUndecided:
					return // asked again: the bake goes on until its gates pass, or a person decides
				case backstay.PromoteUndecided:
					res.Reason += "; its gates are undecided, and their policy goes on: " + why
				case backstay.RollBackUndecided:
					res.Verdict, res.Reason = backstay.Fail, "undecided at the end of the bake: "+why
				}
			}
			if r.progress.Promoted && res.Verdict == backstay.Undecided {
				res = backstay.CheckResult{Verdict: backstay.Pass, Reason: "promoted by an operator", Samples: res.Samples}
			}
			if res.Verdict == backstay.Undecided {
				return // cut off, not answered
			}
			r.append(backstay.EntryVerdict, "", backstay.VerdictBody{Check: PhaseOfBake, Phase: PhaseOfBake, CheckResult: res})
		}
	})
}

// watchBake runs rounds of all probes until the bake's time is over.
func (r *runner) watchBake(ctx context.Context, left time.Duration) backstay.CheckResult {
	end := time.NewTimer(left)
	defer end.Stop()
	every := cmp.Or(r.plan.Bake.Every.Std(), bakeEvery)
	tick := time.NewTicker(every)
	defer tick.Stop()
	rounds, bad := 0, 0
	for {
		select {
		case <-ctx.Done():
			return backstay.CheckResult{Samples: rounds, Reason: context.Cause(ctx).Error()}
		case <-end.C:
			if rounds == 0 {
				// The bake was shorter than a round, or ended while nobody
				// watched: no data is not healthy.
				rounds++
				if r.round(ctx) != "" {
					bad++
				}
				if ctx.Err() != nil {
					return backstay.CheckResult{Samples: rounds, Reason: context.Cause(ctx).Error()}
				}
			}
			if bad > 0 {
				return backstay.CheckResult{Verdict: backstay.Fail, Reason: "the last round of the bake did not pass", Samples: rounds}
			}
			return backstay.CheckResult{Verdict: backstay.Pass, Reason: fmt.Sprintf("%d rounds over %s", rounds, left.Round(time.Millisecond)), Samples: rounds}
		case <-tick.C:
		}
		rounds++
		why := r.round(ctx)
		if why == "" {
			bad = 0
			continue
		}
		if bad++; bad >= max(r.plan.Bake.Failures, 1) && ctx.Err() == nil {
			return backstay.CheckResult{Verdict: backstay.Fail, Reason: fmt.Sprintf("%d rounds in a row: %s", bad, why), Samples: rounds}
		}
	}
}

// round runs every probe once; "" means that all passed.
func (r *runner) round(ctx context.Context) string {
	for _, c := range r.plan.Verify {
		if res := r.check(ctx, c); res.Verdict != backstay.Pass {
			return fmt.Sprintf("%s: %s (%s)", c.ID, res.Reason, res.Verdict)
		}
	}
	return ""
}

// finish has a last look at every touched key and ends the rollback (or, past
// the point of no return, the attempt) with what it read.
func (r *runner) finish(acts context.Context, event Event) {
	if r.busy(flightFinish) {
		return
	}
	type touched struct {
		st     backstay.Step
		before backstay.Image
		lost   error // why the before-image cannot be had
	}
	var all []touched
	var steps []backstay.Step
	for _, st := range r.plan.Steps {
		sp := r.progress.Steps[st.ID]
		if st.Waits() || sp.Before == nil || !sp.Touched {
			continue
		}
		before, err := r.load(sp.Before)
		if err != nil && !isDamage(err) {
			r.fatal = err
			return
		}
		all = append(all, touched{st, before, err})
		steps = append(steps, st)
	}
	calls := r.callsOf(steps)
	r.start(acts, flightFinish, "read everything back", false, func(ctx context.Context) func() {
		if err := r.e.hit("finish.before", ""); err != nil {
			return func() { r.stopFor(err) }
		}
		now := r.lookAll(ctx, calls)
		return func() {
			end := ending{failed: map[backstay.Key]string{}}
			for _, t := range all {
				if undo := r.progress.Steps[t.st.ID].Undo; undo != nil && undo.Result == CompensationFailed {
					for _, k := range t.st.Keys {
						end.failed[k] = t.st.ID
					}
				}
			}
			for i, t := range all {
				for k, state := range now[t.st.ID] {
					if t.lost != nil { // nothing to compare with: not guessed
						state.Unreadable = "its before-image cannot be read: " + t.lost.Error()
						now[t.st.ID][k] = state
					}
				}
				end.add(r, t.st, t.before, now[t.st.ID], steps[:i], event == EventStick)
			}
			r.end(event, end)
		}
	})
}

// ending collects what is not as it was.
type ending struct {
	residue, kept []backstay.Residue
	finals        []ledger.Resource
	failed        map[backstay.Key]string // by key: a step whose undo failed
}

// add compares one step's keys with what was there before this deployment.
// A key that an earlier step also has is compared there.
func (e *ending) add(r *runner, st backstay.Step, before, now backstay.Image, earlier []backstay.Step, stuck bool) {
	sp := r.progress.Steps[st.ID]
	undo := sp.Undo
	for _, k := range st.Keys {
		if changedLater(earlier, k) {
			continue
		}
		if !now[k].Opaque && now[k].Unreadable == "" {
			e.finals = append(e.finals, ledger.Resource{Key: k, Deployment: r.lease.Deployment, Step: st.ID, State: now[k]})
		}
		if before[k].Opaque || now[k].Opaque {
			if undo == nil || undo.Result == CompensationFailed {
				e.residue = append(e.residue, r.explain(residueOf(&st, k, before, now, r.causeOf(st.ID, stuck)), sp)...)
			}
			continue
		}
		list := residueOf(&st, k, before, now, r.causeOf(st.ID, stuck))
		if len(list) > 0 {
			others := keysOf(earlier)
			list = slices.DeleteFunc(list, func(res backstay.Residue) bool {
				return res.Unknown == "" && len(withoutOthers(k, []string{res.Part}, others)) == 0
			})
		}
		if undo != nil && undo.Result != CompensationFailed {
			for _, res := range list {
				if res.Unknown != "" {
					// Its undo was read back; only this last look failed.
					res.Cause = backstay.CauseUnreachable
					e.residue = append(e.residue, r.explain([]backstay.Residue{res}, sp)...)
					continue
				}
				if id, bad := e.failed[k]; bad {
					// What a later step of ours left there is nobody else's.
					res.Step, res.Cause = id, r.causeOf(id, stuck)
					e.residue = append(e.residue, r.explain([]backstay.Residue{res}, r.progress.Steps[id])...)
					continue
				}
				// It was put back, or told apart as an outsider's: what differs
				// now is not ours.
				res.Cause, res.Detail = backstay.CauseDrift, "changed by somebody else; kept"
				e.kept = append(e.kept, res)
			}
			continue
		}
		e.residue = append(e.residue, r.explain(list, sp)...)
	}
}

// causeOf says why a step's keys may differ at the end. A step whose undo was
// never tried has the cause of the undo that stands in its way.
func (r *runner) causeOf(id string, stuck bool) backstay.Cause {
	sp := r.progress.Steps[id]
	_, kept := r.core.keptBy(r.progress, r.core.at[id])
	switch {
	case sp.Undo != nil && sp.Undo.Cause != "":
		return sp.Undo.Cause
	case kept && sp.Finding != backstay.Unknown:
		return backstay.CauseIncompatible
	case stuck && sp.Finding == backstay.Unknown:
		return backstay.CauseAmbiguous
	case stuck:
		return backstay.CauseNoUndo
	}
	for _, d := range r.core.dependents[r.core.at[id]] {
		if sp := r.progress.order[d]; sp.blocks() || sp.needsUndo() {
			return r.causeOf(r.plan.Steps[d].ID, stuck)
		}
	}
	return backstay.CauseUndoFailed
}

// explain adds to residue why it is there and what to type next.
func (r *runner) explain(list []backstay.Residue, sp *StepProgress) []backstay.Residue {
	next := "repair it by hand, then `backstay rollback " + r.deployed.Name + " --retry`, or accept it with `backstay rollback " + r.deployed.Name + " --close --reason WHY`"
	for i := range list {
		list[i].Next = next
		switch {
		case list[i].Detail != "":
		case sp.Undo != nil && sp.Undo.Error != "":
			list[i].Detail = sp.Undo.Error
		case list[i].Cause == backstay.CauseIncompatible:
			list[i].Detail = r.keptWords(list[i].Step)
		case sp.Undo == nil && r.progress.State == backstay.RollingBack:
			list[i].Detail = "not undone, because the undo of a step that needs it failed"
		case r.plan.Pivot != "":
			list[i].Detail = "past the point of no return (step " + r.plan.Pivot + ")"
		}
	}
	return list
}

// keptWords say which schema keeps a step from being undone.
func (r *runner) keptWords(id string) string {
	by, ok := r.core.keptBy(r.progress, r.core.at[id])
	if !ok {
		return ""
	}
	st := r.plan.Steps[by]
	return fmt.Sprintf("not undone: step %s stays, and version %s of %s could not use its schema", st.ID, strings.Join(st.Excludes, ", "), r.plan.Release)
}

// end writes the last transition.
func (r *runner) end(event Event, e ending) {
	body := backstay.TransitionBody{Residue: e.residue, Kept: e.kept}
	if f := r.progress.Failure; f != nil {
		body.Cause, body.Reason, body.Step = f.Cause, f.Reason, f.Step
	}
	if event != EventStick {
		event = EventUndone
		if len(e.residue) > 0 {
			event = EventStick
		}
	}
	if event == EventStick {
		body.Cause = backstay.CauseNoUndo // past the point of no return, though nothing reads differently
		if len(e.residue) > 0 {
			body.Cause = e.residue[0].Cause
		}
	}
	r.resources = append(r.resources, e.finals...)
	if f, within := r.progress.Failure, r.plan.Within.Std(); f != nil && within > 0 && event != EventStick {
		if took := r.e.now().Sub(f.At); took > within {
			r.append(backstay.EntryNote, "", backstay.NoteBody{Text: fmt.Sprintf("rolling back took %s, longer than rollback.within %s", took.Round(time.Millisecond), within)})
		}
	}
	r.transition(event, body)
}

// leftAs is how a key that a step left in the state own is in the end, after
// the later steps. False: a later step tells of it under its own key. A later
// step that removed what lies above the key removed it as well.
func leftAs(k backstay.Key, own backstay.ResourceState, later []backstay.Step, after map[string]backstay.Image) (backstay.ResourceState, bool) {
	for _, st := range slices.Backward(later) {
		for _, other := range st.Keys {
			if _, covers := within(other, k); !covers {
				continue
			}
			above := after[st.ID][other]
			gone := other != k && len(above.Parts) == 0 && !above.Opaque && above.Unreadable == ""
			return backstay.ResourceState{}, gone
		}
	}
	return own, true
}

// projectResources tells the ledger's projection what the deployment left
// behind at its commit and again when it is proven. (After a rollback, end does.)
func (r *runner) projectResources(event Event) {
	if event != EventCommit && event != EventProve {
		return
	}
	steps, after, err := r.applied()
	if err != nil {
		r.fatal = err
		return
	}
	for i, st := range steps {
		for _, k := range st.Keys {
			if state, tells := leftAs(k, after[st.ID][k], steps[i+1:], after); tells && !state.Opaque {
				r.resources = append(r.resources, ledger.Resource{
					Key: k, Deployment: r.lease.Deployment, Step: st.ID, State: state, Proven: event == EventProve,
				})
			}
		}
	}
}
