// Package tree reads what stands at a path (a file, a symlink, a directory with
// all below it, or nothing) as canonical state, and puts exactly the named parts
// of such a state back.
//
// It owns the entry (the canonical description of one file), part names (slash
// paths below the keyed path, "" for the path itself), and the list of what
// cannot be restored. It promises: no symlink is followed, neither on the way
// to the path nor below it; Capture changes nothing; Restore touches nothing
// but the named parts (and gives the directories above them the modification
// times back that its own work changed), is idempotent, and when interrupted
// and repeated ends in the same state; what was restored is durable when it
// returns nil.
//
// Not state: access and change times, inode numbers, sparseness, SELinux labels
// and other extended attributes than user.*, security.capability and POSIX
// ACLs, and Backstay's own temporary files (durable.IsTemp).
package tree

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/backstay-dev/backstay"
)

// Type is what kind of file an entry describes.
type Type string

// The types. Capture for keeping refuses all but the first three; a mere look
// reports them, so that they can be told apart and removed.
const (
	File        Type = "file"
	Dir         Type = "dir"
	Symlink     Type = "symlink"
	FIFO        Type = "fifo"
	Socket      Type = "socket"
	CharDevice  Type = "chardev"
	BlockDevice Type = "blockdev"
	Mount       Type = "mount" // a directory that another file system covers
)

// Entry is the canonical description of one file; its JSON is the value of a
// part. Fields keep this order. What a type does not have is left out.
type Entry struct {
	Type   Type              `json:"type"`
	Mode   string            `json:"mode,omitempty"` // octal, with setuid, setgid and sticky; not of symlinks
	UID    int               `json:"uid"`
	GID    int               `json:"gid"`
	MTime  string            `json:"mtime,omitempty"` // RFC 3339 with nanoseconds, UTC; empty: not part of the state
	Size   int64             `json:"size,omitempty"`
	SHA256 string            `json:"sha256,omitempty"` // of a file's content; also its blob address
	Target string            `json:"target,omitempty"` // of a symlink, escaped like part names
	Xattrs map[string][]byte `json:"xattrs,omitempty"` // values in base64
	// Link is the part that this file is a hard link to: the first of its group
	// in order of part names. The first itself has none.
	Link string `json:"link,omitempty"`
}

// JSON is the entry as the value of a part.
func (e Entry) JSON() json.RawMessage { return backstay.Canonical(e) }

// ParseEntry reads the value of a part strictly.
func ParseEntry(value json.RawMessage) (Entry, error) {
	var e Entry
	dec := json.NewDecoder(bytes.NewReader(value))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&e); err != nil {
		return Entry{}, fmt.Errorf("read file entry: %w", err)
	}
	if _, err := e.mode(); err != nil {
		return Entry{}, err
	}
	if _, err := e.mtime(); err != nil {
		return Entry{}, err
	}
	if e.Link != "" && !validPart(e.Link) {
		return Entry{}, fmt.Errorf("read file entry: link to %q leaves the tree", e.Link)
	}
	return e, nil
}

// State builds a resource state from entries by part.
func State(entries map[string]Entry) backstay.ResourceState {
	if len(entries) == 0 {
		return backstay.ResourceState{}
	}
	parts := make(map[string]json.RawMessage, len(entries))
	for part, e := range entries {
		parts[part] = e.JSON()
	}
	return backstay.ResourceState{Parts: parts}
}

// Entries reads a resource state back into entries by part, strictly.
func Entries(state backstay.ResourceState) (map[string]Entry, error) {
	if state.Opaque || state.Unreadable != "" {
		return nil, errors.New("read state of files: it was never read")
	}
	entries := make(map[string]Entry, len(state.Parts))
	for part, value := range state.Parts {
		if part != "" && !validPart(part) {
			return nil, fmt.Errorf("read state of files: %q is not a path below the key", part)
		}
		e, err := ParseEntry(value)
		if err != nil {
			return nil, fmt.Errorf("part %q: %w", part, err)
		}
		entries[part] = e
	}
	return entries, nil
}

// FormatMode writes permission bits the way entries hold them.
func FormatMode(bits uint32) string { return fmt.Sprintf("%04o", bits&0o7777) }

// FormatMTime writes a modification time the way entries hold it.
func FormatMTime(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

func (e Entry) mode() (uint32, error) {
	if e.Mode == "" {
		return 0, nil
	}
	bits, err := strconv.ParseUint(e.Mode, 8, 32)
	if err != nil || bits > 0o7777 {
		return 0, fmt.Errorf("read file entry: mode %q", e.Mode)
	}
	return uint32(bits), nil
}

func (e Entry) mtime() (time.Time, error) {
	if e.MTime == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339Nano, e.MTime)
	if err != nil {
		return time.Time{}, fmt.Errorf("read file entry: modification time: %w", err)
	}
	return t, nil
}

// same reports whether the file described by now needs no change to be e. Hard
// links are another question, and a modification time that e leaves open matches any.
func (e Entry) same(now Entry) bool {
	e.Link, now.Link = "", ""
	if e.MTime == "" {
		now.MTime = ""
	}
	return e.sameContent(now) && e.Mode == now.Mode && e.UID == now.UID && e.GID == now.GID &&
		e.MTime == now.MTime && maps.EqualFunc(e.Xattrs, now.Xattrs, bytes.Equal)
}

func (e Entry) sameContent(now Entry) bool {
	return e.Type == now.Type && e.Size == now.Size && e.SHA256 == now.SHA256 && e.Target == now.Target
}

// entryOf describes what a stat says; content, target and attributes are added
// by who reads them.
func entryOf(st *unix.Stat_t) Entry {
	e := Entry{UID: int(st.Uid), GID: int(st.Gid), MTime: FormatMTime(mtimeOf(st)), Mode: FormatMode(modeOf(st))}
	switch modeOf(st) & unix.S_IFMT {
	case unix.S_IFREG:
		e.Type, e.Size = File, st.Size
	case unix.S_IFDIR:
		e.Type = Dir
	case unix.S_IFLNK:
		e.Type, e.Mode = Symlink, ""
	case unix.S_IFIFO:
		e.Type = FIFO
	case unix.S_IFSOCK:
		e.Type = Socket
	case unix.S_IFCHR:
		e.Type = CharDevice
	case unix.S_IFBLK:
		e.Type = BlockDevice
	}
	return e
}

func mtimeOf(st *unix.Stat_t) time.Time { return time.Unix(st.Mtim.Unix()) }

// validPart reports whether part is a slash path that stays below the key.
func validPart(part string) bool {
	return fs.ValidPath(part) && part != "." && !strings.Contains(part, "\x00")
}

// parentPart is the part that part lies in; "" for those at the top.
func parentPart(part string) string {
	dir := path.Dir(part)
	if dir == "." {
		return ""
	}
	return dir
}

func joinPart(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

// Escape makes any bytes of a file name valid UTF-8 without losing one: a byte
// that is not is written \xHH, a backslash is doubled.
func Escape(name string) string {
	if utf8.ValidString(name) && !strings.Contains(name, `\`) {
		return name
	}
	var b strings.Builder
	for i := 0; i < len(name); {
		r, size := utf8.DecodeRuneInString(name[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, name[i])
		case r == '\\':
			b.WriteString(`\\`)
		default:
			b.WriteString(name[i : i+size])
		}
		i += size
	}
	return b.String()
}

// unescape is the inverse of Escape.
func unescape(text string) (string, error) {
	if !strings.Contains(text, `\`) {
		return text, nil
	}
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] != '\\' {
			b.WriteByte(text[i])
			continue
		}
		rest := text[i+1:]
		switch {
		case strings.HasPrefix(rest, `\`):
			b.WriteByte('\\')
			i++
		case len(rest) >= 3 && rest[0] == 'x':
			v, err := strconv.ParseUint(rest[1:3], 16, 8)
			if err != nil || v < utf8.RuneSelf {
				return "", fmt.Errorf("read file name %q: bad escape", text)
			}
			b.WriteByte(byte(v))
			i += 3
		default:
			return "", fmt.Errorf("read file name %q: bad escape", text)
		}
	}
	return b.String(), nil
}
