package audit_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/audit"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/plan"
)

const ledgerID = "0198c0de-0000-7000-8000-000000000001"

// book is a whole ledger in memory.
type book struct {
	id          string
	leaves      []ledger.Leaf
	hashes      []tlog.Hash
	head        ledger.Head
	checkpoints []ledger.Checkpoint
	deployments []ledger.Deployment
	plans       map[string][]byte
	flags       []backstay.Flag
	blobs       map[string][]byte // as stored, whatever their address says
	// mute stores tell no columns: commands' queries are all that can be compared.
	mute bool
	// onWalk is called before each Walk.
	onWalk func()
}

var (
	_ audit.Source    = (*book)(nil)
	_ audit.Store     = (*book)(nil)
	_ audit.LogSource = (*book)(nil)
)

func (b *book) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, 0, len(indexes))
	for _, i := range indexes {
		if i >= int64(len(b.hashes)) || b.hashes[i] == (tlog.Hash{}) {
			return nil, fmt.Errorf("no hash %d", i)
		}
		out = append(out, b.hashes[i])
	}
	return out, nil
}

func (b *book) HashReader(context.Context) tlog.HashReader { return b }
func (b *book) Head(context.Context) (ledger.Head, error)  { return b.head, nil }
func (b *book) LedgerID(context.Context) (string, error)   { return b.id, nil }
func (b *book) ReadCheckpoints(context.Context) ([]ledger.Checkpoint, error) {
	return b.checkpoints, nil
}

func (b *book) SaveCheckpoint(_ context.Context, c ledger.Checkpoint) error {
	b.checkpoints = append(b.checkpoints, c)
	return nil
}

func (b *book) Walk(_ context.Context, q ledger.Query, visit func(ledger.Leaf) error) error {
	if b.onWalk != nil {
		b.onWalk()
	}
	n := 0
	for _, l := range b.leaves {
		c := l.Columns
		if l.Index <= q.AfterLeaf || q.Deployment != "" && q.Deployment != c.Deployment || q.Kind != "" && q.Kind != c.Kind || q.Step != "" && q.Step != c.Step {
			continue
		}
		if b.mute {
			l.Columns = nil
		}
		if err := visit(l); err != nil {
			return err
		}
		if n++; n == q.Limit {
			return nil
		}
	}
	return nil
}

func (b *book) Entries(_ context.Context, id string, after int64) ([]backstay.Entry, error) {
	var rows []ledger.Leaf
	for _, l := range b.leaves {
		if l.Columns.Deployment == id && l.Columns.N > after {
			rows = append(rows, l)
		}
	}
	slices.SortStableFunc(rows, func(x, y ledger.Leaf) int { return int(x.Columns.N - y.Columns.N) })
	var out []backstay.Entry
	for _, l := range rows {
		out = append(out, l.Entry)
	}
	return out, nil
}

func (b *book) List(_ context.Context, f ledger.Filter) ([]ledger.Deployment, error) {
	return slices.Clone(b.deployments[:min(len(b.deployments), f.Limit)]), nil
}

func (b *book) Deployment(_ context.Context, id string) (ledger.Deployment, error) {
	for _, d := range b.deployments {
		if d.ID == id {
			return d, nil
		}
	}
	return ledger.Deployment{}, ledger.ErrNotFound
}

func (b *book) Flags(context.Context, int64) ([]backstay.Flag, error) { return b.flags, nil }

func (b *book) Plan(_ context.Context, digest string) ([]byte, error) {
	if p, ok := b.plans[digest]; ok {
		return p, nil
	}
	return nil, ledger.ErrNotFound
}

func (b *book) PlanDigests(_ context.Context, after string, limit int) ([]string, error) {
	return keysAfter(b.plans, after, limit), nil
}

func (b *book) Addresses(_ context.Context, after string, limit int) ([]string, error) {
	return keysAfter(b.blobs, after, limit), nil
}

func keysAfter(m map[string][]byte, after string, limit int) []string {
	var keys []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if k > after && len(keys) < limit {
			keys = append(keys, k)
		}
	}
	return keys
}

func (b *book) CheckBlob(_ context.Context, address string) (int64, error) {
	body, ok := b.blobs[address]
	switch {
	case !ok:
		return 0, ledger.ErrNotFound
	case fmt.Sprintf("%x", sha256.Sum256(body)) != address:
		return 0, ledger.ErrDamaged
	}
	return int64(len(body)), nil
}

func (b *book) Blobs(context.Context) backstay.Blobs { return shelf(b.blobs) }

// shelf is the read view of a book's blobs.
type shelf map[string][]byte

func (s shelf) Put(io.Reader) (string, int64, error) { return "", 0, ledger.ErrReadOnly }
func (s shelf) Has(address string) (bool, error)     { _, ok := s[address]; return ok, nil }
func (s shelf) Get(address string) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(s[address])), nil
}

// put appends one entry with all that a store keeps of it.
func (b *book) put(e backstay.Entry) {
	index := int64(len(b.leaves))
	salt := sha256.Sum256(fmt.Appendf(nil, "salt %d", index))
	l := ledger.Leaf{Index: index, Salt: salt[:16], Record: backstay.Canonical(e), Entry: e}
	l.Columns = columnsOf(e)
	b.leaves = append(b.leaves, l)
	b.grow(l)
}

func columnsOf(e backstay.Entry) *ledger.Columns {
	c := &ledger.Columns{Deployment: e.Deployment, N: e.N, Kind: e.Kind, Step: e.Step, ActorUID: -1, At: e.At}
	if e.Actor != nil {
		c.ActorName, c.ActorUID = e.Actor.Name, e.Actor.UID
	}
	return c
}

func (b *book) grow(l ledger.Leaf) {
	hashes, err := tlog.StoredHashesForRecordHash(l.Index, tlog.RecordHash(append(slices.Clone(l.Salt), l.Record...)), b)
	if err != nil {
		panic(err)
	}
	b.hashes = append(b.hashes, hashes...)
	root, err := tlog.TreeHash(l.Index+1, b)
	if err != nil {
		panic(err)
	}
	b.head = ledger.Head{Size: l.Index + 1, Root: root}
}

// rebuild makes tree and head follow from the leaves again, as somebody with
// write access and no key would.
func (b *book) rebuild() {
	root, err := tlog.TreeHash(0, nil)
	if err != nil {
		panic(err)
	}
	b.hashes, b.head = nil, ledger.Head{Root: root}
	leaves := b.leaves
	for i := range leaves {
		leaves[i].Index = int64(i)
		b.grow(leaves[i])
	}
}

// rewrite changes the entry of a leaf and everything in the store that repeats
// it; the tree stays as it is.
func (b *book) rewrite(leaf int, change func(*backstay.Entry)) {
	l := &b.leaves[leaf]
	change(&l.Entry)
	l.Record = backstay.Canonical(l.Entry)
	l.Columns = columnsOf(l.Entry)
}

func (b *book) clone() *book {
	c := *b
	c.hashes, c.checkpoints, c.deployments = slices.Clone(b.hashes), slices.Clone(b.checkpoints), slices.Clone(b.deployments)
	c.leaves = slices.Clone(b.leaves)
	for i := range c.leaves {
		l := &c.leaves[i]
		l.Salt, l.Record = bytes.Clone(l.Salt), bytes.Clone(l.Record)
		cols := *l.Columns
		l.Columns = &cols
	}
	c.plans = map[string][]byte{}
	for k, v := range b.plans {
		c.plans[k] = v
	}
	return &c
}

// writer writes one deployment's entries.
type writer struct {
	b   *book
	row int
	n   int64
	at  time.Time
}

func ann() *backstay.Actor {
	return &backstay.Actor{UID: 1000, Name: "ann", Host: "web1", Via: "deploy"}
}

func start() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

// deploy opens a deployment of the plan's steps; it is running then.
func (b *book) deploy(id, release string, steps ...string) *writer {
	p := &plan.Plan{Format: plan.Format, Release: release, Version: "v1"}
	for i, s := range steps {
		p.Steps = append(p.Steps, backstay.Step{ID: s, Seq: i + 1, Prepared: backstay.Prepared{Kind: "file", Summary: "write " + s}})
	}
	b.plans[p.Digest()] = p.Encode()
	b.deployments = append(b.deployments, ledger.Deployment{
		ID: id, Name: fmt.Sprintf("%s#%d", release, len(b.deployments)+1), Release: release, Version: "v1", PlanDigest: p.Digest(), Author: *ann(),
	})
	w := &writer{b: b, row: len(b.deployments) - 1, at: start().Add(time.Duration(len(b.leaves)) * time.Second)}
	w.add(backstay.EntryPlanned, "", backstay.PlannedBody{PlanDigest: p.Digest(), Release: release, Version: "v1", Reason: "weekly"})
	w.b.deployments[w.row].State = backstay.Planned
	w.move("approve", backstay.Approved)
	w.move("start", backstay.Running)
	return w
}

func (w *writer) digest() string { return w.b.deployments[w.row].PlanDigest }

func (w *writer) add(kind backstay.EntryKind, step string, body any) {
	w.n++
	w.at = w.at.Add(250 * time.Millisecond)
	w.b.put(backstay.Entry{
		V: 1, Deployment: w.b.deployments[w.row].ID, N: w.n, Kind: kind, Step: step, Epoch: 1, At: w.at, Actor: ann(), Body: backstay.Canonical(body),
	})
	w.b.deployments[w.row].N = w.n
}

func (w *writer) move(event string, to backstay.State) {
	w.moveWith(to, backstay.TransitionBody{Event: event})
}

func (w *writer) moveWith(to backstay.State, body backstay.TransitionBody) {
	body.From, body.To = w.b.deployments[w.row].State, to
	w.add(backstay.EntryTransition, body.Step, body)
	w.b.deployments[w.row].State = to
}

func image(value string) backstay.ImageRef {
	im := backstay.Image{"file:/etc/shop.conf": backstay.PartValue(value)}
	return backstay.ImageRef{Digest: im.Digest(), Inline: im}
}

func (w *writer) intent(step string) {
	w.add(backstay.EntryIntent, step, backstay.IntentBody{Before: image("old")})
}

func (w *writer) done(step string) {
	after := image("new")
	w.add(backstay.EntryOutcome, step, backstay.OutcomeBody{OK: true, After: &after, Duration: backstay.Duration(time.Second)})
}

func (w *writer) failed(step string) {
	w.add(backstay.EntryOutcome, step, backstay.OutcomeBody{Error: "exit status 1", Cause: backstay.CauseStepFailed, Duration: backstay.Duration(time.Second)})
}

func (w *writer) undo(step, result string) {
	if result == "restored" || result == "compensated" {
		w.add(backstay.EntryUndoIntent, step, backstay.UndoIntentBody{Now: image("new")})
	}
	w.add(backstay.EntryCompensation, step, backstay.CompensationBody{Result: result, Duration: backstay.Duration(time.Second)})
}

func (w *writer) passed(phase string) {
	w.add(backstay.EntryVerdict, "", backstay.VerdictBody{Check: phase, Phase: phase, CheckResult: backstay.CheckResult{Verdict: backstay.Pass, Samples: 3}})
}

func (w *writer) approve(step, digest string) {
	w.add(backstay.EntrySignal, step, backstay.SignalBody{ID: "s" + fmt.Sprint(w.n), Signal: "approve", Plan: digest, Step: step, Accepted: true})
}

func (w *writer) prove() {
	w.passed("verify")
	w.move("commit", backstay.Committed)
	w.passed("bake")
	w.move("prove", backstay.Proven)
}

// IDs of the deployments that sample writes.
const (
	proven     = "0198c0de-1111-7000-8000-000000000001"
	rolledBack = "0198c0de-2222-7000-8000-000000000002"
	held       = "0198c0de-3333-7000-8000-000000000003"
)

// newBook is an empty ledger.
func newBook() *book {
	b := &book{id: ledgerID, plans: map[string][]byte{}}
	b.rebuild()
	return b
}

// sample is a ledger with one deployment of each end, a refusal, a lock that
// was broken and an entry of a kind of a later version.
func sample() *book {
	b := newBook()
	w := b.deploy(proven, "shop", "conf", "ask", "web")
	w.intent("conf")
	w.done("conf")
	w.add(backstay.EntryIntent, "ask", backstay.IntentBody{})
	w.move("hold", backstay.Holding)
	w.approve("ask", w.digest())
	w.move("resume", backstay.Running)
	w.add(backstay.EntryOutcome, "ask", backstay.OutcomeBody{OK: true, Note: "approved"})
	w.intent("web")
	w.add(backstay.EntryObserved, "web", backstay.ObservedBody{Finding: backstay.NotApplied})
	w.intent("web")
	w.done("web")
	w.prove()

	b.put(backstay.Entry{V: 1, Kind: backstay.EntryRefused, At: start().Add(time.Minute), Actor: ann(), Body: backstay.Canonical(backstay.RefusedBody{
		What: "drift", Release: "shop", Problems: []backstay.Problem{{Message: "file:/etc/shop.conf changed since the plan was made"}},
	})})

	w = b.deploy(rolledBack, "shop", "conf", "web")
	w.intent("conf")
	w.done("conf")
	w.intent("web")
	w.failed("web")
	w.moveWith(backstay.RollingBack, backstay.TransitionBody{Event: "fail", Cause: backstay.CauseStepFailed, Reason: "exit status 1", Step: "web"})
	w.undo("web", "untouched")
	w.add(backstay.EntryTakeover, "", backstay.TakeoverBody{Node: "n2", PID: 7, Previous: "n1"})
	w.undo("conf", "restored")
	w.moveWith(backstay.RolledBack, backstay.TransitionBody{Event: "undone"})

	b.put(backstay.Entry{V: 1, Kind: backstay.EntryLockBroken, At: start().Add(time.Hour), Actor: ann(), Body: backstay.Canonical(backstay.NoteBody{Text: "forgotten", Key: "file:/etc/shop.conf"})})

	w = b.deploy(held, "shop", "conf", "web")
	w.intent("conf")
	w.done("conf")
	w.add("rehearsal", "", map[string]int{"later": 1})
	w.failed("web") // refused before it touched anything
	w.moveWith(backstay.RollingBack, backstay.TransitionBody{Event: "fail", Cause: backstay.CauseStepFailed})
	w.undo("conf", "failed")
	w.moveWith(backstay.Held, backstay.TransitionBody{Event: "stick", Cause: backstay.CauseUndoFailed, Residue: []backstay.Residue{{Key: "file:/etc/shop.conf", Cause: backstay.CauseUndoFailed}}})
	w.move("retry", backstay.RollingBack)
	w.undo("conf", "restored")
	w.moveWith(backstay.RolledBack, backstay.TransitionBody{Event: "undone"})
	return b
}

// keys are fixed, so that goldens are.
func keys(tb testing.TB) (secret, public string) {
	tb.Helper()
	secret, public, err := note.GenerateKey(bytes.NewReader(bytes.Repeat([]byte{7}, 64)), "backstay-audit/web1")
	if err != nil {
		tb.Fatal(err)
	}
	return secret, public
}

func signer(tb testing.TB) *audit.Signer {
	tb.Helper()
	secret, _ := keys(tb)
	s, err := audit.NewSigner(secret)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// sign makes a checkpoint of the book's head.
func sign(tb testing.TB, b *book) ledger.Checkpoint {
	tb.Helper()
	c, err := audit.Checkpoint(tb.Context(), b, signer(tb), start().Add(2*time.Hour))
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

func options(tb testing.TB, against ...[]byte) audit.Options {
	tb.Helper()
	_, public := keys(tb)
	return audit.Options{PublicKeys: []string{public}, Against: against}
}

func verify(tb testing.TB, src audit.Source, o audit.Options) audit.Result {
	tb.Helper()
	r, err := audit.Verify(tb.Context(), src, o)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

func codes(r audit.Result) []string {
	var out []string
	for _, p := range r.Problems {
		if !slices.Contains(out, p.Code) {
			out = append(out, p.Code)
		}
	}
	return out
}

func text(tb testing.TB, r audit.Result) string {
	tb.Helper()
	var b strings.Builder
	if err := r.WriteText(&b); err != nil {
		tb.Fatal(err)
	}
	return b.String()
}

var errBroken = errors.New("disk I/O error")
