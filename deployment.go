package backstay

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// State is where a deployment stands in its life. The transition table lives
// in internal/engine; docs/state-machine.md is generated from it.
type State string

// The states of a deployment. Holding waits for evidence, a person or time;
// held needs a person because something could not be restored.
const (
	Planned     State = "planned"
	Approved    State = "approved"
	Running     State = "running"
	Holding     State = "holding"
	Committed   State = "committed"
	Proven      State = "proven"
	RollingBack State = "rolling_back"
	RolledBack  State = "rolled_back"
	Held        State = "held"
	Closed      State = "closed_with_residue"
	Refused     State = "refused"
)

// Settled reports whether a deployment in this state needs no engine any more:
// it ended, or (held) only a person can move it.
func (s State) Settled() bool {
	switch s {
	case Proven, RolledBack, Held, Closed, Refused:
		return true
	case Planned, Approved, Running, Holding, Committed, RollingBack:
		return false
	}
	return false
}

// Locks reports whether a deployment in this state keeps its resource locks
// and its pinned blobs: from when it is recorded until proven, rolled back, closed or
// refused. A held deployment keeps them.
func (s State) Locks() bool {
	switch s {
	case Planned, Approved, Running, Holding, Committed, RollingBack, Held:
		return true
	case Proven, RolledBack, Closed, Refused:
		return false
	}
	return true
}

// ExitCode is what a foreground verb exits with when its deployment stands in
// this state at the end: 0 committed, 2 rolled back, 3 held, 4 waiting for a
// person, 5 refused before anything was touched.
func (s State) ExitCode() int {
	switch s {
	case Committed, Proven:
		return 0
	case RolledBack:
		return 2
	case Held, Closed, RollingBack:
		return 3
	case Holding, Planned, Approved, Running:
		return 4
	case Refused:
		return 5
	}
	return 1
}

// Cause says why a resource was not restored, or why a deployment turned
// around. A deployment is held only with one of the first eight.
type Cause string

// The causes that justify a held deployment (invariant I5), and the ones that
// start a rollback.
const (
	CauseNoUndo       Cause = "no_undo"
	CauseUndoFailed   Cause = "undo_failed"
	CauseDrift        Cause = "drift"
	CauseAmbiguous    Cause = "ambiguous"
	CauseUnreachable  Cause = "unreachable"
	CauseDeadline     Cause = "deadline"
	CauseIncompatible Cause = "incompatible"
	CauseLedgerDamage Cause = "ledger_damage"

	CauseStepFailed   Cause = "step_failed"
	CauseVerifyFailed Cause = "verify_failed"
	CauseBakeFailed   Cause = "bake_failed"
	CauseGateFailed   Cause = "gate_failed"
	CauseAborted      Cause = "aborted"
	CauseSignalled    Cause = "signalled"
	CauseBudget       Cause = "rollback_budget"
	CauseNotApproved  Cause = "not_approved"
	CauseCrashed      Cause = "crashed"
)

// Actor is who did something, as the kernel (not a flag) reports it.
type Actor struct {
	UID  int    `json:"uid"`
	Name string `json:"name,omitempty"`
	Host string `json:"host,omitempty"`
	Via  string `json:"via,omitempty"` // the verb or process, for people
}

func (a Actor) String() string {
	if a.Name != "" {
		return fmt.Sprintf("%s (uid %d)", a.Name, a.UID)
	}
	return fmt.Sprintf("uid %d", a.UID)
}

// Residue is one part of one resource that is not as it was before: what it
// was, what was wanted, what it is, why, and what to type next. Values are
// canonical JSON of the part; nil means absent. Unknown is set instead of
// Current when the part cannot be read: it is never guessed.
type Residue struct {
	Key     Key             `json:"key"`
	Part    string          `json:"part,omitempty"`
	Step    string          `json:"step,omitempty"`
	Before  json.RawMessage `json:"before,omitempty"`
	Wanted  json.RawMessage `json:"wanted,omitempty"`
	Current json.RawMessage `json:"current,omitempty"`
	Unknown string          `json:"unknown,omitempty"`
	Cause   Cause           `json:"cause"`
	Detail  string          `json:"detail,omitempty"`
	Next    string          `json:"next,omitempty"`
}

// Duration is a time.Duration that is written as text ("1m30s") in YAML and
// JSON. Negative durations and ones beyond 100 years are refused on reading.
type Duration time.Duration

const maxDuration = Duration(100 * 365 * 24 * time.Hour)

// ParseDuration reads "300ms", "1m30s", "2h", "14d", "1d12h" and "0". Another
// number without a unit is refused: a unit is never assumed.
func ParseDuration(s string) (Duration, error) {
	bad := fmt.Errorf("%q is not a duration such as 30s, 5m, 2h or 14d", s)
	number, rest, hasDays := strings.Cut(s, "d")
	var days time.Duration
	if hasDays {
		n, err := strconv.ParseUint(number, 10, 16)
		if err != nil {
			return 0, bad
		}
		days = time.Duration(n) * 24 * time.Hour
	} else {
		rest = s
	}
	var d time.Duration
	if !hasDays || rest != "" {
		var err error
		if d, err = time.ParseDuration(rest); err != nil || strings.ContainsAny(rest, "+ ") || (hasDays && rest == "0") {
			return 0, bad
		}
	}
	if total := Duration(days + d); d >= 0 && d <= time.Duration(maxDuration) && total <= maxDuration {
		return total, nil
	}
	return 0, fmt.Errorf("duration %q is out of range (0 to 100 years)", s)
}

// Std returns the duration as the standard library's type.
func (d Duration) Std() time.Duration { return time.Duration(d) }

func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText writes the duration as text.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads what ParseDuration reads.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := ParseDuration(string(text))
	if err != nil {
		return err
	}
	*d = v
	return nil
}
