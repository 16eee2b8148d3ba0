// Package httpcall is the step kind "http": one HTTP request that changes
// something elsewhere, the request that takes it back, and the one that reads
// it. It is also a verify probe.
//
// It owns the request (a method, URL, headers and body as data, secrets as
// references) and the client that sends it: http and https only, no proxy from
// the environment, no redirect followed, no compressed answer asked for, at
// most 1 MiB of an answer read and 64 KiB of it kept as output, everything
// within one timeout, and no connection to a link-local or cloud metadata
// address unless the step allows it. The address is checked after the name was
// resolved and before the connection is made, so no name leads around that.
//
// A request that is not GET or HEAD carries an idempotency key that is the same
// for every attempt; a server that honours it makes the effect happen once.
//
// Classes: with undo the step is compensated; with undo and read equivalent, as
// far as the read request shows; without undo it must be irreversible, but for
// GET and HEAD, which change nothing (RFC 9110, section 9.2.1).
//
// Nothing of a header, a query or an answer gets into an error.
package httpcall

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver"
)

// Driver is the kind. It has no state; methods are safe for concurrent use.
type Driver struct{}

var (
	_ driver.Kind    = (*Driver)(nil)
	_ driver.Checker = (*Driver)(nil)
)

// New returns the kind.
func New() *Driver { return &Driver{} }

// Name is "http".
func (*Driver) Name() string { return "http" }

// Config returns a step's keys.
func (*Driver) Config() any { return &stepConfig{} }

// CheckConfig returns a verify entry's keys.
func (*Driver) CheckConfig() any { return &checkConfig{} }

// stepConfig are the keys of an http step.
type stepConfig struct {
	HTTP callConfig `yaml:"http" json:"http" required:"true" doc:"The request to send." example:"{method: POST, url: \"https://flags.example/on\", undo: {method: POST, url: \"https://flags.example/off\"}}"`
}

// callConfig is the request of a step with what belongs to it.
type callConfig struct {
	Method  string            `yaml:"method" json:"method,omitempty" doc:"The method. Default: POST." example:"PUT"`
	URL     string            `yaml:"url" json:"url" required:"true" doc:"Where to, http or https. No user name or password in it: use a header." example:"https://cdn.example/purge"`
	Headers map[string]string `yaml:"headers" json:"headers,omitempty" doc:"Headers of the request, and of undo and read. A value may be a secret reference." example:"{Authorization: \"secret:env/CDN_AUTH\"}"`
	Body    *Body             `yaml:"body" json:"body,omitempty" doc:"The body: a text (or a secret reference), or a mapping that is sent as JSON." example:"{paths: [/index.html]}"`
	Expect  []int             `yaml:"expect" json:"expect,omitempty" doc:"The statuses that mean success. Default: 200 to 299. Redirects are not followed." example:"[200, 204]"`

	Timeout backstay.Duration `yaml:"timeout" json:"timeout,omitempty" doc:"How long one request may take, answer included. Default: 30s." example:"10s"`
	Undo    *undoConfig       `yaml:"undo" json:"undo,omitempty" doc:"The request that takes it back. It is also sent after a request that got no answer: it must bear that." example:"{method: DELETE, url: \"https://cdn.example/rule/7\"}"`
	Read    *readConfig       `yaml:"read" json:"read,omitempty" doc:"A GET request whose answer shows the state that the request changes. With it Backstay can tell whether the step was done and whether its undo worked. The answer is kept: it must hold no secrets." example:"{url: \"https://cdn.example/rule/7\", pointer: /enabled}"`

	Irreversible      string  `yaml:"irreversible" json:"irreversible,omitempty" doc:"Why this cannot be undone. Such a step waits for an approval and is the point of no return." example:"customers are notified"`
	IdempotencyHeader *string `yaml:"idempotency-header" json:"idempotency-header,omitempty" doc:"The header that carries the key by which the server discards a repeated request. Empty: the server knows none, and a request in doubt is never repeated. Default: Idempotency-Key." example:"X-Request-Id"`
	AllowLinkLocal    bool    `yaml:"allow-link-local" json:"allow-link-local,omitempty" doc:"Allow link-local and cloud metadata addresses (such as 169.254.169.254)." example:"true"`
}

// undoConfig is the request that takes a step back.
type undoConfig struct {
	Method  string            `yaml:"method" json:"method,omitempty" doc:"The method. Default: POST." example:"DELETE"`
	URL     string            `yaml:"url" json:"url" required:"true" doc:"Where to." example:"https://cdn.example/rule/7"`
	Headers map[string]string `yaml:"headers" json:"headers,omitempty" doc:"Headers beside those of the step's request." example:"{X-Undo: \"1\"}"`
	Body    *Body             `yaml:"body" json:"body,omitempty" doc:"The body, as of the step's request." example:"{enabled: false}"`
	Expect  []int             `yaml:"expect" json:"expect,omitempty" doc:"The statuses that mean success. Default: 200 to 299." example:"[204, 404]"`
}

// readConfig is the request that shows the state.
type readConfig struct {
	URL     string            `yaml:"url" json:"url" required:"true" doc:"What to get." example:"https://cdn.example/rule/7"`
	Headers map[string]string `yaml:"headers" json:"headers,omitempty" doc:"Headers beside those of the step's request." example:"{Accept: application/json}"`
	Pointer string            `yaml:"pointer" json:"pointer,omitempty" doc:"A JSON pointer (RFC 6901) to the part of the answer that is the state. Default: all of it." example:"/rule/enabled"`
	Expect  []int             `yaml:"expect" json:"expect,omitempty" doc:"The statuses that mean an answer. Default: 200 to 299; a 404 means that the resource is absent." example:"[200]"`
}

// checkConfig are the keys of a verify entry.
type checkConfig struct {
	HTTP Target `yaml:"http" json:"http" required:"true" doc:"A URL that must answer with a status from 200 to 299, or a mapping that says more. In a gate of a release {endpoint} is the address of the new side's first instance, {side} its name." example:"http://127.0.0.1:8080/healthz"`
}

// targetConfig is the mapping form of a verify entry.
type targetConfig struct {
	URL            string            `yaml:"url" json:"url" required:"true" doc:"What to get, http or https." example:"http://127.0.0.1:8080/healthz"`
	Headers        map[string]string `yaml:"headers" json:"headers,omitempty" doc:"Headers of the request. A value may be a secret reference." example:"{Authorization: \"secret:env/PROBE_AUTH\"}"`
	Expect         []int             `yaml:"expect" json:"expect,omitempty" doc:"The statuses that pass. Default: 200 to 299. Redirects are not followed." example:"[200]"`
	Contains       string            `yaml:"contains" json:"contains,omitempty" doc:"A text that the first MiB of the answer must hold." example:"\"status\":\"ok\""`
	AllowLinkLocal bool              `yaml:"allow-link-local" json:"allow-link-local,omitempty" doc:"Allow link-local and cloud metadata addresses." example:"true"`
}

// Target is what a verify entry asks: a URL, or a mapping.
type Target struct{ targetConfig }

// SpecShape says how a target is written.
func (Target) SpecShape() []string { return []string{"string", "mapping"} }

// SpecFields describes its mapping.
func (Target) SpecFields() any { return &targetConfig{} }

// UnmarshalJSON reads both forms.
func (t *Target) UnmarshalJSON(data []byte) error {
	*t = Target{}
	if bytes.HasPrefix(data, []byte(`"`)) {
		return json.Unmarshal(data, &t.URL) //nolint:wrapcheck // says enough
	}
	return json.Unmarshal(data, &t.targetConfig) //nolint:wrapcheck // says enough
}

// MarshalJSON writes the mapping form.
func (t Target) MarshalJSON() ([]byte, error) {
	return json.Marshal(t.targetConfig) //nolint:wrapcheck // cannot fail
}

// Body is a request's body: a text, or a mapping that is sent as JSON.
type Body struct {
	Text string
	JSON bool
}

// SpecShape says how a body is written.
func (Body) SpecShape() []string { return []string{"string", "mapping"} }

// UnmarshalJSON reads both forms.
func (b *Body) UnmarshalJSON(data []byte) error {
	*b = Body{}
	if bytes.HasPrefix(data, []byte(`"`)) {
		return json.Unmarshal(data, &b.Text) //nolint:wrapcheck // says enough
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, data); err != nil {
		return fmt.Errorf("read body: %w", err)
	}
	b.Text, b.JSON = compact.String(), true
	return nil
}

// MarshalJSON writes the form that was read.
func (b Body) MarshalJSON() ([]byte, error) {
	if b.JSON {
		return []byte(b.Text), nil
	}
	return json.Marshal(b.Text) //nolint:wrapcheck // cannot fail
}

// request is one frozen request. Header values and the body may be secret
// references.
type request struct {
	Method    string            `json:"method"`
	URL       string            `json:"url"`
	Headers   map[string]string `json:"headers,omitempty"`
	Body      string            `json:"body,omitempty"`
	Expect    []int             `json:"expect,omitempty"`
	KeyHeader string            `json:"key_header,omitempty"`
	LinkLocal bool              `json:"link_local,omitempty"`
	Timeout   backstay.Duration `json:"timeout"`
}

// body is the frozen step or check; format 1.
type body struct {
	V        int      `json:"v"`
	Do       request  `json:"do"`
	Undo     *request `json:"undo,omitempty"`
	Read     *request `json:"read,omitempty"`
	Pointer  string   `json:"pointer,omitempty"`
	Contains string   `json:"contains,omitempty"` // of a check
}

const (
	bodyFormat       = 1
	defaultKeyHeader = "Idempotency-Key"
	defaultTimeout   = backstay.Duration(30 * time.Second)
	checkTimeout     = backstay.Duration(10 * time.Second)
	// attempts is how many requests fit into a step's default timeout: the
	// first and the engine's retries of it.
	attempts = 4
)

func decode(step backstay.Step) (body, error) {
	var b body
	if err := json.Unmarshal(step.Body, &b); err != nil {
		return b, fmt.Errorf("decode http step %s: %w", step.ID, err)
	}
	if b.V != bodyFormat {
		return b, &backstay.Error{
			Class: backstay.Permanent, Op: "decode http step", Subject: step.ID,
			Err: fmt.Errorf("format %d", b.V), Hint: "use the backstay version that planned this deployment",
		}
	}
	return b, nil
}

func keyOf(release, id string) backstay.Key { return backstay.Key("http:" + release + "/" + id) }

// safe reports a method that changes nothing.
func safe(method string) bool { return method == http.MethodGet || method == http.MethodHead }
