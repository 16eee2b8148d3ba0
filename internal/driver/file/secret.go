package file

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/tree"
)

const secretPrefix = "secret:"

// secretBody is content that is made at use, from references.
type secretBody struct {
	Template string            `json:"template,omitempty"` // blob of the template
	Values   map[string]string `json:"values,omitempty"`   // references, and plain values
	Content  string            `json:"content,omitempty"`  // the one reference that is the content
	Entry    tree.Entry        `json:"entry"`              // all of the file but its content
}

// refs are the secret references used, sorted.
func (s *secretBody) refs() []string {
	all := slices.Collect(maps.Values(s.Values))
	all = append(all, s.Content)
	all = slices.DeleteFunc(all, func(v string) bool { return !strings.HasPrefix(v, secretPrefix) })
	slices.Sort(all)
	return slices.Compact(all)
}

// content resolves the references and makes the file's content.
func (s *secretBody) content(call backstay.Call) ([]byte, error) {
	resolve := func(v string) (string, error) {
		if !strings.HasPrefix(v, secretPrefix) {
			return v, nil
		}
		if call.Secrets == nil {
			return "", fmt.Errorf("resolve %s: no secrets are available here", v)
		}
		text, err := call.Secrets.Resolve(v)
		if err != nil {
			return "", fmt.Errorf("resolve %s: %w", v, err)
		}
		return text, nil
	}
	if s.Content != "" {
		text, err := resolve(s.Content)
		return []byte(text), err
	}
	values := make(map[string]string, len(s.Values))
	for name, v := range s.Values {
		var err error
		if values[name], err = resolve(v); err != nil {
			return nil, err
		}
	}
	r, err := call.Blobs.Get(s.Template)
	if err != nil {
		return nil, fmt.Errorf("open template: %w", err)
	}
	text, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil {
		return nil, fmt.Errorf("read template: %w", err)
	}
	return render(string(text), values)
}

// resolve returns the wanted image with the secret content in it, and blobs
// that hold that content in memory only.
func (s *secretBody) resolve(b body, call backstay.Call) (backstay.Image, backstay.Blobs, error) {
	if before := call.Before[b.Key]; len(before.Parts) > 0 {
		return nil, nil, conflict(b.Path, "a file appeared where a secret one is to be written")
	}
	content, err := s.content(call)
	if err != nil {
		return nil, nil, err
	}
	sum := sha256.Sum256(content)
	e := s.Entry
	e.SHA256, e.Size = hex.EncodeToString(sum[:]), int64(len(content))
	want := backstay.Image{b.Key: tree.State(map[string]tree.Entry{"": e})}
	for _, dir := range b.Parents {
		want[keyOf(dir)] = tree.State(map[string]tree.Entry{"": *b.Parent})
	}
	return want, inMemory{Blobs: call.Blobs, digest: e.SHA256, content: content}, nil
}

// inMemory answers one digest from memory.
type inMemory struct {
	backstay.Blobs
	digest  string
	content []byte
}

// Get opens the content.
func (m inMemory) Get(digest string) (io.ReadCloser, error) {
	if digest == m.digest {
		return io.NopCloser(bytes.NewReader(m.content)), nil
	}
	return m.Blobs.Get(digest) //nolint:wrapcheck // a plain delegate
}

// discard is blobs that only compute addresses, for looks that must be strict
// but keep nothing.
type discard struct{}

// Put computes the address of what r yields.
func (discard) Put(r io.Reader) (string, int64, error) {
	h := sha256.New()
	n, err := io.Copy(h, r)
	if err != nil {
		return "", 0, fmt.Errorf("read content: %w", err)
	}
	return hex.EncodeToString(h.Sum(nil)), n, nil
}

// Has is always false.
func (discard) Has(string) (bool, error) { return false, nil }

// Get has nothing.
func (discard) Get(digest string) (io.ReadCloser, error) {
	return nil, &backstay.Error{Class: backstay.NotFound, Op: "open content", Subject: digest, Err: errors.New("it is not kept")}
}
