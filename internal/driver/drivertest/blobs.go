package drivertest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"sync"

	"github.com/backstay-dev/backstay"
)

// Blobs is backstay.Blobs in memory, safe for concurrent use.
type Blobs struct {
	mu      sync.Mutex
	content map[string][]byte
}

var _ backstay.Blobs = (*Blobs)(nil)

// NewBlobs returns an empty store.
func NewBlobs() *Blobs { return &Blobs{content: map[string][]byte{}} }

// Put stores what r yields under its SHA-256.
func (b *Blobs) Put(r io.Reader) (string, int64, error) {
	data, err := io.ReadAll(r)
	if err != nil {
		return "", 0, fmt.Errorf("read content: %w", err)
	}
	sum := sha256.Sum256(data)
	digest := hex.EncodeToString(sum[:])
	b.mu.Lock()
	defer b.mu.Unlock()
	b.content[digest] = data
	return digest, int64(len(data)), nil
}

// Has reports whether the content is stored.
func (b *Blobs) Has(digest string) (bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, ok := b.content[digest]
	return ok, nil
}

// Get opens stored content.
func (b *Blobs) Get(digest string) (io.ReadCloser, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	data, ok := b.content[digest]
	if !ok {
		return nil, &backstay.Error{Class: backstay.NotFound, Op: "open content", Subject: digest, Err: fmt.Errorf("not stored")}
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

// All returns a copy of everything stored, by address.
func (b *Blobs) All() map[string][]byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.content)
}
