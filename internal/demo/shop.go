package demo

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"
)

// VersionHeader tells users which version answered.
const VersionHeader = "X-Shop-Version"

// Shop is one version of the shop.
type Shop struct {
	Version string
	Failing float64 // percent of answers that are status 500
	Slower  float64 // percent by which answers take longer
}

// The time that an answer takes, before what Slower adds: evenly between these.
const (
	quickest = 3 * time.Millisecond
	slowest  = 7 * time.Millisecond
)

// ServeHTTP answers /healthz at once and everything else as the version does.
func (s Shop) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set(VersionHeader, s.Version)
	if r.URL.Path == "/healthz" {
		_, _ = fmt.Fprintln(w, "ok") // to who went away
		return
	}
	took := time.Duration(float64(quickest+rand.N(slowest-quickest)) * (1 + s.Slower/100)) //nolint:gosec // how long a shop takes is no secret
	select {
	case <-time.After(took):
	case <-r.Context().Done():
		return
	}
	if rand.Float64()*100 < s.Failing { //nolint:gosec // nor is which request fails
		http.Error(w, "shop "+s.Version+": out of stock everywhere", http.StatusInternalServerError)
		return
	}
	_, _ = fmt.Fprintln(w, "shop", s.Version)
}

// Serve serves the shop until ctx ends, then lets requests in flight finish.
func (s Shop) Serve(ctx context.Context, address string) error {
	server := &http.Server{Addr: address, Handler: s, ReadHeaderTimeout: 5 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- server.ListenAndServe() }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	rest, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	err := server.Shutdown(rest)
	if served := <-ended; !errors.Is(served, http.ErrServerClosed) {
		return served
	}
	return err
}
