package backstay

// Verification is what running the migrations of a step up, down and up again
// on a scratch database showed. Nothing of it is about the step's own database.
type Verification struct {
	Database   string              `json:"database"`   // postgres, mysql, sqlite
	Convention string              `json:"convention"` // of the files
	Migrations []VerifiedMigration `json:"migrations"`
}

// VerifiedMigration is one of them.
type VerifiedMigration struct {
	Version string            `json:"version"`
	Name    string            `json:"name"`
	File    string            `json:"file"`
	Result  VerifiedResult    `json:"result"`
	Reason  string            `json:"reason,omitempty"`
	Differs []VerifiedObject  `json:"differs,omitempty"` // of the schema, where the down does not restore it
	Loses   []string          `json:"loses,omitempty"`   // what the up destroys for good, by rule
	Took    map[string]string `json:"took,omitempty"`    // up, down, again
}

// VerifiedObject is one object of the schema that is not as before.
type VerifiedObject struct {
	Object string `json:"object"`
	Before string `json:"before,omitempty"` // empty: it was not there
	After  string `json:"after,omitempty"`  // empty: it is gone
}

// VerifiedResult is how a migration did.
type VerifiedResult string

// The results.
const (
	VerifiedRestores VerifiedResult = "restores" // down brings the same schema back, and up works again
	VerifiedNoDown   VerifiedResult = "no_down"
	VerifiedDiffers  VerifiedResult = "differs"     // down leaves another schema
	VerifiedUpFails  VerifiedResult = "up_fails"    // on the scratch database
	VerifiedFails    VerifiedResult = "down_fails"  // on the scratch database
	VerifiedAgain    VerifiedResult = "again_fails" // up, down and up does not end where up did
	VerifiedNotRun   VerifiedResult = "not_run"     // one before it could not be applied
)

// Restored counts the migrations whose downs restore the schema.
func (v Verification) Restored() int {
	n := 0
	for _, m := range v.Migrations {
		if m.Result == VerifiedRestores {
			n++
		}
	}
	return n
}
