package httpcall

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"
	"unicode/utf8"

	"github.com/backstay-dev/backstay"
)

// Do sends the step's request.
func (d *Driver) Do(ctx context.Context, call backstay.Call) (backstay.Result, error) {
	b, err := decode(call.Step)
	if err != nil {
		return backstay.Result{}, err
	}
	return b.Do.act(ctx, call)
}

// Undo sends the request that takes it back; nothing for a step that changed nothing.
func (d *Driver) Undo(ctx context.Context, call backstay.Call) (backstay.Result, error) {
	b, err := decode(call.Step)
	if err != nil || b.Undo == nil {
		return backstay.Result{}, err
	}
	return b.Undo.act(ctx, call)
}

// act sends a request that changes something and judges the answer, of which
// the output gets the beginning.
func (r request) act(ctx context.Context, call backstay.Call) (backstay.Result, error) {
	repeatable := safe(r.Method) || r.KeyHeader != "" || call.Step.Effect == backstay.Idempotent
	a, err := r.send(ctx, call, repeatable)
	if err != nil {
		return backstay.Result{}, err
	}
	if call.Output != nil {
		// What becomes of the output is not the step's success.
		_, _ = fmt.Fprintf(call.Output, "%s: %d %s\n%s\n", r, a.status, http.StatusText(a.status), a.body[:min(len(a.body), maxOutput)])
	}
	if err := r.judge(a, repeatable); err != nil {
		return backstay.Result{}, err
	}
	return backstay.Result{Note: fmt.Sprintf("status %d", a.status)}, nil
}

// Observe sends the read request. Without one the state is opaque, but for a
// step whose request changes nothing: that has none.
func (d *Driver) Observe(ctx context.Context, call backstay.Call) (backstay.Image, error) {
	b, err := decode(call.Step)
	if err != nil {
		return nil, err
	}
	if len(call.Step.Keys) != 1 {
		return nil, fmt.Errorf("look at http step %s: it has %d keys, not 1", call.Step.ID, len(call.Step.Keys))
	}
	// Not made of the step's name: a step that takes another one back has a
	// name of its own and that one's key.
	key := call.Step.Keys[0]
	switch {
	case b.Read == nil && call.Step.Class == backstay.Exact:
		return backstay.Image{key: {}}, nil
	case b.Read == nil:
		return backstay.Image{key: {Opaque: true}}, nil
	}
	a, err := b.Read.send(ctx, call, true)
	if ctx.Err() != nil {
		return nil, fmt.Errorf("read: %w", ending(ctx))
	}
	if err != nil {
		return backstay.Image{key: {Unreadable: err.Error()}}, nil
	}
	state, why := b.state(a)
	if why != "" {
		state = backstay.ResourceState{Unreadable: fmt.Sprintf("%s: %s", b.Read, why)}
	}
	return backstay.Image{key: state}, nil
}

// state makes a state of an answer, or says why it is none.
func (b body) state(a answer) (state backstay.ResourceState, why string) {
	switch {
	case !a.as(b.Read.Expect) && a.status == http.StatusNotFound:
		return backstay.ResourceState{}, ""
	case !a.as(b.Read.Expect):
		return state, fmt.Sprintf("it answered with status %d", a.status)
	case a.more:
		return state, fmt.Sprintf("the answer is larger than %d KiB", maxAnswer>>10)
	case a.shows():
		return state, "the answer repeats a secret of the request, which must not be kept"
	}
	value, err := decodeJSON(a.body)
	if b.Pointer != "" {
		if err != nil {
			return state, "the answer is not JSON, so the pointer leads nowhere"
		}
		found := false
		if value, found = lookup(value, b.Pointer); !found {
			return backstay.ResourceState{}, "" // the answer without that part: absent
		}
		return backstay.PartValue(value), ""
	}
	switch {
	case err == nil:
		return backstay.PartValue(value), ""
	case !utf8.Valid(a.body):
		return state, "the answer is neither JSON nor text"
	}
	return backstay.PartValue(string(bytes.TrimSpace(a.body))), ""
}

// decodeJSON reads exactly one JSON value, numbers as they are written.
func decodeJSON(data []byte) (any, error) {
	if !json.Valid(data) {
		return nil, fmt.Errorf("not one JSON value")
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil, fmt.Errorf("decode answer: %w", err)
	}
	return v, nil
}

// Check sends the request once. No answer fails like a wrong one: the service
// is asked, not the network. Only an ended context is an error.
func (d *Driver) Check(ctx context.Context, call backstay.Call) (backstay.CheckResult, error) {
	b, err := decode(call.Step)
	if err != nil {
		return backstay.CheckResult{}, err
	}
	begun := time.Now()
	a, err := b.Do.at(call.Slots).send(ctx, call, true)
	result := backstay.CheckResult{Verdict: backstay.Fail, Samples: 1, Duration: time.Since(begun)}
	switch {
	case ctx.Err() != nil:
		return backstay.CheckResult{}, fmt.Errorf("check: %w", ending(ctx))
	case err != nil:
		result.Reason = err.Error()
	case !a.as(b.Do.Expect):
		result.Reason = fmt.Sprintf("status %d", a.status)
	case !bytes.Contains(a.body, []byte(b.Contains)):
		result.Reason = fmt.Sprintf("status %d, but the answer does not contain the expected text", a.status)
	default:
		result.Verdict, result.Reason = backstay.Pass, fmt.Sprintf("status %d", a.status)
	}
	return result, nil
}
