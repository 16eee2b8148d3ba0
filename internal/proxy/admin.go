package proxy

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/proxy/wire"
)

const (
	maxChange = 8 << 20
	maxWithin = 10 * time.Minute
)

// AdminHandler is the admin API. Whoever reaches it may do everything: it
// belongs on a socket that only its owner can open.
func (p *Proxy) AdminHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/state", func(w http.ResponseWriter, _ *http.Request) { answer(w, p.Status()) })
	mux.HandleFunc("GET /v1/routes/{name}", func(w http.ResponseWriter, r *http.Request) {
		s, err := p.Route(r.PathValue("name"))
		if err != nil {
			refuse(w, err)
			return
		}
		answer(w, s)
	})
	mux.HandleFunc("POST /v1/routes/{name}", p.serveChange)
	mux.HandleFunc("GET /v1/routes/{name}/drain", p.serveDrain)
	mux.HandleFunc("GET /v1/stats", p.serveStats)
	mux.HandleFunc("GET /v1/alive", func(w http.ResponseWriter, _ *http.Request) { answer(w, map[string]bool{"alive": true}) })
	mux.HandleFunc("GET /v1/ready", p.serveReady)
	mux.HandleFunc("GET /metrics", p.serveMetrics)
	return mux
}

// answer writes a document. What cannot be written is the reader's loss.
func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(backstay.Canonical(v), '\n')) //nolint:gosec // JSON, and said to be
}

// refuse writes a refusal with the HTTP status of its code.
func refuse(w http.ResponseWriter, err error) {
	var e *wire.Error
	if !errors.As(err, &e) {
		e = &wire.Error{Code: wire.Internal, Message: err.Error()}
	}
	status := http.StatusInternalServerError
	switch e.Code {
	case wire.Stale, wire.Conflict:
		status = http.StatusConflict
	case wire.NotReady:
		status = http.StatusPreconditionFailed
	case wire.Invalid:
		status = http.StatusBadRequest
	case wire.NotFound:
		status = http.StatusNotFound
	case wire.Internal:
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(backstay.Canonical(e), '\n'))
}

func (p *Proxy) serveChange(w http.ResponseWriter, r *http.Request) {
	var ch wire.Change
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxChange))
	dec.DisallowUnknownFields() // a driver that is newer than this proxy must not be half understood
	err := dec.Decode(&ch)
	if err == nil && dec.More() {
		err = errors.New("there is something after the change")
	}
	if err != nil {
		refuse(w, &wire.Error{Code: wire.Invalid, Message: "read the change: " + err.Error()})
		return
	}
	s, err := p.Change(r.Context(), r.PathValue("name"), ch)
	if err != nil {
		refuse(w, err)
		return
	}
	answer(w, s)
}

// serveDrain answers how many requests are in flight to a side, at once or when
// none is left.
func (p *Proxy) serveDrain(w http.ResponseWriter, r *http.Request) {
	name, side := r.PathValue("name"), r.URL.Query().Get("side")
	within, err := time.ParseDuration(orDefault(r.URL.Query().Get("within"), "0s"))
	if err != nil || within < 0 || within > maxWithin {
		refuse(w, &wire.Error{Code: wire.Invalid, Message: fmt.Sprintf("within is a duration up to %s", maxWithin)})
		return
	}
	tick, end := time.NewTicker(5*time.Millisecond), time.NewTimer(within)
	defer tick.Stop()
	defer end.Stop()
	for {
		active, _ := p.activeOn(name, side) // a side that nobody knows has none
		over := active == 0
		if !over {
			select {
			case <-tick.C:
			case <-end.C:
				over = true
			case <-r.Context().Done():
				return
			}
		}
		if over {
			answer(w, map[string]int64{"active": active})
			return
		}
	}
}

// serveStats writes the stream of statistics, one JSON document a line.
func (p *Proxy) serveStats(w http.ResponseWriter, r *http.Request) {
	after, err := strconv.ParseUint(orDefault(r.URL.Query().Get("after"), "0"), 10, 64)
	if err != nil {
		refuse(w, &wire.Error{Code: wire.Invalid, Message: "after is the number of a block"})
		return
	}
	follow := r.URL.Query().Get("follow") == "true"
	w.Header().Set("Content-Type", "application/x-ndjson")
	out := http.NewResponseController(w)
	for {
		lines, last, more := p.feed.after(after)
		for _, line := range lines {
			if _, err := w.Write(append(backstay.Canonical(line), '\n')); err != nil {
				return
			}
		}
		if err := out.Flush(); err != nil || !follow {
			return
		}
		after = last
		select {
		case <-more:
		case <-r.Context().Done():
			return
		case <-p.life.Done():
			return
		}
	}
}

// serveReady says whether the proxy takes requests.
func (p *Proxy) serveReady(w http.ResponseWriter, _ *http.Request) {
	if p.draining.Load() {
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, `{"ready":false,"why":"the proxy is ending"}`+"\n")
		return
	}
	answer(w, map[string]bool{"ready": true})
}
