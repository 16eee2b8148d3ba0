package flag

import (
	"context"
	"errors"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/flag/store"
)

// elsewhere is where a flag is that is not in Backstay's own store, frozen.
type elsewhere struct {
	storeConfig
	Flag string `json:"flag"`
}

func (e *elsewhere) open(secrets backstay.Secrets) (store.Store, error) {
	return e.storeConfig.open(e.Flag, secrets)
}

// prepareElsewhere freezes a move of a flag in another store. Without a ledger
// (lint) it asks nobody.
func (d *Driver) prepareElsewhere(ctx context.Context, req backstay.Request, c flagConfig) (backstay.Prepared, error) {
	refuse := func(path, message, hint string) (backstay.Prepared, error) {
		return backstay.Prepared{}, &backstay.RefusedError{What: "spec", Problems: []backstay.Problem{{Path: "flag." + path, Message: message, Hint: hint}}}
	}
	sc, err := storeOf(req, c.Store)
	switch {
	case err != nil:
		return backstay.Prepared{}, err
	case sc.OFREP != "":
		return refuse("store", "store "+c.Store+" can only be read", "ask it in gates or verify: flag: {store: "+c.Store+", key: "+c.Key+", as: USER, gives: VALUE}")
	case c.From != "":
		return refuse("from", "a definition is for Backstay's own store", "change it there, and move it here")
	case c.Purpose != "":
		return refuse("purpose", "a purpose is kept in Backstay's own store", "leave it out")
	}
	e := &elsewhere{sc, c.Key}
	if req.Flags == nil {
		return backstay.Prepared{Kind: d.Name(), Summary: c.summary(), Timeout: timeout}, nil
	}
	s, err := e.open(req.Secrets)
	if err != nil {
		return refuse("store", err.Error(), backstay.HintOf(err))
	}
	now, err := s.Read(ctx)
	if ctx.Err() != nil {
		return backstay.Prepared{}, context.Cause(ctx)
	}
	if err != nil {
		return refuse("key", err.Error(), backstay.HintOf(err))
	}
	was := now.State
	for _, m := range c.moves() {
		to, err := s.Plan(now, m)
		if err != nil {
			return refuse("key", err.Error(), "")
		}
		now.State = to
	}
	t, key := s.Traits(), sc.key(c.Key)
	b := body{V: bodyFormat, Key: key, Was: was, Want: now.State, Elsewhere: e, Says: s.Exposure(now)}
	p := backstay.Prepared{
		Kind: d.Name(), Body: backstay.Canonical(b), Keys: []backstay.Key{key}, Dial: key,
		Class: backstay.Exact, Effect: backstay.Idempotent, Fence: backstay.Leased, Window: t.Window, Restorable: true, HasUndo: true,
		Want: backstay.Image{key: now.State}, Timeout: timeout, UndoTimeout: timeout,
		Summary: c.summary() + " (" + t.Vendor + ")", UndoSummary: "put what it changed of the flag back", ReadSummary: "what the flag gives, from " + t.Vendor,
	}
	if t.Local {
		p.Class, p.Modulo = backstay.Equivalent, []string{"the time of " + sc.Flagd}
	}
	if sc.Token != "" {
		p.Secrets = []string{sc.Token}
	}
	if !t.Compares {
		p.Warnings = append(p.Warnings, t.Vendor+": "+t.Gap)
	}
	return p, nil
}

// observeElsewhere reads the flag. One that is not there is absent.
func (b body) observeElsewhere(ctx context.Context, call backstay.Call) (backstay.Image, error) {
	s, err := b.Elsewhere.open(call.Secrets)
	if err != nil {
		return nil, err
	}
	now, err := s.Read(ctx)
	if backstay.ClassOf(err) == backstay.NotFound {
		return backstay.Image{b.Key: {}}, nil
	}
	if err != nil {
		return nil, err
	}
	return backstay.Image{b.Key: now.State}, nil
}

// doElsewhere makes the flag what is wanted, where it is what it was at the
// intent, or half of the way there.
func (b body) doElsewhere(ctx context.Context, call backstay.Call) (backstay.Result, error) {
	return b.replaceElsewhere(ctx, call, func(now backstay.ResourceState) (backstay.ResourceState, error) {
		if !between(now, call.Before[b.Key], b.Want) {
			return now, &backstay.Error{
				Class: backstay.Conflict, Op: "change", Subject: string(b.Key), Err: errors.New("somebody else changed it meanwhile; their value stays"),
				Hint: "see who in " + b.Elsewhere.words(b.Elsewhere.Flag),
			}
		}
		return b.Want, nil
	})
}

// undoElsewhere puts the listed parts back, where they are still as the step left
// them. Who changed a flag these stores do not tell: a later value is somebody
// else's.
func (b body) undoElsewhere(ctx context.Context, call backstay.Call) (backstay.Result, error) {
	parts, before := call.Restore[b.Key], call.Before[b.Key]
	if len(parts) == 0 {
		return backstay.Result{}, ctx.Err()
	}
	after, ended := call.After[b.Key]
	if !ended {
		after = b.Want
	}
	return b.replaceElsewhere(ctx, call, func(now backstay.ResourceState) (backstay.ResourceState, error) {
		if !left(now, after, before, parts) {
			return now, nil // the engine reads what stayed
		}
		return restoredParts(now, before, parts), nil
	})
}

// between reports whether each part is as it was or as it is to be.
func between(now, before, want backstay.ResourceState) bool {
	names := map[string]bool{}
	for _, s := range []backstay.ResourceState{now, before, want} {
		for part := range s.Parts {
			names[part] = true
		}
	}
	for part := range names {
		is := string(now.Parts[part])
		if is != string(before.Parts[part]) && is != string(want.Parts[part]) {
			return false
		}
	}
	return true
}

// replaceElsewhere reads the flag and writes what next makes of it, again where
// somebody was quicker.
func (b body) replaceElsewhere(ctx context.Context, call backstay.Call, next func(backstay.ResourceState) (backstay.ResourceState, error)) (backstay.Result, error) {
	s, err := b.Elsewhere.open(call.Secrets)
	if err != nil {
		return backstay.Result{Untouched: true}, err
	}
	for {
		if err := ctx.Err(); err != nil {
			return backstay.Result{Untouched: true}, err
		}
		now, err := s.Read(ctx)
		if err != nil {
			return backstay.Result{Untouched: true}, err
		}
		to, err := next(now.State)
		if err != nil {
			return backstay.Result{Untouched: true}, err
		}
		if to.Equal(now.State) {
			return backstay.Result{}, nil
		}
		note, err := s.Write(ctx, now, to)
		if errors.Is(err, store.ErrMoved) {
			continue
		}
		return backstay.Result{Note: note}, err
	}
}

// explainElsewhere says what a person would do: there is no command of ours.
func (b body) explainElsewhere(step backstay.Step) backstay.Explanation {
	where := b.Elsewhere.words(b.Elsewhere.Flag)
	return backstay.Explanation{
		Do:   []backstay.Command{{Note: step.Summary + ": by hand, set " + where + " to: " + b.Says}},
		Undo: []backstay.Command{{Note: "put back by hand, in " + where + ": " + string(backstay.Canonical(b.Was.Parts))}},
		Read: []backstay.Command{{Note: "look at " + where}},
	}
}
