package drivertest

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver"
)

// Trial drives one prepared step the way the engine does: before-image, do,
// undo of what differs, with slots carried from act to act. It is the suite's
// own tool and open to the kinds' other tests. It is not safe for concurrent use.
type Trial struct {
	Fixture Fixture
	Step    backstay.Step
	Before  backstay.Image
	After   backstay.Image
	Slots   map[string]string
	Attempt int
	// Notes are the notes of all results, for looking into.
	Notes []string
}

// NewTrial prepares the fixture's step. It fails the test when Prepare refuses.
func NewTrial(t testing.TB, f Fixture) *Trial {
	t.Helper()
	if f.Request.ID == "" {
		f.Request.ID = "step-under-test"
	}
	if f.Request.Blobs == nil {
		f.Request.Blobs = NewBlobs()
	}
	prepared, err := f.Kind.Prepare(t.Context(), f.Request)
	if err != nil {
		t.Fatalf("Prepare: %v", Explain(err))
	}
	step := backstay.Step{ID: f.Request.ID, Seq: 1, Prepared: prepared}
	// A step lives in the plan as JSON: what does not survive that is not there.
	var frozen backstay.Step
	if err := json.Unmarshal(backstay.Canonical(step), &frozen); err != nil {
		t.Fatalf("read the prepared step back from JSON: %v", err)
	}
	return &Trial{Fixture: f, Step: frozen, Slots: map[string]string{}}
}

// Call is the engine's view of the next act.
func (tr *Trial) Call() backstay.Call {
	return backstay.Call{
		Deployment:     "0190a000-0000-7000-8000-000000000001",
		Release:        tr.Fixture.Request.Release,
		Step:           tr.Step,
		Attempt:        tr.Attempt,
		Token:          backstay.Token{Generation: 1, Epoch: 1, Seq: int64(tr.Step.Seq)},
		IdempotencyKey: "0190a000-0000-7000-8000-000000000001/" + tr.Step.ID + "/do",
		DataDir:        tr.Fixture.Request.DataDir,
		Blobs:          tr.Fixture.Request.Blobs,
		Secrets:        tr.Fixture.Request.Secrets,
		Flags:          tr.Fixture.Request.Flags,
		Before:         tr.Before,
		After:          tr.After,
		Slots:          maps.Clone(tr.Slots),
	}
}

// Observe reads the step's keys; store says whether content is kept.
func (tr *Trial) Observe(t testing.TB, store bool) backstay.Image {
	t.Helper()
	call := tr.Call()
	if !store {
		call.Blobs = nil
	}
	image, err := tr.Fixture.Kind.Observe(t.Context(), call)
	if err != nil {
		t.Fatalf("Observe: %v", err)
	}
	for _, key := range tr.Step.Keys {
		if _, ok := image[key]; !ok {
			t.Fatalf("Observe left out key %s", key)
		}
	}
	return image
}

// Begin takes the before-image, as the engine does ahead of the intent.
func (tr *Trial) Begin(t testing.TB) {
	t.Helper()
	tr.Before = tr.Observe(t, true)
}

// Do performs one attempt of the step's do.
func (tr *Trial) Do(ctx context.Context) error {
	tr.Attempt++
	result, err := tr.Fixture.Kind.Do(ctx, tr.Call())
	tr.keep(result)
	if err != nil {
		return fmt.Errorf("do: %w", err)
	}
	return nil
}

// Undo reaps, observes what differs from the before-image, and undoes that.
func (tr *Trial) Undo(t testing.TB, ctx context.Context) error {
	t.Helper()
	call := tr.Call()
	call.IdempotencyKey = "0190a000-0000-7000-8000-000000000001/" + tr.Step.ID + "/undo"
	if reaper, ok := tr.Fixture.Kind.(driver.Reaper); ok {
		if err := reaper.Reap(t.Context(), call); err != nil {
			t.Fatalf("Reap: %v", err)
		}
	}
	if tr.Step.Restorable {
		call.Restore = Differing(tr.Before, tr.Observe(t, false))
	}
	result, err := tr.Fixture.Kind.Undo(ctx, call)
	tr.keep(result)
	if err != nil {
		return fmt.Errorf("undo: %w", err)
	}
	return nil
}

func (tr *Trial) keep(result backstay.Result) {
	maps.Copy(tr.Slots, result.Slots)
	if result.Note != "" {
		tr.Notes = append(tr.Notes, result.Note)
	}
}

// Differing lists per key the parts in which the images differ, sorted. Keys
// without a difference, and keys that one of the images could not read, are left out.
func Differing(before, now backstay.Image) map[backstay.Key][]string {
	diff := map[backstay.Key][]string{}
	for key, was := range before {
		is := now[key]
		if was.Equal(is) || was.Opaque || is.Opaque || was.Unreadable != "" || is.Unreadable != "" {
			continue
		}
		parts := map[string]bool{}
		for part, value := range was.Parts {
			if string(is.Parts[part]) != string(value) {
				parts[part] = true
			}
		}
		for part := range is.Parts {
			if _, ok := was.Parts[part]; !ok {
				parts[part] = true
			}
		}
		diff[key] = slices.Sorted(maps.Keys(parts))
	}
	return diff
}

// Explain writes err with all problems of a refusal, for test output.
func Explain(err error) string {
	refused, ok := errorAs[*backstay.RefusedError](err)
	if !ok {
		return fmt.Sprint(err)
	}
	text := refused.Error()
	for _, p := range refused.Problems {
		text += "\n\t" + p.String()
		if p.Hint != "" {
			text += " (" + p.Hint + ")"
		}
	}
	return text
}
