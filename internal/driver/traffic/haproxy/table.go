package haproxy

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/backstay-dev/backstay"
)

// maxReply bounds what is read of one answer.
const maxReply = 8 << 20

// ask sends commands in one line and returns all that was answered.
func (r *Router) ask(ctx context.Context, commands ...string) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, r.call, fmt.Errorf("HAProxy did not answer within %s", r.call))
	defer cancel()
	text, err := r.exchange(ctx, strings.Join(commands, ";"))
	if err == nil {
		return text, nil
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	return "", &backstay.Error{
		Class: backstay.Transient, Op: "ask HAProxy at", Subject: r.socket, Err: err,
		Hint: "is it running, with `stats socket " + r.socket + " level admin`?",
	}
}

func (r *Router) exchange(ctx context.Context, line string) (string, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", r.socket)
	if err != nil {
		return "", err //nolint:wrapcheck // ask says what it did
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if _, err := io.WriteString(conn, line+"\n"); err != nil {
		return "", err //nolint:wrapcheck // ask says what it did
	}
	text, err := io.ReadAll(io.LimitReader(conn, maxReply+1))
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded), err != nil:
		return "", err //nolint:wrapcheck // ask says what it did
	case len(text) > maxReply:
		return "", fmt.Errorf("the answer is larger than %d MiB", maxReply>>20)
	}
	return string(text), nil
}

// The states of a server, as an operator sets them.
const (
	stateReady = "ready"
	stateDrain = "drain"
	stateMaint = "maint"
)

// The bits of HAProxy's srv_admin_state and srv_check_state, and the value of
// srv_op_state, as its management guide lists them ("show servers state").
const (
	adminMaint      = 0x01 | 0x02 | 0x20 | 0x40
	adminDrain      = 0x08 | 0x10
	checkConfigured = 0x02
	checkEnabled    = 0x04
	opRunning       = 2
)

// server is one server of the backend.
type server struct {
	Name    string
	Address string // ip:port
	State   string
	Weight  int

	running   bool
	unchecked bool // it has a check that is not enabled
}

// place is a server in the account of a side. Weight is there for those that
// get no traffic by their state: it says nothing about shares then.
type place struct {
	Address string `json:"address"`
	State   string `json:"state"`
	Weight  *int   `json:"weight,omitempty"`
}

func (s server) place() place {
	p := place{Address: s.Address, State: s.State}
	if s.State != stateReady {
		p.Weight = &s.Weight
	}
	return p
}

// table is the backend as HAProxy told it: servers by name.
type table map[string]server

// show asks for a table. HAProxy ends an answer with an empty line: one without it
// was cut short, and what is missing there must not be taken for absent.
func (r *Router) show(ctx context.Context, command string) (string, error) {
	text, err := r.ask(ctx, command)
	if err == nil && !strings.HasSuffix(text, "\n\n") {
		err = &backstay.Error{Class: backstay.Transient, Op: "ask HAProxy at", Subject: r.socket, Err: fmt.Errorf("the answer was cut short after %d bytes", len(text))}
	}
	return text, err
}

// read asks for the servers of the backend.
func (r *Router) read(ctx context.Context) (table, error) {
	text, err := r.show(ctx, "show servers state "+r.backend)
	if err != nil {
		return nil, err
	}
	t, err := parseState(text, r.backend)
	if err != nil {
		return nil, &backstay.Error{
			Class: classOf(err), Op: "read servers of backend", Subject: r.backend + " of " + r.socket, Err: err,
			Hint: "ask for them with: echo 'show servers state " + r.backend + "' | socat - UNIX-CONNECT:" + r.socket,
		}
	}
	known := map[string]bool{}
	for side, servers := range r.sides {
		for _, name := range servers {
			known[name] = true
			if _, ok := t[name]; !ok {
				return nil, &backstay.Error{Class: backstay.Permanent, Op: "find server", Subject: r.backend + "/" + name, Err: fmt.Errorf("side %s has it, and HAProxy does not", side), Hint: "HAProxy has: " + strings.Join(slices.Sorted(maps.Keys(t)), ", ")}
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(t)) {
		if s := t[name]; !known[name] && s.State == stateReady && s.Weight > 0 {
			return nil, &backstay.Error{Class: backstay.Permanent, Op: "read weights of backend", Subject: r.backend, Err: fmt.Errorf("server %s has traffic and belongs to no side", name), Hint: "name it in haproxy.sides, or give it the weight 0"}
		}
	}
	return t, nil
}

var errNoBackend = errors.New("there is no such backend")

func classOf(err error) backstay.ErrorClass {
	if errors.Is(err, errNoBackend) {
		return backstay.NotFound
	}
	return backstay.Permanent
}

// parseState reads version 1 of the answer to "show servers state BACKEND".
func parseState(text, backend string) (table, error) {
	if strings.Contains(text, "Can't find backend") {
		return nil, errNoBackend
	}
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if len(lines) < 2 || strings.TrimSpace(lines[0]) != "1" || !strings.HasPrefix(lines[1], "# ") {
		return nil, fmt.Errorf("the answer is not a state of servers: %.100q", text)
	}
	at := map[string]int{}
	for i, name := range strings.Fields(lines[1][2:]) {
		at[name] = i
	}
	t := table{}
	for _, line := range lines[2:] {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		s, err := parseServer(at, fields, backend)
		if err != nil {
			return nil, fmt.Errorf("line %.100q: %w", line, err)
		}
		if _, twice := t[s.Name]; twice {
			return nil, fmt.Errorf("server %s is there twice", s.Name)
		}
		t[s.Name] = s
	}
	return t, nil
}

func parseServer(at map[string]int, fields []string, backend string) (server, error) {
	text := func(name string) string {
		if i, ok := at[name]; ok && i < len(fields) {
			return fields[i]
		}
		return ""
	}
	var failed error
	number := func(name string, limit int) int {
		n, err := strconv.Atoi(text(name))
		if (err != nil || n < 0 || n > limit) && failed == nil {
			failed = fmt.Errorf("%s is %.20q", name, text(name))
		}
		return n
	}
	s := server{Name: text("srv_name"), Weight: number("srv_uweight", 256)}
	admin, op, check, port := number("srv_admin_state", 255), number("srv_op_state", 3), number("srv_check_state", 255), number("srv_port", 65535)
	addr, err := netip.ParseAddr(text("srv_addr"))
	switch {
	case failed != nil:
		return s, failed
	case !isName(s.Name):
		return s, errors.New("it names no server")
	case text("be_name") != backend:
		return s, fmt.Errorf("it is of backend %.40q", text("be_name"))
	case err != nil:
		addr = netip.IPv4Unspecified() // "-": not resolved yet
	}
	s.Address = netip.AddrPortFrom(addr.Unmap(), uint16(port)).String() //nolint:gosec // bounded above
	s.State = stateReady
	if admin&adminMaint != 0 {
		s.State = stateMaint
	} else if admin&adminDrain != 0 {
		s.State = stateDrain
	}
	s.running, s.unchecked = op == opRunning, check&checkConfigured != 0 && check&checkEnabled == 0
	return s, nil
}

func isName(s string) bool {
	return s != "" && len(s) <= 128 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-:") == ""
}

// sessions counts what is in flight, by server.
func (r *Router) sessions(ctx context.Context) (map[string]int64, error) {
	text, err := r.show(ctx, "show stat "+r.backend+" 4 -1")
	if err != nil {
		return nil, err
	}
	out, err := parseSessions(text, r.backend)
	if err != nil {
		return nil, &backstay.Error{Class: backstay.Permanent, Op: "read sessions of backend", Subject: r.backend, Err: err}
	}
	return out, nil
}

func parseSessions(text, backend string) (map[string]int64, error) {
	rows := csv.NewReader(bytes.NewReader([]byte(strings.TrimPrefix(text, "# "))))
	rows.FieldsPerRecord = -1
	all, err := rows.ReadAll()
	if err != nil || len(all) == 0 {
		return nil, fmt.Errorf("the answer is no table: %.100q", text)
	}
	proxyAt, serverAt, currentAt := slices.Index(all[0], "pxname"), slices.Index(all[0], "svname"), slices.Index(all[0], "scur")
	if proxyAt < 0 || serverAt < 0 || currentAt < 0 {
		return nil, errors.New("the table has other columns")
	}
	out := map[string]int64{}
	for _, row := range all[1:] {
		if len(row) <= max(proxyAt, serverAt, currentAt) || row[proxyAt] != backend {
			continue
		}
		n, err := strconv.ParseInt(row[currentAt], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("server %.40s has %.20q sessions", row[serverAt], row[currentAt])
		}
		out[row[serverAt]] = n
	}
	return out, nil
}

// accountOf is the account of a side.
func accountOf(t table, servers []string) json.RawMessage {
	places := map[string]place{}
	for _, name := range servers {
		places[name] = t[name].place()
	}
	return backstay.Canonical(places)
}
