package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"

	"github.com/backstay-dev/backstay"
)

// Addresses lists the addresses of stored blobs in order, up to limit of them
// after one ("" is the first). What uploads that never finished left has none.
func (s *Store) Addresses(ctx context.Context, after string, limit int) ([]string, error) {
	const query = "SELECT digest FROM blob WHERE digest > $1 AND digest NOT LIKE '" + uploading + "%' ORDER BY digest LIMIT $2"
	all, err := texts(s.backend.Read.QueryContext(ctx, query, after, limit))
	return all, s.reading("list blobs of", s.backend.Where, err)
}

// PlanDigests lists the digests of stored plans in order, up to limit of them
// after one ("" is the first).
func (s *Store) PlanDigests(ctx context.Context, after string, limit int) ([]string, error) {
	const query = "SELECT digest FROM plan WHERE digest > $1 ORDER BY digest LIMIT $2"
	all, err := texts(s.backend.Read.QueryContext(ctx, query, after, limit))
	return all, s.reading("list plans of", s.backend.Where, err)
}

// CheckBlob reads a whole blob, a chunk at a time, and returns its size. The
// error wraps ErrDamaged where its rows do not give the content that the
// address says, no more and no less; ErrNotFound where there is none.
func (s *Store) CheckBlob(ctx context.Context, address string) (size int64, err error) {
	r, err := s.openBlob(ctx, address)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if size, err = io.Copy(io.Discard, r); err != nil {
		return size, err
	}
	var chunks int64
	err = s.backend.Read.QueryRowContext(ctx, "SELECT COUNT(*) FROM chunk WHERE ref = $1", r.ref).Scan(&chunks)
	if err == nil && chunks != r.n {
		err = r.damaged(fmt.Sprintf("it has %d parts, %d are stored under its name", r.n, chunks))
	}
	return size, s.reading("read blob", address, err)
}

// texts reads the one column of a query.
func texts(rows *sql.Rows, err error) ([]string, error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []string
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			return nil, err
		}
		all = append(all, text)
	}
	return all, rows.Err()
}

// collected is the record of blobs that were let go: without it an audit could
// not tell them from lost ones.
func collected(addresses []string) backstay.NoteBody {
	what := "1 blob"
	if len(addresses) != 1 {
		what = fmt.Sprintf("%d blobs", len(addresses))
	}
	return backstay.NoteBody{Text: "collected " + what + " that nothing pinned", Collected: addresses}
}
