package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// longBody is the length up to which a response's latency is the time to its
// last byte; of a longer one, or of an unknown length, it is the time to its header.
const longBody = 64 << 10

// exchange is one request on its way through: where it goes, what it holds,
// and how it ends. It is the transport and the hooks of the reverse proxy that
// serves it.
type exchange struct {
	proxy  *Proxy
	w      http.ResponseWriter
	req    *http.Request
	peer   netip.Addr // who is connected
	client netip.Addr // who asks, as far as trusted proxies tell
	start  time.Duration

	table  *table
	route  *route
	choice choice
	gate   *gate
	inst   *instance
	tried  []*instance
	slice  *slice // nil: not part of the statistics

	retries  int
	status   int
	outcome  int
	flowing  int // the outcome counted with the header; -1: none
	bytes    int64
	broken   error // the side's, in the middle of its response
	complete bool  // the response went out whole
}

var (
	errSilent   = errors.New("the side was silent for too long")
	errOverTime = errors.New("the request took too long")
)

// ServeHTTP serves one request by the routes.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	p.requests.Add(1)
	defer p.requests.Add(-1)
	ex := &exchange{proxy: p, w: w, req: req, start: p.now(), flowing: -1}
	ex.peer = peerOf(req)
	ex.client = ex.peer
	if p.trusts(ex.peer) {
		ex.client = p.clientOf(req, ex.peer)
	}
	defer ex.finish()
	if !ex.admit() {
		ex.complete = true
		return
	}
	if total := ex.route.settings.Timeouts.Total.Std(); total > 0 {
		ctx, cancel := context.WithTimeoutCause(req.Context(), total, errOverTime)
		defer cancel()
		ex.req = req.WithContext(ctx)
	}
	ex.guardBody()
	rp := p.reverse
	rp.Rewrite, rp.Transport, rp.ModifyResponse, rp.ErrorHandler = ex.rewrite, ex, ex.answered, ex.failed
	rp.ServeHTTP(w, ex.req)
	ex.complete = true
}

// admit finds where the request goes and takes its place there. False: it was
// answered here. What it chose is still so when it has its place: a table that
// was swapped in between makes it choose again.
func (ex *exchange) admit() bool {
	p := ex.proxy
	if ex.req.Method == http.MethodConnect {
		return ex.refuse(http.StatusMethodNotAllowed, "this is no forward proxy")
	}
	for {
		ex.table = p.table.Load()
		r, known := ex.table.find(ex.req)
		if r == nil {
			ex.route = nil
			if known {
				return ex.refuse(http.StatusNotFound, "no route takes this path")
			}
			return ex.refuse(http.StatusMisdirectedRequest, "no route knows this host")
		}
		ex.route = r
		if limit := r.settings.MaxBody; limit > 0 && ex.req.ContentLength > limit {
			return ex.refuse(http.StatusRequestEntityTooLarge, "the body is larger than "+strconv.FormatInt(limit, 10)+" bytes")
		}
		c, refused := r.choose(ex.req, ex.client, p.passes, p.base.Add(ex.start))
		if refused != "" {
			return ex.refuse(http.StatusBadRequest, refused)
		}
		ex.choice = c
		if served, ok := ex.take(); ok {
			return served
		}
	}
}

// take takes the request's place at the chosen side. ok is false where the
// table changed meanwhile and nothing is held.
func (ex *exchange) take() (served, ok bool) {
	side := ex.choice.side
	if side == nil {
		ex.begin(ex.route.nobody)
		ex.outcome = isShed
		ex.fallback(http.StatusServiceUnavailable)
		return false, true
	}
	f := side.flow
	f.active.Add(1)
	if ex.proxy.table.Load() != ex.table {
		f.active.Add(-1)
		return false, false
	}
	ex.begin(f)
	g := f.gate.Load()
	if !g.enter(ex.req.Context()) {
		f.active.Add(-1)
		ex.outcome = isShed
		if ex.req.Context().Err() != nil {
			ex.outcome = isCanceled
		}
		ex.fallback(http.StatusServiceUnavailable)
		return false, true
	}
	in := side.pick(nil)
	if in != nil {
		in.enter()
	}
	if ex.proxy.table.Load() != ex.table {
		if in != nil {
			in.leave()
		}
		g.leave()
		f.active.Add(-1)
		if ex.slice != nil {
			ex.slice.forget()
			ex.slice = nil
		}
		return false, false
	}
	if in == nil { // the last one ceased to be ready this moment
		g.leave()
		f.active.Add(-1)
		ex.outcome = isShed
		ex.fallback(http.StatusServiceUnavailable)
		return false, true
	}
	ex.gate, ex.inst = g, in
	return true, true
}

// begin counts the request at a flow. Testers who name their side are not counted.
func (ex *exchange) begin(f *flow) {
	if !ex.choice.tester {
		ex.slice = f.recorder.begin(ex.start)
	}
}

// finish gives back what the request holds and counts how it ended. It also
// runs when the reverse proxy aborts the response by a panic.
func (ex *exchange) finish() {
	if ex.inst != nil {
		ex.inst.leave()
		ex.gate.leave()
		ex.choice.side.flow.active.Add(-1)
	}
	now := ex.proxy.now()
	switch {
	case ex.broken != nil:
		ex.outcome = isBroken
	case !ex.complete && errors.Is(context.Cause(ex.req.Context()), errOverTime):
		ex.outcome = isTimedOut
	case !ex.complete:
		ex.outcome = isCanceled
	}
	if ex.broken != nil && ex.inst != nil {
		ex.proxy.failedAt(ex.inst)
	}
	if ex.slice != nil {
		if ex.flowing >= 0 {
			ex.slice.finishFlow(ex.flowing, ex.outcome)
		} else {
			ex.slice.finish(ex.outcome, now-ex.start)
		}
		if isBad(ex.outcome) {
			ex.recorder().bad(ex.slice, ex.choice.user, now)
		}
	}
	if ex.proxy.opts.Access != nil {
		ex.log(now - ex.start)
	}
}

func (ex *exchange) recorder() *recorder {
	if ex.choice.side == nil {
		return ex.route.nobody.recorder
	}
	return ex.choice.side.flow.recorder
}

func isBad(outcome int) bool {
	return outcome != isOK && outcome != isClientError && outcome != isCanceled
}

// rewrite makes the request that the side gets.
func (ex *exchange) rewrite(pr *httputil.ProxyRequest) {
	pr.Out.URL.Scheme, pr.Out.URL.Host = ex.inst.target.Scheme, ex.inst.target.Host
	pr.Out.URL.RawQuery = pr.In.URL.RawQuery // it is the side's to read, as it came
	if o := ex.route.settings.Override; o != nil {
		pr.Out.Header.Del(o.Header)
	}
	ex.forward(pr)
}

// RoundTrip sends the request to its instance. A safe request without a body
// whose connection could not even be opened goes to another instance.
func (ex *exchange) RoundTrip(req *http.Request) (*http.Response, error) {
	for {
		resp, err := ex.inst.transport.RoundTrip(req)
		if err == nil {
			if ex.inst.settings.Breaker.Status && resp.StatusCode >= 500 {
				ex.proxy.failedAt(ex.inst)
			} else {
				ex.inst.breaker.RecordSuccess()
			}
			return resp, nil
		}
		if req.Context().Err() == nil && !tooLarge(err) {
			ex.proxy.failedAt(ex.inst)
		}
		if !ex.mayRetry(req, err) || !ex.another() {
			return nil, err
		}
		req.URL.Scheme, req.URL.Host = ex.inst.target.Scheme, ex.inst.target.Host
	}
}

func (ex *exchange) mayRetry(req *http.Request, err error) bool {
	safe := req.Method == http.MethodGet || req.Method == http.MethodHead || req.Method == http.MethodOptions
	if !safe || req.Body != nil && req.Body != http.NoBody || req.Context().Err() != nil || ex.retries >= *ex.route.settings.Retries {
		return false
	}
	return isDial(err)
}

// isDial reports whether no connection was opened, so that no byte was sent.
func isDial(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// another moves the request to an instance of its side that was not tried.
func (ex *exchange) another() bool {
	ex.tried = append(ex.tried, ex.inst)
	next := ex.choice.side.pick(ex.tried)
	if next == nil {
		return false
	}
	next.enter()
	if ex.proxy.table.Load() != ex.table || next.removed.Load() {
		next.leave()
		return false
	}
	ex.inst.leave()
	ex.inst = next
	ex.retries++
	ex.proxy.retried.Add(1)
	return true
}

// failedAt counts a failure of an instance, and takes it out at once when its
// breaker opens by it.
func (p *Proxy) failedAt(in *instance) {
	if in.breaker.IsOpen() {
		return
	}
	in.breaker.RecordFailure()
	if in.breaker.IsOpen() {
		p.observe(in.route)
	}
}

// answered looks at the response header before it goes out.
func (ex *exchange) answered(resp *http.Response) error {
	ex.status = resp.StatusCode
	switch {
	case resp.StatusCode >= 500:
		ex.outcome = isServerError
	case resp.StatusCode >= 400:
		ex.outcome = isClientError
	}
	if c := ex.choice.pass; c != nil {
		a := ex.route.settings.Affinity
		cookie := http.Cookie{ //nolint:gosec // Secure where the visitor came by TLS
			Name: a.Cookie, Value: ex.proxy.passes.write(ex.route.spec.Name, *c), Path: "/",
			MaxAge: int(a.TTL.Std() / time.Second), HttpOnly: true, SameSite: http.SameSiteLaxMode,
			Secure: ex.req.TLS != nil,
		}
		resp.Header.Add("Set-Cookie", cookie.String())
	}
	long := resp.ContentLength < 0 || resp.ContentLength > longBody || resp.StatusCode == http.StatusSwitchingProtocols
	if long && ex.slice != nil {
		ex.flowing = ex.outcome
		ex.slice.header(ex.outcome, ex.proxy.now()-ex.start)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols && resp.Body != http.NoBody {
		resp.Body = newResponseBody(ex, resp.Body, long)
	}
	return nil
}

// failed answers a request that got no response from its side.
func (ex *exchange) failed(w http.ResponseWriter, req *http.Request, err error) {
	status := http.StatusBadGateway
	ex.outcome = isUnreachable
	var timeout net.Error
	switch {
	case tooLarge(err):
		status, ex.outcome = http.StatusRequestEntityTooLarge, isClientError
	case errors.Is(context.Cause(req.Context()), errOverTime):
		status, ex.outcome = http.StatusGatewayTimeout, isTimedOut
	case gone(ex.req, err):
		// The client went away; nobody reads the answer.
		ex.outcome, ex.status = isCanceled, 499
		w.WriteHeader(http.StatusBadGateway)
		return
	case !isDial(err) && errors.As(err, &timeout) && timeout.Timeout():
		status, ex.outcome = http.StatusGatewayTimeout, isTimedOut
	}
	ex.proxy.opts.Log.Debug("no response of a side", "route", ex.route.spec.Name, "side", ex.choice.side.name, "instance", ex.inst.spec.URL, "error", err)
	if status == http.StatusRequestEntityTooLarge {
		ex.refuse(status, "the body is too large")
		return
	}
	ex.fallback(status)
}

func tooLarge(err error) bool {
	var large *http.MaxBytesError
	return errors.As(err, &large)
}

// gone reports whether a failure is that the client went away.
func gone(req *http.Request, err error) bool {
	return req.Context().Err() != nil || errors.Is(err, context.Canceled)
}

// refuse answers without a side. It returns false, for admit.
func (ex *exchange) refuse(status int, why string) bool {
	ex.status, ex.outcome = status, isClientError
	if ex.slice == nil {
		ex.proxy.refused.Add(1)
	}
	h := ex.w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	if status == http.StatusRequestEntityTooLarge {
		h.Set("Connection", "close") // the rest of the body is not read
	}
	ex.w.WriteHeader(status)
	_, _ = io.WriteString(ex.w, why+"\n") // the client's loss
	return false
}

// fallback answers with the route's page, or a short text with the status that
// says what happened.
func (ex *exchange) fallback(status int) {
	text, kind := strings.ToLower(http.StatusText(status))+"\n", "text/plain; charset=utf-8"
	if f := ex.route.settings.Fallback; f != nil && (f.Body != "" || f.Status != 0) {
		if f.Status != 0 {
			status = f.Status
		}
		text, kind = f.Body, orDefault(f.ContentType, "text/html; charset=utf-8")
	}
	ex.status = status
	h := ex.w.Header()
	h.Set("Content-Type", kind)
	h.Set("Cache-Control", "no-store")
	if status == http.StatusServiceUnavailable {
		h.Set("Retry-After", "1")
	}
	ex.w.WriteHeader(status)
	if ex.req.Method != http.MethodHead {
		_, _ = io.WriteString(ex.w, text) // the client's loss
	}
}

func orDefault(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
