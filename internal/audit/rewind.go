package audit

import (
	"fmt"

	"github.com/backstay-dev/backstay"
)

// noteRewind keeps a record of a rewind: where the database lost entries that
// it had acknowledged, the log goes on as another branch. Each branch is a
// whole tree; a checkpoint of the lost one fits none of the other's roots.
func (v *verifier) noteRewind(r record) {
	if r.entry.Kind != backstay.EntryNote || r.entry.Deployment != "" {
		return
	}
	var note backstay.NoteBody
	if err := r.entry.Decode(&note); err != nil || note.Rewound == nil {
		return
	}
	v.rewinds = append(v.rewinds, Rewind{Leaf: r.leaf, Text: note.Text, Rewound: *note.Rewound})
}

// lostBranch says that a checkpoint which does not fit may be of a branch that
// the log says was lost. It excuses nothing: somebody who rewrites a ledger can
// write such a record too. "" where no record explains it.
func (v *verifier) lostBranch(c signed) string {
	for _, rw := range v.rewinds {
		if rw.LostSize > 0 && c.size > rw.LostSize {
			continue // longer than the branch that was lost
		}
		return fmt.Sprintf("; leaf %d records a rewind (%s): the checkpoint may be of the branch that was lost then", rw.Leaf, rw.Text)
	}
	return ""
}
