// Package file is the step kind "file": one file, symlink or directory tree
// stands at a path as declared, or nothing does.
//
// It owns the declaration (Config), the small template language, and the body
// of such steps. It promises: content is pinned at plan time and an edit of a
// source later changes nothing; each file changes in one rename, complete with
// owner, mode, extended attributes and time; no symlink is followed on the
// target's side; what stands at the path is looked at again right before the
// rename, and anything that is neither the before-image, nor wanted, nor this
// step's own partial effect is refused as a conflict; undo puts back exactly
// the named parts. Modification times of what it writes are the time of the
// plan, in whole seconds, so that the wanted state is exact; what has the wanted
// content already keeps its time.
//
// It is not a package manager: it runs nothing on the files but the declared
// validation. Between the last look and the rename an outsider's write is lost
// from the file but kept in no image; the modification time of the directory
// that holds the path is nobody's state.
package file

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver"
	"github.com/backstay-dev/backstay/internal/tree"
)

// Kind is the step kind "file".
type Kind struct {
	now func() time.Time
}

var (
	_ driver.Kind      = (*Kind)(nil)
	_ driver.Reaper    = (*Kind)(nil)
	_ driver.Sandboxer = (*Kind)(nil)
)

// New returns the kind; now tells the time of a plan.
func New(now func() time.Time) (*Kind, error) {
	if now == nil {
		return nil, errors.New("make file kind: no clock")
	}
	return &Kind{now: now}, nil
}

// Name is the kind's key in the spec.
func (*Kind) Name() string { return "file" }

// Config returns a new declaration to decode into.
func (*Kind) Config() any { return new(Config) }

const bodyVersion = 1

// body is what a plan freezes about a file step beside its wanted image.
type body struct {
	V    int    `json:"v"`
	Path string `json:"path"`
	// View is how much of the path is the step's: "self" (not what lies below),
	// "whole", or "parts" (only those listed).
	View     string       `json:"view"`
	Parts    []string     `json:"parts,omitempty"`
	Parents  []string     `json:"parents,omitempty"` // directories that may be created, outermost first
	Parent   *tree.Entry  `json:"parent,omitempty"`  // what they are created as
	Validate []string     `json:"validate,omitempty"`
	Secret   *secretBody  `json:"secret,omitempty"`
	Split    bool         `json:"split_links,omitempty"`
	Key      backstay.Key `json:"key"`
}

const (
	viewSelf  = "self"
	viewWhole = "whole"
	viewParts = "parts"
)

func readBody(step backstay.Step) (body, error) {
	var b body
	if err := json.Unmarshal(step.Body, &b); err != nil {
		return body{}, fmt.Errorf("read body of file step: %w", err)
	}
	if b.V != bodyVersion {
		return body{}, &backstay.Error{
			Class: backstay.Permanent, Op: "read body of file step", Err: fmt.Errorf("version %d, this binary knows %d", b.V, bodyVersion),
			Hint: "use the backstay version that planned this deployment",
		}
	}
	if why := checkPath(b.Path); why != "" {
		return body{}, fmt.Errorf("read body of file step: path %q %s", b.Path, why)
	}
	return b, nil
}

func keyOf(p string) backstay.Key { return backstay.Key("file:" + p) }

func pathOf(key backstay.Key) string { return strings.TrimPrefix(string(key), "file:") }

// keys are the path and the directories that may be created above it.
func (b body) keys() []backstay.Key {
	keys := []backstay.Key{b.Key}
	for _, dir := range b.Parents {
		keys = append(keys, keyOf(dir))
	}
	return keys
}

// options is how the key is read.
func (b body) options(key backstay.Key, blobs backstay.Blobs) tree.Options {
	opts := tree.Options{Blobs: blobs, SplitLinks: b.Split}
	switch {
	case key != b.Key || b.View == viewSelf:
		opts.Shallow = true
	case b.View == viewParts:
		opts.Only = append([]string{}, b.Parts...)
	}
	return opts
}

// Observe reads the path, or as much of it as is the step's.
func (*Kind) Observe(ctx context.Context, call backstay.Call) (backstay.Image, error) {
	b, err := readBody(call.Step)
	if err != nil {
		return nil, err
	}
	blobs := call.Blobs
	if b.Secret != nil && blobs != nil {
		blobs = discard{} // a secret's content is never stored, not even for an undo
	}
	image := backstay.Image{}
	for _, key := range b.keys() {
		state, err := tree.Capture(ctx, pathOf(key), b.options(key, blobs))
		if ctxErr := ctx.Err(); ctxErr != nil {
			return nil, ctxErr //nolint:wrapcheck // callers compare it
		}
		if err != nil {
			state = backstay.ResourceState{Unreadable: err.Error()}
		}
		image[key] = state
	}
	return image, nil
}

// Do brings about the wanted state, parents first.
func (k *Kind) Do(ctx context.Context, call backstay.Call) (backstay.Result, error) {
	if err := ctx.Err(); err != nil {
		return backstay.Result{}, err //nolint:wrapcheck // callers compare it
	}
	b, err := readBody(call.Step)
	if err != nil {
		return backstay.Result{}, err
	}
	want, blobs := call.Step.Want, call.Blobs
	if b.Secret != nil {
		if want, blobs, err = b.Secret.resolve(b, call); err != nil {
			return backstay.Result{}, err
		}
	}
	look := call
	look.Blobs = nil
	now, err := k.Observe(ctx, look)
	if err != nil {
		return backstay.Result{}, err
	}
	keys := b.keys()
	slices.SortFunc(keys, func(a, b backstay.Key) int { return len(a) - len(b) })
	guards := map[backstay.Key]*guard{}
	for _, key := range keys { // refuse as a whole before anything is changed
		if guards[key], err = newGuard(key, call, want[key], now[key]); err != nil {
			return backstay.Result{}, err
		}
	}
	changed := 0
	for _, key := range keys {
		parts := tree.Differing(want[key], now[key])
		changed += len(parts)
		opts := tree.ApplyOptions{Guard: guards[key].check}
		if len(b.Validate) > 0 && key == b.Key {
			opts.Validate = func(ctx context.Context, _, temp string) error { return b.validate(ctx, call, temp) }
		}
		if err := tree.Apply(ctx, pathOf(key), want[key], parts, blobs, opts); err != nil {
			return backstay.Result{}, err //nolint:wrapcheck // says what and where already
		}
	}
	if changed == 0 {
		return backstay.Result{Note: "was as wanted already"}, nil
	}
	return backstay.Result{}, nil
}

// Undo puts the parts in call.Restore back to the before-image: first what was
// created goes, innermost first, then what was there returns, outermost first.
func (*Kind) Undo(ctx context.Context, call backstay.Call) (backstay.Result, error) {
	b, err := readBody(call.Step)
	if err != nil {
		return backstay.Result{}, err
	}
	var created, changed []backstay.Key
	for _, key := range b.keys() {
		if len(call.Restore[key]) == 0 {
			continue
		}
		before, ok := call.Before[key]
		switch {
		case !ok:
			return backstay.Result{}, fmt.Errorf("undo file step: no before-image of %s", key)
		case len(before.Parts) == 0:
			created = append(created, key)
		default:
			changed = append(changed, key)
		}
	}
	slices.SortFunc(created, func(a, b backstay.Key) int { return len(b) - len(a) })
	slices.SortFunc(changed, func(a, b backstay.Key) int { return len(a) - len(b) })
	var errs []error
	for _, key := range slices.Concat(created, changed) {
		errs = append(errs, tree.Restore(ctx, pathOf(key), call.Before[key], call.Restore[key], call.Blobs))
		if err := ctx.Err(); err != nil {
			return backstay.Result{}, err //nolint:wrapcheck // callers compare it
		}
	}
	return backstay.Result{}, errors.Join(errs...)
}

// Reap removes the temporary files that a killed process left. A living one
// that still writes is an error: the engine asks again.
func (*Kind) Reap(_ context.Context, call backstay.Call) error {
	b, err := readBody(call.Step)
	if err != nil {
		return err
	}
	parts := map[string]bool{"": true}
	for _, state := range []backstay.ResourceState{call.Step.Want[b.Key], call.Before[b.Key]} {
		for part := range state.Parts {
			parts[part] = true
		}
	}
	if err := tree.Sweep(b.Path, slices.Sorted(maps.Keys(parts))); err != nil {
		return fmt.Errorf("reap file step: %w", err)
	}
	return nil
}

// Sandbox allows every step: it changes files only, and its validation runs
// with it.
func (*Kind) Sandbox(backstay.Step) error { return nil }
