package migration

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/migration/database"
	"github.com/backstay-dev/backstay/internal/driver/migration/sqltext"
)

// names lists the tables and columns that are in after and not in before.
func names(before, after database.Tables) []database.Added {
	var all []database.Added
	for _, name := range slices.Sorted(maps.Keys(after)) {
		was, there := before[name]
		if !there {
			all = append(all, database.Added{Table: name})
			continue
		}
		for _, column := range slices.Sorted(maps.Keys(after[name].Columns)) {
			if _, there := was.Columns[column]; !there && !after[name].Columns[column].Computed {
				all = append(all, database.Added{Table: name, Column: column})
			}
		}
	}
	return all
}

// added lists what a migration added, with the values that it put there itself:
// they are not the running program's.
func (r *run) added(ctx context.Context, q database.Querier, before, after database.Tables) ([]database.Added, error) {
	all := names(before, after)
	all = slices.DeleteFunc(all, func(a database.Added) bool { return a.Table == r.body.Table })
	for i := range all {
		if all[i].Column == "" {
			all[i].Columns = slices.Sorted(maps.Keys(after[all[i].Table].Columns))
		}
		if err := r.measure(ctx, q, &all[i], after[all[i].Table]); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// measure counts the values of what was added.
func (r *run) measure(ctx context.Context, q database.Querier, a *database.Added, t database.Table) (err error) {
	a.Rows, a.Digest, err = r.d.Values(ctx, q, t.Only(a.Columns), a.Column)
	return err //nolint:wrapcheck // says what it did
}

// untouched lists the markers of earlier migrations of this step that added
// something into which nobody wrote since. What a script writes there is the
// deployment's own; one that writes nothing needs no list.
func (r *run) untouched(ctx context.Context, q database.Querier, s script, m marks, tables database.Tables) ([]database.Marker, error) {
	if keeps, err := r.keeps(s); err != nil || keeps {
		return nil, err
	}
	var all []database.Marker
	for _, version := range slices.Sorted(maps.Keys(m.whole)) {
		mark := m.whole[version]
		if mark.State != database.Ended || len(mark.Detail.Added) == 0 {
			continue
		}
		lost, _, err := r.written(ctx, q, mark.Detail.Added, tables)
		if err != nil {
			return nil, err
		}
		if len(lost) == 0 {
			all = append(all, mark)
		}
	}
	return all, nil
}

// keeps reports whether a script certainly changes no value of what stays.
func (r *run) keeps(s script) (bool, error) {
	all, err := r.load(s)
	return !slices.ContainsFunc(all, func(st sqltext.Statement) bool { return !st.Keeps }), err
}

// untouchedBut is untouched without one version, by the markers as they are now.
func (r *run) untouchedBut(ctx context.Context, q database.Querier, s script, version string, tables database.Tables) ([]database.Marker, error) {
	m, err := marked(ctx, r.own, r.target)
	if err != nil {
		return nil, err
	}
	delete(m.whole, version)
	return r.untouched(ctx, q, s, m, tables)
}

// measureAgain takes what a migration did to what earlier ones added into their
// markers.
func (r *run) measureAgain(ctx context.Context, q database.Querier, all []database.Marker, after database.Tables) error {
	for _, mark := range all {
		was := backstay.DigestJSON(mark.Detail.Added)
		added := slices.Clone(mark.Detail.Added)
		for i, a := range added {
			t, there := after[a.Table]
			if !there || a.Column != "" && !t.Has(a.Column) {
				continue
			}
			if err := r.measure(ctx, q, &added[i], t); err != nil {
				return err
			}
		}
		if backstay.DigestJSON(added) == was {
			continue
		}
		mark.Detail.Added = added
		if err := r.own.Mark(ctx, q, mark); err != nil {
			return err //nolint:wrapcheck // says what it did
		}
	}
	return nil
}

// written lists which of what a migration added holds values that it did not
// put there, in words.
func (r *run) written(ctx context.Context, q database.Querier, added []database.Added, tables database.Tables) (lost []database.Added, words []string, err error) {
	for _, a := range added {
		t, there := tables[a.Table]
		if _, column := t.Columns[a.Column]; !there || a.Column != "" && !column {
			continue
		}
		n, digest, err := r.d.Values(ctx, q, t.Only(a.Columns), a.Column)
		switch {
		case err != nil:
			return nil, nil, err //nolint:wrapcheck // says what it did
		case n == 0 || n == a.Rows && digest == a.Digest:
			continue
		case a.Column == "":
			words = append(words, fmt.Sprintf("table %s holds %d rows, %d of them the migration's own", a.Table, n, a.Rows))
		default:
			words = append(words, fmt.Sprintf("column %s holds %d values, %d of them the migration's own", a, n, a.Rows))
		}
		lost = append(lost, a)
	}
	return lost, words, nil
}

// refuse is the refusal of an undo that would lose what was written.
func refuse(words []string) error {
	return &backstay.Error{
		Class: backstay.Permanent, Op: "keep what was written since", Err: fmt.Errorf("%s: %w", list(words), backstay.ErrNoUndo),
		Hint: "say `keep: true` before the deployment to have such values copied first; or move them away by hand, then retry the rollback",
	}
}

// refuseLoss looks whether any down would be refused, before the first runs.
func (r *run) refuseLoss(ctx context.Context, m marks) error {
	if r.body.Keep {
		return nil
	}
	tables, err := r.d.Tables(ctx, r.conn)
	if err != nil {
		return err //nolint:wrapcheck // says what it did
	}
	var all []string
	for _, c := range r.body.Pending {
		mark, ok := m.whole[c.Version]
		if !ok || mark.State != database.Ended {
			continue
		}
		_, words, err := r.written(ctx, r.conn, mark.Detail.Added, tables)
		if err != nil {
			return err
		}
		all = append(all, words...)
	}
	if len(all) > 0 {
		return refuse(all)
	}
	return nil
}

// exclude keeps writers away from what a down may drop until the transaction
// ends, and refuses to lose, or keeps, what they wrote.
func (r *run) exclude(ctx context.Context, tx *sql.Tx, version string, added []database.Added) error {
	tables, err := r.d.Tables(ctx, tx)
	if err != nil {
		return err //nolint:wrapcheck // says what it did
	}
	var affected []string
	for _, a := range added {
		if _, there := tables[a.Table]; there && !slices.Contains(affected, a.Table) {
			affected = append(affected, a.Table)
		}
	}
	if _, err := r.d.Exclude(ctx, tx, affected); err != nil {
		return err //nolint:wrapcheck // says what it did
	}
	lost, words, err := r.written(ctx, tx, added, tables)
	if err != nil || len(lost) == 0 {
		return err
	}
	if !r.body.Keep {
		return refuse(words)
	}
	for _, a := range lost {
		side, err := r.own.Keep(ctx, tx, version, a, tables[a.Table])
		if err != nil {
			return err //nolint:wrapcheck // says what it did
		}
		r.say("kept %s in %s", a, side)
	}
	return nil
}

// errSkip says that a statement has nothing of this deployment's to take back.
var errSkip = errors.New("nothing to take back")

// guard is for downs that no transaction protects: before a statement drops
// something, writers are kept out, and what they wrote is looked at. before are
// the tables ahead of the migration where only part of it was applied.
func (r *run) guard(mark database.Marker, before database.Tables) func(context.Context, sqltext.Statement) (func() error, []database.Added, error) {
	return func(ctx context.Context, st sqltext.Statement) (func() error, []database.Added, error) {
		nothing := func() error { return nil }
		tables, err := r.d.Tables(ctx, r.conn)
		if err != nil {
			return nil, nil, err //nolint:wrapcheck // says what it did
		}
		var affected []database.Added
		for _, d := range st.Drops {
			if d.Index != "" {
				if before != nil && before.HasIndex(d.Index) {
					return nil, nil, errSkip
				}
				continue
			}
			mine := slices.IndexFunc(mark.Detail.Added, func(a database.Added) bool {
				return a.Table == d.Table && (a.Column == "" || a.Column == d.Column)
			})
			switch t, there := tables[d.Table]; {
			case mine >= 0:
				affected = append(affected, mark.Detail.Added[mine])
			case before != nil:
				return nil, nil, errSkip
			case there && d.Column == "" || there && t.Has(d.Column):
				return nil, nil, &backstay.Error{
					Class: backstay.Permanent, Op: "run its down", Err: fmt.Errorf("it drops %s, which its up did not add: %w", d, backstay.ErrNoUndo),
					Hint: "mend the down; `backstay migrate verify` shows what a down leaves behind",
				}
			}
		}
		if len(affected) == 0 || r.d.Transactional() {
			return nothing, affected, nil
		}
		release, err := r.hold(ctx, mark.Version, affected, tables)
		return release, nil, err
	}
}

// hold locks the tables, and refuses to lose, or keeps, what was written.
func (r *run) hold(ctx context.Context, version string, affected []database.Added, tables database.Tables) (release func() error, err error) {
	var lock []string
	sides := map[string]string{}
	for _, a := range affected {
		if _, there := tables[a.Table]; there && !slices.Contains(lock, a.Table) {
			lock = append(lock, a.Table)
		}
		if r.body.Keep && tables[a.Table].Name != "" {
			// Made before the lock: nothing can be created under it.
			side, err := r.own.Side(ctx, r.conn, version, a, tables[a.Table])
			if err != nil {
				return nil, err //nolint:wrapcheck // says what it did
			}
			sides[a.String()] = side
			lock = append(lock, side)
		}
	}
	if release, err = r.d.Exclude(ctx, r.conn, lock); err != nil {
		return nil, err //nolint:wrapcheck // says what it did
	}
	lost, words, err := r.written(ctx, r.conn, affected, tables)
	if err == nil && len(lost) > 0 && !r.body.Keep {
		err = refuse(words)
	}
	for _, a := range lost {
		if err == nil {
			err = r.own.Fill(ctx, r.conn, sides[a.String()], a, tables[a.Table])
		}
	}
	if err != nil {
		return nil, errors.Join(err, release())
	}
	return release, nil
}

// lostBeside lists the tables and columns that are gone and were not added by
// the migration.
func lostBeside(before, after database.Tables, added []database.Added) []string {
	var lost []string
	for _, gone := range names(after, before) {
		mine := slices.ContainsFunc(added, func(a database.Added) bool {
			return a.Table == gone.Table && (a.Column == "" || a.Column == gone.Column)
		})
		if !mine {
			lost = append(lost, gone.String())
		}
	}
	return lost
}
