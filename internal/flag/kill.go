package flag

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/flag/model"
	"github.com/backstay-dev/backstay/internal/ledger"
)

// AskedFor is how long a change waits for its second person.
const AskedFor = time.Hour

// Outcome is what a change by hand came to.
type Outcome struct {
	Entry
	// Changed is false where there was nothing to change, or where it Waits: a
	// second person must give the same command.
	Changed, Waits bool
	// By is who asked first, where two had to agree.
	By *backstay.Actor
}

// change makes a change of was, or asks for it where the flag's people decided
// that two must agree: the first call asks and the same one, by somebody else,
// makes it.
func (s *Store) change(ctx context.Context, was backstay.Flag, c backstay.FlagChange) (Outcome, error) {
	out := Outcome{Entry: Entry{Flag: backstay.Flag{Key: c.Key, Version: was.Version, State: c.To}}}
	for _, state := range []backstay.ResourceState{was.State, c.To} { // the newer one, where there is one
		if len(state.Parts) == 0 {
			continue
		}
		e, err := entryOf(backstay.Flag{Key: c.Key, State: state})
		if err != nil {
			return out, err
		}
		out.Definition, out.Meta = e.Definition, e.Meta
	}
	if c.To.Equal(was.State) {
		out.Flag = was
		return out, nil
	}
	w := ledger.FlagWriter{Actor: s.actor, Override: c.Act == "kill"}
	second, waits, err := s.agree(ctx, was, c)
	if err != nil {
		return out, err
	}
	if waits {
		was, err = s.ledger.AskFlag(ctx, w, c)
		if err != nil {
			return out, refusal(err)
		}
		e, err := entryOf(was)
		return Outcome{Entry: e, Waits: true}, err
	}
	c.Second = second
	flags, err := s.ledger.ChangeFlags(ctx, w, c)
	if err != nil {
		return out, refusal(err)
	}
	out.Flag, out.Changed, out.By = flags[0], true, second
	return out, nil
}

// agree says whether the change has to wait for a second person, and who asked
// for it first where this is the second.
func (s *Store) agree(ctx context.Context, was backstay.Flag, c backstay.FlagChange) (first *backstay.Actor, waits bool, err error) {
	if !was.Exists() {
		return nil, false, nil
	}
	e, err := entryOf(was)
	if err != nil || e.Meta.People < 2 {
		return nil, false, err
	}
	if was.Asked == 0 {
		return nil, true, nil
	}
	leaves, err := s.ledger.FlagHistory(ctx, was.Key, 1)
	if err != nil || len(leaves) != 1 || leaves[0].Index != was.Asked {
		return nil, true, err
	}
	asked := leaves[0].Entry
	var body backstay.FlagBody
	if err := asked.Decode(&body); err != nil {
		return nil, true, fmt.Errorf("read entry %d: %w", was.Asked, err)
	}
	wanted := backstay.Image{c.Key: c.To}.Digest()
	if asked.Actor == nil || same(*asked.Actor, s.actor) || s.now().Sub(asked.At) > AskedFor || body.After.Digest != wanted {
		return nil, true, nil
	}
	return asked.Actor, false, nil
}

// Kill turns a flag off at once, whoever holds it: one write, with its entry.
func (s *Store) Kill(ctx context.Context, key backstay.Key, reason string) (Outcome, error) {
	for {
		e, err := s.Get(ctx, key)
		if err != nil {
			return Outcome{}, err
		}
		off, err := model.Move{Off: true}.Apply(e.Definition, e.Meta)
		if err != nil {
			return Outcome{}, err
		}
		out, err := s.change(ctx, e.Flag, backstay.FlagChange{Key: key, Version: e.Version, To: model.State(off, e.Meta), Act: "kill", Reason: reason})
		var moved *backstay.FlagMovedError
		if errors.As(err, &moved) && ctx.Err() == nil {
			continue // somebody changed it meanwhile; it is to be off whatever that was
		}
		return out, err
	}
}

// same reports whether two actors are one person, as far as can be told: one
// user of one host, or of one name.
func same(a, b backstay.Actor) bool {
	return a.UID == b.UID && a.Host == b.Host || a.Name != "" && a.Name == b.Name
}

// Restore brings a flag back, whole, to what it was after one version of it; 0: to
// what it was before its last change.
func (s *Store) Restore(ctx context.Context, key backstay.Key, version int64, reason string) (Outcome, error) {
	was, err := s.ledger.Flag(ctx, key)
	if err != nil {
		return Outcome{}, err
	}
	if was.Version == 0 {
		return Outcome{}, missing(key)
	}
	changes, err := s.ledger.FlagHistory(ctx, key, 0)
	if err != nil {
		return Outcome{}, err
	}
	for _, l := range changes {
		var body backstay.FlagBody
		if err := l.Entry.Decode(&body); err != nil {
			return Outcome{}, fmt.Errorf("read entry %d: %w", l.Index, err)
		}
		ref := body.After
		switch {
		case body.Act == "ask":
			continue
		case version == 0:
			ref = body.Before
		case body.Version != version:
			continue
		}
		to, err := s.state(ctx, key, ref)
		if err != nil {
			return Outcome{}, err
		}
		return s.change(ctx, was, backstay.FlagChange{Key: key, Version: was.Version, To: to, Act: "restore", Reason: reason})
	}
	return Outcome{}, &backstay.Error{
		Class: backstay.NotFound, Op: "restore", Subject: string(key), Err: fmt.Errorf("it never had version %d", version),
		Hint: "list its versions with `backstay flag history`",
	}
}

// Stale is a flag that no longer decides anything.
type Stale struct {
	Entry
	Gives string // what everybody gets
	Since time.Time
}

// Stale lists the flags that gave everybody one value for longer than that.
func (s *Store) Stale(ctx context.Context, longer time.Duration) ([]Stale, error) {
	all, err := s.List(ctx)
	if err != nil {
		return nil, err
	}
	var out []Stale
	for _, e := range all {
		gives, still := model.Still(e.Definition, e.Meta)
		if e.Definition.Kind == model.FlagKind && still && s.now().Sub(e.At) > longer {
			out = append(out, Stale{e, gives, e.At})
		}
	}
	return out, nil
}
