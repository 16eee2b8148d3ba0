package wire

import (
	"fmt"

	"github.com/backstay-dev/backstay"
)

// Writer is who changes a route: a deployment and its fencing token. Tokens are
// compared within one deployment; of two deployments on one route, the one that
// wrote last is the writer, and the one before it never writes again.
type Writer struct {
	Deployment string         `json:"deployment"`
	Token      backstay.Token `json:"token"`
}

// Change asks for a new state of one route. Expect is the digest of the state
// that it replaces (Route.Digest; that of a nil route for a route that must not
// be there yet). Exactly one of Route, Weights and Remove says what is wanted.
// A repeat of a change that is in effect succeeds and changes nothing. Restore
// says that it puts back an earlier state: sides without any instance may have
// the weight that they had then, as on a route before its first release.
type Change struct {
	Writer
	Expect  string         `json:"expect"`
	Route   *Route         `json:"route,omitempty"`
	Weights map[string]int `json:"weights,omitempty"`
	Remove  bool           `json:"remove,omitempty"`
	Restore bool           `json:"restore,omitempty"`
}

// Code says why the data plane refused.
type Code string

// The codes.
const (
	Stale    Code = "stale"     // the writer's token is lower than one seen, or another deployment took over
	Conflict Code = "conflict"  // the state is not the expected one
	NotReady Code = "not_ready" // a side would get more than its ready capacity
	Invalid  Code = "invalid"   // the change itself is wrong; Problems says where
	NotFound Code = "not_found" // there is no such route or side
	Internal Code = "internal"  // the proxy could not; nothing was changed
)

// Error is a refusal: nothing was changed. Seen and Digest say what the data
// plane holds where the code is Stale or Conflict.
type Error struct {
	Code     Code               `json:"code"`
	Message  string             `json:"message"`
	Seen     *Writer            `json:"seen,omitempty"`
	Digest   string             `json:"digest,omitempty"`
	Problems []backstay.Problem `json:"problems,omitempty"`
}

func (e *Error) Error() string {
	text := e.Message
	for _, p := range e.Problems {
		text += "; " + p.String()
	}
	if e.Seen != nil {
		text += fmt.Sprintf(" (last writer: deployment %s, token %d.%d.%d)", e.Seen.Deployment, e.Seen.Token.Generation, e.Seen.Token.Epoch, e.Seen.Token.Seq)
	}
	return text
}

// Is lets errors.Is compare codes: errors.Is(err, &wire.Error{Code: wire.Stale}).
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code && t.Message == ""
}

// Format names the version of the documents of this package.
const Format = "backstay.proxy/v1"

// Status is the whole state of a data plane, read back.
type Status struct {
	Format   string        `json:"format"`
	Boot     string        `json:"boot"` // new with each start of the process
	Revision uint64        `json:"revision"`
	Draining bool          `json:"draining,omitempty"` // the process is ending
	Listen   []string      `json:"listen"`
	Routes   []RouteStatus `json:"routes"`
}

// RouteStatus is one route as it is now: what is durable (Route, Digest,
// Writer, Revision) and what is observed. Unplaced is the share, in percent,
// that no ready side can carry; it goes to the fallback page.
type RouteStatus struct {
	Route    Route         `json:"route"`
	Digest   string        `json:"digest"`
	Revision uint64        `json:"revision"`
	Writer   Writer        `json:"writer"`
	Sides    []SideStatus  `json:"sides"`
	Unplaced int           `json:"unplaced,omitempty"`
	Draining []DrainStatus `json:"draining,omitempty"`
}

// SideStatus is one side as it is now. Share is what it gets: its weight, less
// what exceeds its ready capacity, plus what it takes over from such sides. The
// shares of a route and Unplaced sum to 100.
type SideStatus struct {
	Name          string           `json:"name"`
	Weight        int              `json:"weight"`
	Share         int              `json:"share"`
	ReadyCapacity int              `json:"ready_capacity"`
	Active        int64            `json:"active"`
	Waiting       int64            `json:"waiting"`
	Instances     []InstanceStatus `json:"instances"`
}

// InstanceStatus is one instance as it is now. Why says why it is not ready.
type InstanceStatus struct {
	URL    string `json:"url"`
	Ready  bool   `json:"ready"`
	Why    string `json:"why,omitempty"`
	Active int64  `json:"active"`
}

// DrainStatus is an instance that is in no route any more and still has
// requests in flight.
type DrainStatus struct {
	Side   string `json:"side"`
	URL    string `json:"url"`
	Active int64  `json:"active"`
}
