package database

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/backstay-dev/backstay/internal/driver/migration/files"
)

// VersionTable is the table in which a tool keeps what is applied.
type VersionTable struct {
	Convention files.Convention
	// Table is quoted.
	Table string
	d     Dialect
}

// DefaultTable is the name that a tool uses unless it is told another.
func DefaultTable(c files.Convention) string {
	switch c {
	case files.Goose:
		return "goose_db_version"
	case files.Flyway:
		return "flyway_schema_history"
	case files.GolangMigrate, files.Dbmate:
		return "schema_migrations"
	}
	return ""
}

// NewVersionTable names a tool's table.
func NewVersionTable(d Dialect, c files.Convention, table string) VersionTable {
	return VersionTable{Convention: c, Table: table, d: d}
}

// Applied is what the table says.
type Applied struct {
	// Exists is false where there is no such table yet.
	Exists bool `json:"exists"`
	// Versions in the order in which they were applied. golang-migrate keeps one
	// only: the newest.
	Versions []string `json:"versions"`
	// Dirty is the version that a tool left half done, by its own account.
	Dirty string `json:"dirty,omitempty"`
	// Checksums are those that the tool keeps (Flyway).
	Checksums map[string]int32 `json:"checksums,omitempty"`
}

// Has reports whether a version is applied.
func (a Applied) Has(version string) bool { return slices.Contains(a.Versions, version) }

// Read reads the table. present says whether it is there.
func (v VersionTable) Read(ctx context.Context, q Querier, present bool) (Applied, error) {
	if !present {
		return Applied{Versions: []string{}}, nil
	}
	var a Applied
	var err error
	switch v.Convention {
	case files.Goose:
		a, err = v.readGoose(ctx, q)
	case files.GolangMigrate:
		a, err = v.readPair(ctx, q)
	case files.Flyway:
		a, err = v.readFlyway(ctx, q)
	case files.Dbmate:
		a, err = v.readDbmate(ctx, q)
	}
	if err != nil {
		return Applied{}, fmt.Errorf("read %s: %w", v.Table, v.d.Classify(err))
	}
	a.Exists = true
	if a.Versions == nil {
		a.Versions = []string{}
	}
	return a, nil
}

func (v VersionTable) readGoose(ctx context.Context, q Querier) (a Applied, err error) {
	rows, err := q.QueryContext(ctx, "SELECT version_id, is_applied FROM "+v.Table+" ORDER BY id DESC")
	if err != nil {
		return a, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	seen := map[int64]bool{}
	for rows.Next() {
		var version int64
		var applied bool
		if err := rows.Scan(&version, &applied); err != nil {
			return a, err
		}
		if !seen[version] && applied && version != 0 {
			a.Versions = append(a.Versions, strconv.FormatInt(version, 10))
		}
		seen[version] = true
	}
	slices.Reverse(a.Versions)
	return a, rows.Err()
}

func (v VersionTable) readPair(ctx context.Context, q Querier) (a Applied, err error) {
	rows, err := q.QueryContext(ctx, "SELECT version, dirty FROM "+v.Table)
	if err != nil {
		return a, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var version int64
		var dirty bool
		if err := rows.Scan(&version, &dirty); err != nil {
			return a, err
		}
		text := strconv.FormatInt(version, 10)
		a.Versions = append(a.Versions, text)
		if dirty {
			a.Dirty = text
		}
	}
	return a, rows.Err()
}

func (v VersionTable) readFlyway(ctx context.Context, q Querier) (a Applied, err error) {
	rows, err := q.QueryContext(ctx, "SELECT version, type, checksum, success FROM "+v.Table+" WHERE version IS NOT NULL ORDER BY installed_rank")
	if err != nil {
		return a, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	a.Checksums = map[string]int32{}
	for rows.Next() {
		var version, kind string
		var sum *int32
		var success bool
		if err := rows.Scan(&version, &kind, &sum, &success); err != nil {
			return a, err
		}
		switch {
		case !success:
			a.Dirty = version
		case kind == "UNDO_SQL" || kind == "DELETE":
			a.Versions = slices.DeleteFunc(a.Versions, func(s string) bool { return s == version })
			delete(a.Checksums, version)
			continue
		}
		a.Versions = append(a.Versions, version)
		if sum != nil {
			a.Checksums[version] = *sum
		}
	}
	return a, rows.Err()
}

func (v VersionTable) readDbmate(ctx context.Context, q Querier) (a Applied, err error) {
	rows, err := q.QueryContext(ctx, "SELECT version FROM "+v.Table+" ORDER BY version")
	if err != nil {
		return a, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var version string
		if err := rows.Scan(&version); err != nil {
			return a, err
		}
		a.Versions = append(a.Versions, version)
	}
	return a, rows.Err()
}

// Create makes the table as its tool would.
func (v VersionTable) Create(ctx context.Context, q Querier) error {
	for _, statement := range v.d.ToolTable(v.Convention, v.Table) {
		if _, err := q.ExecContext(ctx, statement); err != nil {
			return fmt.Errorf("create %s: %w", v.Table, v.d.Classify(err))
		}
	}
	if v.Convention != files.Goose {
		return nil
	}
	return v.exec(ctx, q, "INSERT INTO "+v.Table+" (version_id, is_applied) VALUES (?, ?)", 0, true)
}

// Drop removes the table that Create made, where nothing but what it put there
// is in it. Otherwise it stays.
func (v VersionTable) Drop(ctx context.Context, q Querier) error {
	a, err := v.Read(ctx, q, true)
	if err != nil || len(a.Versions) > 0 {
		return err
	}
	return v.exec(ctx, q, "DROP TABLE "+v.Table)
}

// Entry is what is written about one migration.
type Entry struct {
	Version  string
	Name     string
	Script   string
	Checksum int32
	Took     time.Duration
	By       string
}

// Add notes a migration as applied.
func (v VersionTable) Add(ctx context.Context, q Querier, e Entry) error {
	switch v.Convention {
	case files.Goose:
		return v.exec(ctx, q, "INSERT INTO "+v.Table+" (version_id, is_applied) VALUES (?, ?)", e.number(), true)
	case files.GolangMigrate:
		if err := v.exec(ctx, q, "DELETE FROM "+v.Table); err != nil {
			return err
		}
		return v.exec(ctx, q, "INSERT INTO "+v.Table+" (version, dirty) VALUES (?, ?)", e.number(), false)
	case files.Flyway:
		var rank int
		if err := q.QueryRowContext(ctx, "SELECT COALESCE(MAX(installed_rank), 0) + 1 FROM "+v.Table).Scan(&rank); err != nil {
			return fmt.Errorf("write %s: %w", v.Table, v.d.Classify(err))
		}
		return v.exec(ctx, q, "INSERT INTO "+v.Table+" (installed_rank, version, description, type, script, checksum, installed_by, execution_time, success)"+
			" VALUES (?, ?, ?, 'SQL', ?, ?, ?, ?, ?)", rank, e.Version, e.Name, e.Script, e.Checksum, e.By, e.Took.Milliseconds(), true)
	case files.Dbmate:
		return v.exec(ctx, q, "INSERT INTO "+v.Table+" (version) VALUES (?)", e.Version)
	}
	return fmt.Errorf("there is no version table of %q", v.Convention)
}

// Remove takes a migration out. before is the version that was the newest one
// ahead of it, for tools that keep only that; empty: none.
func (v VersionTable) Remove(ctx context.Context, q Querier, version, before string) error {
	switch v.Convention {
	case files.Goose:
		return v.exec(ctx, q, "DELETE FROM "+v.Table+" WHERE version_id = ?", Entry{Version: version}.number())
	case files.GolangMigrate:
		if err := v.exec(ctx, q, "DELETE FROM "+v.Table); err != nil || before == "" {
			return err
		}
		return v.exec(ctx, q, "INSERT INTO "+v.Table+" (version, dirty) VALUES (?, ?)", Entry{Version: before}.number(), false)
	case files.Flyway, files.Dbmate:
		return v.exec(ctx, q, "DELETE FROM "+v.Table+" WHERE version = ?", version)
	}
	return fmt.Errorf("there is no version table of %q", v.Convention)
}

func (e Entry) number() int64 {
	n, _ := strconv.ParseInt(e.Version, 10, 64) // files read it as one
	return n
}

func (v VersionTable) exec(ctx context.Context, q Querier, query string, args ...any) error {
	if _, err := q.ExecContext(ctx, v.d.Bind(query), args...); err != nil {
		return fmt.Errorf("write %s: %w", v.Table, v.d.Classify(err))
	}
	return nil
}
