// Package postgres is the store of the ledger that several nodes share. It
// owns how PostgreSQL is connected to; replication, failover, locking and the
// clock are PostgreSQL's.
//
// It promises: an acknowledged write is committed with synchronous_commit on
// (or stronger, where the URL says so), on a server that takes writes; no
// statement, lock wait or idle transaction outlasts a lease; leases live by
// the database's clock, never by a node's. A server that is away for less than
// a lease is waited for.
//
// Entries that PostgreSQL itself loses in a failover to an asynchronous
// standby are written again by a node that drives their deployment and knows
// them, and lost otherwise: Warnings says so where it sees only such standbys.
// A process talks to one cluster, and never to an older timeline than it saw.
package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/ledger"
)

// mostConns bounds the pool: one connection writes, the rest read.
const mostConns = 10

// Open connects to the database that a URL or a key=value string names and
// creates the tables there if need be. Parameters that it does not know go to
// the server, search_path among them.
func Open(ctx context.Context, dsn string, options ledger.Options) (*ledger.Store, error) {
	options, err := options.Resolve()
	if err != nil {
		return nil, err
	}
	config, err := configure(dsn, options.TTL)
	if err != nil {
		return nil, err
	}
	where := describe(config)
	line := &lineage{where: where}
	db := stdlib.OpenDB(*config, stdlib.OptionAfterConnect(line.check))
	db.SetMaxOpenConns(mostConns)
	db.SetMaxIdleConns(mostConns)
	db.SetConnMaxIdleTime(5 * time.Minute)
	if err := db.PingContext(ctx); err != nil {
		return nil, errors.Join(&backstay.Error{
			Class: backstay.Transient, Op: "connect to", Subject: where, Err: err,
			Hint: "check that the server runs, takes writes, and lets this user in",
		}, db.Close())
	}
	backend := ledger.Backend{Dialect: dialect(), Write: db, Read: db, Where: where, Identity: line.now().String(), Warnings: standbys(ctx, db)}
	if backend.Identity == "" {
		backend.Warnings = append(backend.Warnings, "the ledger's database does not tell its identity (pg_control_system): that a standby was promoted or a backup restored is not noticed")
	}
	store, err := ledger.Open(ctx, backend, options)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return store, nil
}

// configure reads the URL and adds what the ledger needs of each session.
func configure(dsn string, ttl time.Duration) (*pgx.ConnConfig, error) {
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		// pgx redacts the password in its message.
		return nil, &backstay.RefusedError{What: "state", Err: err, Hint: "write it as postgres://user@host:5432/database"}
	}
	config.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = max(ttl/3, time.Second)
	}
	dialer := net.Dialer{
		Timeout:         config.ConnectTimeout,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 2 * time.Second, Count: 3},
	}
	config.DialFunc = dialer.DialContext
	params := config.RuntimeParams
	if params["synchronous_commit"] != "remote_apply" {
		params["synchronous_commit"] = "on"
	}
	if params["application_name"] == "" {
		params["application_name"] = "backstay"
	}
	// Below a lease: a session that hangs lets go before another node takes over.
	limit := strconv.FormatInt(max(ttl/2, 100*time.Millisecond).Milliseconds(), 10)
	for _, name := range []string{"statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"} {
		params[name] = limit
	}
	return config, nil
}

// describe is the URL without password and parameters.
func describe(c *pgx.ConnConfig) string {
	return fmt.Sprintf("postgres://%s@%s/%s", c.User, net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port))), c.Database)
}

// standbys warns where a failover could lose acknowledged entries. A role that
// may not see its standbys sees none, and gets no warning.
func standbys(ctx context.Context, db *sql.DB) []string {
	var all, synchronous int
	const query = "SELECT COUNT(*), COUNT(*) FILTER (WHERE sync_state IN ('sync', 'quorum')) FROM pg_stat_replication"
	if err := db.QueryRowContext(ctx, query).Scan(&all, &synchronous); err != nil || all == 0 || synchronous > 0 {
		return nil
	}
	return []string{fmt.Sprintf(
		"none of the %d standbys of the ledger's database is synchronous: a failover can lose acknowledged entries; set synchronous_standby_names", all)}
}
