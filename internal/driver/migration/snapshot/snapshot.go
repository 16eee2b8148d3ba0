// Package snapshot is the step kind "snapshot": a way back for the whole database
// that is taken ahead of what cannot be undone, and proven to be one.
//
// A dump is a file: PostgreSQL's and MariaDB's by their own programs, SQLite's by
// VACUUM INTO. It is loaded into a scratch database and its schema compared with
// the database's before it gets its name. A restore point is a named place in
// PostgreSQL's log, and the step waits until the log up to there is archived.
//
// Nothing here restores: that throws away what was written since, for every user
// of the database, and is for people (docs/guide/databases.md). Undo removes the
// dump that this step made. The kind owns its files in the directory that the step
// names, and the table backstay_snapshot in PostgreSQL.
package snapshot

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver"
	"github.com/backstay-dev/backstay/internal/driver/migration/database"
	"github.com/backstay-dev/backstay/internal/driver/migration/session"
	"github.com/backstay-dev/backstay/internal/proc"
)

// Kind is the kind. It has no state; methods are safe for concurrent use.
type Kind struct{}

var (
	_ driver.Kind   = (*Kind)(nil)
	_ driver.Prober = (*Kind)(nil)
	_ driver.Reaper = (*Kind)(nil)
)

// New returns the kind.
func New() *Kind { return &Kind{} }

// Name is "snapshot".
func (*Kind) Name() string { return "snapshot" }

// Config returns a step's keys.
func (*Kind) Config() any { return &stepConfig{} }

const bodyFormat = 1

// body is what the plan freezes of a step.
type body struct {
	V        int               `json:"v"`
	Address  string            `json:"address"`
	Identity database.Identity `json:"identity"`
	Dialect  string            `json:"dialect"`
	// Into is the directory of the dumps, and Prefix how this step's begin; empty
	// for a restore point.
	Into   string            `json:"into,omitempty"`
	Prefix string            `json:"prefix,omitempty"`
	Verify bool              `json:"verify,omitempty"`
	Within backstay.Duration `json:"within,omitempty"`
}

func decode(step backstay.Step) (body, error) {
	var b body
	if err := json.Unmarshal(step.Body, &b); err != nil {
		return b, fmt.Errorf("decode snapshot step %s: %w", step.ID, err)
	}
	if b.V != bodyFormat {
		return b, &backstay.Error{
			Class: backstay.Permanent, Op: "decode snapshot step", Subject: step.ID,
			Err:  fmt.Errorf("its format is %d, not %d", b.V, bodyFormat),
			Hint: "use the backstay version that planned this deployment",
		}
	}
	return b, nil
}

// keyOf names the step's snapshots of a database.
func keyOf(b body) backstay.Key {
	if b.Into == "" {
		return backstay.Key("snapshot:" + session.Name(b.Dialect, b.Identity))
	}
	return backstay.Key("snapshot:" + b.Into + "/" + b.Prefix)
}

// method is how one kind of snapshot is taken.
type method interface {
	// newest is the newest finished snapshot, as people and the ledger see it; nil:
	// there is none.
	newest(ctx context.Context) (any, error)
	// taken says whether this deployment's is finished.
	taken(ctx context.Context) (bool, error)
	// take takes it, and remove removes it; both whatever was cut off before.
	take(ctx context.Context) (note string, err error)
	remove(ctx context.Context) (note string, err error)
	close() error
}

// methodOf opens what a step works with.
func methodOf(ctx context.Context, call backstay.Call) (method, error) {
	b, err := decode(call.Step)
	if err != nil {
		return nil, err
	}
	deployment, step := call.Deployment, call.Step.ID
	if r := call.Step.Reverts; r != nil {
		deployment, step = r.Deployment, r.Step
	}
	if b.Into != "" {
		return &dump{body: b, call: call, deployment: deployment}, nil
	}
	s, err := session.Reach(ctx, call.Secrets, b.Address, "", b.Identity)
	if err != nil {
		return nil, err //nolint:wrapcheck // says what it did
	}
	return &point{Session: s, body: b, call: call, deployment: deployment, step: step}, nil
}

// Observe reads what the newest snapshot is.
func (*Kind) Observe(ctx context.Context, call backstay.Call) (backstay.Image, error) {
	if len(call.Step.Keys) != 1 {
		return nil, fmt.Errorf("look at snapshot step %s: it has %d keys, not 1", call.Step.ID, len(call.Step.Keys))
	}
	key := call.Step.Keys[0]
	var newest any
	err := with(ctx, call, func(m method) (err error) { newest, err = m.newest(ctx); return err })
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("look for snapshots: %w", context.Cause(ctx))
	case err != nil:
		return backstay.Image{key: {Unreadable: err.Error()}}, nil
	case newest == nil:
		return backstay.Image{key: {}}, nil
	}
	return backstay.Image{key: backstay.PartValue(newest)}, nil
}

// with opens the method for one act.
func with(ctx context.Context, call backstay.Call, act func(method) error) error {
	m, err := methodOf(ctx, call)
	if err != nil {
		return err
	}
	err = act(m)
	if closed := m.close(); err == nil {
		err = closed
	}
	return err
}

// Probe says whether an interrupted do was finished: a snapshot is whole or none.
func (*Kind) Probe(ctx context.Context, call backstay.Call) (backstay.Finding, error) {
	found := backstay.NotApplied
	err := with(ctx, call, func(m method) error {
		taken, err := m.taken(ctx)
		if taken {
			found = backstay.Applied
		}
		return err
	})
	if err != nil {
		return backstay.Unknown, err
	}
	return found, nil
}

// Reap ends the programs that earlier epochs of this step left running, and
// removes what they had written of an unfinished snapshot.
func (*Kind) Reap(ctx context.Context, call backstay.Call) error {
	if err := proc.EndToken(ctx, proc.OlderActs(call.Deployment, call.Step.ID, call.Token)); err != nil {
		return fmt.Errorf("end leftovers of step %s: %w", call.Step.ID, err)
	}
	return with(ctx, call, func(m method) error {
		taken, err := m.taken(ctx)
		if err == nil && !taken {
			_, err = m.remove(ctx)
		}
		return err
	})
}

// Do takes the snapshot, where an earlier attempt has not.
func (*Kind) Do(ctx context.Context, call backstay.Call) (result backstay.Result, err error) {
	if ctx.Err() != nil {
		return result, context.Cause(ctx)
	}
	err = with(ctx, call, func(m method) error {
		taken, err := m.taken(ctx)
		if err != nil {
			return err
		}
		if taken {
			result.Note = "it is taken already"
			return nil
		}
		result.Note, err = m.take(ctx)
		return err
	})
	return result, ended(ctx, err)
}

// Undo removes the snapshot, or what there is of it.
func (*Kind) Undo(ctx context.Context, call backstay.Call) (result backstay.Result, err error) {
	if ctx.Err() != nil {
		return result, context.Cause(ctx)
	}
	err = with(ctx, call, func(m method) (err error) { result.Note, err = m.remove(ctx); return err })
	return result, ended(ctx, err)
}

func ended(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return fmt.Errorf("%w: %w", cause, err)
	}
	return err
}
