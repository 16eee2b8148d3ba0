package control

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/durable"
)

// Names below a data directory. Others may pass through the directory and use
// the socket; only the process's user (and root) may change what is in it.
const (
	folder     = "control"
	socketName = "socket"
	lockName   = "lock"

	folderMode = 0o711
	socketMode = 0o666
)

// Socket is where the socket of a data directory is.
func Socket(dataDir string) string { return filepath.Join(dataDir, folder, socketName) }

// place is the open directory of the socket. Paths through its descriptor are
// short, whatever its own is (a socket's address holds 107 bytes), and stay
// this directory's.
type place struct{ dir *os.File }

// openPlace opens the directory of the socket as it is.
func openPlace(dataDir string) (*place, error) {
	dir, err := os.OpenFile(filepath.Join(dataDir, folder), openDirectory, 0)
	if err != nil {
		return nil, err
	}
	return &place{dir}, nil
}

// preparePlace makes the directory where it is missing, and refuses one in
// which somebody else could put a socket of his.
func preparePlace(dataDir string) (*place, error) {
	path := filepath.Join(dataDir, folder)
	if err := durable.MkdirAll(path, folderMode); err != nil {
		return nil, fmt.Errorf("make directory of control socket: %w", err)
	}
	p, err := openPlace(dataDir)
	if err != nil {
		return nil, fmt.Errorf("open directory of control socket: %w", err)
	}
	info, err := p.dir.Stat()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open directory of control socket: %w", err), p.close())
	}
	uid := ownerOf(info)
	if (uid != os.Geteuid() && uid != 0) || info.Mode().Perm()&0o022 != 0 {
		return nil, errors.Join(&backstay.Error{
			Class: backstay.Permanent, Op: "open control socket", Subject: path,
			Err:  fmt.Errorf("it belongs to uid %d with mode %04o: others could put a socket there", uid, info.Mode().Perm()),
			Hint: "remove it, or give this user a --data-dir of its own",
		}, p.close())
	}
	return p, nil
}

func (p *place) path(name string) string {
	return "/proc/self/fd/" + strconv.Itoa(int(p.dir.Fd())) + "/" + name
}

func (p *place) close() error { return p.dir.Close() }

// listen makes the socket, in place of one that nobody listens on any more. The
// caller holds the lock.
func (p *place) listen() (*net.UnixListener, error) {
	if err := p.remove(); err != nil {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: p.path(socketName)})
	if err != nil {
		return nil, fmt.Errorf("listen on control socket: %w", err)
	}
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(p.path(socketName), socketMode); err != nil {
		return nil, errors.Join(fmt.Errorf("open control socket to others: %w", err), l.Close())
	}
	return l, nil
}

func (p *place) remove() error {
	if err := os.Remove(p.path(socketName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove control socket: %w", err)
	}
	return nil
}

// closedTo is the directory on the way to path that others may not pass
// through, as far as can be seen; "" where there is none.
func closedTo(path string) string {
	closed := ""
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		if info, err := os.Stat(dir); err == nil && info.Mode().Perm()&0o001 == 0 {
			closed = dir // the highest one counts: what is below cannot be seen
		}
		if dir == filepath.Dir(dir) {
			return closed
		}
	}
}

func ownerOf(info fs.FileInfo) int {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(st.Uid)
	}
	return -1
}
