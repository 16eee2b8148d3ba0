package engine

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"strings"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/ledger"
)

// undo takes one touched step back: look, decide by compare-and-restore, write
// the undo intent, act, look again, write the compensation record.
func (r *runner) undo(acts context.Context, id string) {
	st, sp := r.core.steps[id], r.progress.Steps[id]
	if st.Waits() {
		r.land(id) // its timer
		r.append(backstay.EntryCompensation, id, backstay.CompensationBody{Result: CompensationUntouched})
		return
	}
	if r.busy(id) {
		return
	}
	covers := r.core.covered(r.progress, r.core.at[id])
	before, err := r.load(r.progress.Steps[oldest(id, covers)].Before)
	var after backstay.Image
	if err == nil {
		after, err = r.load(sp.After)
	}
	if err != nil {
		r.damaged(st, err)
		return
	}
	call, rec := r.call(st, nil), &recorder{shared: r.blobs}
	orphan := r.orphans[id]
	r.start(acts, id, "look at "+id+" before its undo", true, func(ctx context.Context) func() {
		var reapErr error
		if orphan {
			reapErr = r.e.actions.Reap(ctx, call)
		}
		now, rec := r.lookAgain(ctx, call, rec)
		return func() { r.chosen(acts, st, covers, before, after, now, rec, reapErr) }
	})
}

// damaged records that a step cannot be taken back because its before-image
// is gone from the ledger.
func (r *runner) damaged(st *backstay.Step, err error) {
	if !isDamage(err) {
		r.fatal = err // the store is away: whoever takes this up again reads it
		return
	}
	body := backstay.CompensationBody{Result: CompensationFailed, Cause: backstay.CauseLedgerDamage, Error: err.Error()}
	for _, k := range st.Keys {
		body.Residue = append(body.Residue, backstay.Residue{Key: k, Step: st.ID, Unknown: "its before-image cannot be read", Cause: backstay.CauseLedgerDamage})
	}
	r.append(backstay.EntryCompensation, st.ID, body)
}

// chosen acts on the decision of compare-and-restore.
func (r *runner) chosen(acts context.Context, st *backstay.Step, covers []string, before, after, now backstay.Image, rec *recorder, reapErr error) {
	sp := r.progress.Steps[st.ID]
	if reapErr != nil {
		body := backstay.CompensationBody{Result: CompensationFailed, Cause: backstay.CauseUnreachable, Error: r.scrub.text(reapErr.Error())}
		body.Residue = residuesOf(st, before, now, backstay.CauseUnreachable)
		r.append(backstay.EntryCompensation, st.ID, body)
		return
	}
	delete(r.orphans, st.ID)
	after, err := r.leftByUndo(st, before, after, now)
	if err == nil && sp.Phase == PhaseUndoing {
		after, err = r.halfUndone(st, before, after, now)
	}
	if err != nil {
		r.damaged(st, err)
		return
	}
	after = r.ownAbove(st, after, now)
	choice := chooseUndo(st, before, after, now)
	if choice.act && sp.Phase == PhaseUndoing && doesAgain(st) {
		choice = doubtful(st, before, now)
	}
	if choice.result == CompensationFailed {
		r.append(backstay.EntryCompensation, st.ID, backstay.CompensationBody{
			Result: choice.result, Cause: choice.cause, Error: choice.detail, Residue: choice.residue, Kept: choice.kept,
		})
		return
	}
	if !choice.act {
		r.compensate(st.ID, covers, backstay.CompensationBody{Result: choice.result, Kept: choice.kept})
		return
	}
	ref, err := rec.ref(now)
	if err != nil {
		r.fatal = err
		return
	}
	r.append(backstay.EntryUndoIntent, st.ID, backstay.UndoIntentBody{Now: ref, Covers: covers}, rec.blobsOf()...)
	r.afterFlush(st.ID, func() { r.takeBack(acts, st, covers, after, choice) })
}

// ownAbove gives after with the directories above what later steps of this
// deployment changed as they are now: their times follow from what those steps
// and their undos did, and are nobody else's.
func (r *runner) ownAbove(st *backstay.Step, after, now backstay.Image) backstay.Image {
	listed := map[backstay.Key][]string{}
	for _, other := range r.plan.Steps[r.core.at[st.ID]+1:] {
		if !r.progress.Steps[other.ID].Touched {
			continue
		}
		for _, k := range st.Keys {
			for _, o := range other.Keys {
				rel, ok := within(k, o)
				if !ok || o == k {
					continue
				}
				for up := rel; up != ""; {
					up = up[:max(strings.LastIndexByte(up, '/'), 0)]
					listed[k] = append(listed[k], up)
				}
			}
		}
	}
	if len(listed) == 0 {
		return after
	}
	return overlay(after, now, listed)
}

// doubtful is the choice about an undo that was cut off and must not be
// repeated, with nothing that tells how far it came: a person looks.
func doubtful(st *backstay.Step, before, now backstay.Image) undoChoice {
	return undoChoice{
		result: CompensationFailed, cause: backstay.CauseAmbiguous,
		detail:  "the process died while it did step " + st.Reverts.Step + " again, which must happen at most once",
		residue: residuesOf(st, before, now, backstay.CauseAmbiguous),
	}
}

// halfUndone gives the after-image to compare with when an undo was cut off:
// between its undo intent and its compensation record, whatever the parts it
// was to restore hold is its own half-done work, not an outsider's. A step
// undone by command has no parts to tell apart.
func (r *runner) halfUndone(st *backstay.Step, before, after, now backstay.Image) (backstay.Image, error) {
	if !st.Restorable {
		return nil, nil
	}
	then, err := r.load(r.progress.Steps[st.ID].UndoNow)
	if err != nil {
		return nil, err
	}
	return overlay(known(after, then), now, chooseUndo(st, before, after, then).restore), nil
}

// known gives after with what was there when an undo began for each key of
// which nothing else is known: what differed from before then was our own
// partial effect, what changed since in another part is not.
func known(after, then backstay.Image) backstay.Image {
	out := maps.Clone(then)
	for k, state := range after {
		if state.Unreadable == "" {
			out[k] = state
		}
	}
	return out
}

// overlay gives after with the listed parts as they are in now.
func overlay(after, now backstay.Image, listed map[backstay.Key][]string) backstay.Image {
	out := make(backstay.Image, len(after))
	for k, state := range after {
		parts := maps.Clone(state.Parts)
		if parts == nil {
			parts = map[string]json.RawMessage{}
		}
		for _, p := range listed[k] {
			if v, there := now[k].Parts[p]; there {
				parts[p] = v
			} else {
				delete(parts, p)
			}
		}
		state.Parts = parts
		out[k] = state
	}
	return out
}

// leftByUndo gives the after-image to compare with when an undo that failed is
// tried again: what it left of the parts it was to put back is its own
// half-done work. Where it claimed success nobody knows whose work that is,
// and it is not touched.
func (r *runner) leftByUndo(st *backstay.Step, before, after, now backstay.Image) (backstay.Image, error) {
	for _, try := range r.progress.Steps[st.ID].Retried {
		if try.then == nil || try.err == undoUnconfirmed {
			continue
		}
		left, err := r.load(try.left) // nil where the undo was cut off
		if err != nil {
			return nil, err
		}
		if !st.Restorable {
			after = left
			continue
		}
		then, err := r.load(try.then)
		if err != nil {
			return nil, err
		}
		seen := maps.Clone(now)
		for k, state := range left {
			if state.Unreadable == "" { // else nothing tells its work from another's: as if cut off
				seen[k] = state
			}
		}
		after = overlay(known(after, then), seen, chooseUndo(st, before, after, then).restore)
	}
	return after, nil
}

// takeBack runs the undo of a step whose undo intent is durable.
func (r *runner) takeBack(acts context.Context, st *backstay.Step, covers []string, after backstay.Image, choice undoChoice) {
	call := r.call(st, &recorder{shared: r.blobs})
	call.Before, call.After = choice.expected, after
	if st.Restorable {
		call.Restore = choice.restore
	}
	call.IdempotencyKey = r.lease.Deployment + "/" + st.ID + "/undo"
	out := r.capture(st.ID)
	call.Output = out
	r.start(acts, st.ID, "undo "+st.ID, false, func(ctx context.Context) func() {
		began := time.Now()
		if err := r.e.hit("undo.before", st.ID); err != nil {
			return func() { r.stopFor(err) }
		}
		res, err := r.undoAttempt(ctx, st, call)
		if crash := r.e.hit("undo.after", st.ID); crash != nil || errors.Is(err, ledger.ErrLapsed) || errors.Is(err, ErrStopped) {
			return func() { r.stopFor(errors.Join(crash, err)) }
		}
		now, rec := r.lookAgain(context.WithoutCancel(ctx), call, &recorder{shared: r.blobs})
		cause := backstay.CauseUndoFailed
		if errors.Is(err, context.DeadlineExceeded) {
			cause = backstay.CauseDeadline
		}
		if errors.Is(err, backstay.ErrNoUndo) {
			cause = backstay.CauseNoUndo
		}
		body := judgeUndo(st, choice, now, err, cause)
		if ref, refErr := rec.ref(now); refErr == nil {
			body.Now = &ref
		}
		body.Error, body.Hint, body.Note = r.scrub.text(body.Error), r.scrub.text(backstay.HintOf(err)), r.scrub.text(res.Note)
		body.Slots = res.Slots
		if body.Cause == backstay.CauseUndoFailed {
			body.Class = backstay.ClassOf(err) // permanent where it only did not read as before
		}
		body.Output = out.String()
		body.Duration = backstay.Duration(time.Since(began))
		return func() {
			r.compensate(st.ID, covers, body, rec.blobsOf()...)
			r.timings = append(r.timings, ledger.Timing{Release: r.plan.Release, Step: st.ID, Undo: true, Took: body.Duration.Std()})
		}
	})
}

// doesAgain reports whether undoing the step would do an act again that must
// happen at most once: a revert by command whose own rollback repeats the
// reverted step's do.
func doesAgain(st *backstay.Step) bool {
	return st.Reverts != nil && !st.Restorable && st.Reverts.Effect == backstay.AtMostOnce
}

// undoAttempt calls the driver's undo inside its own timeout; transient errors
// are tried again, since undo is idempotent by contract.
func (r *runner) undoAttempt(ctx context.Context, st *backstay.Step, call backstay.Call) (backstay.Result, error) {
	timeout := st.UndoTimeout.Std()
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, &timeoutError{"undo of step " + st.ID, timeout})
	defer cancel()
	undo := func(ctx context.Context) (backstay.Result, error) { return r.e.actions.Undo(ctx, call) }
	if st.Reverts != nil && !st.Restorable {
		// The revert ran the earlier step's undo command; its do takes that back.
		undo = func(ctx context.Context) (backstay.Result, error) { return r.e.actions.Do(ctx, call) }
	}
	tries := 3
	if doesAgain(st) {
		tries = 0
	}
	var last backstay.Result
	err := retry(ctx, r.e.opts.Backoff, tries, func() (err error) {
		last, err = r.gated(ctx, undo)
		return err
	})
	return last, err
}

// settle lets go of what a step kept for its undo. It is best effort: what
// could not be let go is noted, and does not change how the deployment ended.
func (r *runner) settle(acts context.Context, id string) {
	if r.busy(id) {
		return
	}
	st, sp := r.core.steps[id], r.progress.Steps[id]
	call := r.call(st, &recorder{shared: r.blobs})
	out := newOutput(r.scrub)
	call.Output = out
	call.Proven = r.progress.State == backstay.Committed
	before, err := r.load(sp.Before)
	if err == nil {
		call.Before = before
		call.After, err = r.load(sp.After)
	}
	if err != nil {
		r.append(backstay.EntrySettled, id, backstay.SettledBody{Error: err.Error()})
		return
	}
	r.start(acts, id, "let go of what "+id+" kept", false, func(ctx context.Context) func() {
		began := time.Now()
		ctx, cancel := context.WithTimeoutCause(ctx, st.Timeout.Std(), &timeoutError{"settling step " + id, st.Timeout.Std()})
		defer cancel()
		err := r.e.hit("settle.before", id)
		if err != nil {
			return func() { r.stopFor(err) }
		}
		_, err = r.gated(ctx, func(ctx context.Context) (backstay.Result, error) {
			return backstay.Result{}, r.e.actions.Settle(ctx, call)
		})
		if errors.Is(err, ledger.ErrLapsed) {
			return func() { r.stopFor(err) }
		}
		body := backstay.SettledBody{OK: err == nil, Output: out.String(), Duration: backstay.Duration(time.Since(began))}
		if err != nil {
			body.Error = r.scrub.text(err.Error())
		}
		return func() { r.append(backstay.EntrySettled, id, body) }
	})
}
