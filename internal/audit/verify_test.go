package audit_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/audit"
	"github.com/backstay-dev/backstay/internal/ledger"
)

func TestVerifyWhole(t *testing.T) {
	t.Parallel()
	for _, mute := range []bool{false, true} {
		t.Run(fmt.Sprintf("mute=%v", mute), func(t *testing.T) {
			t.Parallel()
			b := sample()
			b.mute = mute
			early := sign(t, b)
			w := b.deploy("later", "shop", "conf")
			w.intent("conf")
			kept := sign(t, b)
			w.done("conf")
			b.checkpoints = b.checkpoints[:1]

			r := verify(t, b, options(t, kept.Note))
			if !r.OK || len(r.Problems) != 0 {
				t.Fatalf("a whole ledger was not verified:\n%s", text(t, r))
			}
			got := []int64{r.Entries, int64(r.Deployments), int64(r.Checkpoints), int64(r.Kept), r.Covered, r.Newer}
			want := []int64{int64(len(b.leaves)), 4, 1, 1, kept.Size, 1}
			if diff := cmp.Diff(got, want); diff != "" {
				t.Errorf("entries, deployments, checkpoints, kept, covered, newer (-got +want):\n%s", diff)
			}
			if diff := cmp.Diff(r.UnknownKinds, map[string]int64{"rehearsal": 1}); diff != "" {
				t.Errorf("unknown kinds (-got +want):\n%s", diff)
			}
			if early.Size == kept.Size {
				t.Fatal("the test's checkpoints are of the same size")
			}
		})
	}
}

func TestVerifySaysWhatIsNotCovered(t *testing.T) {
	t.Parallel()
	b := sample()
	if got := text(t, verify(t, b, options(t))); !strings.Contains(got, "no signed checkpoint covers any entry") {
		t.Errorf("got\n%s", got)
	}
	sign(t, b)
	if got := text(t, verify(t, b, options(t))); strings.Contains(got, "covered by no signature") || !strings.Contains(got, "no kept checkpoint was given") {
		t.Errorf("got\n%s", got)
	}
	b.deploy("later", "shop", "conf")
	if got := text(t, verify(t, b, options(t))); !strings.Contains(got, "3 entries are newer than it: covered by no signature") {
		t.Errorf("got\n%s", got)
	}
}

func TestVerifyEmpty(t *testing.T) {
	t.Parallel()
	b := newBook()
	sign(t, b)
	if r := verify(t, b, options(t)); !r.OK || r.Entries != 0 || r.Checkpoints != 1 {
		t.Errorf("got\n%s", text(t, r))
	}
}

func TestVerifyNeedsAKey(t *testing.T) {
	t.Parallel()
	for name, keys := range map[string][]string{"none": nil, "no key": {"hello"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := audit.Verify(t.Context(), sample(), audit.Options{PublicKeys: keys}); backstay.HintOf(err) == "" {
				t.Errorf("got %v, want an error with a hint", err)
			}
		})
	}
}

// TestVerifyLarge crosses pages and every shape of the tree's edge.
func TestVerifyLarge(t *testing.T) {
	t.Parallel()
	b := newBook()
	for i := range 40 {
		w := b.deploy(fmt.Sprintf("deployment-%02d", i), "shop", "a", "b", "c")
		for _, s := range []string{"a", "b", "c"} {
			w.intent(s)
			w.done(s)
		}
		w.prove()
		if i%7 == 0 {
			sign(t, b)
		}
	}
	r := verify(t, b, options(t))
	if !r.OK || r.Checkpoints != 6 || r.Entries != int64(len(b.leaves)) || len(b.leaves) < 500 {
		t.Errorf("of %d entries got\n%s", len(b.leaves), text(t, r))
	}
	// Every single flipped record is found, and nothing else is blamed.
	for _, leaf := range []int{0, 1, 255, 256, 257, 511, 512, len(b.leaves) - 1} {
		c := b.clone()
		c.leaves[leaf].Record[10] ^= 1
		r := verify(t, c, options(t))
		if r.OK || r.Problems[0].Code != "record_changed" || r.Problems[0].Leaf != int64(leaf) {
			t.Errorf("flipped leaf %d: got\n%s", leaf, text(t, r))
		}
	}
}

// TestVerifyWhileWritten verifies what the head covered at the beginning.
func TestVerifyWhileWritten(t *testing.T) {
	t.Parallel()
	for _, mute := range []bool{false, true} {
		t.Run(fmt.Sprintf("mute=%v", mute), func(t *testing.T) {
			t.Parallel()
			b := sample()
			b.mute = mute
			w := b.deploy("live", "shop", "a", "b", "c", "d", "e", "f", "g")
			steps := []string{"a", "b", "c", "d", "e", "f", "g"}
			size := int64(len(b.leaves))
			b.onWalk = func() {
				if len(steps) > 0 {
					w.intent(steps[0])
					w.done(steps[0])
					steps = steps[1:]
				}
			}
			if r := verify(t, b, options(t)); !r.OK || r.Entries != size {
				t.Errorf("of %d entries got\n%s", size, text(t, r))
			}
			if len(steps) == 7 {
				t.Error("nothing was written meanwhile")
			}
		})
	}
}

// tamperings are what somebody with write access, and mostly without the
// key, can do to a ledger. Each begins from sample, signed.
func tamperings() []struct {
	name   string
	tamper func(t *testing.T, b *book)
	code   string // of the first problem
	leaf   int64  // of the first problem
	says   string // in the text
} {
	type T = *testing.T
	const leaf = 20
	return []struct {
		name   string
		tamper func(t *testing.T, b *book)
		code   string
		leaf   int64
		says   string
	}{
		{"flip a byte of a record", func(_ T, b *book) { b.leaves[leaf].Record[30] ^= 1 }, "record_changed", leaf, "leaf 20"},
		{"flip a byte of a salt", func(_ T, b *book) { b.leaves[leaf].Salt[3] ^= 1 }, "record_changed", leaf, "do not hash to the leaf"},
		{"rewrite a record and its columns", func(_ T, b *book) {
			b.rewrite(leaf, func(e *backstay.Entry) { e.Actor = &backstay.Actor{UID: 0, Name: "root"} })
		}, "record_changed", leaf, "was changed after it was written"},
		{"swap two records", func(_ T, b *book) {
			x, y := &b.leaves[leaf], &b.leaves[leaf+1]
			x.Record, y.Record, x.Salt, y.Salt, x.Entry, y.Entry = y.Record, x.Record, y.Salt, x.Salt, y.Entry, x.Entry
		}, "record_changed", leaf, "leaf 21"},
		{"rewrite a record with its leaf hash", func(_ T, b *book) {
			b.rewrite(leaf, func(e *backstay.Entry) { e.Actor = nil })
			l := b.leaves[leaf]
			b.hashes[tlog.StoredHashIndex(0, leaf)] = tlog.RecordHash(append(slices.Clone(l.Salt), l.Record...))
		}, "tree_changed", leaf, "does not follow from the leaves below it"},
		{"change a node of the tree", func(_ T, b *book) { b.hashes[tlog.StoredHashIndex(2, 3)][0] ^= 1 }, "tree_changed", 12, "leaves 12 to 15"},
		{"remove a node of the tree", func(_ T, b *book) { b.hashes[tlog.StoredHashIndex(1, 1)] = tlog.Hash{} }, "tree_missing", 0, "cannot be read"},
		{"change the head", func(_ T, b *book) { b.head.Root[5] ^= 1 }, "head_changed", -1, "the stored head of size"},
		{"remove a record", func(_ T, b *book) { b.leaves = slices.Delete(b.leaves, leaf, leaf+1) }, "record_missing", leaf, "leaf 20 has no record"},
		{"remove the middle", func(_ T, b *book) { b.leaves = slices.Delete(b.leaves, leaf, leaf+5) }, "record_missing", leaf, "leaves 20 to 24 have no record"},
		{"remove the newest records only", func(_ T, b *book) { b.leaves = b.leaves[:len(b.leaves)-3] }, "record_missing", 44, "leaves 44 to 46 have no record"},
		{"remove the middle and rebuild the tree", func(_ T, b *book) {
			b.leaves = slices.Delete(b.leaves, leaf, leaf+2)
			b.rebuild()
		}, "grammar", 20, "are missing"},
		{"remove the newest and rebuild the tree", func(_ T, b *book) {
			b.leaves = b.leaves[:len(b.leaves)-3]
			b.rebuild()
			b.deployments[2].N, b.deployments[2].State = b.deployments[2].N-3, backstay.RollingBack
		}, "truncated", 44, "at least the newest 3 entries of that time were removed"},
		{"rewrite and rebuild the tree", func(_ T, b *book) {
			b.rewrite(leaf, func(e *backstay.Entry) { e.Actor = nil })
			b.rebuild()
		}, "rewritten", 0, "some were changed, added or removed after that checkpoint was signed"},
		{"put a record of another deployment in", func(_ T, b *book) {
			b.rewrite(leaf, func(e *backstay.Entry) { e.Deployment = held })
			b.rebuild()
		}, "grammar", 20, "entry 1 is missing"},
		{"put a stale owner's record in", func(_ T, b *book) {
			b.rewrite(6, func(e *backstay.Entry) { e.Epoch = 5 })
			b.rebuild()
		}, "grammar", 7, "a stale owner's write got in"},
		{"put an undo intent away", func(_ T, b *book) {
			b.rewrite(29, func(e *backstay.Entry) {
				e.Kind, e.Body = backstay.EntryNote, backstay.Canonical(backstay.NoteBody{Text: "nothing"})
			})
			b.rebuild()
		}, "grammar", 30, "without an undo intent before it"},
		{"put an approval away", func(_ T, b *book) {
			b.rewrite(7, func(e *backstay.Entry) {
				e.Kind, e.Body = backstay.EntryNote, backstay.Canonical(backstay.NoteBody{Text: "nothing"})
			})
			b.rebuild()
		}, "grammar", 9, "passed without an approval"},
		{"approve another plan", func(_ T, b *book) {
			b.rewrite(7, func(e *backstay.Entry) {
				e.Body = backstay.Canonical(backstay.SignalBody{ID: "x", Signal: "approve", Step: "ask", Plan: strings.Repeat("0", 64), Accepted: true})
			})
			b.rebuild()
		}, "grammar", 7, "an approval of plan 000000000000 was accepted"},
		{"put a verification away", func(_ T, b *book) {
			b.rewrite(14, func(e *backstay.Entry) {
				e.Body = backstay.Canonical(backstay.VerdictBody{Check: "verify", Phase: "verify"})
			})
			b.rebuild()
		}, "grammar", 15, "committed without a passed verification"},
		{"record that is no entry", func(_ T, b *book) {
			b.leaves[leaf].Record = []byte(`{"v":1`)
			b.rebuild()
		}, "record_unreadable", leaf, "not an entry"},
		{"record with a key twice", func(_ T, b *book) {
			b.leaves[leaf].Record = bytes.Replace(b.leaves[leaf].Record, []byte(`"v":1,`), []byte(`"v":1,"v":1,`), 1)
			b.rebuild()
		}, "record_unreadable", leaf, "not in its canonical form"},
		{"change the plan", func(_ T, b *book) {
			digest := b.deployments[1].PlanDigest
			b.plans[digest] = bytes.Replace(b.plans[digest], []byte("write"), []byte("wrote"), 1)
		}, "plan_changed", 19, "the stored plan hashes to"},
		{"remove the plan", func(_ T, b *book) { delete(b.plans, b.deployments[1].PlanDigest) }, "plan_changed", 19, "cannot be read"},
		{"change a row's state", func(_ T, b *book) { b.deployments[1].State = backstay.Proven }, "row_differs", -1, "the row says proven, the records lead to rolled_back"},
		{"change a row's count", func(_ T, b *book) { b.deployments[1].N-- }, "row_differs", -1, "the row counts"},
		{"change a row's author", func(_ T, b *book) { b.deployments[1].Author.UID = 0 }, "row_differs", -1, "started by"},
		{"change a row's release", func(_ T, b *book) { b.deployments[1].Release = "till" }, "row_differs", -1, `release "till"`},
		{"change a row's plan", func(_ T, b *book) { b.deployments[1].PlanDigest = b.deployments[0].PlanDigest }, "row_differs", -1, "names plan"},
		{"change what a row reverts", func(_ T, b *book) { b.deployments[1].Reverts = held }, "row_differs", -1, "it reverts"},
		{"remove a row", func(_ T, b *book) { b.deployments = slices.Delete(b.deployments, 1, 2) }, "row_differs", -1, "it is not listed"},
		{"add a row", func(_ T, b *book) {
			b.deployments = append(b.deployments, ledger.Deployment{ID: "ghost", Name: "ghost#1"})
		}, "row_differs", -1, "no record speaks of it"},
		{"forge a checkpoint with another key", func(t T, b *book) {
			t.Helper()
			secret, _, err := note.GenerateKey(bytes.NewReader(bytes.Repeat([]byte{9}, 64)), "backstay-audit/web1")
			if err != nil {
				t.Fatal(err)
			}
			other, err := audit.NewSigner(secret)
			if err != nil {
				t.Fatal(err)
			}
			if b.checkpoints[0].Note, err = other.SignCheckpoint(t.Context(), audit.Origin(b.id), b.head); err != nil {
				t.Fatal(err)
			}
		}, "checkpoint_not_trusted", -1, "which is not a key that you trust here"},
		{"change a checkpoint's text", func(_ T, b *book) {
			b.checkpoints[0].Note = bytes.Replace(b.checkpoints[0].Note, []byte("\n47\n"), []byte("\n46\n"), 1)
		}, "checkpoint_not_trusted", -1, "signature is not valid"},
		{"change a checkpoint's row", func(_ T, b *book) { b.checkpoints[0].Size = 3 }, "checkpoint_row", -1, "stored as of size 3"},
		{"put another ledger in its place", func(_ T, b *book) { b.id = "other" }, "checkpoint_foreign", -1, "is of the log"},
	}
}

func TestTamperingIsFound(t *testing.T) {
	t.Parallel()
	for _, tt := range tamperings() {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := sample()
			sign(t, b)
			if r := verify(t, b, options(t)); !r.OK {
				t.Fatalf("not verified before it was tampered with:\n%s", text(t, r))
			}
			tt.tamper(t, b)
			r := verify(t, b, options(t))
			if r.OK || len(r.Problems) == 0 {
				t.Fatal("not found")
			}
			if p := r.Problems[0]; p.Code != tt.code || p.Leaf != tt.leaf {
				t.Errorf("first problem: got %s at leaf %d, want %s at %d\n%s", p.Code, p.Leaf, tt.code, tt.leaf, text(t, r))
			}
			if got := text(t, r); !strings.Contains(got, tt.says) {
				t.Errorf("does not say %q:\n%s", tt.says, got)
			}
			for _, p := range r.Problems {
				if p.Message == "" || p.Meaning == "" || p.Do == "" {
					t.Errorf("problem without words: %+v", p)
				}
			}
		})
	}
}

// TestChangedColumnsAreFound changes what commands select by, in stores that
// tell their columns and in ones that do not.
func TestChangedColumnsAreFound(t *testing.T) {
	t.Parallel()
	const leaf = 23 // an intent of the rolled back deployment
	tests := []struct {
		name   string
		change func(c *ledger.Columns)
		told   bool // only a store that tells its columns shows it
	}{
		{"number", func(c *ledger.Columns) { c.N = 99 }, false},
		{"number of another", func(c *ledger.Columns) { c.N-- }, true},
		{"deployment", func(c *ledger.Columns) { c.Deployment = held }, false},
		{"no deployment", func(c *ledger.Columns) { c.Deployment = "" }, false},
		{"kind", func(c *ledger.Columns) { c.Kind = backstay.EntryNote }, false},
		{"step", func(c *ledger.Columns) { c.Step = "other" }, true},
		{"actor", func(c *ledger.Columns) { c.ActorName = "bob" }, true},
		{"uid", func(c *ledger.Columns) { c.ActorUID = 7 }, true},
		{"time", func(c *ledger.Columns) { c.At = c.At.AddDate(0, 0, 1) }, true},
	}
	for _, tt := range tests {
		for _, mute := range []bool{false, true} {
			if mute && tt.told {
				continue
			}
			t.Run(fmt.Sprintf("%s, mute=%v", tt.name, mute), func(t *testing.T) {
				t.Parallel()
				b := sample()
				b.mute = mute
				tt.change(b.leaves[leaf].Columns)
				r := verify(t, b, options(t))
				if diff := cmp.Diff(codes(r), []string{"columns_differ"}); diff != "" {
					t.Errorf("codes (-got +want):\n%s\n%s", diff, text(t, r))
				}
				if !mute && r.Problems[0].Leaf != leaf {
					t.Errorf("leaf: got %d, want %d", r.Problems[0].Leaf, leaf)
				}
			})
		}
	}
}

// TestAgainst: what only a checkpoint kept elsewhere shows.
func TestAgainst(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		tamper func(b *book)
		code   string
	}{
		{"truncated, with its checkpoints", func(b *book) {
			b.leaves = b.leaves[:len(b.leaves)-3]
			b.rebuild()
			b.deployments[2].N, b.deployments[2].State = b.deployments[2].N-3, backstay.RollingBack
			b.checkpoints = nil
		}, "truncated"},
		{"rewritten, with its checkpoints", func(b *book) {
			b.rewrite(20, func(e *backstay.Entry) { e.Actor = nil })
			b.rebuild()
			b.checkpoints = nil
		}, "rewritten"},
		{"rewritten and signed again with the stolen key", func(b *book) {
			b.rewrite(20, func(e *backstay.Entry) { e.Actor = nil })
			b.rebuild()
			b.checkpoints = nil
			sign(t, b)
		}, "rewritten"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := sample()
			kept := sign(t, b)
			tt.tamper(b)
			if r := verify(t, b, options(t)); !r.OK {
				t.Fatalf("found without the kept checkpoint, so the test proves nothing:\n%s", text(t, r))
			}
			r := verify(t, b, options(t, kept.Note))
			if diff := cmp.Diff(codes(r), []string{tt.code}); diff != "" {
				t.Errorf("codes (-got +want):\n%s\n%s", diff, text(t, r))
			}
		})
	}
	t.Run("kept checkpoint is garbage", func(t *testing.T) {
		t.Parallel()
		for _, kept := range []string{"", "hello", "a\nb\nc\n\n— x AAAA\n"} {
			if r := verify(t, sample(), options(t, []byte(kept))); r.OK {
				t.Errorf("%q was accepted", kept)
			}
		}
	})
}

// unreadable fails to read one leaf, as a store does whose row is damaged.
type unreadable struct {
	*book
	leaf int64
}

func (u *unreadable) Walk(ctx context.Context, q ledger.Query, visit func(ledger.Leaf) error) error {
	return u.book.Walk(ctx, q, func(l ledger.Leaf) error {
		if l.Index == u.leaf || u.leaf < 0 {
			return errBroken
		}
		return visit(l)
	})
}

func TestUnreadableRowIsFoundAlone(t *testing.T) {
	t.Parallel()
	b := sample()
	sign(t, b)
	r := verify(t, &unreadable{book: b, leaf: 18}, options(t)) // the refusal: no deployment has a hole
	if len(r.Problems) != 1 || r.Problems[0].Code != "record_unreadable" || r.Problems[0].Leaf != 18 {
		t.Errorf("got\n%s", text(t, r))
	}
}

func TestUnreadableStoreIsAnError(t *testing.T) {
	t.Parallel()
	big := newBook()
	for i := range 60 {
		big.deploy(fmt.Sprintf("d%d", i), "shop", "a")
	}
	if r, err := audit.Verify(t.Context(), &unreadable{book: big, leaf: -1}, options(t)); err == nil {
		t.Errorf("got\n%s", text(t, r))
	}
}

func TestResultIsBounded(t *testing.T) {
	t.Parallel()
	b := sample()
	for i := range b.leaves {
		b.leaves[i].Salt[0] ^= 1
	}
	r := verify(t, b, options(t))
	if len(r.Problems) != 20 || r.More < int64(len(b.leaves))-20 {
		t.Errorf("got %d problems and %d more of %d", len(r.Problems), r.More, len(b.leaves))
	}
	if got := text(t, r); !strings.Contains(got, fmt.Sprintf("and %d more", r.More)) {
		t.Errorf("does not say how many more:\n%s", got)
	}
}

func TestResultJSON(t *testing.T) {
	t.Parallel()
	data, err := json.Marshal(verify(t, sample(), options(t)))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(data, []byte(`"type":"backstay.audit.verify/v1"`)) || !bytes.Contains(data, []byte(`"problems":[]`)) {
		t.Errorf("got %s", data)
	}
}

// TestGrammar: ledgers that are whole as trees, and could not have been
// written by an engine that keeps its promises.
func TestGrammar(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		write func(w *writer)
		want  string
	}{
		{"outcome without intent", func(w *writer) { w.done("a") }, "without an intent before it"},
		{"two outcomes", func(w *writer) { w.intent("a"); w.done("a"); w.done("a") }, "without an intent before it"},
		{"two intents", func(w *writer) { w.intent("a"); w.intent("a") }, `begins while it is open`},
		{"intent of an applied step", func(w *writer) { w.intent("a"); w.done("a"); w.intent("a") }, `begins while it is applied`},
		{"step of another plan", func(w *writer) { w.intent("z") }, "which the plan does not have"},
		{"step without a name", func(w *writer) { w.intent("") }, "names no step"},
		{"finding without intent", func(w *writer) {
			w.add(backstay.EntryObserved, "a", backstay.ObservedBody{Finding: backstay.Applied})
		}, "without an open intent"},
		{"finding that is none", func(w *writer) {
			w.intent("a")
			w.add(backstay.EntryObserved, "a", backstay.ObservedBody{Finding: "perhaps"})
		}, "is not known"},
		{"undo while going forward", func(w *writer) {
			w.intent("a")
			w.done("a")
			w.add(backstay.EntryUndoIntent, "a", backstay.UndoIntentBody{})
		}, "an undo of step"},
		{"compensation while going forward", func(w *writer) { w.intent("a"); w.done("a"); w.undo("a", "untouched") }, "while the deployment is running"},
		{"compensation of what was not touched", func(w *writer) {
			w.intent("a")
			w.failed("a")
			w.move("fail", backstay.RollingBack)
			w.undo("b", "untouched")
		}, "which has no intent"},
		{"second compensation", func(w *writer) {
			w.intent("a")
			w.failed("a")
			w.move("fail", backstay.RollingBack)
			w.undo("a", "untouched")
			w.undo("a", "untouched")
		}, "a second compensation record"},
		{"rolled back without compensation", func(w *writer) {
			w.intent("a")
			w.failed("a")
			w.move("fail", backstay.RollingBack)
			w.move("undone", backstay.RolledBack)
		}, "has no compensation record"},
		{"rolled back with residue", func(w *writer) {
			w.move("fail", backstay.RollingBack)
			w.moveWith(backstay.RolledBack, backstay.TransitionBody{Event: "undone", Residue: []backstay.Residue{{Key: "x"}}})
		}, "that is held"},
		{"committed with a step open", func(w *writer) {
			w.intent("a")
			w.passed("verify")
			w.move("commit", backstay.Committed)
		}, `committed while step "a" is open`},
		{"committed without a step", func(w *writer) {
			w.intent("a")
			w.done("a")
			w.passed("verify")
			w.move("commit", backstay.Committed)
		}, `committed without step "b"`},
		{"proven without a bake", func(w *writer) {
			for _, s := range []string{"a", "b"} {
				w.intent(s)
				w.done(s)
			}
			w.passed("verify")
			w.move("commit", backstay.Committed)
			w.move("prove", backstay.Proven)
		}, "proven without a passed bake"},
		{"transition that is none", func(w *writer) { w.move("prove", backstay.Proven) }, "there is no such transition"},
		{"transition from elsewhere", func(w *writer) {
			w.add(backstay.EntryTransition, "", backstay.TransitionBody{From: "holding", Event: "resume", To: "running"})
		}, "but the deployment is running"},
		{"after the end", func(w *writer) {
			w.move("fail", backstay.RollingBack)
			w.move("undone", backstay.RolledBack)
			w.intent("a")
		}, "after the deployment was rolled_back"},
		{"planned twice", func(w *writer) { w.add(backstay.EntryPlanned, "", backstay.PlannedBody{}) }, "a second time"},
		{"number left out", func(w *writer) { w.n++; w.intent("a") }, "entry 4 is missing"},
		{"number used twice", func(w *writer) { w.n--; w.intent("a") }, "the number was used before"},
		{"body that is none", func(w *writer) { w.add(backstay.EntryIntent, "a", "text") }, "cannot be read"},
		{"cleaned up too early", func(w *writer) { w.add(backstay.EntrySettled, "a", backstay.SettledBody{OK: true}) }, "is cleaned up while"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := newBook()
			tt.write(b.deploy("d", "shop", "a", "b"))
			r := verify(t, b, options(t))
			if r.OK || r.Problems[0].Code != "grammar" {
				t.Fatalf("not found:\n%s", text(t, r))
			}
			p := r.Problems[0]
			if !strings.Contains(p.Message, tt.want) || p.Leaf != int64(len(b.leaves)-1) || p.Deployment != "d" || p.Name != "shop#1" {
				t.Errorf("got %+v, want %q at leaf %d of d", p, tt.want, len(b.leaves)-1)
			}
		})
	}
	t.Run("begins in the middle", func(t *testing.T) {
		t.Parallel()
		b := newBook()
		b.put(backstay.Entry{V: 1, Deployment: "d", N: 1, Kind: backstay.EntryIntent, Step: "a", At: start()})
		if r := verify(t, b, options(t)); r.OK || !strings.Contains(r.Problems[0].Message, "before the deployment was planned") {
			t.Errorf("got\n%s", text(t, r))
		}
	})
	t.Run("numbered entry of no deployment", func(t *testing.T) {
		t.Parallel()
		b := newBook()
		b.put(backstay.Entry{V: 1, N: 1, Kind: backstay.EntryNote, At: start()})
		if r := verify(t, b, options(t)); r.OK {
			t.Error("not found")
		}
	})
	t.Run("entry of a newer version is no problem", func(t *testing.T) {
		t.Parallel()
		b := newBook()
		w := b.deploy("d", "shop", "a")
		w.n++
		b.put(backstay.Entry{V: 2, Deployment: "d", N: w.n, Kind: backstay.EntryIntent, Step: "new", At: start()})
		b.deployments[0].N = w.n
		w.done("new") // what it means now is not known
		if r := verify(t, b, options(t)); !r.OK {
			t.Errorf("got\n%s", text(t, r))
		}
	})
}
