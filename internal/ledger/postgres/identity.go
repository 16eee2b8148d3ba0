package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/backstay-dev/backstay"
)

// identity is which history of which cluster a server goes on with. A standby
// that is promoted, and a backup that the server recovers, begin a timeline.
// A copy of the files that is simply started does not, and cannot be told.
type identity struct {
	system   string // the cluster's system identifier
	timeline int64
}

// String is "" where the server does not tell.
func (i identity) String() string {
	if i.system == "" {
		return ""
	}
	return fmt.Sprintf("%s/%d", i.system, i.timeline)
}

// readIdentity asks the server. The name of the log file that is written now
// tells the timeline at once; the control file lags behind a promotion.
func readIdentity(ctx context.Context, conn *pgx.Conn) (identity, error) {
	const query = `SELECT (SELECT system_identifier::text FROM pg_control_system()),
		('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::bigint`
	var i identity
	err := conn.QueryRow(ctx, query).Scan(&i.system, &i.timeline)
	return i, err
}

// lineage lets a process talk to one cluster, and never to an older timeline
// than it saw: an old primary that came back has lost what the new one took.
type lineage struct {
	where string
	mu    sync.Mutex
	seen  identity
}

// check is run on every new connection.
func (l *lineage) check(ctx context.Context, conn *pgx.Conn) error {
	now, err := readIdentity(ctx, conn)
	if e, ok := errors.AsType[*pgconn.PgError](err); ok && (e.Code == "42501" || e.Code == "42883") {
		return nil // may not ask, or is only like PostgreSQL: Warnings says so
	}
	if err != nil {
		return fmt.Errorf("read the server's identity: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.seen.system == "":
	case now.system != l.seen.system:
		err = fmt.Errorf("another cluster answers: %s, it was %s", now, l.seen)
	case now.timeline < l.seen.timeline:
		err = fmt.Errorf("a server on timeline %d answers, this process saw timeline %d: an old primary is back", now.timeline, l.seen.timeline)
	}
	if err != nil {
		return &backstay.Error{
			Class: backstay.Permanent, Op: "connect to", Subject: l.where, Err: errors.Join(errOther, err),
			Hint: "stop the old server; where this one is the right one, run the command again",
		}
	}
	l.seen = now
	return nil
}

// errOther tells a refused server from one that is away.
var errOther = errors.New("not the server that the ledger was on")

func (l *lineage) now() identity {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.seen
}
