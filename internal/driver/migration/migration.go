// Package migration is the step kind "migrate": the migrations of a database,
// forward and back.
//
// It reads the files that goose, golang-migrate, Flyway and dbmate have, applies
// those that the tool's own version table does not list, and keeps that table
// as the tool would, so that a team can go back to the tool. Undo runs the downs
// in reverse, until the versions before; that it worked is proven by the
// canonical dump of the schema, which is part of the step's before-image.
//
// Where the database can roll DDL back (PostgreSQL, SQLite) a migration, the
// tool's row and a marker row (deployment, step, version, epoch) commit in one
// transaction. Elsewhere, and for statements that no transaction takes, each
// statement has a marker before and after it, and after a crash the schema is
// asked what happened. A migration is never "dirty".
//
// What the running program wrote is not thrown away: an undo that would drop a
// table or column with values written since is refused with their counts, unless
// the step keeps them first.
//
// The kind owns nothing in the target but tables named backstay_… . The target is
// identified when the plan is made, and every act checks that it is still that
// database. URLs are references to secrets and are never shown.
package migration

import (
	"encoding/json"
	"fmt"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver"
	"github.com/backstay-dev/backstay/internal/driver/migration/database"
	"github.com/backstay-dev/backstay/internal/driver/migration/sqltext"
)

// Kind is the kind. It has no state; methods are safe for concurrent use.
type Kind struct{}

var (
	_ driver.Kind      = (*Kind)(nil)
	_ driver.Prober    = (*Kind)(nil)
	_ driver.Reaper    = (*Kind)(nil)
	_ driver.Verifier  = (*Kind)(nil)
	_ driver.Sandboxer = (*Kind)(nil)
	_ driver.Rehearser = (*Kind)(nil)
)

// New returns the kind.
func New() *Kind { return &Kind{} }

// Name is "migrate".
func (*Kind) Name() string { return "migrate" }

// Config returns a step's keys.
func (*Kind) Config() any { return &stepConfig{} }

const bodyFormat = 1

// body is what the plan freezes of a step.
type body struct {
	V       int    `json:"v"`
	Dialect string `json:"dialect"`
	// Address is the reference to the URL; for SQLite the URL itself.
	Address    string             `json:"address"`
	Identity   database.Identity  `json:"identity"`
	Convention string             `json:"convention"`
	Table      string             `json:"table"` // the tool's, quoted
	Before     []string           `json:"before"`
	Pending    []change           `json:"pending"`
	Lock       backstay.Duration  `json:"lock_timeout"`
	Statement  backstay.Duration  `json:"statement_timeout"`
	Keep       bool               `json:"keep,omitempty"`
	Findings   []migrationFinding `json:"findings,omitempty"`
	// Qualified are names in the statements that may be those of other databases.
	Qualified []string `json:"qualified,omitempty"`
	// Reaches says what a statement acts on outside of its database, wherever it runs.
	Reaches string `json:"reaches,omitempty"`
	// Checked are the tables whose rows are counted and summed (check: rows).
	Checked []checked `json:"checked,omitempty"`
}

// change is one migration that the step applies.
type change struct {
	Version string  `json:"version"`
	Name    string  `json:"name"`
	Up      script  `json:"up"`
	Down    *script `json:"down,omitempty"`
	// Copy are the tables that are copied before it, in the spelling of spelled.
	Copy []string `json:"copy,omitempty"`
}

// script is one direction of a change; its statements are stored content.
type script struct {
	File   string `json:"file"`
	SHA256 string `json:"sha256"`
	CRC32  int32  `json:"crc32"`
	// Piecewise scripts have a marker per statement, the others one transaction.
	Piecewise bool   `json:"piecewise,omitempty"`
	Count     int    `json:"count"`
	Blob      string `json:"blob"`
}

// migrationFinding is what a rule says, with where.
type migrationFinding struct {
	File string `json:"file"`
	Line int    `json:"line"`
	sqltext.Finding
}

func decode(step backstay.Step) (body, error) {
	var b body
	if err := json.Unmarshal(step.Body, &b); err != nil {
		return b, fmt.Errorf("decode migrate step %s: %w", step.ID, err)
	}
	if b.V != bodyFormat {
		return b, &backstay.Error{
			Class: backstay.Permanent, Op: "decode migrate step", Subject: step.ID,
			Err:  fmt.Errorf("its format is %d, not %d", b.V, bodyFormat),
			Hint: "use the backstay version that planned this deployment",
		}
	}
	return b, nil
}
