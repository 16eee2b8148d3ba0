package ledger

import (
	"context"
	"fmt"
	"strconv"

	"github.com/google/uuid"

	"github.com/backstay-dev/backstay"
)

// migrate brings the tables to SchemaVersion and returns the ledger's ID. The
// version stands in the transaction that changes the tables, so that two
// processes that open a new ledger at once make one. (A migration library
// keeps its version in a table of its own, outside of that transaction's
// check, and takes no lock on SQLite.)
func (s *Store) migrate(ctx context.Context) (string, error) {
	version, id, err := s.schema(ctx, s.backend.Read)
	if err == nil && (version == SchemaVersion || version > SchemaVersion || s.backend.ReadOnly) {
		return id, s.checkSchema(version)
	}
	if s.backend.ReadOnly {
		return "", s.reading("open ledger", s.backend.Where, err)
	}
	tx, err := s.backend.Write.BeginTx(ctx, nil)
	if err != nil {
		return "", s.reading("open ledger", s.backend.Where, err)
	}
	defer tx.Rollback()
	if s.backend.Exclusive != "" {
		if _, err := tx.ExecContext(ctx, s.backend.Exclusive); err != nil {
			return "", s.reading("lock schema of", s.backend.Where, err)
		}
	}
	if _, err := tx.ExecContext(ctx, "CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)"); err != nil {
		return "", s.reading("create tables in", s.backend.Where, err)
	}
	if version, id, err = s.schema(ctx, tx); err != nil {
		return "", s.reading("read schema version of", s.backend.Where, err)
	}
	if version > SchemaVersion {
		return "", s.checkSchema(version)
	}
	for v := version; v < SchemaVersion; v++ {
		for _, stmt := range statements(s.backend.Schema[v]) {
			if _, err := tx.ExecContext(ctx, stmt); err != nil {
				return "", s.reading(fmt.Sprintf("bring schema to version %d in", v+1), s.backend.Where, err)
			}
		}
	}
	if version == 0 {
		if id, err = s.found(ctx, tx); err != nil {
			return "", s.reading("create ledger in", s.backend.Where, err)
		}
	}
	const set = "INSERT INTO meta (key, value) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
	if _, err := tx.ExecContext(ctx, set, "schema_version", strconv.Itoa(SchemaVersion)); err != nil {
		return "", s.reading("record schema version in", s.backend.Where, err)
	}
	return id, s.reading("create tables in", s.backend.Where, tx.Commit())
}

// found writes the first rows of a new ledger.
func (s *Store) found(ctx context.Context, q querier) (string, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return "", err
	}
	if _, err := q.ExecContext(ctx, "INSERT INTO meta (key, value) VALUES ($1, $2)", "ledger_id", id.String()); err != nil {
		return "", err
	}
	root := emptyRoot()
	_, err = q.ExecContext(ctx, "INSERT INTO head (id, size, root, version, generation) VALUES (1, 0, $1, 0, 1)", root[:])
	return id.String(), err
}

// schema reads the version of the tables (0: none yet) and the ledger's ID.
func (s *Store) schema(ctx context.Context, q querier) (version int, id string, err error) {
	rows, err := q.QueryContext(ctx, "SELECT key, value FROM meta WHERE key IN ('schema_version', 'ledger_id')")
	if err != nil {
		return 0, "", err
	}
	defer rows.Close()
	for rows.Next() {
		var key, value string
		if err := rows.Scan(&key, &value); err != nil {
			return 0, "", err
		}
		if key == "ledger_id" {
			id = value
			continue
		}
		if version, err = strconv.Atoi(value); err != nil || version < 1 {
			return 0, "", fmt.Errorf("%w: schema version %q", ErrDamaged, value)
		}
	}
	return version, id, rows.Err()
}

func (s *Store) checkSchema(version int) error {
	if version == SchemaVersion {
		return nil
	}
	e := &backstay.RefusedError{
		What: "state",
		Err:  fmt.Errorf("%s has schema version %d, this backstay knows version %d", s.backend.Where, version, SchemaVersion),
		Hint: "use the backstay version that wrote it, or a newer one",
	}
	if version < SchemaVersion {
		e.Hint = "open it for writing once with this backstay version"
	}
	return e
}
