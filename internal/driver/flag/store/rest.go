package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/backstay-dev/backstay"
)

// API asks a vendor's API: requests that are bounded in time and size and never
// redirected, because their token is for one place alone.
type API struct {
	Vendor string
	URL    string // without a slash at its end
	// Header is the value of Authorization; "": none is sent.
	Header string
	// Now is the wall clock, for times at which a limit ends; nil: time.Now.
	Now func() time.Time

	client *http.Client
}

// NewAPI returns a client of its own.
func NewAPI(vendor, url, header string) *API {
	return &API{Vendor: vendor, URL: strings.TrimSuffix(url, "/"), Header: header, client: &http.Client{
		Timeout:       CallTimeout,
		Transport:     &http.Transport{MaxIdleConns: 2, IdleConnTimeout: 10 * time.Second, Proxy: http.ProxyFromEnvironment},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

const (
	maxAnswer = 8 << 20
	// maxWait is the longest wait that a limit may ask for within one act.
	maxWait = 20 * time.Second
)

// ErrConflict is an answer 409: another write was first.
var ErrConflict = errors.New("another change was first")

// Ask sends one request with a JSON body and decodes the answer into out, which
// may be nil. Where the API says that it is asked too often it waits as long as it
// is told to, if that is short, and asks again.
func (a *API) Ask(ctx context.Context, method, path, contentType string, body, out any) error {
	var data []byte
	if body != nil {
		data = backstay.Canonical(body)
	}
	for {
		wait, err := a.once(ctx, method, path, contentType, data, out)
		if wait <= 0 {
			return err
		}
		if deadline, ok := ctx.Deadline(); wait > maxWait || ok && time.Until(deadline) < wait {
			return err
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return context.Cause(ctx)
		}
	}
}

func (a *API) once(ctx context.Context, method, path, contentType string, data []byte, out any) (wait time.Duration, err error) {
	if err := ctx.Err(); err != nil {
		return 0, context.Cause(ctx)
	}
	if method != http.MethodGet {
		if _, err := backstay.LeaseLeft(ctx); err != nil {
			return 0, a.fail(backstay.Permanent, err, backstay.HintOf(err))
		}
		// A write that was sent is waited for: what is left on its way could still
		// land after its undo. The client's own timeout bounds it.
		ctx = context.WithoutCancel(ctx)
	}
	req, err := http.NewRequestWithContext(ctx, method, a.URL+path, bytes.NewReader(data))
	if err != nil {
		return 0, a.fail(backstay.Permanent, err, "is its URL right?")
	}
	req.Header.Set("Accept", "application/json")
	if len(data) > 0 {
		req.Header.Set("Content-Type", contentType)
	}
	if a.Header != "" {
		req.Header.Set("Authorization", a.Header)
	}
	resp, err := a.client.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		return 0, a.fail(backstay.Transient, err, "is its URL right, and can it be reached?")
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err == nil && len(text) > maxAnswer {
		err = fmt.Errorf("its answer is longer than %d bytes", maxAnswer)
	}
	if err != nil {
		return 0, a.fail(backstay.Transient, err, "")
	}
	if resp.StatusCode == http.StatusTooManyRequests {
		return a.limited(resp.Header), a.fail(backstay.Transient, errors.New("it has been asked too often"), "")
	}
	if err := a.status(resp, text); err != nil {
		return 0, err
	}
	if out == nil || len(text) == 0 {
		return 0, nil
	}
	if err := json.Unmarshal(text, out); err != nil {
		return 0, a.fail(backstay.Transient, fmt.Errorf("its answer is not what is documented: %w", err), "is it "+a.Vendor+" that answers there?")
	}
	return 0, nil
}

func (a *API) status(resp *http.Response, text []byte) error {
	said := fmt.Errorf("%s: %.300s", resp.Status, strings.Join(strings.Fields(string(text)), " "))
	switch code := resp.StatusCode; {
	case code < 300:
		return nil
	case code == http.StatusConflict:
		return ErrConflict
	case code == http.StatusUnauthorized || code == http.StatusForbidden:
		return a.fail(backstay.Permanent, fmt.Errorf("it refuses the token: %s", resp.Status), "check the store's token, and what it may do")
	case code == http.StatusNotFound:
		return a.fail(backstay.NotFound, said, "")
	case code >= http.StatusInternalServerError:
		return a.fail(backstay.Transient, errors.New(resp.Status), "")
	}
	return a.fail(backstay.Permanent, said, "")
}

// limited is how long the API wants not to be asked: Retry-After in seconds, or the
// time in milliseconds at which a limit ends.
func (a *API) limited(h http.Header) time.Duration {
	now := time.Now
	if a.Now != nil {
		now = a.Now
	}
	if s, err := strconv.Atoi(h.Get("Retry-After")); err == nil {
		return max(time.Duration(s)*time.Second, time.Millisecond)
	}
	if ms, err := strconv.ParseInt(h.Get("X-Ratelimit-Reset"), 10, 64); err == nil {
		return max(time.UnixMilli(ms).Sub(now()), time.Millisecond)
	}
	return time.Second
}

func (a *API) fail(class backstay.ErrorClass, err error, hint string) error {
	return &backstay.Error{Class: class, Op: "ask " + a.Vendor, Err: err, Hint: hint}
}
