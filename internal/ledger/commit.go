package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
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
	err := s.commit([]*write{w}) //nolint:contextcheck // a transaction outlives its caller's context: see write
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
	var asked *batch // whose COMMIT was sent and not answered
	for wait := firstWait; ; wait = min(2*wait, longestWait) {
		b, err := s.attempt(ws, asked)
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
			if b != nil && b.committing {
				asked = b
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
// interrupted: there is no network that could keep it waiting.
func (s *Store) bounded() (context.Context, context.CancelFunc) {
	if s.backend.Embedded {
		return context.WithCancel(context.WithoutCancel(s.ctx))
	}
	return context.WithTimeout(context.WithoutCancel(s.ctx), s.opt.TTL)
}

// attempt runs the writes in one transaction. asked is the batch of an earlier
// attempt whose COMMIT was not answered, or nil.
func (s *Store) attempt(ws []*write, asked *batch) (*batch, error) {
	ctx, cancel := s.bounded()
	defer cancel()
	tx, err := s.backend.Write.BeginTx(ctx, nil)
	if err != nil {
		return nil, err
	}
	b := &batch{ctx: ctx, txn: &txn{Tx: tx, kept: s.kept}, s: s}
	defer b.Rollback()
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
		if w.err = nil; w.ctx.Err() != nil && len(ws) > 1 {
			w.err = refusal{context.Cause(w.ctx)}
		} else if err := w.run(b); err != nil {
			r, ok := errors.AsType[refusal](err)
			if !ok {
				return b, err
			}
			w.err = r
		}
		if w.err != nil {
			refused++
		}
	}
	if refused == len(ws) {
		return b, nil
	}
	if err := b.finish(); err != nil {
		return b, err
	}
	b.committing = true
	if err := b.Commit(); err != nil {
		return b, err
	}
	if !b.besides {
		s.edge = b.edge.trim()
	}
	b.learn(ctx)
	return b, nil
}

// landed reports whether this batch's transaction, whose COMMIT was not
// answered, happened: its first leaf is there with its salt, which is random.
// Without a leaf its writes may be run again: they are idempotent.
func (b *batch) landed(now *batch) (bool, error) {
	if len(b.leaves) == 0 {
		return false, nil
	}
	var salt []byte
	err := now.QueryRowContext(now.ctx, "SELECT salt FROM entry WHERE leaf = $1", b.first).Scan(&salt)
	if isNoRows(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for entry %d: %w", b.first, err)
	}
	return bytes.Equal(salt, b.leaves[0].salt), nil
}
