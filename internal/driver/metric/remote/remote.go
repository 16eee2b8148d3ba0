// Package remote asks the API of a monitoring service one question: one request,
// bounded in time and size, never redirected (its keys are for one place alone),
// and never repeated: when to ask again is the gate's.
package remote

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/backstay-dev/backstay"
)

// Service is one service's API.
type Service struct {
	// Name is the service's, for errors.
	Name string
	// Keys are what a refused key is called in a spec.
	Keys string

	client *http.Client
}

// New returns a client of its own for a service.
func New(name, keys string) *Service {
	return &Service{Name: name, Keys: keys, client: &http.Client{
		Transport:     &http.Transport{MaxIdleConns: 4, IdleConnTimeout: 30 * time.Second, Proxy: http.ProxyFromEnvironment},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// maxAnswer bounds what an answer may be.
const maxAnswer = 8 << 20

// Ask sends the request and decodes its answer. The errors it returns tell apart
// what may pass and what stays wrong.
func (s *Service) Ask(req *http.Request, answer any) error {
	req.Header.Set("Accept", "application/json")
	resp, err := s.client.Do(req)
	if err != nil {
		return s.Transient(err, "is its URL right, and can it be reached?")
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err == nil && len(text) > maxAnswer {
		err = fmt.Errorf("its answer is longer than %d bytes", maxAnswer)
	}
	if err != nil {
		return s.Transient(err, "")
	}
	switch code := resp.StatusCode; {
	case code == http.StatusOK:
	case code == http.StatusTooManyRequests:
		return s.Transient(errors.New("it has been asked too often"), "ask less often (every), or raise the limit there")
	case code == http.StatusUnauthorized || code == http.StatusForbidden:
		return s.Permanent(fmt.Errorf("it refuses the key: %s", resp.Status), "check "+s.Keys)
	case code >= http.StatusInternalServerError:
		return s.Transient(errors.New(resp.Status), "")
	default:
		return s.Permanent(fmt.Errorf("%s: %.300s", resp.Status, strings.Join(strings.Fields(string(text)), " ")), "try the query there")
	}
	if err := json.Unmarshal(text, answer); err != nil {
		return s.Transient(fmt.Errorf("its answer is not what is documented: %w", err), "is it "+s.Name+" that answers there?")
	}
	return nil
}

// Transient is a failure that may pass.
func (s *Service) Transient(err error, hint string) error {
	return &backstay.Error{Class: backstay.Transient, Op: "ask " + s.Name, Err: err, Hint: hint}
}

// Permanent is a failure that stays.
func (s *Service) Permanent(err error, hint string) error {
	return &backstay.Error{Class: backstay.Permanent, Op: "ask " + s.Name, Err: err, Hint: hint}
}
