package drill

import (
	"context"
	"fmt"
	"slices"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/plan"
)

// SelfCheckFormat is the version of the result of a self-check.
const SelfCheckFormat = "backstay.drill-self-check/v1"

// SelfCheck says whether the drill finds what it is there to find: a plan whose
// steps do otherwise than they declare, and its twin whose steps do not.
type SelfCheck struct {
	Format string      `json:"format"`
	OK     bool        `json:"ok"`
	Lies   []ToldLie   `json:"lies"`  // one per step of the lying plan; a step may tell none
	Clean  []FlaggedBy `json:"clean"` // what was flagged in the twin: nothing, if OK
	// Cells are those of the lying plan and of its twin.
	LyingCells int `json:"lying_cells"`
	CleanCells int `json:"clean_cells"`
}

// ToldLie is a step of the lying plan, what it lies about ("" where it does
// not), and by which faults that was found.
type ToldLie struct {
	Step   string   `json:"step"`
	Lie    string   `json:"lie,omitempty"`
	Faults []string `json:"faults"`
}

// FlaggedBy is a step that was flagged, and by which faults.
type FlaggedBy struct {
	Step   string   `json:"step"`
	Faults []string `json:"faults"`
}

// liar is one step of the shipped plan.
type liar struct {
	id  string
	lie lie
}

func liars() []liar {
	return []liar{
		{"keeps-what-it-did", lieNoUndo},
		{"undoes-its-neighbour", lieWrong},
		{"undoes-too-much", lieRepeats},
		{"writes-elsewhere", lieHidden},
		{"cannot-tell", lieNoProbe},
		{"honest", ""},
	}
}

// shipped is the plan of the self-check. No step needs another, so that what is
// wrong with one cannot look like the fault of another.
func shipped() *plan.Plan {
	p := &plan.Plan{Format: plan.Format, Release: "self-check"}
	for i, l := range liars() {
		key := backstay.Key("setting:" + l.id)
		st := backstay.Step{
			ID: l.id, Seq: i + 1, Before: map[backstay.Key]string{key: "as it was"},
			Prepared: backstay.Prepared{
				Kind: "self-check", Keys: []backstay.Key{key}, Class: backstay.Exact, Effect: backstay.Idempotent, Fence: backstay.Leased,
				HasUndo: true, Restorable: true, Timeout: generous, UndoTimeout: generous, Retries: 3,
				Summary: "change " + l.id, UndoSummary: "put " + l.id + " back",
			},
		}
		switch l.lie {
		case lieRepeats: // nothing reads it, so that recovery has to repeat its undo
			st.Class, st.Restorable, st.Before = backstay.Compensated, false, nil
		case lieNoProbe:
			st.Effect = backstay.Probed
		case lieNoUndo, lieWrong, lieHidden, "":
		}
		p.Steps = append(p.Steps, st)
		p.Locks = append(p.Locks, key)
	}
	return p
}

// RunSelfCheck drills the shipped plan, once with its lies and once without.
func RunSelfCheck(ctx context.Context, o Options) (*SelfCheck, error) {
	out := &SelfCheck{Format: SelfCheckFormat, OK: true, Clean: []FlaggedBy{}}
	p := shipped()
	lying := newModel(p)
	lying.lies = map[string]lie{}
	for _, l := range liars() {
		lying.lies[l.id] = l.lie
	}
	told, err := run(ctx, p, lying, o)
	if err != nil {
		return nil, fmt.Errorf("drill the lying plan: %w", err)
	}
	clean, err := run(ctx, p, newModel(p), o)
	if err != nil {
		return nil, fmt.Errorf("drill its twin: %w", err)
	}
	found, other := flagged(told), flagged(clean)
	for _, l := range liars() {
		by := found[l.id]
		out.Lies = append(out.Lies, ToldLie{Step: l.id, Lie: string(l.lie), Faults: by})
		out.OK = out.OK && (len(by) > 0) == (l.lie != "")
		if by := other[l.id]; len(by) > 0 {
			out.Clean = append(out.Clean, FlaggedBy{Step: l.id, Faults: by})
		}
	}
	// What is nobody's is a fault of the drill.
	for name, all := range map[string]map[string][]string{"the lying plan": found, "its twin": other} {
		if by := all[""]; len(by) > 0 {
			out.Clean = append(out.Clean, FlaggedBy{Step: name, Faults: by})
		}
	}
	out.OK = out.OK && len(out.Clean) == 0
	out.LyingCells, out.CleanCells = len(told.Cells), len(clean.Cells)
	return out, nil
}

// flagged are the steps that cells blame, with the faults that showed it. A
// cell that hung, or failed without blaming a step, is nobody's.
func flagged(r *backstay.DrillReport) map[string][]string {
	out := map[string][]string{}
	blame := func(step, fault string) {
		if !slices.Contains(out[step], fault) {
			out[step] = append(out[step], fault)
		}
	}
	for _, c := range r.Cells {
		if c.Result == backstay.DrillHung {
			blame("", c.Fault)
		}
		for _, f := range c.Findings {
			blame(f.Step, c.Fault)
		}
	}
	return out
}
