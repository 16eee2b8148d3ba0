package migration

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/migration/database"
	"github.com/backstay-dev/backstay/internal/driver/migration/sqltext"
)

// pieces is a script that runs statement by statement, each with its marker.
type pieces struct {
	*run
	version   string
	direction database.Direction
	script    script
	marks     map[int]database.Marker
	// before are the tables ahead of an up: what its statements write into what it
	// added is measured with each.
	before database.Tables
	// untouched are the markers of other migrations into whose tables nobody wrote
	// since: what this script writes there is measured with it.
	untouched []database.Marker
	// tolerant scripts take back what was applied only in part: what they name may
	// not be there.
	tolerant bool
	// around runs before a statement. It gives what must run after it, and what
	// the statement's own transaction must look at first.
	around func(ctx context.Context, st sqltext.Statement) (func() error, []database.Added, error)
}

// play runs the statements that are not done yet.
func (p pieces) play(ctx context.Context) error {
	all, err := p.load(p.script)
	if err != nil {
		return err
	}
	for i := 0; i < len(all); i++ {
		st := all[i]
		if err := ctx.Err(); err != nil {
			return err //nolint:wrapcheck // the caller names the cause
		}
		mark, marked := p.marks[i]
		if marked && mark.State == database.Ended && st.Mode != sqltext.Session {
			continue
		}
		if marked && mark.State == database.Begun {
			done, err := p.resume(ctx, i, st, mark)
			if err != nil {
				return fail(p.script, st, err)
			}
			if done {
				continue
			}
		}
		if row := p.row(all, i); row > 1 {
			if at, err := p.together(ctx, i, all[i:i+row], nil); err != nil {
				return fail(p.script, all[at], err)
			}
			i += row - 1
			continue
		}
		if err := p.statement(ctx, i, st); err != nil {
			return fail(p.script, st, err)
		}
	}
	return nil
}

const (
	mostInARow = 64
	rowBytes   = 1 << 20
)

// row is how many statements from the i-th on share a transaction. Each alone would
// be measured alone, and a script of many inserts would count what it inserted again
// and again; all at once would keep others waiting for locks for long.
func (p pieces) row(all []sqltext.Statement, i int) int {
	n, size := 0, 0
	for n < mostInARow && i+n < len(all) && !p.tolerant {
		st := all[i+n]
		_, marked := p.marks[i+n]
		if size += len(st.Text); marked || st.Mode != sqltext.Inside || (p.around != nil && len(st.Drops) > 0) || size > rowBytes {
			break
		}
		n++
	}
	return n
}

// statement runs one statement with its markers. What it drops is locked last:
// a session that holds locks on tables can read and write no others.
func (p pieces) statement(ctx context.Context, i int, st sqltext.Statement) error {
	if st.Mode == sqltext.Inside {
		_, drops, err := p.look(ctx, st)
		if errors.Is(err, errSkip) {
			return nil
		}
		if err != nil {
			return err
		}
		_, err = p.together(ctx, i, []sqltext.Statement{st}, drops)
		return err
	}
	if err := p.own.Fence(ctx, p.conn); err != nil {
		return err //nolint:wrapcheck // says what it did
	}
	mark := database.Marker{Version: p.version, Direction: p.direction, Statement: i, State: database.Begun, SHA256: p.script.SHA256}
	if st.Mode == sqltext.Outside {
		schema, err := p.d.Schema(ctx, p.conn)
		if err != nil {
			return err //nolint:wrapcheck // says what it did
		}
		mark.Detail.Schema = schema.Digest()
		if err := p.own.Mark(ctx, p.conn, mark); err != nil {
			return err //nolint:wrapcheck // says what it did
		}
	}
	if err := p.alone(ctx, i, st, mark); err != nil {
		return err
	}
	mark.State = database.Ended
	return p.own.Mark(ctx, p.conn, mark) //nolint:wrapcheck // says what it did
}

// look asks what must happen around a statement.
func (p pieces) look(ctx context.Context, st sqltext.Statement) (func() error, []database.Added, error) {
	if p.around == nil || len(st.Drops) == 0 {
		return func() error { return nil }, nil, nil
	}
	return p.around(ctx, st)
}

// alone runs a statement outside of a transaction.
func (p pieces) alone(ctx context.Context, i int, st sqltext.Statement, mark database.Marker) error {
	release, _, err := p.look(ctx, st)
	if err != nil {
		// It was not sent: nothing of it happened.
		if err := errors.Join(err, p.own.Unmark(context.WithoutCancel(ctx), p.conn, mark)); !errors.Is(err, errSkip) {
			return err
		}
		return nil
	}
	if _, err := backstay.LeaseLeft(ctx); err != nil {
		return errors.Join(err, release()) // whoever goes on looks how far it came
	}
	_, err = p.conn.ExecContext(ctx, st.Text)
	released := release()
	if err != nil {
		return errors.Join(p.failed(ctx, i, st, mark, err), released)
	}
	return released
}

// together runs statements and their markers in one transaction. It returns which one
// failed.
func (p pieces) together(ctx context.Context, i int, row []sqltext.Statement, drops []database.Added) (at int, err error) {
	tx, err := p.conn.BeginTx(ctx, nil)
	if err != nil {
		return i, fmt.Errorf("begin: %w", p.d.Classify(err))
	}
	err = p.own.Fence(ctx, tx)
	if err == nil && len(drops) > 0 {
		err = p.exclude(ctx, tx, p.version, drops)
	}
	missing, writes := false, false
	for n, st := range row {
		if at = i + n; err == nil {
			if _, err = tx.ExecContext(ctx, st.Text); err != nil {
				err = p.d.Classify(err)
			}
			missing = p.tolerant && p.d.Missing(err)
		}
		writes = writes || st.Writes
		mark := database.Marker{Version: p.version, Direction: p.direction, Statement: at, State: database.Ended, SHA256: p.script.SHA256}
		if err == nil && writes && n == len(row)-1 {
			mark.Detail.Added, err = p.addedNow(ctx, tx)
		}
		if err == nil {
			err = p.own.Mark(ctx, tx, mark)
		}
		if err != nil {
			break
		}
	}
	if err != nil {
		_ = tx.Rollback() // the error says why
		if missing {
			return at, nil
		}
		return at, err //nolint:wrapcheck // classified above
	}
	if err := tx.Commit(); err != nil {
		return at, fmt.Errorf("commit: %w", p.d.Classify(err))
	}
	return at, nil
}

// addedNow measures what the statements so far added.
func (p pieces) addedNow(ctx context.Context, q database.Querier) ([]database.Added, error) {
	now, err := p.d.Tables(ctx, q)
	if err != nil {
		return nil, err //nolint:wrapcheck // says what it did
	}
	if err := p.measureAgain(ctx, q, p.untouched, now); err != nil || p.before == nil {
		return nil, err
	}
	return p.added(ctx, q, p.before, now)
}

// failed deals with a statement that returned an error: nil where that is as
// good as done. A statement that certainly did nothing loses its marker.
func (p pieces) failed(ctx context.Context, i int, st sqltext.Statement, mark database.Marker, cause error) error {
	classified := p.d.Classify(cause)
	if p.tolerant && p.d.Missing(cause) {
		return nil
	}
	if ctx.Err() != nil || backstay.ClassOf(classified) == backstay.Transient || st.Mode != sqltext.Outside {
		return classified // how far it came is looked up when it is taken up again
	}
	if _, err := p.resume(ctx, i, st, mark); err != nil {
		return errors.Join(classified, err)
	}
	return classified
}

// resume looks for what a statement left that was cut off. done: it happened,
// and has its marker now.
func (p pieces) resume(ctx context.Context, i int, st sqltext.Statement, mark database.Marker) (done bool, err error) {
	trace, err := p.d.Trace(ctx, p.conn, st, mark.Detail.Schema)
	if err != nil {
		return false, err //nolint:wrapcheck // says what it did
	}
	switch trace {
	case database.Done:
		mark.State = database.Ended
		return true, p.own.Mark(ctx, p.conn, mark) //nolint:wrapcheck // says what it did
	case database.HalfDone:
		if st.Probe != nil && st.Probe.Clean != "" {
			if _, err := p.conn.ExecContext(ctx, st.Probe.Clean); err != nil {
				return false, fmt.Errorf("take back its half: %w", p.d.Classify(err))
			}
		}
	case database.Unclear:
		return false, &backstay.Error{
			Class: backstay.Permanent, Err: errors.New("it was cut off, and nothing tells whether it happened"),
			Hint: "look at the data it is about, then run it by hand or not, and close the deployment",
		}
	case database.NotDone:
	}
	mark.Statement = i
	return false, p.own.Unmark(ctx, p.conn, mark) //nolint:wrapcheck // says what it did
}

// upPiecewise applies a migration statement by statement.
func (r *run) upPiecewise(ctx context.Context, i int, before database.Tables, m marks) error {
	c := r.body.Pending[i]
	marks := m.up[c.Version]
	begun := time.Now()
	if err := r.d.Limit(ctx, r.conn, r.body.limits()); err != nil {
		return err //nolint:wrapcheck // says what it did
	}
	previous, err := r.expectPending(ctx, r.conn, i, before)
	if err != nil {
		return err
	}
	var copies []database.Copy
	if len(marks) == 0 {
		copies, err = r.copyAlone(ctx, c, before)
		if err != nil {
			return err
		}
	}
	for _, mark := range marks { // the tables as they were are those of the first statement
		if mark.Detail.Tables != nil {
			before, copies = mark.Detail.Tables, mark.Detail.Copies
		}
	}
	first := database.Marker{Version: c.Version, Direction: database.Up, Statement: database.Start, State: database.Ended, SHA256: c.Up.SHA256, Detail: database.Detail{Tables: before, Previous: previous, Copies: copies}}
	if err := r.own.Fence(ctx, r.conn); err != nil {
		return err //nolint:wrapcheck // says what it did
	}
	if err := r.own.Mark(ctx, r.conn, first); err != nil {
		return err //nolint:wrapcheck // says what it did
	}
	untouched, err := r.untouched(ctx, r.conn, c.Up, m, before)
	if err != nil {
		return err
	}
	p := pieces{run: r, version: c.Version, direction: database.Up, script: c.Up, marks: marks, before: before, untouched: untouched}
	if err := p.play(ctx); err != nil {
		return err
	}
	return r.rows(ctx, c.Version, database.Ended, func(q database.Querier) error {
		return r.applied(ctx, q, i, outset{tables: before, previous: previous, untouched: untouched, copies: copies, begun: begun})
	})
}

// downPiecewise takes a whole migration back statement by statement.
func (r *run) downPiecewise(ctx context.Context, i int, mark database.Marker, marks map[int]database.Marker) error {
	c := r.body.Pending[i]
	if err := r.d.Limit(ctx, r.conn, r.body.limits()); err != nil {
		return err //nolint:wrapcheck // says what it did
	}
	tables, err := r.d.Tables(ctx, r.conn)
	if err != nil {
		return err //nolint:wrapcheck // says what it did
	}
	untouched, err := r.untouchedBut(ctx, r.conn, *c.Down, c.Version, tables)
	if err != nil {
		return err
	}
	p := pieces{run: r, version: c.Version, direction: database.Down, script: *c.Down, marks: marks, around: r.guard(mark, nil), untouched: untouched}
	if err := p.play(ctx); err != nil {
		return err
	}
	return r.rows(ctx, c.Version, database.Undone, func(q database.Querier) error {
		return r.takenBack(ctx, q, i, mark, tables)
	})
}

// downPartial takes back a migration that was applied in part: its down runs,
// and what it names may not be there. The dump of the schema tells whether that
// restored it.
func (r *run) downPartial(ctx context.Context, i int, m marks) error {
	c := r.body.Pending[i]
	marks := m.up[c.Version]
	ups, err := r.load(c.Up)
	if err != nil {
		return err
	}
	p := pieces{run: r, version: c.Version, direction: database.Up, script: c.Up, marks: marks}
	happened := false
	for n, st := range ups {
		mark, ok := marks[n]
		if !ok {
			continue
		}
		if mark.State == database.Begun {
			done, err := p.resume(ctx, n, st, mark)
			if err != nil {
				return fail(c.Up, st, err)
			}
			if !done {
				continue
			}
		}
		happened = happened || st.Mode != sqltext.Session
	}
	start := marks[database.Start]
	if happened {
		before := start.Detail.Tables
		after, err := r.d.Tables(ctx, r.conn)
		if err != nil {
			return err //nolint:wrapcheck // says what it did
		}
		guard := database.Marker{Version: c.Version, Detail: database.Detail{Added: measured(names(before, after), marks)}}
		untouched, err := r.untouchedBut(ctx, r.conn, *c.Down, c.Version, after)
		if err != nil {
			return err
		}
		down := pieces{run: r, version: c.Version, direction: database.Down, script: *c.Down, marks: m.down[c.Version], tolerant: true, around: r.guard(guard, before), untouched: untouched}
		if err := down.play(ctx); err != nil {
			return err
		}
	}
	return r.rows(ctx, c.Version, database.Undone, func(q database.Querier) error {
		for _, d := range []database.Direction{database.Up, database.Down} {
			if err := r.own.Forget(ctx, q, c.Version, d); err != nil {
				return err //nolint:wrapcheck // says what it did
			}
		}
		return r.own.Mark(ctx, q, database.Whole(c.Version, database.Up, database.Undone, c.Up.SHA256, start.Detail)) //nolint:wrapcheck // says what it did
	})
}

// measured gives what was added with the measures of the last statement that
// wrote rows.
func measured(all []database.Added, marks map[int]database.Marker) []database.Added {
	last := -1
	for i, m := range marks {
		if m.Detail.Added != nil && i > last {
			last = i
		}
	}
	for i, a := range all {
		for _, m := range marks[last].Detail.Added {
			if m.Table == a.Table && m.Column == a.Column {
				all[i] = m
			}
		}
	}
	return all
}

// rows writes rows that belong together in one transaction.
func (r *run) rows(ctx context.Context, version string, want database.State, act func(database.Querier) error) error {
	tx, err := r.conn.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("begin: %w", r.d.Classify(err))
	}
	if err = r.own.Fence(ctx, tx); err == nil {
		err = act(tx)
	}
	if err != nil {
		_ = tx.Rollback() // the error says why
		return err        //nolint:wrapcheck // from functions that say what they did
	}
	if err := tx.Commit(); err != nil {
		return r.committed(context.WithoutCancel(ctx), version, want, err)
	}
	return nil
}
