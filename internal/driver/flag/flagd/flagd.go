// Package flagd is the store of a flag in a file of flagd's format (JSON).
//
// Its one part is the dial: state, defaultVariant and targeting, the members of the
// flag that a move changes, which mean nothing without each other. A write replaces the text of exactly those members, so that
// everything else of the file keeps its bytes, and swaps the file as a whole and
// durably: flagd reads the old one or the new one. Two writers of ours take turns
// by the temporary file. Somebody who writes otherwise between our look and the swap
// is overwritten. The file's time is new after each, also after an undo.
package flagd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/flag/store"
	"github.com/backstay-dev/backstay/internal/durable"
	"github.com/backstay-dev/backstay/internal/flag/model"
)

// dial is the part of a flag, and the members in it.
const (
	dial = "dial"

	state     = "state"
	standard  = "defaultVariant"
	targeting = "targeting"
)

// maxSize bounds the file.
const maxSize = 64 << 20

// Store is one flag of one file.
type Store struct{ path, key string }

var _ store.Store = (*Store)(nil)

// New returns the store of a flag in the file at an absolute path.
func New(path, key string) *Store { return &Store{path, key} }

// Traits of a flagd file.
func (*Store) Traits() store.Traits {
	return store.Traits{
		Vendor: "flagd", Window: backstay.Duration(time.Second), Compares: true, Local: true,
		Gap: "a write by another program between the look and the swap of the file is overwritten",
	}
}

// Read reads the flag from the file.
func (s *Store) Read(ctx context.Context) (store.Flag, error) {
	if err := ctx.Err(); err != nil {
		return store.Flag{}, context.Cause(ctx)
	}
	_, f, err := s.read()
	if err != nil {
		return store.Flag{}, err
	}
	return f.flag(), nil
}

// read reads the file and finds the flag in it.
func (s *Store) read() ([]byte, *found, error) {
	info, err := os.Stat(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, &backstay.Error{Class: backstay.NotFound, Op: "read flags", Subject: s.path, Err: errors.New("there is no such file"), Hint: "name the file that flagd serves"}
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read flags: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxSize {
		return nil, nil, s.bad(errors.New("it is not a regular file of at most 64 MiB"))
	}
	data, err := os.ReadFile(s.path)
	if err != nil {
		return nil, nil, fmt.Errorf("read flags: %w", err)
	}
	f, err := find(data, s.key)
	if err != nil {
		return nil, nil, s.bad(err)
	}
	if f == nil {
		return nil, nil, store.Missing(s.path, s.key)
	}
	return data, f, nil
}

func (s *Store) bad(err error) error {
	return &backstay.Error{Class: backstay.Permanent, Op: "read flags", Subject: s.path, Err: err, Hint: "it has to be a file of flagd's format, in JSON: {\"flags\": {\"KEY\": {…}}}"}
}

// Plan moves the flag. Off is its state DISABLED: programs get the default in
// their own code.
func (s *Store) Plan(now store.Flag, m model.Move) (backstay.ResourceState, error) {
	to, err := s.moved(now, m)
	return stateOf(to), err
}

func (s *Store) moved(now store.Flag, m model.Move) (map[string]json.RawMessage, error) {
	out := membersOf(now.State)
	disabled := backstay.Canonical("DISABLED")
	enabled := backstay.Canonical("ENABLED")
	switch {
	case m.Tester != "":
		return out, errors.New("a flag of flagd has no list of testers: leave test out")
	case m.Off:
		out[state] = disabled
		return out, nil
	case m.On:
		out[state] = enabled
		return out, nil
	}
	variants, rest, rollout, err := s.gives(now)
	if err != nil {
		return out, err
	}
	to := m.Variant
	if to == "" {
		if to, err = usual(variants, s.key); err != nil {
			return out, err
		}
	}
	if _, ok := variants[to]; !ok {
		return out, fmt.Errorf("flag %s has no variant %q: it has %s", s.key, to, sorted(variants))
	}
	if rest, err = s.others(to, rest, rollout, variants); err != nil {
		return out, err
	}
	if *m.Share%1000 != 0 {
		return out, fmt.Errorf("%s is no whole percentage, which flagd's shares are", model.FormatShare(*m.Share))
	}
	share := *m.Share / 1000
	out[state] = enabled
	delete(out, targeting)
	switch share {
	case 0:
		out[standard] = backstay.Canonical(rest)
	case 100:
		out[standard] = backstay.Canonical(to)
	default:
		// The order decides the buckets: as it is, so that raising a share moves
		// nobody out.
		order := [][]any{{to, share}, {rest, 100 - share}}
		if len(rollout) == 2 && rollout[1] == to {
			order = [][]any{{rest, 100 - share}, {to, share}}
		}
		out[targeting] = backstay.Canonical(map[string]any{"fractional": order})
		out[standard] = backstay.Canonical(rest)
	}
	return out, nil
}

// gives reads what the flag gives now: its default, and the two variants of its
// fractional. Targeting of another shape is not ours to rewrite.
func (s *Store) gives(now store.Flag) (variants map[string]json.RawMessage, def string, rollout []string, err error) {
	if err := json.Unmarshal(now.About, &variants); err != nil || len(variants) == 0 {
		return nil, "", nil, fmt.Errorf("flag %s has no variants", s.key)
	}
	members := membersOf(now.State)
	_ = json.Unmarshal(members[standard], &def) // none: ""
	raw, ok := members[targeting]
	if !ok || string(raw) == "{}" {
		return variants, def, nil, nil
	}
	var t struct {
		Fractional [][]any `json:"fractional"`
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	shape := dec.Decode(&t)
	for _, entry := range t.Fractional {
		name, isText := "", false
		if len(entry) == 2 {
			name, isText = entry[0].(string)
		}
		if !isText {
			shape = errors.New("an entry is no variant with its share")
		}
		rollout = append(rollout, name)
	}
	if shape != nil || len(rollout) != 2 {
		return nil, "", nil, fmt.Errorf("flag %s has targeting of its own, which a share would replace: turn it on or off, or change its targeting in the file", s.key)
	}
	return variants, def, rollout, nil
}

// others is what those get who do not get to.
func (s *Store) others(to, def string, rollout []string, variants map[string]json.RawMessage) (string, error) {
	for _, name := range append(rollout, def) {
		if name != "" && name != to {
			return name, nil
		}
	}
	if len(variants) == 2 {
		for name := range variants {
			if name != to {
				return name, nil
			}
		}
	}
	return "", fmt.Errorf("nothing says what those get who do not get %s: give flag %s another defaultVariant", to, s.key)
}

// usual is the variant that a share gives where none is named.
func usual(variants map[string]json.RawMessage, key string) (string, error) {
	for name, v := range variants {
		if string(v) == "true" && len(variants) == 2 {
			return name, nil
		}
	}
	return "", fmt.Errorf("say which variant of flag %s: it has %s", key, sorted(variants))
}

func sorted(variants map[string]json.RawMessage) string {
	names := make([]string, 0, len(variants))
	for name := range variants {
		names = append(names, name)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// Exposure says what the flag gives.
func (*Store) Exposure(now store.Flag) string {
	p := membersOf(now.State)
	text := strings.Trim(string(p[standard]), `"`)
	if t, ok := p[targeting]; ok && string(t) != "{}" {
		text = "targeting " + string(t)
	}
	if string(p[state]) == `"DISABLED"` {
		return "off"
	}
	return "on: " + text
}

// Write swaps the file where the flag is still what from was. The next content is
// also the lock by which writers of ours take turns.
func (s *Store) Write(ctx context.Context, from store.Flag, to backstay.ResourceState) (note string, err error) {
	target, err := filepath.EvalSymlinks(s.path) // a link stays a link
	if err != nil {
		return "", fmt.Errorf("find flags: %w", err)
	}
	dir, err := durable.OpenDir(filepath.Dir(target))
	if err != nil {
		return "", fmt.Errorf("find flags: %w", err)
	}
	defer func() { _ = dir.Close() }()
	next, err := begin(ctx, dir, filepath.Base(target))
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, next.Abort()) }()
	data, f, err := s.read()
	if err != nil {
		return "", err
	}
	if !f.flag().State.Equal(from.State) {
		return "", store.ErrMoved
	}
	info, err := os.Stat(target)
	if err != nil {
		return "", fmt.Errorf("read flags: %w", err)
	}
	text := f.spliced(data, to)
	if again, err := find(text, s.key); err != nil || again == nil || !again.flag().State.Equal(to) {
		return "", s.bad(fmt.Errorf("its flag %s could not be rewritten: %w", s.key, err))
	}
	if _, err := next.Write(text); err != nil {
		return "", fmt.Errorf("write flags: %w", err)
	}
	if err := errors.Join(next.File().Chmod(info.Mode().Perm()), giveBack(next.File(), info)); err != nil {
		return "", fmt.Errorf("write flags: %w", err)
	}
	if _, err := backstay.LeaseLeft(ctx); err != nil {
		return "", fmt.Errorf("write flags: %w", err)
	}
	if err := errors.Join(next.Commit(), dir.SyncEntries()); err != nil {
		return "", fmt.Errorf("write flags: %w", err)
	}
	return "", nil
}

// begin waits for its turn.
func begin(ctx context.Context, dir *durable.Dir, name string) (*durable.Pending, error) {
	for {
		next, err := dir.Create(name)
		if err == nil || !errors.Is(err, durable.ErrBusy) {
			return next, err
		}
		t := time.NewTimer(10 * time.Millisecond)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, context.Cause(ctx)
		}
	}
}

// giveBack makes the file its owner's, where we may.
func giveBack(f *os.File, info fs.FileInfo) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || os.Geteuid() != 0 {
		return nil
	}
	return f.Chown(int(st.Uid), int(st.Gid))
}
