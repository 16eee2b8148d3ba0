package proxy

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"
)

// headerWait is how long a connection may take to send its PROXY header.
const headerWait = 5 * time.Second

const (
	v2Signature  = "\r\n\r\n\x00\r\nQUIT\n"
	maxV1Line    = 107 // with its CRLF, by the specification
	maxV2Payload = 4096
)

var errHeader = errors.New("no valid PROXY header")

// readHeader reads a PROXY protocol header, version 1 or 2, and returns the
// client that it names; the zero address where it names none (LOCAL, UNKNOWN,
// or a family that is not IP). It reads nothing beyond the header.
// Specification: HAProxy, proxy-protocol.txt.
func readHeader(r *bufio.Reader) (netip.AddrPort, error) {
	start, err := r.Peek(len(v2Signature))
	if bytes.Equal(start, []byte(v2Signature)) {
		return readV2(r)
	}
	if len(start) >= 6 && string(start[:6]) == "PROXY " {
		return readV1(r)
	}
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%w: %w", errHeader, err)
	}
	return netip.AddrPort{}, errHeader
}

func readV1(r *bufio.Reader) (netip.AddrPort, error) {
	line := make([]byte, 0, maxV1Line)
	for !bytes.HasSuffix(line, []byte("\r\n")) {
		if len(line) == maxV1Line {
			return netip.AddrPort{}, fmt.Errorf("%w: the line is too long", errHeader)
		}
		b, err := r.ReadByte()
		if err != nil {
			return netip.AddrPort{}, fmt.Errorf("%w: %w", errHeader, err)
		}
		line = append(line, b)
	}
	words := strings.Split(strings.TrimSuffix(string(line), "\r\n"), " ")
	if len(words) >= 2 && words[1] == "UNKNOWN" {
		return netip.AddrPort{}, nil
	}
	if len(words) != 6 || words[1] != "TCP4" && words[1] != "TCP6" {
		return netip.AddrPort{}, fmt.Errorf("%w: want PROXY TCP4|TCP6 and two addresses with ports", errHeader)
	}
	from, err := addrPort(words[2], words[4], words[1] == "TCP4")
	if err != nil {
		return netip.AddrPort{}, err
	}
	if _, err := addrPort(words[3], words[5], words[1] == "TCP4"); err != nil {
		return netip.AddrPort{}, err
	}
	return from, nil
}

func addrPort(addr, port string, want4 bool) (netip.AddrPort, error) {
	a, err := netip.ParseAddr(addr)
	if err != nil || a.Is4() != want4 || a.Zone() != "" {
		return netip.AddrPort{}, fmt.Errorf("%w: bad address", errHeader)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || len(port) > 1 && port[0] == '0' || port[0] == '+' {
		return netip.AddrPort{}, fmt.Errorf("%w: bad port", errHeader)
	}
	return netip.AddrPortFrom(a, uint16(n)), nil
}

func readV2(r *bufio.Reader) (netip.AddrPort, error) {
	head := make([]byte, 16)
	if _, err := io.ReadFull(r, head); err != nil {
		return netip.AddrPort{}, fmt.Errorf("%w: %w", errHeader, err)
	}
	version, command, family := head[12]>>4, head[12]&0xF, head[13]
	size := int(binary.BigEndian.Uint16(head[14:]))
	if version != 2 || command > 1 || size > maxV2Payload {
		return netip.AddrPort{}, fmt.Errorf("%w: version %d, command %d, %d bytes", errHeader, version, command, size)
	}
	payload := make([]byte, size)
	if _, err := io.ReadFull(r, payload); err != nil {
		return netip.AddrPort{}, fmt.Errorf("%w: %w", errHeader, err)
	}
	length := map[byte]int{0x11: 4, 0x12: 4, 0x21: 16, 0x22: 16}[family]
	if command == 0 || length == 0 {
		return netip.AddrPort{}, nil // LOCAL, or not IP
	}
	if size < 2*length+4 {
		return netip.AddrPort{}, fmt.Errorf("%w: %d bytes are no two addresses", errHeader, size)
	}
	a, ok := netip.AddrFromSlice(payload[:length])
	if !ok {
		return netip.AddrPort{}, errHeader
	}
	return netip.AddrPortFrom(a, binary.BigEndian.Uint16(payload[2*length:])), nil
}

// announced is a listener whose connections begin with a PROXY header. Only
// trusted peers are heard; the connection of anybody else ends.
type announced struct {
	net.Listener
	trusts func(netip.Addr) bool
}

func (l *announced) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &announcedConn{Conn: c, trusts: l.trusts, in: bufio.NewReaderSize(c, 4<<10)}, nil
}

// announcedConn reads its header when it is first used, in the goroutine that
// serves it, so that a slow one holds up nobody.
type announcedConn struct {
	net.Conn
	trusts func(netip.Addr) bool
	in     *bufio.Reader

	once   sync.Once
	remote net.Addr
	err    error
}

func (c *announcedConn) announce() {
	c.remote = c.Conn.RemoteAddr()
	peer, err := netip.ParseAddrPort(c.remote.String())
	if err != nil || !c.trusts(peer.Addr().Unmap()) {
		c.err = fmt.Errorf("%w: %s is no trusted proxy", errHeader, c.remote)
		return
	}
	if err := c.SetReadDeadline(time.Now().Add(headerWait)); err != nil {
		c.err = err
		return
	}
	from, err := readHeader(c.in)
	if err != nil {
		c.err = err
		return
	}
	if from.IsValid() {
		c.remote = net.TCPAddrFromAddrPort(from)
	}
	c.err = c.SetReadDeadline(time.Time{})
}

func (c *announcedConn) Read(p []byte) (int, error) {
	c.once.Do(c.announce)
	if c.err != nil {
		return 0, c.err
	}
	return c.in.Read(p)
}

func (c *announcedConn) RemoteAddr() net.Addr {
	c.once.Do(c.announce)
	return c.remote
}
