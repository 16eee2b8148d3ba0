package control

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// Format names the version of requests and answers.
const Format = "backstay.control/v1"

// Bounds of what is read from the other side.
const (
	maxRequest = 8 << 10
	maxAnswer  = 64 << 10
)

// Request is what a person asks. Who asks is not in it.
type Request struct {
	Format string `json:"format"`
	// Verb is approve, promote, pause, resume, rollback or signal.
	Verb string `json:"verb"`
	// Ref is the deployment's name or the beginning of its ID; empty: the one
	// that waits for the caller.
	Ref    string `json:"ref,omitempty"`
	Step   string `json:"step,omitempty"`
	Plan   string `json:"plan,omitempty"` // the digest that was looked at; empty: the one that it runs
	Reason string `json:"reason,omitempty"`
	// Of signal: fail or resolved, and who reports it in the caller's words.
	Signal string `json:"signal,omitempty"`
	Source string `json:"source,omitempty"`
}

// Answer is what became of a request: the deployment it was about and what the
// ledger says of it, or a Refusal.
type Answer struct {
	Format     string `json:"format"`
	Deployment string `json:"deployment,omitempty"`
	Name       string `json:"name,omitempty"`
	Signal     string `json:"signal,omitempty"` // as the ledger calls it: approve, abort, …
	Step       string `json:"step,omitempty"`
	Plan       string `json:"plan,omitempty"`
	Actor      string `json:"actor,omitempty"`  // who asked, as it was recorded
	Driver     string `json:"driver,omitempty"` // who drives it, in words; empty: nobody does
	Answered   bool   `json:"answered"`         // false: it waits in the ledger for a driver
	Accepted   bool   `json:"accepted"`
	Why        string `json:"why,omitempty"` // it was not accepted
	// Refusal is set where nothing was asked of a deployment.
	Refusal *Refusal `json:"refusal,omitempty"`
}

// Refusal says why a request did not get as far as a deployment.
type Refusal struct {
	What  string `json:"what"` // what was refused: request, choice, state, …
	Error string `json:"error"`
	Hint  string `json:"hint,omitempty"`
}

// refusal is an answer to a request that reaches no handler.
func refusal(hint, why string) Answer {
	return Answer{Refusal: &Refusal{What: "request", Error: why, Hint: hint}}
}

// encode is the line of a request or answer.
func encode(v any) ([]byte, error) {
	line, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	return append(line, '\n'), nil
}

// readLine reads up to the first newline, which must come within limit bytes.
func readLine(r io.Reader, limit int) ([]byte, error) {
	line := make([]byte, 0, 512)
	for {
		if len(line) == cap(line) {
			line = append(line, 0)[:len(line)]
		}
		n, err := r.Read(line[len(line):min(cap(line), limit+1)])
		if i := bytes.IndexByte(line[len(line):len(line)+n], '\n'); i >= 0 {
			return line[:len(line)+i], nil
		}
		line = line[:len(line)+n]
		switch {
		case len(line) > limit:
			return nil, fmt.Errorf("more than %d bytes without a newline", limit)
		case errors.Is(err, io.EOF):
			return nil, fmt.Errorf("the line ends early: %w", io.ErrUnexpectedEOF)
		case err != nil:
			return nil, err
		}
	}
}

// decodeRequest reads the line of a request. What it does not know is an
// error: a word that is passed over could have been a condition.
func decodeRequest(line []byte) (Request, error) {
	var req Request
	if !utf8.Valid(line) {
		return req, errors.New("it is not UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(line))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&req); err != nil {
		return req, fmt.Errorf("it is no request: %w", err)
	}
	switch {
	case dec.More():
		return req, errors.New("something follows it")
	case req.Format != Format:
		return req, fmt.Errorf("its format is %q, and this process speaks %s", req.Format, Format)
	case !known(req.Verb):
		return req, fmt.Errorf("verb %q is not one of %s", req.Verb, strings.Join(verbs(), ", "))
	case (req.Verb == "signal") != (req.Signal == "fail" || req.Signal == "resolved"):
		return req, fmt.Errorf("%s and signal %q do not go together", req.Verb, req.Signal)
	}
	return req, nil
}

// decodeAnswer reads the line of an answer. A newer process may tell more.
func decodeAnswer(line []byte) (Answer, error) {
	var a Answer
	if err := json.Unmarshal(line, &a); err != nil {
		return a, fmt.Errorf("decode answer: %w", err)
	}
	if a.Format != Format {
		return a, fmt.Errorf("decode answer: its format is %q, want %s", a.Format, Format)
	}
	return a, nil
}

func verbs() []string {
	return []string{"approve", "promote", "pause", "resume", "rollback", "signal"}
}

func known(verb string) bool {
	for _, v := range verbs() {
		if v == verb {
			return true
		}
	}
	return false
}
