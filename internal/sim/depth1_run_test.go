package sim

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/audit"
	"github.com/backstay-dev/backstay/internal/engine"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/ledger/sqlite"
	"github.com/backstay-dev/backstay/internal/plan"
)

const (
	// mostLives bounds how often a deployment may need a new process beyond those
	// that crash or lose a write.
	mostLives = 2
	// patience is the virtual time in which a process must end (I1): it is
	// longer than all timeouts, holds and bakes of a plan together.
	patience = time.Hour
)

// lab is a bubble of virtual time with one ledger in it, in which runs are
// played one after another. No run sees anything of another: each has its own
// deployments, its own release, and leaves no lock.
type lab struct {
	t     *testing.T
	store ledgerStore
	n     int
	// sign stores a checkpoint of a real ledger; kept is the one after the first run.
	sign func() []byte
	kept []byte
	// dirty is set by a run that left a lock: the next needs a new lab.
	dirty bool
}

// inLab runs work in a bubble with a real ledger, which is audited at the end.
func inLab(t *testing.T, work func(*lab)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		store, err := sqlite.OpenMemory(t.Context(), ledger.Options{Version: "sim", Host: "here", Clock: bubbleClock{time.Now()}})
		if err != nil {
			t.Fatalf("open the ledger: %v", err)
		}
		l := &lab{t: t, store: store}
		secret, public, err := note.GenerateKey(rand.Reader, "sim")
		if err != nil {
			t.Fatalf("make an audit key: %v", err)
		}
		l.sign = func() (kept []byte) {
			signer, err := audit.NewSigner(secret)
			if err != nil {
				t.Fatalf("read the audit key: %v", err)
			}
			c, err := audit.Checkpoint(t.Context(), store, signer, time.Now())
			if err != nil {
				t.Errorf("I13: sign the ledger's head after %d runs: %v", l.n, err)
			}
			return c.Note
		}
		work(l)
		l.audit(store, public)
		if err := store.Close(); err != nil {
			t.Errorf("close the ledger: %v", err)
		}
	})
}

// audit is I13 for everything that the lab's runs left: the tree over all
// leaves is whole and continues the one that was signed after the first run,
// each record, salt and hash belong together, rows repeat what records say, and
// each deployment's entries follow the audit's own grammar.
func (l *lab) audit(store *ledger.Store, key string) {
	l.t.Helper()
	o := audit.Options{PublicKeys: []string{key}}
	if l.kept != nil {
		o.Against = [][]byte{l.kept}
	}
	got, err := audit.Verify(l.t.Context(), store, o)
	if err != nil {
		l.t.Errorf("I13: verify the ledger after %d runs: %v", l.n, err)
		return
	}
	if !got.OK {
		l.t.Errorf("I13: after %d runs the ledger is not what it says: %+v", l.n, got.Problems)
	}
}

// inMemory runs work in a bubble with a ledger in memory.
func inMemory(t *testing.T, work func(*lab)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { work(&lab{t: t, store: newMemory()}) })
}

// play is one run in a lab of its own.
func play(t *testing.T, sc scenario, script []fault) (r *record) {
	t.Helper()
	inLab(t, func(l *lab) { r = l.play(sc, script) })
	return r
}

// record is all that one run left behind: what the oracle judges.
type record struct {
	sc      scenario
	id      string // of the deployment
	release string
	plan    *plan.Plan
	script  []fault
	before  map[string]string // the world when the deployment was started
	after   map[string]string
	journal []event
	entries []backstay.Entry // as the ledger has them at the end
	acked   []backstay.Entry // as they were acknowledged, in order
	exists  bool             // the deployment is in the ledger
	row     ledger.Deployment
	summary engine.Summary
	effects map[string]int
	kept    map[string]bool
	want    map[string]string // of a revert: the world before the first deployment
	lives   int
	end     backstay.State // before anything that a person did about it
	refused bool
	trace   []string
	unfired []fault

	violations []string
}

func (r *record) violate(format string, args ...any) {
	r.violations = append(r.violations, fmt.Sprintf(format, args...))
}

// run is one simulated deployment under way.
type run struct {
	*record
	w     *world
	book  *book
	store ledgerStore
	proc  *process
	retry *ledger.Signal // what the next life of the program begins with
}

// play runs a scenario with additional faults and returns what is left,
// already judged.
func (l *lab) play(sc scenario, script []fault) *record { return l.draw(sc, script, nil) }

// draw is play with faults that are drawn on the way.
func (l *lab) draw(sc scenario, script []fault, draw func(point string, n int) (fault, bool)) *record {
	l.n++
	r := &record{
		sc: sc, script: append(slices.Clone(sc.script), script...), id: fmt.Sprintf("01900000-0000-7000-8000-%012d", 2*l.n),
		release: fmt.Sprintf("sim-%d", l.n),
	}
	opaque := map[backstay.Key]bool{}
	for _, k := range sc.opaque {
		opaque[k] = true
	}
	w := newWorld(sc.cells, opaque, newFaults(nil))
	x := &run{record: r, w: w, book: newBook(w, l.store), store: l.store}
	if err := x.prepare(l.t.Context()); err != nil {
		l.dirty = true
		x.violate("prepare %s: %v", sc.name, err)
		return r
	}
	w.faults.draw = draw
	ctx, cancel := context.WithCancel(l.t.Context())
	people := make(chan struct{})
	go func() { defer close(people); x.people(ctx) }()
	x.live(ctx)
	cancel()
	<-people
	x.collect(l.t.Context())
	l.dirty = l.dirty || len(r.violations) > 0
	if l.n == 1 && l.sign != nil {
		l.kept = l.sign()
	}
	if m, ok := l.store.(*memory); ok {
		m.forget()
	}
	return r
}

// prepare makes the plan and, for a revert, the deployment it takes back.
func (x *run) prepare(ctx context.Context) error {
	x.plan = x.sc.freeze(x.sc.cells)
	x.plan.Release = x.release
	if x.sc.revert {
		earlier := "01900000-0000-7000-9000" + x.id[len(x.id)-13:]
		_, eng, err := x.process(ctx, 0)
		if err != nil {
			return err
		}
		s, err := eng.Deploy(ctx, engine.Start{ID: earlier, Plan: x.plan, AcceptDrift: true})
		if err != nil {
			return err
		}
		if s.State != backstay.Proven {
			return fmt.Errorf("the deployment to take back ended %s: %+v", s.State, s.Failure)
		}
		old, done, err := eng.Undone(ctx, earlier)
		if err != nil {
			return err
		}
		if x.plan, err = plan.Revert(old, earlier, s.Name, done); err != nil {
			return err
		}
		x.want = maps.Clone(x.sc.cells)
		for _, c := range x.sc.later { // another deployment on the same keys
			x.w.put(event{Kind: "outsider"}, c.cell(), c.To)
		}
		x.w.journal, x.w.effects = nil, map[string]int{}
	}
	x.before = x.w.snapshot()
	x.w.faults = newFaults(x.script)
	return nil
}

// process starts a life of the program.
func (x *run) process(ctx context.Context, n int) (*process, *engine.Engine, error) {
	ctx, cancel := context.WithCancel(ctx)
	interrupt := make(chan struct{}, 1)
	p := &process{w: x.w, book: x.book, n: n, kill: cancel, retry: x.retry, bug: x.sc.bug}
	p.abort = func() bool {
		return x.signal(ctx, ledger.Signal{ID: "abort", Kind: engine.SignalAbort, Reason: "on purpose"})
	}
	p.second = func() { x.second(ctx) }
	p.stop = func() {
		select {
		case interrupt <- struct{}{}:
		default:
		}
	}
	p.ctx, p.interrupt = ctx, interrupt
	eng, err := engine.New(&desk{ledgerStore: x.store, p: p}, p, engine.Options{
		DataDir: "/nonexistent/sim", Actor: backstay.Actor{UID: 1000, Name: "ada", Host: "here"}, Version: "sim", Failpoint: p.failpoint, Secrets: safe{},
	})
	return p, eng, err
}

// signal sends what a person asks; one that comes too early or too late is lost.
func (x *run) signal(ctx context.Context, s ledger.Signal) (sent bool) {
	s.Actor = backstay.Actor{UID: 1001, Name: "grace", Host: "here"}
	err := x.store.Signal(context.WithoutCancel(ctx), x.id, s)
	if err != nil && !errors.Is(err, ledger.ErrNotFound) {
		x.book.violate("send %s: %v", s.Kind, err)
	}
	return err == nil
}

// people look at the deployment now and then and answer when it holds.
func (x *run) people(ctx context.Context) {
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	for x.sc.approval != "" {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		d, err := x.store.Deployment(ctx, x.id)
		if err != nil || d.State != backstay.Holding {
			continue
		}
		digest := x.plan.Digest()
		if x.sc.approval == "other" {
			digest = "0000000000000000000000000000000000000000000000000000000000000000"
		}
		x.signal(ctx, ledger.Signal{ID: "yes", Kind: engine.SignalApprove, Plan: digest, Step: "ok"})
		return
	}
}

// live deploys, and starts new processes until the deployment is settled.
func (x *run) live(ctx context.Context) {
	var err error
	for x.lives < mostLives+x.w.faults.deaths() {
		x.lives++
		err = x.once(ctx, x.lives)
		d, missing := x.store.Deployment(ctx, x.id)
		switch {
		case missing != nil:
			if err == nil {
				x.violate("I1: the process ended well without a deployment")
			}
			x.refused = true
			var refused *backstay.RefusedError
			if err != nil && !errors.As(err, &refused) && !x.excused() {
				x.violate("I1: nothing was deployed because of %v, which no fault explains", err)
			}
			return
		case err == nil && !d.State.Settled():
			x.violate("I1: the process ended well in state %s", d.State)
			return
		case err != nil && !x.excused():
			x.violate("I1: %v, which no fault explains", err)
		}
		if d.State.Settled() {
			return
		}
	}
	x.violate("I1: not settled after %d processes; the last one ended with: %v", x.lives, err)
}

// excused reports whether the process that just ended had a reason to stop
// early: it died, or a write of the ledger gave it an error.
func (x *run) excused() bool {
	return x.proc.dead.Load() || x.proc.storeFailed.Load()
}

// once is one life of the program: deploy first, recover later.
func (x *run) once(ctx context.Context, n int) error {
	p, eng, err := x.process(ctx, n)
	if err != nil {
		return err
	}
	x.proc = p
	defer p.kill()
	x.w.note(event{Kind: "resume", Proc: n})
	ended := make(chan error, 1)
	go func() {
		var s engine.Summary
		var err error
		if n == 1 {
			s, err = eng.Deploy(p.ctx, engine.Start{ID: x.id, Plan: x.plan, Interrupt: p.interrupt, AcceptDrift: true})
		} else {
			s, err = eng.Resume(p.ctx, x.id, p.interrupt, p.retry)
		}
		if err == nil {
			x.summary = s
		}
		ended <- err
	}()
	limit := time.NewTimer(patience)
	defer limit.Stop()
	select {
	case err := <-ended:
		return err
	case <-limit.C:
		x.violate("I1: process %d did not end within %v", n, patience)
		p.kill()
		return <-ended
	}
}

// collect looks at everything and lets the oracle judge the end; then what
// follows it: that a second recovery changes nothing, and that a held
// deployment, once the faults are over, can be undone or signed for.
func (x *run) collect(ctx context.Context) {
	x.trace, x.unfired = slices.Clone(x.w.faults.trace), x.w.faults.unfired(len(x.sc.script))
	x.script = slices.Clone(x.w.faults.script)
	x.gather(ctx)
	judge(x.record)
	if !x.exists {
		return
	}
	x.end = x.row.State
	if x.sc.untilEnd {
		return
	}
	x.w.faults = newFaults(nil)
	x.secondAfter(ctx)
	if err := x.follow(ctx, nil); err != nil && x.end != backstay.Held {
		x.violate("I10: a second recovery: %v", err)
	}
	if x.end != backstay.Held {
		return
	}
	if err := x.follow(ctx, &ledger.Signal{ID: "again", Kind: engine.SignalRetry, Reason: "repaired"}); err != nil {
		x.violate("I1: retry of a held deployment: %v", err)
	}
	x.gather(ctx)
	judge(x.record)
	if x.row.State != backstay.Held {
		return
	}
	for _, r := range x.summary.Residue {
		if slices.Contains([]backstay.Cause{backstay.CauseUndoFailed, backstay.CauseUnreachable, backstay.CauseDeadline}, r.Cause) {
			x.violate("I5: nothing fails any more, and a retry is held with %s: %s", r.Cause, cellOf(r.Key, r.Part))
		}
	}
	if err := x.follow(ctx, &ledger.Signal{ID: "sign", Kind: engine.SignalClose, Reason: "accepted"}); err != nil {
		x.violate("I1: close a held deployment: %v", err)
	}
	if x.summary.State != backstay.Closed {
		x.violate("I1: a signed residue left the deployment %s", x.summary.State)
	}
	x.secondAfter(ctx)
}

// follow is one more life of the program after the end. Without a signal it
// must do nothing at all (I10).
func (x *run) follow(ctx context.Context, signal *ledger.Signal) error {
	acts, entries := len(x.w.journal), x.row.N
	if signal != nil {
		signal.Actor = backstay.Actor{UID: 1001, Name: "grace", Host: "here"}
	}
	x.retry = signal
	x.lives++
	err := x.once(ctx, x.lives)
	x.retry = nil
	if signal != nil {
		return err
	}
	for _, e := range x.w.journal[acts:] {
		switch e.Kind {
		case "write", "do", "undo", "settle":
			x.violate("I10: a second recovery of a %s deployment did %s %s %s", x.row.State, e.Kind, e.Step, e.Cell)
		}
	}
	if row, missing := x.store.Deployment(ctx, x.id); missing != nil || row.N != entries {
		x.violate("I10: a second recovery left %d entries of %d (%v)", row.N, entries, missing)
	}
	return err
}

func (x *run) gather(ctx context.Context) {
	x.after, x.journal = x.w.snapshot(), slices.Clone(x.w.journal)
	x.effects, x.kept = maps.Clone(x.w.effects), maps.Clone(x.w.kept)
	x.acked = x.book.acked[x.id]
	x.violations = append(x.violations, x.book.violations...)
	x.book.violations = nil
	var err error
	if x.row, err = x.store.Deployment(ctx, x.id); err != nil {
		if !errors.Is(err, ledger.ErrNotFound) {
			x.violate("I7: read the deployment: %v", err)
		}
		return
	}
	x.exists = true
	if x.entries, err = x.store.Entries(ctx, x.id, 0); err != nil {
		x.violate("I7: read the entries: %v", err)
	}
	if x.summary.State == "" { // the last process died after the end was written
		p, eng, err := x.process(ctx, x.lives+1)
		if err == nil {
			x.summary, err = eng.Summarise(ctx, x.id)
		}
		if err != nil {
			x.violate("I1: summarise: %v", err)
		}
		p.kill()
	}
}
