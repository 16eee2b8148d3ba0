package database

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/backstay-dev/backstay"
)

// kept is what is known of a side table.
type kept struct {
	Added
	Columns []string `json:"columns"`
	Key     []string `json:"key,omitempty"`
}

// side names the table that keeps values: the same for every attempt.
func (o Own) side(version string, a Added) string {
	sum := sha256.Sum256([]byte(o.deployment + "\x00" + o.step + "\x00" + version + "\x00" + a.String()))
	return keptTable + "_" + hex.EncodeToString(sum[:6])
}

// columns are those of a table that hold values, or the key and the one column.
func columns(a Added, t Table) ([]string, error) {
	if a.Column != "" {
		if len(t.Key) == 0 {
			return nil, fmt.Errorf("keep the values of %s: the table has no primary key to find their rows by: %w", a, backstay.ErrNoUndo)
		}
		return append(slices.Clone(t.Key), a.Column), nil
	}
	var all []string
	for name, c := range t.Columns {
		if !c.Computed {
			all = append(all, name)
		}
	}
	slices.Sort(all)
	return all, nil
}

// Keep copies values into a side table, within the transaction that drops them.
func (o Own) Keep(ctx context.Context, q Querier, version string, a Added, t Table) (string, error) {
	side, err := o.Side(ctx, q, version, a, t)
	if err != nil {
		return "", err
	}
	return side, o.Fill(ctx, q, side, a, t)
}

// Side makes the empty side table and the row that says what it is for.
func (o Own) Side(ctx context.Context, q Querier, version string, a Added, t Table) (string, error) {
	cols, err := columns(a, t)
	if err != nil {
		return "", err
	}
	side := o.side(version, a)
	for _, statement := range []string{
		"CREATE TABLE IF NOT EXISTS " + side + " AS SELECT " + strings.Join(cols, ", ") + " FROM " + t.Name + " WHERE 1 = 0",
		o.d.Bind("DELETE FROM "+keptTable+" WHERE id = '") + side + "'",
	} {
		if _, err := q.ExecContext(ctx, statement); err != nil {
			return "", fmt.Errorf("keep the values of %s: %w", a, o.d.Classify(err))
		}
	}
	detail := kept{Added: a, Columns: cols, Key: t.Key}
	_, err = q.ExecContext(ctx, o.d.Bind("INSERT INTO "+keptTable+" (id, version, deployment, source, detail, restored, at) VALUES (?, ?, ?, ?, ?, '', ?)"),
		side, version, o.deployment, a.String(), string(backstay.Canonical(detail)), time.Now().UTC().Format(time.RFC3339Nano))
	if err != nil {
		return "", fmt.Errorf("keep the values of %s: %w", a, o.d.Classify(err))
	}
	return side, nil
}

// Fill copies the values. It begins anew where an earlier attempt was cut off.
func (o Own) Fill(ctx context.Context, q Querier, side string, a Added, t Table) error {
	cols, err := columns(a, t)
	if err != nil {
		return err
	}
	where := ""
	if a.Column != "" {
		where = " WHERE " + a.Column + " IS NOT NULL"
	}
	for _, statement := range []string{
		"DELETE FROM " + side,
		"INSERT INTO " + side + " (" + strings.Join(cols, ", ") + ") SELECT " + strings.Join(cols, ", ") + " FROM " + t.Name + where,
	} {
		if _, err := q.ExecContext(ctx, statement); err != nil {
			return fmt.Errorf("keep the values of %s: %w", a, o.d.Classify(err))
		}
	}
	return nil
}

// Restore puts back what an earlier undo of this version kept.
func (o Own) Restore(ctx context.Context, q Querier, version string, tables Tables) (err error) {
	all, err := o.waiting(ctx, q, version)
	if err != nil {
		return err
	}
	for id, k := range all {
		t, there := tables[k.Table]
		if !there {
			continue
		}
		var cols []string
		for _, c := range k.Columns {
			if t.Has(c) {
				cols = append(cols, c)
			}
		}
		statement := "INSERT INTO " + t.Name + " (" + strings.Join(cols, ", ") + ") SELECT " + strings.Join(cols, ", ") + " FROM " + id + " kept WHERE NOT EXISTS (SELECT 1 FROM " + t.Name + " t WHERE " + match(k.Key, cols) + ")"
		if k.Column != "" {
			if !t.Has(k.Column) {
				continue
			}
			statement = "UPDATE " + t.Name + " SET " + k.Column + " = (SELECT kept." + k.Column + " FROM " + id + " kept WHERE " + matchTo(k.Key, t.Name) + ") WHERE EXISTS (SELECT 1 FROM " + id + " kept WHERE " + matchTo(k.Key, t.Name) + ")"
		}
		if _, err := q.ExecContext(ctx, statement); err != nil {
			return fmt.Errorf("put back the kept values of %s: %w", k.Added, o.d.Classify(err))
		}
		if _, err := q.ExecContext(ctx, o.d.Bind("UPDATE "+keptTable+" SET restored = ? WHERE id = ?"), o.deployment, id); err != nil {
			return fmt.Errorf("put back the kept values of %s: %w", k.Added, o.d.Classify(err))
		}
	}
	return nil
}

// match compares kept rows with those of the table t by their key, or, without
// one, by nothing: all are put back.
func match(key, cols []string) string {
	if len(key) == 0 || slices.ContainsFunc(key, func(c string) bool { return !slices.Contains(cols, c) }) {
		return "1 = 0"
	}
	return matchTo(key, "t")
}

func matchTo(key []string, table string) string {
	var parts []string
	for _, c := range key {
		parts = append(parts, "kept."+c+" = "+table+"."+c)
	}
	return strings.Join(parts, " AND ")
}

func (o Own) waiting(ctx context.Context, q Querier, version string) (all map[string]kept, err error) {
	rows, err := q.QueryContext(ctx, o.d.Bind("SELECT id, detail FROM "+keptTable+" WHERE version = ? AND restored = ''"), version)
	if err != nil {
		return nil, fmt.Errorf("look for kept values: %w", o.d.Classify(err))
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	all = map[string]kept{}
	for rows.Next() {
		var id, detail string
		var k kept
		if err := rows.Scan(&id, &detail); err != nil {
			return nil, fmt.Errorf("look for kept values: %w", err)
		}
		if err := json.Unmarshal([]byte(detail), &k); err != nil {
			return nil, fmt.Errorf("look for kept values: %w", err)
		}
		if strings.HasPrefix(id, keptTable+"_") && strings.Trim(id, "abcdefghijklmnopqrstuvwxyz0123456789_") == "" {
			all[id] = k
		}
	}
	return all, rows.Err() //nolint:wrapcheck // the caller has only this one error of it
}

// Release lets the values that this deployment put back wait again: its own undo
// takes them away.
func (o Own) Release(ctx context.Context, q Querier, version string) error {
	_, err := q.ExecContext(ctx, o.d.Bind("UPDATE "+keptTable+" SET restored = '' WHERE version = ? AND restored = ?"), version, o.deployment)
	if err != nil {
		return fmt.Errorf("release kept values: %w", o.d.Classify(err))
	}
	return nil
}
