package backstay

// Verdict is the answer of a gate, a check or a verify probe. The zero value
// is Undecided: no data is never a pass (invariant I17).
type Verdict int

// The three verdicts.
const (
	Undecided Verdict = iota
	Pass
	Fail
)

func (v Verdict) String() string {
	switch v {
	case Undecided:
		return "undecided"
	case Pass:
		return "pass"
	case Fail:
		return "fail"
	}
	return "undecided"
}

// MarshalText writes the verdict as its word.
func (v Verdict) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalText reads a verdict; a word it does not know is Undecided.
func (v *Verdict) UnmarshalText(text []byte) error {
	switch string(text) {
	case "pass":
		*v = Pass
	case "fail":
		*v = Fail
	default:
		*v = Undecided
	}
	return nil
}

// Finding is what recovery learns about an intent that has no outcome.
type Finding string

// The findings of an observation of an open intent.
const (
	NotApplied Finding = "not_applied"
	Applied    Finding = "applied"
	Partial    Finding = "partial"
	Unknown    Finding = "unknown"
)
