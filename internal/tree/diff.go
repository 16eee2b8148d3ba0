package tree

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/backstay-dev/backstay"
)

// PartChange is how one part differs between two states, in words for people.
type PartChange struct {
	Part string
	What string // "created", "content changed, mode 0644 → 0600", …
}

// Diff lists the parts in which two states differ, sorted. Values that are no
// entries are compared as they are.
func Diff(before, now backstay.ResourceState) []PartChange {
	var changes []PartChange
	for _, part := range Differing(before, now) {
		was, hadIt := before.Parts[part]
		is, hasIt := now.Parts[part]
		change := PartChange{Part: part, What: "changed"}
		switch {
		case !hadIt:
			change.What = "created"
		case !hasIt:
			change.What = "removed"
		default:
			a, errA := ParseEntry(was)
			b, errB := ParseEntry(is)
			if errA == nil && errB == nil {
				change.What = describeChange(a, b)
			}
		}
		changes = append(changes, change)
	}
	return changes
}

// Differing lists the parts in which two states differ, sorted.
func Differing(a, b backstay.ResourceState) []string {
	var parts []string
	for part, value := range a.Parts {
		if other, ok := b.Parts[part]; !ok || !bytes.Equal(value, other) {
			parts = append(parts, part)
		}
	}
	for part := range b.Parts {
		if _, ok := a.Parts[part]; !ok {
			parts = append(parts, part)
		}
	}
	slices.Sort(parts)
	return parts
}

func describeChange(a, b Entry) string {
	if a.Type != b.Type {
		return fmt.Sprintf("%s → %s", a.Type, b.Type)
	}
	var words []string
	add := func(differs bool, format string, args ...any) {
		if differs {
			words = append(words, fmt.Sprintf(format, args...))
		}
	}
	add(a.SHA256 != b.SHA256 || a.Size != b.Size, "content changed (%d → %d bytes)", a.Size, b.Size)
	add(a.Target != b.Target, "target %q → %q", a.Target, b.Target)
	add(a.Mode != b.Mode, "mode %s → %s", a.Mode, b.Mode)
	add(a.UID != b.UID || a.GID != b.GID, "owner %d:%d → %d:%d", a.UID, a.GID, b.UID, b.GID)
	add(!maps.EqualFunc(a.Xattrs, b.Xattrs, bytes.Equal), "extended attributes changed")
	add(a.Link != b.Link, "hard link %q → %q", a.Link, b.Link)
	add(a.MTime != b.MTime, "modification time %s → %s", a.MTime, b.MTime)
	return strings.Join(words, ", ")
}
