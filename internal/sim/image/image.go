// Package image builds what a disk may hold after a power cut. A Journal is the
// record of what a program did to files: creations, writes, syncs, renames. From
// it Images enumerates, at every point of the record, the states that a file
// system may legally show when the machine comes back.
//
// The model is that of POSIX with one kindness: what was synced is there; of what
// was not, a file's writes may be lost, kept, kept as a prefix, torn at 512 bytes,
// or reordered; a directory's entries appear in the order in which they were made
// and become durable with the sync of that directory, never with the sync of a
// file in it. Different files and directories are independent of each other. A
// symlink cannot be synced by itself: it goes with its directory.
//
// It is test support, and knows nothing of who wrote what.
package image

import (
	"maps"
	"slices"
)

// Sector is the unit that a disk writes whole.
const Sector = 512

// Node is one file, directory or symlink of the record. The root is 0.
type Node int

// Attr is what a node has besides its content. Only what was set is compared.
type Attr struct {
	Mode     uint32 // permission bits, setuid, setgid, sticky
	UID, GID int
	MTime    int64 // nanoseconds; 0: whenever
	Xattrs   map[string]string
}

type nodeKind int

const (
	file nodeKind = iota
	dir
	symlink
)

type opKind int

const (
	opWrite opKind = iota
	opTruncate
	opAttr
	opLink   // a name in a directory; what had it before loses it
	opUnlink // a name goes
	opMove   // a name goes and another one comes, in one directory
	opSync
)

type op struct {
	kind     opKind
	node     Node
	off      int64 // opWrite; the size of opTruncate
	data     []byte
	attr     Attr
	name, to string
	target   Node
}

type birth struct {
	kind   nodeKind
	attr   Attr
	data   []byte // content that was durable at the start
	target string // of a symlink
}

// Journal is the record. It is not safe for concurrent use.
type Journal struct {
	nodes []birth
	// entries are the names as the running program sees them.
	entries map[Node]map[string]Node
	start   map[Node]map[string]Node
	ops     []op
}

// New begins a record with an empty root directory.
func New() *Journal {
	j := &Journal{entries: map[Node]map[string]Node{}, start: map[Node]map[string]Node{}}
	j.add(birth{kind: dir, attr: Attr{Mode: 0o755}})
	return j
}

func (j *Journal) add(b birth) Node {
	n := Node(len(j.nodes))
	j.nodes = append(j.nodes, b)
	if b.kind == dir {
		j.entries[n] = map[string]Node{}
		j.start[n] = map[string]Node{}
	}
	return n
}

// Len is how many operations were recorded: the newest point.
func (j *Journal) Len() int { return len(j.ops) }

// Start puts into the record what was there, durable, before it began. Only
// before the first operation.
func (j *Journal) Start(in Node, name string, f File) Node {
	b := birth{kind: file, attr: f.Attr, data: f.Data, target: f.Target}
	switch f.Type {
	case Dir:
		b.kind = dir
	case Symlink:
		b.kind = symlink
	case Regular:
	}
	n := j.add(b)
	j.entries[in][name], j.start[in][name] = n, n
	return n
}

// Lookup finds what has a name now.
func (j *Journal) Lookup(in Node, name string) (Node, bool) {
	n, ok := j.entries[in][name]
	return n, ok
}

func (j *Journal) record(o op) { j.ops = append(j.ops, o) }

// Create makes a new, empty file.
func (j *Journal) Create(in Node, name string, attr Attr) Node {
	return j.make(in, name, birth{kind: file, attr: attr})
}

// Mkdir makes a new directory.
func (j *Journal) Mkdir(in Node, name string, attr Attr) Node {
	return j.make(in, name, birth{kind: dir, attr: attr})
}

// Symlink makes a symlink.
func (j *Journal) Symlink(in Node, name, target string, attr Attr) Node {
	return j.make(in, name, birth{kind: symlink, target: target, attr: attr})
}

func (j *Journal) make(in Node, name string, b birth) Node {
	n := j.add(b)
	j.Link(in, name, n)
	return n
}

// Link gives a node a name.
func (j *Journal) Link(in Node, name string, n Node) {
	j.entries[in][name] = n
	j.record(op{kind: opLink, node: in, name: name, target: n})
}

// Remove takes a name away.
func (j *Journal) Remove(in Node, name string) {
	delete(j.entries[in], name)
	j.record(op{kind: opUnlink, node: in, name: name})
}

// Rename moves a name. Between directories it is two operations: the file system
// does not promise that both are there, only that the new one comes first.
func (j *Journal) Rename(in Node, name string, to Node, toName string) {
	n, ok := j.entries[in][name]
	if !ok {
		return
	}
	if in != to {
		j.Link(to, toName, n)
		j.Remove(in, name)
		return
	}
	delete(j.entries[in], name)
	j.entries[in][toName] = n
	j.record(op{kind: opMove, node: in, name: name, to: toName, target: n})
}

// Write puts data at an offset of a file.
func (j *Journal) Write(n Node, off int64, data []byte) {
	j.record(op{kind: opWrite, node: n, off: off, data: slices.Clone(data)})
}

// Truncate sets the size of a file.
func (j *Journal) Truncate(n Node, size int64) { j.record(op{kind: opTruncate, node: n, off: size}) }

// SetAttr sets all attributes of a node.
func (j *Journal) SetAttr(n Node, attr Attr) {
	attr.Xattrs = maps.Clone(attr.Xattrs)
	j.record(op{kind: opAttr, node: n, attr: attr})
}

// Sync makes a node durable: content and attributes of a file, entries and
// attributes of a directory.
func (j *Journal) Sync(n Node) { j.record(op{kind: opSync, node: n}) }
