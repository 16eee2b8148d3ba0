package wire

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/backstay-dev/backstay"
)

// checker collects the problems of one route.
type checker struct{ problems []backstay.Problem }

func (c *checker) add(path, hint, format string, args ...any) {
	c.problems = append(c.problems, backstay.Problem{Path: path, Message: fmt.Sprintf(format, args...), Hint: hint})
}

// Validate returns everything that is wrong with the route.
func (r *Route) Validate() []backstay.Problem {
	c := &checker{}
	if !IsName(r.Name) {
		c.add("name", nameHint, "%q is no name", r.Name)
	}
	c.match(r.Match)
	c.settings(r)
	if len(r.Sides) == 0 {
		c.add("sides", "name at least one side with its weight: {name: blue, weight: 100, …}", "there are none")
		return c.problems
	}
	total := 0
	for i, s := range r.Sides {
		path := fmt.Sprintf("sides[%d]", i)
		if !IsName(s.Name) {
			c.add(path+".name", nameHint, "%q is no name", s.Name)
		}
		if slices.ContainsFunc(r.Sides[:i], func(o Side) bool { return o.Name == s.Name }) {
			c.add(path+".name", "each side has a name of its own", "%q is there twice", s.Name)
		}
		if s.Weight < 0 || s.Weight > 100 {
			c.add(path+".weight", "a weight is a whole number of percent", "%d is not from 0 to 100", s.Weight)
		}
		total += s.Weight
		c.instances(path, s.Instances)
	}
	if total != 100 {
		c.add("sides", "the weights of a route sum to 100", "the weights sum to %d", total)
	}
	return c.problems
}

const nameHint = "a name starts with a letter or digit and has at most 63 of a-z 0-9 . _ -"

// IsName reports whether s may name a route or side.
func IsName(s string) bool {
	if s == "" || len(s) > 63 || strings.Trim(s[:1], "._-") == "" {
		return false
	}
	return strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789._-") == ""
}

// isToken reports whether s may name a header or cookie (RFC 9110, 5.6.2).
func isToken(s string) bool {
	for _, b := range []byte(s) {
		letter := b|0x20 >= 'a' && b|0x20 <= 'z'
		if !letter && (b < '0' || b > '9') && !strings.ContainsRune("!#$%&'*+-.^_`|~", rune(b)) {
			return false
		}
	}
	return s != "" && len(s) <= 256
}

func (c *checker) match(m Match) {
	for i, h := range m.Hosts {
		bare := strings.TrimPrefix(h, "*.")
		if bare == "" || len(h) > 253 || bare != strings.ToLower(bare) || strings.ContainsAny(bare, "/@:* \t\r\n\x00?#") || strings.HasSuffix(bare, ".") {
			c.add(fmt.Sprintf("match.hosts[%d]", i), `write it in lower case and without a port: shop.example.com, or *.example.com`, "%q is no host", h)
		}
	}
	if m.Path != "" && (m.Path[0] != '/' || strings.ContainsAny(m.Path, "?#\r\n\x00") || strings.Contains(m.Path+"/", "/../") || strings.Contains(m.Path+"/", "/./")) {
		c.add("match.path", "a path starts with / and is clean", "%q is no path", m.Path)
	}
	for i, h := range m.Headers {
		if !isToken(h.Name) {
			c.add(fmt.Sprintf("match.headers[%d].name", i), "", "%q is no header name", h.Name)
		}
	}
}

func (c *checker) instances(path string, list []Instance) {
	for i, in := range list {
		at := fmt.Sprintf("%s.instances[%d]", path, i)
		if why := badURL(in.URL); why != "" {
			c.add(at+".url", "write http://127.0.0.1:8080, https://… or h2c://… and nothing after the port", "%q %s", in.URL, why)
		}
		if slices.ContainsFunc(list[:i], func(o Instance) bool { return o.URL == in.URL }) {
			c.add(at+".url", "", "%q is there twice", in.URL)
		}
		if in.Capacity < 0 || in.Capacity > 100 {
			c.add(at+".capacity", "how much of the route's traffic it can carry, in percent; 0 means all", "%d is not from 0 to 100", in.Capacity)
		}
	}
}

func badURL(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return "is no URL"
	}
	switch {
	case u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "h2c":
		return "has a scheme that is not spoken here"
	case u.User != nil || u.Path != "" || u.RawQuery != "" || u.Fragment != "" || u.Opaque != "" || strings.ContainsAny(s, "?#"):
		return "has more than scheme, host and port"
	case u.Hostname() == "":
		return "names no host"
	}
	if port, err := strconv.Atoi(u.Port()); err != nil || port < 1 || port > 65535 {
		return "names no port"
	}
	if addr, err := netip.ParseAddr(u.Hostname()); err == nil && Forbidden(addr) {
		return "is an address that no side may have (link-local, multicast or unspecified)"
	}
	return ""
}

// Forbidden reports whether no side may have the address: link-local ones are
// those of clouds' metadata services, the others are nobody's.
func Forbidden(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	return addr.IsLinkLocalUnicast() || addr.IsMulticast() || addr.IsUnspecified() || addr == netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

func (c *checker) settings(r *Route) {
	s := r.Settings
	if a := s.Affinity; a != nil && a.Cookie != "" && !isToken(a.Cookie) {
		c.add("settings.affinity.cookie", "", "%q is no cookie name", a.Cookie)
	}
	if b := s.Bucket; b != nil {
		if (b.Header == "") == (b.Cookie == "") || !isToken(b.Header+b.Cookie) {
			c.add("settings.bucket", "name the header or the cookie that holds the user's key", "want exactly one of header and cookie")
		}
		if b.Key == "" {
			c.add("settings.bucket.key", "give the key and salt of the flag that this route moves with", "there is none")
		}
	}
	if o := s.Override; o != nil {
		if !isToken(o.Header) {
			c.add("settings.override.header", "for example X-Backstay-Side", "%q is no header name", o.Header)
		}
		for i, from := range o.From {
			if _, err := netip.ParsePrefix(from); err != nil {
				c.add(fmt.Sprintf("settings.override.from[%d]", i), "for example 10.0.0.0/8", "%q is no network", from)
			}
		}
	}
	if f := s.Fallback; f != nil {
		known := slices.ContainsFunc(r.Sides, func(side Side) bool { return side.Name == f.Side })
		if f.Side != "" && !known {
			c.add("settings.fallback.side", "", "there is no side %q", f.Side)
		}
		if f.Status != 0 && (f.Status < 200 || f.Status > 599) {
			c.add("settings.fallback.status", "", "%d is no status", f.Status)
		}
		if strings.ContainsAny(f.ContentType, "\r\n") || len(f.Body) > 1<<20 {
			c.add("settings.fallback", "", "a content type is one line, and a body at most 1 MiB")
		}
	}
	if h := s.Health.Path; h != "" && (h[0] != '/' || strings.ContainsAny(h, "#\r\n\x00 ")) {
		c.add("settings.health.path", "", "%q is no path", h)
	}
	if h := s.Health.Host; len(h) > 253 || strings.ContainsAny(h, " /@\r\n\x00") {
		c.add("settings.health.host", "", "%q is no host", h)
	}
	c.numbers(s)
}

// numbers checks what must lie in a range.
func (c *checker) numbers(s Settings) {
	const second = backstay.Duration(1e9)
	day := 24 * 3600 * second
	for _, d := range []struct {
		path     string
		value    backstay.Duration
		min, max backstay.Duration
	}{
		{"health.interval", s.Health.Interval, second / 100, day},
		{"health.timeout", s.Health.Timeout, second / 100, 60 * second},
		{"breaker.open", s.Breaker.Open, second / 100, day},
		{"timeouts.connect", s.Timeouts.Connect, second / 1000, 60 * second},
		{"timeouts.first_byte", s.Timeouts.FirstByte, second / 1000, day},
		{"timeouts.idle", s.Timeouts.Idle, second / 1000, day},
		{"timeouts.total", s.Timeouts.Total, second / 1000, day},
		{"queue.wait", s.Queue.Wait, second / 1000, 60 * second},
		{"settle", s.Settle, second, 120 * second},
	} {
		if d.value != 0 && (d.value < d.min || d.value > d.max) {
			c.add("settings."+d.path, "", "%s is not from %s to %s", d.value, d.min, d.max)
		}
	}
	for _, n := range []struct {
		path            string
		value, min, max int
	}{
		{"health.fall", s.Health.Fall, 0, 100},
		{"breaker.failures", s.Breaker.Failures, 0, 1000},
		{"breaker.of", s.Breaker.Of, 0, 1000},
		{"queue.active", s.Queue.Active, 0, 1 << 20},
		{"queue.waiting", s.Queue.Waiting, 0, 1 << 20},
	} {
		if n.value < n.min || n.value > n.max {
			c.add("settings."+n.path, "", "%d is not from %d to %d", n.value, n.min, n.max)
		}
	}
	if s.Breaker.Of != 0 && s.Breaker.Failures > s.Breaker.Of {
		c.add("settings.breaker.failures", "", "%d of %d cannot fail", s.Breaker.Failures, s.Breaker.Of)
	}
	if s.Retries != nil && (*s.Retries < 0 || *s.Retries > 10) {
		c.add("settings.retries", "", "%d is not from 0 to 10", *s.Retries)
	}
	if s.MaxBody < 0 {
		c.add("settings.max_body", "0 means no limit", "%d is negative", s.MaxBody)
	}
}
