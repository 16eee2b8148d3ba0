package service

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/backstay-dev/backstay"
)

// The sides of a service behind a router, and the words for them.
const (
	blue  = "blue"
	green = "green"
	next  = "next"
	lives = "live"
)

// side is the side of a service whose directory this is, or "".
func (s store) side() string {
	_, side, _ := strings.Cut(s.name, ".")
	return side
}

// sides finds which side of a service is in use, or takes the one that is named
// for it. With none in use the first release goes to blue.
func (p *preparer) sides(service, word string) (idle, used string, cur *live, err error) {
	onBlue, err := openStore(p.req.DataDir, service+"."+blue).current()
	if err != nil {
		return "", "", nil, err
	}
	onGreen, err := openStore(p.req.DataDir, service+"."+green).current()
	if err != nil {
		return "", "", nil, err
	}
	switch {
	case word == blue:
		return green, blue, onBlue, nil
	case word == green:
		return blue, green, onGreen, nil
	case onBlue != nil && onGreen != nil:
		p.refuse("side", "both sides of "+service+" are in use", "retire one of them: service: "+service+", side: blue (or green), retire: true")
		return blue, green, onGreen, nil
	case onBlue != nil:
		return green, blue, onBlue, nil
	case onGreen != nil:
		return blue, green, onGreen, nil
	}
	return blue, green, nil, nil
}

// sided resolves the side of a step and what it asks there.
func (p *preparer) sided(c stepConfig, b *body) error {
	if c.Side == "" {
		if c.Instances != 0 {
			p.refuse("instances", "belongs to a step with a side", "how many a service has is said in services")
		}
		if c.Retire {
			p.refuse("retire", "belongs to a step with a side", "")
		}
		return nil
	}
	idle, used, cur, err := p.sides(c.Service, c.Side)
	if err != nil {
		return err
	}
	switch c.Side {
	case next:
		b.Side = idle
	case lives:
		b.Side = used
	default:
		b.Side = c.Side
	}
	b.Count, b.Retire = c.Instances, c.Retire
	if b.Count < 0 || b.Count > b.Definition.Instances {
		p.refuse("instances", fmt.Sprintf("%d is not from 1 to %d, which services says", b.Count, b.Definition.Instances), "")
	}
	if b.Retire && cur != nil {
		b.Definition, b.Digest = cur.Definition, cur.Digest // what its undo starts again, and how it is ended
	}
	return nil
}

// Ports of sides lie below those that the system gives to connections, so that
// a port is still free when its side is started again.
const (
	lowestPort  = 20000
	highestPort = 32000
	portsFile   = "ports"
)

// ports chooses distinct ports for n instances after the given number: for a
// side the ones that it had, where they are free, else new ones.
func (s store) ports(after, n int) ([]int, error) {
	if s.side() == "" {
		return freePorts(n)
	}
	had, err := s.hadPorts()
	if err != nil {
		return nil, err
	}
	other := openStore(filepath.Dir(filepath.Dir(s.dir)), s.sibling())
	theirs, err := other.hadPorts()
	if err != nil {
		return nil, err
	}
	ports := make([]int, 0, n)
	for i := range n {
		port := had[strconv.Itoa(after+i+1)]
		if port == 0 || portTaken(port) || slices.Contains(ports, port) {
			if port, err = newPort(slices.Concat(ports, mapValues(had), mapValues(theirs))); err != nil {
				return nil, err
			}
		}
		ports = append(ports, port)
	}
	return ports, nil
}

// sibling is the other side of the same service.
func (s store) sibling() string {
	service, side, _ := strings.Cut(s.name, ".")
	if side == blue {
		return service + "." + green
	}
	return service + "." + blue
}

func mapValues(m map[string]int) []int {
	out := make([]int, 0, len(m))
	for _, v := range m {
		out = append(out, v)
	}
	return out
}

// newPort chooses a free port that is none of the given ones.
func newPort(not []int) (int, error) {
	const tries = 200
	for range tries {
		n, err := rand.Int(rand.Reader, big.NewInt(highestPort-lowestPort))
		if err != nil {
			return 0, fmt.Errorf("choose a port: %w", err)
		}
		port := lowestPort + int(n.Int64())
		if slices.Contains(not, port) {
			continue
		}
		if l, err := net.Listen("tcp4", address(port)); err == nil {
			return port, l.Close()
		}
	}
	return 0, fmt.Errorf("choose a port: none is free from %d to %d", lowestPort, highestPort)
}

func (s store) hadPorts() (map[string]int, error) {
	had := map[string]int{}
	if err := readJSON(filepath.Join(s.dir, portsFile), &had); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the ports of service %s: %w", s.name, err)
	}
	return had, nil
}

// keepPorts notes the ports of a side's instances.
func (s store) keepPorts(started []instance) error {
	if s.side() == "" || len(started) == 0 {
		return nil
	}
	had, err := s.hadPorts()
	if err != nil {
		return err
	}
	for _, i := range started {
		had[strconv.Itoa(i.Index)] = i.Port
	}
	if err := s.write(portsFile, backstay.Canonical(had)); err != nil {
		return fmt.Errorf("note the ports of service %s: %w", s.name, err)
	}
	return nil
}
