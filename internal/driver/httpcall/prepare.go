package httpcall

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/backstay-dev/backstay"
)

const (
	secretPrefix = "secret:"
	// sees is what an equivalent step restores no more than.
	sees = "what the read request does not show"
)

// preparer collects everything that is wrong with one declaration.
type preparer struct {
	req      backstay.Request
	problems []backstay.Problem
	secrets  []string
}

func (p *preparer) refuse(path, message, hint string) {
	p.problems = append(p.problems, backstay.Problem{Path: path, Message: message, Hint: hint})
}

func (p *preparer) result(prepared backstay.Prepared) (backstay.Prepared, error) {
	if len(p.problems) > 0 {
		return backstay.Prepared{}, &backstay.RefusedError{What: "spec", Problems: p.problems}
	}
	prepared.Kind, prepared.Secrets = "http", p.secrets
	return prepared, nil
}

// Prepare freezes an http step.
func (d *Driver) Prepare(_ context.Context, req backstay.Request) (backstay.Prepared, error) {
	var sc stepConfig
	if err := json.Unmarshal(req.Config, &sc); err != nil {
		return backstay.Prepared{}, fmt.Errorf("decode http step: %w", err)
	}
	c, p := sc.HTTP, &preparer{req: req}
	base := request{Timeout: orDefault(c.Timeout, defaultTimeout), LinkLocal: c.AllowLinkLocal}
	b := body{V: bodyFormat}
	b.Do = p.request("http", base, c.Method, c.URL, c.Headers, c.Body, c.Expect)
	if !safe(b.Do.Method) {
		b.Do.KeyHeader = p.keyHeader(c.IdempotencyHeader)
	}
	if c.Undo != nil {
		u := p.request("http.undo", base, c.Undo.Method, c.Undo.URL, merged(c.Headers, c.Undo.Headers), c.Undo.Body, c.Undo.Expect)
		u.KeyHeader = b.Do.KeyHeader
		b.Undo = &u
	}
	if c.Read != nil {
		r := p.request("http.read", base, http.MethodGet, c.Read.URL, merged(c.Headers, c.Read.Headers), nil, c.Read.Expect)
		b.Read, b.Pointer = &r, c.Read.Pointer
		if c.Read.Pointer != "" && !strings.HasPrefix(c.Read.Pointer, "/") {
			p.refuse("http.read.pointer", fmt.Sprintf("%q is not a JSON pointer", c.Read.Pointer), "such as /rule/enabled")
		}
	}
	p.rules(c, b)
	return p.result(p.promise(c, b))
}

func orDefault(d, standard backstay.Duration) backstay.Duration {
	if d > 0 {
		return d
	}
	return standard
}

func merged(a, b map[string]string) map[string]string {
	all := map[string]string{}
	maps.Copy(all, a)
	for name, value := range b {
		for other := range all {
			if strings.EqualFold(other, name) {
				delete(all, other)
			}
		}
		all[name] = value
	}
	return all
}

// rules checks what the keys mean together.
func (p *preparer) rules(c callConfig, b body) {
	switch {
	case c.Undo == nil && c.Irreversible == "" && !safe(b.Do.Method):
		p.refuse("http", "nothing says how to take this request back", `add undo: (the request that takes it back), or irreversible: "why"`)
	case c.Undo != nil && c.Irreversible != "":
		p.refuse("http.irreversible", "the step also has an undo, so it is not irreversible", "drop one of them")
	}
	if c.Irreversible != "" && strings.TrimSpace(c.Irreversible) == "" {
		p.refuse("http.irreversible", "the reason is blank", "say why it cannot be undone: people approve it by that")
	}
}

// promise says what the declaration is worth.
func (p *preparer) promise(c callConfig, b body) backstay.Prepared {
	timeout := orDefault(p.req.Timeout, attempts*b.Do.Timeout)
	out := backstay.Prepared{
		Body: backstay.Canonical(b), Keys: []backstay.Key{keyOf(p.req.Release, p.req.ID)}, Fence: backstay.Leased, Window: timeout,
		Timeout: timeout, UndoTimeout: orDefault(p.req.UndoTimeout, attempts*b.Do.Timeout),
		HasUndo: c.Irreversible == "", Irreversible: c.Irreversible, Summary: b.Do.String(),
	}
	if b.Read != nil {
		out.ReadSummary = b.Read.String()
	}
	if b.Undo != nil {
		out.UndoSummary = b.Undo.String()
	}
	switch {
	case c.Irreversible != "":
		out.Class = backstay.Irreversible
	case b.Undo == nil && b.Read == nil:
		out.Class, out.UndoSummary = backstay.Exact, "nothing: "+b.Do.Method+" changes nothing"
		out.ReadSummary = out.UndoSummary
	case b.Read != nil:
		out.Class, out.Modulo = backstay.Equivalent, []string{sees}
	default:
		out.Class = backstay.Compensated
	}
	switch {
	case safe(b.Do.Method):
		out.Effect = backstay.Idempotent
	case b.Do.KeyHeader != "":
		out.Effect = backstay.IdempotencyKey
	case b.Read != nil:
		out.Effect = backstay.Probed
	default:
		out.Effect = backstay.AtMostOnce
	}
	return out
}

// request freezes one request.
func (p *preparer) request(at string, base request, method, address string, headers map[string]string, b *Body, expect []int) request {
	r := base
	r.URL, r.Headers, r.Expect, r.Method = address, headers, expect, method
	if r.Method == "" {
		r.Method = http.MethodPost
	}
	if !token(r.Method) || strings.ToUpper(r.Method) != r.Method || r.Method == http.MethodConnect {
		p.refuse(at+".method", fmt.Sprintf("%q is not a method to send", method), "such as POST, PUT, PATCH or DELETE, in capitals")
	}
	p.url(at+".url", r)
	for i, status := range expect {
		if status < 200 || status > 599 {
			p.refuse(fmt.Sprintf("%s.expect[%d]", at, i), fmt.Sprintf("%d is not the status of an answer", status), "a number from 200 to 599")
		}
	}
	p.headers(at+".headers", headers)
	if b == nil {
		return r
	}
	r.Body = b.Text
	p.secret(at+".body", b.Text)
	if b.JSON {
		r.Headers = merged(map[string]string{"Content-Type": "application/json"}, headers)
	}
	return r
}

// url checks an address without connecting to it.
func (p *preparer) url(at string, r request) {
	u, err := url.Parse(r.filled())
	switch {
	case err != nil:
		p.refuse(at, "is not a URL", "such as https://example.org/path") // the parser's message repeats it all
	case u.Scheme != "http" && u.Scheme != "https":
		p.refuse(at, fmt.Sprintf("the scheme %q is not http or https", u.Scheme), "")
	case u.User != nil:
		p.refuse(at, "holds a user name or password, which would be kept in the plan", "use headers: {Authorization: \"secret:…\"}")
	case u.Hostname() == "":
		p.refuse(at, "names no host", "")
	case u.Fragment != "":
		p.refuse(at, "has a fragment (#…), which is never sent", "drop it")
	default:
		if ip, err := netip.ParseAddr(u.Hostname()); err == nil && !r.LinkLocal && guarded(ip) {
			p.refuse(at, "is a link-local or metadata address", linkLocalHint)
		}
	}
}

func (p *preparer) headers(at string, headers map[string]string) {
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		value := headers[name]
		switch {
		case !token(name):
			p.refuse(at, fmt.Sprintf("%q is not the name of a header", name), "")
		case strings.ContainsAny(value, "\r\n\x00"):
			p.refuse(at+"."+name, "holds a line end or NUL byte", "")
		case strings.EqualFold(name, "Host"), strings.EqualFold(name, "Content-Length"), strings.EqualFold(name, "Transfer-Encoding"), strings.EqualFold(name, "Connection"):
			p.refuse(at+"."+name, "is set by the client itself", "drop it")
		}
		p.secret(at+"."+name, value)
	}
}

func (p *preparer) secret(at, value string) {
	if !strings.HasPrefix(value, secretPrefix) {
		return
	}
	if !slices.Contains(p.secrets, value) {
		p.secrets = append(p.secrets, value)
	}
	if p.req.Secrets == nil {
		return
	}
	if _, err := p.req.Secrets.Resolve(value); err != nil {
		p.refuse(at, err.Error(), backstay.HintOf(err))
	}
}

func (p *preparer) keyHeader(name *string) string {
	if name == nil {
		return defaultKeyHeader
	}
	if *name != "" && !token(*name) {
		p.refuse("http.idempotency-header", fmt.Sprintf("%q is not the name of a header", *name), "")
	}
	return *name
}

// token reports what RFC 9110, section 5.6.2 calls a token.
func token(s string) bool {
	return s != "" && strings.Trim(s, "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") == ""
}

// PrepareCheck freezes a verify entry.
func (d *Driver) PrepareCheck(_ context.Context, req backstay.Request) (backstay.Prepared, error) {
	var c checkConfig
	if err := json.Unmarshal(req.Config, &c); err != nil {
		return backstay.Prepared{}, fmt.Errorf("decode http check: %w", err)
	}
	p, t := &preparer{req: req}, c.HTTP
	base := request{Timeout: orDefault(req.Timeout, checkTimeout), LinkLocal: t.AllowLinkLocal}
	b := body{V: bodyFormat, Contains: t.Contains, Do: p.request("http", base, http.MethodGet, t.URL, t.Headers, nil, t.Expect)}
	return p.result(backstay.Prepared{Body: backstay.Canonical(b), Summary: b.Do.String(), Timeout: base.Timeout})
}
