package ledger

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"github.com/google/uuid"

	"github.com/backstay-dev/backstay"
)

const (
	// chunkSize is how much of a blob a row holds.
	chunkSize = 256 << 10
	// flushAt is how much a buffer keeps before it writes by itself, and how
	// much of a large blob one transaction holds.
	flushAt = 4 << 20
	// touchAfter is how old the mark of a blob's last use may be before a
	// buffer that finds it renews it; Collect spares what was used lately.
	touchAfter = 10 * time.Minute
	// uploading marks the row of a blob that is not whole yet.
	uploading = "upload:"
)

// content is one small blob in memory.
type content struct {
	digest string
	body   []byte
}

func digestOf(body []byte) string {
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:])
}

// insert writes a small blob unless it is there.
func (c content) insert(b *batch) error {
	var ref string
	const insert = `INSERT INTO blob (digest, ref, size, touched_at) VALUES ($1, $1, $2, $3)
		ON CONFLICT (digest) DO UPDATE SET touched_at = excluded.touched_at RETURNING ref`
	if err := b.QueryRowContext(b.ctx, insert, c.digest, len(c.body), b.wall().UnixMicro()).Scan(&ref); err != nil {
		return err
	}
	return insertChunks(b, ref, 0, c.body)
}

func insertChunks(b *batch, ref string, n int64, body []byte) error {
	for ; len(body) > 0; n++ {
		size := min(chunkSize, len(body))
		const insert = "INSERT INTO chunk (ref, n, body) VALUES ($1, $2, $3) ON CONFLICT (ref, n) DO NOTHING"
		if _, err := b.ExecContext(b.ctx, insert, ref, n, body[:size]); err != nil {
			return err
		}
		body = body[size:]
	}
	return nil
}

// upload writes a large blob, flushAt bytes per transaction: its rows carry
// the upload's own name, and the last transaction gives it its address.
type upload struct {
	s      *Store
	ref    string
	sum    hash.Hash
	size   int64
	chunks int64
}

func (s *Store) newUpload(ctx context.Context) (*upload, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return nil, err
	}
	u := &upload{s: s, ref: id.String(), sum: sha256.New()}
	return u, s.writeBesides(ctx, func(b *batch) error {
		const insert = "INSERT INTO blob (digest, ref, size, touched_at) VALUES ($1, $2, 0, $3) ON CONFLICT (digest) DO NOTHING"
		_, err := b.ExecContext(b.ctx, insert, uploading+u.ref, u.ref, b.wall().UnixMicro())
		return err
	})
}

func (u *upload) write(ctx context.Context, body []byte) error {
	first := u.chunks
	err := u.s.writeBesides(ctx, func(b *batch) error {
		const touch = "UPDATE blob SET touched_at = $1 WHERE digest = $2"
		if _, err := b.ExecContext(b.ctx, touch, b.wall().UnixMicro(), uploading+u.ref); err != nil {
			return err
		}
		return insertChunks(b, u.ref, first, body)
	})
	u.sum.Write(body)
	u.size += int64(len(body))
	u.chunks += int64((len(body) + chunkSize - 1) / chunkSize)
	return err
}

// finish gives the upload its address. Where the content is stored already the
// upload's rows go.
func (u *upload) finish(ctx context.Context) (string, error) {
	digest := hex.EncodeToString(u.sum.Sum(nil))
	return digest, u.s.writeBesides(ctx, func(b *batch) error {
		const insert = `INSERT INTO blob (digest, ref, size, touched_at) VALUES ($1, $2, $3, $4)
			ON CONFLICT (digest) DO UPDATE SET touched_at = excluded.touched_at RETURNING ref`
		var ref string
		if err := b.QueryRowContext(b.ctx, insert, digest, u.ref, u.size, b.wall().UnixMicro()).Scan(&ref); err != nil {
			return err
		}
		if _, err := b.ExecContext(b.ctx, "DELETE FROM blob WHERE digest = $1", uploading+u.ref); err != nil {
			return err
		}
		if ref == u.ref {
			return nil
		}
		_, err := b.ExecContext(b.ctx, "DELETE FROM chunk WHERE ref = $1", u.ref)
		return err
	})
}

// touch reports whether content is stored, and marks it as used lately.
func (s *Store) touch(ctx context.Context, digest string) (bool, error) {
	var at int64
	err := s.backend.Read.QueryRowContext(ctx, "SELECT touched_at FROM blob WHERE digest = $1", digest).Scan(&at)
	if isNoRows(err) {
		return false, nil
	}
	now := s.opt.Clock.Wall()
	if err != nil || s.backend.ReadOnly || now.Sub(time.UnixMicro(at)).Abs() < touchAfter {
		return err == nil, s.reading("look for blob", digest, err)
	}
	var n int64
	err = s.writeBesides(ctx, func(b *batch) error {
		n, err = exec(b.ctx, b, "UPDATE blob SET touched_at = $1 WHERE digest = $2", now.UnixMicro(), digest)
		return err
	})
	return n == 1, err
}

// blobReader reads a blob chunk by chunk and checks it against its address.
type blobReader struct {
	ctx    context.Context
	s      *Store
	digest string
	ref    string
	size   int64
	read   int64
	n      int64
	rest   []byte
	sum    hash.Hash
	err    error
}

func (s *Store) openBlob(ctx context.Context, digest string) (*blobReader, error) {
	r := &blobReader{ctx: ctx, s: s, digest: digest, sum: sha256.New()}
	err := s.backend.Read.QueryRowContext(ctx, "SELECT ref, size FROM blob WHERE digest = $1", digest).Scan(&r.ref, &r.size)
	if err != nil {
		return nil, s.reading("open blob", digest, err)
	}
	return r, nil
}

// Read returns what is left of the present chunk. The last Read returns an
// error wrapping ErrDamaged instead of io.EOF when the content is not what the
// address says.
func (r *blobReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 && r.err == nil {
		r.next()
	}
	if len(r.rest) == 0 {
		return 0, r.err
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

func (r *blobReader) next() {
	if r.read == r.size {
		r.err = io.EOF
		if hex.EncodeToString(r.sum.Sum(nil)) != r.digest {
			r.err = r.damaged("its content is not what its address says")
		}
		return
	}
	err := r.s.backend.Read.QueryRowContext(r.ctx, "SELECT body FROM chunk WHERE ref = $1 AND n = $2", r.ref, r.n).Scan(&r.rest)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		r.err = r.damaged(fmt.Sprintf("its part %d is missing", r.n+1))
	case err != nil:
		r.err = r.s.reading("read blob", r.digest, err)
	case len(r.rest) == 0 || r.read+int64(len(r.rest)) > r.size:
		r.rest, r.err = nil, r.damaged(fmt.Sprintf("its part %d has the wrong size", r.n+1))
	}
	r.sum.Write(r.rest)
	r.read += int64(len(r.rest))
	r.n++
}

func (r *blobReader) damaged(why string) error {
	return &backstay.Error{
		Class: backstay.Permanent, Op: "read blob", Subject: r.digest, Err: fmt.Errorf("%w: %s", ErrDamaged, why),
		Hint: "keep a copy of the ledger and run `backstay audit verify` on it",
	}
}

// Close ends reading.
func (r *blobReader) Close() error {
	r.rest, r.err = nil, errors.New("read of a closed blob")
	return nil
}
