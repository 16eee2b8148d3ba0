package flagd

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/flag/store"
)

// found is a flag in a file.
type found struct {
	members []member
}

// member is one member of the flag's object: its name, and where its value and the
// whole of it, with the comma before it, lie.
type member struct {
	name       string
	value      json.RawMessage
	at, from   int // of the value; of the name, or the comma before it
	end, after int // of the value; where what follows begins, past a comma after a first member
}

// flag is the parts that moves change, and the variants.
func (f *found) flag() store.Flag {
	out := store.Flag{About: json.RawMessage("{}")}
	members := map[string]json.RawMessage{}
	for _, m := range f.members {
		switch m.name {
		case state, standard, targeting:
			members[m.name] = canonical(m.value)
		case "variants":
			out.About = canonical(m.value)
		}
	}
	out.State = stateOf(members)
	return out
}

func stateOf(members map[string]json.RawMessage) backstay.ResourceState {
	return backstay.ResourceState{Parts: map[string]json.RawMessage{dial: backstay.Canonical(members)}}
}

func membersOf(s backstay.ResourceState) map[string]json.RawMessage {
	members := map[string]json.RawMessage{}
	_ = json.Unmarshal(s.Parts[dial], &members) // ours, or absent
	return members
}

// canonical is a value with sorted keys; numbers keep their digits.
func canonical(v json.RawMessage) json.RawMessage {
	dec := json.NewDecoder(bytes.NewReader(v))
	dec.UseNumber()
	var any any
	if dec.Decode(&any) != nil {
		return v // was decoded before
	}
	return backstay.Canonical(any)
}

// find finds a flag's object in the text of a file; nil where there is none. Any
// flaw of the text is an error with its place.
func find(data []byte, key string) (*found, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	fail := func(err error) error {
		at := min(int(dec.InputOffset()), len(data))
		line := 1 + bytes.Count(data[:at], []byte("\n"))
		return fmt.Errorf("line %d, column %d: %w", line, at-bytes.LastIndexByte(data[:at], '\n'), err)
	}
	var out *found
	err := object(dec, func(name string) error {
		if name != "flags" {
			return skip(dec)
		}
		return object(dec, func(name string) error {
			if name != key {
				return skip(dec)
			}
			if out != nil {
				return fmt.Errorf("flag %q stands there twice", key)
			}
			var err error
			out, err = flagAt(dec, data)
			return err
		})
	})
	if err != nil {
		return nil, fail(err)
	}
	if _, err := dec.Token(); err == nil {
		return nil, fail(errors.New("something follows the object"))
	}
	return out, nil
}

// object reads an object; each has to read the value of a member.
func object(dec *json.Decoder, each func(name string) error) error {
	t, err := dec.Token()
	if err != nil {
		return err //nolint:wrapcheck // its place is added
	}
	if t != json.Delim('{') {
		return fmt.Errorf("want an object, not %v", t)
	}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return err //nolint:wrapcheck // its place is added
		}
		name, _ := t.(string)
		if err := each(name); err != nil {
			return err
		}
	}
	_, err = dec.Token()
	return err //nolint:wrapcheck // its place is added
}

func skip(dec *json.Decoder) error {
	var v json.RawMessage
	return dec.Decode(&v) //nolint:wrapcheck // its place is added
}

// flagAt reads the flag's object, with the places of its members.
func flagAt(dec *json.Decoder, data []byte) (*found, error) {
	f := &found{}
	seen := map[string]bool{}
	t, err := dec.Token()
	if err != nil {
		return nil, err //nolint:wrapcheck // its place is added
	}
	if t != json.Delim('{') {
		return nil, fmt.Errorf("want an object, not %v", t)
	}
	for dec.More() {
		m := member{from: int(dec.InputOffset())}
		t, err := dec.Token()
		if err != nil {
			return nil, err //nolint:wrapcheck // its place is added
		}
		m.name, _ = t.(string)
		if err := dec.Decode(&m.value); err != nil {
			return nil, err //nolint:wrapcheck // its place is added
		}
		if seen[m.name] {
			return nil, fmt.Errorf("the key %q stands there twice", m.name)
		}
		seen[m.name] = true
		m.end = int(dec.InputOffset())
		m.at = m.end - len(m.value)
		f.members = append(f.members, m)
	}
	for i := range f.members {
		m := &f.members[i]
		m.after = m.end
		if i == 0 && len(f.members) > 1 { // the first one takes the comma after it
			m.after += bytes.IndexByte(data[m.end:], ',') + 1
		}
	}
	_, err = dec.Token()
	return f, err //nolint:wrapcheck // its place is added
}

// spliced is the file with the parts of to in the place of what the flag has.
func (f *found) spliced(data []byte, to backstay.ResourceState) []byte {
	type edit struct {
		from, to int
		text     string
	}
	var edits []edit
	members := membersOf(to)
	var added []string
	for _, part := range []string{state, standard, targeting} {
		i := slices.IndexFunc(f.members, func(m member) bool { return m.name == part })
		want, there := members[part]
		switch {
		case i < 0 && there:
			added = append(added, fmt.Sprintf("%q: %s", part, want))
		case i >= 0 && !there:
			edits = append(edits, edit{f.members[i].from, f.members[i].after, ""})
		case i >= 0 && string(canonical(f.members[i].value)) != string(want):
			edits = append(edits, edit{f.members[i].at, f.members[i].end, string(want)})
		}
	}
	if len(added) > 0 {
		// Behind the last member, as indented as that one.
		last := f.members[len(f.members)-1]
		gap := leading(data[last.from:last.at])
		edits = append(edits, edit{last.end, last.end, "," + gap + strings.Join(added, ","+gap)})
	}
	slices.SortFunc(edits, func(a, b edit) int { return a.from - b.from })
	var out bytes.Buffer
	at := 0
	for _, e := range edits {
		out.Write(data[at:max(at, e.from)])
		out.WriteString(e.text)
		at = e.to
	}
	out.Write(data[at:])
	return out.Bytes()
}

// leading is the white space before a member's name.
func leading(text []byte) string {
	text = bytes.TrimLeft(text, ",")
	return string(text[:len(text)-len(bytes.TrimLeft(text, " \t\r\n"))])
}
