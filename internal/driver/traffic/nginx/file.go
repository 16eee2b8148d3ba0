package nginx

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/traffic/router"
	"github.com/backstay-dev/backstay/internal/proxy/wire"
)

// file is the text that nginx includes, taken apart: the servers of the upstream,
// what else stands in it, and the text around.
type file struct {
	before  string // up to and with "upstream NAME {" and its line end
	servers []server
	others  []string // lines of the upstream that are no servers
	after   string   // from its "}"
	mark    string   // the mark that stands there, which nginx answers with once it has loaded this text
}

// server is one server of the upstream.
type server struct {
	address string
	side    string
	weight  int // 0: down
	with    string
}

// maxFile bounds the file.
const maxFile = 64 << 10

// The line of the status server by which nginx says which text it has loaded.
const markPrefix = `return 200 "backstay `

var errForm = errors.New("is not as this step kind needs it")

func patterns(upstream string) (open, line, mark *regexp.Regexp) {
	return regexp.MustCompile(`(?m)^[ \t]*upstream[ \t]+` + regexp.QuoteMeta(upstream) + `[ \t]*\{[ \t]*\n`),
		regexp.MustCompile(`^[ \t]*server[ \t]+([^ \t;]+)((?:[ \t]+[^ \t;#{}]+)*)[ \t]*;[ \t]*(?:#[ \t]*side[ \t]+([^ \t]+)[ \t]*)?$`),
		regexp.MustCompile(regexp.QuoteMeta(markPrefix) + `([0-9a-z]{1,64})"`)
}

// parse takes the text apart.
func parse(text, upstream string) (file, error) {
	var f file
	bad := func(format string, args ...any) (file, error) {
		return file{}, fmt.Errorf("%w: %s", errForm, fmt.Sprintf(format, args...))
	}
	open, line, mark := patterns(upstream)
	found := open.FindAllStringIndex(text, -1)
	if len(found) != 1 {
		return bad("want exactly one line `upstream %s {`, found %d", upstream, len(found))
	}
	marks := mark.FindAllStringSubmatch(text, -1)
	if len(marks) != 1 {
		return bad("want exactly one line `%s0\";`, found %d", markPrefix, len(marks))
	}
	f.mark = marks[0][1]
	f.before = text[:found[0][1]]
	rest := text[found[0][1]:]
	for {
		next, tail, more := strings.Cut(rest, "\n")
		switch trimmed := strings.TrimSpace(next); {
		case strings.HasPrefix(trimmed, "}"):
			f.after = rest
			return f, nil
		case !more:
			return bad("the upstream %s does not end", upstream)
		case trimmed == "":
		case strings.HasPrefix(trimmed, "server ") || strings.HasPrefix(trimmed, "server\t"):
			s, err := parseServer(line.FindStringSubmatch(next), trimmed)
			if err != nil {
				return file{}, err
			}
			if slices.ContainsFunc(f.servers, func(o server) bool { return o.address == s.address && o.side == s.side }) {
				return bad("%s is twice in side %s", s.address, s.side)
			}
			f.servers = append(f.servers, s)
		case strings.ContainsAny(trimmed, "{}"):
			return bad("a block in the upstream: %.100q", trimmed)
		default:
			f.others = append(f.others, next)
		}
		rest = tail
	}
}

func parseServer(m []string, line string) (server, error) {
	bad := func(why string) (server, error) {
		return server{}, fmt.Errorf("%w: line %.100q: %s", errForm, line, why)
	}
	if m == nil {
		return bad("write one server a line: server 127.0.0.1:9001 weight=100; # side blue")
	}
	if !wire.IsName(m[3]) {
		return bad("say its side behind it: # side blue")
	}
	s := server{address: m[1], side: m[3], weight: 1}
	var with []string
	for _, word := range strings.Fields(m[2]) {
		text, isWeight := strings.CutPrefix(word, "weight=")
		switch {
		case word == "down":
			s.weight = 0
		case word == "backup":
			return bad("a backup gets traffic that no weight says")
		case isWeight:
			n, err := strconv.Atoi(text)
			if err != nil || n < 1 || n > 65535 {
				return bad("weight " + text)
			}
			if s.weight > 0 {
				s.weight = n
			}
		default:
			with = append(with, word)
		}
	}
	s.with = strings.Join(with, " ")
	return s, nil
}

// body are the lines within the upstream.
func (f file) body() string {
	var b strings.Builder
	for _, s := range f.servers {
		words := []string{"server", s.address}
		if s.weight > 0 {
			words = append(words, "weight="+strconv.Itoa(s.weight))
		} else {
			words = append(words, "down")
		}
		if s.with != "" {
			words = append(words, s.with)
		}
		fmt.Fprintf(&b, "\t%s; # side %s\n", strings.Join(words, " "), s.side)
	}
	for _, line := range f.others {
		b.WriteString(line + "\n")
	}
	return b.String()
}

// text writes the file, with the mark of its content.
func (f file) text() string {
	body := f.body()
	sum := sha256.Sum256([]byte(body))
	mark := hex.EncodeToString(sum[:8])
	swap := func(s string) string {
		return strings.Replace(s, markPrefix+f.mark+`"`, markPrefix+mark+`"`, 1)
	}
	return swap(f.before) + body + swap(f.after)
}

// of lists the side's servers.
func (f file) of(side string) []server {
	return slices.DeleteFunc(slices.Clone(f.servers), func(s server) bool { return s.side != side })
}

// sides are the sides that have a server, sorted.
func (f file) sides() []string {
	var out []string
	for _, s := range f.servers {
		if !slices.Contains(out, s.side) {
			out = append(out, s.side)
		}
	}
	slices.Sort(out)
	return out
}

// weights are the sides' shares.
func (f file) weights() map[string]int {
	sums := map[string]int{}
	for _, s := range f.servers {
		sums[s.side] += s.weight
	}
	return router.Percents(sums)
}

// weighed is the file in the one form that says just these shares: servers by
// side, each with its even part of 100.
func (f file) weighed(weights map[string]int) file {
	out := f
	out.servers = nil
	for _, side := range f.sides() {
		list := f.of(side)
		for i, w := range router.Split(weights[side], len(list)) {
			list[i].weight = w
		}
		out.servers = append(out.servers, list...)
	}
	return out
}

// instance is a server in the account of a side: With are its parameters but for
// weight and down.
type instance struct {
	Address string `json:"address"`
	With    string `json:"with,omitempty"`
}

// account is the account of a side; none where it has no server.
func (f file) account(side string) json.RawMessage {
	list := f.of(side)
	if len(list) == 0 {
		return nil
	}
	out := make([]instance, len(list))
	for i, s := range list {
		out[i] = instance{s.address, s.with}
	}
	return backstay.Canonical(out)
}

// put gives a side other servers, without weight.
func (f file) put(side string, account json.RawMessage) (file, error) {
	out := f
	out.servers = slices.DeleteFunc(slices.Clone(f.servers), func(s server) bool { return s.side == side })
	if len(account) == 0 {
		return out, nil
	}
	var list []instance
	if err := json.Unmarshal(account, &list); err != nil {
		return f, fmt.Errorf("read servers of side %s: %w", side, err)
	}
	for _, in := range list {
		// What goes into nginx's configuration is one word after another, or nothing.
		if _, err := plainAddress("http://" + in.Address); err != nil && !slices.Contains(f.of(side), server{in.Address, side, 0, in.With}) {
			return f, err
		}
		if strings.ContainsAny(in.With, ";{}#\n\r\"'\\$") {
			return f, fmt.Errorf("read servers of side %s: parameters %.100q", side, in.With)
		}
		out.servers = append(out.servers, server{in.Address, side, 0, in.With})
	}
	return out, nil
}

// plainAddress is ip:port of http://ip:port: nginx's configuration says how it
// speaks to its servers, and names would be looked up only when it loads.
func plainAddress(address string) (string, error) {
	refuse := func(why string) error {
		return &backstay.Error{Class: backstay.Permanent, Op: "place instance", Subject: address, Err: errors.New(why), Hint: "write http://127.0.0.1:9002"}
	}
	plain, ok := strings.CutPrefix(address, "http://")
	if !ok {
		return "", refuse("nginx's configuration says how it speaks to its servers: only http:// is meant here")
	}
	parsed, err := netip.ParseAddrPort(plain)
	if err != nil || parsed.Addr().Zone() != "" {
		return "", refuse("nginx gets an IP address and a port here")
	}
	if wire.Forbidden(parsed.Addr()) {
		return "", refuse("no side may have this address")
	}
	return parsed.String(), nil
}
