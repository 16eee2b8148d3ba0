package flag

import (
	"fmt"
	"net/http"
	"time"

	"github.com/backstay-dev/backstay"
)

// refetch is OFREP's event: ask for everything again.
type refetch struct {
	Type string `json:"type"`
	ETag string `json:"etag"`
	At   int64  `json:"lastModified"`
}

// events is the change stream: one event per change of the set, its tag as ID.
// Who connects is told at once, unless they come back with the ID of the very
// set: between their last answer and this stream something may have changed.
func (h *Handler) events(w http.ResponseWriter, r *http.Request) {
	if h.ticket != "" && !anyEqual([]string{h.ticket}, r.URL.Query().Get("ticket")) {
		answer(w, http.StatusUnauthorized, failure{Details: "take the address of the stream from an answer about all flags"})
		return
	}
	if h.streams.Add(1) > maxStreams {
		h.streams.Add(-1)
		w.Header().Set("Retry-After", "5")
		answer(w, http.StatusServiceUnavailable, failure{Details: "too many streams are open"})
		return
	}
	defer h.streams.Add(-1)
	head := w.Header()
	head.Set("Content-Type", "text/event-stream")
	head.Set("Cache-Control", "no-store")
	head.Set("X-Accel-Buffering", "no")
	out := http.NewResponseController(w)
	send := func(text string) bool {
		_ = out.SetWriteDeadline(time.Now().Add(writeWithin)) // not every writer has deadlines
		_, err := fmt.Fprint(w, text)
		return err == nil && out.Flush() == nil
	}
	changed, sent := h.feed.Changed(), h.feed.Set().Tag()
	if !send("retry: 1000\n: the flags of backstay\n\n") {
		return
	}
	if last := r.Header.Get("Last-Event-ID"); last != sent && !send(event(sent)) {
		return
	}
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	for {
		select {
		case <-changed:
			changed = h.feed.Changed()
			if tag := h.feed.Set().Tag(); tag != sent {
				sent = tag
				if !send(event(tag)) {
					return
				}
			}
		case <-beat.C:
			if !send(": still here\n\n") {
				return
			}
		case <-h.options.Closing:
			return
		case <-r.Context().Done():
			return
		}
	}
}

func event(tag string) string {
	data := backstay.Canonical(refetch{"refetchEvaluation", tag, time.Now().Unix()})
	return "id: " + tag + "\nevent: message\ndata: " + string(data) + "\n\n"
}
