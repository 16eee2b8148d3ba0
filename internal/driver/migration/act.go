package migration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/migration/database"
	"github.com/backstay-dev/backstay/internal/driver/migration/sqltext"
)

// Do applies the pending migrations, oldest first. What an earlier attempt of
// this step applied is left as it is.
func (*Kind) Do(ctx context.Context, call backstay.Call) (_ backstay.Result, err error) {
	if ctx.Err() != nil {
		return backstay.Result{}, context.Cause(ctx)
	}
	r, err := begin(ctx, call)
	if err != nil {
		return backstay.Result{}, ended(ctx, err)
	}
	defer func() { err = ended(ctx, errors.Join(err, r.end())) }()
	m, err := marked(ctx, r.own, r.target)
	if err != nil {
		return backstay.Result{}, err
	}
	applied := 0
	for i, c := range r.body.Pending {
		if w, ok := m.whole[c.Version]; ok && w.State == database.Ended {
			applied++
			continue
		}
		if err := ctx.Err(); err != nil {
			return r.noteApplied(ctx, applied), err //nolint:wrapcheck // ended names the cause
		}
		if err := r.up(ctx, i, m); err != nil {
			return r.noteApplied(ctx, applied), fmt.Errorf("apply %s (%s): %w", c.Version, c.Up.File, err)
		}
		applied++
		r.say("applied %s (%s)", c.Version, c.Up.File)
	}
	return r.noteApplied(ctx, applied), nil
}

// Undo takes back what Do applied, newest first.
func (*Kind) Undo(ctx context.Context, call backstay.Call) (_ backstay.Result, err error) {
	if ctx.Err() != nil {
		return backstay.Result{}, context.Cause(ctx)
	}
	r, err := begin(ctx, call)
	if err != nil {
		return backstay.Result{}, ended(ctx, err)
	}
	defer func() { err = ended(ctx, errors.Join(err, r.end())) }()
	m, err := marked(ctx, r.own, r.target)
	if err != nil {
		return backstay.Result{}, err
	}
	// Nothing is taken back where something further down would be refused.
	if err := r.refuseLoss(ctx, m); err != nil {
		return backstay.Result{}, err
	}
	undone := 0
	for i, c := range slices.Backward(r.body.Pending) {
		w := m.whole[c.Version]
		if w.State != database.Ended && len(m.up[c.Version]) == 0 {
			continue
		}
		if undone > 0 { // the one before may have measured anew
			if m, err = marked(ctx, r.own, r.target); err != nil {
				return r.note("taken back", undone), err
			}
		}
		if err := r.down(ctx, i, m); err != nil {
			return r.note("taken back", undone), fmt.Errorf("take back %s: %w", c.Version, err)
		}
		undone++
		r.say("took back %s", c.Version)
	}
	if w, ok := m.whole[""]; ok {
		if err := r.dropTool(ctx, w); err != nil {
			return r.note("taken back", undone), err
		}
	}
	result := r.note("taken back", undone)
	result.Note += r.compareRows(ctx)
	return result, nil
}

// ended names why a context ended, where it did.
func ended(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(err, cause) {
		return fmt.Errorf("%w: %w", cause, err)
	}
	return err
}

func (r *run) note(verb string, n int) backstay.Result {
	return backstay.Result{Note: fmt.Sprintf("%d of %d migrations %s", n, len(r.body.Pending), verb)}
}

// say writes a line of output. What becomes of it is not the step's success.
func (r *run) say(format string, args ...any) {
	if r.call.Output != nil {
		_, _ = fmt.Fprintf(r.call.Output, format+"\n", args...)
	}
}

// load reads the statements of a script.
func (r *run) load(s script) (all []sqltext.Statement, err error) {
	if r.call.Blobs == nil {
		return nil, errors.New("there is no stored content here")
	}
	content, err := r.call.Blobs.Get(s.Blob)
	if err != nil {
		return nil, fmt.Errorf("read the statements of %s: %w", s.File, err)
	}
	defer func() { err = errors.Join(err, content.Close()) }()
	data, err := io.ReadAll(content)
	if err == nil {
		err = json.Unmarshal(data, &all)
	}
	if err != nil {
		return nil, fmt.Errorf("read the statements of %s: %w", s.File, err)
	}
	return all, nil
}

// fail says which statement an error is about.
func fail(s script, st sqltext.Statement, err error) error {
	return fmt.Errorf("%s:%d: %w", s.File, st.Line, err)
}

// entry is what the tool's table gets.
func (c change) entry(took time.Duration) database.Entry {
	return database.Entry{Version: c.Version, Name: c.Name, Script: c.Up.File, Checksum: c.Up.CRC32, Took: took, By: "backstay"}
}
