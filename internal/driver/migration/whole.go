package migration

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/migration/database"
)

// up applies the i-th pending migration.
func (r *run) up(ctx context.Context, i int, m marks) error {
	c := r.body.Pending[i]
	before, err := r.d.Tables(ctx, r.conn)
	if err != nil {
		return err //nolint:wrapcheck // says what it did
	}
	keeps, err := r.keeps(c.Up)
	if err == nil && i > 0 && (!keeps || c.Up.Piecewise) { // of the ones before
		m, err = marked(ctx, r.own, r.target)
	}
	if err != nil {
		return err
	}
	if c.Up.Piecewise {
		return r.upPiecewise(ctx, i, before, m)
	}
	return r.transaction(ctx, c.Version, database.Ended, func(tx *sql.Tx) error {
		previous, err := r.expectPending(ctx, tx, i, before)
		if err != nil {
			return err
		}
		untouched, err := r.untouched(ctx, tx, c.Up, m, before)
		if err != nil {
			return err
		}
		copies, err := r.copyTables(ctx, tx, c, before)
		if err != nil {
			return err
		}
		begun := time.Now()
		if err := r.statements(ctx, tx, c.Up); err != nil {
			return err
		}
		return r.applied(ctx, tx, i, outset{tables: before, previous: previous, untouched: untouched, copies: copies, begun: begun})
	})
}

// down takes the i-th pending migration back.
func (r *run) down(ctx context.Context, i int, m marks) error {
	c := r.body.Pending[i]
	if c.Down == nil {
		return &backstay.Error{Class: backstay.Permanent, Op: "run its down", Err: errors.New("there is none")}
	}
	mark := m.whole[c.Version]
	if mark.State != database.Ended {
		return r.downPartial(ctx, i, m)
	}
	if c.Down.Piecewise {
		return r.downPiecewise(ctx, i, mark, m.down[c.Version])
	}
	// Read ahead of the transaction: its session is the transaction's own then.
	others, err := marked(ctx, r.own, r.target)
	if err != nil {
		return err
	}
	delete(others.whole, c.Version)
	return r.transaction(ctx, c.Version, database.Undone, func(tx *sql.Tx) error {
		tables, err := r.d.Tables(ctx, tx)
		if err != nil {
			return err //nolint:wrapcheck // says what it did
		}
		if err := r.exclude(ctx, tx, c.Version, mark.Detail.Added); err != nil {
			return err
		}
		untouched, err := r.untouched(ctx, tx, *c.Down, others, tables)
		if err != nil {
			return err
		}
		if err := r.statements(ctx, tx, *c.Down); err != nil {
			return err
		}
		after, err := r.d.Tables(ctx, tx)
		if err != nil {
			return err //nolint:wrapcheck // says what it did
		}
		if err := r.measureAgain(ctx, tx, untouched, after); err != nil {
			return err
		}
		return r.takenBack(ctx, tx, i, mark, tables)
	})
}

// transaction runs one migration and its marker. An end without an answer is
// looked up in the marker.
func (r *run) transaction(ctx context.Context, version string, want database.State, act func(*sql.Tx) error) error {
	if err := r.d.Limit(ctx, r.conn, r.body.limits()); err != nil {
		return err //nolint:wrapcheck // says what it did
	}
	tx, err := r.conn.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("begin: %w", r.d.Classify(err))
	}
	err = r.own.Fence(ctx, tx)
	if err == nil {
		err = act(tx)
	}
	if err == nil {
		err = r.d.Intact(ctx, r.conn, tx)
	}
	if err != nil {
		// The error says why; a rollback that fails ends with the session.
		_ = tx.Rollback()
		return err //nolint:wrapcheck // from functions that say what they did
	}
	if err := tx.Commit(); err != nil {
		return r.committed(context.WithoutCancel(ctx), version, want, err)
	}
	return nil
}

// committed asks the marker whether a commit without an answer happened.
func (r *run) committed(ctx context.Context, version string, want database.State, failed error) error {
	ctx, cancel := context.WithTimeout(ctx, commitPatience)
	defer cancel()
	if err := r.renew(ctx); err != nil {
		return errors.Join(fmt.Errorf("commit: %w", r.d.Classify(failed)), err)
	}
	m, err := marked(ctx, r.own, r.target)
	if err != nil {
		return errors.Join(fmt.Errorf("commit: %w", r.d.Classify(failed)), err)
	}
	if m.whole[version].State == want {
		r.say("the answer to the commit of %s was lost; its marker is there", version)
		return nil
	}
	return fmt.Errorf("commit: %w", r.d.Classify(failed))
}

const commitPatience = 30 * time.Second

// statements runs a script within a transaction.
func (r *run) statements(ctx context.Context, tx *sql.Tx, s script) error {
	all, err := r.load(s)
	if err != nil {
		return err
	}
	for _, st := range all {
		if _, err := tx.ExecContext(ctx, st.Text); err != nil {
			return fail(s, st, r.d.Classify(err))
		}
	}
	return nil
}

// expectPending makes sure that nobody else applied the migration meanwhile,
// makes the tool's table where it is missing, and returns the newest version.
func (r *run) expectPending(ctx context.Context, q database.Querier, i int, tables database.Tables) (previous string, err error) {
	_, there := tables[r.body.Table]
	applied, err := r.tool.Read(ctx, q, there)
	if err != nil {
		return "", err //nolint:wrapcheck // says what it did
	}
	version := r.body.Pending[i].Version
	if applied.Has(version) || applied.Dirty != "" {
		return "", &backstay.Error{
			Class: backstay.Conflict, Op: "look into " + r.body.Table, Err: fmt.Errorf("somebody else applied %s, or began to, since the plan was made", version),
			Hint: "run `backstay plan` again",
		}
	}
	if !there {
		if err := r.tool.Create(ctx, q); err != nil {
			return "", err //nolint:wrapcheck // says what it did
		}
		if err := r.own.Mark(ctx, q, database.Whole("", database.Up, database.Ended, "", database.Detail{CreatedTable: true})); err != nil {
			return "", err //nolint:wrapcheck // says what it did
		}
	}
	if len(applied.Versions) > 0 {
		previous = applied.Versions[len(applied.Versions)-1]
	}
	return previous, nil
}

// outset is how things were before a migration.
type outset struct {
	tables    database.Tables
	previous  string            // the tool's newest version
	untouched []database.Marker // of what earlier migrations added
	copies    []database.Copy
	begun     time.Time
}

// applied writes the rows that say that a migration is applied.
func (r *run) applied(ctx context.Context, q database.Querier, i int, o outset) error {
	c := r.body.Pending[i]
	after, err := r.d.Tables(ctx, q)
	if err != nil {
		return err //nolint:wrapcheck // says what it did
	}
	if err := r.own.Restore(ctx, q, c.Version, after); err != nil {
		return err //nolint:wrapcheck // says what it did
	}
	added, err := r.added(ctx, q, o.tables, after)
	if err == nil {
		err = r.measureAgain(ctx, q, o.untouched, after)
	}
	if err != nil {
		return err
	}
	if err := r.tool.Add(ctx, q, c.entry(time.Since(o.begun))); err != nil {
		return err //nolint:wrapcheck // says what it did
	}
	if err := r.own.Forget(ctx, q, c.Version, database.Up); err != nil {
		return err //nolint:wrapcheck // says what it did
	}
	return r.own.Mark(ctx, q, database.Whole(c.Version, database.Up, database.Ended, c.Up.SHA256, database.Detail{Added: added, Previous: o.previous, Copies: o.copies})) //nolint:wrapcheck // says what it did
}

// takenBack writes the rows that say that a migration is not applied any more.
// before are the tables ahead of the down: what was there ahead of the
// migration must still be.
func (r *run) takenBack(ctx context.Context, q database.Querier, i int, mark database.Marker, before database.Tables) error {
	after, err := r.d.Tables(ctx, q)
	if err != nil {
		return err //nolint:wrapcheck // says what it did
	}
	if lost := lostBeside(before, after, mark.Detail.Added); len(lost) > 0 && r.d.Transactional() {
		return &backstay.Error{
			Class: backstay.Permanent, Op: "run its down", Err: fmt.Errorf("it drops %s, which its up did not add: %w", list(lost), backstay.ErrNoUndo),
			Hint: "mend the down; `backstay migrate verify` shows what a down leaves behind",
		}
	}
	c := r.body.Pending[i]
	if err := r.tool.Remove(ctx, q, c.Version, mark.Detail.Previous); err != nil {
		return err //nolint:wrapcheck // says what it did
	}
	if err := r.own.Release(ctx, q, c.Version); err != nil {
		return err //nolint:wrapcheck // says what it did
	}
	for _, d := range []database.Direction{database.Up, database.Down} {
		if err := r.own.Forget(ctx, q, c.Version, d); err != nil {
			return err //nolint:wrapcheck // says what it did
		}
	}
	mark.State = database.Undone
	return r.own.Mark(ctx, q, mark) //nolint:wrapcheck // says what it did
}

// dropTool removes the tool's table that this step made, once nothing but its
// first row is in it.
func (r *run) dropTool(ctx context.Context, w database.Marker) error {
	tables, err := r.d.Tables(ctx, r.conn)
	if err != nil {
		return err //nolint:wrapcheck // says what it did
	}
	drop := func(q database.Querier) error {
		if err := r.own.Fence(ctx, q); err != nil {
			return err //nolint:wrapcheck // says what it did
		}
		if _, there := tables[r.body.Table]; there {
			if err := r.tool.Drop(ctx, q); err != nil {
				return err //nolint:wrapcheck // says what it did
			}
		}
		return r.own.Unmark(ctx, q, w) //nolint:wrapcheck // says what it did
	}
	if !r.d.Transactional() {
		return drop(r.conn)
	}
	tx, err := r.conn.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("begin: %w", r.d.Classify(err))
	}
	if err := drop(tx); err != nil {
		_ = tx.Rollback() // the error says why
		return err
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit: %w", r.d.Classify(err))
	}
	return nil
}

func list(names []string) string {
	const most = 5
	if len(names) > most {
		names = append(slices.Clone(names[:most]), fmt.Sprintf("and %d more", len(names)-most))
	}
	text := ""
	for i, n := range names {
		if i > 0 {
			text += ", "
		}
		text += n
	}
	return text
}
