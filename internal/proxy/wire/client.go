package wire

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/backstay-dev/backstay"
)

// maxReply bounds what the client reads of one answer.
const maxReply = 64 << 20

// Client talks to the admin socket of one data plane. It is safe for concurrent
// use. Errors of the data plane are *Error; others are of the connection, and
// say nothing about whether a change took effect: read the status, or repeat it.
type Client struct {
	socket string
	http   *http.Client
}

// NewClient makes a client of the Unix socket at path. It connects when it is used.
func NewClient(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}
	return &Client{socket: socket, http: &http.Client{Transport: &http.Transport{DialContext: dial, MaxIdleConns: 4, IdleConnTimeout: 10 * time.Second}}}
}

// Close lets go of idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Status reads the whole state back.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	var s Status
	return &s, c.call(ctx, http.MethodGet, "/v1/state", nil, &s)
}

// Route reads one route back; a *Error with NotFound where there is none.
func (c *Client) Route(ctx context.Context, name string) (*RouteStatus, error) {
	var s RouteStatus
	return &s, c.call(ctx, http.MethodGet, "/v1/routes/"+url.PathEscape(name), nil, &s)
}

// Change changes one route and returns it as it is after that; nil when it was removed.
func (c *Client) Change(ctx context.Context, name string, change Change) (*RouteStatus, error) {
	var s *RouteStatus
	err := c.call(ctx, http.MethodPost, "/v1/routes/"+url.PathEscape(name), change, &s)
	return s, err
}

// Drained waits until no request is in flight to the side (on any instance that
// it has or had), at most for within, and returns how many are left.
func (c *Client) Drained(ctx context.Context, route, side string, within time.Duration) (int64, error) {
	var left struct {
		Active int64 `json:"active"`
	}
	q := url.Values{"side": {side}, "within": {within.String()}}
	err := c.call(ctx, http.MethodGet, "/v1/routes/"+url.PathEscape(route)+"/drain?"+q.Encode(), nil, &left)
	return left.Active, err
}

// Stats calls each for every block after seq and every mark, as they come, until
// ctx ends or each returns an error; with follow false it stops at the end of
// what is final.
func (c *Client) Stats(ctx context.Context, after uint64, follow bool, each func(Feed) error) error {
	q := url.Values{"after": {strconv.FormatUint(after, 10)}, "follow": {strconv.FormatBool(follow)}}
	resp, err := c.send(ctx, http.MethodGet, "/v1/stats?"+q.Encode(), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var f Feed
		if err := json.Unmarshal(lines.Bytes(), &f); err != nil {
			return fmt.Errorf("read statistics: %w", err)
		}
		if err := each(f); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read statistics: %w", err)
	}
	return nil
}

func (c *Client) call(ctx context.Context, method, path string, body, into any) error {
	resp, err := c.send(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxReply)).Decode(into); err != nil {
		return fmt.Errorf("read answer of the proxy: %w", err)
	}
	return nil
}

// send returns a response of status 200, or the error.
func (c *Client) send(ctx context.Context, method, path string, body any) (*http.Response, error) {
	var payload io.Reader
	if body != nil {
		payload = bytes.NewReader(backstay.Canonical(body))
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://proxy"+path, payload)
	if err != nil {
		return nil, fmt.Errorf("ask the proxy: %w", err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, &backstay.Error{
			Class: backstay.Transient, Op: "reach the proxy at", Subject: c.socket, Err: errors.Unwrap(err),
			Hint: "is it running? start it with `backstay proxy`, and give its socket with --admin",
		}
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	refused := &Error{}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxReply)).Decode(refused); err != nil || refused.Code == "" {
		return nil, fmt.Errorf("the proxy answered %s", resp.Status)
	}
	return nil, refused
}
