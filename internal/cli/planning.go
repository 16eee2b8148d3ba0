package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/engine"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/plan"
	"github.com/backstay-dev/backstay/internal/spec"
)

// planned is a plan with what was found around it.
type planned struct {
	plan    *plan.Plan
	preview plan.Preview
	dir     string // where relative secret files start
}

// planSpec surveys the world and makes the plan of a spec. What is pinned is
// stored in the ledger.
func (s *session) planSpec(ctx context.Context, loaded *spec.Spec) (planned, error) {
	e, err := s.engine(loaded.Dir, nil)
	if err != nil {
		return planned{}, err
	}
	blobs := s.store.NewBlobBuffer(ctx)
	d, err := declared(ctx, loaded, blobs)
	if err != nil {
		return planned{}, err
	}
	if err := blobs.Flush(ctx); err != nil {
		return planned{}, fmt.Errorf("store the artifacts: %w", err)
	}
	draft := plan.NewDraft(loaded)
	seen, err := e.Survey(ctx, requests(draft), d)
	if err != nil {
		return planned{}, err
	}
	for i := range seen.Problems {
		if seen.Problems[i].File == "" {
			seen.Problems[i].File = loaded.File
		}
	}
	p, err := plan.Build(draft, seen)
	if err != nil {
		return planned{}, err
	}
	preview, err := s.preview(ctx, e, p, seen.Images)
	if err != nil {
		return planned{}, err
	}
	preview.Command = s.c.planCommandLine(p)
	return planned{p, preview, loaded.Dir}, nil
}

// planCommandLine is the command that runs exactly a plan.
func (c *call) planCommandLine(p *plan.Plan) string {
	return "backstay deploy --plan " + p.Digest()[:16] + stateFlag(c)
}

// quoted makes a word safe to paste into a shell.
func quoted(word string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-+:=@%,", r)
	}
	if word != "" && strings.IndexFunc(word, func(r rune) bool { return !plain(r) }) < 0 {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// preview adds to a plan the drift, the locks that others hold and the
// measured undo times.
func (s *session) preview(ctx context.Context, e *engine.Engine, p *plan.Plan, images map[string]backstay.Image) (plan.Preview, error) {
	v := plan.Preview{Plan: p, Clean: cleanLine}
	drifted, err := e.Drift(ctx, p, images)
	if err != nil {
		return v, err
	}
	for _, d := range drifted {
		name, err := s.nameOf(ctx, d.Resource.Deployment)
		if err != nil {
			return v, err
		}
		v.Drift = append(v.Drift, plan.Drift{Key: d.Resource.Key, Deployment: name, Parts: d.Parts, Unreadable: d.Now.Unreadable})
	}
	locks, err := s.store.Locks(ctx)
	if err != nil {
		return v, fmt.Errorf("read the locks: %w", err)
	}
	for _, l := range locks {
		if lockedBy([]ledger.Lock{l}, p.Locks) != nil {
			v.Held = append(v.Held, plan.HeldLock{
				Key: l.Key, Deployment: l.Deployment, Name: l.Name, State: l.State,
				Owner: "driven by " + s.c.ownerWord(l.Owner), Age: s.c.app.Now().Sub(l.Since),
			})
		}
	}
	if v.Undo, err = s.store.Timings(ctx, p.Release); err != nil {
		return v, fmt.Errorf("read the measured undo times: %w", err)
	}
	return v, nil
}

// nameOf is how people call a deployment.
func (s *session) nameOf(ctx context.Context, id string) (string, error) {
	d, err := s.store.Deployment(ctx, id)
	if err != nil {
		return "", fmt.Errorf("read deployment %s: %w", id, err)
	}
	return d.Name, nil
}

// savedPlan loads a plan that `plan` stored, by its digest or the beginning of it.
func (s *session) savedPlan(ctx context.Context, digest string) (*plan.Plan, error) {
	data, err := s.store.Plan(ctx, strings.TrimPrefix(digest, "sha256:"))
	if err != nil {
		return nil, &backstay.RefusedError{
			What: "plan", Err: fmt.Errorf("there is no plan %s: %w", digest, err), Hint: "make it with `backstay plan`, which prints its digest",
		}
	}
	return plan.Decode(data)
}
