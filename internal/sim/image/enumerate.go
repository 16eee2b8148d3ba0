package image

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Type is what stands at a path.
type Type int

// The types.
const (
	Regular Type = iota
	Dir
	Symlink
)

// File is one path of an image.
type File struct {
	Type   Type
	Data   []byte
	Target string
	Attr   Attr
}

// Image is one state that a disk may legally hold.
type Image struct {
	// First and Point are the oldest and the newest point of the record at which
	// a power cut may leave it: what was acknowledged up to Point must be in it.
	First, Point int
	// Name says how it came about.
	Name string
	// pick says, for each node, which of its operations are in it.
	pick map[Node]pick
	j    *Journal
}

// pick is what is there of one node: its operations up to a point of the record,
// less one, and a torn piece of the next.
type pick struct {
	upTo    int // operations of this node before this point are in
	without int // but this one, -1: none
	only    int // of those after the last sync only this one, -1: all
	after   int // of those after the last sync only those from here on, -1: all
	torn    int // bytes of the next write that are in
}

func whole(upTo int) pick { return pick{upTo: upTo, without: -1, only: -1, after: -1} }

// state is how one node stands at a point.
type state struct {
	synced  int   // point of its last sync, 0 if there was none
	pending []int // its operations since, by index
}

// Bounds say how far Images goes.
type Bounds struct {
	// From and To are the points between which a power cut comes; To 0 is the end.
	From, To int
	// Reorder adds images in which writes between two syncs came in another order:
	// each one missing, each one alone, each tail without its beginning.
	Reorder bool
	// Vary are the nodes that vary one by one; nil is all. The others go with
	// those that do not vary: all lost, all kept.
	Vary func(Node) bool
}

// Images are all legal images of the record within the bounds, each once, in
// order. While one node varies, the others are all lost, all kept, or one of the
// two kinds (names, contents) is kept and the other lost.
func (j *Journal) Images(b Bounds) []Image {
	if b.To == 0 {
		b.To = len(j.ops)
	}
	e := enumeration{j: j, b: b, seen: map[string]int{}, states: map[Node]*state{}, changes: map[Node][]int{}}
	for at, o := range j.ops {
		if o.kind != opSync {
			e.changes[o.node] = append(e.changes[o.node], at)
		}
	}
	for n := range j.nodes {
		e.states[Node(n)] = &state{}
	}
	for at := range b.To + 1 {
		if at >= b.From {
			e.at(at)
		}
		if at < len(j.ops) {
			e.advance(at)
		}
	}
	return e.images
}

// Kept is the image at the end of the record with everything in it: what the
// running program sees.
func (j *Journal) Kept() Image {
	picks := map[Node]pick{}
	for n := range j.nodes {
		picks[Node(n)] = whole(len(j.ops))
	}
	return Image{First: len(j.ops), Point: len(j.ops), Name: "all kept", pick: picks, j: j}
}

type enumeration struct {
	j      *Journal
	b      Bounds
	states map[Node]*state
	seen   map[string]int
	images []Image
	// changes are the operations of each node, other than syncs, by index.
	changes map[Node][]int
}

// advance takes the operation at an index into account.
func (e *enumeration) advance(at int) {
	o := e.j.ops[at]
	s := e.states[o.node]
	if o.kind != opSync {
		s.pending = append(s.pending, at)
		return
	}
	s.synced, s.pending = at, nil
	// Attributes of symlinks go with their directory.
	for _, child := range e.j.entriesAt(o.node, at) {
		if e.j.nodes[child].kind == symlink {
			c := e.states[child]
			c.synced, c.pending = at, nil
		}
	}
}

// at adds the images of a power cut after the first `at` operations.
func (e *enumeration) at(at int) {
	var open []Node
	for n, s := range e.states {
		if len(s.pending) > 0 && (e.b.Vary == nil || e.b.Vary(n)) {
			open = append(open, n)
		}
	}
	slices.Sort(open)
	for _, base := range []string{"lost", "kept", "names kept", "contents kept"} {
		picks := map[Node]pick{}
		for n, s := range e.states {
			isDir := e.j.nodes[n].kind == dir
			keep := base == "kept" || isDir && base == "names kept" || !isDir && base == "contents kept"
			picks[n] = whole(s.synced)
			if len(s.pending) > 0 && keep {
				picks[n] = whole(s.pending[len(s.pending)-1] + 1)
			}
		}
		e.add(at, "all "+base, picks)
		for _, n := range open {
			for _, c := range e.choices(n, at) {
				varied := maps.Clone(picks)
				varied[n] = c.pick
				e.add(at, fmt.Sprintf("others %s, %s %s", base, e.j.describe(n), c.what), varied)
			}
		}
	}
}

// choice is one state in which one node may be.
type choice struct {
	what string
	pick pick
}

func (e *enumeration) choices(n Node, at int) []choice {
	s := e.states[n]
	out := []choice{{"lost", whole(s.synced)}}
	for i, index := range s.pending {
		out = append(out, choice{fmt.Sprintf("%d of %d", i+1, len(s.pending)), whole(index + 1)})
	}
	if e.j.nodes[n].kind != file {
		return out
	}
	// Torn is only what was written last: earlier points tear earlier writes.
	last := s.pending[len(s.pending)-1]
	if o := e.j.ops[last]; o.kind == opWrite && last == at-1 {
		for cut := Sector - int(o.off%Sector); cut < len(o.data); cut += Sector {
			p := whole(last)
			p.torn = cut
			out = append(out, choice{fmt.Sprintf("torn after %d bytes", cut), p})
		}
	}
	if e.b.Reorder && e.syncsNext(n, at) {
		for i, index := range s.pending {
			without, only, after := whole(last+1), whole(last+1), whole(last+1)
			without.without, only.only, after.after = index, index, index
			out = append(out,
				choice{fmt.Sprintf("without write %d", i+1), without},
				choice{fmt.Sprintf("only write %d", i+1), only},
				choice{fmt.Sprintf("from write %d on", i+1), after})
		}
	}
	return out
}

// syncsNext reports whether the node's writes stand complete: the next thing
// that happens to it is its sync, or nothing more.
func (e *enumeration) syncsNext(n Node, at int) bool {
	for _, o := range e.j.ops[at:] {
		if o.node == n {
			return o.kind == opSync
		}
	}
	return true
}

// add keeps an image that was not there yet; of one that was, the newest point.
func (e *enumeration) add(at int, name string, picks map[Node]pick) {
	var key strings.Builder
	for n := range len(e.j.nodes) {
		p := picks[Node(n)]
		p.upTo = e.lastBefore(Node(n), p.upTo)
		if p.torn > 0 || p.without >= 0 || p.only >= 0 || p.after >= 0 || p.upTo > 0 {
			fmt.Fprintf(&key, "%d:%v;", n, p)
		}
	}
	if i, ok := e.seen[key.String()]; ok {
		e.images[i].Point = at
		return
	}
	e.seen[key.String()] = len(e.images)
	e.images = append(e.images, Image{First: at, Point: at, Name: fmt.Sprintf("after operation %d: %s", at, name), pick: maps.Clone(picks), j: e.j})
}

// lastBefore is the point after the last operation, other than a sync, of a node
// before a point; 0 where there is none.
func (e *enumeration) lastBefore(n Node, point int) int {
	changes := e.changes[n]
	i, _ := slices.BinarySearch(changes, point)
	if i == 0 {
		return 0
	}
	return changes[i-1] + 1
}

func (j *Journal) describe(n Node) string {
	for parent, entries := range j.entries {
		for name, child := range entries {
			if child == n {
				if parent == 0 {
					return name
				}
				return j.describe(parent) + "/" + name
			}
		}
	}
	if n == 0 {
		return "."
	}
	return fmt.Sprintf("node %d", n)
}

// Outside are the nodes that never had a name below this name of the root.
func (j *Journal) Outside(top string) func(Node) bool {
	in := map[Node]bool{}
	if at, ok := j.entries[0][top]; ok {
		in[at] = true
	}
	for range j.nodes { // as deep as it can be
		for dir, names := range j.start {
			for _, child := range names {
				in[child] = in[child] || in[dir]
			}
		}
		for _, o := range j.ops {
			if o.kind == opLink || o.kind == opMove {
				in[o.target] = in[o.target] || in[o.node]
			}
		}
	}
	return func(n Node) bool { return !in[n] }
}

func (j *Journal) entriesAt(n Node, at int) map[string]Node {
	out := maps.Clone(j.start[n])
	for _, o := range j.ops[:at] {
		if o.node == n {
			link(out, o)
		}
	}
	return out
}

func link(entries map[string]Node, o op) {
	switch o.kind {
	case opLink:
		entries[o.name] = o.target
	case opUnlink:
		delete(entries, o.name)
	case opMove:
		delete(entries, o.name)
		entries[o.to] = o.target
	case opWrite, opTruncate, opAttr, opSync:
	}
}
