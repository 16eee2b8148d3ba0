package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/failsafe-go/failsafe-go/circuitbreaker"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/proxy/wire"
)

// instance is one address of one side, with the connections to it. It lives
// through changes of its route that leave it as it is, and after it was removed
// until its last request is done.
type instance struct {
	key       string // what makes it the same instance
	route     string
	side      string
	spec      wire.Instance
	target    *url.URL
	settings  wire.Settings
	transport *http.Transport
	dial      func(ctx context.Context, network, address string) (net.Conn, error)
	breaker   circuitbreaker.CircuitBreaker[any]

	active  atomic.Int64 // requests in flight
	health  atomic.Pointer[condition]
	stop    context.CancelFunc // of its checks
	removed atomic.Bool
}

// condition is what the active check says: nil error is ready.
type condition struct{ err error }

var errUnchecked = errors.New("not checked yet")

// instanceKey says what makes an instance the same across changes of its route.
func instanceKey(route, side string, spec wire.Instance, s wire.Settings) string {
	return backstay.DigestJSON([]any{route, side, spec, s.Health, s.Breaker, s.Timeouts})
}

func newInstance(key, route, side string, spec wire.Instance, s wire.Settings, roots *x509.CertPool) (*instance, error) {
	target, err := url.Parse(spec.URL)
	if err != nil {
		return nil, fmt.Errorf("read URL of instance: %w", err)
	}
	protocols := new(http.Protocols)
	switch target.Scheme {
	case "h2c":
		target.Scheme = "http"
		protocols.SetUnencryptedHTTP2(true)
	case "https":
		protocols.SetHTTP1(true)
		protocols.SetHTTP2(true)
	default:
		protocols.SetHTTP1(true)
	}
	dialer := &net.Dialer{Timeout: s.Timeouts.Connect.Std(), KeepAlive: 30 * time.Second, Control: refuseForbidden}
	in := &instance{key: key, route: route, side: side, spec: spec, target: target, settings: s, dial: dialer.DialContext}
	in.transport = &http.Transport{
		DialContext:           dialer.DialContext,
		TLSClientConfig:       &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:   s.Timeouts.Connect.Std(),
		ResponseHeaderTimeout: s.Timeouts.FirstByte.Std(),
		ExpectContinueTimeout: time.Second,
		IdleConnTimeout:       30 * time.Second,
		MaxIdleConnsPerHost:   1024,
		// Bytes go through as they are: nothing is unpacked here.
		DisableCompression:     true,
		MaxResponseHeaderBytes: 256 << 10,
		Protocols:              protocols,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second},
	}
	of := uint(s.Breaker.Of)
	failures := uint(s.Breaker.Failures)
	in.breaker = circuitbreaker.NewBuilder[any]().WithFailureThresholdRatio(failures, of).WithDelay(s.Breaker.Open.Std()).Build()
	in.health.Store(&condition{errUnchecked})
	return in, nil
}

// refuseForbidden refuses to connect to an address that no side may have,
// whatever name led to it. It runs before the connection is opened.
func refuseForbidden(_, address string, _ syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("connect to %s: %w", address, err)
	}
	if wire.Forbidden(to.Addr()) {
		return fmt.Errorf("connect to %s: no side may have this address", address)
	}
	return nil
}

// capacity is what it can carry, in percent of the route's traffic.
func (in *instance) capacity() int {
	if in.spec.Capacity == 0 {
		return 100
	}
	return in.spec.Capacity
}

// why says why it gets no traffic; nil: it is ready.
func (in *instance) why() error {
	if err := in.health.Load().err; err != nil {
		return err
	}
	if in.breaker.IsOpen() {
		return fmt.Errorf("too many of its last requests failed; it is tried again in %s", in.breaker.RemainingDelay().Round(time.Second/10))
	}
	return nil
}

// enter counts a request in; leave counts it out and closes the connections of
// a removed instance after its last one.
func (in *instance) enter() { in.active.Add(1) }

func (in *instance) leave() {
	if in.active.Add(-1) == 0 && in.removed.Load() {
		in.transport.CloseIdleConnections()
	}
}

// remove ends the checks of an instance that is in no route any more.
func (in *instance) remove() {
	in.removed.Store(true)
	if in.stop != nil {
		in.stop()
	}
	if in.active.Load() == 0 {
		in.transport.CloseIdleConnections()
	}
}

// check looks once whether it is ready. It reads no body and follows no redirect.
func (in *instance) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, in.settings.Health.Timeout.Std(), fmt.Errorf("no answer within %s", in.settings.Health.Timeout))
	defer cancel()
	err := in.ask(ctx)
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("health check: %w", context.Cause(ctx))
	}
	return err
}

func (in *instance) ask(ctx context.Context) error {
	if in.settings.Health.Path == "" {
		conn, err := in.dial(ctx, "tcp", in.target.Host)
		if err != nil {
			return fmt.Errorf("health check: %w", err)
		}
		return conn.Close()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, in.target.String()+in.settings.Health.Path, nil)
	if err != nil {
		return fmt.Errorf("health check: %w", err)
	}
	req.Host = in.settings.Health.Host
	req.Header.Set("User-Agent", "backstay-proxy-check")
	resp, err := in.transport.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("health check: %w", err)
	}
	if err := resp.Body.Close(); err != nil {
		return fmt.Errorf("health check: %w", err)
	}
	if resp.StatusCode < 200 || resp.StatusCode > 399 {
		return fmt.Errorf("health check: %s answered %s", in.settings.Health.Path, resp.Status)
	}
	return nil
}

// watch checks until ctx ends, and calls changed when the instance became ready
// or ceased to be. An open breaker closes when its delay is over and a check passes.
func (in *instance) watch(ctx context.Context, changed func()) {
	tick := time.NewTicker(in.settings.Health.Interval.Std())
	defer tick.Stop()
	failed := 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := in.check(ctx)
		if ctx.Err() != nil {
			return
		}
		was := in.health.Load().err
		switch {
		case err == nil:
			failed = 0
			reopened := in.breaker.IsOpen() && in.breaker.RemainingDelay() <= 0
			if reopened {
				in.breaker.Close()
			}
			if was != nil {
				in.health.Store(&condition{})
			}
			if was != nil || reopened {
				changed()
			}
		case was == nil:
			if failed++; failed >= in.settings.Health.Fall {
				in.health.Store(&condition{err})
				changed()
			}
		default:
			in.health.Store(&condition{err}) // the newest reason
		}
	}
}
