// Package ofrep reads what a flag gives one user, from any server that speaks the
// OpenFeature Remote Evaluation Protocol (0.3). It only reads: whatever a vendor's
// administration says, this is what programs get.
package ofrep

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/flag/store"
)

// Answer is what one user gets.
type Answer struct {
	Value   json.RawMessage `json:"value"`
	Variant string          `json:"variant,omitempty"`
	Reason  string          `json:"reason,omitempty"`
}

// Server is one OFREP server.
type Server struct{ api *store.API }

// New returns a client. It does not connect.
func New(address, token string) *Server {
	header := ""
	if token != "" {
		header = "Bearer " + token
	}
	return &Server{store.NewAPI("the OFREP server", address, header)}
}

// Ask evaluates a flag for a user.
func (s *Server) Ask(ctx context.Context, key, user string) (Answer, error) {
	var a Answer
	err := s.api.Ask(ctx, http.MethodPost, "/ofrep/v1/evaluate/flags/"+url.PathEscape(key), "application/json",
		map[string]any{"context": map[string]any{"targetingKey": user}}, &a)
	if backstay.ClassOf(err) == backstay.NotFound {
		err = store.Missing("the OFREP server", key)
	}
	return a, err
}
