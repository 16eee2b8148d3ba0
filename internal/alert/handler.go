package alert

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/failsafe-go/failsafe-go/ratelimiter"

	"github.com/backstay-dev/backstay"
)

// AnswerFormat names the version of answers.
const AnswerFormat = "backstay.alerts/v1"

// Bounds of what a sender may ask for.
const (
	maxBody       = 512 << 10
	mostRequests  = 120 // of one key or token in a minute
	answerWithin  = 20 * time.Second
	mostRefused   = 1024 // reports that no deployment took and that are remembered
	strangersTold = time.Minute
)

// Result is what became of a report.
type Result string

// The results.
const (
	Taken     Result = "taken"     // the deployment turns around, or (resolved) it was kept
	Waiting   Result = "waiting"   // it is in the ledger; who drives the deployment has not answered yet
	Kept      Result = "kept"      // resolved, and about nothing that is under way: kept, and nothing more
	Refused   Result = "refused"   // it was refused: the deployment ended, or cannot go back any more
	Unmatched Result = "unmatched" // it names no deployment that there is
	Failed    Result = "failed"    // this side met an error; send it again
)

// status is how HTTP says it: a sender repeats what is 5xx, and nothing else.
func (r Result) status() int {
	switch r {
	case Taken, Kept:
		return http.StatusOK
	case Waiting:
		return http.StatusAccepted
	case Unmatched:
		return http.StatusUnprocessableEntity
	case Refused:
		return http.StatusConflict
	case Failed:
		return http.StatusServiceUnavailable
	}
	return http.StatusServiceUnavailable
}

// Answer is what became of one report.
type Answer struct {
	Deployment string `json:"deployment,omitempty"` // the ID
	Name       string `json:"name,omitempty"`
	Status     string `json:"status"` // firing, resolved
	Alerts     int    `json:"alerts"`
	Result     Result `json:"result"`
	Why        string `json:"why,omitempty"`
}

// answers is the body of an answer.
type answers struct {
	Format  string   `json:"format"`
	Error   string   `json:"error,omitempty"` // nothing was looked at
	Reports []Answer `json:"reports,omitempty"`
}

// Options of a Handler. Keys or Tokens, and Deliver and Log are required.
type Options struct {
	Keys   []Secret // that requests are signed with
	Tokens []Secret // that Alertmanager brings
	// Deliver does what a report asks, and says what became of it (Deployment, Name,
	// Result and Why of the answer). It is called from several goroutines.
	Deliver func(ctx context.Context, r Report) Answer
	// Strangers is told at most once a minute how many requests were not authenticated.
	Strangers func(ctx context.Context, n int)
	Now       func() time.Time // nil: time.Now
	Log       *slog.Logger
}

// Handler serves
//
//	POST /v1/alerts                our own format, signed
//	POST /v1/alerts/alertmanager   Alertmanager's, with a bearer token (or signed)
//	GET  /healthz                  it listens
type Handler struct {
	o        Options
	keys     []key
	mux      *http.ServeMux
	memory   memory
	limiters map[string]ratelimiter.RateLimiter[any]

	mu        sync.Mutex
	refused   map[string]bool
	order     []string // of refused, oldest first
	strangers int
	told      time.Time // when somebody was told of them last
}

var _ http.Handler = (*Handler)(nil)

// NewHandler checks the secrets and returns a handler.
func NewHandler(o Options) (*Handler, error) {
	keys, err := keysOf(o.Keys)
	if err != nil {
		return nil, err
	}
	for _, t := range o.Tokens {
		if len(t.Value) < minSecret || strings.TrimSpace(t.Value) != t.Value {
			return nil, weak(t.Ref, "is too short to be a token, or has spaces around it")
		}
	}
	switch {
	case len(keys)+len(o.Tokens) == 0:
		return nil, &backstay.RefusedError{
			What: "secret", Err: errors.New("nothing says how senders are authenticated"),
			Hint: "give --key secret:file/PATH for signed alerts, --token secret:file/PATH for Alertmanager",
		}
	case o.Deliver == nil || o.Log == nil:
		return nil, errors.New("new alert handler: deliver and log are required")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	h := &Handler{o: o, keys: keys, mux: http.NewServeMux(), limiters: map[string]ratelimiter.RateLimiter[any]{}, refused: map[string]bool{}}
	for _, s := range append(append([]Secret(nil), o.Keys...), o.Tokens...) {
		h.limiters[s.Ref] = ratelimiter.NewBursty[any](mostRequests, time.Minute)
	}
	h.mux.HandleFunc("POST /v1/alerts", func(w http.ResponseWriter, r *http.Request) { h.receive(w, r, nil, readMessage) })
	h.mux.HandleFunc("POST /v1/alerts/alertmanager", func(w http.ResponseWriter, r *http.Request) { h.receive(w, r, o.Tokens, readAlertmanager) })
	h.mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok\n") })
	return h, nil
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.mux.ServeHTTP(w, r) }

// receive takes in one request.
func (h *Handler) receive(w http.ResponseWriter, r *http.Request, tokens []Secret, read func([]byte) ([]Report, error)) {
	ref, body, again := h.admit(w, r, tokens)
	if ref == "" {
		return
	}
	all, err := read(body)
	if err != nil {
		h.refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	ctx, cancel := context.WithTimeoutCause(r.Context(), answerWithin, errors.New("the receiver's time to answer is over"))
	defer cancel()
	out, status := answers{Format: AnswerFormat}, http.StatusOK
	for _, report := range all {
		a := h.deliver(ctx, ref, report)
		if a.Result == Failed {
			again()
		}
		out.Reports, status = append(out.Reports, a), max(status, a.Result.status())
	}
	if status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "10")
	}
	say(w, status, out)
}

// admit authenticates a request and returns the reference of its key or token and its
// body; "" where it was answered. again lets it be sent once more.
func (h *Handler) admit(w http.ResponseWriter, r *http.Request, tokens []Secret) (ref string, body []byte, again func()) {
	again = func() {}
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	switch {
	case r.ContentLength > maxBody:
		h.refuse(w, http.StatusRequestEntityTooLarge, "it is too large")
		return "", nil, nil
	case err != nil || kind != "application/json" || r.Header.Get("Content-Encoding") != "":
		h.refuse(w, http.StatusUnsupportedMediaType, "it has to be application/json, not compressed")
		return "", nil, nil
	}
	bySignature := len(r.Header.Values(headerSignature)) > 0 || len(tokens) == 0
	if !bySignature {
		if ref, err = holds(tokens, r.Header); err != nil {
			h.stranger(w, r)
			return "", nil, nil
		}
	}
	body, err = io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		h.refuse(w, http.StatusRequestEntityTooLarge, "it is too large")
		return "", nil, nil
	case err != nil:
		h.refuse(w, http.StatusBadRequest, "it ends early")
		return "", nil, nil
	}
	if bySignature {
		if ref, err = signed(h.keys, r.Header, body); err != nil {
			h.stranger(w, r)
			return "", nil, nil
		}
	}
	if !h.limiters[ref].TryAcquirePermit() {
		w.Header().Set("Retry-After", "30")
		h.refuse(w, http.StatusTooManyRequests, "too many requests of this sender")
		return "", nil, nil
	}
	if bySignature {
		if err := fresh(r.Header, h.o.Now()); err != nil {
			h.refuse(w, http.StatusUnauthorized, err.Error())
			return "", nil, nil
		}
		id, stamp := r.Header.Get(headerID), r.Header.Get(headerTimestamp)
		if why := h.memory.take(ref, id, stamp, body, h.o.Now()); why != "" {
			h.refuse(w, http.StatusConflict, why)
			return "", nil, nil
		}
		again = func() { h.memory.forget(ref, id, stamp) }
	}
	return ref, body, again
}

// deliver hands one report on.
func (h *Handler) deliver(ctx context.Context, ref string, r Report) Answer {
	r = h.scrubbed(r)
	r.Alarm.Key = ref
	h.mu.Lock()
	r.Again = h.refused[r.ID]
	h.mu.Unlock()
	var a Answer
	if r.Deployment == "" && r.Release == "" {
		a.Result, a.Why = Unmatched, "it has neither the label "+DeploymentLabel+" nor "+ReleaseLabel+": nothing says what it is about"
	} else {
		a = h.o.Deliver(ctx, r)
	}
	a.Status, a.Alerts = r.status(), len(r.Alarm.Alerts)+r.Alarm.More
	if a.Result == Refused || a.Result == Unmatched || a.Result == Kept {
		h.remember(r.ID)
	}
	h.o.Log.Info("alert", "reason", r.Reason, "deployment", a.Name, "result", a.Result, "why", a.Why)
	return a
}

// scrubbed blanks the receiver's own secrets out of a report.
func (h *Handler) scrubbed(r Report) Report {
	var pairs []string
	for _, s := range append(append([]Secret(nil), h.o.Keys...), h.o.Tokens...) {
		pairs = append(pairs, s.Value, "[redacted]", strings.TrimPrefix(s.Value, keyPrefix), "[redacted]")
	}
	blank := strings.NewReplacer(pairs...)
	r.Reason, r.Alarm = blank.Replace(r.Reason), r.Alarm.Map(blank.Replace)
	return r
}

// remember keeps that no deployment took a report, the newest of them.
func (h *Handler) remember(id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.refused[id] {
		return
	}
	if len(h.order) == mostRefused {
		delete(h.refused, h.order[0])
		h.order = h.order[1:]
	}
	h.refused[id], h.order = true, append(h.order, id)
}

// stranger answers a request that is not authenticated, without saying how it failed.
func (h *Handler) stranger(w http.ResponseWriter, r *http.Request) {
	h.o.Log.Debug("a request was not authenticated", "from", r.RemoteAddr)
	w.Header().Set("Www-Authenticate", "Bearer")
	h.refuse(w, http.StatusUnauthorized, "it is not authenticated: "+headerID+", "+headerTimestamp+" and "+headerSignature+
		" as Standard Webhooks says, or for /v1/alerts/alertmanager a bearer token")
	h.tell(r.Context(), 1, false)
}

// Close tells of the strangers that nobody was told of yet.
func (h *Handler) Close(ctx context.Context) { h.tell(ctx, 0, true) }

// tell counts strangers, and tells of them at most once a minute.
func (h *Handler) tell(ctx context.Context, more int, now bool) {
	h.mu.Lock()
	h.strangers += more
	n := h.strangers
	if n == 0 || (!now && h.o.Now().Sub(h.told) < strangersTold) {
		h.mu.Unlock()
		return
	}
	h.strangers, h.told = 0, h.o.Now()
	h.mu.Unlock()
	if h.o.Strangers != nil {
		h.o.Strangers(context.WithoutCancel(ctx), n)
	}
}

// refuse answers a request that is not looked at.
func (h *Handler) refuse(w http.ResponseWriter, status int, why string) {
	w.Header().Set("Connection", "close")
	say(w, status, answers{Format: AnswerFormat, Error: why})
}

func say(w http.ResponseWriter, status int, a answers) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(a) // the sender went away
}
