package backstay

import (
	"context"
	"io"
)

// Scratch stands in, in a drill, for a target of steps that is no file of this
// host: a template beside it, of which every cell gets a copy.
type Scratch interface {
	// Copy makes a copy that processes in a sandbox reach at door, a host and port.
	Copy(ctx context.Context, door string) (ScratchCopy, error)
	// Remove removes the template.
	Remove(ctx context.Context) error
}

// ScratchCopy is one copy of a Scratch.
type ScratchCopy struct {
	// Secrets are the values of references as they are inside: they name the copy
	// in place of the step's own target.
	Secrets map[string]string
	// Dial opens a connection to where the copy is, outside.
	Dial func(ctx context.Context) (io.ReadWriteCloser, error)
	// Remove removes the copy.
	Remove func(ctx context.Context) error
}

// Rehearsal is somebody who uses a step's target while a cell of a drill plays: a
// live writer, whose rows must be there afterwards.
type Rehearsal struct {
	// Files are what the target is made of where it is on this host: they are
	// compared by what they hold.
	Files []string
	// End ends the writer, once, and compares the target with what it was.
	End func(ctx context.Context) (Rehearsed, error)
}

// Rehearsed is what a rehearsal showed.
type Rehearsed struct {
	// Differs lists what is not as it was, but for the writer's rows.
	Differs []string
	Wrote   []DrillRows // by table
}

// DrillRows are the rows that a live writer wrote while a cell played.
type DrillRows struct {
	Table string `json:"table,omitempty"` // empty: there was none to write to, and Why says so
	Why   string `json:"why,omitempty"`
	// Written were acknowledged; Unknown were cut off and may be there too. Found
	// is how many are there afterwards.
	Written int64 `json:"written"`
	Unknown int64 `json:"unknown,omitempty"`
	Found   int64 `json:"found"`
}
