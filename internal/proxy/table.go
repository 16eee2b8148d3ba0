package proxy

import (
	"cmp"
	"net"
	"net/http"
	"path"
	"slices"
	"strings"

	"github.com/backstay-dev/backstay/internal/proxy/wire"
)

// table is all routes at one moment, never changed after it was made.
type table struct {
	routes   map[string]*route
	exact    map[string][]*route // by host; each list in order of preference
	wildcard []hostRoutes        // longest suffix first
	any      []*route
}

type hostRoutes struct {
	suffix string // ".example.com"
	routes []*route
}

func newTable(routes map[string]*route) *table {
	t := &table{routes: routes, exact: map[string][]*route{}}
	wild := map[string][]*route{}
	for _, r := range routes {
		for _, h := range r.spec.Match.Hosts {
			if suffix, ok := strings.CutPrefix(h, "*"); ok {
				wild[suffix] = append(wild[suffix], r)
			} else {
				t.exact[h] = append(t.exact[h], r)
			}
		}
		if len(r.spec.Match.Hosts) == 0 {
			t.any = append(t.any, r)
		}
	}
	for _, list := range t.exact {
		prefer(list)
	}
	for suffix, list := range wild {
		prefer(list)
		t.wildcard = append(t.wildcard, hostRoutes{suffix, list})
	}
	slices.SortFunc(t.wildcard, func(a, b hostRoutes) int {
		return cmp.Or(cmp.Compare(len(b.suffix), len(a.suffix)), cmp.Compare(a.suffix, b.suffix))
	})
	prefer(t.any)
	return t
}

// prefer sorts: the longest path first, then the most headers, then by name.
func prefer(list []*route) {
	slices.SortFunc(list, func(a, b *route) int {
		x, y := a.spec.Match, b.spec.Match
		return cmp.Or(cmp.Compare(len(y.Path), len(x.Path)), cmp.Compare(len(y.Headers), len(x.Headers)), cmp.Compare(a.spec.Name, b.spec.Name))
	})
}

// find returns the route that takes a request. known says whether any route
// knows the request's host.
func (t *table) find(req *http.Request) (r *route, known bool) {
	host := hostOf(req.Host)
	where := req.URL.Path
	if strings.Contains(where, "/.") || strings.Contains(where, "//") || where == "" {
		where = cleanPath(where) // as the side will resolve it: /public/../admin is /admin
	}
	if list, ok := t.exact[host]; ok {
		if r := first(list, where, req.Header); r != nil {
			return r, true
		}
		known = true
	}
	for _, w := range t.wildcard {
		if len(host) > len(w.suffix) && strings.HasSuffix(host, w.suffix) {
			if r := first(w.routes, where, req.Header); r != nil {
				return r, true
			}
			known = true
		}
	}
	if r := first(t.any, where, req.Header); r != nil {
		return r, true
	}
	return nil, known || len(t.any) > 0
}

func first(list []*route, where string, header http.Header) *route {
	for _, r := range list {
		if below(r.spec.Match.Path, where) && hasAll(header, r.spec.Match.Headers) {
			return r
		}
	}
	return nil
}

// below reports whether a path lies at or below a prefix of whole segments.
func below(prefix, where string) bool {
	prefix = strings.TrimSuffix(prefix, "/")
	return strings.HasPrefix(where, prefix) && (len(where) == len(prefix) || where[len(prefix)] == '/')
}

func hasAll(header http.Header, want []wire.Header) bool {
	return !slices.ContainsFunc(want, func(h wire.Header) bool { return !slices.Contains(header.Values(h.Name), h.Value) })
}

// hostOf is the host of an authority: lower case, no port, no final dot.
func hostOf(authority string) string {
	host := authority
	if i := strings.LastIndexByte(authority, ':'); i >= 0 {
		if h, _, err := net.SplitHostPort(authority); err == nil {
			host = h
		}
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

func cleanPath(p string) string {
	clean := path.Clean("/" + p)
	if strings.HasSuffix(p, "/") && clean != "/" {
		clean += "/"
	}
	return clean
}

// clash names a route that takes the very same requests as r.
func clash(routes map[string]*route, r *wire.Route) string {
	mine := r.Match
	for name, o := range routes {
		m := o.spec.Match
		sameHost := len(mine.Hosts) == 0 && len(m.Hosts) == 0 || slices.ContainsFunc(mine.Hosts, func(h string) bool { return slices.Contains(m.Hosts, h) })
		if name == r.Name || !sameHost || strings.TrimSuffix(m.Path, "/") != strings.TrimSuffix(mine.Path, "/") || len(m.Headers) != len(mine.Headers) {
			continue
		}
		if !slices.ContainsFunc(mine.Headers, func(h wire.Header) bool { return !slices.Contains(m.Headers, h) }) {
			return name
		}
	}
	return ""
}
