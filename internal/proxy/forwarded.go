package proxy

import (
	"net/http"
	"net/http/httputil"
	"net/netip"
	"slices"
	"strings"
)

// peerOf is the address of who is connected.
func peerOf(req *http.Request) netip.Addr {
	at, err := netip.ParseAddrPort(req.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return at.Addr().Unmap().WithZone("")
}

func (p *Proxy) trusts(a netip.Addr) bool {
	return slices.ContainsFunc(p.opts.Trusted, func(t netip.Prefix) bool { return t.Contains(a) })
}

// clientOf is the client that a trusted peer speaks for: the last address in
// X-Forwarded-For that is no trusted proxy. What is not an address ends the
// search: nobody vouches for what stands before it.
func (p *Proxy) clientOf(req *http.Request, peer netip.Addr) netip.Addr {
	client := peer
	hops := strings.Split(strings.Join(req.Header.Values("X-Forwarded-For"), ","), ",")
	for _, hop := range slices.Backward(hops) {
		a, err := netip.ParseAddr(strings.Trim(strings.TrimSpace(hop), "[]"))
		if err != nil {
			return client
		}
		client = a.Unmap().WithZone("")
		if !p.trusts(client) {
			return client
		}
	}
	return client
}

// forward sets X-Forwarded-For, -Host and -Proto. What a trusted proxy sent
// before is kept and extended, Forwarded (RFC 7239) too; what anybody else sent
// is gone: the reverse proxy took those headers out before.
func (ex *exchange) forward(pr *httputil.ProxyRequest) {
	in, out := pr.In, pr.Out
	proto := "http"
	if in.TLS != nil {
		proto = "https"
	}
	host, chain := in.Host, ex.peer.String()
	delete(out.Header, "X-Real-Ip")
	if ex.proxy.trusts(ex.peer) {
		if before := in.Header.Values("X-Forwarded-For"); len(before) > 0 {
			chain = strings.Join(before, ", ") + ", " + chain
		}
		if v := in.Header.Get("X-Forwarded-Proto"); v == "http" || v == "https" {
			proto = v
		}
		if v := in.Header.Get("X-Forwarded-Host"); v != "" {
			host = v
		}
		if before := in.Header.Values("Forwarded"); len(before) > 0 {
			out.Header["Forwarded"] = []string{strings.Join(before, ", ") + ", " + element(ex.peer, in)}
		}
	}
	out.Header["X-Forwarded-For"] = []string{chain}
	out.Header["X-Forwarded-Host"] = []string{host}
	out.Header["X-Forwarded-Proto"] = []string{proto}
}

// element is this hop as an element of Forwarded.
func element(peer netip.Addr, in *http.Request) string {
	from := peer.String()
	if peer.Is6() {
		from = `"[` + from + `]"`
	}
	proto := "http"
	if in.TLS != nil {
		proto = "https"
	}
	return "for=" + from + ";proto=" + proto
}
