// Package nginx is the router nginx: one upstream, in a file of its own that
// nginx includes.
//
// The file says which servers make a side (a comment behind each), and has a
// small server that answers with a mark of the text: by that nginx itself says
// what it has loaded. Servers get weights of 100 in all; those of a side without
// traffic are down. All else in the file stays as it is.
//
// It promises: the file is replaced at once, checked by `nginx -t` before the
// reload and put back where that refuses it; a change is done when nginx answers
// with its mark only. It refuses a file that is not as it was read, but nginx
// knows no compare-and-set and no epochs (leased). nginx has no health checks of
// its own: instances are probed from here before they get traffic.
package nginx

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/traffic/router"
)

// Config says which upstream in which file, and how nginx takes it.
type Config struct {
	File     string
	Upstream string
	Status   string // host:port or unix:/path where nginx answers with the mark
	Test     []string
	Reload   []string
	Health   string        // as in router.Probe
	Capacity int           // of one server, in percent of the route's traffic; 0: all
	Call     time.Duration // bounds one exchange; 0: router.CallTimeout
}

// Router is one upstream.
type Router struct{ c Config }

var _ router.Router = (*Router)(nil)

// New makes a router of the upstream.
func New(c Config) (*Router, error) {
	switch {
	case !isName(c.Upstream):
		return nil, fmt.Errorf("%q is no name of an upstream", c.Upstream)
	case len(c.Test) == 0 || c.Test[0] == "" || len(c.Reload) == 0 || c.Reload[0] == "":
		return nil, errors.New("test and reload are commands: [nginx, -t], [nginx, -s, reload]")
	}
	if _, _, err := statusAt(c.Status); err != nil {
		return nil, err
	}
	if c.Capacity == 0 {
		c.Capacity = 100
	}
	c.Call = cmp.Or(c.Call, router.CallTimeout)
	return &Router{c}, nil
}

// statusAt is the network and address of the status server, which is on this host.
func statusAt(status string) (network, address string, err error) {
	if path, ok := strings.CutPrefix(status, "unix:"); ok {
		if !strings.HasPrefix(path, "/") {
			return "", "", fmt.Errorf("status %q: the path of a socket is absolute", status)
		}
		return "unix", path, nil
	}
	host, _, err := net.SplitHostPort(status)
	if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsLoopback() {
		return "", "", fmt.Errorf("status %q is not an address of this host, such as 127.0.0.1:9180 or unix:/run/shop.sock", status)
	}
	return "tcp", status, nil
}

func isName(s string) bool {
	return s != "" && len(s) <= 128 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == ""
}

// Traits are nginx's.
func (r *Router) Traits() router.Traits {
	return router.Traits{Name: r.c.Upstream + "@" + r.c.File, Fence: backstay.Leased}
}

// detail is what was read: the text, what it says, and the mark of what nginx
// has loaded.
type detail struct {
	text   string
	info   fs.FileInfo
	file   file
	loaded string
}

// own is nginx's account where whole percents do not say all: the text, and what
// is loaded where that is another one.
type own struct {
	Text   string `json:"text"`
	Loaded string `json:"loaded,omitempty"`
}

// Read reads the file, and asks nginx whether it has loaded it.
func (r *Router) Read(ctx context.Context) (*router.Route, error) {
	d, err := r.look()
	if err != nil {
		return nil, err
	}
	if d.loaded, err = r.loaded(ctx); err != nil {
		return nil, err
	}
	out := &router.Route{Weights: d.file.weights(), Detail: d}
	for _, side := range d.file.sides() {
		s := router.Side{Name: side, Value: d.file.account(side)}
		for _, in := range d.file.of(side) {
			s.Addresses = append(s.Addresses, "http://"+in.address)
		}
		out.Sides = append(out.Sides, s)
	}
	o := own{Text: d.text}
	if d.loaded != d.file.mark {
		o.Loaded = d.loaded
		out.Torn = fmt.Sprintf("nginx has not loaded %s as it is (it answers with the mark %.40q)", r.c.File, d.loaded)
	}
	if o.Loaded != "" || d.file.weighed(out.Weights).text() != d.text {
		out.Own = backstay.Canonical(o)
	}
	return out, nil
}

// look reads the file alone.
func (r *Router) look() (*detail, error) {
	problem := func(class backstay.ErrorClass, err error) error {
		return &backstay.Error{Class: class, Op: "read upstream " + r.c.Upstream + " in", Subject: r.c.File, Err: err, Hint: "docs/guide/traffic.md shows how the file begins"}
	}
	info, err := os.Lstat(r.c.File)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, problem(backstay.NotFound, errors.New("there is no such file"))
	case err != nil:
		return nil, problem(backstay.Permanent, err)
	case !info.Mode().IsRegular():
		return nil, problem(backstay.Permanent, errors.New("it is no regular file"))
	case info.Size() > maxFile:
		return nil, problem(backstay.Permanent, fmt.Errorf("it is larger than %d KiB", maxFile>>10))
	}
	f, err := os.Open(r.c.File)
	if err != nil {
		return nil, problem(backstay.Permanent, err)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil || len(data) > maxFile {
		return nil, problem(backstay.Permanent, errors.Join(err, errors.New("it could not be read as a whole")))
	}
	d := &detail{text: string(data), info: info}
	if d.file, err = parse(d.text, r.c.Upstream); err != nil {
		return nil, problem(backstay.Permanent, err)
	}
	return d, nil
}

// loaded asks nginx, on a new connection, which text it has loaded.
func (r *Router) loaded(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, r.c.Call, fmt.Errorf("nginx did not answer within %s", r.c.Call))
	defer cancel()
	mark, err := r.askMark(ctx)
	if err == nil {
		return mark, nil
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	return "", &backstay.Error{
		Class: backstay.Transient, Op: "ask nginx at", Subject: r.c.Status, Err: err,
		Hint: "is it running, and has it loaded " + r.c.File + " with its status server?",
	}
}

func (r *Router) askMark(ctx context.Context) (string, error) {
	network, address, err := statusAt(r.c.Status)
	if err != nil {
		return "", err
	}
	tr := &http.Transport{
		DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: 64 << 10,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, address)
		},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://backstay/", nil)
	if err != nil {
		return "", err //nolint:wrapcheck // loaded says what it did
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return "", err //nolint:wrapcheck // loaded says what it did
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 256))
	if err != nil {
		return "", err //nolint:wrapcheck // loaded says what it did
	}
	mark, ok := strings.CutPrefix(strings.TrimSpace(string(body)), "backstay ")
	if resp.StatusCode != http.StatusOK || !ok || mark == "" || strings.ContainsFunc(mark, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return "", fmt.Errorf("it answered %s and %.40q, not with a mark", resp.Status, body)
	}
	return mark, nil
}

// Place is the account of servers at the addresses, with the parameters that the
// side's first server has.
func (r *Router) Place(now *router.Route, side string, addresses []string) (json.RawMessage, error) {
	d, err := detailOf(now)
	if err != nil || len(addresses) == 0 {
		return nil, err
	}
	had := d.file.of(side)
	list := make([]instance, len(addresses))
	for i, a := range addresses {
		if list[i].Address, err = plainAddress(a); err != nil {
			return nil, err
		}
		if at := slices.IndexFunc(had, func(s server) bool { return s.address == list[i].Address }); at >= 0 {
			list[i].With = had[at].with
		} else if len(had) > 0 {
			list[i].With = had[0].with
		}
	}
	return backstay.Canonical(list), nil
}

func detailOf(now *router.Route) (*detail, error) {
	if now == nil {
		return nil, errors.New("use route: nothing was read from nginx")
	}
	d, ok := now.Detail.(*detail)
	if !ok {
		return nil, errors.New("use route: it was not read from nginx")
	}
	return d, nil
}

// Unready says which of the side's servers do not answer a probe.
func (r *Router) Unready(ctx context.Context, side string) ([]string, error) {
	d, err := r.look()
	if err != nil {
		return nil, err
	}
	_, why := r.well(ctx, d.file.of(side))
	return why, ctx.Err()
}

// well probes servers.
func (r *Router) well(ctx context.Context, servers []server) (ready int, why []string) {
	for _, s := range servers {
		if err := router.Probe(ctx, s.address, r.c.Health); err != nil {
			why = append(why, err.Error())
			continue
		}
		ready++
	}
	return ready, why
}

// Busy is 0: nginx does not say what is in flight. Its old workers end what they
// have begun.
func (r *Router) Busy(context.Context, string) (int64, error) { return 0, nil }

// settle is how long nginx must answer with one mark only: it starts new workers
// about 100 ms before it tells the old ones to take no more connections.
const settle = 200 * time.Millisecond

// takes is how long nginx may take to check or to load a text.
func (r *Router) takes() time.Duration { return 2 * r.c.Call }
