package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/retrypolicy"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/ledger"
)

// errSibling is the cause with which an act is cancelled because the
// deployment is turning around.
var errSibling = errors.New("cancelled because the deployment is turning around")

// begin looks at a step's keys; what it sees becomes the before-image of the
// intent, and only after that intent is durable the act starts.
func (r *runner) begin(acts context.Context, id string) {
	st := r.core.steps[id]
	call, rec := r.call(st, nil), &recorder{shared: r.blobs}
	orphan, failures := r.orphans[id], r.progress.Steps[id].Failures
	r.start(acts, id, "look at "+id, true, func(ctx context.Context) func() {
		var reapErr error
		if orphan {
			reapErr = r.e.actions.Reap(ctx, call)
		}
		if failures > 0 {
			rest(ctx, r.e.opts.Backoff<<failures)
		}
		before, rec := look(ctx, r.e.actions, call, rec, true)
		ref, refErr := rec.ref(before)
		return func() { r.looked(acts, st, before, ref, rec, errors.Join(reapErr, refErr)) }
	})
}

// rest waits before a step is driven forward once more; the end of ctx ends it.
func rest(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// turning reports whether the deployment goes back, or is about to: nothing
// new begins, and what is under way is cancelled. Past the point of no return
// it goes on instead.
func (r *runner) turning() bool {
	return r.progress.State == backstay.RollingBack || (r.progress.Failure != nil && !r.core.pastPivot(r.progress))
}

// looked opens the intent, unless the look already says that the step must
// not act.
func (r *runner) looked(acts context.Context, st *backstay.Step, before backstay.Image, ref backstay.ImageRef, rec *recorder, err error) {
	sp := r.progress.Steps[st.ID]
	if r.turning() || r.flights[flightFinish] != nil || r.progress.State.Settled() || r.progress.Paused || (sp.Phase != PhasePending && sp.Phase != PhaseFailed) {
		return // it turned around, paused or ends meanwhile: nothing was done here
	}
	if k, why := unreadable(before); err == nil && why != "" {
		err = fmt.Errorf("%s cannot be read: %s", k, why)
	}
	if err != nil {
		r.refuseStep(st, backstay.CauseUnreachable, "before-image: "+err.Error(), "make it readable, then deploy again")
		return
	}
	if drift := r.driftAt(st, before); drift != "" && !sp.Touched {
		r.refuseStep(st, backstay.CauseDrift, drift, "run `backstay plan` again and look at the drift")
		return
	}
	delete(r.orphans, st.ID)
	r.append(backstay.EntryIntent, st.ID, backstay.IntentBody{Before: ref}, rec.blobsOf()...)
	r.afterFlush(st.ID, func() { r.do(acts, st, before) })
}

// refuseStep records that a step failed before it touched anything.
func (r *runner) refuseStep(st *backstay.Step, cause backstay.Cause, why, hint string) {
	r.append(backstay.EntryOutcome, st.ID, backstay.OutcomeBody{Cause: cause, Class: backstay.Conflict, Error: r.scrub.text(why), Hint: hint})
}

// driftAt compares what a step is about to change with what the plan froze,
// or with what an earlier step of this deployment left there.
func (r *runner) driftAt(st *backstay.Step, now backstay.Image) string {
	for _, k := range st.Keys {
		if now[k].Opaque {
			continue
		}
		if want, frozen := st.Before[k]; frozen && now[k].Digest() != want {
			return fmt.Sprintf("%s changed since the plan was made", k)
		}
	}
	return ""
}

// do runs the act of a step whose intent is durable.
func (r *runner) do(acts context.Context, st *backstay.Step, before backstay.Image) {
	if r.turning() {
		r.append(backstay.EntryObserved, st.ID, backstay.ObservedBody{Finding: backstay.NotApplied, Reason: "never started: the deployment turned around first"})
		return
	}
	if st.Gate != nil {
		r.watchGate(acts, st)
		return
	}
	call := r.call(st, &recorder{shared: r.blobs})
	call.Before = before
	call.IdempotencyKey = r.lease.Deployment + "/" + st.ID + "/do"
	out := r.capture(st.ID)
	call.Output = out
	rec := &recorder{shared: r.blobs}
	var earlier error // a try before this one may have taken effect
	if sp := r.progress.Steps[st.ID]; sp.Failures > 0 {
		earlier = fmt.Errorf("attempt %d failed", sp.Attempt-1)
	}
	r.start(acts, st.ID, st.Summary, false, func(ctx context.Context) func() {
		began := time.Now()
		if err := r.e.hit("do.before", st.ID); err != nil {
			return func() { r.stopFor(err) }
		}
		body, untouched, err := r.attempt(ctx, st, call, earlier)
		if crash := r.e.hit("do.after", st.ID); crash != nil || errors.Is(err, ledger.ErrLapsed) || errors.Is(err, ErrStopped) {
			// What was done is left for recovery to observe.
			return func() { r.stopFor(errors.Join(crash, err)) }
		}
		after, rec := look(context.WithoutCancel(ctx), r.e.actions, call, rec, true)
		if untouched {
			after = before // whatever is there by now, this step did not do it
		}
		body.Duration = backstay.Duration(time.Since(began))
		body.Output = out.String()
		return func() { r.outcome(st, after, rec, body, err) }
	})
}

// stopFor ends the driving of this deployment: the lease lapsed or a failpoint
// fired. Nothing more is written.
func (r *runner) stopFor(err error) {
	if r.fatal == nil {
		r.fatal = err
	}
}

// act is one call of a driver.
type act func(ctx context.Context) (backstay.Result, error)

// timeoutError is the cause with which a named timeout ends an act.
type timeoutError struct {
	what  string
	after time.Duration
}

func (e *timeoutError) Error() string { return fmt.Sprintf("%s timed out after %s", e.what, e.after) }

// Is makes a named timeout a deadline for errors.Is.
func (e *timeoutError) Is(target error) bool { return target == context.DeadlineExceeded }

// attempt calls the driver inside the step's timeout, again after a transient
// error where repeating is safe. failed is how an attempt before this one
// failed, or nil. untouched says that the one try there was failed without
// having changed anything.
func (r *runner) attempt(ctx context.Context, st *backstay.Step, call backstay.Call, failed error) (body backstay.OutcomeBody, untouched bool, err error) {
	body = backstay.OutcomeBody{Slots: map[string]string{}}
	do := func(ctx context.Context) (backstay.Result, error) { return r.e.actions.Do(ctx, call) }
	if st.Reverts != nil {
		if do, err = r.revertAct(st, call); err != nil {
			return body, false, err
		}
	}
	timeout := st.Timeout.Std()
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, &timeoutError{"step " + st.ID, timeout})
	defer cancel()
	first := failed == nil
	err = retry(ctx, r.e.opts.Backoff, retries(st), func() (err error) {
		if done, stop := r.knownDone(ctx, call, failed); done || stop != nil {
			return stop
		}
		body.Tries++
		res, err := r.gated(ctx, do)
		failed = err
		for k, v := range res.Slots {
			body.Slots[k] = v
		}
		body.Note = r.scrub.text(res.Note)
		untouched = first && body.Tries == 1 && res.Untouched && err != nil
		return err
	})
	return body, untouched, err
}

// knownDone asks the probe of a step that must take effect once, before it is
// tried again after a transient error: the answer may have been lost rather
// than the effect. Where the probe cannot tell, the error is final.
func (r *runner) knownDone(ctx context.Context, call backstay.Call, failed error) (done bool, stop error) {
	if failed == nil || call.Step.Effect != backstay.Probed || call.Step.Reverts != nil {
		return false, nil
	}
	finding, err := r.e.actions.Probe(ctx, call)
	switch {
	case err == nil && finding == backstay.Applied:
		return true, nil
	case err == nil && finding == backstay.NotApplied:
		return false, nil
	}
	return false, backstay.Classify(backstay.Permanent, fmt.Errorf("%w; its probe cannot tell how far it came", failed))
}

// gated runs one act under the gate: not at all when this node's lease may
// have lapsed, and cancelled when it lapses meanwhile. The error names why the
// context ended, if it did.
func (r *runner) gated(ctx context.Context, do act) (backstay.Result, error) {
	ctx, release, err := r.e.store.Gate(ctx)
	if err != nil {
		return backstay.Result{}, err
	}
	defer release()
	res, err := do(ctx)
	if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(err, cause) {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	return res, err
}

// revertAct is the do of a step that takes an earlier step back.
func (r *runner) revertAct(st *backstay.Step, call backstay.Call) (act, error) {
	target, from, err := r.revertImages(st)
	if err != nil {
		return nil, err
	}
	now := call.Before
	call.Before, call.After = target, from
	if st.Restorable {
		call.Restore = map[backstay.Key][]string{}
		for _, k := range st.Keys {
			var was *backstay.ResourceState
			if f, ok := from[k]; ok && f.Unreadable == "" {
				was = &f
			}
			restore, kept := reconcile(target[k], was, now[k])
			if len(kept) > 0 {
				return nil, backstay.Classify(backstay.Conflict, fmt.Errorf("%s was changed by somebody since (%s)", k, partList(kept)))
			}
			if len(restore) > 0 {
				call.Restore[k] = restore
			}
		}
	}
	return func(ctx context.Context) (backstay.Result, error) { return r.e.actions.Undo(ctx, call) }, nil
}

// revertImages loads the image a revert step must bring back, and the one it
// takes back.
func (r *runner) revertImages(st *backstay.Step) (target, from backstay.Image, err error) {
	target, err = imageOf(&backstay.ImageRef{Digest: st.Reverts.Target, Stored: true}, r.loadBlob)
	if err == nil && st.Reverts.From != "" {
		from, err = imageOf(&backstay.ImageRef{Digest: st.Reverts.From, Stored: true}, r.loadBlob)
	}
	return target, from, err
}

// wanted is the image a step is to leave: what the plan knows beforehand, or
// what a revert brings back.
func (r *runner) wanted(st *backstay.Step) (backstay.Image, error) {
	if st.Reverts == nil {
		return st.Want, nil
	}
	target, _, err := r.revertImages(st)
	return target, err
}

// retries is how often a transient error of the step may be tried again.
// Where doing twice is not known to be safe it is never.
func retries(st *backstay.Step) int {
	if st.Effect == backstay.AtMostOnce {
		return 0
	}
	return st.Retries
}

// retry runs act until it succeeds, fails for good, or the retries or ctx end.
// Only transient errors are tried again, with backoff and jitter.
func retry(ctx context.Context, first time.Duration, retries int, act func() error) error {
	if retries <= 0 {
		return act()
	}
	policy := retrypolicy.NewBuilder[any]().
		HandleIf(func(_ any, err error) bool {
			return err != nil && ctx.Err() == nil && backstay.Retries(backstay.ClassOf(err))
		}).
		WithBackoff(first, 20*first).WithJitterFactor(0.25).
		WithMaxRetries(retries).ReturnLastFailure().Build()
	var last error
	err := failsafe.With[any](policy).WithContext(ctx).Run(func() error {
		last = act()
		return last
	})
	if err == nil || ctx.Err() == nil {
		return err
	}
	// Once ctx has ended the library may answer with ctx's bare error in place
	// of the act's, which names the timeout.
	if last != nil {
		err = last
	}
	if cause := context.Cause(ctx); !errors.Is(err, cause) {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	return err
}

// outcome records how the act of a step ended, by what was read, not by what
// it claimed.
func (r *runner) outcome(st *backstay.Step, after backstay.Image, rec *recorder, body backstay.OutcomeBody, err error) {
	key, unread := unreadable(after)
	if err == nil {
		err = r.readBack(st, after, key, unread)
	}
	// A key that could not be read says so in the image; what could be read of
	// the others still tells our values from an outsider's.
	ref, refErr := rec.ref(after)
	if refErr == nil {
		body.After = &ref
	} else if err == nil {
		err = refErr
	}
	body.OK = err == nil
	if err != nil {
		body.Class = backstay.ClassOf(err)
		body.Error = r.scrub.text(err.Error())
		body.Hint = r.scrub.text(backstay.HintOf(err))
		body.Cause = backstay.CauseStepFailed
		if errors.Is(err, context.DeadlineExceeded) {
			body.Cause = backstay.CauseDeadline
		}
	}
	r.append(backstay.EntryOutcome, st.ID, body, rec.blobsOf()...)
}

// readBack compares what is there after a successful act with what was wanted.
func (r *runner) readBack(st *backstay.Step, after backstay.Image, key backstay.Key, unread string) error {
	if unread != "" {
		return fmt.Errorf("%s cannot be read after the step: %s", key, unread)
	}
	want, err := r.wanted(st)
	if err != nil {
		return err
	}
	for _, k := range st.Keys {
		w, known := want[k]
		if !known || w.Opaque || after[k].Opaque {
			continue
		}
		if parts := differing(w, after[k]); len(parts) > 0 {
			return &backstay.Error{
				Class: backstay.Permanent, Op: "read back", Subject: string(k),
				Err:  fmt.Errorf("the step reported success, but what is there differs from the plan (%s)", partList(parts)),
				Hint: "something else writes there, or the step's tool lies",
			}
		}
	}
	return nil
}

// resolve deals with an intent without outcome: an act of ours is cancelled
// when the deployment turns around; one of a dead process is observed.
func (r *runner) resolve(acts context.Context, id string) {
	if f, ours := r.flights[id]; ours {
		if r.turning() && !f.looking { // a look at what a dead process did is worth its answer
			f.cancel(errSibling)
		}
		return
	}
	if r.busy(id) {
		return // its act starts after the flush
	}
	st := r.core.steps[id]
	sp := r.progress.Steps[id]
	before, err := r.load(sp.Before)
	if err != nil && isDamage(err) {
		r.append(backstay.EntryObserved, id, backstay.ObservedBody{Finding: backstay.Unknown, Reason: "its before-image cannot be read: " + err.Error()})
		return
	}
	if err != nil {
		r.fatal = err
		return
	}
	call := r.call(st, nil)
	call.Before = before
	rec := &recorder{shared: r.blobs}
	r.start(acts, id, "observe "+id+" after a crash", true, func(ctx context.Context) func() {
		if err := r.e.hit("resolve.before", id); err != nil {
			return func() { r.stopFor(err) }
		}
		err := r.e.actions.Reap(ctx, call)
		now, rec := look(ctx, r.e.actions, call, rec, true)
		reaped := err == nil
		body := r.find(ctx, st, call, before, now, err)
		ref, refErr := rec.ref(now)
		if _, unread := unreadable(now); reaped && refErr == nil && unread == "" {
			body.Now = &ref // what still runs may change it yet
		}
		return func() {
			if !reaped {
				r.orphans[id] = true // its undo tries again before it acts
			} else {
				delete(r.orphans, id)
			}
			r.append(backstay.EntryObserved, id, body, rec.blobsOf()...)
		}
	})
}

// find classifies an open intent from what is there now.
func (r *runner) find(ctx context.Context, st *backstay.Step, call backstay.Call, before, now backstay.Image, reapErr error) backstay.ObservedBody {
	if reapErr != nil {
		return backstay.ObservedBody{Finding: backstay.Unknown, Reason: r.scrub.text("processes of the crashed attempt could not be ended: " + reapErr.Error())}
	}
	if k, why := unreadable(now); why != "" {
		return backstay.ObservedBody{Finding: backstay.Unknown, Reason: fmt.Sprintf("%s cannot be read: %s", k, why)}
	}
	if now.Equal(before) {
		return backstay.ObservedBody{Finding: backstay.NotApplied, Reason: "everything reads as before the step"}
	}
	if want, err := r.wanted(st); err == nil && len(want) > 0 && now.Equal(want) {
		return backstay.ObservedBody{Finding: backstay.Applied, Reason: "everything reads as the plan wants it"}
	}
	finding, err := r.e.actions.Probe(ctx, call)
	switch {
	case err != nil:
		return backstay.ObservedBody{Finding: backstay.Unknown, Reason: r.scrub.text("probe: " + err.Error())}
	case finding == backstay.NotApplied && !hasOpaque(now):
		// The probe speaks for the effect, but what is read differs from
		// before: half of it happened.
		return backstay.ObservedBody{Finding: backstay.Partial, Reason: "the probe says not applied, yet something changed"}
	case finding == backstay.Applied || finding == backstay.NotApplied || finding == backstay.Partial:
		return backstay.ObservedBody{Finding: finding, Reason: "its probe says so"}
	case st.Effect == backstay.Idempotent && !hasOpaque(now) && st.Restorable:
		return backstay.ObservedBody{Finding: backstay.Partial, Reason: "the process died while the step was acting"}
	}
	return backstay.ObservedBody{Finding: backstay.Unknown, Reason: "the process died while the step was acting, and nothing tells how far it came"}
}

func hasOpaque(im backstay.Image) bool {
	for _, s := range im {
		if s.Opaque {
			return true
		}
	}
	return false
}
