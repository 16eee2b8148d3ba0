package image

import (
	"maps"
	"path"
)

// Files are the paths of the image, by slash path; the root is not among them.
func (i Image) Files() map[string]File {
	out := map[string]File{}
	i.walk(0, "", out, map[Node]bool{})
	return out
}

func (i Image) walk(n Node, at string, out map[string]File, above map[Node]bool) {
	if above[n] {
		return // a directory moved into itself by lost operations
	}
	above[n] = true
	defer delete(above, n)
	for name, child := range i.entries(n) {
		p := path.Join(at, name)
		out[p] = i.file(child)
		if i.j.nodes[child].kind == dir {
			i.walk(child, p, out, above)
		}
	}
}

func (i Image) entries(n Node) map[string]Node {
	entries := maps.Clone(i.j.start[n])
	i.each(n, func(o op, _ int) { link(entries, o) })
	return entries
}

// each calls do with the operations of a node that are in the image, and with
// how many bytes of each count (-1: all).
func (i Image) each(n Node, do func(op, int)) {
	p := i.pick[n]
	synced := 0
	for at, o := range i.j.ops[:i.Point] {
		if o.node == n && o.kind == opSync {
			synced = at
		}
	}
	synced = min(synced, p.upTo)
	for at, o := range i.j.ops {
		if o.node != n || o.kind == opSync {
			continue
		}
		switch {
		case at >= p.upTo:
			if p.torn > 0 && at == p.upTo {
				do(o, p.torn)
			}
		case at == p.without, at >= synced && p.only >= 0 && at != p.only, at >= synced && at < p.after:
		default:
			do(o, -1)
		}
	}
}

func (i Image) file(n Node) File {
	b := i.j.nodes[n]
	f := File{Attr: b.attr, Target: b.target}
	switch b.kind {
	case dir:
		f.Type = Dir
	case symlink:
		f.Type = Symlink
	case file:
		f.Data = append([]byte{}, b.data...)
	}
	i.each(n, func(o op, bytes int) {
		switch o.kind {
		case opAttr:
			f.Attr = o.attr
		case opTruncate:
			f.Attr.MTime = 0
			f.Data = resize(f.Data, int(o.off))
		case opWrite:
			f.Attr.MTime = 0
			data := o.data
			if bytes >= 0 {
				data = data[:bytes]
			}
			if end := int(o.off) + len(data); end > len(f.Data) {
				f.Data = resize(f.Data, end)
			}
			copy(f.Data[o.off:], data)
		case opLink, opUnlink, opMove:
			f.Attr.MTime = 0
		case opSync:
		}
	})
	return f
}

func resize(data []byte, size int) []byte {
	if size <= len(data) {
		return data[:size]
	}
	return append(data, make([]byte, size-len(data))...)
}
