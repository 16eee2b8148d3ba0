package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/backstay-dev/backstay/internal/durable"
)

// Bounds of a server.
const (
	mostConns    = 32               // at once
	mostConnsUID = 4                // of one uid at once
	mostAsked    = 30               // requests of one uid within askedWithin
	askedWithin  = time.Minute      //
	readWithin   = 5 * time.Second  // the whole request
	answerWithin = 15 * time.Second // the handler
	writeWithin  = 5 * time.Second  // the whole answer
	endWithin    = 2 * time.Second  // handlers, once the server ends
	lockEvery    = 250 * time.Millisecond
)

// Peer is who asks, as the kernel reports it.
type Peer struct{ UID, PID int }

// Handler answers one request. ctx ends when the answer would come too late.
type Handler func(ctx context.Context, peer Peer, req Request) Answer

// Host is the listening side in one data directory.
type Host struct {
	place  *place
	handle Handler
	log    *slog.Logger
}

// NewHost makes the directory of the socket (and the data directory, such that
// others can pass through both), or says why nobody can listen there. Serve
// follows.
func NewHost(dataDir string, handle Handler, log *slog.Logger) (*Host, error) {
	p, err := preparePlace(dataDir)
	if err != nil {
		return nil, err
	}
	return &Host{place: p, handle: handle, log: log}, nil
}

// Serve answers requests on the socket until ctx ends: at once, or as soon as
// the process that listens there now ends. It returns nil after ctx ended, and
// an error where it cannot listen. It is called once.
func (h *Host) Serve(ctx context.Context) error {
	lock, err := acquire(ctx, h.place.path(lockName))
	if err == nil && lock != nil {
		err = errors.Join(h.place.serve(ctx, h.handle, h.log), lock.Unlock())
	}
	return errors.Join(err, h.place.close())
}

// acquire takes the lock beside the socket, waiting for its holder; nil once
// ctx ended.
func acquire(ctx context.Context, path string) (*durable.FileLock, error) {
	tick := time.NewTicker(lockEvery)
	defer tick.Stop()
	for {
		lock, err := durable.Lock(path)
		var held *durable.HeldError
		if !errors.As(err, &held) {
			return lock, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, nil
		}
	}
}

func (p *place) serve(ctx context.Context, handle Handler, log *slog.Logger) error {
	l, err := p.listen()
	if err != nil {
		return err
	}
	answers, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	s := &server{handle: handle, log: log, open: map[*net.UnixConn]bool{}, of: map[int]*visitor{}}
	var accepting sync.WaitGroup
	accepting.Go(func() { s.accept(answers, l) })
	<-ctx.Done()
	err = errors.Join(p.remove(), l.Close())
	accepting.Wait()
	s.end(cancel)
	return err
}

// server is one life of the socket.
type server struct {
	handle Handler
	log    *slog.Logger
	work   sync.WaitGroup

	mu    sync.Mutex
	ended bool
	open  map[*net.UnixConn]bool // true: its request is being answered
	of    map[int]*visitor
}

// visitor counts what one uid does.
type visitor struct {
	conns int
	since time.Time // of asked
	asked int
}

func (s *server) accept(ctx context.Context, l *net.UnixListener) {
	for {
		conn, err := l.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// Out of descriptors: the next one comes when one is free.
			s.log.Warn("accepting on the control socket failed", "error", err)
			pause := time.NewTimer(lockEvery)
			select {
			case <-pause.C:
			case <-ctx.Done():
				pause.Stop()
				return
			}
			continue
		}
		peer, err := peerOf(conn)
		if err != nil {
			s.log.Warn("a request on the control socket was refused", "error", err)
			s.work.Go(func() { s.turnAway(conn, refusal("", err.Error())) })
			continue
		}
		if why := s.admit(conn, peer); why != "" {
			s.turnAway(conn, refusal("try again in a moment", why))
			continue
		}
		s.work.Go(func() {
			defer s.leave(conn, peer)
			s.converse(ctx, conn, peer)
		})
	}
}

// admit lets a connection in, or says why not.
func (s *server) admit(conn *net.UnixConn, peer Peer) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.of[peer.UID]
	switch {
	case s.ended:
		return "the process ends"
	case len(s.open) >= mostConns:
		return fmt.Sprintf("%d requests are being answered", mostConns)
	case v == nil:
		v = &visitor{}
		s.of[peer.UID] = v
	case v.conns >= mostConnsUID:
		return fmt.Sprintf("%d requests of uid %d are being answered", mostConnsUID, peer.UID)
	}
	v.conns++
	s.open[conn] = false
	return ""
}

// leave ends a connection. Who asks no more is forgotten.
func (s *server) leave(conn *net.UnixConn, peer Peer) {
	s.mu.Lock()
	delete(s.open, conn)
	s.of[peer.UID].conns--
	for uid, v := range s.of {
		if v.conns == 0 && time.Since(v.since) > askedWithin {
			delete(s.of, uid)
		}
	}
	s.mu.Unlock()
	if err := conn.Close(); err != nil {
		s.log.Warn("closing a control connection failed", "error", err)
	}
}

// begin marks that a request came in whole, or says why it is one too many.
func (s *server) begin(conn *net.UnixConn, peer Peer) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.of[peer.UID]
	if time.Since(v.since) > askedWithin {
		v.since, v.asked = time.Now(), 0
	}
	if v.asked++; v.asked > mostAsked {
		return fmt.Sprintf("uid %d asked %d times within %s", peer.UID, mostAsked, askedWithin)
	}
	s.open[conn] = true
	return ""
}

// converse answers the one request of a connection.
func (s *server) converse(ctx context.Context, conn *net.UnixConn, peer Peer) {
	if s.deadline(conn.SetReadDeadline(time.Now().Add(readWithin))) {
		return
	}
	line, err := readLine(conn, maxRequest)
	if err != nil {
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			s.say(conn, refusal("", err.Error()))
		}
		return
	}
	req, err := decodeRequest(line)
	if err != nil {
		s.say(conn, refusal("use the same version of backstay on both sides", err.Error()))
		return
	}
	if why := s.begin(conn, peer); why != "" {
		s.say(conn, refusal("wait a minute", why))
		return
	}
	ctx, cancel := context.WithTimeoutCause(ctx, answerWithin, errors.New("the control socket's time to answer is over"))
	defer cancel()
	s.say(conn, s.handle(ctx, peer, req))
}

func (s *server) deadline(err error) (failed bool) {
	if err != nil {
		s.log.Warn("setting a deadline on a control connection failed", "error", err)
	}
	return err != nil
}

// say sends an answer. A caller that went away does not hear it; the ledger
// has what was done.
func (s *server) say(conn *net.UnixConn, a Answer) {
	a.Format = Format
	line, err := encode(a)
	if err == nil && !s.deadline(conn.SetWriteDeadline(time.Now().Add(writeWithin))) {
		_, err = conn.Write(line)
	}
	if err != nil {
		s.log.Warn("answering on the control socket failed", "error", err)
	}
}

func (s *server) turnAway(conn *net.UnixConn, a Answer) {
	s.say(conn, a) // small: it fits the socket's buffer
	if err := conn.Close(); err != nil {
		s.log.Warn("closing a control connection failed", "error", err)
	}
}

// end waits for the requests that are being answered, for a bounded time, and
// turns away those that did not come in yet.
func (s *server) end(cancel context.CancelFunc) {
	s.mu.Lock()
	s.ended = true
	for conn, answering := range s.open {
		if !answering {
			s.deadline(conn.SetReadDeadline(time.Now()))
		}
	}
	s.mu.Unlock()
	late := time.AfterFunc(endWithin, cancel)
	defer late.Stop()
	s.work.Wait()
}
