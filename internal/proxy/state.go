package proxy

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/durable"
	"github.com/backstay-dev/backstay/internal/proxy/wire"
)

const (
	stateFormat = "backstay.proxy.state/v1"
	stateFile   = "routes.json"
	keyFile     = "cookie.key"
	lockFile    = "lock"
	maxPast     = 128  // deployments that wrote a route before its last writer
	maxRemoved  = 1024 // removed routes whose writers are still known
)

// savedState is what is durable: every route with its last writer, removed ones
// too, so that a stale writer cannot bring one back.
type savedState struct {
	Format   string                 `json:"format"`
	Revision uint64                 `json:"revision"`
	Routes   map[string]*savedRoute `json:"routes"`
}

// savedRoute is never changed after it is in a savedState.
type savedRoute struct {
	Route    *wire.Route `json:"route"` // nil: removed
	Revision uint64      `json:"revision"`
	Writer   wire.Writer `json:"writer"`
	Past     []string    `json:"past,omitempty"`
}

// stale reports whether a writer is one that must not write any more.
func (s *savedRoute) stale(w wire.Writer) bool {
	seen := s.Writer
	if seen.Deployment == "" {
		return false
	}
	if w.Token.Generation < seen.Token.Generation {
		return true
	}
	if w.Deployment == seen.Deployment {
		return w.Token.Less(seen.Token)
	}
	return slices.Contains(s.Past, w.Deployment)
}

// store keeps the state in a directory that one process holds at a time.
type store struct {
	dir  string
	lock *durable.FileLock
	key  []byte // signs cookies

	state *savedState // guarded by Proxy.changes
}

// openStore opens or makes the directory. Where another process holds it, the
// error says which.
func openStore(dir string) (*store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("find the proxy's state: %w", err)
	}
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the proxy's state directory: %w", err)
	}
	lock, err := durable.Lock(filepath.Join(dir, lockFile))
	if err != nil {
		return nil, &backstay.Error{Op: "open the proxy's state", Subject: dir, Err: err, Hint: "one proxy holds a state directory at a time; end the other one, or give --state another directory"}
	}
	s := &store{dir: dir, lock: lock}
	if err := errors.Join(s.readState(), s.readKey()); err != nil {
		return nil, errors.Join(err, lock.Unlock())
	}
	return s, nil
}

func (s *store) close() error { return s.lock.Unlock() }

func (s *store) readState() error {
	path := filepath.Join(s.dir, stateFile)
	damaged := func(err error) error {
		return &backstay.Error{Op: "read", Subject: path, Err: err, Hint: "nothing was changed; put a good copy back, or move the file away to start without routes"}
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		s.state = &savedState{Format: stateFormat, Routes: map[string]*savedRoute{}}
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the proxy's state: %w", err)
	}
	state := &savedState{}
	if err := json.Unmarshal(data, state); err != nil {
		return damaged(err)
	}
	if state.Format != stateFormat {
		return damaged(fmt.Errorf("its format is %q; this version reads %q", state.Format, stateFormat))
	}
	for name, r := range state.Routes {
		if r == nil || r.Route != nil && (r.Route.Name != name || len(r.Route.Validate()) > 0) {
			return damaged(fmt.Errorf("route %q is not whole", name))
		}
	}
	if state.Routes == nil {
		state.Routes = map[string]*savedRoute{}
	}
	s.state = state
	return nil
}

func (s *store) readKey() error {
	path := filepath.Join(s.dir, keyFile)
	key, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		key = make([]byte, 32)
		_, _ = rand.Read(key) // never fails
		err = durable.WriteFile(path, bytes.NewReader(key), durable.Attr{Mode: 0o600})
	}
	if err != nil {
		return fmt.Errorf("read the key of cookies: %w", err)
	}
	if len(key) < 32 {
		return &backstay.Error{Op: "read", Subject: path, Err: errors.New("want at least 32 bytes"), Hint: "remove it to get a new one; visitors are then mapped anew once"}
	}
	s.key = key
	return nil
}

// with is the state after a change to one route.
func (s *savedState) with(name string, r *savedRoute) *savedState {
	next := &savedState{Format: stateFormat, Revision: s.Revision + 1, Routes: maps.Clone(s.Routes)}
	r.Revision = next.Revision
	next.Routes[name] = r
	next.forgetRemoved()
	return next
}

// forgetRemoved drops the oldest removed routes beyond the bound.
func (s *savedState) forgetRemoved() {
	var removed []string
	for name, r := range s.Routes {
		if r.Route == nil {
			removed = append(removed, name)
		}
	}
	slices.SortFunc(removed, func(a, b string) int { return int(s.Routes[a].Revision) - int(s.Routes[b].Revision) }) //nolint:gosec // small
	for len(removed) > maxRemoved {
		delete(s.Routes, removed[0])
		removed = removed[1:]
	}
}

// save makes a state durable. When it returns an error the old one is whole.
func (s *store) save(next *savedState) error {
	data := append(backstay.Canonical(next), '\n')
	if err := durable.WriteFile(filepath.Join(s.dir, stateFile), bytes.NewReader(data), durable.Attr{Mode: 0o600}); err != nil {
		return fmt.Errorf("make the routes durable: %w", err)
	}
	s.state = next
	return nil
}
