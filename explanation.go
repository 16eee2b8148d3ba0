package backstay

// Explanation is how a person would do by hand what a step does: the commands
// of a runbook. Secrets stand in it as references only.
type Explanation struct {
	Do    []Command `json:"do,omitempty"`
	Undo  []Command `json:"undo,omitempty"`
	Probe []Command `json:"probe,omitempty"` // tells whether it was done
	Read  []Command `json:"read,omitempty"`  // shows the state that the step changes
}

// Command is something to type into a POSIX shell. Note is one line: what it
// is for, or how Backstay does it differently. Line may be a script of several
// lines; where it is empty, only Backstay can do it and Note says so.
type Command struct {
	Note string `json:"note,omitempty"`
	Line string `json:"line,omitempty"`
}
