package mutant

// mutants is the table: each row is one bug that could have been written, why
// it matters, and the layers that may catch it, cheapest first.
func mutants() []mutant {
	all := []string{"regressions", "faults", "engine", "every fault", "pairs", "schedules"}
	unit := []string{"engine", "regressions", "faults", "every fault", "pairs", "schedules"} // what the simulator's world is too coarse for
	return append(engineMutants(all, unit), ledgerMutants()...)
}

// engineMutants are bugs of deciding and driving.
func engineMutants(all, unit []string) []mutant {
	return []mutant{
		{
			name: "no sync before apply", file: "internal/engine/do.go",
			old: "r.afterFlush(st.ID, func() { r.do(acts, st, before) })",
			new: "r.do(acts, st, before)",
			why: "a step acts while its intent is not durable (I6)", by: all,
		},
		{
			name: "before-image after apply", file: "internal/engine/fold.go",
			old: `st.After = body.After
	}`,
			new: `st.After, st.Before = body.After, body.After
	}`,
			why: "what is brought back is what the step left (I3)", by: all,
		},
		{
			name: "no before-image in the intent", file: "internal/engine/do.go",
			old: "backstay.IntentBody{Before: ref}",
			new: "backstay.IntentBody{}",
			why: "the intent does not say what was there (I6)", by: all,
		},
		{
			name: "a gate that lets a failing check pass", file: "internal/engine/gate.go",
			old: "return w.failed >= max(check.Failures, 1)",
			new: "return w.failed > 1_000_000+check.Failures",
			why: "a bad release is promoted (I17)", by: unit,
		},
		{
			name: "a gate that takes no answer for a yes", file: "internal/engine/gate.go",
			old: "body := backstay.OutcomeBody{OK: verdict == backstay.Pass,",
			new: "body := backstay.OutcomeBody{OK: verdict != backstay.Fail,",
			why: "no data is taken for health (I17)", by: unit,
		},
		{
			name: "a gate that forgets a break", file: "internal/engine/gate.go",
			old: "\t\tw.failed++\n\t\tw.passes = false",
			new: "		w.failed++",
			why: "a check passes as if it had never failed (I17)", by: unit,
		},
		{
			name: "a gate that is not armed once it passed", file: "internal/engine/armed.go",
			old: "if phase != PhaseOpen && (phase != PhaseApplied || test) {",
			new: "if phase != PhaseOpen || test {",
			why: "a breach after the gate, while a person is waited for or in the bake, is not seen (I17)", by: unit,
		},
		{
			name: "a gate that answers by the share before", file: "internal/engine/gate.go",
			old: "case w == nil || w.asked.Before(began):",
			new: "case w == nil:",
			why: "what was shown at 1 % lets 50 % pass (I17)", by: unit,
		},
		{
			name: "a gate in doubt that goes on", file: "internal/engine/gate.go",
			old: "case st.Gate.Undecided == backstay.PromoteUndecided:",
			new: "case st.Gate.Undecided != backstay.RollBackUndecided:",
			why: "no data promotes by default (I17)", by: unit,
		},
		{
			name: "a gate that stands in the way of a dial", file: "internal/engine/dial.go",
			old: "case !c.plan.Steps[d].Waits():",
			new: "case c.plan.Steps[d].Hold == nil:",
			why: "users go back through every share instead of at once", by: unit,
		},
		{
			name: "users before instances", file: "internal/plan/strategy.go",
			old: `u.add("start", serviceKind,`,
			new: `u.move(2); u.add("start", serviceKind,`,
			why: "users are sent to a side that does not run (I15)", by: all,
		},
		{
			name: "no compensation record", file: "internal/engine/dial.go",
			old: "r.append(backstay.EntryCompensation, id, body, blobs...)",
			new: "_ = r.progress.apply(backstay.Entry{Kind: backstay.EntryCompensation, Step: id, Body: backstay.Canonical(body)})",
			why: "an undo leaves no record (I10)", by: all,
		},
		{
			name: "no fence at the target", file: "internal/engine/run.go",
			old: "Epoch: r.lease.Epoch, Seq: r.lease.N}",
			new: "Epoch: 1, Seq: r.lease.N}",
			why: "a target cannot tell an old process from a new one (I8)", by: all,
		},
		{
			name: "blind restore", file: "internal/engine/reconcile.go",
			old: "case after == nil || bytes.Equal(n, after.Parts[part]):",
			new: "case true:",
			why: "an outsider's later value is overwritten (I18)", by: all,
		},
		{
			name: "retry of an ambiguous step", file: "internal/engine/do.go",
			old: `if st.Effect == backstay.AtMostOnce {
		return 0`,
			new: `if st.Effect == "never" {
		return 0`,
			why: "an effect that must happen once happens twice (I9)", by: all,
		},
		{
			name: "failing step not undone", file: "internal/engine/next.go",
			old: "(st.Phase == PhaseApplied || st.Phase == PhaseFailed || st",
			new: "(st.Phase == PhaseApplied || st",
			why: "half of a failed step stays (I3)", by: all,
		},
		{
			name: "relative undo", file: "internal/engine/undo.go",
			old: "r.progress.Steps[oldest(id, covers)].Before",
			new: "r.progress.Steps[id].Before",
			why: "a dial goes back one notch instead of to where it was (I3)", by: all,
		},
		{
			name: "a retry's before-image counts", file: "internal/engine/fold.go",
			old: `if !st.Touched {
		// A retry`,
			new: `if true {
		// A retry`,
			why: "what a failed try left counts as what was there before (I3)", by: all,
		},
		{
			name: "a repeated undo forgets its first look", file: "internal/engine/fold.go",
			old: `if st.Phase != PhaseUndoing {
			st.UndoNow`,
			new: `if true {
			st.UndoNow`,
			why: "the half-done work of an undo is taken for an outsider's (I3)", by: unit,
		},
		{
			name: "half-done undo is an outsider's", file: "internal/engine/undo.go",
			old: "if err == nil && sp.Phase == PhaseUndoing {",
			new: "if err != nil {",
			why: "a cut-off undo is not finished (I3)", by: all,
		},
		{
			name: "failed undo is an outsider's", file: "internal/engine/undo.go",
			old: "if try.then == nil || try.err == undoUnconfirmed {",
			new: `if try.err != "!" {`,
			why: "a retried undo keeps what the failed one left (I3)", by: all,
		},
		{
			name: "an undo's word is believed", file: "internal/engine/reconcile.go",
			old: `case len(body.Residue) > 0:
		body.Result`,
			new: `case len(body.Residue) > 0 && undoErr != nil:
		body.Result`,
			why: "an undo that lies leaves no residue (I4)", by: all,
		},
		{
			name: "a do's word is believed", file: "internal/engine/do.go",
			old: "if parts := differing(w, after[k]); len(parts) > 0 {",
			new: "if parts := differing(w, after[k]); len(parts) > 99 {",
			why: "a step that lies is committed (I2)", by: all,
		},
		{
			name: "drift is not looked at", file: "internal/engine/do.go",
			old: `drift != "" && !sp.Touched`,
			new: `drift == "!" && !sp.Touched`,
			why: "an outsider's value is overwritten going forward (I18)", by: all,
		},
		{
			name: "unreadable counts as absent", file: "internal/engine/do.go",
			old: `err == nil && why != "" {
		err = fmt.Errorf("%s cannot be read: %s"`,
			new: `err == nil && why == "!" {
		err = fmt.Errorf("%s cannot be read: %s"`,
			why: "a step acts on what it could not read (I6)", by: all,
		},
		{
			name: "steps do not wait for what they need", file: "internal/engine/next.go",
			old: "if s.order[need].Phase != PhaseApplied {",
			new: "if s.order[need].Phase == PhasePending {",
			why: "a step begins while what it needs is under way (I11)", by: all,
		},
		{
			name: "a failed undo stops nothing", file: "internal/engine/next.go",
			old: "return s.order[d].needsUndo() || s.order[d].blocks()",
			new: "return s.order[d].needsUndo()",
			why: "what a stuck step needs is taken from under it (I11)", by: all,
		},
		{
			name: "undo in any order", file: "internal/engine/next.go",
			old: "return s.order[d].needsUndo() || s.order[d].blocks()",
			new: "return s.order[d].blocks()",
			why: "a step is undone before what needs it (I11)", by: all,
		},
		{
			name: "the point of no return is none", file: "internal/engine/next.go",
			old: "return sp.Phase != PhaseFailed || !unchanged(sp)",
			new: "return false",
			why: "what cannot be undone is half undone (I11)", by: all,
		},
		{
			name: "the budget is not kept", file: "internal/engine/next.go",
			old: "if cost <= within.Std() {",
			new: "if cost <= within.Std() || cost > 0 {",
			why: "a step begins that could not be undone in time (I16)", by: all,
		},
		{
			name: "commit without verify", file: "internal/engine/next.go",
			old: `if s.Verified == backstay.Pass {
		return []command{{op: opMove, event: EventCommit}}`,
			new: `if s.Verified != backstay.Fail {
		return []command{{op: opMove, event: EventCommit}}`,
			why: "nobody looked before the commit (I2)", by: all,
		},
		{
			name: "no data is healthy", file: "internal/engine/check.go",
			old: "res = backstay.CheckResult{Verdict: backstay.Undecided, Reason: err.Error()}",
			new: "res = backstay.CheckResult{Verdict: backstay.Pass, Samples: 1}",
			why: "a probe that cannot be asked passes (I17)", by: unit,
		},
		{
			name: "an abort is not taken", file: "internal/engine/fold.go",
			old: `s.fail("", backstay.CauseAborted, body.Reason, "", e.At)`,
			new: "_ = body.Reason",
			why: "what a person asks changes nothing (I13)", by: unit,
		},
		{
			name: "an approval of another plan counts", file: "internal/engine/signals.go",
			old: "case sig.Plan != in.planDigest:",
			new: `case sig.Plan == "!":`,
			why: "an approval is not bound to its plan (I12)", by: all,
		},
		{
			name: "no approval is enough", file: "internal/engine/next.go",
			old: ">= st.Hold.Count {",
			new: ">= 0 {",
			why: "an irreversible step runs unasked (I12)", by: all,
		},
		{
			name: "the end before what leads to it", file: "internal/engine/run.go",
			old: "if len(r.pending) > 0 && cmd.op.final() {",
			new: "if len(r.pending) > 99 && cmd.op.final() {",
			why: "a conclusion is drawn from what is not durable (I6)", by: all,
		},
		{
			name: "untouched counts as applied", file: "internal/engine/do.go",
			old: `Finding: backstay.NotApplied, Reason: "everything reads as before the step"`,
			new: `Finding: backstay.Applied, Reason: "everything reads as before the step"`,
			why: "a step that a crash kept from acting is skipped (I2)", by: all,
		},
		{
			name: "a command undoes over an outsider", file: "internal/engine/reconcile.go",
			old: "case !st.Restorable && drifted:",
			new: `case !st.Restorable && drifted && c.detail == "!":`,
			why: "an undo command overwrites an outsider's value (I18)", by: all,
		},
		{
			name: "what was kept is not said", file: "internal/engine/reconcile.go",
			old: "body := backstay.CompensationBody{Kept: c.kept}",
			new: "body := backstay.CompensationBody{}",
			why: "an outsider's value is kept and nobody is told (I4)", by: all,
		},
		{
			name: "what is kept is missing at the end", file: "internal/engine/check.go",
			old: "e.kept = append(e.kept, res)",
			new: "_ = res",
			why: "the end does not list what was kept (I3)", by: all,
		},
		{
			name: "keys are not read back at the commit", file: "internal/engine/reconcile.go",
			old: `wrong = append(wrong, fmt.Sprintf("%s does not read as step`,
			new: `_ = append(wrong, fmt.Sprintf("%s does not read as step`,
			why: "a change between a step and the commit is committed (I2)", by: all,
		},
		{
			name: "a lost answer is a lost effect", file: "internal/engine/do.go",
			old: "if failed == nil || call.Step.Effect != backstay.Probed ||",
			new: "if failed != nil || call.Step.Effect != backstay.Probed ||",
			why: "a probed step is repeated without asking its probe (I9)", by: all,
		},
		{
			name: "a new key for each try", file: "internal/engine/do.go",
			old: `call.IdempotencyKey = r.lease.Deployment + "/" + st.ID + "/do"`,
			new: "call.IdempotencyKey = time.Now().String()",
			why: "the target cannot tell a repeated effect (I9)", by: unit,
		},
		{
			name: "recovery overtakes a signal", file: "internal/engine/run.go",
			old: "		r.pollSignals(ctx) // what was sent while nobody drove",
			new: "		// what was sent while nobody drove",
			why: "an abort that waited is never answered (I13)", by: all,
		},
		{
			name: "an undo without outcome owns everything", file: "internal/engine/undo.go",
			old: "out := maps.Clone(then)",
			new: "out := backstay.Image{}",
			why: "a cut-off undo removes an outsider's new part (I18)", by: all,
		},
		{
			name: "what a finding read is forgotten", file: "internal/engine/fold.go",
			old: "st.Phase, st.After = PhaseFailed, body.Now",
			new: "st.Phase = PhaseFailed",
			why: "an outsider's change after a crash is overwritten (I18)", by: all,
		},
		{
			name: "a dial goes back over an outsider", file: "internal/engine/dial.go",
			old: " || move.After.Digest != then.Before.Digest",
			new: "",
			why: "what somebody set between two moves is lost (I18)", by: unit,
		},
		{
			name: "what a dial's undo covers has no record", file: "internal/engine/dial.go",
			old: "for _, other := range covers {",
			new: "for _, other := range covers[:0] {",
			why: "a covered move is undone twice (I10)", by: all,
		},
		{
			name: "secrets in errors", file: "internal/engine/do.go",
			old: "body.Error = r.scrub.text(err.Error())",
			new: "body.Error = err.Error()",
			why: "a secret is in the ledger (I14)", by: all,
		},
		{
			name: "secrets in images", file: "internal/engine/image.go",
			old: "state.Unreadable = s.text(state.Unreadable)",
			new: "_ = s",
			why: "a secret is in the ledger (I14)", by: all,
		},
	}
}

// ledgerMutants are bugs of what must be durable.
func ledgerMutants() []mutant {
	return []mutant{
		{
			name: "no fence at the ledger", file: "internal/ledger/append.go",
			old: "AND epoch = $8 AND owner = $9 AND n = $10",
			new: "AND $8 = $8 AND $9 = $9 AND $10 = $10",
			why: "a process that was taken over still writes (I8)", by: []string{"ledger"},
		},
		{
			name: "a guess does without its fence", file: "internal/ledger/append.go",
			old: "d.must = append(d.must, a.fence(0))",
			new: "f := a.fence(0); d.rest = append(d.rest, Statement{Query: f.Query, Args: f.Args})",
			why: "a process that was taken over still writes, as long as nothing else changed (I8)", by: []string{"ledger"},
		},
		{
			name: "a guess does not look at the head", file: "internal/ledger/commit.go",
			old: "WHERE id = 1 AND size = $1 AND root = $2",
			new: "WHERE id = 1 AND $1 = $1 AND $2 = $2",
			why: "what somebody changed or lost meanwhile is not noticed (I13)", by: []string{"ledger"},
		},
		{
			name: "ignored fsync error", file: "internal/durable/durable.go",
			old: `return fmt.Errorf("sync %s (nothing is known about what is on disk): %w", path, err)`,
			new: "return nil",
			why: "what is not on disk is taken to be (I7)", by: []string{"durable", "drivers", "disk"},
		},
		{
			name: "ack before sync", file: "internal/ledger/sqlite/sqlite.go",
			old: `"_synchronous": {"FULL"}`,
			new: `"_synchronous": {"OFF"}`,
			why: "a power cut loses what was acknowledged (I7)", by: []string{"ledger", "disk"},
		},
		{
			name: "no checksum", file: "internal/ledger/walk.go",
			old: "case tlog.Hash(LeafHash(l.Salt, l.Record)) != hashes[i]:",
			new: "case false && tlog.Hash(LeafHash(l.Salt, l.Record)) != hashes[i]:",
			why: "a changed record is read as if it were what was written (I13)", by: []string{"ledger", "audit"},
		},
		{
			name: "locks do not hold", file: "internal/ledger/lock.go",
			old: `if !ok {
			continue`,
			new: `if !ok || len(w) > 0 {
			continue`,
			why: "two deployments change one key (I8)", by: []string{"ledger", "faults on the real ledger"},
		},
		{
			name: "held lets go of its keys", file: "internal/ledger/create.go",
			old: "if !to.Locks() {",
			new: "if to.Settled() {",
			why: "another deployment runs over what a person must look at (I8)", by: []string{"ledger", "faults on the real ledger"},
		},
		{
			name: "a claim keeps the epoch", file: "internal/ledger/claim.go",
			old: "Epoch: d.Epoch + 1, N: d.N}",
			new: "Epoch: d.Epoch, N: d.N}",
			why: "two processes write under one epoch (I8)", by: []string{"ledger", "faults on the real ledger"},
		},
		{
			name: "a node that was taken over lives on", file: "internal/ledger/claim.go",
			old: "UPDATE node SET dead = 1 WHERE id = $1",
			new: "UPDATE node SET dead = 0 WHERE id = $1",
			why: "a process that slept past its lease goes on (I8)", by: []string{"ledger", "kills"},
		},
		{
			name: "an answered signal waits on", file: "internal/ledger/signal.go",
			old: "UPDATE signal SET consumed_n = $1",
			new: "UPDATE signal SET consumed_n = 0 * $1",
			why: "a signal is never done with (I13)", by: []string{"ledger"},
		},
		{
			name: "a repeated update is written twice", file: "internal/ledger/append.go",
			old: "if n != lease.N+int64(len(entries)) {",
			new: "if n >= 0 {",
			why: "a write whose answer was lost is not known again (I7)", by: []string{"ledger"},
		},
		{
			name: "a head without its tree", file: "internal/ledger/batch.go",
			old: "inserts(intoTree, nodes)",
			new: "inserts(intoTree, nodes[:0])",
			why: "nothing proves what the ledger holds (I13)", by: []string{"ledger", "audit"},
		},
	}
}
