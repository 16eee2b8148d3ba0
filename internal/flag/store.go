package flag

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/flag/model"
	"github.com/backstay-dev/backstay/internal/ledger"
)

// Ledger is what the store needs of the ledger; *ledger.Store fits.
type Ledger interface {
	Flag(ctx context.Context, key backstay.Key) (backstay.Flag, error)
	Flags(ctx context.Context, afterLeaf int64) ([]backstay.Flag, error)
	ChangeFlags(ctx context.Context, w ledger.FlagWriter, changes ...backstay.FlagChange) ([]backstay.Flag, error)
	AskFlag(ctx context.Context, w ledger.FlagWriter, c backstay.FlagChange) (backstay.Flag, error)
	FlagHistory(ctx context.Context, key backstay.Key, limit int) ([]ledger.Leaf, error)
	Blobs(ctx context.Context) backstay.Blobs
}

// Store changes flags for one actor. It is safe for concurrent use.
type Store struct {
	ledger Ledger
	actor  backstay.Actor
	now    func() time.Time
}

// New returns the store as actor uses it; now is the wall clock.
func New(l Ledger, actor backstay.Actor, now func() time.Time) *Store {
	return &Store{ledger: l, actor: actor, now: now}
}

// Entry is one flag or segment, read.
type Entry struct {
	backstay.Flag
	Definition model.Definition
	Meta       model.Meta
}

// Exposure says in a few words what it does.
func (e Entry) Exposure() string { return model.Exposure(e.Definition, e.Meta) }

func entryOf(f backstay.Flag) (Entry, error) {
	d, m, err := model.OfState(f.Key, f.State)
	return Entry{f, d, m}, err
}

// List reads everything there is, by key.
func (s *Store) List(ctx context.Context) ([]Entry, error) {
	flags, err := s.ledger.Flags(ctx, -1)
	if err != nil {
		return nil, err
	}
	var all []Entry
	for _, f := range flags {
		if !f.Exists() {
			continue
		}
		e, err := entryOf(f)
		if err != nil {
			return nil, err
		}
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b Entry) int { return strings.Compare(string(a.Key), string(b.Key)) })
	return all, nil
}

// Get reads one flag; the error is of class not_found where there is none.
func (s *Store) Get(ctx context.Context, key backstay.Key) (Entry, error) {
	f, err := s.ledger.Flag(ctx, key)
	if err != nil {
		return Entry{}, err
	}
	if !f.Exists() {
		return Entry{Flag: f}, missing(key)
	}
	return entryOf(f)
}

func missing(key backstay.Key) error {
	return &backstay.Error{
		Class: backstay.NotFound, Op: "find", Subject: string(key), Err: errors.New("there is none"),
		Hint: "list what there is with `backstay flag list`",
	}
}

// known looks definitions up for references.
func (s *Store) known(ctx context.Context) func(model.Kind, string) (json.RawMessage, bool) {
	return func(kind model.Kind, key string) (json.RawMessage, bool) {
		f, err := s.ledger.Flag(ctx, model.StoreKey(kind, key))
		return f.State.Parts[backstay.FlagDefinition], err == nil && f.Exists()
	}
}

// Edit is a change that a person makes.
type Edit struct {
	Kind model.Kind
	Key  string
	// Definition, where it is there, takes the place of the whole definition.
	Definition *model.Source
	Move       *model.Move
	Meta       func(*model.Meta)
	// Version is the version that the change is made for; 0: whichever there is.
	Version int64
	Reason  string
}

// Set makes or changes a flag.
func (s *Store) Set(ctx context.Context, e Edit) (Outcome, error) {
	key := model.StoreKey(e.Kind, e.Key)
	if why := model.CheckKey(e.Key); why != "" {
		return Outcome{}, &backstay.RefusedError{What: "flag", Err: errors.New(why)}
	}
	was, err := s.ledger.Flag(ctx, key)
	if err != nil {
		return Outcome{}, err
	}
	var d model.Definition
	var m model.Meta
	if was.Exists() {
		if d, m, err = model.OfState(key, was.State); err != nil {
			return Outcome{}, err
		}
	}
	if e.Definition != nil {
		src := *e.Definition
		src.Known = s.known(ctx)
		if d, _, err = model.Parse(e.Kind, e.Key, src); err != nil {
			return Outcome{}, err
		}
		if !was.Exists() {
			if d, err = salted(d); err != nil {
				return Outcome{}, err
			}
		}
	} else if !was.Exists() {
		return Outcome{}, missing(key)
	}
	if e.Meta != nil {
		e.Meta(&m)
	}
	if e.Move != nil {
		if d, err = e.Move.Apply(d, m); err != nil {
			return Outcome{}, &backstay.RefusedError{What: "flag", Err: err}
		}
	}
	change := backstay.FlagChange{Key: key, Version: was.Version, To: model.State(d, m), Act: "set", Reason: e.Reason}
	if e.Version > 0 {
		change.Version = e.Version
	}
	return s.change(ctx, was, change)
}

// salted gives a new definition a salt of its own, so that not the same users
// are the first of every flag.
func salted(d model.Definition) (model.Definition, error) {
	var doc map[string]json.RawMessage
	if err := json.Unmarshal(d.JSON, &doc); err != nil {
		return d, fmt.Errorf("read definition: %w", err)
	}
	if len(doc["salt"]) > 0 {
		return d, nil
	}
	salt := make([]byte, 16)
	if _, err := rand.Read(salt); err != nil {
		return d, fmt.Errorf("make a salt: %w", err)
	}
	doc["salt"] = backstay.Canonical(hex.EncodeToString(salt))
	d.JSON = backstay.Canonical(doc)
	return d, nil
}

// refusal says what to do about a change that came too late.
func refusal(err error) error {
	var moved *backstay.FlagMovedError
	if errors.As(err, &moved) {
		return &backstay.RefusedError{What: "flag", Err: err, Hint: "somebody else changed it: look with `backstay flag history`, then do it again"}
	}
	return err
}

// Imported is what an import does to one key.
type Imported struct {
	Key    backstay.Key `json:"key"`
	Action string       `json:"action"` // created, changed, same
}

// Import takes the definitions of a file in, all of them or none. What people
// said about a flag stays. With dry it only says what it would do.
func (s *Store) Import(ctx context.Context, src model.Source, reason string, dry bool) ([]Imported, []model.Warning, error) {
	src.Imported, src.Known = true, s.known(ctx)
	all, warnings, err := model.ParseAll(src)
	if err != nil {
		return nil, warnings, err
	}
	there, err := s.ledger.Flags(ctx, -1)
	if err != nil {
		return nil, warnings, err
	}
	was := make(map[backstay.Key]backstay.Flag, len(there))
	for _, f := range there {
		was[f.Key] = f
	}
	var changes []backstay.FlagChange
	out := make([]Imported, 0, len(all))
	for _, d := range all {
		key := d.StoreKey()
		old, m, action := was[key], model.Meta{}, "created"
		if old.Exists() {
			action = "changed"
			if _, m, err = model.OfState(key, old.State); err != nil {
				return nil, warnings, err
			}
		}
		to := model.State(d, m)
		switch {
		case to.Equal(old.State):
			action = "same"
		case m.People > 1:
			return nil, warnings, &backstay.RefusedError{
				What: "flag", Err: fmt.Errorf("%d people must agree to a change of %s", m.People, key),
				Hint: "change it by `backstay flag set -f`, which asks a second person, and leave it out of the file",
			}
		default:
			changes = append(changes, backstay.FlagChange{Key: key, Version: old.Version, To: to, Act: "import", Reason: reason})
		}
		out = append(out, Imported{key, action})
	}
	if dry || len(changes) == 0 {
		return out, warnings, nil
	}
	_, err = s.ledger.ChangeFlags(ctx, ledger.FlagWriter{Actor: s.actor}, changes...)
	return out, warnings, refusal(err)
}

// Remove takes a flag away. It is refused while another definition names it.
func (s *Store) Remove(ctx context.Context, key backstay.Key, reason string) (Outcome, error) {
	e, err := s.Get(ctx, key)
	if err != nil {
		return Outcome{}, err
	}
	all, err := s.List(ctx)
	if err != nil {
		return Outcome{}, err
	}
	for _, other := range all {
		if other.Key != key && other.Definition.Names(e.Definition.Kind, e.Definition.Key) {
			return Outcome{}, &backstay.RefusedError{
				What: "flag", Err: fmt.Errorf("%s names it", other.Key), Hint: "change that one first",
			}
		}
	}
	return s.change(ctx, e.Flag, backstay.FlagChange{Key: key, Version: e.Version, Act: "remove", Reason: reason})
}

// Change is one entry of a flag's history.
type Change struct {
	Leaf   int64           `json:"leaf"`
	At     time.Time       `json:"at"`
	Actor  *backstay.Actor `json:"actor,omitempty"`
	Before string          `json:"before"` // its exposure; "": there was none
	After  string          `json:"after"`
	backstay.FlagBody
}

// Summary says from where to where it went.
func (c Change) Summary() string {
	switch {
	case c.Act == "ask":
		return "asks a second person for: " + c.After
	case c.Before == "":
		return c.After
	case c.After == "":
		return c.Before + " → removed"
	case c.Before == c.After:
		return c.After + " (other details)"
	}
	return c.Before + " → " + c.After
}

// History reads what happened to a flag, newest first.
func (s *Store) History(ctx context.Context, key backstay.Key, limit int) ([]Change, error) {
	leaves, err := s.ledger.FlagHistory(ctx, key, limit)
	if err != nil {
		return nil, err
	}
	out := make([]Change, 0, len(leaves))
	for _, l := range leaves {
		c := Change{Leaf: l.Index, At: l.Entry.At, Actor: l.Entry.Actor}
		if err := l.Entry.Decode(&c.FlagBody); err != nil {
			return nil, fmt.Errorf("read entry %d: %w", l.Index, err)
		}
		if c.Before, err = s.exposure(ctx, key, c.FlagBody.Before); err != nil {
			return nil, err
		}
		if c.After, err = s.exposure(ctx, key, c.FlagBody.After); err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}

// state reads a state that an entry holds.
func (s *Store) state(ctx context.Context, key backstay.Key, ref backstay.ImageRef) (backstay.ResourceState, error) {
	if !ref.Stored {
		return ref.Inline[key], nil
	}
	r, err := s.ledger.Blobs(ctx).Get(ref.Digest)
	if err != nil {
		return backstay.ResourceState{}, err
	}
	defer r.Close()
	var image backstay.Image
	data, err := io.ReadAll(r)
	if err == nil {
		err = json.Unmarshal(data, &image)
	}
	if err != nil {
		return backstay.ResourceState{}, fmt.Errorf("read the state of %s: %w", key, err)
	}
	return image[key], nil
}

func (s *Store) exposure(ctx context.Context, key backstay.Key, ref backstay.ImageRef) (string, error) {
	state, err := s.state(ctx, key, ref)
	if err != nil || len(state.Parts) == 0 {
		return "", err
	}
	d, m, err := model.OfState(key, state)
	if err != nil {
		return "", err
	}
	if d.Kind == model.SegmentKind {
		return "segment", nil
	}
	return model.Exposure(d, m), nil
}
