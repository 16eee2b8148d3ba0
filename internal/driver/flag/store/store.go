// Package store is what the flag stores of other vendors share: what such a store
// can do, and how its API is asked. It owns Store, Traits and the REST client.
//
// A store here keeps one flag in parts, each of which a move may change and an undo
// puts back by itself. None of them knows our epochs, so none can fence: a step
// on one is leased. Each can be read back. Who writes between a step's look and
// its write is told apart as far as Traits says, and no further.
package store

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/flag/model"
)

// CallTimeout bounds one exchange with a store.
const CallTimeout = 10 * time.Second

// Flag is one flag as its store has it. State is what moves change and undos put
// back; About is what else a plan has to know of it.
type Flag struct {
	State backstay.ResourceState
	About json.RawMessage
}

// Store holds one flag of one vendor. Implementations keep no state and are safe
// for concurrent use.
type Store interface {
	// Read looks at the flag. Where there is none the error's class is not_found.
	Read(ctx context.Context) (Flag, error)
	// Plan says what the flag is after a move; it asks nobody. A move that the
	// vendor's flags cannot make is an error that says why.
	Plan(now Flag, m model.Move) (backstay.ResourceState, error)
	// Write makes it what to says, where it is still what from was: ErrMoved where
	// it is not, as far as that can be told. Both have the same parts. The note,
	// where there is one, is worth keeping.
	Write(ctx context.Context, from Flag, to backstay.ResourceState) (note string, err error)
	// Exposure says in a few words what the flag gives.
	Exposure(now Flag) string
	Traits() Traits
}

// Traits are what a vendor's store can promise.
type Traits struct {
	Vendor string
	// Window is how long a write that a stale actor began could still land.
	Window backstay.Duration
	// Compares says that a write is refused by the store itself, or not begun, when
	// somebody else changed the flag since; Gap is what is not seen.
	Compares bool
	Gap      string
	// Local says that the store is a file of this host.
	Local bool
}

// ErrMoved is a write that came too late: somebody else changed the flag.
var ErrMoved = errors.New("somebody else changed it meanwhile")

// Missing is the error of a flag that is not there.
func Missing(vendor, key string) error {
	return &backstay.Error{
		Class: backstay.NotFound, Op: "find flag", Subject: key, Err: errors.New(vendor + " has no such flag"),
		Hint: "make it there first: Backstay moves the flags of other stores and makes none",
	}
}
