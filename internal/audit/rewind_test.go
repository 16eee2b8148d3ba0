package audit_test

import (
	"strings"
	"testing"

	"github.com/backstay-dev/backstay"
)

// TestVerifyAfterRewind: the log goes on as another branch after the database
// lost entries. It verifies and tells of it; a checkpoint of the lost branch
// fails, and the failure names the record.
func TestVerifyAfterRewind(t *testing.T) {
	t.Parallel()
	common := sample()
	lost := common.clone()
	note := func(b *book, body backstay.NoteBody) {
		b.put(backstay.Entry{V: 1, Kind: backstay.EntryNote, At: start(), Body: backstay.Canonical(body)})
	}
	note(lost, backstay.NoteBody{Text: "acknowledged, and lost"})
	short := sign(t, lost)
	for range 5 {
		note(lost, backstay.NoteBody{Text: "acknowledged, and lost"})
	}
	long := sign(t, lost)
	earlier := sign(t, common)
	note(common, backstay.NoteBody{Text: "the database lost entries", Rewound: &backstay.Rewound{Generation: 2, LostSize: lost.head.Size}})

	r := verify(t, common, options(t, earlier.Note))
	if !r.OK || len(r.Rewinds) != 1 || r.Rewinds[0].Leaf != common.head.Size-1 || r.Rewinds[0].Generation != 2 {
		t.Errorf("after a rewind got\n%s", text(t, r))
	}
	if got := text(t, r); !strings.Contains(got, "records a rewind: the database lost entries") {
		t.Errorf("got\n%s", got)
	}
	for code, kept := range map[string][]byte{"rewritten": short.Note, "truncated": long.Note} {
		r := verify(t, common, options(t, kept))
		if r.OK || len(r.Problems) != 1 || r.Problems[0].Code != code || !strings.Contains(r.Problems[0].Meaning, "may be of the branch that was lost") {
			t.Errorf("%s: got\n%s", code, text(t, r))
		}
	}
	// Where nothing is recorded, nothing is explained.
	b := sample()
	if r := verify(t, b, options(t, long.Note)); r.OK || strings.Contains(r.Problems[0].Meaning, "rewind") {
		t.Errorf("got\n%s", text(t, r))
	}
}
