package promote

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/migration/database"
	"github.com/backstay-dev/backstay/internal/driver/migration/postgres"
	"github.com/backstay-dev/backstay/internal/driver/migration/session"
)

const notesTable = database.OwnPrefix + "promote"

// The states of a promotion, as its row tells them.
const (
	fenced    = "fenced"    // the old primary takes no connections
	promoting = "promoting" // nothing was committed after this row: a standby that shows it may be promoted
	promoted  = "promoted"  // on the new primary: its databases are open
)

// server is a session with the maintenance database of one server.
type server struct {
	d       postgres.Dialect
	db      *sql.DB
	conn    *sql.Conn
	address string // a reference
	system  string
	keep    string // the maintenance database, which stays open
}

// open connects to the maintenance database of the server of a reference.
func open(ctx context.Context, secrets backstay.Secrets, address, maintenance string) (*server, error) {
	fail := func(err error) error {
		return &backstay.Error{Class: backstay.ClassOf(err), Op: "open the server of", Subject: address, Err: err, Hint: "check that it runs and can be reached from here"}
	}
	url, err := session.URL(secrets, address)
	if err != nil {
		return nil, err //nolint:wrapcheck // says what it did
	}
	if scheme, _, _ := strings.Cut(url, ":"); scheme != "postgres" && scheme != "postgresql" {
		return nil, fail(errors.New("it is no URL of PostgreSQL"))
	}
	if url, err = database.WithDatabase(url, maintenance); err != nil {
		return nil, fail(errors.New("it is no URL of PostgreSQL"))
	}
	s := &server{address: address, keep: maintenance}
	if s.db, err = s.d.Open(url, ""); err != nil {
		return nil, fail(err)
	}
	if s.conn, err = s.db.Conn(ctx); err == nil {
		err = s.conn.QueryRowContext(ctx, "SELECT system_identifier::text FROM pg_control_system()").Scan(&s.system)
	}
	if err != nil {
		return nil, errors.Join(fail(s.d.Classify(err)), s.close())
	}
	return s, nil
}

func (s *server) close() error {
	var err error
	if s.conn != nil {
		if err = s.conn.Close(); errors.Is(err, sql.ErrConnDone) {
			err = nil
		}
	}
	return errors.Join(err, s.db.Close())
}

func (s *server) fail(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s of %s: %w", what, s.address, s.d.Classify(err))
}

// state is what is read of a server.
type state struct {
	Recovery bool     `json:"recovery"` // it is a standby
	Open     []string `json:"open"`     // databases that take connections, but for the maintenance one
}

func (s *server) state(ctx context.Context) (out state, err error) {
	if err := s.conn.QueryRowContext(ctx, "SELECT pg_is_in_recovery()").Scan(&out.Recovery); err != nil {
		return out, s.fail("read the state", err)
	}
	out.Open = []string{}
	rows, err := s.conn.QueryContext(ctx, "SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate AND datname <> $1 ORDER BY 1", s.keep)
	if err != nil {
		return out, s.fail("list the databases", err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return out, s.fail("list the databases", err)
		}
		out.Open = append(out.Open, name)
	}
	return out, s.fail("list the databases", rows.Err())
}

// note is a promotion's row.
type note struct {
	State     string
	Databases []string // that were open, and will be
}

// note reads the row as this server has it; the zero value where there is none.
func (s *server) note(ctx context.Context, deployment, step string) (n note, err error) {
	var databases string
	err = s.conn.QueryRowContext(ctx, "SELECT state, databases FROM "+notesTable+" WHERE deployment = $1 AND step = $2", deployment, step).Scan(&n.State, &databases)
	if errors.Is(err, sql.ErrNoRows) || s.d.Missing(err) {
		return n, nil
	}
	if err == nil {
		err = json.Unmarshal([]byte(databases), &n.Databases)
	}
	return n, s.fail("read the note", err)
}

// transaction runs an act on a primary behind the deployment's fence.
func (s *server) transaction(ctx context.Context, own database.Own, act func(*sql.Tx) error) error {
	tx, err := s.conn.BeginTx(ctx, nil)
	if err != nil {
		return s.fail("begin on the server", err)
	}
	if err = own.Fence(ctx, tx); err == nil {
		err = act(tx)
	}
	if err != nil {
		_ = tx.Rollback() // the error says why
		return err        //nolint:wrapcheck // from functions that say what they did
	}
	return s.fail("commit on the server", tx.Commit())
}

// allow opens databases, or closes them to everybody.
func (s *server) allow(ctx context.Context, tx *sql.Tx, databases []string, yes bool) error {
	for _, name := range databases {
		if _, err := tx.ExecContext(ctx, fmt.Sprintf("ALTER DATABASE %s ALLOW_CONNECTIONS %t", s.d.Quote(name), yes)); err != nil {
			return s.fail("open or close database "+name, err)
		}
	}
	return nil
}

// end ends the sessions of databases, and returns once none is left.
func (s *server) end(ctx context.Context, databases []string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errors.New("sessions go on"))
	defer cancel()
	list, err := json.Marshal(databases)
	if err != nil {
		return err //nolint:wrapcheck // never
	}
	for {
		var left int
		err := s.conn.QueryRowContext(ctx, "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname IN (SELECT json_array_elements_text($1::json)) AND pid <> pg_backend_pid()", string(list)).Scan(&left)
		if err != nil {
			return s.fail("end the sessions", errors.Join(context.Cause(ctx), err))
		}
		if left == 0 {
			return nil
		}
		if err := rest(ctx); err != nil {
			return s.fail("end the sessions", err)
		}
	}
}

// rest waits a moment.
func rest(ctx context.Context) error {
	select {
	case <-time.After(10 * time.Millisecond):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
