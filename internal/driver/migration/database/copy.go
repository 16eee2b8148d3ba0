package database

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/backstay-dev/backstay"
)

// Copy is a table that was copied whole, ahead of a statement that destroys
// something of it.
type Copy struct {
	Table string `json:"table"`
	Side  string `json:"side"` // the table that holds the copy; plain, needs no quotes
	Rows  int64  `json:"rows"`
}

// CopySide names the table for a copy: the same for every attempt, and told by
// people from others by the name of what it holds.
func (o Own) CopySide(version, table string) string {
	const most = 30
	plain := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '_':
			return r
		case r == '.':
			return '_'
		}
		return -1
	}, strings.ToLower(table))
	sum := sha256.Sum256([]byte(o.deployment + "\x00" + o.step + "\x00" + version + "\x00" + table))
	return OwnPrefix + "before_" + plain[:min(len(plain), most)] + "_" + hex.EncodeToString(sum[:6])
}

func all(t Table) string { return strings.Join(slices.Sorted(maps.Keys(t.Columns)), ", ") }

// NewCopy makes the empty table for a copy, anew where an earlier attempt left one.
func (o Own) NewCopy(ctx context.Context, q Querier, side string, t Table) error {
	for _, statement := range []string{
		"DROP TABLE IF EXISTS " + side,
		"CREATE TABLE " + side + " AS SELECT " + all(t) + " FROM " + t.Name + " WHERE 1 = 0",
	} {
		if _, err := q.ExecContext(ctx, statement); err != nil {
			return fmt.Errorf("copy %s: %w", t.Name, o.d.Classify(err))
		}
	}
	return nil
}

// FillCopy copies the rows and proves it: number and values of both are the same.
// Nobody else may write to the table meanwhile.
func (o Own) FillCopy(ctx context.Context, q Querier, side string, t Table) (Copy, error) {
	c := Copy{Table: t.Name, Side: side}
	if _, err := q.ExecContext(ctx, "INSERT INTO "+side+" ("+all(t)+") SELECT "+all(t)+" FROM "+t.Name); err != nil {
		return c, fmt.Errorf("copy %s: %w", t.Name, o.d.Classify(err))
	}
	rows, digest, err := o.d.Values(ctx, q, t, "")
	if err != nil {
		return c, err //nolint:wrapcheck // says what it did
	}
	twin := t
	twin.Name = side
	copied, same, err := o.d.Values(ctx, q, twin, "")
	if err != nil {
		return c, err //nolint:wrapcheck // says what it did
	}
	if c.Rows = rows; copied != rows || same != digest {
		return c, &backstay.Error{
			Class: backstay.Permanent, Op: "copy " + t.Name, Err: fmt.Errorf("the copy has %d rows and the table %d, or their values differ", copied, rows),
			Hint: "use snapshot: {database: DIR}, or a snapshot step",
		}
	}
	return c, nil
}

// DropCopy drops a copy.
func (o Own) DropCopy(ctx context.Context, q Querier, side string) error {
	if _, err := q.ExecContext(ctx, "DROP TABLE IF EXISTS "+side); err != nil {
		return fmt.Errorf("drop the copy %s: %w", side, o.d.Classify(err))
	}
	return nil
}
