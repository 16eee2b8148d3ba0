package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/google/uuid"

	"github.com/backstay-dev/backstay"
)

// ErrClosed is returned by every call on a closed Store.
var ErrClosed = errors.New("the ledger is closed")

// ErrDamaged is wrapped where what the ledger holds is not what was written.
var ErrDamaged = errors.New("the ledger is damaged")

// ErrReadOnly is wrapped by writes to a store that was opened for reading.
var ErrReadOnly = errors.New("the ledger was opened for reading only")

// Store is an open ledger. It is safe for concurrent use.
type Store struct {
	backend Backend
	opt     Options
	node    string // this process's node, never used again by another
	id      string // the ledger's ID

	ctx    context.Context // ends with Close
	stop   context.CancelCauseFunc
	wait   sync.WaitGroup
	closed sync.Once
	failed atomic.Pointer[backstay.Error] // set once, by the first I/O error of an embedded store

	queue chan *write // to the committer
	kept  *kept       // prepared statements of the write connection
	edge  fringe      // the committer's: right edge of the tree it last committed
	last  mark        // the committer's: the last leaf it committed
	gen   int64       // the committer's: generation of the log that it last committed to
	// steady says that the committer's last transaction found the head where
	// its own last one had left it: nobody else seems to write.
	steady bool
	known  memory // what this node wrote of the deployments that it drives
	held   tenure // this node's lease
}

// Open makes a Store of an opened database: it brings the tables to this
// version, refuses those of a newer one, and starts the committer. The caller
// is a store package (sqlite, postgres). Close closes the databases; on error
// the caller does.
func Open(ctx context.Context, backend Backend, options Options) (*Store, error) {
	options, err := options.Resolve()
	if err != nil {
		return nil, err
	}
	node, err := uuid.NewV7()
	if err != nil {
		return nil, fmt.Errorf("make node ID: %w", err)
	}
	s := &Store{
		backend: backend, opt: options, node: node.String(),
		queue: make(chan *write), kept: newKept(backend), known: memory{all: map[string]*tail{}},
	}
	s.held.dead = make(chan struct{})
	s.ctx, s.stop = context.WithCancelCause(context.WithoutCancel(ctx))
	if s.id, err = s.migrate(ctx); err != nil {
		s.stop(ErrClosed)
		return nil, err
	}
	if backend.ReadOnly {
		return s, nil
	}
	s.wait.Go(s.serve)
	if err := s.recognise(ctx); err != nil {
		s.stop(ErrClosed)
		s.wait.Wait()
		return nil, err
	}
	return s, nil
}

// NodeID names this process among the nodes. It is new with every Open.
func (s *Store) NodeID() string { return s.node }

// Describe names the store for people: its path, or its URL without password.
func (s *Store) Describe() string { return s.backend.Where }

// Warnings are what people should know about how the database is set up.
func (s *Store) Warnings() []string { return s.backend.Warnings }

// LedgerID is the ID that this ledger got when it was created.
func (s *Store) LedgerID(context.Context) (string, error) { return s.id, nil }

// Origin is the first line of the checkpoints of a ledger.
func Origin(ledgerID string) string { return "backstay/" + ledgerID }

// Close gives up this node's lease, so that others need not wait for its end,
// and closes the database. What was acknowledged is durable without it.
func (s *Store) Close() error {
	var err error
	s.closed.Do(func() {
		err = s.leave()
		s.stop(ErrClosed)
		s.wait.Wait()
		s.kept.close()
		if s.backend.Closing != "" && s.failed.Load() == nil && !s.backend.ReadOnly {
			// Only tidies up: what it cannot do now, the next process does.
			_, _ = s.backend.Write.ExecContext(context.WithoutCancel(s.ctx), s.backend.Closing)
		}
		err = errors.Join(err, s.backend.Write.Close())
		if s.backend.Read != s.backend.Write {
			err = errors.Join(err, s.backend.Read.Close())
		}
	})
	return err
}

// Abandon closes the store as a crash would: this node's lease stays until it
// runs out. Tests take over from it.
func (s *Store) Abandon() error {
	s.held.mu.Lock()
	s.held.started = false
	s.held.mu.Unlock()
	return s.Close()
}

// writable is the reason why nothing can be written, or nil.
func (s *Store) writable() error {
	switch {
	case s.backend.ReadOnly:
		return &backstay.Error{
			Class: backstay.Permanent, Op: "write ledger", Subject: s.backend.Where, Err: ErrReadOnly,
			Hint: "run the command as the user who owns the state directory",
		}
	case s.ctx.Err() != nil:
		return ErrClosed
	}
	if failed := s.failed.Load(); failed != nil {
		return failed
	}
	return nil
}

// failStop ends writing for good: after an I/O error nothing is known about
// what is on disk, and a retry could make a lost write look durable.
func (s *Store) failStop(cause error) error {
	s.failed.CompareAndSwap(nil, &backstay.Error{
		Class: backstay.Permanent, Op: "write ledger", Subject: s.backend.Where, Err: cause,
		Hint: "free space or repair the disk, then run `backstay recover`",
	})
	s.held.lapse()
	return s.failed.Load()
}

// classify is the dialect's word on err, with the ends of contexts and of the
// pool's connections that database/sql reports by itself.
func (s *Store) classify(err error) Fault {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) || errors.Is(err, sql.ErrConnDone) {
		return Lost
	}
	return s.backend.Classify(err)
}

// reading wraps an error of a read with what was being read.
func (s *Store) reading(what, subject string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, sql.ErrNoRows) {
		return &backstay.Error{Class: backstay.NotFound, Op: what, Subject: subject, Err: ErrNotFound}
	}
	switch {
	case s.ctx.Err() != nil:
		return ErrClosed
	case backstay.HintOf(err) != "" || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s %s: %w", what, subject, err)
	case s.backend.Classify(err) == Damaged:
		err = errors.Join(ErrDamaged, err)
		return &backstay.Error{
			Class: backstay.Permanent, Op: what, Subject: subject, Err: err,
			Hint: "check the disk; restore the ledger from a backup or run `backstay audit verify` on a copy",
		}
	case s.backend.Classify(err) == Refused:
		return fmt.Errorf("%s %s: %w", what, subject, err)
	}
	return &backstay.Error{Class: backstay.Transient, Op: what, Subject: subject, Err: err}
}
