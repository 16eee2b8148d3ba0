package image

import "fmt"

// Text is one operation of the record, for people who look for a cause.
func (j *Journal) Text(at int) string {
	o := j.ops[at]
	name := fmt.Sprintf("%d %s", at, j.describe(o.node))
	switch o.kind {
	case opWrite:
		return fmt.Sprintf("%s: write %d bytes at %d", name, len(o.data), o.off)
	case opTruncate:
		return fmt.Sprintf("%s: truncate to %d", name, o.off)
	case opAttr:
		return fmt.Sprintf("%s: attributes %o, time %d", name, o.attr.Mode, o.attr.MTime)
	case opLink:
		return fmt.Sprintf("%s: node %d is %s", name, o.target, o.name)
	case opUnlink:
		return fmt.Sprintf("%s: remove %s", name, o.name)
	case opMove:
		return fmt.Sprintf("%s: rename %s to %s", name, o.name, o.to)
	case opSync:
	}
	return name + ": sync"
}
