package sim

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/backstay-dev/backstay"
)

// world is the in-memory target of a simulated deployment. Its state is a flat
// set of cells (name to value; an absent cell reads ""), so that keys which lie
// below one another share what they hold, as paths do. It keeps a journal of
// everything that happened to it, in order, which is all the oracle needs.
type world struct {
	mu    sync.Mutex
	cells map[string]string
	// kept is what keeper steps hold on to for their undo, by step.
	kept map[string]bool
	// seen are the idempotency keys the target has accepted.
	seen map[string]bool
	// effects counts how often a step's effect took place, by step.
	effects map[string]int
	opaque  map[backstay.Key]bool
	journal []event
	faults  *faults
}

// event is one line of the journal. Kind is one of: write, do, did, undo,
// undid, seen (a read), outsider, entry (acknowledged by the ledger), crash,
// resume, check, settle, signal.
type event struct {
	Kind  string
	Step  string
	Proc  int
	Epoch int64
	// Back is set on acts and writes that take something back: the last durable
	// word on the step was an undo_intent.
	Back bool
	Cell string
	Old  string
	New  string
	Err  string
	// Fault is what was done to the act: lie, fail, part, hang, unread.
	Fault string
	// Cells is the state at a read and at a commit.
	Cells map[string]string
	Entry *backstay.Entry
	// Batch numbers the transaction of the ledger that an entry came with.
	Batch int
}

// String is one line for whoever replays a run.
func (e event) String() string {
	if e.Entry != nil {
		return fmt.Sprintf("ledger batch %d: %s %s %s", e.Batch, e.Entry.Kind, e.Step, e.Entry.Body)
	}
	line := fmt.Sprintf("process %d epoch %d: %s %s", e.Proc, e.Epoch, e.Kind, e.Step)
	if e.Back {
		line += " (back)"
	}
	if e.Cell != "" {
		line += fmt.Sprintf(" %s: %q to %q", e.Cell, e.Old, e.New)
	}
	if e.Kind == "seen" {
		line += fmt.Sprint(" ", e.Cells)
	}
	return line + " " + e.Fault + " " + e.Err
}

func newWorld(cells map[string]string, opaque map[backstay.Key]bool, f *faults) *world {
	return &world{
		cells: maps.Clone(cells), kept: map[string]bool{}, seen: map[string]bool{}, effects: map[string]int{},
		opaque: opaque, faults: f,
	}
}

func (w *world) snapshot() map[string]string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.cells)
}

func (w *world) note(e event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.journal = append(w.journal, e)
}

// put writes a cell and its line in the journal.
func (w *world) put(e event, cell, value string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.putLocked(e, cell, value)
}

func (w *world) putLocked(e event, cell, value string) {
	e.Cell, e.Old, e.New = cell, w.cells[cell], value
	if value == "" {
		delete(w.cells, cell)
	} else {
		w.cells[cell] = value
	}
	w.journal = append(w.journal, e)
}

// cellOf names the cell of one part of one key.
func cellOf(k backstay.Key, part string) string {
	path, isFile := strings.CutPrefix(string(k), "file:")
	switch {
	case !isFile && part == "":
		return string(k)
	case !isFile:
		return string(k) + "|" + part
	case part == "":
		return path
	}
	return path + "/" + part
}

// partOf is the inverse of cellOf: the part of k that the cell is.
func partOf(k backstay.Key, cell string) (part string, covered bool) {
	root := cellOf(k, "")
	if cell == root {
		return "", true
	}
	sep := "|"
	if k.Kind() == "file" {
		sep = "/"
	}
	return strings.CutPrefix(cell, root+sep)
}

// stateOf reads one key from a set of cells.
func stateOf(cells map[string]string, k backstay.Key) backstay.ResourceState {
	var s backstay.ResourceState
	for cell, value := range cells {
		if part, ok := partOf(k, cell); ok {
			if s.Parts == nil {
				s.Parts = map[string]json.RawMessage{}
			}
			s.Parts[part] = backstay.Canonical(value)
		}
	}
	return s
}

// valueOf is the plain value of a part's canonical JSON; absent is "".
func valueOf(raw json.RawMessage) string {
	var v string
	if len(raw) > 0 && json.Unmarshal(raw, &v) != nil {
		return fmt.Sprintf("not a cell's value: %s", raw)
	}
	return v
}

// change is one write of a step, of a whole cell.
type change struct {
	Key  backstay.Key `json:"key"`
	Part string       `json:"part,omitempty"`
	To   string       `json:"to"` // "" removes it
}

func (c change) cell() string { return cellOf(c.Key, c.Part) }

// body is what the simulated step kinds do.
type body struct {
	Do   []change `json:"do"`
	Undo []change `json:"undo,omitempty"` // of a step that is undone by command
	// Takes is how long one do lasts.
	Takes backstay.Duration `json:"takes,omitzero"`
}

// The simulated step kinds.
const (
	kindTree   = "tree"   // restorable parts
	kindRun    = "run"    // do and undo by command; readable unless its key is opaque
	kindProbe  = "probe"  // as run, and a probe tells whether it was applied
	kindKeyed  = "keyed"  // as run, and the target drops a repeated idempotency key
	kindKeeper = "keeper" // restorable, but only while what it kept was not let go of
)

// step declares a step of the kind with sane defaults.
func step(id, kind string, do ...change) backstay.Step {
	s := backstay.Step{ID: id, Prepared: backstay.Prepared{
		Kind: kind, Class: backstay.Exact, Effect: backstay.Idempotent, Fence: backstay.Leased, HasUndo: true,
		Restorable: kind == kindTree || kind == kindKeeper,
		Timeout:    backstay.Duration(time.Minute), UndoTimeout: backstay.Duration(time.Minute), Retries: 2,
		Summary: "do " + id, UndoSummary: "undo " + id,
	}}
	for _, c := range do {
		if !slices.Contains(s.Keys, c.Key) {
			s.Keys = append(s.Keys, c.Key)
		}
	}
	s.Body = backstay.Canonical(body{Do: do})
	switch kind {
	case kindProbe:
		s.Effect = backstay.Probed
	case kindKeyed:
		s.Effect = backstay.IdempotencyKey
	}
	return s
}

func bodyOf(s backstay.Step) body {
	var b body
	if err := json.Unmarshal(s.Body, &b); err != nil {
		panic("sim: step " + s.ID + " has a broken body: " + err.Error())
	}
	return b
}

// set is a change of a whole single-valued key; in is one of a part of the site.
func set(key backstay.Key, to string) change { return change{Key: key, To: to} }
func in(part, to string) change              { return change{Key: site, Part: part, To: to} }
