package postgres

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/backstay-dev/backstay/internal/ledger"
)

// together sends all statements before it reads the first answer. The server
// runs what stands between two syncs of the protocol as one transaction if none
// was begun, and skips what follows an error; the answer to the sync, which
// Close waits for, comes when the commit is durable.
func together(ctx context.Context, conn *sql.Conn, all []ledger.Statement) error {
	return conn.Raw(func(raw any) error {
		c, ok := raw.(*stdlib.Conn)
		if !ok {
			return fmt.Errorf("a connection of another driver: %T", raw)
		}
		var batch pgx.Batch
		for _, s := range all {
			batch.Queue(orFail(s), s.Args...)
		}
		results := c.Conn().SendBatch(ctx, &batch)
		for _, s := range all {
			var err error
			if s.Row == nil {
				_, err = results.Exec()
			} else {
				err = results.QueryRow().Scan(s.Row...)
			}
			if err != nil {
				_ = results.Close() // the first error is why
				return err
			}
		}
		return results.Close()
	})
}

// orFail makes a statement that returns no row fail by a division by zero: those
// after it are on their way already.
func orFail(s ledger.Statement) string {
	if s.Row == nil {
		return s.Query
	}
	return "WITH q AS (" + s.Query + ") SELECT q.* FROM (SELECT 1 / COUNT(*) AS one FROM q) AS must LEFT JOIN q ON must.one = 1"
}
