// Package promote is the step kind "promote": a planned move of a PostgreSQL
// cluster to its streaming standby.
//
// The order is what keeps rows: the old primary is fenced first (its databases
// take no connections, and those that are open are ended), then a row says on it
// that it is fenced for good. A standby that shows that row has replayed
// everything that any session of the old primary ever committed: only then is it
// promoted, and its databases are opened. Until the standby shows the row, going
// back is opening the old primary again; from then on there is only forward.
//
// A promotion cannot be undone: the old primary lacks what the new one wrote since,
// and cannot follow it without pg_rewind. The step is irreversible, and says so. It
// is no failover: a primary that cannot be reached cannot be fenced here.
//
// The kind owns the tables backstay_promote and backstay_fence in the maintenance
// database.
package promote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver"
	"github.com/backstay-dev/backstay/internal/driver/migration/database"
)

// Kind is the kind. It has no state; methods are safe for concurrent use.
type Kind struct{}

var (
	_ driver.Kind   = (*Kind)(nil)
	_ driver.Prober = (*Kind)(nil)
	_ driver.Reaper = (*Kind)(nil)
)

// New returns the kind.
func New() *Kind { return &Kind{} }

// Name is "promote".
func (*Kind) Name() string { return "promote" }

// Config returns a step's keys.
func (*Kind) Config() any { return &stepConfig{} }

const bodyFormat = 1

// body is what the plan freezes of a step.
type body struct {
	V           int               `json:"v"`
	Primary     string            `json:"primary"` // references
	Standby     string            `json:"standby"`
	Maintenance string            `json:"maintenance"`
	System      string            `json:"system"` // the cluster's identifier: both have it
	Within      backstay.Duration `json:"within"`
}

func decode(step backstay.Step) (body, error) {
	var b body
	if err := json.Unmarshal(step.Body, &b); err != nil {
		return b, fmt.Errorf("decode promote step %s: %w", step.ID, err)
	}
	if b.V != bodyFormat {
		return b, &backstay.Error{
			Class: backstay.Permanent, Op: "decode promote step", Subject: step.ID,
			Err:  fmt.Errorf("its format is %d, not %d", b.V, bodyFormat),
			Hint: "use the backstay version that planned this deployment",
		}
	}
	return b, nil
}

// pair is both servers during one act.
type pair struct {
	body             body
	primary, standby *server
	own              database.Own // in the maintenance database
	deployment, step string
}

// reach opens both servers of the plan and makes sure that they are one cluster.
func reach(ctx context.Context, call backstay.Call) (p *pair, err error) {
	b, err := decode(call.Step)
	if err != nil {
		return nil, err
	}
	p = &pair{body: b, deployment: call.Deployment, step: call.Step.ID}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	if p.primary, err = open(ctx, call.Secrets, b.Primary, b.Maintenance); err != nil {
		return nil, err
	}
	if p.standby, err = open(ctx, call.Secrets, b.Standby, b.Maintenance); err != nil {
		return nil, err
	}
	for _, s := range []*server{p.primary, p.standby} {
		if s.system != b.System {
			return nil, &backstay.Error{
				Class: backstay.Conflict, Op: "check the cluster of", Subject: s.address, Err: fmt.Errorf("it is cluster %s, and the plan was made for %s", s.system, b.System),
				Hint: "point the reference at the cluster of the plan, or plan again",
			}
		}
	}
	p.own = database.NewOwn(p.primary.d, p.deployment, p.step, call.Token)
	return p, nil
}

func (p *pair) close() error {
	var err error
	for _, s := range []*server{p.primary, p.standby} {
		if s != nil {
			err = errors.Join(err, s.close())
		}
	}
	return err
}

// with opens the pair for one act.
func with(ctx context.Context, call backstay.Call, act func(*pair) error) error {
	p, err := reach(ctx, call)
	if err != nil {
		return err
	}
	err = act(p)
	if closed := p.close(); err == nil {
		err = closed
	}
	if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(err, cause) {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	return err
}

// Observe reads which server is the primary, and which of their databases are open.
func (*Kind) Observe(ctx context.Context, call backstay.Call) (backstay.Image, error) {
	if len(call.Step.Keys) != 1 {
		return nil, fmt.Errorf("look at promote step %s: it has %d keys, not 1", call.Step.ID, len(call.Step.Keys))
	}
	key := call.Step.Keys[0]
	parts := map[string]json.RawMessage{}
	err := with(ctx, call, func(p *pair) error {
		for name, s := range map[string]*server{"primary": p.primary, "standby": p.standby} {
			state, err := s.state(ctx)
			if err != nil {
				return err
			}
			parts[name] = backstay.Canonical(state)
		}
		return nil
	})
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("look at the cluster: %w", context.Cause(ctx))
	case err != nil:
		return backstay.Image{key: {Unreadable: err.Error()}}, nil
	}
	return backstay.Image{key: {Parts: parts}}, nil
}

// Probe says how far an interrupted do came.
func (*Kind) Probe(ctx context.Context, call backstay.Call) (found backstay.Finding, err error) {
	found = backstay.Unknown
	err = with(ctx, call, func(p *pair) error {
		there, err := p.standby.note(ctx, p.deployment, p.step)
		if err != nil {
			return err
		}
		here, err := p.primary.note(ctx, p.deployment, p.step)
		switch {
		case err != nil:
			return err
		case there.State == promoted:
			found = backstay.Applied
		case here.State == "" && there.State == "":
			found = backstay.NotApplied
		default:
			found = backstay.Partial
		}
		return nil
	})
	return found, err
}

// Reap settles what a process left half done: back where the standby does not know
// of it, else forward.
func (*Kind) Reap(ctx context.Context, call backstay.Call) error {
	return with(ctx, call, func(p *pair) error { _, err := p.settle(ctx); return err })
}

// Do fences, waits, promotes and opens.
func (*Kind) Do(ctx context.Context, call backstay.Call) (result backstay.Result, err error) {
	if ctx.Err() != nil {
		return result, context.Cause(ctx)
	}
	err = with(ctx, call, func(p *pair) error {
		done, err := p.settle(ctx)
		if err != nil || done {
			result.Note = "it is promoted already"
			return err
		}
		if err := p.ready(ctx); err != nil {
			return err
		}
		begun := time.Now()
		if err = p.fence(ctx); err == nil {
			err = p.promote(ctx)
		}
		if err != nil {
			return back(ctx, call, p.body, err)
		}
		result.Note = fmt.Sprintf("the databases were closed for %s; the old primary stays closed", time.Since(begun).Round(time.Millisecond))
		return nil
	})
	return result, err
}

// Undo says that there is none. A do that was cut off is settled by Reap.
func (*Kind) Undo(context.Context, backstay.Call) (backstay.Result, error) {
	return backstay.Result{}, &backstay.Error{
		Class: backstay.Permanent, Op: "undo a promotion", Err: fmt.Errorf("the old primary lacks what the new one wrote since: %w", backstay.ErrNoUndo),
		Hint: "make the old primary a standby of the new one (pg_rewind), then promote it by a plan of its own",
	}
}

// back settles after a failure, with sessions of its own, and returns the failure
// unless the promotion came through after all.
func back(ctx context.Context, call backstay.Call, b body, failed error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), b.Within.Std()+patience)
	defer cancel()
	done := false
	err := with(ctx, call, func(p *pair) (err error) { done, err = p.settle(ctx); return err })
	if done && err == nil {
		return nil
	}
	return errors.Join(failed, err)
}

// patience is how long both servers get for what takes them moments.
const patience = 15 * time.Second
