package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/plan"
)

// Defaults of steps that do not say.
const (
	defaultTimeout = backstay.Duration(5 * 60 * 1e9)
	defaultRetries = 3
)

// Declared is what a survey needs of a spec beside its steps.
type Declared struct {
	Sections  map[string]json.RawMessage
	Artifacts map[string]backstay.Artifact
	Dir       string
	Release   string
	Version   string

	Environment string
}

// Survey prepares every step of a draft by its kind and looks at the world.
// It changes nothing but the blob store, where content to be deployed is
// pinned. Refusals of kinds are collected into the result; Build reports them.
func (e *Engine) Survey(ctx context.Context, requests []plan.Request, d Declared) (plan.Observed, error) {
	blobs := e.store.NewBlobBuffer(ctx)
	seen := plan.Observed{
		Artifacts: d.Artifacts, Steps: map[string]backstay.Prepared{}, Checks: map[string]backstay.Prepared{}, Images: map[string]backstay.Image{},
	}
	scrub := newScrubber(e.opts.Secrets)
	for _, q := range requests {
		if err := ctx.Err(); err != nil {
			return seen, err
		}
		req := backstay.Request{
			ID: q.ID, Config: q.Config, Sections: d.Sections, Artifacts: d.Artifacts, Dir: d.Dir, DataDir: e.opts.DataDir,
			Release: d.Release, Version: d.Version, Blobs: &recorder{shared: blobs}, Secrets: scrub, Flags: flags{store: e.store},
			Timeout: q.Timeout, UndoTimeout: q.UndoTimeout, Retries: q.Retries,
		}
		prepare := e.actions.Prepare
		if q.Check {
			prepare = e.actions.PrepareCheck
		}
		prepared, err := prepare(ctx, q.Kind, req)
		if err != nil {
			problems, fatal := refusalOf(err, q, scrub)
			if fatal != nil {
				return seen, fmt.Errorf("prepare step %s: %w", q.ID, fatal)
			}
			seen.Problems = append(seen.Problems, unsaid(seen.Problems, problems)...)
			continue
		}
		applyDefaults(&prepared, q)
		if problems := e.protect(prepared, q); len(problems) > 0 {
			seen.Problems = append(seen.Problems, problems...)
			continue
		}
		if q.Check {
			seen.Checks[q.ID] = prepared
			continue
		}
		seen.Steps[q.ID] = prepared
		seen.Images[q.ID] = e.glance(ctx, backstay.Step{ID: q.ID, Prepared: prepared}, scrub)
	}
	if err := blobs.Flush(ctx); err != nil {
		return seen, fmt.Errorf("store what the plan pins: %w", err)
	}
	steps := make([]backstay.Prepared, 0, len(seen.Steps))
	for _, prepared := range seen.Steps {
		steps = append(steps, prepared)
	}
	var err error
	seen.Standing, err = e.standing(ctx, d.Environment, "", steps)
	return seen, err
}

// unsaid leaves out what was said about the same place already: a step that became
// several has each problem once.
func unsaid(said, problems []backstay.Problem) []backstay.Problem {
	return slices.DeleteFunc(problems, func(p backstay.Problem) bool {
		return p.Line > 0 && slices.ContainsFunc(said, func(q backstay.Problem) bool {
			return p.File == q.File && p.Line == q.Line && p.Column == q.Column && p.Message == q.Message
		})
	})
}

// protect refuses a step that would change the ledger: what proves a rollback
// must not be in the reach of what is rolled back.
func (e *Engine) protect(p backstay.Prepared, q plan.Request) []backstay.Problem {
	for _, dir := range e.opts.Protected {
		names := []string{dir}
		if real, err := filepath.EvalSymlinks(dir); err == nil && real != dir {
			names = append(names, real)
		}
		for _, name := range names {
			for _, key := range p.Keys {
				if key.Overlaps(backstay.Key("file:" + name)) {
					return []backstay.Problem{{
						Line: q.Line, Column: q.Column, Path: q.ID,
						Message: fmt.Sprintf("%s overlaps with Backstay's own state in %s", strings.TrimPrefix(string(key), "file:"), dir),
						Hint:    "name paths outside of it, or keep the ledger elsewhere with --state",
					}}
				}
			}
		}
	}
	return nil
}

// glance looks at a step's keys outside any deployment.
func (e *Engine) glance(ctx context.Context, st backstay.Step, scrub *scrubber) backstay.Image {
	im, _ := look(ctx, e.actions, backstay.Call{Step: st, DataDir: e.opts.DataDir, Secrets: scrub, Flags: flags{store: e.store}, Slots: map[string]string{}}, &recorder{}, false)
	return im
}

func applyDefaults(p *backstay.Prepared, q plan.Request) {
	if q.Timeout > 0 {
		p.Timeout = q.Timeout
	}
	if q.UndoTimeout > 0 {
		p.UndoTimeout = q.UndoTimeout
	}
	if p.Timeout <= 0 && !q.Check {
		p.Timeout = defaultTimeout
	}
	if p.UndoTimeout <= 0 && !q.Check {
		p.UndoTimeout = defaultTimeout
	}
	switch {
	case q.Retries != nil:
		p.Retries = *q.Retries
	case p.Retries == 0:
		p.Retries = defaultRetries
	}
}

// refusalOf turns a kind's error into problems at the step's place in the
// spec, or returns it as fatal when it is not about the declaration.
func refusalOf(err error, q plan.Request, scrub *scrubber) ([]backstay.Problem, error) {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return nil, err
	}
	var refused *backstay.RefusedError
	if !errors.As(err, &refused) || len(refused.Problems) == 0 {
		return []backstay.Problem{{Line: q.Line, Column: q.Column, Path: q.ID, Message: scrub.text(err.Error()), Hint: scrub.text(backstay.HintOf(err))}}, nil
	}
	out := slices.Clone(refused.Problems)
	for i := range out {
		if out[i].Line == 0 {
			out[i].Line, out[i].Column = q.Line, q.Column
		}
		if out[i].Path == "" {
			out[i].Path = q.ID
		} else {
			out[i].Path = q.ID + "." + out[i].Path
		}
		out[i].Message, out[i].Hint = scrub.text(out[i].Message), scrub.text(out[i].Hint)
	}
	return out, nil
}

// Drifted is a resource that is not as the ledger says.
type Drifted struct {
	Resource ledger.Resource        `json:"ledger"`
	Now      backstay.ResourceState `json:"now"`
	Parts    []string               `json:"parts"`
}

// Drift compares what the ledger believes about the plan's keys with what
// the survey saw.
func (e *Engine) Drift(ctx context.Context, p *plan.Plan, images map[string]backstay.Image) ([]Drifted, error) {
	known, err := e.store.Resources(ctx, p.Locks...)
	if err != nil {
		return nil, fmt.Errorf("read the ledger's resources: %w", err)
	}
	believed := make(map[backstay.Key]ledger.Resource, len(known))
	for _, r := range known {
		believed[r.Key] = r
	}
	var out []Drifted
	checked := map[backstay.Key]bool{}
	for _, st := range p.Steps {
		for _, k := range st.Keys {
			was, ok := believed[k]
			now, seen := images[st.ID][k]
			if !ok || !seen || checked[k] || was.State.Opaque || now.Opaque {
				continue
			}
			checked[k] = true
			if parts := differing(was.State, now); len(parts) > 0 || now.Unreadable != "" {
				out = append(out, Drifted{Resource: was, Now: now, Parts: parts})
			}
		}
	}
	return out, nil
}

// precheck refuses a start when the world is not what the plan froze, when
// pinned content is gone, or when drift was not accepted. It touches nothing.
func (e *Engine) precheck(ctx context.Context, s Start) error {
	if len(s.Plan.Steps) == 0 {
		return &backstay.RefusedError{What: "plan", Problems: []backstay.Problem{{Message: "the plan has no steps", Hint: "add at least one step to the spec"}}}
	}
	var problems []backstay.Problem
	blobs := e.store.NewBlobBuffer(ctx)
	for _, d := range s.Plan.Blobs() {
		if have, err := blobs.Has(d); err != nil {
			return fmt.Errorf("look for pinned content: %w", err)
		} else if !have {
			problems = append(problems, backstay.Problem{Message: fmt.Sprintf("content %.12s that the plan pins is not stored here", d), Hint: "plan again"})
		}
	}
	scrub := newScrubber(e.opts.Secrets)
	images := map[string]backstay.Image{}
	earlier := map[backstay.Key]bool{} // what is frozen for a later step is its predecessor's after-image
	for _, st := range s.Plan.Steps {
		if st.Waits() {
			continue
		}
		now := e.glance(ctx, st, scrub)
		images[st.ID] = now
		for _, k := range st.Keys {
			want, frozen := st.Before[k]
			if !frozen || earlier[k] {
				continue
			}
			switch {
			case now[k].Unreadable != "":
				problems = append(problems, backstay.Problem{Path: st.ID, Message: fmt.Sprintf("%s cannot be read: %s", k, scrub.text(now[k].Unreadable))})
			case now[k].Digest() != want:
				problems = append(problems, backstay.Problem{Path: st.ID, Message: fmt.Sprintf("%s changed since the plan was made", k), Hint: "plan again and look at what changed"})
			}
		}
		for _, k := range st.Keys {
			earlier[k] = true
		}
	}
	if len(problems) > 0 {
		return &backstay.RefusedError{What: "drift", Problems: problems}
	}
	if err := e.compatible(ctx, s.Plan); err != nil {
		return err
	}
	if s.AcceptDrift || s.Plan.Reverts != "" {
		return nil
	}
	drifted, err := e.Drift(ctx, s.Plan, images)
	if err != nil || len(drifted) == 0 {
		return err
	}
	for _, d := range drifted {
		problems = append(problems, backstay.Problem{
			Path:    string(d.Resource.Key),
			Message: fmt.Sprintf("is not as deployment %s left it (%s)", d.Resource.Deployment, partList(d.Parts)),
			Hint:    "look with `backstay drift`, restore with `backstay drift --fix`, or deploy over it with --accept-drift",
		})
	}
	return &backstay.RefusedError{What: "drift", Problems: problems}
}

// StoreImages puts images into the blob store, so that revert plans can name
// them by digest.
func (e *Engine) StoreImages(ctx context.Context, images ...backstay.Image) error {
	blobs := e.store.NewBlobBuffer(ctx)
	for _, im := range images {
		if im == nil {
			continue
		}
		if _, _, err := blobs.Put(bytes.NewReader(backstay.Canonical(im))); err != nil {
			return fmt.Errorf("store image: %w", err)
		}
	}
	return blobs.Flush(ctx)
}

// Undone reads what an earlier deployment did, step by step, with what is
// there now: the material of a revert plan.
func (e *Engine) Undone(ctx context.Context, id string) (*plan.Plan, []plan.Done, error) {
	p, progress, err := e.Replay(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	load := e.loader(ctx)
	scrub := newScrubber(e.opts.Secrets)
	var done []plan.Done
	for _, st := range p.Steps {
		sp := progress.Steps[st.ID]
		if st.Waits() || sp.Phase != PhaseApplied {
			continue
		}
		d := plan.Done{Step: st.ID, Now: e.glance(ctx, st, scrub)}
		if d.Before, err = imageOf(sp.Before, load); err != nil {
			return nil, nil, err
		}
		if d.After, err = imageOf(sp.After, load); err != nil {
			return nil, nil, err
		}
		if err := e.StoreImages(ctx, d.Before, d.After); err != nil {
			return nil, nil, err
		}
		done = append(done, d)
	}
	return p, done, nil
}

func (e *Engine) loader(ctx context.Context) func(string) ([]byte, error) {
	blobs := e.store.NewBlobBuffer(ctx)
	return func(digest string) ([]byte, error) {
		rd, err := blobs.Get(digest)
		if err != nil {
			return nil, err
		}
		defer rd.Close()
		return io.ReadAll(rd)
	}
}
