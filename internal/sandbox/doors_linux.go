package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"

	"golang.org/x/sys/unix"
)

// Door is one thing outside that processes inside may talk to.
type Door struct {
	At string // where it is inside: an address of loopback with its port
	// Dial opens the other side, outside, for each connection.
	Dial func(ctx context.Context) (io.ReadWriteCloser, error)
}

// passage is what a process inside is told of its doors.
type passage struct {
	Socket int      `json:"socket"`
	At     []string `json:"at"`
}

// Doors gives a command of a sandbox its doors, before it is started. shut ends
// them and every connection through them, and returns when none is left.
func Doors(ctx context.Context, c *exec.Cmd, doors ...Door) (shut func(), err error) {
	if len(doors) == 0 {
		return func() {}, nil
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make the doors of a sandbox: %w", err)
	}
	near, far := os.NewFile(uintptr(pair[0]), "doors"), os.NewFile(uintptr(pair[1]), "doors")
	conn, err := unixConn(near)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make the doors of a sandbox: %w", err), far.Close())
	}
	p := passage{Socket: 3 + len(c.ExtraFiles)}
	for _, d := range doors {
		p.At = append(p.At, d.At)
	}
	text, err := json.Marshal(p)
	if err != nil {
		return nil, errors.Join(err, far.Close(), conn.Close())
	}
	c.ExtraFiles = append(c.ExtraFiles, far)
	c.Env = append(c.Env, envDoors+"="+string(text))
	ctx, cancel := context.WithCancel(ctx)
	k := &keeper{doors: doors, open: map[io.Closer]bool{}}
	k.wait.Go(func() { k.serve(ctx, conn) })
	return func() {
		cancel()
		_, _ = far.Close(), conn.Close() // nothing is written to them any more
		k.shut()
		k.wait.Wait()
	}, nil
}

// unixConn takes over a file.
func unixConn(f *os.File) (*net.UnixConn, error) {
	conn, err := net.FileConn(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, errors.Join(errors.New("it is no socket of this host"), conn.Close())
	}
	return unixConn, nil
}

// keeper carries what goes through the doors. It runs outside.
type keeper struct {
	doors []Door
	wait  sync.WaitGroup

	mu   sync.Mutex
	open map[io.Closer]bool // nil once shut
}

// serve takes the connections that processes inside made: they come as open
// sockets, each with the number of its door.
func (k *keeper) serve(ctx context.Context, from *net.UnixConn) {
	for {
		number, rights := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
		n, oob, _, _, err := from.ReadMsgUnix(number, rights)
		if err != nil || n == 0 {
			return
		}
		inner, err := received(rights[:oob])
		if err != nil {
			continue
		}
		if int(number[0]) >= len(k.doors) || !k.keep(inner) {
			_ = inner.Close()
			continue
		}
		k.wait.Go(func() { k.carry(ctx, inner, k.doors[number[0]]) })
	}
}

// received is the one connection in a message.
func received(rights []byte) (net.Conn, error) {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil || len(messages) != 1 {
		return nil, errors.Join(err, errors.New("not one message"))
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, errors.Join(err, errors.New("not one socket"))
	}
	unix.CloseOnExec(fds[0])
	f := os.NewFile(uintptr(fds[0]), "door")
	conn, err := net.FileConn(f)
	return conn, errors.Join(err, f.Close())
}

// keep notes a connection, so that shut ends it.
func (k *keeper) keep(c io.Closer) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.open == nil {
		return false
	}
	k.open[c] = true
	return true
}

func (k *keeper) end(c io.Closer) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.open, c)
	_ = c.Close() // all that was to be said was said, or one side is gone
}

func (k *keeper) shut() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for c := range k.open {
		_ = c.Close() // whoever is inside sees the end
	}
	k.open = nil
}

// carry copies both ways until either side ends.
func (k *keeper) carry(ctx context.Context, inner net.Conn, d Door) {
	defer k.end(inner)
	outer, err := d.Dial(ctx)
	if err != nil {
		return // inside it ends like a server that hangs up
	}
	if !k.keep(outer) {
		_ = outer.Close()
		return
	}
	defer k.end(outer)
	done := make(chan struct{}, 2)
	for _, way := range [][2]io.ReadWriter{{inner, outer}, {outer, inner}} {
		k.wait.Go(func() {
			_, _ = io.Copy(way[0], way[1])
			done <- struct{}{}
		})
	}
	<-done
}

// Listen opens the doors inside. The program calls it once, after Seal.
func Listen() error {
	text := os.Getenv(envDoors)
	if text == "" {
		return nil
	}
	var p passage
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		return fmt.Errorf("open the doors: %w", err)
	}
	if err := os.Unsetenv(envDoors); err != nil {
		return fmt.Errorf("open the doors: %w", err)
	}
	unix.CloseOnExec(p.Socket) // only this process passes connections out
	out, err := unixConn(os.NewFile(uintptr(p.Socket), "doors"))
	if err != nil {
		return fmt.Errorf("open the doors: %w", err)
	}
	for i, at := range p.At {
		l, err := net.Listen("tcp", at)
		if err != nil {
			return fmt.Errorf("open the door at %s: %w", at, err)
		}
		go accept(l, out, byte(i))
	}
	return nil
}

// accept passes each connection out, for as long as the process lives.
func accept(l net.Listener, out *net.UnixConn, number byte) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		if tcp, ok := c.(*net.TCPConn); ok {
			if f, err := tcp.File(); err == nil {
				_, _, err = out.WriteMsgUnix([]byte{number}, unix.UnixRights(int(f.Fd())), nil)
				_ = errors.Join(err, f.Close()) // whoever connected sees the end
			}
		}
		_ = c.Close() // the other side has it, or nobody
	}
}
