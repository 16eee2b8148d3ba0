package httpcall

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/backstay-dev/backstay"
)

const (
	maxAnswer  = 1 << 20  // read of an answer at most
	maxOutput  = 64 << 10 // of it kept as output
	maxHeaders = 64 << 10

	linkLocalHint = "allow-link-local: true permits it, where it is meant"
)

// String is the request for people: without query, headers and body.
func (r request) String() string { return r.Method + " " + r.place() }

func (r request) place() string {
	u, err := url.Parse(r.filled())
	if err != nil {
		return "URL"
	}
	if u.Host == anyEndpoint {
		u.Host = ""
		return u.Scheme + "://{endpoint}" + u.Path
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}

// anyEndpoint stands for an address that is not known before a side is started.
const anyEndpoint = "endpoint.invalid"

// filled is the URL with something in the places of a side's address and name,
// which a check of a gate may have.
func (r request) filled() string {
	return strings.NewReplacer("{endpoint}", anyEndpoint, "{side}", "side").Replace(r.URL)
}

// at is the request to the side that a gate waits for, with its address and
// name (slots of the steps that started and registered it) in their places.
func (r request) at(slots map[string]string) request {
	if len(slots) == 0 {
		return r
	}
	put := strings.NewReplacer("{endpoint}", slots["endpoint"], "{side}", slots["side"])
	r.URL = put.Replace(r.URL)
	headers := make(map[string]string, len(r.Headers))
	for name, value := range r.Headers {
		headers[name] = put.Replace(value)
	}
	r.Headers = headers
	return r
}

// answer is what came back.
type answer struct {
	status int
	body   []byte // the first MiB
	more   bool   // there was more
	// values are the secrets that the request was made with.
	values []string
}

// shows reports whether the answer repeats a secret of the request.
func (a answer) shows() bool {
	return slices.ContainsFunc(a.values, func(v string) bool { return v != "" && strings.Contains(string(a.body), v) })
}

// as reports whether the status is one of the expected.
func (a answer) as(expect []int) bool {
	if len(expect) == 0 {
		return a.status >= 200 && a.status <= 299
	}
	return slices.Contains(expect, a.status)
}

// send sends one request and reads the answer. Errors have their class: what
// was certainly not sent, and what may be repeated, is transient.
func (r request) send(ctx context.Context, call backstay.Call, repeatable bool) (answer, error) {
	if err := ctx.Err(); err != nil {
		return answer{}, r.fail(backstay.Permanent, ending(ctx), "")
	}
	limit := orDefault(r.Timeout, defaultTimeout).Std()
	bounded, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no whole answer within %s", limit))
	defer cancel()
	var connected atomic.Bool
	req, values, err := r.build(httptrace.WithClientTrace(bounded, &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { connected.Store(true) },
	}), call)
	if err != nil {
		return answer{}, err
	}
	if _, err := backstay.LeaseLeft(ctx); err != nil {
		return answer{}, r.fail(backstay.Permanent, err, "")
	}
	resp, err := r.client(ctx).Do(req)
	a := answer{values: values}
	if err == nil {
		a.status = resp.StatusCode
		a.body, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
		_ = resp.Body.Close()
		if len(a.body) > maxAnswer {
			a.body, a.more = a.body[:maxAnswer], true
		}
	}
	if err == nil {
		return a, nil
	}
	if ctx.Err() != nil {
		return a, r.fail(backstay.Permanent, ending(ctx), "")
	}
	if _, lapsed := backstay.LeaseLeft(ctx); lapsed != nil {
		return a, r.fail(backstay.Permanent, lapsed, "")
	}
	return a, r.classify(bounded, err, connected.Load(), repeatable)
}

// classify says what a failed exchange means.
func (r request) classify(bounded context.Context, err error, connected, repeatable bool) error {
	// The client's own wrapper repeats the URL, query and all.
	if wrapped := new(url.Error); errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	if refused := new(guardError); errors.As(err, &refused) {
		return r.fail(backstay.Permanent, refused, linkLocalHint)
	}
	if untrusted := new(tls.CertificateVerificationError); errors.As(err, &untrusted) {
		return r.fail(backstay.Permanent, err, "the server's certificate is not trusted here, or is another's")
	}
	if bounded.Err() != nil {
		err = errors.New(context.Cause(bounded).Error()) // the step's own time is not over: no deadline error
	}
	if !connected {
		return r.fail(backstay.Transient, fmt.Errorf("nothing was sent: %w", err), "is the server up, and the name right?")
	}
	if repeatable {
		return r.fail(backstay.Transient, err, "")
	}
	return r.fail(backstay.Permanent, fmt.Errorf("no answer, so it is not known whether it took effect: %w", err), "look at the server; the request is not repeated")
}

func (r request) fail(class backstay.ErrorClass, err error, hint string) error {
	return &backstay.Error{Class: class, Op: r.Method, Subject: r.place(), Err: err, Hint: hint}
}

// judge turns an unexpected status into an error.
func (r request) judge(a answer, repeatable bool) error {
	if a.as(r.Expect) {
		return nil
	}
	class, hint := backstay.Permanent, ""
	switch {
	case a.status == http.StatusConflict, a.status == http.StatusPreconditionFailed:
		class = backstay.Conflict
	case a.status >= 500, a.status == http.StatusTooManyRequests, a.status == http.StatusRequestTimeout, a.status == http.StatusTooEarly:
		if repeatable {
			class = backstay.Transient
		}
	case a.status >= 300 && a.status <= 399:
		hint = "redirects are not followed: give the final URL"
	case a.status == http.StatusUnauthorized, a.status == http.StatusForbidden:
		hint = "check the secret in headers"
	}
	return r.fail(class, fmt.Errorf("it answered with status %d", a.status), hint)
}

// build makes the request, secrets resolved.
func (r request) build(ctx context.Context, call backstay.Call) (*http.Request, []string, error) {
	var values []string
	resolve := func(value string) (string, error) {
		if !strings.HasPrefix(value, secretPrefix) {
			return value, nil
		}
		if call.Secrets == nil {
			return "", r.fail(backstay.Permanent, errors.New("no secrets are available here"), "")
		}
		resolved, err := call.Secrets.Resolve(value)
		if err != nil {
			return "", r.fail(backstay.Permanent, err, backstay.HintOf(err))
		}
		values = append(values, resolved)
		return resolved, nil
	}
	content, err := resolve(r.Body)
	if err != nil {
		return nil, nil, err
	}
	var reader io.Reader
	if content != "" {
		reader = strings.NewReader(content)
	}
	req, err := http.NewRequestWithContext(ctx, r.Method, r.URL, reader)
	if err != nil {
		return nil, nil, r.fail(backstay.Permanent, errors.New("the request cannot be made"), "check method and URL")
	}
	for name, value := range r.Headers {
		if value, err = resolve(value); err != nil {
			return nil, nil, err
		}
		if strings.ContainsAny(value, "\r\n\x00") {
			return nil, nil, r.fail(backstay.Permanent, fmt.Errorf("the value of header %s holds a line end or NUL byte", name), "")
		}
		req.Header.Set(name, value)
	}
	if req.Header.Get("User-Agent") == "" {
		req.Header.Set("User-Agent", "backstay")
	}
	if r.KeyHeader != "" && call.IdempotencyKey != "" {
		req.Header.Set(r.KeyHeader, call.IdempotencyKey)
	}
	return req, values, nil
}

// client is good for one request, of ctx.
func (r request) client(ctx context.Context) *http.Client {
	dialer := &net.Dialer{}
	if !r.LinkLocal {
		dialer.Control = guard
	}
	return &http.Client{
		Transport: &http.Transport{
			DialContext: func(dial context.Context, network, address string) (net.Conn, error) {
				conn, err := dialer.DialContext(dial, network, address)
				if err != nil {
					return nil, err //nolint:wrapcheck // classify says what it means
				}
				return leased{conn, ctx}, nil
			},
			DisableKeepAlives: true, DisableCompression: true,
			MaxResponseHeaderBytes: maxHeaders, ForceAttemptHTTP2: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// leased asks for the lease before each write: names are looked up and connections
// made meanwhile, and a process can be stopped at that.
type leased struct {
	net.Conn
	ctx context.Context //nolint:containedctx // lives for one request
}

// Write writes while there is a lease.
func (c leased) Write(p []byte) (int, error) {
	if _, err := backstay.LeaseLeft(c.ctx); err != nil {
		return 0, err //nolint:wrapcheck // says what and where already
	}
	return c.Conn.Write(p) //nolint:wrapcheck // net's errors say what they did
}

// guardError says that an address was refused before a connection was made.
type guardError struct{ ip netip.Addr }

func (e *guardError) Error() string {
	return fmt.Sprintf("the name leads to %s, a link-local or metadata address", e.ip)
}

// guard refuses guarded addresses between resolving and connecting.
func guard(_, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("check address: %w", err)
	}
	if guarded(at.Addr()) {
		return &guardError{at.Addr()}
	}
	return nil
}

// guarded reports addresses that only the host itself should be asked for by
// programs that know why: link-local ones, and those at which clouds hand out
// credentials.
func guarded(ip netip.Addr) bool {
	ip = ip.Unmap().WithZone("")
	if ip.IsLinkLocalUnicast() || ip.IsLinkLocalMulticast() || ip.IsMulticast() {
		return true
	}
	switch ip.String() {
	case "fd00:ec2::254", "100.100.100.200", "192.0.0.192":
		return true
	}
	return false
}

// ending is why ctx ended: an error that is both ctx.Err() and the cause.
func ending(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if cause == nil || errors.Is(cause, err) {
		return err
	}
	return fmt.Errorf("%w: %w", err, cause)
}
