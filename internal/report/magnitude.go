package report

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/backstay-dev/backstay"
)

// Magnitude is how much differs. Bytes count the content of files that differ:
// of each part the larger of its size before and now, as the images say it;
// parts without a size count nothing.
type Magnitude struct {
	Keys    int   `json:"keys"`
	Parts   int   `json:"parts"`
	Unknown int   `json:"unknown,omitempty"` // resources or parts that cannot be read
	Bytes   int64 `json:"bytes"`
}

// Magnitudes are what the steps changed, what was not restored, and what
// outsiders changed and was kept.
type Magnitudes struct {
	Changed Magnitude `json:"changed"`
	Residue Magnitude `json:"residue"`
	Kept    Magnitude `json:"kept"`
}

func (m *Magnitude) add(o Magnitude) {
	m.Keys, m.Parts, m.Unknown, m.Bytes = m.Keys+o.Keys, m.Parts+o.Parts, m.Unknown+o.Unknown, m.Bytes+o.Bytes
}

func (m *Magnitude) part(was, is json.RawMessage) {
	m.Parts++
	m.Bytes += max(contentOf(was), contentOf(is))
}

// contentOf is the size of the content of a file's entry; 0 of anything else.
func contentOf(v json.RawMessage) int64 {
	var entry struct {
		Type string `json:"type"`
		Size int64  `json:"size"`
	}
	if json.Unmarshal(v, &entry) != nil || entry.Type != "file" {
		return 0
	}
	return max(entry.Size, 0)
}

func sizeOf(all []Residue) Magnitude {
	var m Magnitude
	keys := map[backstay.Key]bool{}
	for _, r := range all {
		keys[r.Key] = true
		if r.Unknown != "" {
			m.Unknown++
			continue
		}
		m.part(r.Before, r.Current)
	}
	m.Keys = len(keys)
	return m
}

func (m Magnitude) words() string {
	if m == (Magnitude{}) {
		return "nothing"
	}
	parts := []string{number(m.Parts, "part", "parts") + " of " + number(m.Keys, "resource", "resources")}
	if m.Bytes > 0 {
		parts = append(parts, Size(m.Bytes)+" of content")
	}
	if m.Unknown > 0 {
		parts = append(parts, fmt.Sprintf("%d unknown", m.Unknown))
	}
	return strings.Join(parts, ", ")
}
