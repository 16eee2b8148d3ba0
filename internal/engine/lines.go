package engine

import (
	"bytes"
	"io"
)

// maxLine bounds a line that is shown while a command runs.
const maxLine = 4 << 10

// capture makes the output of a step's act: kept for the ledger and, where
// somebody watches, shown line by line.
func (r *runner) capture(step string) *output {
	o := newOutput(r.scrub)
	if show := r.e.opts.Output; show != nil {
		o.live = &lines{scrub: r.scrub, show: func(line string) { show(step, line) }}
	}
	return o
}

// lines cuts a stream into lines, redacted and clean. A secret of several
// lines is known to the scrubber line by line. It is not safe for concurrent use.
type lines struct {
	scrub *scrubber
	show  func(string)
	rest  []byte
}

var _ io.Writer = (*lines)(nil)

// Write shows every line that p completes. It never fails.
func (l *lines) Write(p []byte) (int, error) {
	n := len(p)
	for {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			break
		}
		l.add(p[:i])
		l.flush()
		p = p[i+1:]
	}
	l.add(p)
	return n, nil
}

// add keeps what fits of a line.
func (l *lines) add(p []byte) {
	if room := maxLine - len(l.rest); room > 0 {
		l.rest = append(l.rest, p[:min(room, len(p))]...)
	}
}

// flush shows the line so far.
func (l *lines) flush() {
	line := l.rest
	l.rest = l.rest[:0]
	if len(line) == maxLine {
		// A secret could straddle the cut; the last words before it go.
		if i := bytes.LastIndexByte(line, ' '); i >= 0 {
			line = line[:i]
		} else {
			line = nil
		}
		line = append(bytes.Clone(line), " […]"...)
	}
	l.show(clean(l.scrub.text(string(line))))
}
