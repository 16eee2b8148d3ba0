package router

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"

	"github.com/backstay-dev/backstay/internal/proxy/wire"
)

// ProbeTimeout bounds one probe.
const ProbeTimeout = 2 * time.Second

// Probe looks once whether an instance (host:port) answers: a GET of path with a
// status from 200 to 399, or, without a path, a connection that opens. No
// redirect is followed, no body read, and no address that no side may have is
// connected to.
func Probe(ctx context.Context, address, path string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, ProbeTimeout, fmt.Errorf("%s did not answer within %s", address, ProbeTimeout))
	defer cancel()
	dialer := &net.Dialer{Control: refuseForbidden}
	if path == "" {
		conn, err := dialer.DialContext(ctx, "tcp", address)
		if err != nil {
			return fmt.Errorf("connect to %s: %w", address, err)
		}
		return conn.Close()
	}
	tr := &http.Transport{DialContext: dialer.DialContext, DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: 64 << 10}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+path, nil)
	if err != nil {
		return fmt.Errorf("ask %s: %w", address, err)
	}
	req.Header.Set("User-Agent", "backstay-check")
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("ask %s for %s: %w", address, path, err)
	}
	if err := resp.Body.Close(); err != nil {
		return fmt.Errorf("ask %s for %s: %w", address, path, err)
	}
	if resp.StatusCode < 200 || resp.StatusCode > 399 {
		return fmt.Errorf("%s answered %s to %s", address, resp.Status, path)
	}
	return nil
}

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
