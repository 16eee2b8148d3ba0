package drill

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/fault"
)

// world is the modelled target of one cell. It behaves as the steps declare,
// and keeps a journal of every write. It is safe for concurrent use.
type world struct {
	m       *model
	settles func(kind string) bool
	moment  func() int // how many entries the deployment has

	mu      sync.Mutex
	now     places
	journal []write
	worked  map[string]bool // idempotency keys that the target has seen
	undone  map[string]int  // acts of undo so far, by step: lies count
	wrong   []backstay.DrillFinding
}

var _ fault.Target = (*world)(nil)

// write is one line of the journal. Outsiders have no step.
type write struct {
	step string
	verb fault.Verb
	act  int // acts of one cell are counted
	at   place
	to   json.RawMessage
	n    int // of an outsider's: entries of the deployment before it
}

func newWorld(m *model, settles func(string) bool) *world {
	return &world{m: m, settles: settles, moment: func() int { return 0 }, now: maps.Clone(m.start), worked: map[string]bool{}, undone: map[string]int{}}
}

var errModelled = errors.New("a modelled target prepares nothing")

// Prepare is not modelled: plans are prepared before they are drilled.
func (w *world) Prepare(context.Context, string, backstay.Request) (backstay.Prepared, error) {
	return backstay.Prepared{}, errModelled
}

// PrepareCheck is not modelled either.
func (w *world) PrepareCheck(context.Context, string, backstay.Request) (backstay.Prepared, error) {
	return backstay.Prepared{}, errModelled
}

// Observe reads the step's keys, but for those that nothing can read.
func (w *world) Observe(_ context.Context, call backstay.Call) (backstay.Image, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	im := backstay.Image{}
	for _, k := range call.Step.Keys {
		if w.m.opaque[k] {
			im[k] = backstay.ResourceState{Opaque: true}
			continue
		}
		im[k] = w.now.read(k)
	}
	return im, nil
}

// Do makes the step's changes.
func (w *world) Do(ctx context.Context, call backstay.Call) (backstay.Result, error) {
	return backstay.Result{}, w.act(ctx, fault.Do, call, false)
}

// Undo restores what it is told to, or takes back what the step changed.
func (w *world) Undo(ctx context.Context, call backstay.Call) (backstay.Result, error) {
	return backstay.Result{}, w.act(ctx, fault.Undo, call, false)
}

// Half makes half of the changes.
func (w *world) Half(ctx context.Context, verb fault.Verb, call backstay.Call) error {
	return w.act(ctx, verb, call, true)
}

func (w *world) act(ctx context.Context, verb fault.Verb, call backstay.Call, half bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	todo := w.m.changes[call.Step.ID]
	if verb == fault.Undo {
		todo = w.takenBack(call)
	}
	todo = w.bent(verb, call.Step.ID, todo)
	if half {
		todo = todo[:len(todo)/2]
	}
	if call.Step.Effect == backstay.IdempotencyKey && w.worked[call.IdempotencyKey] {
		return nil // the target has done that already
	}
	act := 1
	if n := len(w.journal); n > 0 {
		act = w.journal[n-1].act + 1
	}
	for _, c := range todo {
		w.put(write{step: call.Step.ID, verb: verb, act: act, at: c.at, to: c.to})
	}
	if !half {
		w.worked[call.IdempotencyKey] = true
	}
	return nil
}

func (w *world) put(one write) {
	w.now.set(one.at, one.to)
	w.journal = append(w.journal, one)
}

// takenBack are the writes of an undo: the parts that it is told to restore,
// and, of keys that nothing reads, what its command knows.
func (w *world) takenBack(call backstay.Call) []change {
	var todo []change
	command := func(c change) bool { return !call.Step.Restorable || w.m.opaque[c.key] }
	for _, c := range reverse(w.m.changes[call.Step.ID]) {
		if command(c) {
			todo = append(todo, change{at: c.at, key: c.key, to: c.from})
		}
	}
	for _, k := range slices.Sorted(maps.Keys(call.Restore)) {
		for _, part := range slices.Backward(slices.Sorted(slices.Values(call.Restore[k]))) {
			todo = append(todo, change{at: placeOf(k, part), key: k, to: call.Before[k].Parts[part]})
		}
	}
	return todo
}

// Probe tells the truth where the step declares that a probe does.
func (w *world) Probe(_ context.Context, call backstay.Call) (backstay.Finding, error) {
	if call.Step.Effect != backstay.Probed {
		return backstay.Unknown, nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.m.lies[call.Step.ID] == lieNoProbe {
		w.wrong = append(w.wrong, backstay.DrillFinding{
			Step: call.Step.ID, Text: "it says that a probe tells whether it was done, and nothing answers",
		})
		return backstay.Unknown, nil
	}
	applied, not := true, true
	for _, c := range w.m.changes[call.Step.ID] {
		applied = applied && bytes.Equal(w.now[c.at], c.to)
		not = not && bytes.Equal(w.now[c.at], c.from)
	}
	switch {
	case applied:
		return backstay.Applied, nil
	case not:
		return backstay.NotApplied, nil
	}
	return backstay.Partial, nil
}

// Check is not modelled: the drill answers the one probe itself.
func (w *world) Check(context.Context, backstay.Call) (backstay.CheckResult, error) {
	return backstay.CheckResult{}, errModelled
}

// Reap finds nothing: modelled acts end with their process.
func (w *world) Reap(context.Context, backstay.Call) error { return nil }

// Settle lets go of nothing.
func (w *world) Settle(context.Context, backstay.Call) error { return nil }

// Settles is as of the real kind.
func (w *world) Settles(kind string) bool { return w.settles(kind) }

// Outsider changes one place of the step's first key, as somebody else would.
func (w *world) Outsider(st backstay.Step) error {
	at, ok := w.m.exposed(st)
	if !ok {
		return fmt.Errorf("step %s changes nothing that somebody else could change", st.ID)
	}
	n := w.moment()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.put(write{at: at, to: backstay.Canonical(map[string]string{"left by": "somebody else"}), n: n})
	return nil
}

// exposed is the place that an outsider changes: one that can be read, if there
// is one.
func (m *model) exposed(st backstay.Step) (place, bool) {
	all := m.changes[st.ID]
	for _, c := range all {
		if !m.opaque[c.key] {
			return c.at, true
		}
	}
	if len(all) == 0 {
		return "", false
	}
	return all[0].at, true
}

// snapshot is the world as it is.
func (w *world) snapshot() places {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.now)
}

// writes is the journal so far.
func (w *world) writes() []write {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.journal)
}
