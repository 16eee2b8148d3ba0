package promote

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/backstay-dev/backstay"
)

// most is how far the standby may be behind for the fence to be worth trying: what
// is left is replayed while everybody waits.
const most = 16 << 20 // bytes of the log

// ready says whether the fence is worth trying. Nothing is touched yet.
func (p *pair) ready(ctx context.Context) error {
	refuse := func(hint, format string, args ...any) error {
		return &backstay.Error{Class: backstay.Permanent, Op: "promote", Subject: p.body.Standby, Err: fmt.Errorf(format, args...), Hint: hint}
	}
	here, err := p.primary.state(ctx)
	if err != nil {
		return err
	}
	there, err := p.standby.state(ctx)
	switch {
	case err != nil:
		return err
	case here.Recovery:
		return refuse("point primary at the server that takes writes", "the primary is a standby itself")
	case !there.Recovery:
		return refuse("", "it is no standby: somebody promoted it")
	}
	var status, position string
	err = p.standby.conn.QueryRowContext(ctx, "SELECT coalesce((SELECT status FROM pg_stat_wal_receiver), 'none'), coalesce(pg_last_wal_replay_lsn(), '0/0')::text").Scan(&status, &position)
	if err != nil {
		return p.standby.fail("ask for the replication", err)
	}
	if status != "streaming" {
		return refuse("its log says why", "it is not streaming (its receiver is %s)", status)
	}
	var behind int64
	if err := p.primary.conn.QueryRowContext(ctx, "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), $1::pg_lsn)::bigint", position).Scan(&behind); err != nil {
		return p.primary.fail("ask for the replication", err)
	}
	if behind > most {
		return refuse("wait until it has caught up", "it is %d MiB behind: everybody would wait for that", behind>>20)
	}
	return nil
}

// fence closes the old primary and then says that it is closed: whatever was
// committed is in the log before that.
func (p *pair) fence(ctx context.Context) error {
	if err := p.own.Ensure(ctx, p.primary.conn); err != nil {
		return err //nolint:wrapcheck // says what it did
	}
	_, err := p.primary.conn.ExecContext(ctx, "CREATE TABLE IF NOT EXISTS "+notesTable+" (deployment text, step text, state text NOT NULL, databases text NOT NULL, PRIMARY KEY (deployment, step))")
	if err != nil {
		return p.primary.fail("make Backstay's own table", err)
	}
	here, err := p.primary.state(ctx)
	if err != nil {
		return err
	}
	err = p.primary.transaction(ctx, p.own, func(tx *sql.Tx) error {
		list, err := json.Marshal(here.Open)
		if err == nil {
			_, err = tx.ExecContext(ctx, "INSERT INTO "+notesTable+" (deployment, step, state, databases) VALUES ($1, $2, $3, $4)", p.deployment, p.step, fenced, string(list))
		}
		if err != nil {
			return p.primary.fail("write the note", err)
		}
		return p.primary.allow(ctx, tx, here.Open, false)
	})
	if err != nil {
		return err
	}
	if err := p.primary.end(ctx, here.Open); err != nil {
		return err
	}
	return p.primary.transaction(ctx, p.own, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "UPDATE "+notesTable+" SET state = $3 WHERE deployment = $1 AND step = $2", p.deployment, p.step, promoting)
		return p.primary.fail("write the note", err)
	})
}

// promote waits until the standby shows that nothing is left to replay, promotes
// it, and opens its databases.
func (p *pair) promote(ctx context.Context) error {
	waiting, cancel := context.WithTimeoutCause(ctx, p.body.Within.Std(), errors.New("the standby did not replay the rest in time (within)"))
	defer cancel()
	for {
		n, err := p.standby.note(waiting, p.deployment, p.step)
		if n.State == promoting {
			break
		}
		if err == nil {
			err = rest(waiting)
		}
		if err != nil {
			return fmt.Errorf("wait for the standby: %w", errors.Join(context.Cause(waiting), err))
		}
	}
	// A process that lost its lease does not come further than this.
	if err := p.primary.transaction(ctx, p.own, func(*sql.Tx) error { return nil }); err != nil {
		return err
	}
	return p.forward(ctx)
}

// forward promotes a standby that shows the row, where it is not promoted yet, and
// opens its databases.
func (p *pair) forward(ctx context.Context) error {
	n, err := p.standby.note(ctx, p.deployment, p.step)
	if err != nil {
		return err
	}
	there, err := p.standby.state(ctx)
	if err != nil {
		return err
	}
	if there.Recovery {
		var up bool
		err := p.standby.conn.QueryRowContext(ctx, "SELECT pg_promote(true, $1::int)", int(patience.Seconds())).Scan(&up)
		if err == nil && !up {
			err = errors.New("it was not promoted in time")
		}
		if err != nil {
			return p.standby.fail("promote the server", err)
		}
	}
	return p.standby.transaction(ctx, p.own, func(tx *sql.Tx) error {
		if err := p.standby.allow(ctx, tx, n.Databases, true); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, "UPDATE "+notesTable+" SET state = $3 WHERE deployment = $1 AND step = $2", p.deployment, p.step, promoted)
		return p.standby.fail("write the note", err)
	})
}

// settle brings what was begun to an end, by what the servers say: done where the
// standby is promoted. A standby that does not show the row was not promoted by
// this step, and the old primary may be opened again.
func (p *pair) settle(ctx context.Context) (done bool, err error) {
	there, err := p.standby.note(ctx, p.deployment, p.step)
	if err != nil {
		return false, err
	}
	switch there.State {
	case promoted:
		return true, nil
	case promoting:
		return true, p.forward(ctx)
	}
	state, err := p.standby.state(ctx)
	if err != nil {
		return false, err
	}
	here, err := p.primary.note(ctx, p.deployment, p.step)
	if err != nil || here.State == "" {
		return false, err
	}
	if !state.Recovery {
		return false, &backstay.Error{
			Class: backstay.Permanent, Op: "open the old primary again", Subject: p.body.Primary, Err: errors.New("somebody else promoted the standby: two primaries would take writes"),
			Hint: "decide which one has the rows; then open it with ALTER DATABASE … ALLOW_CONNECTIONS true",
		}
	}
	return false, p.primary.transaction(ctx, p.own, func(tx *sql.Tx) error {
		if err := p.primary.allow(ctx, tx, here.Databases, true); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, "DELETE FROM "+notesTable+" WHERE deployment = $1 AND step = $2", p.deployment, p.step)
		return p.primary.fail("write the note", err)
	})
}
