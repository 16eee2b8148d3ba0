package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"time"

	"github.com/backstay-dev/backstay"
)

// write is one caller's part of a transaction. run must be repeatable: a
// transaction that did not happen is run again from its start. It returns a
// refusal where its caller gets an error and the others' parts still stand;
// it must not have written anything then.
type write struct {
	ctx context.Context
	run func(*batch) error
	// guess makes run's part of a draft, where that asks the database nothing:
	// what holds if nothing was changed behind this process's back, with
	// statements that find nothing if something was. nil: the database must be
	// asked.
	guess func(*draft) error
	// besides says that the write touches neither tree nor deployments, and so
	// needs no turn at the head.
	besides bool
	err     error // the refusal of the last run
	done    chan error
}

// refusal is an error of one write that leaves the rest of its batch alone.
type refusal struct{ error }

func (r refusal) Unwrap() error { return r.error }

const (
	mostGrouped = 128
	firstWait   = 5 * time.Millisecond
	longestWait = 500 * time.Millisecond
)

// write hands a write to the committer and waits for its answer. Once it is
// handed over the answer is waited for even if ctx ends: otherwise nobody
// would know whether it happened.
func (s *Store) write(ctx context.Context, run func(*batch) error) error {
	return s.submit(&write{ctx: ctx, run: run, done: make(chan error, 1)})
}

// writeBesides is write for what needs no turn at the head: on a database with
// several connections it does not wait for the committer either.
func (s *Store) writeBesides(ctx context.Context, run func(*batch) error) error {
	w := &write{ctx: ctx, run: run, besides: true, done: make(chan error, 1)}
	if s.backend.Embedded {
		return s.submit(w)
	}
	if err := s.writable(); err != nil {
		return err
	}
	err := s.commit([]*write{w})
	if err == nil {
		err = w.err
	}
	return unwrapRefusal(err)
}

func (s *Store) submit(w *write) error {
	if err := s.writable(); err != nil {
		return err
	}
	select {
	case s.queue <- w:
		return unwrapRefusal(<-w.done)
	case <-w.ctx.Done():
		return context.Cause(w.ctx)
	case <-s.ctx.Done():
		return ErrClosed
	}
}

func unwrapRefusal(err error) error {
	if r, ok := errors.AsType[refusal](err); ok {
		return r.error
	}
	return err
}

// serve is the committer: the only goroutine that appends to the tree.
func (s *Store) serve() {
	for {
		select {
		case <-s.ctx.Done():
			return
		case w := <-s.queue:
			s.answer(s.gather(w))
		}
	}
}

// gather takes what waits already, and no more: nobody waits for company.
func (s *Store) gather(first *write) []*write {
	ws := []*write{first}
	if s.opt.alone {
		return ws
	}
	// Those that the last commit woke get their chance to come along.
	runtime.Gosched()
	for len(ws) < mostGrouped {
		select {
		case w := <-s.queue:
			ws = append(ws, w)
		default:
			return ws
		}
	}
	return ws
}

// answer commits a group and tells each caller. What one write breaks is
// committed again one by one, so that only that one fails.
func (s *Store) answer(ws []*write) {
	err := s.writable()
	if err == nil {
		err = s.commit(ws)
	}
	if err != nil && len(ws) > 1 && s.writable() == nil && s.classify(err) == Refused {
		for _, w := range ws {
			s.answer([]*write{w})
		}
		return
	}
	for _, w := range ws {
		if err != nil {
			w.done <- err
			continue
		}
		w.done <- w.err
	}
}

// commit runs the writes in one transaction until it is known to have happened
// or not to happen. A transaction whose COMMIT was not answered is looked for
// before it is run again.
func (s *Store) commit(ws []*write) error {
	began := s.opt.Clock.Boot()
	var asked *draft // whose COMMIT was sent and not answered
	for wait := firstWait; ; wait = min(2*wait, longestWait) {
		d, err := s.try(ws, asked)
		if err == nil {
			return nil
		}
		if errors.Is(err, ErrDamaged) {
			return s.damaged(err)
		}
		switch s.classify(err) {
		case Refused:
			return err
		case Damaged:
			return s.failStop(err)
		case Lost:
			if d != nil && d.sent {
				asked = d
			}
		case Busy:
			if s.backend.Embedded && s.endStopped(s.ctx, false) > 0 {
				continue
			}
		}
		if s.opt.Clock.Boot()-began > s.opt.TTL || s.ctx.Err() != nil || allDone(ws) {
			return s.gaveUp(asked != nil, err)
		}
		if !s.pause(wait/2 + rand.N(wait)) { //nolint:gosec // jitter is no secret
			return s.gaveUp(asked != nil, err)
		}
	}
}

func allDone(ws []*write) bool {
	for _, w := range ws {
		if w.ctx.Err() == nil {
			return false
		}
	}
	return true
}

func (s *Store) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.ctx.Done():
		return false
	}
}

func (s *Store) gaveUp(unknown bool, err error) error {
	op := "write ledger"
	if unknown {
		op = "learn whether the ledger took a write:"
	}
	return &backstay.Error{
		Class: backstay.Transient, Op: op, Subject: s.backend.Where, Err: err,
		Hint: "make the database reachable, then run `backstay recover`",
	}
}

func (s *Store) damaged(err error) error {
	return &backstay.Error{
		Class: backstay.Permanent, Op: "write ledger", Subject: s.backend.Where, Err: err,
		Hint: "run `backstay audit verify`; nothing is written to a damaged ledger",
	}
}

// bounded is the context of one transaction. An embedded database is not
// interrupted: there is no network that could keep it waiting. (Its drivers
// start a goroutine for each statement under a context that can end.)
func (s *Store) bounded() (context.Context, context.CancelFunc) {
	if s.backend.Embedded {
		return context.WithoutCancel(s.ctx), func() {}
	}
	return context.WithTimeout(context.WithoutCancel(s.ctx), s.opt.TTL)
}

// try runs the writes in one transaction: by a guess, where one can be made and
// it holds, else by asking. asked is the draft of an earlier try whose COMMIT
// was not answered, or nil.
func (s *Store) try(ws []*write, asked *draft) (*draft, error) {
	// A write besides is never guessable, and may not look at what the committer
	// knows: it runs in its caller's goroutine.
	if asked == nil && guessable(ws) && s.steady {
		d, err := s.guess(ws)
		if err == nil || s.classify(err) != Refused {
			return d, err
		}
		// The head, or a deployment, is not what it was: asking says why.
	}
	b, err := s.attempt(ws, asked)
	if b == nil {
		return nil, err
	}
	return &b.draft, err
}

func guessable(ws []*write) bool {
	return !slices.ContainsFunc(ws, func(w *write) bool { return w.guess == nil })
}

// guess writes what the writes add to the log without reading anything first:
// in one round trip. Its first statement takes the turn at the head if that is
// where this process left it, the next ones are the fences of the writes; where
// one of them finds nothing, nothing is written.
func (s *Store) guess(ws []*write) (*draft, error) {
	d := &draft{s: s, generation: s.gen, first: s.edge.size, edge: s.edge.trim()}
	was, err := d.head()
	if err != nil {
		return nil, err
	}
	const unmoved = "SELECT version FROM head WHERE id = 1 AND size = $1 AND root = $2"
	d.must = append(d.must, Statement{Query: unmoved + s.backend.ForUpdate, Args: []any{was.Size, was.Root[:]}, Row: []any{new(int64)}})
	refused := 0
	for _, w := range ws {
		if w.err = late(w, ws); w.err != nil {
			refused++
		} else if err := w.guess(d); err != nil {
			return nil, err
		}
	}
	if refused == len(ws) {
		return d, nil
	}
	rest, err := d.record()
	if err != nil {
		return nil, err
	}
	ctx, cancel := s.bounded()
	defer cancel()
	if err := s.commitAll(ctx, d, append(d.must, rest...)); err != nil {
		return d, err
	}
	s.committed(d)
	return d, nil
}

// commitAll commits a transaction of nothing but these statements.
func (s *Store) commitAll(ctx context.Context, d *draft, all []Statement) error {
	if s.backend.Together != nil {
		conn, err := s.backend.Write.Conn(ctx)
		if err != nil {
			return err
		}
		defer conn.Close()
		d.sent = true
		return s.backend.Together(ctx, conn, all)
	}
	tx, err := s.transact(ctx)
	if err != nil {
		return err
	}
	defer tx.end()
	if err := tx.each(ctx, all); err != nil {
		return err
	}
	d.sent = true
	if err := tx.Commit(); err != nil {
		return err
	}
	tx.learn(ctx)
	return nil
}

// late refuses a write whose caller's context ended, where others need not
// wait for it.
func late(w *write, ws []*write) error {
	if w.ctx.Err() != nil && len(ws) > 1 {
		return refusal{context.Cause(w.ctx)}
	}
	return nil
}

// committed remembers a transaction that is durable.
func (s *Store) committed(d *draft) {
	s.edge, s.gen = d.edge.trim(), d.generation
	if n := len(d.leaves); n > 0 {
		s.last = mark{leaf: d.first + int64(n) - 1, salt: d.leaves[n-1].salt}
	}
}

// attempt runs the writes in one transaction, and asks the database wherever a
// write does. asked is the draft of an earlier try whose COMMIT was not
// answered, or nil.
func (s *Store) attempt(ws []*write, asked *draft) (*batch, error) {
	ctx, cancel := s.bounded()
	defer cancel()
	tx, err := s.transact(ctx)
	if err != nil {
		return nil, err
	}
	defer tx.end()
	b := &batch{ctx: ctx, txn: tx, draft: draft{s: s}}
	for _, w := range ws {
		b.besides = w.besides && (b.besides || b.writes == 0)
		b.writes++
	}
	if err := b.begin(); err != nil {
		return b, err
	}
	if asked != nil {
		// The old transaction, had it still been going on, would have held the
		// head, which is ours now: what is not there will not come.
		landed, err := asked.landed(b)
		if landed || err != nil {
			return b, err
		}
	}
	refused := 0
	for _, w := range ws {
		if w.err = late(w, ws); w.err == nil {
			if err := w.run(b); err != nil {
				r, ok := errors.AsType[refusal](err)
				if !ok {
					return b, err
				}
				w.err = r
			}
		}
		if w.err != nil {
			refused++
		}
	}
	if refused == len(ws) && !b.rewound {
		return b, nil
	}
	if err := b.finish(); err != nil {
		return b, err
	}
	b.sent = true
	if err := b.Commit(); err != nil {
		return b, err
	}
	if !b.besides {
		s.committed(&b.draft)
	}
	b.learn(ctx)
	return b, nil
}

// landed reports whether this draft's transaction, whose COMMIT was not
// answered, happened: its first leaf is there with its salt, which is random.
// Without a leaf its writes may be run again: they are idempotent.
func (d *draft) landed(now *batch) (bool, error) {
	if len(d.leaves) == 0 {
		return false, nil
	}
	var salt []byte
	err := now.QueryRowContext(now.ctx, "SELECT salt FROM entry WHERE leaf = $1", d.first).Scan(&salt)
	if isNoRows(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for entry %d: %w", d.first, err)
	}
	return bytes.Equal(salt, d.leaves[0].salt), nil
}
