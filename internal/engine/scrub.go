package engine

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"net/url"
	"slices"
	"strings"
	"sync"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/backstay-dev/backstay"
)

// redacted stands where a secret's value stood.
const redacted = "[redacted]"

// minSecret is the shortest value that is scrubbed: shorter ones would
// blank out ordinary text, and are no secrets.
const minSecret = 4

// scrubber resolves secrets for drivers and blanks their values, and the usual
// encodings of them, out of everything that could reach ledger, log or screen.
// It is safe for concurrent use.
type scrubber struct {
	source backstay.Secrets

	mu    sync.RWMutex
	forms []string // longest first
}

var _ backstay.Secrets = (*scrubber)(nil)

func newScrubber(source backstay.Secrets) *scrubber { return &scrubber{source: source} }

// Resolve returns the value of a reference and remembers it for scrubbing.
func (s *scrubber) Resolve(ref string) (string, error) {
	if s.source == nil {
		return "", &backstay.Error{Class: backstay.Permanent, Op: "resolve secret", Subject: ref, Err: errors.New("no secret provider is configured")}
	}
	value, err := s.source.Resolve(ref)
	if err != nil {
		return "", err
	}
	s.learn(value)
	return value, nil
}

func (s *scrubber) learn(value string) {
	add := func(v string) {
		if len(v) >= minSecret && !slices.Contains(s.forms, v) {
			s.forms = append(s.forms, v)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range append([]string{value, strings.TrimSpace(value)}, longLines(value)...) {
		add(v)
		for _, form := range encodings(v) {
			add(form)
		}
	}
	slices.SortFunc(s.forms, func(a, b string) int { return len(b) - len(a) })
}

// encodings are the forms in which programs print a value: in a URL, in JSON
// (with and without escapes beyond what it demands), in HTML, as hex, as base64
// by itself and inside of something longer ("user:password" of a header).
func encodings(v string) []string {
	query, raw := url.QueryEscape(v), hex.EncodeToString([]byte(v))
	all := []string{
		query, strings.ReplaceAll(query, "+", "%20"), url.PathEscape(v), lowerEscapes(query), lowerEscapes(strings.ReplaceAll(query, "+", "%20")),
		inJSON(v, true), inJSON(v, false), asciiOnly(inJSON(v, true)), asciiOnly(inJSON(v, false)),
		html.EscapeString(v), strings.NewReplacer("&#34;", "&quot;", "&#39;", "&#x27;").Replace(html.EscapeString(v)),
		raw, strings.ToUpper(raw),
		strings.TrimRight(base64.StdEncoding.EncodeToString([]byte(v)), "="),
		strings.TrimRight(base64.URLEncoding.EncodeToString([]byte(v)), "="),
	}
	const short = 8 // shorter pieces of base64 are found in ordinary text
	for shift := range 3 {
		for _, alphabet := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			if inner := inBase64(v, shift, alphabet); len(inner) >= short {
				all = append(all, inner)
			}
		}
	}
	return all
}

// inBase64 is what stands in base64 text for v wherever v begins shift bytes
// after a multiple of three: without the characters that its neighbours share.
func inBase64(v string, shift int, alphabet *base64.Encoding) string {
	text := alphabet.EncodeToString(append(make([]byte, shift), v...))
	first := (shift*8 + 5) / 6
	last := (shift + len(v)) * 8 / 6
	return text[min(first, last):last]
}

// inJSON is v as a JSON string without its quotes.
func inJSON(v string, escapeHTML bool) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(escapeHTML)
	if enc.Encode(v) != nil {
		return "" // no string fails
	}
	return strings.TrimSuffix(strings.TrimPrefix(b.String(), `"`), "\"\n")
}

// asciiOnly writes what is not ASCII as \u escapes, as many JSON encoders do.
func asciiOnly(s string) string {
	var b strings.Builder
	for _, r := range s {
		if r < utf8.RuneSelf {
			b.WriteRune(r)
			continue
		}
		for _, u := range utf16.Encode([]rune{r}) {
			fmt.Fprintf(&b, "\\u%04x", u)
		}
	}
	return b.String()
}

// lowerEscapes turns %2F into %2f.
func lowerEscapes(s string) string {
	b := []byte(s)
	for i := 0; i+2 < len(b); i++ {
		if b[i] == '%' {
			copy(b[i+1:], bytes.ToLower(b[i+1:i+3]))
		}
	}
	return string(b)
}

// longLines returns the lines of a value of several lines (a key file) that
// are long enough to be secret by themselves.
func longLines(value string) []string {
	const long = 12
	if !strings.Contains(value, "\n") {
		return nil
	}
	return slices.DeleteFunc(strings.Split(value, "\n"), func(l string) bool { return len(l) < long })
}

// text returns t without secrets.
func (s *scrubber) text(t string) string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, f := range s.forms {
		t = strings.ReplaceAll(t, f, redacted)
	}
	return t
}

const (
	outputHead = 4 << 10
	outputTail = 28 << 10
)

// output keeps the beginning and the end of what an act printed. It is safe
// for concurrent writers and never fails or blocks.
type output struct {
	scrub *scrubber
	live  *lines // nil: nobody watches

	mu      sync.Mutex
	head    []byte
	tail    []byte
	dropped int64
}

func newOutput(s *scrubber) *output { return &output{scrub: s} }

// Write keeps what fits.
func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := len(p)
	if o.live != nil {
		_, _ = o.live.Write(p) // never fails
	}
	if room := outputHead - len(o.head); room > 0 {
		take := min(room, len(p))
		o.head = append(o.head, p[:take]...)
		p = p[take:]
	}
	o.tail = append(o.tail, p...)
	// Twice the room before the cut, so that the copy is paid once in a while.
	if len(o.tail) > 2*outputTail {
		cut := len(o.tail) - outputTail
		o.dropped += int64(cut)
		o.tail = append(o.tail[:0], o.tail[cut:]...)
	}
	return n, nil
}

// String returns what was kept, redacted, as clean text: no control
// characters but newline and tab, valid UTF-8.
func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.live != nil && len(o.live.rest) > 0 {
		o.live.flush() // what ended without a line break
	}
	tail, dropped := o.tail, o.dropped
	if len(tail) > outputTail {
		dropped += int64(len(tail) - outputTail)
		tail = tail[len(tail)-outputTail:]
	}
	if dropped == 0 {
		return clean(o.scrub.text(string(append(bytes.Clone(o.head), tail...))))
	}
	// A secret could straddle the cut; the ragged lines at it go.
	head := o.head[:bytes.LastIndexByte(o.head, '\n')+1]
	if i := bytes.IndexByte(tail, '\n'); i >= 0 {
		tail = tail[i+1:]
	}
	return clean(o.scrub.text(string(head)) + "[… output cut …]\n" + o.scrub.text(string(tail)))
}

// clean drops what could forge lines or drive a terminal.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return r
		case r < 0x20 || (r >= 0x7f && r < 0xa0), r == 0xfffd,
			r >= 0x202a && r <= 0x202e, r >= 0x2066 && r <= 0x2069, r == 0x200e || r == 0x200f:
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}
