package drill

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/plan"
)

// mostParts is how many parts of one key are modelled. What goes for so many
// goes for more; a drill says where it cut.
const mostParts = 24

// place is where one part of one key lies. Keys of files that lie below one
// another share places, as paths do.
type place string

// placeOf names the place of a part.
func placeOf(k backstay.Key, part string) place {
	switch {
	case part == "":
		return place(k)
	case k.Kind() == "file":
		return place(strings.TrimSuffix(string(k), "/") + "/" + part)
	}
	return place(string(k) + "\x00" + part)
}

// partAt is the inverse of placeOf; false where the place is not the key's.
func partAt(k backstay.Key, at place) (part string, ok bool) {
	if string(at) == string(k) {
		return "", true
	}
	if k.Kind() == "file" {
		return strings.CutPrefix(string(at), strings.TrimSuffix(string(k), "/")+"/")
	}
	return strings.CutPrefix(string(at), string(k)+"\x00")
}

func (p place) String() string { return strings.ReplaceAll(string(p), "\x00", " ") }

// places hold the values of a world; a place that is absent has none.
type places map[place]json.RawMessage

// read is the state of one key.
func (ps places) read(k backstay.Key) backstay.ResourceState {
	var s backstay.ResourceState
	for at, value := range ps {
		if part, ok := partAt(k, at); ok {
			if s.Parts == nil {
				s.Parts = map[string]json.RawMessage{}
			}
			s.Parts[part] = value
		}
	}
	return s
}

// set writes a value; nil removes it.
func (ps places) set(at place, value json.RawMessage) {
	if value == nil {
		delete(ps, at)
		return
	}
	ps[at] = value
}

// differing are the places in which two worlds differ, sorted.
func differing(a, b places) []place {
	var out []place
	for at := range a {
		if !bytes.Equal(a[at], b[at]) {
			out = append(out, at)
		}
	}
	for at := range b {
		if _, there := a[at]; !there {
			out = append(out, at)
		}
	}
	slices.Sort(out)
	return out
}

// change is one write of a step.
type change struct {
	at       place
	key      backstay.Key
	from, to json.RawMessage
}

// model is what a plan changes, as far as the plan itself tells.
type model struct {
	plan    *plan.Plan // the copy that is run
	changes map[string][]change
	opaque  map[backstay.Key]bool // nothing reads it
	start   places
	end     places // after all steps
	cut     map[backstay.Key]bool
	needs   map[string]map[string]bool // by step: all that it needs
	lies    map[string]lie             // only of the self-check
}

// newModel models a plan. The plan itself is not changed: the model runs a
// copy, whose first states are the model's own.
func newModel(p *plan.Plan) *model {
	m := &model{changes: map[string][]change{}, opaque: map[backstay.Key]bool{}, start: places{}, cut: map[backstay.Key]bool{}, needs: needsOf(p)}
	m.findOpaque(p)
	wants := make([]backstay.Image, len(p.Steps))
	for i, st := range p.Steps {
		wants[i] = m.wanted(st)
	}
	for i, st := range p.Steps {
		for _, k := range st.Keys {
			m.furnish(k, wants[i][k], known(st, k))
		}
	}
	now := maps.Clone(m.start)
	before := make([]backstay.Image, len(p.Steps))
	for i, st := range p.Steps {
		before[i] = backstay.Image{}
		for _, k := range st.Keys {
			before[i][k] = now.read(k)
		}
		for _, k := range st.Keys {
			m.advance(now, st, k, wants[i][k])
		}
	}
	m.end = now
	m.plan = m.copied(p, wants, before)
	return m
}

// findOpaque finds the keys that nothing can read: the plan froze no state of
// them although no earlier step changes them.
func (m *model) findOpaque(p *plan.Plan) {
	seen := map[backstay.Key]bool{}
	for _, st := range p.Steps {
		for _, k := range st.Keys {
			if _, frozen := st.Before[k]; !frozen && !seen[k] && k.Kind() != "file" {
				m.opaque[k] = true
			}
			seen[k] = true
		}
	}
}

// known reports whether the plan says what the key is to be.
func known(st backstay.Step, k backstay.Key) bool {
	want, ok := st.Want[k]
	return ok && !want.Opaque && want.Unreadable == ""
}

// wanted is what a step is to leave: as the plan says, or, where it does not,
// something that no other step leaves.
func (m *model) wanted(st backstay.Step) backstay.Image {
	im := backstay.Image{}
	for _, k := range st.Keys {
		if !known(st, k) {
			value := backstay.Canonical(map[string]string{"left by": st.ID})
			im[k] = backstay.ResourceState{Parts: map[string]json.RawMessage{"": value, "new": value}}
			continue
		}
		want := st.Want[k]
		if len(want.Parts) > mostParts {
			m.cut[k] = true
			some := map[string]json.RawMessage{}
			for _, part := range slices.Sorted(maps.Keys(want.Parts))[:mostParts] {
				some[part] = want.Parts[part]
			}
			want.Parts = some
		}
		im[k] = want
	}
	return im
}

// furnish puts into the start what a key holds before anything runs: an older
// value of each part but the last (which is new), and one that is to go.
func (m *model) furnish(k backstay.Key, want backstay.ResourceState, exactly bool) {
	put := func(part string) {
		at := placeOf(k, part)
		if _, there := m.start[at]; !there {
			m.start[at] = backstay.Canonical(map[string]string{"before": at.String()})
		}
	}
	parts := slices.Sorted(maps.Keys(want.Parts))
	for i, part := range parts {
		if i == 0 || i < len(parts)-1 {
			put(part)
		}
	}
	switch {
	case len(parts) == 0:
		put("")
	case len(parts) > 1 || !exactly:
		put("old")
	}
}

// advance lets a step change a key, and remembers the writes.
func (m *model) advance(now places, st backstay.Step, k backstay.Key, want backstay.ResourceState) {
	after := maps.Clone(now)
	if known(st, k) {
		for part := range now.read(k).Parts {
			after.set(placeOf(k, part), nil)
		}
	} else {
		after.set(placeOf(k, "old"), nil)
	}
	for part, value := range want.Parts {
		after.set(placeOf(k, part), value)
	}
	for _, at := range differing(now, after) {
		m.changes[st.ID] = append(m.changes[st.ID], change{at: at, key: k, from: now[at], to: after[at]})
		now.set(at, after[at])
	}
}

// copied is the plan that is run: the same steps on modelled keys, one probe
// that the drill answers, no bake and no budget (times of a model mean nothing).
func (m *model) copied(p *plan.Plan, wants, before []backstay.Image) *plan.Plan {
	c := *p
	c.Artifacts, c.Stages, c.Require, c.Mitigation = nil, nil, nil, nil
	c.Bake, c.Within = plan.Bake{}, 0
	c.Verify = []plan.Check{drillCheck()}
	c.Steps = slices.Clone(p.Steps)
	for i := range c.Steps {
		st := &c.Steps[i]
		st.Body, st.Blobs, st.Secrets, st.Warnings = nil, nil, nil, nil
		st.Timeout, st.UndoTimeout = generous, generous
		want, frozen := backstay.Image{}, map[backstay.Key]string{}
		for _, k := range st.Keys {
			if known(*st, k) {
				want[k] = wants[i][k]
			}
			if _, ok := st.Before[k]; ok && !m.opaque[k] {
				frozen[k] = before[i][k].Digest()
			}
		}
		st.Want, st.Before = want, frozen
		if len(want) == 0 {
			st.Want = nil
		}
		if st.Gate != nil {
			st.Gate = &backstay.Gate{Within: generous} // what it would find out is not of the model
		}
		if st.Hold != nil {
			hold := *st.Hold
			hold.From = nil
			st.Hold = &hold
		}
	}
	return &c
}

// reverse lists changes from the last to the first, as an undo makes them.
func reverse(all []change) []change {
	out := slices.Clone(all)
	slices.Reverse(out)
	return out
}

// owner names the step that changes a place last, and its key; zero where there
// is none.
func (m *model) owner(at place) (backstay.Step, backstay.Key) {
	for _, st := range slices.Backward(m.plan.Steps) {
		for _, k := range st.Keys {
			if _, ok := partAt(k, at); ok {
				return st, k
			}
		}
	}
	return backstay.Step{}, ""
}

// beside reports whether two steps may run at the same time: neither needs the
// other.
func (m *model) beside(a, b string) bool {
	return a != "" && b != "" && a != b && !m.needs[a][b] && !m.needs[b][a]
}

// needsOf lists, by step, all the steps that it needs, directly or not. Steps
// are in an order that satisfies needs.
func needsOf(p *plan.Plan) map[string]map[string]bool {
	all := make(map[string]map[string]bool, len(p.Steps))
	for _, st := range p.Steps {
		own := map[string]bool{}
		for _, n := range st.Needs {
			own[n] = true
			maps.Copy(own, all[n])
		}
		all[st.ID] = own
	}
	return all
}

// covers reports whether the place belongs to one of the step's keys.
func covers(st backstay.Step, at place) bool {
	return slices.ContainsFunc(st.Keys, func(k backstay.Key) bool {
		_, ok := partAt(k, at)
		return ok
	})
}

// unread lists the step's keys that nothing can read.
func (m *model) unread(st backstay.Step) []backstay.Key {
	var out []backstay.Key
	for _, k := range st.Keys {
		if m.opaque[k] {
			out = append(out, k)
		}
	}
	return out
}

// shown is a value for people.
func shown(v json.RawMessage) string {
	if v == nil {
		return "nothing"
	}
	return fmt.Sprintf("%.80s", v)
}
