package backstay

import (
	"context"
	"fmt"
	"time"
)

// The parts of a flag's state: its definition, and what people say about it.
const (
	FlagDefinition = "definition"
	FlagMeta       = "meta"
)

// Flag is one feature flag, or one segment, as the ledger holds it. Key is
// "flag:NAME" or "segment:NAME". Version grows with every change and never
// starts anew; a removed one keeps its version and has no parts.
type Flag struct {
	Key     Key           `json:"key"`
	Version int64         `json:"version"`
	State   ResourceState `json:"state"`
	Act     string        `json:"act"` // of the change that made it so, see FlagChange
	// Leaf is the entry that made it so; At is when, for people.
	Leaf int64     `json:"leaf"`
	At   time.Time `json:"at"`
	// Asked is the entry by which somebody asked for a change that needs a second
	// person; 0: nobody did.
	Asked int64 `json:"asked,omitempty"`
	// Writer is the deployment whose step made it so; "": a person did.
	Writer string `json:"writer,omitempty"`
}

// Exists reports whether there is such a flag now.
func (f Flag) Exists() bool { return len(f.State.Parts) > 0 }

// FlagChange replaces one version of a flag by the next. It is refused with a
// *FlagMovedError where the flag has another version by now.
type FlagChange struct {
	Key     Key
	Version int64         // that it replaces; 0: there never was such a flag
	To      ResourceState // no parts: the flag is removed
	Act     string        // one word: set, import, kill, restore, remove, step, undo
	Reason  string
	// Second is the other person, where one had to agree.
	Second *Actor
}

// Flags is the flag store that a step's call brings along. Changes carry the
// call's deployment, step and token: a stale actor's is refused.
type Flags interface {
	// Flag reads a flag; one that never was has version 0.
	Flag(ctx context.Context, key Key) (Flag, error)
	// ChangeFlag makes a change and its entry durable in one write.
	ChangeFlag(ctx context.Context, change FlagChange) (Flag, error)
}

// FlagMovedError says that a change was made for another version of the flag
// than there is. Nothing was changed.
type FlagMovedError struct {
	Key        Key
	Want, Have int64
}

func (e *FlagMovedError) Error() string {
	return fmt.Sprintf("%s has version %d, the change was made for version %d", e.Key, e.Have, e.Want)
}
