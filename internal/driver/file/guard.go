package file

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/tree"
)

// guard is the compare of compare-and-set for one key: a part may be changed
// only while it is as before, as wanted, or in between by this step's own hand.
type guard struct {
	key          backstay.Key
	before, want map[string]tree.Entry
}

// newGuard reads what the key was before from the call, and checks that all of
// the key is now in a state that the step may change.
func newGuard(key backstay.Key, call backstay.Call, want, now backstay.ResourceState) (*guard, error) {
	if now.Unreadable != "" {
		return nil, &backstay.Error{Class: backstay.Permanent, Op: "look before writing", Subject: pathOf(key), Err: fmt.Errorf("%s", now.Unreadable)}
	}
	before, known := call.Before[key]
	if !known {
		digest, pinned := call.Step.Before[key]
		if pinned && digest != now.Digest() && !want.Equal(now) && call.Attempt <= 1 {
			return nil, conflict(pathOf(key), "it changed since the plan")
		}
		before = now
	}
	g := &guard{key: key}
	var err error
	if g.before, err = tree.Entries(before); err != nil {
		return nil, fmt.Errorf("before-image of %s: %w", key, err)
	}
	if g.want, err = tree.Entries(want); err != nil {
		return nil, fmt.Errorf("wanted image of %s: %w", key, err)
	}
	for _, part := range tree.Differing(want, now) {
		if bytes.Equal(before.Parts[part], now.Parts[part]) && hasPart(before, part) == hasPart(now, part) {
			continue
		}
		if err := g.check(part, now.Parts[part]); err != nil {
			return nil, err
		}
	}
	return g, nil
}

func hasPart(s backstay.ResourceState, part string) bool {
	_, ok := s.Parts[part]
	return ok
}

// check has the shape of tree.ApplyOptions.Guard.
func (g *guard) check(part string, value json.RawMessage) error {
	before, was := g.before[part]
	want, wanted := g.want[part]
	full := pathOf(g.key)
	if part != "" {
		full += "/" + part
	}
	if value == nil {
		if was && wanted && before.Type == want.Type && want.Type != tree.Dir {
			return conflict(full, "somebody removed it")
		}
		return nil // was absent, or is removed in order to become something else
	}
	now, err := tree.ParseEntry(value)
	if err != nil {
		return fmt.Errorf("look at %s: %w", full, err)
	}
	switch {
	case was && between(before, before, now), wanted && between(want, want, now), was && wanted && between(before, want, now):
		return nil
	case !was && wanted && want.Type == tree.Dir && now.Type == tree.Dir && (now.Mode == "0700" || now.Mode == want.Mode):
		return nil // created by this step and not finished
	}
	return conflict(full, "somebody changed it")
}

// between reports whether each aspect of now is that of a or of b. A
// directory's time follows what happens in it and says nothing.
func between(a, b, now tree.Entry) bool {
	content := func(e tree.Entry) bool {
		return e.Type == now.Type && e.Size == now.Size && e.SHA256 == now.SHA256 && e.Target == now.Target
	}
	time := now.Type == tree.Dir || a.MTime == now.MTime || b.MTime == now.MTime
	xattrs := maps.EqualFunc(a.Xattrs, now.Xattrs, bytes.Equal) || maps.EqualFunc(b.Xattrs, now.Xattrs, bytes.Equal)
	mode := a.Mode == now.Mode || b.Mode == now.Mode || (now.Type == tree.Dir && now.Mode == "0700")
	return (content(a) || content(b)) && time && xattrs && mode &&
		(a.UID == now.UID || b.UID == now.UID) && (a.GID == now.GID || b.GID == now.GID)
}

func conflict(p, why string) error {
	return &backstay.Error{
		Class: backstay.Conflict, Op: "write", Subject: p, Err: fmt.Errorf("%s while this deployment ran; it was left as it is", why),
		Hint: "find out who writes there, then plan again",
	}
}
