// Package program is the source that runs a command, for whatever has no source
// of its own. The command gets the question in its environment and prints the
// answer:
//
//   - BACKSTAY_QUESTION (a signal.Question as JSON; its query alone is in
//     BACKSTAY_QUERY): print a number, or {"value": 0.5, "at": "2026-01-02T15:04:05Z"}.
//   - BACKSTAY_ASK (a signal.Ask as JSON): print a signal.Batch as JSON.
//
// Exit status 0 is an answer. 2 is "no data", with the reason as the output. Any
// other status is a failure of the source. It promises what signal.Source does, as
// far as the command does.
package program

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/metric/signal"
	"github.com/backstay-dev/backstay/internal/proc"
)

const (
	// maxOutput bounds what the command may print.
	maxOutput = 4 << 20
	// noData is the exit status that says so.
	noData = 2
)

// Source runs one command. It holds no state.
type Source struct {
	Argv []string
	Dir  string
	Env  map[string]string
	Now  func() time.Time
}

var _ signal.Source = (*Source)(nil)

// output keeps what the command printed, and refuses more than it may.
type output struct{ bytes.Buffer }

func (o *output) Write(p []byte) (int, error) {
	if o.Len()+len(p) > maxOutput {
		return 0, fmt.Errorf("the command printed more than %d bytes", maxOutput)
	}
	return o.Buffer.Write(p) //nolint:wrapcheck // never fails
}

// run runs the command and returns what it printed.
func (s *Source) run(ctx context.Context, info map[string]string) ([]byte, error) {
	var out output
	exit, err := proc.Run(ctx, proc.Command{Argv: s.Argv, Dir: s.Dir, Env: s.Env, Info: info, Stdout: &out})
	switch {
	case err != nil:
		return nil, &backstay.Error{Class: backstay.Transient, Op: "run source", Subject: s.Argv[0], Err: err}
	case exit.Code == noData:
		why := strings.TrimSpace(out.String())
		if why == "" {
			why = "the command says that there is none"
		}
		return nil, &signal.NoData{Why: why}
	case !exit.OK():
		return nil, &backstay.Error{Class: backstay.Transient, Op: "run source", Subject: s.Argv[0], Err: errors.New(exit.String())}
	}
	return out.Bytes(), nil
}

// Read runs the command with a question and reads the number that it prints.
func (s *Source) Read(ctx context.Context, q signal.Question) (signal.Reading, error) {
	out, err := s.run(ctx, map[string]string{"BACKSTAY_QUESTION": string(backstay.Canonical(q)), "BACKSTAY_QUERY": q.Query})
	if err != nil {
		return signal.Reading{}, err
	}
	text := strings.TrimSpace(string(out))
	r := signal.Reading{At: s.Now()}
	switch {
	case text == "":
		return r, &signal.NoData{Why: "the command printed nothing"}
	case text[0] == '{':
		var answer struct {
			Value *float64   `json:"value"`
			At    *time.Time `json:"at"`
		}
		if err := json.Unmarshal(out, &answer); err != nil {
			return r, notAnAnswer(s.Argv[0], err)
		}
		if answer.Value == nil {
			return r, &signal.NoData{Why: "the answer has no value"}
		}
		r.Value = *answer.Value
		if answer.At != nil {
			r.At = *answer.At
		}
	default:
		if r.Value, err = strconv.ParseFloat(text, 64); err != nil {
			return r, notAnAnswer(s.Argv[0], errors.New("it is no number"))
		}
	}
	if math.IsNaN(r.Value) || math.IsInf(r.Value, 0) {
		return r, &signal.NoData{Why: fmt.Sprintf("the answer is %v", r.Value)}
	}
	return r, nil
}

// Signals runs the command with an ask and reads the batch that it prints.
func (s *Source) Signals(ctx context.Context, ask signal.Ask) (signal.Batch, error) {
	out, err := s.run(ctx, map[string]string{"BACKSTAY_ASK": string(backstay.Canonical(ask))})
	if err != nil {
		return signal.Batch{}, err
	}
	var batch signal.Batch
	if err := json.Unmarshal(out, &batch); err != nil {
		return signal.Batch{}, notAnAnswer(s.Argv[0], err)
	}
	if batch.Fresh.IsZero() {
		return signal.Batch{}, notAnAnswer(s.Argv[0], errors.New("it has no fresh"))
	}
	for _, x := range batch.Signals {
		if !x.End.After(x.Start) || x.End.After(batch.Fresh) {
			return signal.Batch{}, notAnAnswer(s.Argv[0], fmt.Errorf("a slice from %s to %s: it ends after it starts, and not after fresh", x.Start, x.End))
		}
	}
	return batch, nil
}

func notAnAnswer(program string, err error) error {
	return &backstay.Error{
		Class: backstay.Permanent, Op: "read the answer of", Subject: program, Err: err,
		Hint: "see `backstay docs sources` for what it must print",
	}
}
