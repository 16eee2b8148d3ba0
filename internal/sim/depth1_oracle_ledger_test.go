package sim

import (
	"slices"

	"github.com/backstay-dev/backstay"
)

// legal is the life of a deployment as DESIGN §3 draws it.
func legal(from, to backstay.State) bool {
	next := map[backstay.State][]backstay.State{
		backstay.Planned:     {backstay.Approved, backstay.Refused},
		backstay.Approved:    {backstay.Running, backstay.Refused},
		backstay.Running:     {backstay.Holding, backstay.Committed, backstay.RollingBack, backstay.Held},
		backstay.Holding:     {backstay.Running, backstay.RollingBack, backstay.Held},
		backstay.Committed:   {backstay.Proven, backstay.RollingBack, backstay.Held},
		backstay.RollingBack: {backstay.RolledBack, backstay.Held},
		backstay.Held:        {backstay.RollingBack, backstay.Closed},
		backstay.Proven:      nil, backstay.RolledBack: nil, backstay.Closed: nil, backstay.Refused: nil,
	}
	return slices.Contains(next[from], to)
}

// grammar: entries are complete and contiguous, transitions follow the life of
// a deployment, every act is closed (I13).
func (h *history) grammar() {
	state := backstay.Planned
	openIntents := map[string]backstay.EntryKind{}
	var epoch int64
	for i, e := range h.entries {
		if e.N != int64(i+1) {
			h.violate("I13: entry %d has number %d", i+1, e.N)
		}
		if e.Epoch < epoch {
			h.violate("I8: entry %d has epoch %d after %d", e.N, e.Epoch, epoch)
		}
		epoch = e.Epoch
		if (i == 0) != (e.Kind == backstay.EntryPlanned) {
			h.violate("I13: entry %d is %s", e.N, e.Kind)
		}
		switch kind := e.Kind; {
		case kind == backstay.EntryTransition:
			var body backstay.TransitionBody
			if err := e.Decode(&body); err != nil || body.From != state || !legal(body.From, body.To) {
				h.violate("I13: entry %d moves %s to %s in state %s (%v)", e.N, body.From, body.To, state, err)
			}
			state = body.To
		case opens(kind):
			// An undo that a crash cut off is announced again: it is idempotent.
			if was := openIntents[e.Step]; was != "" && (was != e.Kind || e.Kind != backstay.EntryUndoIntent) {
				h.violate("I13: entry %d: a second %s of step %s while an %s is open", e.N, e.Kind, e.Step, was)
			}
			openIntents[e.Step] = e.Kind
		case kind == backstay.EntryCompensation:
			openIntents[e.Step] = ""
		case closes(kind):
			if openIntents[e.Step] != backstay.EntryIntent && !h.neverActed(e) {
				h.violate("I13: entry %d: %s of step %s without an open intent", e.N, e.Kind, e.Step)
			}
			openIntents[e.Step] = ""
		}
	}
	if state != h.row.State || h.row.N != int64(len(h.entries)) {
		h.violate("I13: the entries end %s with %d, the row says %s with %d", state, len(h.entries), h.row.State, h.row.N)
	}
	for step, kind := range openIntents {
		if kind != "" && h.row.State.Settled() {
			h.violate("I13: settled %s with an open %s of step %s", h.row.State, kind, step)
		}
	}
	if h.summary.State != h.row.State {
		h.violate("I13: the summary says %s, the row %s", h.summary.State, h.row.State)
	}
}

// neverActed reports whether the entry is the failed outcome of a step that was
// refused before it could have an intent: since the step's last intent was closed,
// if it had one, it has not acted.
func (h *history) neverActed(outcome backstay.Entry) bool {
	var body backstay.OutcomeBody
	if outcome.Kind != backstay.EntryOutcome || outcome.Decode(&body) != nil || body.OK || body.After != nil {
		return false
	}
	acted := false
	for _, e := range h.journal {
		switch {
		case e.Step != outcome.Step:
		case e.Entry != nil && sameEntry(*e.Entry, outcome):
			return !acted
		case e.Entry != nil && closes(e.Entry.Kind):
			acted = false
		case e.Kind == "do" && !e.Back:
			acted = true
		}
	}
	return false
}

// acknowledged: what was acknowledged is in the ledger, in that order (I7).
func (h *history) acknowledged() {
	at := 0
	for _, a := range h.acked {
		for at < len(h.entries) && !sameEntry(h.entries[at], a) {
			at++
		}
		if at == len(h.entries) {
			h.violate("I7: acknowledged %s of step %q is not in the ledger", a.Kind, a.Step)
			return
		}
		at++
	}
}

func sameEntry(a, b backstay.Entry) bool {
	return a.Kind == b.Kind && a.Step == b.Step && string(a.Body) == string(b.Body)
}

// writeAhead: the before-image of each intent is what was read last before it,
// and holds every key of the step (I6; the moment of each write is checked
// when it happens).
func (h *history) writeAhead() {
	for _, s := range h.dos {
		var body backstay.IntentBody
		if err := s.opened.Decode(&body); err != nil {
			h.violate("I6: intent of step %s: %v", s.step, err)
			continue
		}
		step := h.step(s.step)
		for _, k := range step.Keys {
			got, ok := body.Before.Inline[k]
			if !ok {
				h.violate("I6: the before-image of step %s lacks %s", s.step, k)
				continue
			}
			if slices.Contains(h.sc.opaque, k) {
				if !got.Opaque {
					h.violate("I6: the before-image of step %s claims to know %s", s.step, k)
				}
				continue
			}
			if h.journal[s.look].Kind != "seen" {
				h.violate("I6: step %s has an intent and was never read", s.step)
				continue
			}
			if want := stateOf(h.journal[s.look].Cells, k); !got.Equal(want) {
				h.violate("I6: the before-image of step %s has %v for %s, the last read gave %v", s.step, got.Parts, k, want.Parts)
			}
		}
	}
}

// epochs: once a newer epoch acted no older one does, and what a process shows a
// target to be fenced by is the epoch that it writes the ledger under (I8).
func (h *history) epochs() {
	var newest int64
	leases := map[int]int64{}
	numbers := map[int64]int64{}
	for _, e := range h.entries {
		numbers[e.N] = e.Epoch
	}
	n := int64(0)
	for _, e := range h.journal {
		if e.Kind == "entry" {
			n++
			leases[e.Proc] = numbers[n]
		}
		if e.Kind == "write" && e.Proc != 0 && leases[e.Proc] != 0 && e.Epoch != leases[e.Proc] {
			h.violate("I8: step %s writes %s under epoch %d, its process holds epoch %d", e.Step, e.Cell, e.Epoch, leases[e.Proc])
		}
		if e.Kind != "write" {
			continue
		}
		if e.Epoch < newest {
			h.violate("I8: step %s writes %s under epoch %d after epoch %d did", e.Step, e.Cell, e.Epoch, newest)
		}
		newest = max(newest, e.Epoch)
	}
}

// effectCounts: how often an effect took place fits its mode (I9).
func (h *history) effectCounts() {
	committed := slices.Contains(h.states, backstay.Committed)
	for _, s := range h.plan.Steps {
		n := h.effects[s.ID]
		if s.Reverts != nil || s.Waits() {
			continue
		}
		switch s.Effect {
		case backstay.AtMostOnce, backstay.Probed, backstay.IdempotencyKey:
			if n > 1 {
				h.violate("I9: the effect of %s step %s took place %d times", s.Effect, s.ID, n)
			}
		case backstay.Idempotent:
		}
		lied := h.had(func(e event) bool { return e.Kind == "do.end" && e.Step == s.ID && e.Fault == actLie })
		if committed && n == 0 && !lied {
			h.violate("I9: committed, and the effect of step %s never took place", s.ID)
		}
	}
}

// compensations: one per undone intent, and no write of the step after it (I10).
func (h *history) compensations() {
	good, failed := map[string]int{}, map[string]int{}
	done := map[string]bool{}
	for _, e := range h.journal {
		if e.Kind == "write" && e.Back && done[e.Step] {
			h.violate("I10: step %s writes %s after its compensation record", e.Step, e.Cell)
		}
		if e.Kind != "entry" || e.Entry.Kind != backstay.EntryCompensation {
			continue
		}
		var body backstay.CompensationBody
		if err := e.Entry.Decode(&body); err != nil {
			h.violate("I13: compensation of step %s: %v", e.Step, err)
		}
		switch body.Result {
		case "restored", "compensated", "untouched", "kept":
			good[e.Step]++
			done[e.Step] = true
		case "failed":
			failed[e.Step]++
		default:
			h.violate("I13: compensation of step %s has result %q", e.Step, body.Result)
		}
		if body.Result == "kept" && len(body.Kept) == 0 {
			h.violate("I4: compensation of step %s kept something and does not say what", e.Step)
		}
		if good[e.Step]+failed[e.Step] > max(1, h.rounds()) {
			h.violate("I10: %d compensation records of step %s", good[e.Step]+failed[e.Step], e.Step)
		}
		if len(h.doOf(e.Step)) == 0 {
			h.violate("I10: a compensation record of step %s, which has no intent", e.Step)
		}
	}
	if h.row.State != backstay.RolledBack {
		return
	}
	for _, s := range h.dos {
		if good[s.step]+failed[s.step] == 0 && h.touched(s.step) {
			h.violate("I10: rolled back without a compensation record of step %s", s.step)
		}
	}
}

// rounds is how often the deployment turned around.
func (h *history) rounds() int {
	n := 0
	for _, s := range h.states {
		if s == backstay.RollingBack {
			n++
		}
	}
	return n
}

// undoOrder: a step is taken back only after all that need it are (I11).
func (h *history) undoOrder() {
	for _, u := range h.undos {
		for _, d := range h.needing(u.step) {
			if len(h.doOf(d.ID)) == 0 || !d.HasUndo || !h.touched(d.ID) {
				continue
			}
			if at, ok := h.compensated(d.ID); !ok || at > u.from {
				h.violate("I11: step %s is undone before step %s, which needs it", u.step, d.ID)
			}
		}
	}
}

// decisions: what turned the deployment around, what people asked and what the
// checks found is in the ledger (I13, I12).
func (h *history) decisions() {
	kinds := make(map[backstay.EntryKind][]backstay.Entry)
	for _, e := range h.entries {
		kinds[e.Kind] = append(kinds[e.Kind], e)
	}
	approved, verified := false, len(h.plan.Verify) == 0
	for _, e := range kinds[backstay.EntrySignal] {
		var body backstay.SignalBody
		if err := e.Decode(&body); err != nil {
			h.violate("I13: signal entry %d: %v", e.N, err)
		}
		if body.Signal == "approve" && body.Accepted {
			approved = true
			if body.Plan != h.plan.Digest() {
				h.violate("I12: an approval of plan %s was accepted for %s", body.Plan, h.plan.Digest())
			}
		}
	}
	for _, e := range kinds[backstay.EntryVerdict] {
		var body backstay.VerdictBody
		if err := e.Decode(&body); err != nil {
			h.violate("I13: verdict entry %d: %v", e.N, err)
		}
		if body.Phase == "verify" && body.Verdict == backstay.Pass {
			verified = true
			if body.Samples == 0 && len(h.plan.Verify) > 0 && body.Check == h.plan.Verify[0].ID {
				h.violate("I17: check %s passes on no samples", body.Check)
			}
		}
	}
	committed := slices.Contains(h.states, backstay.Committed)
	if committed && !verified {
		h.violate("I13: committed without a passing verdict in the ledger")
	}
	for _, s := range h.plan.Steps {
		if s.Pivot && h.touched(s.ID) && !approved {
			h.violate("I12: irreversible step %s ran without an accepted approval", s.ID)
		}
	}
	if h.turned != nil && h.turned.Cause == "" {
		h.violate("I13: turned around without a cause: %+v", h.turned)
	}
	if h.turned != nil && h.turned.Cause == backstay.CauseAborted && len(kinds[backstay.EntrySignal]) == 0 {
		h.violate("I13: aborted, and no signal is in the ledger")
	}
	h.failuresRecorded()
	h.signalsAnswered()
}

// signalsAnswered: what a person sent while the deployment was under way is
// answered in the ledger, accepted or refused. (The last transaction cannot
// answer what came while it was written.)
func (h *history) signalsAnswered() {
	last := 0
	for _, e := range h.journal {
		last = max(last, e.Batch)
	}
	for i, e := range h.journal {
		if e.Kind != "signal" || e.Step != "abort" {
			continue
		}
		next := slices.IndexFunc(h.journal[i:], func(e event) bool { return e.Kind == "entry" })
		answered := h.had(func(e event) bool { return e.Kind == "entry" && e.Entry.Kind == backstay.EntrySignal })
		if next >= 0 && h.journal[i+next].Batch < last && !answered {
			h.violate("I13: an abort was sent and never answered")
		}
	}
}

// failuresRecorded: an error that a do returned to a living process is in an
// outcome, and nothing is proven over an outcome that failed.
func (h *history) failuresRecorded() {
	for _, s := range h.dos {
		if s.entry == nil || s.entry.Kind != backstay.EntryOutcome {
			continue
		}
		var body backstay.OutcomeBody
		if err := s.entry.Decode(&body); err != nil {
			h.violate("I13: outcome of step %s: %v", s.step, err)
			continue
		}
		failed := false
		for _, e := range h.journal[s.from:s.till] {
			if e.Kind == "do.end" && e.Step == s.step {
				failed = e.Err != "" && (e.Fault != actLost || h.step(s.step).Effect != backstay.Probed)
			}
		}
		if failed && body.OK {
			h.violate("I13: step %s failed and its outcome says that it did not", s.step)
		}
		if !body.OK && body.Error == "" {
			h.violate("I13: step %s failed without a word why", s.step)
		}
	}
	last := map[string]bool{}
	for _, e := range h.entries {
		var body backstay.OutcomeBody
		if e.Kind == backstay.EntryOutcome && e.Decode(&body) == nil {
			last[e.Step] = body.OK
		}
		var found backstay.ObservedBody
		if e.Kind == backstay.EntryObserved && e.Decode(&found) == nil && found.Finding == backstay.Applied {
			last[e.Step] = true
		}
	}
	for step, ok := range last {
		if !ok && h.row.State == backstay.Proven {
			h.violate("I2: proven, and step %s failed", step)
		}
	}
}
