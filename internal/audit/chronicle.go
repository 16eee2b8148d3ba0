package audit

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/plan"
)

// record is one leaf as it was read.
type record struct {
	leaf      int64
	entry     backstay.Entry
	columns   *ledger.Columns // as stored beside the record
	canonical []byte
	wrong     string // why the record is not an entry
}

// where names the entry. The columns are asked first: where they differ from
// the record it is often the record that was changed.
func (r record) where() Problem {
	if c := r.columns; c != nil {
		return Problem{Leaf: r.leaf, Last: r.leaf, Deployment: c.Deployment, Entry: c.N}
	}
	return Problem{Leaf: r.leaf, Last: r.leaf, Deployment: r.entry.Deployment, Entry: r.entry.N}
}

// readRecord decodes a leaf's record itself: what the store decoded is not
// taken for it.
func readRecord(l ledger.Leaf) record {
	r := record{leaf: l.Index, columns: l.Columns}
	if err := json.Unmarshal(l.Record, &r.entry); err != nil {
		r.entry = backstay.Entry{Deployment: l.Entry.Deployment, N: l.Entry.N}
		r.wrong = "the record is not an entry: " + err.Error()
		return r
	}
	r.canonical = backstay.Canonical(r.entry)
	if r.entry.V == backstay.EntryFormat && string(r.canonical) != string(l.Record) {
		// Two readers could understand such a record differently.
		r.wrong = "the record is not in its canonical form"
	}
	return r
}

// chronicle folds records into one saga per deployment.
type chronicle struct {
	report  func(Problem)
	sagas   map[string]*saga
	byKind  map[backstay.EntryKind]tally
	unknown map[string]int64
	flags   map[backstay.Key]flagChain
	// damaged is set once a record was found changed or missing: problems of
	// the grammar after that may follow from it.
	damaged bool
}

// tally digests which leaves have something in common.
type tally struct {
	count  int64
	digest [32]byte
}

func (t tally) with(leaf int64) tally {
	return tally{t.count + 1, sha256.Sum256(fmt.Appendf(t.digest[:], "%d", leaf))}
}

func newChronicle(report func(Problem)) *chronicle {
	return &chronicle{report: report, sagas: map[string]*saga{}, byKind: make(map[backstay.EntryKind]tally), unknown: map[string]int64{}, flags: map[backstay.Key]flagChain{}}
}

// take folds one record in. A record that does not hash to its leaf says
// nothing: it is left out, and was reported.
func (c *chronicle) take(ctx context.Context, r record, changed bool, plans Rows) {
	if changed {
		c.damaged = true
		return
	}
	if r.wrong != "" {
		c.damaged = true
		p := r.where()
		p.Code, p.Message = "record_unreadable", r.wrong
		p.Meaning, p.Do = "it was not written by Backstay, though the tree covers it", "compare with a checkpoint kept elsewhere (--against); take the ledger from a copy"
		c.report(p)
		return
	}
	e := r.entry
	c.byKind[e.Kind] = c.byKind[e.Kind].with(r.leaf)
	if !known(e.Kind) {
		c.unknown[string(e.Kind)]++
	}
	if wrong := r.misplaced(); wrong != "" {
		p := r.where()
		p.Code, p.Message = "columns_differ", wrong
		p.Meaning, p.Do = "the columns that commands select by were changed; the record is what counts", "take the ledger from a copy"
		c.report(p)
	}
	if e.Kind == backstay.EntryFlag && e.V == backstay.EntryFormat {
		if wrong := c.takeFlag(r); wrong != "" {
			c.grammar(r, wrong)
		}
	}
	if e.Deployment == "" {
		if e.N != 0 {
			c.grammar(r, fmt.Sprintf("entry %d belongs to no deployment", e.N))
		}
		return
	}
	s := c.sagas[e.Deployment]
	if s == nil {
		s = &saga{}
		c.sagas[e.Deployment] = s
	}
	s.digest = sha256.Sum256(append(s.digest[:], r.canonical...))
	if wrong := s.take(e); wrong != "" {
		c.grammar(r, wrong)
	}
	if e.Kind == backstay.EntryPlanned && !s.lost && plans != nil {
		if wrong := s.readPlan(ctx, plans); wrong != "" {
			p := r.where()
			p.Code, p.Message = "plan_changed", wrong
			p.Meaning, p.Do = "what the deployment was to do cannot be told any more", "take the ledger from a copy"
			c.report(p)
		}
	}
}

func (c *chronicle) grammar(r record, wrong string) {
	p := r.where()
	p.Code, p.Message = "grammar", wrong
	p.Meaning = "the entry could not have been written there by Backstay: entries were removed, added or moved, or Backstay has a fault"
	if c.damaged {
		p.Meaning = "it may follow from the damage reported above"
	}
	p.Do = "compare with a checkpoint kept elsewhere (--against); if the log is whole, report the fault"
	c.report(p)
}

// readPlan checks the stored plan against its digest and remembers its steps.
func (s *saga) readPlan(ctx context.Context, plans Rows) string {
	digest := s.planned.PlanDigest
	data, err := plans.Plan(ctx, digest)
	if err != nil {
		return fmt.Sprintf("plan %.12s cannot be read: %v", digest, err)
	}
	if sum := fmt.Sprintf("%x", sha256.Sum256(data)); sum != digest {
		return fmt.Sprintf("the stored plan hashes to %.12s, the record names %.12s", sum, digest)
	}
	p, err := plan.Decode(data)
	if err != nil {
		return "" // of another version: its digest is right, its steps are not known
	}
	s.inPlan = make(map[string]bool, len(p.Steps))
	for _, st := range p.Steps {
		s.inPlan[st.ID] = true
	}
	return ""
}

// misplaced says how the columns beside the record differ from it.
func (r record) misplaced() string {
	if r.columns == nil {
		return ""
	}
	name, uid := "", -1
	if a := r.entry.Actor; a != nil {
		name, uid = a.Name, a.UID
	}
	e, c := r.entry, r.columns
	for _, pair := range []struct {
		what           string
		record, column any
	}{
		{"deployment", e.Deployment, c.Deployment},
		{"number", e.N, c.N},
		{"kind", e.Kind, c.Kind},
		{"step", e.Step, c.Step},
		{"actor", name, c.ActorName},
		{"actor's uid", uid, c.ActorUID},
		{"time", e.At.UnixMicro(), c.At.UnixMicro()},
	} {
		if pair.record != pair.column {
			return fmt.Sprintf("the column of the %s says %v, the record says %v", pair.what, pair.column, pair.record)
		}
	}
	return ""
}

func known(k backstay.EntryKind) bool {
	return slices.Contains(kinds(), k)
}

func kinds() []backstay.EntryKind {
	return []backstay.EntryKind{
		backstay.EntryPlanned, backstay.EntryTransition, backstay.EntryIntent, backstay.EntryOutcome, backstay.EntryObserved,
		backstay.EntryUndoIntent, backstay.EntryCompensation, backstay.EntryVerdict, backstay.EntrySignal, backstay.EntrySettled,
		backstay.EntryTakeover, backstay.EntryNote, backstay.EntryRefused, backstay.EntryLockBroken, backstay.EntryDrill, backstay.EntryFlag, backstay.EntryMitigation,
	}
}

func sortedIDs(sagas map[string]*saga) []string { return slices.Sorted(maps.Keys(sagas)) }
