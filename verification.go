package backstay

// Verification is what running the migrations of a step up, down and up again
// on a scratch database showed. Nothing of it is about the step's own database.
type Verification struct {
	Database   string              `json:"database"`   // postgres, mysql, sqlite
	Convention string              `json:"convention"` // of the files
	Restored   bool                `json:"restored,omitempty"`
	NotCopied  []string            `json:"not_copied,omitempty"` // tables whose rows could not be sampled, with why
	Migrations []VerifiedMigration `json:"migrations"`
}

// VerifyFrom says what migrations are verified on.
type VerifyFrom struct {
	// Scratch is a reference to an empty database; where it is empty, one is made.
	Scratch string
	// Restored begins with the schema of the step's database, and runs what is
	// pending there; else it begins with nothing, and runs all.
	Restored bool
	// Rows is how many rows of each table are copied too, at most.
	Rows int
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
	Rows    []string          `json:"rows,omitempty"`    // tables whose sampled rows are not as before, where the schema is
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
	VerifiedLoses    VerifiedResult = "loses_rows"  // down brings the schema back, and not the sampled rows
)

// Restores counts the migrations whose downs restore the schema, and the rows where
// there were any.
func (v Verification) Restores() int {
	n := 0
	for _, m := range v.Migrations {
		if m.Result == VerifiedRestores {
			n++
		}
	}
	return n
}
