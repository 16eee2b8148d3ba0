package report

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/ledger"
)

// Drill says what the newest drill of a plan showed, at one moment.
type Drill struct {
	// Status is "valid", "expired" (it was once), "other_plan" (drills of this
	// release are of other plans) or "none".
	Status  string                       `json:"status"`
	ID      string                       `json:"id,omitempty"`
	Plan    string                       `json:"plan,omitempty"` // that was drilled
	At      time.Time                    `json:"at,omitzero"`
	Age     backstay.Duration            `json:"age,omitzero"`
	Expires time.Time                    `json:"expires,omitzero"`
	Depth   int                          `json:"depth,omitempty"`
	Tallies []backstay.DrillTally        `json:"tallies,omitempty"`
	Blind   int                          `json:"blind,omitempty"`
	Undo    map[string]backstay.Duration `json:"undo,omitempty"`
	Report  string                       `json:"report,omitempty"`
}

// Words of Drill.Status.
const (
	drillValid   = "valid"
	drillExpired = "expired"
	drillOther   = "other_plan"
	drillNone    = "none"
)

// Walker reads entries in their order.
type Walker interface {
	Walk(ctx context.Context, q ledger.Query, f func(ledger.Leaf) error) error
}

// newestDrill finds the newest drill of a plan that was recorded until now. A
// drill of another plan of the release proves nothing of this one.
func newestDrill(ctx context.Context, src Walker, release, plan string, now time.Time) (Drill, error) {
	found, other := Drill{Status: drillNone}, Drill{Status: drillNone}
	err := src.Walk(ctx, ledger.Query{Kind: backstay.EntryDrill, AfterLeaf: -1}, func(l ledger.Leaf) error {
		var b backstay.DrillBody
		if l.Entry.Kind != backstay.EntryDrill || l.Entry.At.After(now) || l.Entry.Decode(&b) != nil || b.Release != release {
			return nil
		}
		d := Drill{
			Status: drillValid, ID: b.ID, Plan: b.Plan, At: l.Entry.At, Age: backstay.Duration(now.Sub(l.Entry.At)), Expires: b.Expires,
			Depth: b.Depth, Tallies: b.Tallies, Blind: b.Blind, Undo: b.Undo, Report: b.Report,
		}
		switch {
		case b.Plan != plan:
			d.Status = drillOther
			other = d
			return nil
		case !b.Expires.After(now):
			d.Status = drillExpired
		}
		found = d
		return nil
	})
	if err != nil {
		return Drill{}, fmt.Errorf("look for drills: %w", err)
	}
	if found.Status == drillNone {
		return other, nil
	}
	return found, nil
}

// words say in one line what the evidence is worth.
func (d Drill) words() string {
	age := ""
	if !d.At.IsZero() {
		age = fmt.Sprintf(" of %s, %s old", stamp(d.At), Duration(d.Age.Std()))
	}
	switch d.Status {
	case drillValid:
		return "drill " + d.ID + age + ", good until " + stamp(d.Expires)
	case drillExpired:
		return "EXPIRED: drill " + d.ID + age + ", was good until " + stamp(d.Expires)
	case drillOther:
		return fmt.Sprintf("NONE of this plan: the newest drill%s is of plan %.12s and proves nothing of this one", age, d.Plan)
	}
	return "NONE: this plan was never drilled; whether its rollback restores everything was not tried"
}

// tallyTable shows each level of evidence for itself.
func (d Drill) tallyTable() []block {
	var all [][]string
	for _, t := range d.Tallies {
		level := t.Level
		if what := map[string]string{"D1": "simulated targets", "D2": "disposable copies of the real targets"}[t.Level]; what != "" {
			level += ", " + what
		}
		n := func(v int) string { return fmt.Sprint(v) }
		all = append(all, []string{level, n(t.Cells), n(t.Restored), n(t.RestoredModulo), n(t.HeldExact), n(t.Failed), n(t.Hung), n(t.NotRun)})
	}
	return rows(0, []string{"Level", "Cells", "Restored", "Restored but for a stated list", "Held exactly", "Failed", "Hung", "Not run"}, all)
}

// coverage says how deep the drill went and what it cannot see. Cells are
// counted per level, in the table: levels are never added up.
func (d Drill) coverage() string {
	parts := []string{fmt.Sprintf("faults to depth %d", d.Depth), number(d.Blind, "entry", "entries") + " on its blind list"}
	if d.Report != "" {
		parts = append(parts, fmt.Sprintf("whole report in blob sha256:%.12s", d.Report))
	}
	return strings.Join(parts, "; ")
}
