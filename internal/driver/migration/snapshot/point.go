package snapshot

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/migration/database"
	"github.com/backstay-dev/backstay/internal/driver/migration/session"
)

// pointTable holds the restore points that were made and archived.
const pointTable = database.OwnPrefix + "snapshot"

// point is a named place in PostgreSQL's log.
type point struct {
	*session.Session
	body
	call             backstay.Call
	deployment, step string
}

var _ method = (*point)(nil)

// place is what the ledger holds of a restore point.
type place struct {
	Name string `json:"name"`
	LSN  string `json:"lsn"`
	// File is the segment of the log, named by timeline and place.
	File string `json:"file"`
}

// archives says why a server's log cannot be restored from; empty: it can, as far
// as the server knows.
func archives(ctx context.Context, s *session.Session) (why, hint string) {
	if s.Dialect.Name() != "postgres" {
		return "only PostgreSQL has restore points", "use method: dump"
	}
	var level, mode, command string
	var standby, may bool
	err := s.Conn.QueryRowContext(ctx, "SELECT current_setting('wal_level'), current_setting('archive_mode'),"+
		" current_setting('archive_command') || coalesce(current_setting('archive_library', true), ''), pg_is_in_recovery(),"+
		" has_function_privilege('pg_create_restore_point(text)', 'execute') AND has_function_privilege('pg_switch_wal()', 'execute')").Scan(&level, &mode, &command, &standby, &may)
	switch {
	case err != nil:
		return "ask the server for its archive: " + s.Dialect.Classify(err).Error(), ""
	case standby:
		return "the server is a standby: only a primary makes restore points", "point the URL at the primary"
	case level == "minimal":
		return "wal_level is minimal: the log holds too little to restore from", "set wal_level = replica"
	case mode == "off" || command == "" || command == "(disabled)":
		return "the server does not archive its log (archive_mode, archive_command)", "set up archiving and a base backup, or use method: dump"
	case !may:
		return "the user may not make restore points", "GRANT EXECUTE ON FUNCTION pg_create_restore_point(text), pg_switch_wal() TO the user"
	}
	return "", ""
}

func (p *point) close() error { return p.Close() } //nolint:wrapcheck // says what it did

func (p *point) fail(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, p.Dialect().Classify(err))
}

// Dialect is the session's; the body has the name of it.
func (p *point) Dialect() database.Dialect { return p.Session.Dialect }

func (p *point) newest(ctx context.Context) (any, error) {
	at, err := p.read(ctx, "SELECT name, lsn, file FROM "+pointTable+" ORDER BY made DESC LIMIT 1")
	if err != nil || at == nil {
		return nil, err
	}
	return *at, nil
}

func (p *point) taken(ctx context.Context) (bool, error) {
	at, err := p.read(ctx, "SELECT name, lsn, file FROM "+pointTable+" WHERE deployment = $1 AND step = $2", p.deployment, p.step)
	return at != nil, err
}

func (p *point) read(ctx context.Context, query string, args ...any) (*place, error) {
	var at place
	err := p.Conn.QueryRowContext(ctx, query, args...).Scan(&at.Name, &at.LSN, &at.File)
	switch {
	case errors.Is(err, sql.ErrNoRows), p.Dialect().Missing(err):
		return nil, nil //nolint:nilnil // there is none
	case err != nil:
		return nil, p.fail("look for restore points", err)
	}
	return &at, nil
}

// name is unique, and short enough for the log.
func (p *point) name() string {
	sum := sha256.Sum256([]byte(p.deployment + "\x00" + p.step))
	return "backstay_" + hex.EncodeToString(sum[:8])
}

// take makes the restore point, waits until the log up to it is archived, and
// notes it: what is noted can be restored from the archive.
func (p *point) take(ctx context.Context) (note string, err error) {
	if why, hint := archives(ctx, p.Session); why != "" {
		return "", &backstay.Error{Class: backstay.Permanent, Op: "make a restore point", Err: errors.New(why), Hint: hint}
	}
	_, err = p.Conn.ExecContext(ctx, "CREATE TABLE IF NOT EXISTS "+pointTable+" (deployment text, step text, name text NOT NULL, lsn text NOT NULL, file text NOT NULL, made timestamptz NOT NULL DEFAULT clock_timestamp(), PRIMARY KEY (deployment, step))")
	if err != nil {
		return "", p.fail("make Backstay's own table", err)
	}
	at := place{Name: p.name()}
	err = p.Conn.QueryRowContext(ctx, "SELECT lsn::text, pg_walfile_name(lsn) FROM pg_create_restore_point($1) lsn", at.Name).Scan(&at.LSN, &at.File)
	if err != nil {
		return "", p.fail("make a restore point", err)
	}
	if _, err := p.Conn.ExecContext(ctx, "SELECT pg_switch_wal()"); err != nil {
		return "", p.fail("end the segment of the log", err)
	}
	if err := p.archived(ctx, at); err != nil {
		return "", err
	}
	_, err = p.Conn.ExecContext(ctx, "INSERT INTO "+pointTable+" (deployment, step, name, lsn, file) VALUES ($1, $2, $3, $4, $5)", p.deployment, p.step, at.Name, at.LSN, at.File)
	return fmt.Sprintf("restore point %s at %s; segment %s is archived", at.Name, at.LSN, at.File), p.fail("note the restore point", err)
}

// archived waits for the archiver.
func (p *point) archived(ctx context.Context, at place) error {
	ctx, cancel := context.WithTimeoutCause(ctx, p.Within.Std(), errors.New("it is not archived in time (within)"))
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var failed string
	for {
		var last string
		err := p.Conn.QueryRowContext(ctx, "SELECT coalesce(last_archived_wal, ''), CASE WHEN last_failed_time > coalesce(last_archived_time, '-infinity') THEN last_failed_wal ELSE '' END FROM pg_stat_archiver").Scan(&last, &failed)
		switch {
		case ctx.Err() != nil:
		case err != nil:
			return p.fail("ask the archiver", err)
		case later(last, at.File):
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			why := fmt.Errorf("segment %s of the log: %w", at.File, context.Cause(ctx))
			if failed != "" {
				why = fmt.Errorf("%w; the archiver failed at %s", why, failed)
			}
			return &backstay.Error{Class: backstay.Permanent, Op: "archive the restore point", Err: why, Hint: "the server's log says why archive_command fails"}
		}
	}
}

// later reports whether what was archived last is the wanted segment or comes after
// it, in one timeline. What a base backup leaves is named by the segment that it
// began in, and says nothing of that one.
func later(last, want string) bool {
	const length = 24
	if len(last) < length || len(want) != length || !strings.HasPrefix(last, want[:8]) {
		return false
	}
	return last == want || last[:length] > want
}

// remove forgets the restore point; the log keeps its record.
func (p *point) remove(ctx context.Context) (note string, err error) {
	_, err = p.Conn.ExecContext(ctx, "DELETE FROM "+pointTable+" WHERE deployment = $1 AND step = $2", p.deployment, p.step)
	if p.Dialect().Missing(err) {
		return "", nil
	}
	return "", p.fail("forget the restore point", err)
}
