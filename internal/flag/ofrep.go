package flag

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/launchdarkly/go-sdk-common/v3/ldcontext"

	"github.com/backstay-dev/backstay/internal/flag/model"
)

// Bounds of what a client may ask for.
const (
	maxRequest  = 256 << 10
	maxStreams  = 10_000
	heartbeat   = 15 * time.Second
	writeWithin = 10 * time.Second
	catchUp     = 500 * time.Millisecond
)

// Options of a Handler.
type Options struct {
	// Tokens, where there are any, are what a client must bring: as bearer token
	// or in X-API-Key.
	Tokens []string
	// Origins are the web origins whose pages may read the answers; "*" is every one.
	Origins []string
	// Closing, once closed, ends the change streams.
	Closing <-chan struct{}
}

// Handler serves the feed by the OpenFeature Remote Evaluation Protocol 0.3:
//
//	POST /ofrep/v1/evaluate/flags/{key}   one flag
//	POST /ofrep/v1/evaluate/flags         all of them, with an ETag
//	GET  /ofrep/v1/events                 the change stream (server-sent events)
//	GET  /healthz                         is there anything to serve, how old may it be
type Handler struct {
	feed    *Feed
	options Options
	mux     *http.ServeMux
	streams atomic.Int64
	ticket  string // what opens the change stream, which can send no header
}

var _ http.Handler = (*Handler)(nil)

// NewHandler returns a handler of the feed.
func NewHandler(feed *Feed, options Options) *Handler {
	h := &Handler{feed: feed, options: options, mux: http.NewServeMux()}
	if len(options.Tokens) > 0 {
		mac := hmac.New(sha256.New, []byte(options.Tokens[0]))
		mac.Write([]byte("backstay flag events"))
		h.ticket = hex.EncodeToString(mac.Sum(nil))
	}
	h.mux.HandleFunc("POST /ofrep/v1/evaluate/flags/{key...}", h.allowed(h.single))
	h.mux.HandleFunc("POST /ofrep/v1/evaluate/flags", h.allowed(h.bulk))
	h.mux.HandleFunc("GET /ofrep/v1/events", h.events)
	h.mux.HandleFunc("GET /healthz", h.health)
	h.mux.HandleFunc("OPTIONS /ofrep/v1/", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	return h
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if origin := r.Header.Get("Origin"); origin != "" && (slices.Contains(h.options.Origins, origin) || slices.Contains(h.options.Origins, "*")) {
		head := w.Header()
		head.Set("Access-Control-Allow-Origin", origin)
		head.Add("Vary", "Origin")
		head.Set("Access-Control-Expose-Headers", "ETag")
		if r.Method == http.MethodOptions {
			head.Set("Access-Control-Allow-Methods", "POST, GET")
			head.Set("Access-Control-Allow-Headers", "Authorization, Content-Type, If-None-Match, X-API-Key")
			head.Set("Access-Control-Max-Age", "3600")
		}
	}
	h.mux.ServeHTTP(w, r)
}

// allowed refuses clients without a token where one is wanted.
func (h *Handler) allowed(serve http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if len(h.options.Tokens) > 0 {
			brought := r.Header.Get("X-API-Key")
			if bearer, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
				brought = bearer
			}
			if !anyEqual(h.options.Tokens, brought) {
				answer(w, http.StatusUnauthorized, failure{Details: "a token is wanted: Authorization: Bearer …, or X-API-Key"})
				return
			}
		}
		if !h.feed.Ready() {
			w.Header().Set("Retry-After", "1")
			answer(w, http.StatusServiceUnavailable, failure{Details: "the flags were not read yet"})
			return
		}
		serve(w, r)
	}
}

// anyEqual compares in a time that tells nothing.
func anyEqual(tokens []string, brought string) bool {
	got, found := sha256.Sum256([]byte(brought)), 0
	for _, t := range tokens {
		want := sha256.Sum256([]byte(t))
		found |= subtle.ConstantTimeCompare(got[:], want[:])
	}
	return found == 1
}

// failure is OFREP's answer to what cannot be evaluated.
type failure struct {
	Key     string `json:"key,omitempty"`
	Code    string `json:"errorCode,omitempty"`
	Details string `json:"errorDetails,omitempty"`
}

// success is OFREP's answer. Without a value the program's own default counts.
type success struct {
	Key      string          `json:"key"`
	Value    json.RawMessage `json:"value,omitempty"`
	Reason   string          `json:"reason"`
	Variant  string          `json:"variant,omitempty"`
	Metadata metadata        `json:"metadata"`
}

// metadata says more than OpenFeature's words: the flag's version, and
// LaunchDarkly's reason.
type metadata struct {
	Version int64  `json:"version"`
	Why     string `json:"evaluation"`
	Rule    string `json:"rule,omitempty"`
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(body) // the client went away
}

// word is a result as OFREP says it, and its HTTP status.
func word(r model.Result) (int, any) {
	switch r.Err {
	case "":
		s := success{Key: r.Key, Reason: r.Reason, Variant: r.Variant, Metadata: metadata{r.Version, r.Why, r.Rule}}
		if !r.Value.IsNull() {
			s.Value = r.Value.AsRaw()
		}
		return http.StatusOK, s
	case "FLAG_NOT_FOUND":
		return http.StatusNotFound, failure{r.Key, r.Err, r.Details}
	}
	return http.StatusBadRequest, failure{r.Key, r.Err, r.Details}
}

// context reads the evaluation context of a request; what is wrong is answered.
func (h *Handler) context(w http.ResponseWriter, r *http.Request, key string) (ldcontext.Context, []byte, bool) {
	var request struct {
		Context json.RawMessage `json:"context"`
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		answer(w, http.StatusRequestEntityTooLarge, failure{key, "PARSE_ERROR", "the request is too large"})
		return ldcontext.Context{}, nil, false
	case err != nil:
		return ldcontext.Context{}, nil, false // the client went away
	}
	if err := json.Unmarshal(body, &request); err != nil {
		answer(w, http.StatusBadRequest, failure{key, "PARSE_ERROR", "the request is not JSON: " + err.Error()})
		return ldcontext.Context{}, nil, false
	}
	if len(request.Context) == 0 || string(request.Context) == "null" {
		request.Context = json.RawMessage("{}")
	}
	c, err := model.ReadContext(request.Context)
	var bad *model.ContextError
	if errors.As(err, &bad) {
		answer(w, http.StatusBadRequest, failure{key, bad.Code, bad.Why})
		return c, nil, false
	}
	return c, request.Context, true
}

func (h *Handler) single(w http.ResponseWriter, r *http.Request) {
	key := r.PathValue("key")
	c, _, ok := h.context(w, r, key)
	if !ok {
		return
	}
	status, body := word(h.feed.Set().Evaluate(key, c))
	answer(w, status, body)
}

// bulkAnswer is OFREP's answer about all flags.
type bulkAnswer struct {
	Flags    []any             `json:"flags"`
	Streams  []stream          `json:"eventStreams"`
	Metadata map[string]string `json:"metadata"`
}

type stream struct {
	Type     string   `json:"type"`
	Endpoint endpoint `json:"endpoint"`
}

type endpoint struct {
	RequestURI string `json:"requestUri"`
}

func (h *Handler) bulk(w http.ResponseWriter, r *http.Request) {
	c, raw, ok := h.context(w, r, "")
	if !ok {
		return
	}
	h.catchUp(r)
	set := h.feed.Set()
	tag := bulkTag(set, raw)
	w.Header().Set("ETag", tag)
	if unchanged(r.Header.Values("If-None-Match"), tag) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	results := set.All(c)
	out := bulkAnswer{
		Flags:    make([]any, len(results)),
		Streams:  []stream{{"sse", endpoint{"/ofrep/v1/events" + h.query()}}},
		Metadata: map[string]string{"version": set.Tag()},
	}
	for i, result := range results {
		_, out.Flags[i] = word(result)
	}
	answer(w, http.StatusOK, out)
}

func (h *Handler) query() string {
	if h.ticket == "" {
		return ""
	}
	return "?ticket=" + h.ticket
}

// catchUp waits a moment where the client was told of a set that this server
// does not know yet: another server was quicker.
func (h *Handler) catchUp(r *http.Request) {
	told := strings.Trim(r.URL.Query().Get("flagConfigEtag"), `"`)
	if told == "" || h.feed.Had(told) {
		return
	}
	timer := time.NewTimer(catchUp)
	defer timer.Stop()
	for {
		changed := h.feed.Changed()
		if h.feed.Had(told) {
			return
		}
		select {
		case <-changed:
		case <-timer.C:
			return
		case <-r.Context().Done():
			return
		}
	}
}

// bulkTag names the answer: evaluation depends on the flags and the context
// alone, so that nothing has to be evaluated to know that nothing changed.
func bulkTag(set *model.Set, context []byte) string {
	var compact bytes.Buffer
	if json.Compact(&compact, context) != nil {
		compact.Write(context)
	}
	sum := sha256.Sum256(compact.Bytes())
	return `"` + set.Tag() + "." + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`
}

func unchanged(given []string, tag string) bool {
	for _, line := range given {
		for one := range strings.SplitSeq(line, ",") {
			if one = strings.TrimPrefix(strings.TrimSpace(one), "W/"); one == tag || one == "*" {
				return true
			}
		}
	}
	return false
}

// health is for load balancers and people.
type health struct {
	Ready    bool   `json:"ready"`
	Flags    int    `json:"flags"`
	Version  string `json:"version"`
	BehindMS int64  `json:"behind_ms"` // since the ledger last answered; -1: it never did
	Streams  int64  `json:"streams"`
}

func (h *Handler) health(w http.ResponseWriter, _ *http.Request) {
	set := h.feed.Set()
	out := health{Ready: h.feed.Ready(), Flags: set.Len(), Version: set.Tag(), BehindMS: -1, Streams: h.streams.Load()}
	if behind := h.feed.Behind(time.Now()); behind >= 0 {
		out.BehindMS = behind.Milliseconds()
	}
	status := http.StatusOK
	if !out.Ready {
		status = http.StatusServiceUnavailable
	}
	answer(w, status, out)
}
