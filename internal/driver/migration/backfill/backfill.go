// Package backfill is the step kind "backfill": the middle of expand, backfill,
// contract. It gives the rows of a table values in new columns, in batches beside
// the running program, and takes them back.
//
// Each batch is one transaction: it locks the next rows that the condition
// picks, notes their key, old and new values in a side table, and writes the new
// ones. The side table is the only memory there is: after a kill the next batch
// begins behind the last key in it. Undo goes through it backwards and puts the
// old value of a row back where it still holds the new one; a value that somebody
// else wrote since is theirs, and stays.
//
// The kind owns the tables backstay_backfill and backstay_fill_… in the target.
// What it locks in the ledger is the columns that it fills, not the database.
package backfill

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver"
	"github.com/backstay-dev/backstay/internal/driver/migration/database"
	"github.com/backstay-dev/backstay/internal/driver/migration/session"
)

// Kind is the kind. It has no state; methods are safe for concurrent use.
type Kind struct{}

var (
	_ driver.Kind   = (*Kind)(nil)
	_ driver.Prober = (*Kind)(nil)
)

// New returns the kind.
func New() *Kind { return &Kind{} }

// Name is "backfill".
func (*Kind) Name() string { return "backfill" }

// Config returns a step's keys.
func (*Kind) Config() any { return &stepConfig{} }

const bodyFormat = 1

// body is what the plan freezes of a step.
type body struct {
	V        int               `json:"v"`
	Address  string            `json:"address"`
	Identity database.Identity `json:"identity"`
	// Table and the columns are quoted as the dialect's list of tables has them.
	Table     string            `json:"table"`
	Columns   []string          `json:"columns"`
	Values    []string          `json:"values"` // one expression per column
	Where     string            `json:"where"`
	Batch     int               `json:"batch"`
	Rate      int               `json:"rate,omitempty"` // rows a second; 0: no limit
	Pause     backstay.Duration `json:"pause"`
	Lock      backstay.Duration `json:"lock_timeout"`
	Statement backstay.Duration `json:"statement_timeout"`
}

func decode(step backstay.Step) (body, error) {
	var b body
	if err := json.Unmarshal(step.Body, &b); err != nil {
		return b, fmt.Errorf("decode backfill step %s: %w", step.ID, err)
	}
	if b.V != bodyFormat {
		return b, &backstay.Error{
			Class: backstay.Permanent, Op: "decode backfill step", Subject: step.ID,
			Err:  fmt.Errorf("its format is %d, not %d", b.V, bodyFormat),
			Hint: "use the backstay version that planned this deployment",
		}
	}
	return b, nil
}

// keyOf names the columns that are filled.
func keyOf(dialect string, b body) backstay.Key {
	columns := slices.Clone(b.Columns)
	slices.Sort(columns)
	return backstay.Key("backfill:" + session.Name(dialect, b.Identity) + "/" + bare(b.Table) + "." + bare(strings.Join(columns, ",")))
}

func bare(quoted string) string { return strings.NewReplacer(`"`, "", "`", "").Replace(quoted) }

// Observe reads who filled the columns last, and whether it is finished.
func (*Kind) Observe(ctx context.Context, call backstay.Call) (backstay.Image, error) {
	b, err := decode(call.Step)
	if err != nil {
		return nil, err
	}
	if len(call.Step.Keys) != 1 {
		return nil, fmt.Errorf("look at backfill step %s: it has %d keys, not 1", call.Step.ID, len(call.Step.Keys))
	}
	key := call.Step.Keys[0]
	state, err := observe(ctx, call, b)
	if ctx.Err() != nil {
		return nil, fmt.Errorf("read the database: %w", context.Cause(ctx))
	}
	if err != nil {
		return backstay.Image{key: {Unreadable: err.Error()}}, nil
	}
	return backstay.Image{key: state}, nil
}

// seen is the canonical state of the columns.
type seen struct {
	State      database.State `json:"state"`
	Deployment string         `json:"deployment"`
	Step       string         `json:"step"`
	Rows       int64          `json:"rows"`
}

func observe(ctx context.Context, call backstay.Call, b body) (backstay.ResourceState, error) {
	r, err := open(ctx, call, b)
	if err != nil {
		return backstay.ResourceState{}, err
	}
	latest, err := r.fills.latest(ctx, r.Conn)
	if closed := r.Close(); err == nil {
		err = closed
	}
	if err != nil || latest == nil {
		return backstay.ResourceState{}, err
	}
	return backstay.PartValue(seen{State: latest.state, Deployment: latest.deployment, Step: latest.step, Rows: latest.rows}), nil
}

// Probe says how far an interrupted do came.
func (*Kind) Probe(ctx context.Context, call backstay.Call) (backstay.Finding, error) {
	b, err := decode(call.Step)
	if err != nil {
		return backstay.Unknown, err
	}
	r, err := open(ctx, call, b)
	if err != nil {
		return backstay.Unknown, err
	}
	mine, err := r.fills.mine(ctx, r.Conn)
	if closed := r.Close(); err == nil {
		err = closed
	}
	switch {
	case err != nil:
		return backstay.Unknown, err
	case mine == nil:
		return backstay.NotApplied, nil
	case mine.state == database.Ended:
		return backstay.Applied, nil
	}
	return backstay.Partial, nil
}
