// Package flag is the step kind "flag": one move of a feature flag in the
// ledger's own store, or in one of another vendor (stores). It owns the step's
// keys, the share and the stage.
//
// The wanted definition is frozen in the plan, with what people say about the
// flag. A move is one write with its entry, under the token of the step: a
// stale actor's is refused, so a step is fenced and exact. All moves of one flag
// are moves of one dial, taken back in one. Undo restores the whole definition
// and what was said about it, part by part; what somebody else changed since, a
// kill above all, stays. It evaluates nothing and serves nothing.
package flag

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver"
)

// Driver is the kind. Methods are safe for concurrent use.
type Driver struct{ now func() time.Time }

var (
	_ driver.Kind      = (*Driver)(nil)
	_ driver.Explainer = (*Driver)(nil)
	_ driver.Sandboxer = (*Driver)(nil)
	_ driver.Furnisher = (*Driver)(nil)
	_ driver.Sectioner = (*Driver)(nil)
)

// New returns the kind; now is the wall clock, for warnings.
func New(now func() time.Time) *Driver { return &Driver{now: now} }

// Name is "flag".
func (*Driver) Name() string { return "flag" }

// Config returns a step's keys.
func (*Driver) Config() any { return &stepConfig{} }

// Sections returns the stores of other vendors.
func (*Driver) Sections() map[string]any { return map[string]any{section: &storeConfig{}} }

// bodyFormat is the version of a step's body.
const bodyFormat = 1

// body is what a step freezes: the flag as it was, and as it is to be.
type body struct {
	V    int                    `json:"v"`
	Key  backstay.Key           `json:"key"`
	Was  backstay.ResourceState `json:"was"`
	Want backstay.ResourceState `json:"want"`
	// Command is what a person would type instead.
	Command []string `json:"command,omitempty"`
	// Elsewhere is where the flag is, if it is not in Backstay's own store; Says is
	// then what Want gives.
	Elsewhere *elsewhere `json:"elsewhere,omitempty"`
	Says      string     `json:"says,omitempty"`
}

func bodyOf(step backstay.Step) (body, error) {
	var b body
	if err := json.Unmarshal(step.Body, &b); err != nil {
		return b, fmt.Errorf("read flag step %s: %w", step.ID, err)
	}
	if b.V != bodyFormat {
		return b, &backstay.Error{
			Class: backstay.Permanent, Op: "read flag step", Subject: step.ID, Err: fmt.Errorf("format %d", b.V),
			Hint: "use the backstay version that planned this deployment",
		}
	}
	return b, nil
}

// errNoStore is a call without the ledger's flags.
func errNoStore() error {
	return backstay.Classify(backstay.Permanent, errors.New("this ledger has no flag store"))
}

// Observe reads the flag.
func (*Driver) Observe(ctx context.Context, call backstay.Call) (backstay.Image, error) {
	b, err := bodyOf(call.Step)
	if err != nil {
		return nil, err
	}
	if b.Elsewhere != nil {
		return b.observeElsewhere(ctx, call)
	}
	if call.Flags == nil {
		return nil, errNoStore()
	}
	f, err := call.Flags.Flag(ctx, b.Key)
	if err != nil {
		return nil, err
	}
	return backstay.Image{b.Key: f.State}, nil
}

// Do writes the wanted flag in the place of what was there at the intent. What
// somebody else made of it since is not overwritten.
func (*Driver) Do(ctx context.Context, call backstay.Call) (backstay.Result, error) {
	b, err := bodyOf(call.Step)
	if err != nil {
		return backstay.Result{}, err
	}
	if b.Elsewhere != nil {
		return b.doElsewhere(ctx, call)
	}
	return replace(ctx, call, b.Key, "step", func(now backstay.Flag) (backstay.ResourceState, error) {
		if !now.State.Equal(b.Want) && !now.State.Equal(call.Before[b.Key]) {
			return now.State, conflict(b.Key)
		}
		return b.Want, nil
	})
}

func conflict(key backstay.Key) error {
	return &backstay.Error{
		Class: backstay.Conflict, Op: "change", Subject: string(key), Err: errors.New("somebody else changed it meanwhile; their value stays"),
		Hint: "see who with `backstay flag history`",
	}
}

// Undo puts the listed parts back. Where the last change is not this
// deployment's, what it changed stays, but for a revert, which takes back exactly
// what an earlier deployment left.
func (*Driver) Undo(ctx context.Context, call backstay.Call) (backstay.Result, error) {
	b, err := bodyOf(call.Step)
	if err != nil {
		return backstay.Result{}, err
	}
	if b.Elsewhere != nil {
		return b.undoElsewhere(ctx, call)
	}
	parts := call.Restore[b.Key]
	if len(parts) == 0 {
		return backstay.Result{}, ctx.Err()
	}
	before := call.Before[b.Key]
	return replace(ctx, call, b.Key, "undo", func(now backstay.Flag) (backstay.ResourceState, error) {
		if now.Writer != call.Deployment && !left(now.State, call.After[b.Key], before, parts) {
			return now.State, nil // the engine reads what stayed
		}
		return restored(now.State, before, parts), nil
	})
}

// left reports whether every listed part is as the step left it, or as before.
func left(now, after, before backstay.ResourceState, parts []string) bool {
	for _, part := range parts {
		is := string(now.Parts[part])
		if is != string(after.Parts[part]) && is != string(before.Parts[part]) {
			return false
		}
	}
	return true
}

// restored is now with the listed parts as before. A flag is whole or not there:
// one whose definition goes, goes.
func restored(now, before backstay.ResourceState, parts []string) backstay.ResourceState {
	out := restoredParts(now, before, parts)
	if _, there := out.Parts[backstay.FlagDefinition]; !there {
		out.Parts = nil
	}
	return out
}

func restoredParts(now, before backstay.ResourceState, parts []string) backstay.ResourceState {
	out := backstay.ResourceState{Parts: maps.Clone(now.Parts)}
	if out.Parts == nil {
		out.Parts = map[string]json.RawMessage{}
	}
	for _, part := range parts {
		if v, ok := before.Parts[part]; ok {
			out.Parts[part] = v
		} else {
			delete(out.Parts, part)
		}
	}
	return out
}

// replace reads the flag and writes what next makes of it, again where somebody
// was quicker. It is idempotent: what is as it should be is not written.
func replace(ctx context.Context, call backstay.Call, key backstay.Key, act string, next func(backstay.Flag) (backstay.ResourceState, error)) (backstay.Result, error) {
	if call.Flags == nil {
		return backstay.Result{Untouched: true}, errNoStore()
	}
	for {
		if err := ctx.Err(); err != nil {
			return backstay.Result{Untouched: true}, err
		}
		now, err := call.Flags.Flag(ctx, key)
		if err != nil {
			return backstay.Result{Untouched: true}, backstay.Classify(backstay.Transient, err)
		}
		to, err := next(now)
		if err != nil {
			return backstay.Result{Untouched: true}, err
		}
		if to.Equal(now.State) {
			return backstay.Result{}, nil
		}
		if err := ctx.Err(); err != nil {
			return backstay.Result{Untouched: true}, err
		}
		reason := call.Step.Summary
		if act == "undo" {
			reason = call.Step.UndoSummary
		}
		f, err := call.Flags.ChangeFlag(ctx, backstay.FlagChange{Key: key, Version: now.Version, To: to, Act: act, Reason: reason})
		var moved *backstay.FlagMovedError
		switch {
		case errors.As(err, &moved):
			continue
		case err != nil:
			return backstay.Result{}, err
		}
		return backstay.Result{Note: fmt.Sprintf("%s has version %d", key, f.Version)}, nil
	}
}

// Explain says what a person would type.
func (*Driver) Explain(step backstay.Step) (backstay.Explanation, error) {
	b, err := bodyOf(step)
	if err != nil {
		return backstay.Explanation{}, err
	}
	if b.Elsewhere != nil {
		return b.explainElsewhere(step), nil
	}
	name := string(b.Key)[len(b.Key.Kind())+1:]
	return backstay.Explanation{
		Do:   []backstay.Command{{Note: step.Summary, Line: driver.ShellWords(b.Command)}},
		Undo: []backstay.Command{{Note: "to before the last change; several moves are taken back in one: give the version before the first with --version", Line: driver.ShellWords([]string{"backstay", "flag", "restore", name, "--reason", "by hand"})}},
		Read: []backstay.Command{{Note: "what it is", Line: driver.ShellWords([]string{"backstay", "flag", "get", name})}, {Note: "who changed it", Line: driver.ShellWords([]string{"backstay", "flag", "history", name})}},
	}, nil
}

// Sandbox allows the steps on flags that are in the ledger, which is a drill's
// own. What is on a server stays out, and so does a file that others write as well: a
// sandbox would call its new time a difference.
func (*Driver) Sandbox(step backstay.Step) error {
	b, err := bodyOf(step)
	switch {
	case err != nil || b.Elsewhere == nil:
		return err
	case b.Elsewhere.Flagd != "":
		return errors.New("its flag is in a file whose time no flag is about")
	}
	return errors.New("its flag is on a server that everybody uses")
}

// Furnish puts the flag into a drill's ledger as it was when the plan was made.
func (*Driver) Furnish(ctx context.Context, call backstay.Call) error {
	b, err := bodyOf(call.Step)
	if err != nil || len(b.Was.Parts) == 0 || b.Elsewhere != nil {
		return err
	}
	if call.Flags == nil {
		return errNoStore()
	}
	now, err := call.Flags.Flag(ctx, b.Key)
	if err != nil || now.State.Equal(b.Was) {
		return err
	}
	_, err = call.Flags.ChangeFlag(ctx, backstay.FlagChange{Key: b.Key, Version: now.Version, To: b.Was, Act: "import", Reason: "for a drill"})
	return err
}
