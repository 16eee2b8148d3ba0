package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"
)

// Patience of a caller.
const (
	dialWithin = time.Second // while one process hands the socket to the next
	dialEvery  = 50 * time.Millisecond
	askWithin  = readWithin + answerWithin + writeWithin
)

// ErrNobody is wrapped by Ask where no process listens.
var ErrNobody = errors.New("no process listens there")

// ClosedError says which directory keeps the caller from the socket; Dir is
// empty where that cannot be seen.
type ClosedError struct{ Socket, Dir string }

func (e *ClosedError) Error() string {
	if e.Dir == "" {
		return "this user may not reach " + e.Socket
	}
	return fmt.Sprintf("this user may not pass through %s to %s", e.Dir, e.Socket)
}

// Ask sends a request to the process that listens in a data directory and
// returns its answer. Without one the error wraps ErrNobody, or is a
// *ClosedError. A process that is neither root's nor of the user whose
// directory it listens in is not asked.
func Ask(ctx context.Context, dataDir string, req Request) (Answer, error) {
	req.Format = Format
	line, err := encode(req)
	if err != nil {
		return Answer{}, err
	}
	if len(line) > maxRequest {
		return Answer{}, fmt.Errorf("ask by control socket: the request has %d bytes, at most %d are read: shorten the reason", len(line), maxRequest)
	}
	p, err := openPlace(dataDir)
	if err != nil {
		return Answer{}, unreachable(dataDir, err)
	}
	answer, err := p.ask(ctx, dataDir, line)
	return answer, errors.Join(err, p.close())
}

func (p *place) ask(ctx context.Context, dataDir string, line []byte) (Answer, error) {
	conn, err := p.dial(ctx)
	if err != nil {
		return Answer{}, unreachable(dataDir, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) }) // what waits then says so
	defer stop()
	if err := conn.SetDeadline(time.Now().Add(askWithin)); err != nil {
		return Answer{}, fmt.Errorf("ask by control socket: %w", err)
	}
	if err := p.trust(conn); err != nil {
		return Answer{}, err
	}
	// One that turns away does so without reading; what it says is to be heard.
	_, writeErr := conn.Write(line)
	got, err := readLine(conn, maxAnswer)
	if err != nil {
		if ctx.Err() != nil {
			return Answer{}, context.Cause(ctx)
		}
		return Answer{}, fmt.Errorf("ask by control socket %s: no answer: %w", Socket(dataDir), errors.Join(err, writeErr))
	}
	return decodeAnswer(got)
}

// dial connects, and tries again for a moment where nobody listens.
func (p *place) dial(ctx context.Context) (*net.UnixConn, error) {
	deadline := time.Now().Add(dialWithin)
	tick := time.NewTicker(dialEvery)
	defer tick.Stop()
	for {
		conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Net: "unix", Name: p.path(socketName)})
		if err == nil || time.Now().After(deadline) {
			return conn, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// trust refuses a process that could be an impostor.
func (p *place) trust(conn *net.UnixConn) error {
	peer, err := peerOf(conn)
	if err != nil {
		return err
	}
	info, err := p.dir.Stat()
	if err != nil {
		return fmt.Errorf("ask by control socket: %w", err)
	}
	if owner := ownerOf(info); peer.UID != 0 && peer.UID != owner {
		return fmt.Errorf("ask by control socket: uid %d listens in the directory of uid %d; it was not asked", peer.UID, owner)
	}
	return nil
}

// unreachable says why there is no connection.
func unreachable(dataDir string, err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return &ClosedError{Socket: Socket(dataDir), Dir: closedTo(Socket(dataDir))}
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("ask by control socket %s: %w", Socket(dataDir), ErrNobody)
	}
	return fmt.Errorf("ask by control socket %s: %w", Socket(dataDir), err)
}
