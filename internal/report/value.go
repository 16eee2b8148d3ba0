package report

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/backstay-dev/backstay"
)

const (
	valueRunes   = 120 // of one value
	maxChanges   = 40  // of one step
	shortDigest  = 12
	absent       = "absent"
	valueObjects = 8 // keys of an object that are shown
)

// Change is one part of one resource before and after a step.
type Change struct {
	Key    backstay.Key `json:"key"`
	Part   string       `json:"part,omitempty"`
	Change string       `json:"change"` // created, changed, removed, unreadable
	Before string       `json:"before"`
	After  string       `json:"after"`
}

// compare lists the parts that differ, how many more there are than it lists,
// and how much all of them are.
func compare(before, after backstay.Image) (changes []Change, more int, size Magnitude) {
	keys := map[backstay.Key]bool{}
	for k := range before {
		keys[k] = true
	}
	for k := range after {
		keys[k] = true
	}
	add := func(c Change) {
		if len(changes) == maxChanges {
			more++
			return
		}
		changes = append(changes, c)
	}
	for _, k := range slices.Sorted(maps.Keys(keys)) {
		b, a := before[k], after[k]
		if b.Opaque || a.Opaque {
			size.Unknown++
			add(Change{Key: k, Change: "unreadable", Before: "not readable", After: "not readable"})
			continue
		}
		if why := b.Unreadable + a.Unreadable; why != "" {
			size.Unknown++
			add(Change{Key: k, Change: "unreadable", Before: "unknown", After: "unknown: " + why})
			continue
		}
		differs := false
		for _, p := range slices.Sorted(maps.Keys(union(b.Beside, a.Beside))) {
			if was, is := b.Beside[p], a.Beside[p]; !bytes.Equal(was, is) {
				c := Change{Key: k, Part: p, Change: "changed"}
				c.Before, c.After = Difference(was, is)
				add(c)
			}
		}
		for _, p := range slices.Sorted(maps.Keys(union(b.Parts, a.Parts))) {
			was, is := b.Parts[p], a.Parts[p]
			if bytes.Equal(was, is) {
				continue
			}
			differs = true
			size.part(was, is)
			c := Change{Key: k, Part: p, Change: "changed"}
			switch {
			case was == nil:
				c.Change = "created"
			case is == nil:
				c.Change = "removed"
			}
			c.Before, c.After = Difference(was, is)
			add(c)
		}
		if differs {
			size.Keys++
		}
	}
	return changes, more, size
}

func union(a, b map[string]json.RawMessage) map[string]json.RawMessage {
	all := maps.Clone(a)
	if all == nil {
		return b
	}
	maps.Copy(all, b)
	return all
}

// Value is a part's value as people read it: "file 0644 1.2 kB
// sha256:9f8e1a2b3c4d", "symlink → target", "absent", a quoted text. It is one
// line and shows no control characters.
func Value(v json.RawMessage) string {
	if v == nil {
		return absent
	}
	var decoded any
	dec := json.NewDecoder(bytes.NewReader(v))
	dec.UseNumber()
	if err := dec.Decode(&decoded); err != nil {
		if text := line(string(v)); text != "" {
			return shorten(text)
		}
		return fmt.Sprintf("%s that is no text", Size(int64(len(v))))
	}
	if object, ok := decoded.(map[string]any); ok {
		return shorten(ofObject(object))
	}
	return shorten(ofScalar(decoded))
}

// Difference is two values as people read them. Where both would read the
// same, the fields that differ are added.
func Difference(was, is json.RawMessage) (before, after string) {
	before, after = Value(was), Value(is)
	if before != after || bytes.Equal(was, is) {
		return before, after
	}
	var a, b map[string]any
	if json.Unmarshal(was, &a) != nil || json.Unmarshal(is, &b) != nil {
		return before + " (" + digest(was) + ")", after + " (" + digest(is) + ")"
	}
	all := maps.Clone(a)
	maps.Copy(all, b)
	var left, right []string
	for _, k := range slices.Sorted(maps.Keys(all)) {
		x, y := string(backstay.Canonical(a[k])), string(backstay.Canonical(b[k]))
		if x != y {
			left, right = append(left, k+" "+bare(x)), append(right, k+" "+bare(y))
		}
	}
	if len(left) == 0 {
		return before + " (" + digest(was) + ")", after + " (" + digest(is) + ")"
	}
	const fields = 240
	return cut(line(before+", "+strings.Join(left, ", ")), fields), cut(line(after+", "+strings.Join(right, ", ")), fields)
}

// digest tells two values apart that read the same, JSON or not.
func digest(v json.RawMessage) string {
	sum := sha256.Sum256(v)
	return "sha256:" + hex.EncodeToString(sum[:])[:shortDigest]
}

// bare is a JSON value without the quotes of a plain text.
func bare(v string) string {
	if s, err := strconv.Unquote(v); err == nil {
		return s
	}
	return v
}

// ofObject reads a file's entry as one, and any other object as its fields.
func ofObject(o map[string]any) string {
	kind, ok := o["type"].(string)
	text := func(name string) string {
		s, _ := o[name].(string)
		return s
	}
	if !ok {
		return ofFields(o)
	}
	words := []string{kind}
	switch kind {
	case "file":
	case "dir":
		words[0] = "directory"
	case "symlink":
		return line("symlink → " + text("target"))
	default:
		if _, mode := o["mode"]; !mode {
			return ofFields(o)
		}
	}
	words = append(words, text("mode"))
	if uid, gid := fmt.Sprint(o["uid"]), fmt.Sprint(o["gid"]); o["uid"] != nil && (uid != "0" || gid != "0") {
		words = append(words, "owner "+uid+":"+gid)
	}
	if kind == "file" {
		size := int64(0)
		if n, ok := o["size"].(json.Number); ok {
			size, _ = n.Int64() // a size that is none reads as 0 bytes
		}
		words = append(words, Size(size))
	}
	if sum := text("sha256"); sum != "" {
		words = append(words, "sha256:"+sum[:min(len(sum), shortDigest)])
	}
	if link := text("link"); link != "" {
		words = append(words, "hard link to "+link)
	}
	return line(strings.Join(words, " "))
}

func ofFields(o map[string]any) string {
	if len(o) == 0 {
		return "{}"
	}
	var fields []string
	for i, k := range slices.Sorted(maps.Keys(o)) {
		if i == valueObjects {
			fields = append(fields, fmt.Sprintf("and %d more", len(o)-valueObjects))
			break
		}
		fields = append(fields, k+" "+ofScalar(o[k]))
	}
	return line(strings.Join(fields, ", "))
}

func ofScalar(v any) string {
	switch v := v.(type) {
	case string:
		const runes = 60
		return `"` + cut(line(v), runes) + `"`
	case nil:
		return "null"
	case bool:
		return strconv.FormatBool(v)
	case json.Number:
		return line(v.String())
	}
	return line(string(backstay.Canonical(v)))
}

func shorten(s string) string { return cut(s, valueRunes) }

// Size is a number of bytes as people read it, in decimal units.
func Size(n int64) string {
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n), 0
	for value >= 999.95 && unit < 6 {
		value /= 1000
		unit++
	}
	return fmt.Sprintf("%.1f %cB", value, " kMGTPE"[unit])
}

// Duration is a duration as people read it: three figures are enough.
func Duration(d time.Duration) string {
	switch {
	case d < 0:
		return "-" + Duration(-d)
	case d < time.Microsecond:
		return d.String()
	case d < time.Millisecond:
		return d.Round(time.Microsecond).String()
	case d < 10*time.Millisecond:
		return d.Round(100 * time.Microsecond).String()
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < 10*time.Second:
		return d.Round(10 * time.Millisecond).String()
	case d < time.Minute:
		return d.Round(100 * time.Millisecond).String()
	case d < time.Hour:
		return d.Round(time.Second).String()
	}
	d = d.Round(time.Minute)
	const day = 24 * time.Hour
	if d < day {
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%dd%dh", d/day, d%day/time.Hour)
}

func took(d *backstay.Duration) string {
	if d == nil {
		return ""
	}
	return Duration(d.Std())
}
