package snapshot

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/migration/clients"
	"github.com/backstay-dev/backstay/internal/driver/migration/database"
	"github.com/backstay-dev/backstay/internal/driver/migration/session"
	"github.com/backstay-dev/backstay/internal/proc"
)

// copier writes a dump into a file and loads it again.
type copier struct {
	*dump
	s    *session.Session
	url  string // may hold a password
	part string
}

// sizeOf is about how many bytes a database holds.
func sizeOf(ctx context.Context, s *session.Session) (size int64, err error) {
	query := "SELECT pg_database_size(current_database())"
	switch s.Dialect.Name() {
	case "mysql":
		query = "SELECT CAST(COALESCE(SUM(data_length + index_length), 0) AS SIGNED) FROM information_schema.tables WHERE table_schema = DATABASE()"
	case "sqlite":
		query = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
	}
	if err := s.Conn.QueryRowContext(ctx, query).Scan(&size); err != nil {
		return 0, fmt.Errorf("ask how large the database is: %w", s.Dialect.Classify(err))
	}
	return size, nil
}

// host is where the databases' programs run.
func (c copier) host() clients.Host {
	return clients.Host{Dir: c.Into, Token: proc.Token{Deployment: c.call.Deployment, Step: c.call.Step.ID, Fence: c.call.Token}}
}

// write writes the dump.
func (c copier) write(ctx context.Context) error {
	if c.Dialect == "sqlite" {
		if _, err := c.s.Conn.ExecContext(ctx, "VACUUM INTO ?", c.part); err != nil {
			return fmt.Errorf("dump the database: %w", c.s.Dialect.Classify(err))
		}
		return nil
	}
	return c.host().Dump(ctx, c.Dialect, clients.Dump{URL: c.url, File: c.part}) //nolint:wrapcheck // says what it did
}

// prove loads the dump into a scratch database, compares its schema with the
// database's, and counts its rows.
func (c copier) prove(ctx context.Context, want database.Schema) (rows map[string]int64, err error) {
	scratch := "sqlite:" + c.part
	if c.Dialect != "sqlite" {
		var drop func(context.Context) error
		if scratch, drop, err = c.s.Dialect.Scratch(ctx, c.url); err != nil {
			return nil, err //nolint:wrapcheck // says what it did
		}
		defer func() { err = errors.Join(err, drop(context.WithoutCancel(ctx))) }()
		if err := c.host().Load(ctx, c.Dialect, scratch, c.part); err != nil {
			return nil, err //nolint:wrapcheck // says what it did
		}
	}
	db, err := c.s.Dialect.Open(scratch, "")
	if err != nil {
		return nil, fmt.Errorf("open the loaded dump: %w", err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, fmt.Errorf("open the loaded dump: %w", c.s.Dialect.Classify(err))
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	got, err := c.s.Dialect.Schema(ctx, conn)
	if err != nil {
		return nil, err //nolint:wrapcheck // says what it did
	}
	if differ := differing(want, got); len(differ) > 0 {
		return nil, &backstay.Error{
			Class: backstay.Permanent, Op: "prove the dump", Err: fmt.Errorf("loaded again, %d objects of the schema differ: %s", len(differ), strings.Join(differ[:min(len(differ), 5)], ", ")),
			Hint: "take such a snapshot by other means, or say verify: false",
		}
	}
	return c.rows(ctx, conn)
}

func (c copier) rows(ctx context.Context, q database.Querier) (map[string]int64, error) {
	if c.Dialect == "sqlite" {
		var answer string
		if err := q.QueryRowContext(ctx, "PRAGMA integrity_check(1)").Scan(&answer); err != nil || answer != "ok" {
			return nil, fmt.Errorf("prove the dump: integrity check: %s: %w", answer, errors.Join(err, errors.New("it is damaged")))
		}
	}
	tables, err := c.s.Dialect.Tables(ctx, q)
	if err != nil {
		return nil, err //nolint:wrapcheck // says what it did
	}
	rows := map[string]int64{}
	for name := range tables {
		var n int64
		if err := q.QueryRowContext(ctx, "SELECT count(*) FROM "+name).Scan(&n); err != nil {
			return nil, fmt.Errorf("count the rows of the dump: %w", c.s.Dialect.Classify(err))
		}
		rows[name] = n
	}
	return rows, nil
}

func differing(a, b database.Schema) (names []string) {
	all := maps.Clone(a)
	maps.Copy(all, b)
	for _, object := range slices.Sorted(maps.Keys(all)) {
		if a[object] != b[object] {
			names = append(names, object)
		}
	}
	return names
}
