package database

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/backstay-dev/backstay"
)

// The names of Backstay's own tables.
const (
	fenceTable  = OwnPrefix + "fence"
	markerTable = OwnPrefix + "marker"
	keptTable   = OwnPrefix + "kept"
)

// whole is the statement number of a marker that speaks for a migration.
const whole = -1

// Start is the number of the marker that is written before the first statement
// of a script that runs in pieces.
const Start = -2

// State is how far a migration, or a statement of it, came.
type State string

// The states of a marker. Undone ones stay, as evidence.
const (
	Begun  State = "begun"
	Ended  State = "done"
	Undone State = "undone"
)

// Direction is up or down.
type Direction string

// The directions.
const (
	Up   Direction = "up"
	Down Direction = "down"
)

// Marker is a row that says what a step of a deployment did to this database.
// It commits with what it speaks of, or right around it where the database
// cannot do that.
type Marker struct {
	Version   string
	Direction Direction
	Statement int // -1 for the migration as a whole
	State     State
	SHA256    string
	Detail    Detail
}

// Detail is what an undo needs to know of how things were.
type Detail struct {
	// Schema is the digest of the schema before a statement outside of a transaction.
	Schema string `json:"schema,omitempty"`
	// CreatedTable says that the tool's version table was not there.
	CreatedTable bool `json:"created_table,omitempty"`
	// Added are the tables and columns that came with the migration, with how
	// many values it put there itself.
	Added []Added `json:"added,omitempty"`
	// Tables are those ahead of a migration that runs in pieces.
	Tables Tables `json:"tables,omitempty"`
	// Previous is the tool's newest version ahead of the migration.
	Previous string `json:"previous,omitempty"`
	// Copies are the tables that were copied ahead of the migration.
	Copies []Copy `json:"copies,omitempty"`
}

// Added is a table, or a column of an older table, that a migration added.
type Added struct {
	Table  string `json:"table"`
	Column string `json:"column,omitempty"` // empty: the table
	// Columns are those that a table came with; Digest is of them.
	Columns []string `json:"columns,omitempty"`
	// Rows hold values of their own; Digest follows from those values.
	Rows   int64  `json:"rows,omitempty"`
	Digest string `json:"digest,omitempty"`
}

func (a Added) String() string {
	if a.Column == "" {
		return a.Table
	}
	return a.Table + "." + a.Column
}

// Own is Backstay's tables in one database, on behalf of one step.
type Own struct {
	d          Dialect
	deployment string
	step       string
	token      backstay.Token
}

// NewOwn names whose rows are read and written. For a step that reverts an
// earlier one these are the earlier one's.
func NewOwn(d Dialect, deployment, step string, token backstay.Token) Own {
	return Own{d: d, deployment: deployment, step: step, token: token}
}

// Ensure makes the tables. It does nothing where they are there.
func (o Own) Ensure(ctx context.Context, q Querier) error {
	text, long := "VARCHAR(128)", "TEXT"
	if o.d.Name() == "mysql" {
		long = "LONGTEXT"
	}
	for _, create := range []string{
		"CREATE TABLE IF NOT EXISTS " + fenceTable + " (deployment " + text + " NOT NULL PRIMARY KEY, generation BIGINT NOT NULL, epoch BIGINT NOT NULL)",
		"CREATE TABLE IF NOT EXISTS " + markerTable + " (deployment " + text + " NOT NULL, step " + text + " NOT NULL, version " + text + " NOT NULL, direction VARCHAR(8) NOT NULL," +
			" statement INTEGER NOT NULL, state VARCHAR(16) NOT NULL, sha256 VARCHAR(64) NOT NULL, epoch BIGINT NOT NULL, detail " + long + " NOT NULL, at VARCHAR(40) NOT NULL," +
			" PRIMARY KEY (deployment, step, version, direction, statement))",
		"CREATE TABLE IF NOT EXISTS " + keptTable + " (id " + text + " NOT NULL PRIMARY KEY, version " + text + " NOT NULL, deployment " + text + " NOT NULL," +
			" source VARCHAR(255) NOT NULL, detail " + long + " NOT NULL, restored VARCHAR(64) NOT NULL, at VARCHAR(40) NOT NULL)",
	} {
		if _, err := q.ExecContext(ctx, create); err != nil {
			return fmt.Errorf("make Backstay's own tables: %w", o.d.Classify(err))
		}
	}
	return nil
}

// Fence makes sure that nobody newer acted for this deployment, and that
// nobody older will. Within a transaction the row stays locked until its end;
// elsewhere there is the lease, which is asked first.
func (o Own) Fence(ctx context.Context, q Querier) error {
	fail := func(err error) error { return fmt.Errorf("check the fence: %w", o.d.Classify(err)) }
	if _, err := backstay.LeaseLeft(ctx); err != nil {
		return fmt.Errorf("check the fence: %w", err)
	}
	var generation, epoch int64
	err := q.QueryRowContext(ctx, o.d.Bind("SELECT generation, epoch FROM "+fenceTable+" WHERE deployment = ?"), o.deployment).Scan(&generation, &epoch)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		_, err := q.ExecContext(ctx, o.d.Bind("INSERT INTO "+fenceTable+" (deployment, generation, epoch) VALUES (?, ?, ?)"), o.deployment, o.token.Generation, o.token.Epoch)
		if err != nil {
			return fail(err)
		}
		return nil
	case err != nil:
		return fail(err)
	}
	// Written even where it stays the same: the row is locked until the end.
	res, err := q.ExecContext(ctx, o.d.Bind("UPDATE "+fenceTable+" SET generation = ?, epoch = ? WHERE deployment = ? AND (generation < ? OR (generation = ? AND epoch <= ?))"),
		o.token.Generation, o.token.Epoch, o.deployment, o.token.Generation, o.token.Generation, o.token.Epoch)
	if err != nil {
		return fail(err)
	}
	n, err := res.RowsAffected()
	if err != nil {
		return fail(err)
	}
	if n == 0 && !(generation == o.token.Generation && epoch == o.token.Epoch) { // MySQL counts changed rows
		return &backstay.Error{
			Class: backstay.Conflict, Op: "act on the database", Err: errors.New("a newer process acts for this deployment"),
			Hint: "run `backstay status`: it names the owner",
		}
	}
	return nil
}

// Markers are the step's rows.
func (o Own) Markers(ctx context.Context, q Querier) (all []Marker, err error) {
	rows, err := q.QueryContext(ctx, o.d.Bind("SELECT version, direction, statement, state, sha256, detail FROM "+markerTable+" WHERE deployment = ? AND step = ? ORDER BY version, direction, statement"), o.deployment, o.step)
	if err != nil {
		return nil, fmt.Errorf("read markers: %w", o.d.Classify(err))
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var m Marker
		var detail string
		if err := rows.Scan(&m.Version, &m.Direction, &m.Statement, &m.State, &m.SHA256, &detail); err != nil {
			return nil, fmt.Errorf("read markers: %w", err)
		}
		if err := json.Unmarshal([]byte(detail), &m.Detail); err != nil {
			return nil, fmt.Errorf("read marker of %s: %w", m.Version, err)
		}
		all = append(all, m)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read markers: %w", o.d.Classify(err))
	}
	return all, nil
}

// Sums are the checksums of the scripts that Backstay applied last, by version.
func (o Own) Sums(ctx context.Context, q Querier) (sums map[string]string, err error) {
	rows, err := q.QueryContext(ctx, "SELECT version, sha256 FROM "+markerTable+" WHERE direction = 'up' AND statement = -1 AND state = 'done' ORDER BY at")
	if err != nil {
		return nil, fmt.Errorf("read checksums: %w", o.d.Classify(err))
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	sums = map[string]string{}
	for rows.Next() {
		var version, sum string
		if err := rows.Scan(&version, &sum); err != nil {
			return nil, fmt.Errorf("read checksums: %w", err)
		}
		sums[version] = sum
	}
	return sums, rows.Err() //nolint:wrapcheck // the caller has only this one error of it
}

// Mark writes a marker over the one before it. Outside of a transaction too it is
// there at every moment: a marker that was lost between two statements would have
// its statement done twice.
func (o Own) Mark(ctx context.Context, q Querier, m Marker) error {
	fail := func(err error) error {
		return fmt.Errorf("write marker of %s: %w", m.Version, o.d.Classify(err))
	}
	detail, at := string(backstay.Canonical(m.Detail)), time.Now().UTC().Format(time.RFC3339Nano)
	res, err := q.ExecContext(ctx, o.d.Bind("UPDATE "+markerTable+" SET state = ?, sha256 = ?, epoch = ?, detail = ?, at = ? WHERE deployment = ? AND step = ? AND version = ? AND direction = ? AND statement = ?"),
		string(m.State), m.SHA256, o.token.Epoch, detail, at, o.deployment, o.step, m.Version, string(m.Direction), m.Statement)
	if err != nil {
		return fail(err)
	}
	n, err := res.RowsAffected()
	if err != nil {
		return fail(err)
	}
	if n > 0 {
		return nil
	}
	_, err = q.ExecContext(ctx, o.d.Bind("INSERT INTO "+markerTable+" (deployment, step, version, direction, statement, state, sha256, epoch, detail, at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"),
		o.deployment, o.step, m.Version, string(m.Direction), m.Statement, string(m.State), m.SHA256, o.token.Epoch, detail, at)
	if err != nil {
		return fail(err)
	}
	return nil
}

// Unmark removes a marker.
func (o Own) Unmark(ctx context.Context, q Querier, m Marker) error {
	return o.unmark(ctx, q, m.Version, m.Direction, m.Statement)
}

func (o Own) unmark(ctx context.Context, q Querier, version string, d Direction, statement int) error {
	_, err := q.ExecContext(ctx, o.d.Bind("DELETE FROM "+markerTable+" WHERE deployment = ? AND step = ? AND version = ? AND direction = ? AND statement = ?"),
		o.deployment, o.step, version, string(d), statement)
	if err != nil {
		return fmt.Errorf("write marker of %s: %w", version, o.d.Classify(err))
	}
	return nil
}

// Forget removes the statements' markers of a direction, once the migration has
// one that speaks for all of them.
func (o Own) Forget(ctx context.Context, q Querier, version string, d Direction) error {
	_, err := q.ExecContext(ctx, o.d.Bind("DELETE FROM "+markerTable+" WHERE deployment = ? AND step = ? AND version = ? AND direction = ? AND statement <> -1"),
		o.deployment, o.step, version, string(d))
	if err != nil {
		return fmt.Errorf("write marker of %s: %w", version, o.d.Classify(err))
	}
	return nil
}

// Whole is the marker that speaks for a migration.
func Whole(version string, d Direction, state State, sha256 string, detail Detail) Marker {
	return Marker{Version: version, Direction: d, Statement: whole, State: state, SHA256: sha256, Detail: detail}
}

// IsWhole reports whether a marker speaks for its migration.
func (m Marker) IsWhole() bool { return m.Statement == whole }
