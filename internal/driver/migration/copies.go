package migration

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/migration/database"
	"github.com/backstay-dev/backstay/internal/driver/migration/sqltext"
)

// copies are the tables to copy before a migration because a statement of it
// destroys something (snapshot: table): all that the statement names.
func (p *preparer) copies(file string, st sqltext.Statement) (names []string) {
	if !p.cfg.Snapshot.Table {
		return nil
	}
	for _, f := range st.Findings {
		switch {
		case f.Effect != sqltext.Destructive:
			continue
		case f.Rule == "drop-schema" || f.Rule == "drop-owned":
			p.inFile(file, st.Line, f.Rule+" destroys tables that it does not name, which `snapshot: table` cannot copy", "say snapshot: {database: DIR}, the directory for a dump, or drop the tables one by one")
		default:
			names = p.names(st)
		}
	}
	return names
}

// copied are the tables that are there now and are to be copied.
func (p *preparer) copied() (names []string) {
	for _, c := range p.body.Pending {
		for _, t := range p.body.toCopy(c, p.tables) {
			if name := bare(t.Name); !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names
}

// toCopy are the tables that are there, of those that are copied before a migration.
func (b body) toCopy(c change, tables database.Tables) (all []database.Table) {
	for _, name := range slices.Sorted(maps.Keys(tables)) {
		if name != b.Table && slices.Contains(c.Copy, spelled(b.Dialect, name)) {
			all = append(all, tables[name])
		}
	}
	return all
}

// copyTables copies the tables of a migration while nobody else uses them: until
// the transaction ends, or, without one, until they are copied.
func (r *run) copyTables(ctx context.Context, q database.Querier, c change, tables database.Tables) (copies []database.Copy, err error) {
	todo := r.body.toCopy(c, tables)
	if len(todo) == 0 {
		return nil, nil
	}
	sides, locked := make([]string, len(todo)), make([]string, 0, 2*len(todo))
	for i, t := range todo {
		// Made before the lock: nothing can be created under MariaDB's.
		sides[i] = r.own.CopySide(c.Version, t.Name)
		if err := r.own.NewCopy(ctx, q, sides[i], t); err != nil {
			return nil, err //nolint:wrapcheck // says what it did
		}
		locked = append(locked, t.Name, sides[i])
	}
	release, err := r.d.Exclude(ctx, q, locked)
	if err != nil {
		return nil, err //nolint:wrapcheck // says what it did
	}
	defer func() { err = errors.Join(err, release()) }()
	for i, t := range todo {
		done, err := r.own.FillCopy(ctx, q, sides[i], t)
		if err != nil {
			return nil, err //nolint:wrapcheck // says what it did
		}
		r.say("copied %s of %s into %s", count(int(done.Rows), "row"), bare(t.Name), done.Side)
		copies = append(copies, done)
	}
	return copies, nil
}

// copyAlone copies before a migration that is not one transaction.
func (r *run) copyAlone(ctx context.Context, c change, tables database.Tables) (copies []database.Copy, err error) {
	if len(r.body.toCopy(c, tables)) == 0 {
		return nil, nil
	}
	if !r.d.Transactional() {
		if err := r.own.Fence(ctx, r.conn); err != nil {
			return nil, err //nolint:wrapcheck // says what it did
		}
		if copies, err = r.copyTables(ctx, r.conn, c, tables); err == nil {
			return copies, nil
		}
		for _, t := range r.body.toCopy(c, tables) { // half a copy is none
			err = errors.Join(err, r.own.DropCopy(context.WithoutCancel(ctx), r.conn, r.own.CopySide(c.Version, t.Name)))
		}
		return nil, err
	}
	tx, err := r.conn.BeginTx(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("begin: %w", r.d.Classify(err))
	}
	if err = r.own.Fence(ctx, tx); err == nil {
		copies, err = r.copyTables(ctx, tx, c, tables)
	}
	if err != nil {
		_ = tx.Rollback() // the error says why
		return nil, err   //nolint:wrapcheck // from functions that say what they did
	}
	if err := tx.Commit(); err != nil {
		return nil, fmt.Errorf("commit: %w", r.d.Classify(err))
	}
	return copies, nil
}

// notePatience bounds looking up what the note of a step tells.
const notePatience = 5 * time.Second

// noteApplied says how many migrations are applied, and what was copied before
// them by this attempt and those before it.
func (r *run) noteApplied(ctx context.Context, n int) backstay.Result {
	result := r.note("applied", n)
	if !slices.ContainsFunc(r.body.Pending, func(c change) bool { return len(c.Copy) > 0 }) {
		return result
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), notePatience)
	defer cancel()
	m, err := marked(ctx, r.own, r.target)
	if err != nil {
		return result // the step's own error says more
	}
	var copied, sides []string
	tell := func(mark database.Marker) {
		for _, c := range mark.Detail.Copies {
			copied = append(copied, fmt.Sprintf("%s (%s) in %s", bare(c.Table), count(int(c.Rows), "row"), c.Side))
			sides = append(sides, c.Side)
		}
	}
	for _, c := range r.body.Pending {
		if mark, whole := m.whole[c.Version]; whole {
			tell(mark)
		} else {
			tell(m.up[c.Version][database.Start])
		}
	}
	if len(copied) > 0 {
		result.Note += "; copied before that: " + strings.Join(copied, ", ") + "; DROP TABLE " + strings.Join(sides, ", ") + " once nobody needs them"
	}
	return result
}
