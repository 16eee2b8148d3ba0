package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/backstay-dev/backstay"
)

// BlobBuffer gathers content for a write that refers to it. Small content
// stays in memory and becomes durable with that write (Update.Blobs, SavePlan)
// or with Flush; beyond 4 MiB it goes to the store by itself, in transactions
// of its own. It never holds more than about 8 MiB. It is safe for concurrent
// use. It implements backstay.Blobs, which carries no context: it keeps the
// one it was made with.
type BlobBuffer struct {
	ctx context.Context
	s   *Store

	mu   sync.Mutex
	kept map[string][]byte   // not in the store yet
	size int                 // of kept
	used map[string]struct{} // everything that was put or found here
}

var (
	_ backstay.Blobs = (*BlobBuffer)(nil)
	_ backstay.Blobs = blobs{}
)

// NewBlobBuffer returns an empty buffer whose own reads and writes end with ctx.
func (s *Store) NewBlobBuffer(ctx context.Context) *BlobBuffer {
	return &BlobBuffer{ctx: ctx, s: s, kept: map[string][]byte{}, used: map[string]struct{}{}}
}

// Put implements backstay.Blobs. The content is durable after the write that
// carries the buffer.
func (b *BlobBuffer) Put(r io.Reader) (string, int64, error) {
	var buf bytes.Buffer
	n, err := io.Copy(&buf, io.LimitReader(r, flushAt))
	if err != nil {
		return "", 0, fmt.Errorf("read content: %w", err)
	}
	if n == flushAt {
		return b.upload(buf.Bytes(), r)
	}
	body := bytes.Clone(buf.Bytes())
	digest := digestOf(body)
	known, err := b.Has(digest)
	if err != nil || known {
		return digest, n, err
	}
	b.mu.Lock()
	if _, again := b.kept[digest]; !again {
		b.kept[digest], b.used[digest] = body, struct{}{}
		b.size += len(body)
	}
	b.mu.Unlock()
	return digest, n, b.spill(b.ctx, flushAt)
}

func (b *BlobBuffer) upload(first []byte, r io.Reader) (string, int64, error) {
	u, err := b.s.newUpload(b.ctx)
	if err != nil {
		return "", 0, fmt.Errorf("store blob: %w", err)
	}
	for body := first; len(body) > 0; {
		if err := u.write(b.ctx, body); err != nil {
			return "", 0, fmt.Errorf("store blob: %w", err)
		}
		n, err := io.ReadFull(r, first)
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return "", 0, fmt.Errorf("read content: %w", err)
		}
		body = first[:n]
	}
	digest, err := u.finish(b.ctx)
	if err != nil {
		return "", 0, fmt.Errorf("store blob: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used[digest] = struct{}{}
	return digest, u.size, nil
}

// Has implements backstay.Blobs: the content is buffered or stored.
func (b *BlobBuffer) Has(digest string) (bool, error) {
	b.mu.Lock()
	_, known := b.kept[digest]
	b.mu.Unlock()
	if known {
		return true, nil
	}
	known, err := b.s.touch(b.ctx, digest)
	if known {
		b.mu.Lock()
		b.used[digest] = struct{}{}
		b.mu.Unlock()
	}
	return known, err
}

// Get implements backstay.Blobs: it sees buffered content too.
func (b *BlobBuffer) Get(digest string) (io.ReadCloser, error) {
	b.mu.Lock()
	body, ok := b.kept[digest]
	b.mu.Unlock()
	if ok {
		return io.NopCloser(bytes.NewReader(body)), nil
	}
	return opened(b.s.openBlob(b.ctx, digest))
}

// Flush makes everything that was put durable now.
func (b *BlobBuffer) Flush(ctx context.Context) error { return b.spill(ctx, 0) }

// spill writes what is buffered in a transaction of its own when that is more
// than limit bytes.
func (b *BlobBuffer) spill(ctx context.Context, limit int) error {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	full := len(b.kept) > 0 && (b.size > limit || limit == 0)
	b.mu.Unlock()
	if !full {
		return nil
	}
	all := b.waiting()
	err := b.s.writeBesides(ctx, func(t *batch) error {
		for _, c := range all {
			if err := c.insert(t); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("store blobs: %w", err)
	}
	b.written(all)
	return nil
}

// waiting lists what is not in the store yet, by address.
func (b *BlobBuffer) waiting() []content {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	all := make([]content, 0, len(b.kept))
	for digest, body := range b.kept {
		all = append(all, content{digest: digest, body: body})
	}
	// One order for all writers: two of them never wait for each other's rows.
	slices.SortFunc(all, func(x, y content) int { return bytes.Compare([]byte(x.digest), []byte(y.digest)) })
	return all
}

// written forgets content that is in the store now.
func (b *BlobBuffer) written(all []content) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range all {
		if _, ok := b.kept[c.digest]; ok {
			b.size -= len(c.body)
			delete(b.kept, c.digest)
		}
	}
}

// touched lists every address that was put or found here.
func (b *BlobBuffer) touched() []string {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	all := make([]string, 0, len(b.used))
	for digest := range b.used {
		all = append(all, digest)
	}
	slices.Sort(all)
	return all
}

// blobs is the read view of what is stored.
type blobs struct {
	ctx context.Context
	s   *Store
}

// Blobs returns a read view of what is stored, whose reads end with ctx. Its
// Put returns an error wrapping ErrReadOnly.
func (s *Store) Blobs(ctx context.Context) backstay.Blobs { return blobs{ctx: ctx, s: s} }

func (b blobs) Put(io.Reader) (string, int64, error) {
	return "", 0, fmt.Errorf("store blob: %w", ErrReadOnly)
}

func (b blobs) Has(digest string) (bool, error) {
	var n int64
	err := b.s.backend.Read.QueryRowContext(b.ctx, "SELECT COUNT(*) FROM blob WHERE digest = $1", digest).Scan(&n)
	return n > 0, b.s.reading("look for blob", digest, err)
}

func (b blobs) Get(digest string) (io.ReadCloser, error) {
	return opened(b.s.openBlob(b.ctx, digest))
}

// opened keeps a nil reader from looking like one.
func opened(r *blobReader, err error) (io.ReadCloser, error) {
	if err != nil {
		return nil, err
	}
	return r, nil
}
