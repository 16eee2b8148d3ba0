package backstay

import "time"

// DrillFormat is the version of the report of a drill.
const DrillFormat = "backstay.drill/v1"

// DrillReport is all that one drill of a plan showed. Blind stands before
// everything else on purpose: what a drill cannot see weighs more than what it
// saw. Cells are in the order of Faults, then of Steps.
type DrillReport struct {
	Format      string     `json:"format"`
	ID          string     `json:"id"`
	Release     string     `json:"release"`
	Version     string     `json:"version,omitempty"`
	Environment string     `json:"environment,omitempty"`
	Plan        string     `json:"plan"` // digest of the plan that was drilled
	Tool        string     `json:"tool,omitempty"`
	At          time.Time  `json:"at"`
	Expires     time.Time  `json:"expires"`
	Took        Duration   `json:"took"`
	Depth       int        `json:"depth"` // faults in one cell, at most
	Whole       bool       `json:"whole"` // false: only some of the cells were asked for; it proves nothing of the plan
	Blind       []DrillGap `json:"blind"`
	// Tallies count the cells of each level; they are never added up.
	Tallies []DrillTally `json:"tallies"`
	Faults  []DrillFault `json:"faults"` // the rows of the matrix
	Steps   []DrillStep  `json:"steps"`  // its columns; the first is the plan itself, with an empty ID
	Cells   []DrillCell  `json:"cells"`
	// Undo is the measured time to undo a step, by step ID: of levels that run
	// the step's own executor, so there is none of D1.
	Undo map[string]Duration `json:"undo,omitempty"`
}

// DrillGap is one thing that a drill did not, or cannot, see.
type DrillGap struct {
	// About is no_read, no_probe, no_undo, class, level, fault, equivalence, depth, time or scope.
	About string `json:"about"`
	Step  string `json:"step,omitempty"`
	Text  string `json:"text"`
}

// DrillFault is one way in which things go wrong. Points are the crash points
// of the fault model (P1 to P19) that it covers.
type DrillFault struct {
	Name   string   `json:"name"`
	What   string   `json:"what"`
	Points []string `json:"points,omitempty"`
}

// DrillStep is one step of the plan that was drilled.
type DrillStep struct {
	ID    string `json:"id"`
	Kind  string `json:"kind,omitempty"`
	Class Class  `json:"class,omitempty"`
}

// DrillResult is how one cell ended.
type DrillResult string

// The results of a cell. A cell that was not run is not a good one.
const (
	DrillRestored DrillResult = "restored"        // everything reads as before
	DrillModulo   DrillResult = "restored-modulo" // everything but a stated list
	DrillHeld     DrillResult = "held-exact"      // held for a true cause, and its residue is exactly what differs
	DrillFailed   DrillResult = "failed"          // something differs that nobody was told of, or should not
	DrillHung     DrillResult = "hung"            // it did not end
	DrillNotRun   DrillResult = "not-run"         // Reason says why
)

// DrillCell is one fault (or, of depth 2, two) at one step. Step is empty where
// the fault is the plan's.
type DrillCell struct {
	Level    string         `json:"level"`
	Step     string         `json:"step,omitempty"`
	Fault    string         `json:"fault"`
	Result   DrillResult    `json:"result"`
	End      State          `json:"end,omitempty"`    // of the deployment
	Modulo   []string       `json:"modulo,omitempty"` // what restored-modulo leaves out
	Reason   string         `json:"reason,omitempty"` // why it was not run
	Findings []DrillFinding `json:"findings,omitempty"`
	Wrote    []DrillRows    `json:"wrote,omitempty"` // what live writers did to databases meanwhile, of D2
}

// DrillFinding is one thing that is wrong, and whose it is.
type DrillFinding struct {
	Step string `json:"step,omitempty"`
	Key  Key    `json:"key,omitempty"`
	Part string `json:"part,omitempty"`
	Text string `json:"text"`
}

// Count puts a result into the tally.
func (t *DrillTally) Count(r DrillResult) {
	t.Cells++
	switch r {
	case DrillRestored:
		t.Restored++
	case DrillModulo:
		t.RestoredModulo++
	case DrillHeld:
		t.HeldExact++
	case DrillFailed:
		t.Failed++
	case DrillHung:
		t.Hung++
	case DrillNotRun:
		t.NotRun++
	}
}
